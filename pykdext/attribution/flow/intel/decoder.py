"""Decode x64 and x86 instructions into what the flow engine needs of them."""

from __future__ import annotations

import functools
import re
from typing import Any, Container, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import capstone
from capstone import x86_const

DECODED_BYTES = 64
"""Code that is disassembled at once: about what lies between two jumps."""

_INSTRUCTION_POINTER = "rip"

_SIZES = {"byte": 1, "word": 2, "dword": 4, "qword": 8, "xmmword": 16, "ymmword": 32, "zmmword": 64}
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|[0-9])\Z")
_MEMORY = re.compile(
    r"(?:(?P<size>\w+) ptr )?(?:(?P<segment>\w\w):)?\["
    r"(?P<base>[a-z][a-z0-9]*(?![*a-z0-9]))?(?: \+ )?(?:(?P<index>[a-z][a-z0-9]*)(?:\*(?P<scale>[1248]))?)?"
    r"(?P<displacement>(?: [+-] )?(?:0x[0-9a-f]+|[0-9]))?\]\Z"
)
"""An operand as capstone prints it: ``dword ptr gs:[rax + rcx*8 - 0x10]``."""


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
        has_number: an immediate or the address of a ``lea``.
    """

    rva: int
    size: int
    text: str
    name: str
    repeated: bool
    operands: Tuple[Operand, ...]
    written: Tuple[Operand, ...]
    has_number: bool


class IntelDecoder:
    """A disassembler for code of one pointer size in an image at ``base``.

    Of the ``modelled`` mnemonics the caller knows himself what they write. Their operands are read from the text:
    capstone's details of an instruction cost ten times as much.
    """

    def __init__(self, pointer_bytes: int, base: int, modelled: Container[str]) -> None:
        mode = capstone.CS_MODE_64 if pointer_bytes == 8 else capstone.CS_MODE_32
        self._engine = capstone.Cs(capstone.CS_ARCH_X86, mode)
        self._detailed_engine = capstone.Cs(capstone.CS_ARCH_X86, mode)
        self._detailed_engine.detail = True
        self._base = base
        self._modelled = modelled
        self._pointer_bytes = pointer_bytes
        self._address_mask = (1 << 8 * pointer_bytes) - 1
        self._registers = _number_registers(pointer_bytes)

    def decode(self, code: bytes, rva: int) -> Iterator[IntelInstruction]:
        """The instructions of ``code``, one after another, up to bytes that are no instruction."""
        offset = 0
        for _, size, mnemonic, text in self._engine.disasm_lite(code, self._base + rva):
            yield self._read(mnemonic, text, code[offset : offset + size], rva + offset)
            offset += size

    def iter_texts(self, code: bytes, rva: int) -> Iterator[Tuple[int, str, str]]:
        """Size, mnemonic and operands, as text, of the instructions one after another."""
        for _, size, mnemonic, operands in self._engine.disasm_lite(code, self._base + rva):
            yield size, mnemonic, operands

    def _read(self, mnemonic: str, text: str, code: bytes, rva: int) -> IntelInstruction:
        prefix, _, name = mnemonic.rpartition(" ")
        operands: Optional[Tuple[Operand, ...]] = None
        written: Tuple[Operand, ...] = ()
        if name in self._modelled:
            operands = parse_operands(text, self._pointer_bytes, name == "lea")
        if operands is None:
            detailed = next(self._detailed_engine.disasm(code, self._base + rva, 1))
            operands = tuple(self._operand(operand) for operand in detailed.operands)
            written = () if name in self._modelled else self._written(detailed)
        if _INSTRUCTION_POINTER in text:
            operands = tuple(self._make_absolute(operand, rva + len(code)) for operand in operands)
        has_number = name == "lea" or any(type(operand) is Immediate for operand in operands)
        whole = f"{mnemonic} {text}" if text else mnemonic
        return IntelInstruction(rva, len(code), whole, name, prefix[:3] == "rep", operands, written, has_number)

    def _make_absolute(self, operand: Operand, next_rva: int) -> Operand:
        """Memory relative to the instruction has no base from now on."""
        if isinstance(operand, MemoryOperand) and operand.base == _INSTRUCTION_POINTER:
            address = (operand.displacement + self._base + next_rva) & self._address_mask
            return operand._replace(base=None, displacement=address)
        return operand

    def _written(self, detailed: Any) -> Tuple[Operand, ...]:
        _, written = detailed.regs_access()
        unsure = [operand.reg for operand in detailed.operands if operand.type == x86_const.X86_OP_REG]
        if not written and not any(operand.access for operand in detailed.operands):
            written = unsure  # nothing is known of what it does
        return tuple(self._registers[register] for register in written if register in self._registers)

    def _operand(self, operand: Any) -> Operand:
        if operand.type == x86_const.X86_OP_REG:
            return self._registers.get(operand.reg) or OtherRegister(operand.size)
        if operand.type == x86_const.X86_OP_IMM:
            return Immediate(operand.imm & ((1 << 8 * operand.size) - 1), operand.size)
        memory = operand.mem
        base, index = self._registers.get(memory.base), self._registers.get(memory.index)
        base_name = base.name if isinstance(base, GeneralRegister) else None
        return MemoryOperand(
            _INSTRUCTION_POINTER if memory.base == x86_const.X86_REG_RIP else base_name,
            index.name if isinstance(index, GeneralRegister) else None,
            memory.scale,
            memory.disp & self._address_mask,
            operand.size,
            memory.segment in (x86_const.X86_REG_FS, x86_const.X86_REG_GS),
        )


@functools.lru_cache(maxsize=1 << 14)
def parse_operands(text: str, pointer_bytes: int, is_address: bool) -> Optional[Tuple[Operand, ...]]:
    """The operands that capstone prints as ``text``; None if one of them is out of the ordinary.

    ``is_address``: only the address of memory is used, so that its size is not printed. Memory relative to the
    instruction has ``_INSTRUCTION_POINTER`` as its base.
    """
    registers = _name_registers(pointer_bytes)
    operands: List[Operand] = []
    for part in text.split(", ") if text else ():
        operand: Optional[Operand] = registers.get(part)
        if operand is None and _NUMBER.match(part):
            size = operands[0].size if operands else pointer_bytes
            operand = Immediate(int(part, 0) & ((1 << 8 * size) - 1), size)
        if operand is None:
            operand = _parse_memory(part, pointer_bytes, pointer_bytes if is_address else None)
        if operand is None:
            return None
        operands.append(operand)
    return tuple(operands)


def _parse_memory(text: str, pointer_bytes: int, size: Optional[int]) -> Optional[MemoryOperand]:
    match = _MEMORY.match(text)
    size = _SIZES.get(match["size"], size) if match else None
    if match is None or size is None:
        return None
    registers = _name_registers(pointer_bytes)
    base, index = (registers.get(match[name]) for name in ("base", "index"))
    is_relative = match["base"] == _INSTRUCTION_POINTER
    for name, register in (("base", base), ("index", index)):
        is_address = isinstance(register, GeneralRegister) and register.size == pointer_bytes
        if match[name] and not is_address and not (name == "base" and is_relative):
            return None
    displacement = int(match["displacement"].replace(" ", ""), 0) if match["displacement"] else 0
    return MemoryOperand(
        match["base"] if is_relative else base.name if isinstance(base, GeneralRegister) else None,
        index.name if isinstance(index, GeneralRegister) else None,
        int(match["scale"] or 1),
        displacement & ((1 << 8 * pointer_bytes) - 1),
        size,
        match["segment"] in ("fs", "gs"),
    )


@functools.cache
def _number_registers(pointer_bytes: int) -> Dict[int, Operand]:
    """The registers that are followed, by capstone's numbers."""
    named = _name_registers(pointer_bytes)
    return {getattr(x86_const, f"X86_REG_{name.upper()}"): register for name, register in named.items()}


@functools.cache
def _name_registers(pointer_bytes: int) -> Dict[str, Operand]:
    """The registers that are followed, by their names. Parts bear the name of the full register."""
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
    return names


def _parts(name: str, *parts: str) -> Dict[str, Operand]:
    """The eight, four, two and one low bytes of the register ``name``."""
    return {part: GeneralRegister(name, size) for part, size in zip(parts, (8, 4, 2, 1))}
