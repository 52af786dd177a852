"""The few vector instructions of ARM64 that carry numbers: compilers fill structures with them."""

from __future__ import annotations

from typing import Optional

from pykdext.attribution.flow.arm64.decoder import Arm64Instruction, Operand, read_operand
from pykdext.attribution.flow.arm64.registers import (
    Q_BYTES,
    GeneralRegister,
    VectorRegister,
    read_general,
    write_general,
)
from pykdext.attribution.flow.cells import part
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import UNKNOWN, Value, constant

_MOVES = frozenset({"dup", "fmov", "mov", "movi"})


def move_vector(state: State, instruction: Arm64Instruction) -> bool:
    """Do the instruction to ``state`` if it moves a value to, from or among vector registers; whether it does."""
    if instruction.mnemonic not in _MOVES or len(instruction.operands) != 2:
        return False
    target, source = instruction.operands
    to_register, from_register = target.register, source.register
    if to_register is None or not any(isinstance(one, VectorRegister) for one in (to_register, from_register)):
        return False
    if isinstance(to_register, VectorRegister) and isinstance(from_register, VectorRegister) and source.lane is None:
        pieces = state.vectors.cut(from_register.offset, from_register.size)
        state.vectors.paste(to_register.offset, Q_BYTES, pieces)
        return True
    value = _read_source(state, source, target.lane_bytes or to_register.size, instruction.rva)
    if value is None:
        return False
    if isinstance(to_register, GeneralRegister):
        write_general(state, to_register, value)
    else:
        _write_lanes(state, to_register, target, value)
    return True


def _read_source(state: State, source: Operand, size: int, rva: int) -> Optional[Value]:
    """An immediate, a general register, or a lane of a vector register."""
    if source.number is not None:
        is_number = source.shift_kind == "lsl" or not source.has_shift
        return read_operand(state, source, size, rva) if is_number else None
    register = source.register
    if isinstance(register, GeneralRegister):
        return part(read_general(state, register), 0, size)
    if not isinstance(register, VectorRegister):
        return None
    lane_bytes = source.lane_bytes or register.size
    value = state.vectors.read(register.offset + (source.lane or 0) * lane_bytes, lane_bytes)
    return UNKNOWN if value is None else value


def _write_lanes(state: State, register: VectorRegister, target: Operand, value: Value) -> None:
    """``value`` into the lane that is named, or into each lane; then what is above them becomes zero."""
    size = target.lane_bytes or register.size
    if target.lane is not None:
        state.vectors.write(register.offset + target.lane * size, size, value)
        return
    end = register.size // 2 if target.is_half else register.size
    for offset in range(0, end, size):
        state.vectors.write(register.offset + offset, size, value)
    if end < Q_BYTES:
        state.vectors.write(register.offset + end, Q_BYTES - end, constant(0))
