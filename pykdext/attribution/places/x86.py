"""Where 32-bit code holds a pool tag: pushed, or stored for a call by compilers that keep the stack pointer (gcc)."""

from __future__ import annotations

import re
from dataclasses import replace

from pykdext.attribution.places.intel import (
    NAMES32,
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

_FASTCALL_REGISTERS = (
    (1, Position.FIRST_ARGUMENT, "first argument of a fastcall wrapper, or pushed by the next instructions"),
    (2, Position.SECOND_ARGUMENT, "second argument of a fastcall wrapper, or pushed by the next instructions"),
)
_NONVOLATILE = (3, 5, 6, 7)
_STORED_ARGUMENTS = range(2, 9)


def _stored_argument(number: int) -> StoreRow:
    """The slot of argument ``number`` (from 2) right before a call: 4 bytes each."""
    slot = 4 * (number - 1)
    form = f"mov dword [esp+{slot:x}h], {{tag}}"
    meaning = f"argument {number} of a call, or a local variable"
    row = immediate(form, Position.OTHER_ARGUMENT, Confidence.LIKELY, meaning)
    return rb"\x44\x24" + re.escape(bytes((slot,))), replace(row, is_local=True)


X86_CODE = IntelCode(
    IntelRows(
        moves=register_rows("mov", NAMES32[:8], _FASTCALL_REGISTERS, _NONVOLATILE),
        wide_moves=(),
        halves=(),
        push=immediate("push {tag}", Position.OTHER_ARGUMENT, Confidence.LIKELY, "pushed as an argument of a call"),
        stores=(
            *(_stored_argument(number) for number in _STORED_ARGUMENTS),
            (
                rb"\x04\x24",
                immediate(
                    "mov dword [esp], {tag}", Position.FIRST_ARGUMENT, Confidence.LIKELY, "first argument of a call"
                ),
            ),
            (rb"\x44\x24.", frame_row("esp+disp8")),
            (rb"\x84\x24....", frame_row("esp+disp32")),
            (rb"\x45.", frame_row("ebp+disp8")),
            (rb"\x85....", frame_row("ebp+disp32")),
            (rb"\x05....", global_row("disp32")),
            *STRUCTURE_ROWS,
        ),
    ),
    has_rex=False,
)
"""The instructions of x86."""
