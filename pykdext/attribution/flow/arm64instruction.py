"""One decoded ARM64 instruction and the values of its operands."""

from __future__ import annotations

from typing import Any, Optional, Sequence

from capstone import arm64

from pykdext.attribution.flow.arm64data import EXTENSIONS, extend_value, shift_value
from pykdext.attribution.flow.arm64registers import (
    GeneralRegister,
    Register,
    find_register,
    read_general,
)
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import UNKNOWN, Value, constant

INSTRUCTION_BYTES = 4

_SHIFTS = {
    arm64.ARM64_SFT_LSL: "lsl",
    arm64.ARM64_SFT_LSR: "lsr",
    arm64.ARM64_SFT_ASR: "asr",
    arm64.ARM64_SFT_ROR: "ror",
}
_EXTENSIONS = {getattr(arm64, f"ARM64_EXT_{name.upper()}"): name for name in EXTENSIONS}


class Arm64Instruction:
    """An instruction as capstone decodes it.

    Attributes:
        rva: where it begins. size: its bytes. mnemonic, operands: capstone's.
    """

    __slots__ = ("_decoded", "mnemonic", "operands", "rva", "size")

    def __init__(self, decoded: Any) -> None:
        self._decoded = decoded
        self.rva: int = decoded.address
        self.size: int = decoded.size
        self.mnemonic: str = decoded.mnemonic
        self.operands: Sequence[Any] = decoded.operands

    @property
    def text(self) -> str:
        """As a disassembler prints it."""
        return f"{self.mnemonic} {self._decoded.op_str}".rstrip()

    @property
    def writes_back(self) -> bool:
        """Whether the base register of a load or store is moved."""
        return bool(self._decoded.writeback)

    def register(self, index: int) -> Optional[Register]:
        """The register that is the operand at ``index``; None if it is none, or a part of a vector register."""
        operand = self.operands[index] if index < len(self.operands) else None
        if operand is None or operand.type != arm64.ARM64_OP_REG or operand.vector_index >= 0:
            return None
        return find_register(operand.reg)

    def written_registers(self) -> Sequence[Register]:
        """The general and vector registers that it writes."""
        found = (find_register(number) for number in self._decoded.regs_access()[1])
        return [register for register in found if register is not None]

    @property
    def memory_operand(self) -> Optional[Any]:
        """The operand in memory, if there is one."""
        return next((operand for operand in self.operands if operand.type == arm64.ARM64_OP_MEM), None)


def read_operand(state: State, operand: Any, size: int, rva: int) -> Value:
    """What the instruction at ``rva``, of ``size`` bytes, gets from an immediate or a general register."""
    if operand.type == arm64.ARM64_OP_IMM:
        return constant((operand.imm << operand.shift.value) & ((1 << 8 * size) - 1), rva)
    register = find_register(operand.reg) if operand.type == arm64.ARM64_OP_REG else None
    if not isinstance(register, GeneralRegister):
        return UNKNOWN
    return modify_operand(read_general(state, register), operand, size)


def modify_operand(value: Value, operand: Any, size: int) -> Value:
    """``value`` extended and shifted as ``operand`` says."""
    if operand.ext in _EXTENSIONS:
        value = extend_value(value, _EXTENSIONS[operand.ext], size)
    if operand.shift.type in _SHIFTS:
        value = shift_value(value, _SHIFTS[operand.shift.type], operand.shift.value, size)
    return value
