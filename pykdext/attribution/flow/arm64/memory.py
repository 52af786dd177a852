"""ARM64's loads and stores: addresses, write-back, pairs, vector registers."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional

from pykdext.attribution.flow.arithmetic import add, displace, sign_extend
from pykdext.attribution.flow.arm64.decoder import Arm64Instruction, modify_operand
from pykdext.attribution.flow.arm64.registers import (
    Q_BYTES,
    GeneralRegister,
    Register,
    forget_register,
    read_general,
    write_general,
)
from pykdext.attribution.flow.memory import Memory
from pykdext.attribution.flow.state import State, Table
from pykdext.attribution.flow.values import UNKNOWN, StackAddress, Value, constant, numbers
from pykdext.images.image import Image


class _Access(NamedTuple):
    """Bytes of one transfer, None: the register's; and whether a load extends their sign."""

    size: Optional[int] = None
    is_signed: bool = False


_LOADS: Dict[str, _Access] = {
    **dict.fromkeys(("ldr", "ldur", "ldp", "ldnp", "ldar", "ldapr", "ldapur", "ldlar", "ldtr"), _Access()),
    **dict.fromkeys(("ldxr", "ldaxr", "ldxp", "ldaxp"), _Access()),
    **dict.fromkeys(("ldrb", "ldurb", "ldarb", "ldaprb", "ldapurb", "ldxrb", "ldaxrb"), _Access(1)),
    **dict.fromkeys(("ldrh", "ldurh", "ldarh", "ldaprh", "ldapurh", "ldxrh", "ldaxrh"), _Access(2)),
    **dict.fromkeys(("ldrsb", "ldursb"), _Access(1, is_signed=True)),
    **dict.fromkeys(("ldrsh", "ldursh"), _Access(2, is_signed=True)),
    **dict.fromkeys(("ldrsw", "ldursw", "ldpsw"), _Access(4, is_signed=True)),
}
_STORES: Dict[str, _Access] = {
    **dict.fromkeys(("str", "stur", "stp", "stnp", "stlr", "stlur", "stllr", "sttr"), _Access()),
    **dict.fromkeys(("strb", "sturb", "stlrb", "stlurb", "sttrb"), _Access(1)),
    **dict.fromkeys(("strh", "sturh", "stlrh", "stlurh", "sttrh"), _Access(2)),
}

_UNMODELLED_STORE_BYTES = 64
"""What a store may hit that is not modelled; the longest has four vector registers."""

_ZEROED_BYTES = 2048
"""The largest block that one instruction clears, around the address that it gets."""

_EIGHT_REGISTERS = re.compile(r"ld64b x(\d+)")
"""A load of as many registers, of which the disassembler tells the first one in the text only."""


class _Place(NamedTuple):
    """Where a transfer goes. With an index that nobody knows, ``pointer`` is where the array begins."""

    pointer: Value
    offset: int
    is_indexed: bool = False


