"""The instruction set of x64 and x86 for the flow engine: control flow, calls, and who does the rest."""

from __future__ import annotations

import struct
from typing import Dict, Iterator, Tuple

from pykdext.attribution.flow.arithmetic import displace
from pykdext.attribution.flow.calls import RemovedBytes
from pykdext.attribution.flow.decisions import CONDITIONS as DECIDING
from pykdext.attribution.flow.decisions import decide
from pykdext.attribution.flow.intel.calls import CallEffects
from pykdext.attribution.flow.intel.decoder import (
    DECODED_BYTES,
    Immediate,
    IntelDecoder,
    IntelInstruction,
    MemoryOperand,
)
from pykdext.attribution.flow.intel.operands import COMPARED, INDEX_LIMIT, RESTING_STACK, Operands
from pykdext.attribution.flow.intel.rare import RARE_HANDLERS
from pykdext.attribution.flow.intel.scalars import CONDITIONS, NOTHING, SCALAR_HANDLERS, Handler
from pykdext.attribution.flow.intel.vectors import VECTOR_HANDLERS
from pykdext.attribution.flow.state import (
    BRINGS_CONSTANT,
    DECIDED,
    NOTHING_TO_TELL,
    STRAIGHT_ON,
    Call,
    Instruction,
    Leads,
    State,
    Step,
    Switch,
    Table,
)
from pykdext.attribution.flow.values import (
    UNKNOWN,
    Atom,
    Constant,
    FieldRead,
    ImageRead,
    Location,
    Parameter,
    StackAddress,
    Value,
    join,
    without_entries,
)
from pykdext.images.image import Image

MAX_SWITCH_ENTRIES = 512

_KERNEL_ADDRESSES = 0xFFFF_8000_0000_0000
"""The upper half of the address space of x64."""

