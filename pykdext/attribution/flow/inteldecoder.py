"""Decode x64 and x86 instructions into what the flow engine needs of them."""

from __future__ import annotations

from typing import Any, Container, Dict, Iterator, NamedTuple, Optional, Tuple, Union

import capstone
from capstone import x86_const

MAX_INSTRUCTION_BYTES = 15
"""By the processor manuals."""


class GeneralRegister(NamedTuple):
    """A general register or a part of it: the full register's name, bytes, and whether it is the second byte (ah)."""

    name: str
    size: int
    high: bool = False


class VectorRegister(NamedTuple):
    """xmm, ymm or zmm ``number``."""

    number: int
    size: int


class OtherRegister(NamedTuple):
    """A segment, control, mask, x87 or MMX register: not followed."""

    size: int


class Immediate(NamedTuple):
    """A number in the instruction, unsigned, as wide as the operation."""

    number: int
    size: int


class MemoryOperand(NamedTuple):
    """Memory at ``base + scaled * scale + displacement``.

    An address relative to the instruction is in ``displacement`` alone.
    ``foreign`` memory is in a segment of its own (fs, gs).
    """

    base: Optional[str]
    scaled: Optional[str]
    scale: int
    displacement: int
    size: int
    foreign: bool


Operand = Union[GeneralRegister, VectorRegister, OtherRegister, Immediate, MemoryOperand]


class IntelInstruction(NamedTuple):
    """A decoded instruction.

    Attributes:
        rva, size, text: as for every ``Instruction``. name: the mnemonic without prefixes. repeated: it has a rep
        prefix. operands: the destination first. written: the registers that it changes, where nobody models it.
    """

    rva: int
    size: int
    text: str
    name: str
    repeated: bool
    operands: Tuple[Operand, ...]
    written: Tuple[Operand, ...]


class IntelDecoder:
    """A disassembler for code of one pointer size in an image at ``base``.

    Of the ``modelled`` mnemonics the caller knows himself what they write.
    """

    def __init__(self, pointer_bytes: int, base: int, modelled: Container[str]) -> None:
        mode = capstone.CS_MODE_64 if pointer_bytes == 8 else capstone.CS_MODE_32
        self._engine = capstone.Cs(capstone.CS_ARCH_X86, mode)
        self._engine.detail = True
        self._base = base
        self._modelled = modelled
        self._address_mask = (1 << 8 * pointer_bytes) - 1
        self._registers = _name_registers(pointer_bytes)

    def decode(self, code: bytes, rva: int) -> Optional[IntelInstruction]:
        """The instruction that ``code`` begins with, or None."""
        raw = next(self._engine.disasm(code, self._base + rva, 1), None)
        if raw is None:
            return None
        prefix, _, name = raw.mnemonic.rpartition(" ")
        operands = tuple(self._operand(raw, operand) for operand in raw.operands)
        text = f"{raw.mnemonic} {raw.op_str}".strip()
        written = () if name in self._modelled else self._written(raw)
        return IntelInstruction(rva, raw.size, text, name, prefix.startswith("rep"), operands, written)

    def iter_texts(self, code: bytes, rva: int) -> Iterator[Tuple[int, str, str]]:
        """Size, mnemonic and operands, as text, of the instructions one after another."""
        for _, size, mnemonic, operands in self._engine.disasm_lite(code, self._base + rva):
            yield size, mnemonic, operands

    def _written(self, raw: Any) -> Tuple[Operand, ...]:
        _, written = raw.regs_access()
        return tuple(self._registers[register] for register in written if register in self._registers)

    def _operand(self, raw: Any, operand: Any) -> Operand:
        if operand.type == x86_const.X86_OP_REG:
            return self._registers.get(operand.reg) or OtherRegister(operand.size)
        if operand.type == x86_const.X86_OP_IMM:
            return Immediate(operand.imm & ((1 << 8 * operand.size) - 1), operand.size)
        memory = operand.mem
        displacement = memory.disp
        if memory.base == x86_const.X86_REG_RIP:
            displacement += raw.address + raw.size
        base, index = self._registers.get(memory.base), self._registers.get(memory.index)
        return MemoryOperand(
            base.name if isinstance(base, GeneralRegister) else None,
            index.name if isinstance(index, GeneralRegister) else None,
            memory.scale,
            displacement & self._address_mask,
            operand.size,
            memory.segment in (x86_const.X86_REG_FS, x86_const.X86_REG_GS),
        )


def _name_registers(pointer_bytes: int) -> Dict[int, Operand]:
    """The registers that are followed, by capstone's numbers. Parts bear the name of the full register."""
    names: Dict[str, Operand] = {}
    full = "r" if pointer_bytes == 8 else "e"
    for letter in "abcd":
        name = f"{full}{letter}x"
        names.update(_parts(name, f"r{letter}x", f"e{letter}x", f"{letter}x", f"{letter}l"))
        names[f"{letter}h"] = GeneralRegister(name, 1, high=True)
    for pair in ("si", "di", "bp", "sp"):
        names.update(_parts(f"{full}{pair}", f"r{pair}", f"e{pair}", pair, f"{pair}l"))
    for number in range(8, 16):
        name = f"r{number}"
        names.update(_parts(name, name, f"{name}d", f"{name}w", f"{name}b"))
    for index in range(32):
        names.update(
            {f"{kind}mm{index}": VectorRegister(index, size) for kind, size in (("x", 16), ("y", 32), ("z", 64))}
        )
    return {getattr(x86_const, f"X86_REG_{name.upper()}"): register for name, register in names.items()}


def _parts(name: str, *parts: str) -> Dict[str, Operand]:
    """The eight, four, two and one low bytes of the register ``name``."""
    return {part: GeneralRegister(name, size) for part, size in zip(parts, (8, 4, 2, 1))}