class Arm64Memory:
    """The loads and stores of the functions of ``image``."""

    def __init__(self, image: Image) -> None:
        self._memory = Memory(image)
        self._base = image.module.base

    def add_index(self, total: Value, left: Value, right: Value) -> Value:
        """The sum of both, as :meth:`Memory.add_index` tells."""
        return self._memory.add_index(total, left, right)

    def transfer(self, state: State, instruction: Arm64Instruction) -> bool:
        """Do the instruction to ``state`` if it is a load or store that is understood; whether it was."""
        load = _LOADS.get(instruction.mnemonic)
        access = load or _STORES.get(instruction.mnemonic)
        place = self._find_place(state, instruction) if access else None
        if access is None or place is None:
            return False
        for register in _transferred(instruction):
            size = access.size or register.size
            if load:
                self._load(state, register, place, size, access.is_signed)
            else:
                self._store(state, register, place, size)
            place = place._replace(offset=place.offset + size)
        _write_back(state, instruction)
        return True

    def forget_access(self, state: State, instruction: Arm64Instruction) -> None:
        """The place and the registers of a load or store that is not understood hold anything from now on."""
        for match in _EIGHT_REGISTERS.finditer(instruction.text):
            for number in range(int(match.group(1)), int(match.group(1)) + 8):
                write_general(state, GeneralRegister(f"x{number}", 8), UNKNOWN)
        operand = instruction.memory_operand
        if instruction.mnemonic == "dc" or operand is None:
            self._forget_block(state, instruction)
            return
        place = self._find_place(state, instruction)
        if place is None:
            return
        if place.is_indexed:
            _forget_from(state, place.pointer, 0)
        self._memory.store_cells(state, place.pointer, place.offset, _UNMODELLED_STORE_BYTES, [])
        base = operand.base if instruction.writes_back else None
        for register in (*(one.register for one in instruction.operands), base):
            if register is not None:
                forget_register(state, register)

    def _forget_block(self, state: State, instruction: Arm64Instruction) -> None:
        """``dc zva`` and its kin clear a block whose size only the processor knows, around an address."""
        for operand in instruction.operands if instruction.mnemonic == "dc" else ():
            if isinstance(operand.register, GeneralRegister):
                _forget_from(state, read_general(state, operand.register), -_ZEROED_BYTES)

    def _find_place(self, state: State, instruction: Arm64Instruction) -> Optional[_Place]:
        operand = instruction.memory_operand
        if operand is None:
            last = instruction.operands[-1] if instruction.operands else None
            if last is None or last.number is None:
                return None
            return _Place(constant(self._base + last.number), 0)  # a constant beside the code
        pointer = read_general(state, operand.base) if isinstance(operand.base, GeneralRegister) else UNKNOWN
        if not isinstance(operand.offset, GeneralRegister):
            return _Place(pointer, operand.displacement)
        offset = modify_operand(read_general(state, operand.offset), operand, 8)
        if numbers(offset) is None:
            return _Place(pointer, 0, is_indexed=True)
        return _Place(add(pointer, offset, 8), 0)

    def _load(self, state: State, register: Register, place: _Place, size: int, is_signed: bool) -> None:
        if place.is_indexed:
            state.table = _table_at(place, size) or state.table
        if not isinstance(register, GeneralRegister):
            pieces = [] if place.is_indexed else self._memory.load_cells(state, place.pointer, place.offset, size)
            state.vectors.paste(register.offset, Q_BYTES, pieces)
            return
        if place.is_indexed:
            value = self._memory.load_element(state, place.pointer, place.offset, size, size)
        else:
            value = self._memory.load(state, place.pointer, place.offset, size)
        write_general(state, register, sign_extend(value, size, register.size) if is_signed else value)

    def _store(self, state: State, register: Register, place: _Place, size: int) -> None:
        if place.is_indexed:
            _forget_from(state, place.pointer, 0)
        elif isinstance(register, GeneralRegister):
            self._memory.store(state, place.pointer, place.offset, size, read_general(state, register))
        else:
            pieces = state.vectors.cut(register.offset, size)
            self._memory.store_cells(state, place.pointer, place.offset, size, pieces)


def _forget_from(state: State, pointer: Value, offset: int) -> None:
    """What is in the frame from there on can be anything, too."""
    for atom in pointer:
        if isinstance(atom, StackAddress):
            state.frame.forget_from(atom.offset + offset)


def _transferred(instruction: Arm64Instruction) -> List[Register]:
    """The registers that are loaded or stored."""
    registers = (instruction.register(index) for index in range(len(instruction.operands)))
    return [register for register in registers if register is not None]


def _write_back(state: State, instruction: Arm64Instruction) -> None:
    """Move the base register: by the displacement, or after the transfer by the immediate behind it."""
    operand = instruction.memory_operand
    if operand is None or not instruction.writes_back:
        return
    behind = instruction.operands[-1].number
    if isinstance(operand.base, GeneralRegister):
        distance = operand.displacement if behind is None else behind
        write_general(state, operand.base, displace(read_general(state, operand.base), distance, 8))


def _table_at(place: _Place, entry_bytes: int) -> Optional[Table]:
    addresses = numbers(place.pointer)
    return Table(next(iter(addresses)), entry_bytes, 0) if addresses and len(addresses) == 1 else None
