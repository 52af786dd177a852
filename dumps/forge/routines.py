"""Machine code of the stand-ins: routines that call an allocator with a tag, as compilers write them."""

from __future__ import annotations

import struct
from typing import Dict, List, Tuple, Type

from dumps.forge.architectures import Architecture

ROUTINE_BYTES = 0x30


class RoutineWriter:
    """Writes routines one after the other, each aligned; ``routines`` are their RVAs.

    A call goes through the import slot at ``slot_rva`` or, with ``target_rva``, straight to a function. ``base`` is
    the address of the image: x86 code names slots by address.
    """

    filler = b"\xcc"

    def __init__(self, rva: int, slot_rva: int = 0, *, target_rva: int = 0, base: int = 0) -> None:
        self._rva = rva
        self._slot_rva = slot_rva
        self._target_rva = target_rva
        self._base = base
        self._code = b""
        self.routines: List[int] = []

    def add_allocation(self, tag: bytes, pool_type: int, size: int) -> int:
        """Add a routine that allocates with a tag, the allocator's third argument, and return its RVA."""
        before, after = self._around_call(tag, pool_type, size)
        here = self._rva + len(self._code) + len(before)
        call = self._call_function(here) if self._target_rva else self._call_slot(here)
        return self._add(before + call + after)

    def add_empty(self) -> int:
        """Add a routine that succeeds at once and return its RVA."""
        return self._add(self._succeed())

    def finish(self) -> bytes:
        """Return all code."""
        return self._code

    def _add(self, code: bytes) -> int:
        rva = self._rva + len(self._code)
        self.routines.append(rva)
        self._code += code + self.filler * ((ROUTINE_BYTES - len(code)) // len(self.filler))
        return rva

    def _around_call(self, tag: bytes, pool_type: int, size: int) -> Tuple[bytes, bytes]:
        """x64: the tag is loaded into r8d."""
        before = b"\x48\x83\xec\x28\xb9" + struct.pack("<I", pool_type) + b"\xba" + struct.pack("<I", size)
        return before + b"\x41\xb8" + tag, b"\x48\x83\xc4\x28\xc3"

    def _call_function(self, here: int) -> bytes:
        return b"\xe8" + struct.pack("<i", self._target_rva - here - 5)

    def _call_slot(self, here: int) -> bytes:
        return b"\xff\x15" + struct.pack("<i", self._slot_rva - here - 6)

    def _succeed(self) -> bytes:
        return b"\x48\x83\xec\x28\x33\xc0\x48\x83\xc4\x28\xc3"


class _X86Routines(RoutineWriter):
    """x86: the arguments are pushed, the tag first."""

    def _around_call(self, tag: bytes, pool_type: int, size: int) -> Tuple[bytes, bytes]:
        return b"\x68" + tag + b"\x68" + struct.pack("<I", size) + b"\x68" + struct.pack("<I", pool_type), b"\xc3"

    def _call_slot(self, here: int) -> bytes:
        return b"\xff\x15" + struct.pack("<I", self._base + self._slot_rva)

    def _succeed(self) -> bytes:
        return b"\x33\xc0\xc3"


class _Arm64Routines(RoutineWriter):
    """ARM64: the tag is built in w2 from two halves."""

    filler = struct.pack("<I", 0xD43E0000)  # brk #F000h

    def _around_call(self, tag: bytes, pool_type: int, size: int) -> Tuple[bytes, bytes]:
        low, high = struct.unpack("<HH", tag)
        before = (
            0xA9BF7BFD,  # stp x29, x30, [sp, #-16]!
            0x52800000 | pool_type << 5,
            0xD2800001 | size << 5,
            0x52800002 | low << 5,
            0x72A00002 | high << 5,
        )
        return struct.pack("<5I", *before), struct.pack("<II", 0xA8C17BFD, 0xD65F03C0)  # ldp x29, x30, [sp], #16; ret

    def _call_function(self, here: int) -> bytes:
        return struct.pack("<I", 0x94000000 | (self._target_rva - here) >> 2 & 0x3FFFFFF)

    def _call_slot(self, here: int) -> bytes:
        pages = (self._slot_rva >> 12) - (here >> 12)
        page = 0x90000008 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5  # adrp x8
        load = 0xF9400108 | (self._slot_rva & 0xFFF) >> 3 << 10  # ldr x8, [x8, #offset]
        return struct.pack("<III", page, load, 0xD63F0100)  # blr x8

    def _succeed(self) -> bytes:
        return struct.pack("<II", 0x52800000, 0xD65F03C0)


_WRITERS: Dict[str, Type[RoutineWriter]] = {"x64": RoutineWriter, "x86": _X86Routines, "arm64": _Arm64Routines}


def start_routines(
    architecture: Architecture, rva: int, slot_rva: int = 0, *, target_rva: int = 0, base: int = 0
) -> RoutineWriter:
    """Return a writer of an architecture's code, whose first routine will lie at ``rva``."""
    return _WRITERS[architecture.family](rva, slot_rva, target_rva=target_rva, base=base)


def pack_function_table(architecture: Architecture, routines: List[int], unwind_rva: int) -> bytes:
    """Return the entries of .pdata for routines; ``unwind_rva`` is where x64 code keeps the description of all."""
    if architecture.family == "x64":
        return b"".join(struct.pack("<III", rva, rva + ROUTINE_BYTES, unwind_rva) for rva in routines)
    if architecture.family == "arm64":
        # Packed unwind data: the length in instructions, x29 and x30 saved, a frame of 16 bytes.
        unwind = 1 | ROUTINE_BYTES // 4 << 2 | 3 << 21 | 1 << 23
        return b"".join(struct.pack("<II", rva, unwind) for rva in routines)
    return b""
