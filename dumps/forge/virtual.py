"""What memory of a whole machine holds and a kernel dump does not: top tables of processes, the code below 1 MB.

Layouts are from public descriptions of the low stub (MemProcFS, memflow, KDU) and Intel's manual.
"""

from __future__ import annotations

import struct

from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES, VIRTUAL_LARGE_START

STUB_PAGE = 0x13
_PROCESSES = 12
_HIGH_FRAMES = VIRTUAL_LARGE_START - 0x400  # above 4 GiB, where the allocator hands out none
_SELF_SLOT = 0x1ED
_UPPER_HALF = 0x800
_CR4 = 0x350EF8
_USER_SLOTS = (0x0, 0xFF)


def write_processes(parts: Parts) -> None:
    """Give every process a top table: the kernel's half is the system's, but for the entry that names the table."""
    memory, chance = parts.space.memory, parts.chance
    system = memory.page(parts.space.root_pfn)
    for number in range(_PROCESSES):
        frame = _HIGH_FRAMES + number if number % 2 else parts.space.frames.take()
        page = memory.page(frame)
        page[_UPPER_HALF:] = system[_UPPER_HALF:]
        flags = struct.unpack_from("<Q", system, _SELF_SLOT * 8)[0] & 0x8000000000000FFF
        struct.pack_into("<Q", page, _SELF_SLOT * 8, frame << 12 | flags)
        for slot in _USER_SLOTS:
            struct.pack_into("<Q", page, slot * 8, chance.randrange(0x1000, 0xB0000) << 12 | 0x867)
        parts.addresses[f"root:{number}"] = frame << 12


def write_low_stub(parts: Parts) -> None:
    """Write the code that starts further processors in real mode, with the registers that they are to take over."""
    page = bytearray(PAGE_BYTES)
    struct.pack_into("<Q", page, 0x0, 0x00000001000600E9 | 0x4D << 8)  # jmp
    struct.pack_into("<Q", page, 0x70, parts.kernel.base + parts.kernel.functions["KeBugCheckEx"] & ~3)
    struct.pack_into("<QQQQ", page, 0x90, 0x80050033, 0, parts.space.root_address, _CR4)
    parts.space.memory.page(STUB_PAGE)[:] = page
    parts.addresses["stub"] = STUB_PAGE * PAGE_BYTES
