"""What of a forged machine the debugger engine can be asked for, and under which names and numbers."""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import Iterator, Set, Tuple

from dumps.forge import ForgedMachine

AFTER_THE_ENGINE = ("page:swizzled",)  # the bits against L1TF came in 2018: the engine takes them for a frame number

_PAGE_BYTES = 0x1000
_SIGN_FRAME = 0x80000  # 2 GiB: from here on, the engine extends the sign of physical addresses of 32-bit systems


def engine_name(file_name: str) -> str:
    """Return the engine's name of a module: its file's stem; the first one is always nt."""
    return "nt" if file_name == "ntoskrnl.exe" else PureWindowsPath(file_name).stem


def engine_number(value: int) -> str:
    """Return hex digits with a backquote: without one, the engine extends the sign of 32 bits."""
    return f"{value >> 32:x}`{value & 0xFFFFFFFF:08x}"


def iter_present_ranges(machine: ForgedMachine) -> Iterator[Tuple[int, bytes]]:
    """Yield addresses and bytes of all memory that the engine can read: images, tables, lists, blocks."""
    pages: Set[int] = set()
    for _, base, size, _ in machine.truth.modules:
        pages.update(va for va in range(base, base + size, _PAGE_BYTES) if _is_present(machine, va))
    for va in machine.addresses.values():
        page = va & -_PAGE_BYTES
        while page not in pages and _is_present(machine, page):
            pages.add(page)
            page += _PAGE_BYTES
    for block in (block for blocks in machine.truth.blocks.values() for block in blocks):
        pages.update(range(block.va & -_PAGE_BYTES, block.va + block.size, _PAGE_BYTES))
    pages -= {va for name, va in machine.addresses.items() if name in AFTER_THE_ENGINE}
    for start in sorted(pages):
        if start - _PAGE_BYTES not in pages:
            end = start
            while end in pages:
                end += _PAGE_BYTES
            yield start, machine.read_virtual(start, end - start)


def iter_absent_pages(machine: ForgedMachine) -> Iterator[int]:
    """Yield the pages of sample drivers that the dump does not hold, whatever their page table entries say."""
    for name, base, size, _ in machine.truth.modules:
        if name in ("pippo.sys", "lookas.sys"):
            yield from (va for va in range(base, base + size, _PAGE_BYTES) if not _is_present(machine, va))


def iter_filled_frames(machine: ForgedMachine) -> Iterator[Tuple[int, int]]:
    """Yield frames and the physical address of their first sixteen bytes that are not all zero.

    Only those that the engine's ``/p`` reaches.
    """
    narrow = machine.header.architecture.narrow
    for frame in machine.memory.present_frames():
        page = bytes(machine.memory.pages[frame])
        empty = len(page) - len(page.lstrip(b"\0"))
        if empty < _PAGE_BYTES and not (narrow and frame >= _SIGN_FRAME):
            yield frame, (frame << 12) + (empty & -16)


def read_checksum(machine: ForgedMachine, base: int) -> int:
    """Return the checksum in the headers of an image."""
    headers = machine.read_virtual(base, _PAGE_BYTES)
    offset = int.from_bytes(headers[0x3C:0x40], "little") + 0x58
    return int.from_bytes(headers[offset : offset + 4], "little")


def _is_present(machine: ForgedMachine, va: int) -> bool:
    address = machine.space.translate(va)
    return address is not None and address >> 12 in machine.memory.pages and address >> 12 not in machine.memory.omitted
