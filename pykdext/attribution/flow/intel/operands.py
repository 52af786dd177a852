"""Read and write the operands of Intel instructions, in terms of values."""

from __future__ import annotations

import functools
from typing import List, NamedTuple

from pykdext.attribution.flow.arithmetic import add, displace, signed
from pykdext.attribution.flow.cells import Cell, part
from pykdext.attribution.flow.intel.decoder import (
    GeneralRegister,
    Immediate,
    IntelInstruction,
    MemoryOperand,
    Operand,
    VectorRegister,
)
from pykdext.attribution.flow.memory import Memory
from pykdext.attribution.flow.state import VECTOR_BYTES, State, Table
from pykdext.attribution.flow.values import (
    UNKNOWN,
    Parameter,
    StackAddress,
    Value,
    combine,
    constant,
    join,
    map_constants,
    numbers,
)
from pykdext.images.image import Image

RESTING_STACK = "stack pointer without arguments"
"""Kept like a register: where the stack pointer was before the pushes that are still waiting for their call."""

FRAME_BITS = 32
"""Frame offsets of two such bases are so far apart."""

COMPARED, INDEX_LIMIT = "number compared with", "entries of a table"
"""Kept like registers: the number of the last comparison; one more than the largest index that it let pass."""


class Address(NamedTuple):
    """Where a memory operand is."""

    pointer: Value
    offset: int


