"""Where x64 code holds a pool tag. Which register or stack slot is which argument is Microsoft's calling convention."""

from __future__ import annotations

import re

from pykdext.attribution.places.intel import (
    NAMES32,
    NAMES64,
    STRUCTURE_ROWS,
    IntelCode,
    IntelRows,
    StoreRow,
    frame_row,
    global_row,
    register_rows,
)
from pykdext.attribution.places.tagencodings import Position, immediate
from pykdext.model import Confidence

_ARGUMENT_REGISTERS = (
    (1, Position.FIRST_ARGUMENT, "first argument, as of a driver's own wrapper"),
    (2, Position.SECOND_ARGUMENT, "second argument, as in ExFreePoolWithTag"),
    (8, Position.THIRD_ARGUMENT, "third argument, as in ExAllocatePoolWithTag and ExAllocatePool2"),
    (9, Position.FOURTH_ARGUMENT, "fourth argument, as in FltAllocatePoolAlignedWithTag and WdfMemoryCreate"),
)
_NONVOLATILE = (3, 5, 6, 7, 12, 13, 14, 15)


def _stack_argument(number: int, meaning: str) -> StoreRow:
    """The slot of argument ``number`` (from 5) at a call: behind 32 bytes of home space, 8 bytes each."""
    slot = 8 * (number - 1)
    form = f"mov dword [rsp+{slot:x}h], {{tag}}"
    row = immediate(form, Position.OTHER_ARGUMENT, Confidence.LIKELY, f"argument {number} on the stack{meaning}")
    return rb"\x44\x24" + re.escape(bytes((slot,))), row


X64_CODE = IntelCode(
    IntelRows(
        moves=register_rows("mov", NAMES32, _ARGUMENT_REGISTERS, _NONVOLATILE),
        wide_moves=register_rows("mov", NAMES64, _ARGUMENT_REGISTERS, _NONVOLATILE),
        halves=tuple(
            immediate(f"mov {name}, {{tag}}", Position.REGISTER, Confidence.POSSIBLE, "half of a 64-bit constant")
            for name in NAMES64
        ),
        push=None,
        stores=(
            _stack_argument(5, ""),
            _stack_argument(6, ", as in ExInitializeNPagedLookasideList"),
            _stack_argument(7, ", as in ExInitializeLookasideListEx"),
            _stack_argument(8, ""),
            (rb"\x04\x24", frame_row("rsp")),
            (rb"\x44\x24.", frame_row("rsp+disp8")),
            (rb"\x84\x24....", frame_row("rsp+disp32")),
            (rb"\x45.", frame_row("rbp+disp8")),
            (rb"\x85....", frame_row("rbp+disp32")),
            (rb"\x05....", global_row("rip+disp32")),
            *STRUCTURE_ROWS,
        ),
    ),
    has_rex=True,
)
"""The instructions of x64."""
