"""Import calls as the x64 kernel rewrites them in a driver that it loads (Windows 10 1809 and later).

Compilers leave room: ``rex.W call [slot]`` and a nop of five bytes. The kernel makes of it ``mov r10, [slot]`` and a
call: of the function itself, or with retpolines of a stub behind the image, which goes on at r10.
"""

from __future__ import annotations

import re
import struct
from typing import Iterator, Tuple

from dumps.forge.machine import ForgedMachine
from dumps.forge.physical import PAGE_BYTES

_REWRITABLE = re.compile(rb"\x48\xff\x15(....)\x0f\x1f\x44\x00\x00", re.DOTALL)
_CALL_BYTES = 7  # of the prefixed call, and of the load of r10
_SITE_BYTES = 12

# call over the trap; pause; jmp to itself; then the return address becomes r10
_STUB = bytes.fromhex("e8 04 00 00 00 f3 90 eb fc 4c 89 14 24 c3")


def rewrite_import_calls(machine: ForgedMachine, name: str, *, retpolines: bool) -> int:
    """Rewrite the import calls of the driver ``name`` in memory and return how many there were."""
    base, size = next((base, size) for module, base, size, _ in machine.truth.modules if module == name)
    stub_va = base + size
    sites = list(_iter_sites(machine, base, size))
    if retpolines and sites:
        machine.space.store(stub_va, _STUB, executable=True)
    for va, slot_va in sites:
        target = stub_va if retpolines else int.from_bytes(machine.read_virtual(slot_va, 8), "little")
        code = struct.pack("<3si", b"\x4c\x8b\x15", slot_va - va - _CALL_BYTES)
        machine.write_virtual(va, code + struct.pack("<Bi", 0xE8, target - va - _SITE_BYTES))
    return len(sites)


def _iter_sites(machine: ForgedMachine, base: int, size: int) -> Iterator[Tuple[int, int]]:
    """Yield the address of each rewritable call, and of the slot that it calls through."""
    for page in range(base, base + size, PAGE_BYTES):
        if machine.space.translate(page) is None:
            continue
        for found in _REWRITABLE.finditer(machine.read_virtual(page, PAGE_BYTES)):
            va = page + found.start()
            yield va, va + _CALL_BYTES + struct.unpack("<i", found[1])[0]