class Operands:
    """Access to operands by their place in the instruction: 0 is the destination.

    Attributes:
        pointer_bytes: 8 or 4. stack_pointer, accumulator, counter, data, source, destination: names of registers.
    """

    def __init__(self, image: Image) -> None:
        self.pointer_bytes = image.machine.pointer_size
        letter = "r" if self.pointer_bytes == 8 else "e"
        self.accumulator, self.counter, self.data = f"{letter}ax", f"{letter}cx", f"{letter}dx"
        self.source, self.destination = f"{letter}si", f"{letter}di"
        self.stack_pointer, self.frame_pointer = f"{letter}sp", f"{letter}bp"
        self.memory = Memory(image)

    def read(self, state: State, instruction: IntelInstruction, index: int) -> Value:
        """The operand's value; of a vector register the low 16 bytes at most."""
        operand = instruction.operands[index]
        if isinstance(operand, GeneralRegister):
            return self.read_register(state, operand)
        if isinstance(operand, Immediate):
            return constant(operand.number, instruction.rva)
        if isinstance(operand, MemoryOperand):
            pointer, offset = self.address(state, instruction, operand)
            array = UNKNOWN if operand.base is None else state.read_register(operand.base)
            if operand.scaled is not None and pointer >= UNKNOWN and not array >= UNKNOWN:
                return self.memory.load_element(state, array, offset, operand.scale, operand.size)
            if self.pointer_bytes == 4 and operand.base is not None and pointer >= UNKNOWN:
                self.memory.note_variable(state, operand.displacement & 0xFFFFFFFF)  # of an array, by an offset
            return self.memory.load(state, pointer, offset, operand.size)
        return UNKNOWN

    def write(self, state: State, instruction: IntelInstruction, index: int, value: Value) -> None:
        """Put ``value`` into the operand."""
        operand = instruction.operands[index]
        if isinstance(operand, MemoryOperand):
            pointer, offset = self.address(state, instruction, operand)
            self.memory.store(state, pointer, offset, operand.size, value)
        else:
            self.write_register(state, operand, value)

    def read_register(self, state: State, register: GeneralRegister) -> Value:
        """A register or the part of one. A low byte is known even where the rest of its register is not."""
        value = state.read_register(register.name)
        if register.size == self.pointer_bytes:
            return value
        if register.size >= 4:
            return part(value, 0, register.size)
        if register.size == 1 and not register.high:
            low = state.registers.get(_low_byte(register.name))
            if low is not None:
                return low
        return part(value, 1 if register.high else 0, register.size)

    def write_register(self, state: State, register: Operand, value: Value) -> None:
        """Change a register; four bytes clear the upper half of eight, fewer leave the rest as it was."""
        if isinstance(register, VectorRegister):
            state.vectors.paste(register.number * VECTOR_BYTES, max(register.size, 32), [])
        elif isinstance(register, GeneralRegister):
            if register.size >= 4:
                whole = value if register.size == self.pointer_bytes else part(value, 0, register.size)
                self.set_register(state, register.name, whole)
                return
            shift = 8 if register.high else 0
            kept = ~(((1 << 8 * register.size) - 1) << shift)
            whole = combine(
                state.read_register(register.name),
                map_constants(value, lambda number: number << shift, 64),
                lambda old, new: old & kept | new,
                8 * self.pointer_bytes,
            )
            if register.size == 2 and whole == UNKNOWN:  # a caller need not care for what is above a short argument
                shorts = (atom for atom in value if isinstance(atom, Parameter))
                whole = join(UNKNOWN, map_constants(value, lambda number: number, 16), frozenset(shorts))
            self.set_register(state, register.name, whole)
            if register.size == 1 and not register.high:
                state.registers[_low_byte(register.name)] = value

    def set_register(self, state: State, name: str, value: Value) -> None:
        """Change a full register. Moving the stack pointer so leaves no arguments waiting."""
        state.registers[name] = value
        state.registers.pop(_low_byte(name), None)
        if name == self.stack_pointer:
            state.registers[RESTING_STACK] = value

    def address(self, state: State, instruction: IntelInstruction, operand: MemoryOperand) -> Address:
        """Where the operand is. An array of the image with an unknown index is noted as a possible jump table."""
        if operand.foreign:
            return Address(UNKNOWN, 0)
        if operand.scaled is None:
            if operand.base is None:
                return Address(constant(operand.displacement, instruction.rva), 0)
            if operand.base == self.stack_pointer:
                self.find_stack(state, instruction.rva)
            return Address(state.read_register(operand.base), signed(operand.displacement, self.pointer_bytes))
        scale = operand.scale
        scaled = map_constants(
            state.read_register(operand.scaled), lambda number: number * scale, 8 * self.pointer_bytes
        )
        base = constant(0) if operand.base is None else state.read_register(operand.base)
        if scaled >= UNKNOWN:
            self._note_table(state, base, operand)
        pointer = self.memory.add_index(add(base, scaled, self.pointer_bytes), base, scaled)
        return Address(pointer, signed(operand.displacement, self.pointer_bytes))

    def effective_address(self, state: State, instruction: IntelInstruction, operand: MemoryOperand) -> Value:
        """The address as a number, as ``lea`` has it."""
        pointer, offset = self.address(state, instruction, operand)
        return add(pointer, constant(offset, instruction.rva), self.pointer_bytes) if offset else pointer

    def read_pieces(
        self, state: State, instruction: IntelInstruction, index: int, skipped: int, size: int
    ) -> List[Cell]:
        """The pieces of ``size`` bytes of a vector register or memory operand, from its byte ``skipped`` on."""
        operand = instruction.operands[index]
        if isinstance(operand, VectorRegister):
            return state.vectors.cut(operand.number * VECTOR_BYTES + skipped, size)
        if isinstance(operand, MemoryOperand):
            pointer, offset = self.address(state, instruction, operand)
            return self.memory.load_cells(state, pointer, offset + skipped, size)
        return [Cell(0, size, part(self.read(state, instruction, index), skipped, size))]

    def write_pieces(self, state: State, instruction: IntelInstruction, size: int, pieces: List[Cell]) -> None:
        """Put ``size`` bytes of pieces into the destination; a vector register holds nothing else afterwards."""
        operand = instruction.operands[0]
        if isinstance(operand, VectorRegister):
            state.vectors.paste(operand.number * VECTOR_BYTES, max(operand.size, 32), pieces)
        elif isinstance(operand, MemoryOperand):
            pointer, offset = self.address(state, instruction, operand)
            self.memory.store_cells(state, pointer, offset, size, pieces)

    def find_stack(self, state: State, rva: int) -> None:
        """Where nobody knows where the stack is when x86 code at ``rva`` uses it, it gets a base of its own there.

        So it is in an exception handler, which restores the stack pointer from memory, and behind ``alloca``.
        """
        if self.pointer_bytes == 8 or state.stack_offset(self.stack_pointer) is not None:
            return
        if not any(isinstance(atom, StackAddress) for atom in state.read_register(self.stack_pointer)):
            base = frozenset({StackAddress(-(rva + 1 << FRAME_BITS))})
            state.registers[self.stack_pointer] = state.registers[RESTING_STACK] = base

    def push(self, state: State, size: int, value: Value) -> None:
        """Move the stack pointer down and store. ``RESTING_STACK`` stays."""
        pointer = displace(state.read_register(self.stack_pointer), -size, self.pointer_bytes)
        state.registers[self.stack_pointer] = pointer
        self.memory.store(state, pointer, 0, size, value)

    def pop(self, state: State, size: int) -> Value:
        """Load and move the stack pointer up."""
        pointer = state.read_register(self.stack_pointer)
        value = self.memory.load(state, pointer, 0, size)
        state.registers[self.stack_pointer] = displace(pointer, size, self.pointer_bytes)
        top, rest = state.stack_offset(self.stack_pointer), state.stack_offset(RESTING_STACK)
        if top is not None and (rest is None or top > rest):
            state.registers[RESTING_STACK] = frozenset({StackAddress(top)})
        return value

    def _note_table(self, state: State, base: Value, operand: MemoryOperand) -> None:
        known = numbers(base)
        if operand.scale >= 4 and known is not None and len(known) == 1:
            (number,) = known
            address = number + signed(operand.displacement, self.pointer_bytes)
            self.memory.note_variable(state, address & ((1 << 8 * self.pointer_bytes) - 1))
            absolute = operand.scale == self.pointer_bytes
            limits = numbers(state.read_register(INDEX_LIMIT))
            state.table = Table(
                address & ((1 << 8 * self.pointer_bytes) - 1),
                operand.scale,
                0 if absolute else number,
                max(limits) if limits else None,
            )


@functools.cache
def _low_byte(name: str) -> str:
    return f"low byte of {name}"
