"""Segment descriptor tables (manuals of Intel and AMD) as Windows fills them on x64 and x86 processors."""

from __future__ import annotations

import struct
from typing import Dict, NamedTuple, Tuple

from dumps.forge.architectures import Architecture

TASK_STATE_BYTES = 0x68

_KERNEL_CODE, _KERNEL_DATA, _USER_CODE, _USER_DATA, _TASK_STATE = 0x9B, 0x93, 0xFB, 0xF3, 0x8B  # type, rights, present
_PAGES, _BITS_32, _BITS_64 = 8, 4, 2
_WHOLE_SPACE = 0xFFFFF
_USER_BLOCK_LIMIT = 0x3C00

SELECTORS: Dict[str, Tuple[int, ...]] = {
    "x64": (0x10, 0x18, 0, 0x33, 0x2B, 0, 0, 0x40, 0x23, 0x53),
    "x86": (0x8, 0x10, 0x30, 0x1B, 0x23, 0x3B, 0x48, 0x28, 0, 0),
    "arm64": (0,) * 10,
}
"""Selectors of each family in the order of the debugger data block; 0 where it has no such segment.

Code, data and processor block of the kernel; code, data and thread block of user mode; local descriptor table, task
state; code and thread block of 32-bit programs.
"""


class _Segment(NamedTuple):
    """One entry of a table: ``limit`` counts bytes, or pages if the flags say so."""

    selector: int
    base: int
    limit: int
    access: int
    flags: int

    def pack(self) -> bytes:
        """Return the descriptor in its scattered form of eight bytes."""
        low = self.limit & 0xFFFF | (self.base & 0xFFFF) << 16
        high = self.base >> 16 & 0xFF | self.access << 8 | self.limit & 0xF0000 | self.flags << 20
        return struct.pack("<II", low, high | self.base & 0xFF000000)


def pack_descriptor_table(architecture: Architecture, processor_va: int, task_state_va: int) -> bytes:
    """Return the table of the processor whose KPCR and task state lie at these addresses."""
    if architecture.narrow:
        return _pack_segments(
            0x400,
            _Segment(0x08, 0, _WHOLE_SPACE, _KERNEL_CODE, _PAGES | _BITS_32),
            _Segment(0x10, 0, _WHOLE_SPACE, _KERNEL_DATA, _PAGES | _BITS_32),
            _Segment(0x18, 0, _WHOLE_SPACE, _USER_CODE, _PAGES | _BITS_32),
            _Segment(0x20, 0, _WHOLE_SPACE, _USER_DATA, _PAGES | _BITS_32),
            _Segment(0x28, task_state_va, TASK_STATE_BYTES - 1, _TASK_STATE, 0),
            _Segment(0x30, processor_va, 1, _KERNEL_DATA, _PAGES | _BITS_32),
            _Segment(0x38, 0, 0xFFF, _USER_DATA, _BITS_32),
        )
    table = bytearray(
        _pack_segments(
            0x58,
            _Segment(0x10, 0, 0, _KERNEL_CODE, _BITS_64),
            _Segment(0x18, 0, _WHOLE_SPACE, _KERNEL_DATA, _PAGES | _BITS_32),
            _Segment(0x20, 0, _WHOLE_SPACE, _USER_CODE, _PAGES | _BITS_32),
            _Segment(0x28, 0, _WHOLE_SPACE, _USER_DATA, _PAGES | _BITS_32),
            _Segment(0x30, 0, 0, _USER_CODE, _BITS_64),
            _Segment(0x40, task_state_va, TASK_STATE_BYTES - 1, _TASK_STATE, 0),
            _Segment(0x50, 0, _USER_BLOCK_LIMIT, _USER_DATA, _BITS_32),
        )
    )
    struct.pack_into("<Q", table, 0x48, task_state_va >> 32)  # the upper half of the system descriptor at 40h
    return bytes(table)


def _pack_segments(table_bytes: int, *segments: _Segment) -> bytes:
    table = bytearray(table_bytes)
    for segment in segments:
        table[segment.selector : segment.selector + 8] = segment.pack()
    return bytes(table)