_REGISTERS_X64 = ["rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
_REGISTERS_X86 = ["eax", "ecx", "edx", "ebx", "ebp", "esi", "edi"]
_BY_GUARD: Tuple[str, ...] = ("rax",)
_BY_RETPOLINE: Tuple[str, ...] = ("rax", "r10", "r11")
"""Registers that hold the real target where a call goes to a stub: of control-flow guard, through a pointer that only
the loader writes, or of retpolines."""

_LOOPS = ("loop", "loope", "loopne")
"""Jumps that count down."""

_CONDITIONAL_JUMPS = frozenset([*(f"j{condition}" for condition in CONDITIONS), "jcxz", "jecxz", "jrcxz", *_LOOPS])
_LARGEST_PASSED = {"ja": 0, "jbe": 0, "jae": -1, "jb": -1}
"""Jumps that guard a jump table: the largest index that is let pass, as seen from the number compared with."""

_ENDS = frozenset(
    ["ret", "retf", "retfq", "iret", "iretd", "iretq", "sysret", "sysexit", "sysexitq", "ud2", "int3", "hlt"]
)
_FAST_FAIL = 0x29
"""The interrupt by which Windows stops a kernel that is corrupt: ``__fastfail``."""

_MAX_PUSHED_BYTES = 48
"""Of the arguments of one call on x86."""

_CONTROL_FLOW = _CONDITIONAL_JUMPS | _ENDS | {"jmp", "call", "int"}
_MODELLED = _CONTROL_FLOW | NOTHING | SCALAR_HANDLERS.keys() | VECTOR_HANDLERS.keys()


class IntelInstructionSet:
    """An ``InstructionSet`` for one x64 or x86 image."""

    decoded_bytes = DECODED_BYTES

    def __init__(self, image: Image, removed_bytes: RemovedBytes) -> None:
        self._image = image
        self._base = image.module.base
        self._operands = Operands(image)
        self._pointer_bytes = self._operands.pointer_bytes
        self._decoder = IntelDecoder(self._pointer_bytes, self._base, _MODELLED)
        self._effects = CallEffects(image, self._decoder, self._operands, removed_bytes)
        self.stack_pointer = self._operands.stack_pointer
        self.result = self._operands.accumulator

    def entry_state(self) -> State:
        """Every register holds what the caller had in it; conventions are the callers' matter."""
        names = _REGISTERS_X64 if self._pointer_bytes == 8 else _REGISTERS_X86
        registers: Dict[str, Value] = {name: frozenset({Parameter(Location(name))}) for name in names}
        state = State(registers, self._pointer_bytes)
        self.place_stack(state, 0)
        return state

    def place_stack(self, state: State, offset: int) -> None:
        """The stack pointer is there, with what was pushed since the last call."""
        top, rest = state.stack_offset(self.stack_pointer), state.stack_offset(RESTING_STACK)
        pushed_bytes = rest - top if top is not None and rest is not None and top != offset else 0
        if not 0 < pushed_bytes <= _MAX_PUSHED_BYTES:
            pushed_bytes = 0
        elif top is not None:
            state.frame.paste(offset, pushed_bytes, state.frame.cut(top, pushed_bytes))
        state.registers[self.stack_pointer] = frozenset({StackAddress(offset)})
        state.registers[RESTING_STACK] = frozenset({StackAddress(offset + pushed_bytes)})

    def decode(self, code: bytes, rva: int) -> Iterator[IntelInstruction]:
        """The instructions of ``code``, one after another, up to bytes that are no instruction."""
        return self._decoder.decode(code, rva)

    def leads(self, instruction: IntelInstruction) -> Leads:
        """Where control flow goes from ``instruction``, whatever the state is."""
        name = instruction.name
        if name not in _CONTROL_FLOW or name == "call":
            return STRAIGHT_ON
        if name in _ENDS:
            return Leads(falls_through=False)
        target = instruction.operands[0]
        number = target.number if isinstance(target, Immediate) else None
        if name == "int":
            return Leads(falls_through=number != _FAST_FAIL)
        return Leads(name != "jmp", (number - self._base,) if number is not None else ())

    def is_padding(self, instruction: Instruction) -> bool:
        """``int3``, ``nop``, and zeros."""
        return instruction.text.startswith(("int3", "nop", "add byte ptr [rax], al", "add byte ptr [eax], al"))

    def step(self, state: State, instruction: IntelInstruction) -> Step:
        """Do the instruction to ``state`` and tell what is of interest."""
        name = instruction.name
        handler = _HANDLERS.get(name)
        if handler:
            handler(self._operands, state, instruction)
        elif name in _CONTROL_FLOW:
            return self._branch(state, instruction)
        elif name in RARE_HANDLERS:
            RARE_HANDLERS[name](self._operands, state, instruction)
        elif name not in NOTHING:
            self._forget(state, instruction)
        return BRINGS_CONSTANT if instruction.has_number else NOTHING_TO_TELL

    def return_from_call(self, state: State, instruction: IntelInstruction) -> None:
        """What is known after the callee has returned."""
        self._effects.return_from_call(state, instruction)

    def _branch(self, state: State, instruction: IntelInstruction) -> Step:
        """What only the state tells of where control flow goes."""
        name = instruction.name
        if name == "call":
            if self._effects.check_guarded_call(state, instruction):
                return NOTHING_TO_TELL
            target = without_entries(self._operands.read(state, instruction, 0))
            return Step(call=Call(target, self._dispatched(state, target)))
        if name == "jmp" and not isinstance(instruction.operands[0], Immediate):
            return self._jump(state, instruction)
        if name in _LOOPS:
            self._operands.set_register(state, self._operands.counter, UNKNOWN)
        if name in _LARGEST_PASSED:
            state.registers[INDEX_LIMIT] = displace(
                state.read_register(COMPARED), _LARGEST_PASSED[name] + 1, self._pointer_bytes
            )
        return DECIDED[decide(state.compared, instruction.rva, DECIDING.get(name[1:]))]

    def _jump(self, state: State, instruction: IntelInstruction) -> Step:
        """An indirect jump: to another function, or through a jump table."""
        if isinstance(instruction.operands[0], MemoryOperand):
            state.table = None  # its own operand tells of a table, not what was read before
        value = without_entries(self._operands.read(state, instruction, 0))
        addresses = tuple(atom.number - self._base for atom in value if isinstance(atom, Constant))
        pointers = frozenset(atom for atom in value - UNKNOWN if not isinstance(atom, Constant))
        call = Call(pointers, self._dispatched(state, pointers), is_jump=True) if pointers else None
        switch = None
        if value >= UNKNOWN and state.table:
            switch = self._read_switch(state.table)
        elif value == UNKNOWN and state.stack_offset(self.stack_pointer) == 0:
            call = Call(UNKNOWN, UNKNOWN, is_jump=True)  # the frame is gone, as before a return
        elif value == UNKNOWN:
            switch = Switch()
        return Step(addresses, call, switch)

    def _read_switch(self, table: Table) -> Switch:
        """The entries of a jump table as far as they are in memory."""
        rva = table.address - self._base
        entries = min(table.entries or MAX_SWITCH_ENTRIES, MAX_SWITCH_ENTRIES)
        _, data = next(self._image.iter_range(rva, table.entry_bytes * entries), (rva, b""))
        layout = struct.Struct("<i" if table.entry_bytes == 4 else "<Q")
        mask = (1 << 8 * self._pointer_bytes) - 1
        targets = tuple(
            ((table.base + entry) & mask) - self._base
            for (entry,) in layout.iter_unpack(data[: len(data) - len(data) % table.entry_bytes])
        )
        return Switch(rva, table.entry_bytes, targets)

    def _dispatched(self, state: State, target: Value) -> Value:
        """The pointers to code that ``target`` may jump to, if it is a stub.

        A pointer that a driver can write is no stub but the function itself, known or not.
        """
        if self._pointer_bytes == 4:
            return UNKNOWN
        if any(isinstance(atom, Constant) for atom in target):
            names = _BY_RETPOLINE
        elif any(isinstance(atom, ImageRead) and not self._is_writable(atom.rva) for atom in target):
            names = _BY_GUARD
        else:
            return UNKNOWN
        values = [state.read_register(name) for name in names]
        pointers = frozenset(atom for value in values for atom in value if self._may_be_code(atom))
        return join(pointers) if pointers else UNKNOWN

    def _is_writable(self, rva: int) -> bool:
        """Whether a driver may change what stands there."""
        sections = self._image.sections
        return any(section.writable and section.rva <= rva < section.rva + section.size for section in sections)

    def _may_be_code(self, atom: Atom) -> bool:
        if isinstance(atom, Constant):
            return 0 <= atom.number - self._base < self._image.size or atom.number >= _KERNEL_ADDRESSES
        return isinstance(atom, (ImageRead, FieldRead)) and atom.size == self._pointer_bytes

    def _forget(self, state: State, instruction: IntelInstruction) -> None:
        """An instruction that is not modelled: what it writes is UNKNOWN."""
        if instruction.operands and isinstance(instruction.operands[0], MemoryOperand):
            self._operands.write(state, instruction, 0, UNKNOWN)
        for register in instruction.written:
            self._operands.write_register(state, register, UNKNOWN)


def _move_string_or_scalar(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """``movsd``: the mnemonic of a string instruction, whose operands are both in memory, and of a vector move."""
    is_string = all(isinstance(operand, MemoryOperand) for operand in instruction.operands)
    handlers = SCALAR_HANDLERS if is_string else VECTOR_HANDLERS
    handlers[instruction.name](operands, state, instruction)


_HANDLERS: Dict[str, Handler] = {**VECTOR_HANDLERS, **SCALAR_HANDLERS, "movsd": _move_string_or_scalar}
