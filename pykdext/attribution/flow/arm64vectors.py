"""The few vector instructions of ARM64 that carry numbers: compilers fill structures with them."""

from __future__ import annotations

from typing import Any, Optional

from capstone import arm64

from pykdext.attribution.flow.arm64instruction import Arm64Instruction, read_operand
from pykdext.attribution.flow.arm64registers import (
    Q_BYTES,
    GeneralRegister,
    VectorRegister,
    find_register,
    read_general,
    write_general,
)
from pykdext.attribution.flow.cells import part
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import UNKNOWN, Value, constant

_MOVES = frozenset({"dup", "fmov", "mov", "movi"})

_LANE_BYTES = {
    getattr(arm64, f"ARM64_VAS_{count}{letter}"): size
    for letter, size, counts in (("B", 1, (8, 16)), ("H", 2, (4, 8)), ("S", 4, (1, 2, 4)), ("D", 8, (1, 2)))
    for count in counts
}
"""By capstone's arrangement."""

_HALF_ARRANGEMENTS = frozenset({arm64.ARM64_VAS_8B, arm64.ARM64_VAS_4H, arm64.ARM64_VAS_2S})
"""Those that fill the lower half of a register."""


def move_vector(state: State, instruction: Arm64Instruction) -> bool:
    """Do the instruction to ``state`` if it moves a value to, from or among vector registers; whether it does."""
    if instruction.mnemonic not in _MOVES or len(instruction.operands) != 2:
        return False
    target, source = instruction.operands
    to_register = find_register(target.reg) if target.type == arm64.ARM64_OP_REG else None
    from_register = find_register(source.reg) if source.type == arm64.ARM64_OP_REG else None
    if to_register is None or not any(isinstance(one, VectorRegister) for one in (to_register, from_register)):
        return False
    if (
        isinstance(to_register, VectorRegister)
        and isinstance(from_register, VectorRegister)
        and source.vector_index < 0
    ):
        pieces = state.vectors.cut(from_register.offset, from_register.size)
        state.vectors.paste(to_register.offset, Q_BYTES, pieces)
        return True
    value = _read_source(state, source, _lane_bytes(target), instruction.rva)
    if value is None:
        return False
    if isinstance(to_register, GeneralRegister):
        write_general(state, to_register, value)
    else:
        _write_lanes(state, to_register, target, value)
    return True


def _read_source(state: State, source: Any, size: int, rva: int) -> Optional[Value]:
    """An immediate, a general register, or a lane of a vector register."""
    if source.type == arm64.ARM64_OP_IMM:
        is_number = source.shift.type in (arm64.ARM64_SFT_INVALID, arm64.ARM64_SFT_LSL)
        return read_operand(state, source, size, rva) if is_number else None
    register = find_register(source.reg) if source.type == arm64.ARM64_OP_REG else None
    if isinstance(register, GeneralRegister):
        return part(read_general(state, register), 0, size)
    if not isinstance(register, VectorRegister):
        return None
    lane_bytes = _lane_bytes(source)
    value = state.vectors.read(register.offset + max(source.vector_index, 0) * lane_bytes, lane_bytes)
    return UNKNOWN if value is None else value


def _write_lanes(state: State, register: VectorRegister, target: Any, value: Value) -> None:
    """``value`` into the lane that is named, or into each lane; then what is above them becomes zero."""
    size = _lane_bytes(target)
    if target.vector_index >= 0:
        state.vectors.write(register.offset + target.vector_index * size, size, value)
        return
    end = register.size // 2 if target.vas in _HALF_ARRANGEMENTS else register.size
    for offset in range(0, end, size):
        state.vectors.write(register.offset + offset, size, value)
    if end < Q_BYTES:
        state.vectors.write(register.offset + end, Q_BYTES - end, constant(0))


def _lane_bytes(operand: Any) -> int:
    """Bytes of the lanes of a vector operand, or of the register."""
    register = find_register(operand.reg)
    assert register is not None
    return _LANE_BYTES.get(operand.vas, register.size)
