"""What the vector instructions do that compilers use to copy, fill and build structures; others are not modelled."""

from __future__ import annotations

from typing import Callable, Dict, List, Sequence

from pykdext.attribution.flow.cells import Cell
from pykdext.attribution.flow.intel.decoder import (
    GeneralRegister,
    Immediate,
    IntelInstruction,
    MemoryOperand,
    VectorRegister,
)
from pykdext.attribution.flow.intel.operands import Operands
from pykdext.attribution.flow.intel.scalars import Handler
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import UNKNOWN, constant

_XMM_BYTES = 16


def _move(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """The whole register or as much memory."""
    size = max(operand.size for operand in instruction.operands)
    operands.write_pieces(state, instruction, size, operands.read_pieces(state, instruction, 1, 0, size))


def _move_low(size: int) -> Handler:
    """``movd``, ``movq``, ``movss``, ``movsd``: the low bytes; the rest of a register becomes zero."""

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        target = instruction.operands[0]
        pieces = operands.read_pieces(state, instruction, len(instruction.operands) - 1, 0, size)
        if isinstance(target, GeneralRegister):
            value = pieces[0].value if len(pieces) == 1 and pieces[0].size == size else UNKNOWN
            operands.write(state, instruction, 0, value)
            return
        if isinstance(target, MemoryOperand):
            operands.write_pieces(state, instruction, size, pieces)
            return
        zeros = [Cell(start, 4, constant(0)) for start in range(size, _XMM_BYTES, 4)]
        operands.write_pieces(state, instruction, _XMM_BYTES, pieces + zeros)

    return handle


def _move_scalar(size: int) -> Handler:
    """``movss``, ``movsd``: between registers the rest of the destination stays, which is not followed."""
    move = _move_low(size)

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        if all(isinstance(operand, VectorRegister) for operand in instruction.operands):
            pieces = operands.read_pieces(state, instruction, len(instruction.operands) - 1, 0, size)
            operands.write_pieces(state, instruction, _XMM_BYTES, pieces)
        else:
            move(operands, state, instruction)

    return handle


def _exclusive_or(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """With itself: zero. Anything else is not followed."""
    target = instruction.operands[0]
    zero = instruction.operands[-1] == instruction.operands[-2] and isinstance(target, VectorRegister)
    pieces = [Cell(start, 4, constant(0, instruction.rva)) for start in range(0, target.size, 4)] if zero else []
    operands.write_pieces(state, instruction, target.size, pieces)


def _arrange(unit: int, order: Callable[[int], Sequence[int]]) -> Handler:
    """Build 16 bytes of units of the two sources: units 0.. of the first, then those of the second, as ``order`` says.

    ``order`` gets the immediate operand, or 0.
    """

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        control = instruction.operands[-1]
        has_control = isinstance(control, Immediate)
        last = len(instruction.operands) - (2 if has_control else 1)
        first = last - 1 if last > 1 else 0
        pieces: List[Cell] = []
        for place, chosen in enumerate(order(control.number if isinstance(control, Immediate) else 0)):
            source, index = (first, chosen) if chosen * unit < _XMM_BYTES else (last, chosen - _XMM_BYTES // unit)
            found = operands.read_pieces(state, instruction, source, index * unit, unit)
            pieces += (piece._replace(offset=piece.offset + place * unit) for piece in found)
        operands.write_pieces(state, instruction, _XMM_BYTES, pieces)

    return handle


def _broadcast(unit: int) -> Handler:
    """The lowest unit of the source, over the whole register."""

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        found = operands.read_pieces(state, instruction, 1, 0, unit)
        size = instruction.operands[0].size
        pieces = [piece._replace(offset=piece.offset + start) for start in range(0, size, unit) for piece in found]
        operands.write_pieces(state, instruction, size, pieces)

    return handle


def _move_half(start: int) -> Handler:
    """``movlps``, ``movhps``: eight bytes of memory from or to a half of the register."""

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        if not isinstance(instruction.operands[0], VectorRegister):
            operands.write_pieces(state, instruction, 8, operands.read_pieces(state, instruction, 1, start, 8))
            return
        kept = operands.read_pieces(state, instruction, len(instruction.operands) - 2, 8 - start, 8)
        loaded = operands.read_pieces(state, instruction, len(instruction.operands) - 1, 0, 8)
        pieces = [piece._replace(offset=piece.offset + 8 - start) for piece in kept]
        pieces += (piece._replace(offset=piece.offset + start) for piece in loaded)
        operands.write_pieces(state, instruction, _XMM_BYTES, pieces)

    return handle


def _insert(unit: int) -> Handler:
    """``pinsrd``, ``pinsrq``."""

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        control = instruction.operands[-1]
        place = unit * (control.number % (_XMM_BYTES // unit)) if isinstance(control, Immediate) else 0
        base = 1 if len(instruction.operands) > 3 else 0
        pieces: List[Cell] = []
        for start in range(0, _XMM_BYTES, unit):
            inserted = start == place
            found = operands.read_pieces(
                state, instruction, len(instruction.operands) - 2 if inserted else base, 0 if inserted else start, unit
            )
            pieces += (piece._replace(offset=piece.offset + start) for piece in found)
        operands.write_pieces(state, instruction, _XMM_BYTES, pieces)

    return handle


def _shuffle(control: int) -> List[int]:
    """Four fields of two bits."""
    return [control >> shift & 3 for shift in (0, 2, 4, 6)]


def _shuffle_of_second(control: int) -> List[int]:
    """``pshufd`` has one source: it counts as the second."""
    return [4 + index for index in _shuffle(control)]


def _shuffle_of_both(control: int) -> List[int]:
    """``shufps`` takes its low half from the first source and its high half from the second."""
    chosen = _shuffle(control)
    return [*chosen[:2], 4 + chosen[2], 4 + chosen[3]]


_HANDLERS: Dict[str, Handler] = {
    **dict.fromkeys(
        ["movaps", "movups", "movapd", "movupd", "movdqa", "movdqu", "lddqu", "movntdq", "movntps", "movntdqa"], _move
    ),
    **dict.fromkeys(["movdqa32", "movdqa64", "movdqu8", "movdqu16", "movdqu32", "movdqu64"], _move),
    "movd": _move_low(4),
    "movq": _move_low(8),
    "movss": _move_scalar(4),
    "movsd": _move_scalar(8),
    **dict.fromkeys(["xorps", "xorpd", "pxor", "pxord", "pxorq"], _exclusive_or),
    **dict.fromkeys(["punpcklqdq", "movlhps", "unpcklpd"], _arrange(8, lambda control: (0, 2))),
    **dict.fromkeys(["punpckhqdq", "unpckhpd"], _arrange(8, lambda control: (1, 3))),
    **dict.fromkeys(["punpckldq", "unpcklps"], _arrange(4, lambda control: (0, 4, 1, 5))),
    "pshufd": _arrange(4, _shuffle_of_second),
    "shufps": _arrange(4, _shuffle_of_both),
    **dict.fromkeys(["pbroadcastd", "broadcastss"], _broadcast(4)),
    **dict.fromkeys(["pbroadcastq", "movddup"], _broadcast(8)),
    **dict.fromkeys(["movlps", "movlpd"], _move_half(0)),
    **dict.fromkeys(["movhps", "movhpd"], _move_half(8)),
    "pinsrd": _insert(4),
    "pinsrq": _insert(8),
}

VECTOR_HANDLERS: Dict[str, Handler] = {**_HANDLERS, **{f"v{name}": handler for name, handler in _HANDLERS.items()}}
"""By mnemonic, SSE and AVX forms."""
