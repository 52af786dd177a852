"""Decoded ARM64 instructions and the values of their operands."""

from __future__ import annotations

from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

from capstone import CS_ARCH_ARM64, CS_MODE_ARM, Cs, arm64

from pykdext.attribution.flow.arm64.data import EXTENSIONS, extend_value, shift_value
from pykdext.attribution.flow.arm64.registers import GeneralRegister, Register, find_register, read_general
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import UNKNOWN, Value, constant

INSTRUCTION_BYTES = 4

MAX_KNOWN_WORDS = 1 << 14
"""Words that are kept decoded: functions share many."""

_SHIFTS = {
    arm64.ARM64_SFT_LSL: "lsl",
    arm64.ARM64_SFT_LSR: "lsr",
    arm64.ARM64_SFT_ASR: "asr",
    arm64.ARM64_SFT_ROR: "ror",
}
_EXTENSIONS = {getattr(arm64, f"ARM64_EXT_{name.upper()}"): name for name in EXTENSIONS}

_LANE_BYTES = {
    getattr(arm64, f"ARM64_VAS_{count}{letter}"): size
    for letter, size, counts in (("B", 1, (8, 16)), ("H", 2, (4, 8)), ("S", 4, (1, 2, 4)), ("D", 8, (1, 2)))
    for count in counts
}
"""By capstone's arrangement."""

_HALF_ARRANGEMENTS = frozenset({arm64.ARM64_VAS_8B, arm64.ARM64_VAS_4H, arm64.ARM64_VAS_2S})
"""Those that fill the lower half of a register."""

_RELATIVE = (
    (0x1F000000, 0x10000000),  # adr, adrp
    (0x7C000000, 0x14000000),  # b, bl
    (0xFE000000, 0x54000000),  # b.cond
    (0x7C000000, 0x34000000),  # cbz, cbnz, tbz, tbnz
    (0x3B000000, 0x18000000),  # ldr of a constant beside the code
)
"""Mask and bits of the instructions that mean something else at another address."""


class Operand(NamedTuple):
    """An operand.

    Attributes:
        register: if it is one that is followed. number: of an immediate, else None. is_memory: at ``base`` plus
        ``offset``, as it is extended and shifted, plus ``displacement``. shift_kind, shift, extension: of an immediate,
        a register or the offset; ``shift_kind`` is empty where it is of no known kind. has_shift: of whatever kind.
        lane: number of the lane of a vector register, or None. lane_bytes: size of one, None: it is the register.
        is_half: the lanes fill the lower half.
    """

    register: Optional[Register]
    number: Optional[int]
    is_memory: bool
    base: Optional[Register]
    offset: Optional[Register]
    displacement: int
    shift_kind: str
    shift: int
    has_shift: bool
    extension: Optional[str]
    lane: Optional[int]
    lane_bytes: Optional[int]
    is_half: bool


class Arm64Instruction(NamedTuple):
    """A decoded instruction.

    Attributes:
        rva, text: as for every ``Instruction``. mnemonic: as capstone has it. operands: the destination first.
        memory_operand: the first one in memory. writes_back: the base register of a load or store is moved.
        written: the registers that it changes, as far as capstone knows.
    """

    rva: int
    text: str
    mnemonic: str
    operands: Tuple[Operand, ...]
    memory_operand: Optional[Operand]
    writes_back: bool
    written: Tuple[Register, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return INSTRUCTION_BYTES

    def register(self, index: int) -> Optional[Register]:
        """The register that is the operand at ``index``; None if it is no register, or a part of a vector register."""
        operand = self.operands[index] if index < len(self.operands) else None
        return operand.register if operand is not None and operand.lane is None else None


_KNOWN_WORDS: Dict[int, Arm64Instruction] = {}


class Arm64Decoder:
    """A disassembler that remembers the words it has seen."""

    def __init__(self) -> None:
        self._engine = Cs(CS_ARCH_ARM64, CS_MODE_ARM)
        self._engine.detail = True

    def decode(self, code: bytes, rva: int) -> Iterator[Arm64Instruction]:
        """The instructions of ``code``, one after another, up to bytes that are no instruction."""
        for offset in range(0, len(code) - INSTRUCTION_BYTES + 1, INSTRUCTION_BYTES):
            raw = code[offset : offset + INSTRUCTION_BYTES]
            word = int.from_bytes(raw, "little")
            instruction = _KNOWN_WORDS.get(word) or self._read(raw, rva + offset)
            if instruction is None:
                return
            yield instruction if instruction.rva == rva + offset else instruction._replace(rva=rva + offset)
            if word not in _KNOWN_WORDS and not any(word & mask == bits for mask, bits in _RELATIVE):
                if len(_KNOWN_WORDS) >= MAX_KNOWN_WORDS:
                    _KNOWN_WORDS.clear()
                _KNOWN_WORDS[word] = instruction

    def _read(self, raw: bytes, rva: int) -> Optional[Arm64Instruction]:
        decoded = next(self._engine.disasm(raw, rva, 1), None)
        if decoded is None:
            return None
        operands = tuple(map(_read_operand, decoded.operands))
        written = (find_register(number) for number in decoded.regs_access()[1])
        return Arm64Instruction(
            rva,
            f"{decoded.mnemonic} {decoded.op_str}".rstrip(),
            decoded.mnemonic,
            operands,
            next((operand for operand in operands if operand.is_memory), None),
            bool(decoded.writeback),
            tuple(register for register in written if register is not None),
        )


def _read_operand(operand: Any) -> Operand:
    is_register = operand.type == arm64.ARM64_OP_REG
    is_memory = operand.type == arm64.ARM64_OP_MEM
    return Operand(
        register=find_register(operand.reg) if is_register else None,
        number=operand.imm if operand.type == arm64.ARM64_OP_IMM else None,
        is_memory=is_memory,
        base=find_register(operand.mem.base) if is_memory else None,
        offset=find_register(operand.mem.index) if is_memory else None,
        displacement=operand.mem.disp if is_memory else 0,
        shift_kind=_SHIFTS.get(operand.shift.type, ""),
        shift=operand.shift.value,
        has_shift=operand.shift.type != arm64.ARM64_SFT_INVALID,
        extension=_EXTENSIONS.get(operand.ext),
        lane=operand.vector_index if operand.vector_index >= 0 else None,
        lane_bytes=_LANE_BYTES.get(operand.vas),
        is_half=operand.vas in _HALF_ARRANGEMENTS,
    )


def read_operand(state: State, operand: Operand, size: int, rva: int) -> Value:
    """What the instruction at ``rva``, of ``size`` bytes, gets from an immediate or a general register."""
    if operand.number is not None:
        return constant((operand.number << operand.shift) & ((1 << 8 * size) - 1), rva)
    if not isinstance(operand.register, GeneralRegister):
        return UNKNOWN
    return modify_operand(read_general(state, operand.register), operand, size)


def modify_operand(value: Value, operand: Operand, size: int) -> Value:
    """``value`` extended and shifted as ``operand`` says."""
    if operand.extension is not None:
        value = extend_value(value, operand.extension, size)
    if operand.shift_kind:
        value = shift_value(value, operand.shift_kind, operand.shift, size)
    return value
