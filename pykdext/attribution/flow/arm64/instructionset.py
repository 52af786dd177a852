"""ARM64's instructions for the flow engine: control flow and calls here, data and memory in the modules beside.

Meanings are those of the Arm Architecture Reference Manual, registers and calls those of Microsoft's ARM64 conventions.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Callable, Dict, Iterator, Tuple

from pykdext.attribution.flow.arm64.data import RESULTS, SUMS, Operation, has_number_of
from pykdext.attribution.flow.arm64.decoder import INSTRUCTION_BYTES, Arm64Decoder, Arm64Instruction, read_operand
from pykdext.attribution.flow.arm64.memory import Arm64Memory
from pykdext.attribution.flow.arm64.registers import (
    Q_BYTES,
    GeneralRegister,
    forget_register,
    read_general,
    write_general,
)
from pykdext.attribution.flow.arm64.vectors import move_vector
from pykdext.attribution.flow.cells import Cells
from pykdext.attribution.flow.decisions import CONDITIONS, Comparison, Condition, decide
from pykdext.attribution.flow.state import (
    BRINGS_CONSTANT,
    DECIDED,
    NOTHING_TO_TELL,
    STRAIGHT_ON,
    VECTOR_BYTES,
    Call,
    Leads,
    State,
    Step,
    Switch,
)
from pykdext.attribution.flow.values import (
    UNKNOWN,
    Constant,
    FieldRead,
    ImageRead,
    Location,
    Parameter,
    StackAddress,
    Value,
    constant,
    numbers,
    without_entries,
)
from pykdext.images.image import Image
from pykdext.images.loadconfig import read_guard_check_slot

_ADDRESS_MASK = (1 << 64) - 1

_ARGUMENT_REGISTERS = tuple(f"x{number}" for number in range(8))

_TARGET_REGISTER = "x15"
"""Where the check of control-flow guard finds the function that is about to be called."""

_VOLATILE_REGISTERS = tuple(f"x{number}" for number in (*range(19), 30))
_CHECK_REGISTERS = tuple(f"x{number}" for number in (*range(9, 15), 16, 17, 30))
"""What the check of control-flow guard may change: it leaves arguments and the target as they are."""

_NONVOLATILE_VECTORS = range(8 * VECTOR_BYTES, 16 * VECTOR_BYTES, VECTOR_BYTES)
_NONVOLATILE_VECTOR_BYTES = 8

_CONDITIONAL_BRANCHES = frozenset({"cbz", "cbnz", "tbz", "tbnz"})
_REGISTER_CALLS = frozenset({"blr", "blraa", "blraaz", "blrab", "blrabz"})
_REGISTER_JUMPS = frozenset({"br", "braa", "braaz", "brab", "brabz"})
_ENDS = frozenset({"ret", "retaa", "retab", "eret", "hlt", "udf"})
_PADDING = frozenset({"nop", "udf", "brk"})
_WITHOUT_RESULT = frozenset({"cmp", "cmn", "tst", "ccmp", "ccmn", "fcmp", "fcmpe", "nop", "prfm", "prfum"})
"""Instructions that change nothing but flags."""

_INTEL_NAMES = {"eq": "e", "lo": "b", "hs": "ae", "ls": "be", "hi": "a", "lt": "l", "gt": "g"}
_CONDITIONS = {name: CONDITIONS[_INTEL_NAMES.get(name, name)] for name in (*_INTEL_NAMES, "ne", "le", "ge")}

_DEBUG_BREAK = 0xF000
"""The code of ``__debugbreak``; other codes do not come back (fast fail, division by zero)."""

_IMPORT_ADDRESS_DIRECTORY = 12


class Arm64InstructionSet:
    """ARM64, for the functions of ``image``."""

    decoded_bytes = 16 * INSTRUCTION_BYTES
    stack_pointer = "sp"
    result = "x0"

    def __init__(self, image: Image) -> None:
        self._image = image
        self._base = image.module.base
        self._decoder = Arm64Decoder()
        self._memory = Arm64Memory(image)
        self._import_slots = image.directory(_IMPORT_ADDRESS_DIRECTORY)
        self._handlers: Dict[str, Callable[[State, Arm64Instruction], Step]] = {
            **dict.fromkeys(_REGISTER_CALLS, self._call_register),
            **dict.fromkeys(_REGISTER_JUMPS, self._jump_register),
            **dict.fromkeys(_ENDS | _WITHOUT_RESULT | {"b", "brk"}, _do_nothing),
            **dict.fromkeys(("cmp", "tst"), self._compare),
            **dict.fromkeys(_CONDITIONAL_BRANCHES, _branch_on_register),
            **{f"b.{name}": partial(_branch_on_flags, condition) for name, condition in _CONDITIONS.items()},
            "bl": self._call,
            "adr": self._address,
            "adrp": self._address,
        }

    def entry_state(self) -> State:
        """Eight parameters in registers; further ones begin at the stack pointer."""
        registers: Dict[str, Value] = {name: frozenset({Parameter(Location(name))}) for name in _ARGUMENT_REGISTERS}
        state = State(registers, return_bytes=0)
        self.place_stack(state, 0)
        return state

    def place_stack(self, state: State, offset: int) -> None:
        """The stack pointer is there."""
        state.registers["sp"] = frozenset({StackAddress(offset)})

    def decode(self, code: bytes, rva: int) -> Iterator[Arm64Instruction]:
        """The instructions of ``code``, one after another, up to bytes that are no instruction."""
        return self._decoder.decode(code, rva)

    def leads(self, instruction: Arm64Instruction) -> Leads:
        """Where control flow goes from ``instruction``, whatever the state is."""
        mnemonic = instruction.mnemonic
        if mnemonic == "b":
            return Leads(False, _last_number(instruction))
        if mnemonic in _CONDITIONAL_BRANCHES or mnemonic.startswith("b."):
            return Leads(True, _last_number(instruction))
        if mnemonic in _ENDS or mnemonic in _REGISTER_JUMPS:
            return Leads(falls_through=False)
        if mnemonic == "brk":
            return Leads(falls_through=instruction.operands[0].number == _DEBUG_BREAK)
        return STRAIGHT_ON

    def is_padding(self, instruction: Arm64Instruction) -> bool:
        """Whether it stands between functions or before loops and does nothing."""
        return instruction.mnemonic in _PADDING

    def step(self, state: State, instruction: Arm64Instruction) -> Step:
        """Do the instruction to ``state`` and tell what is of interest. For a call: only what the caller does."""
        mnemonic = instruction.mnemonic
        handler = self._handlers.get(mnemonic)
        if handler is not None:
            return handler(state, instruction)
        if mnemonic in RESULTS and self._compute(state, instruction):
            target = instruction.register(0)
            value = read_general(state, target) if isinstance(target, GeneralRegister) else UNKNOWN
            return BRINGS_CONSTANT if has_number_of(value, instruction.rva) else NOTHING_TO_TELL
        understood = self._memory.transfer(state, instruction) or move_vector(state, instruction)
        if not understood and not mnemonic.startswith("b."):
            self._forget_results(state, instruction)
        return NOTHING_TO_TELL

    def return_from_call(self, state: State, instruction: Arm64Instruction) -> None:
        """What is known after the callee has returned: what it has to keep, and the frame where it cannot write."""
        for name in _ARGUMENT_REGISTERS:
            state.escape(state.read_register(name))
        probed = state.read_register(_TARGET_REGISTER)
        for name in _VOLATILE_REGISTERS:
            state.registers.pop(name, None)
        if numbers(probed) is not None:  # the stack probe gets a size there and keeps it; nobody else is expected to
            state.registers[_TARGET_REGISTER] = probed
        state.vectors = _keep_nonvolatile(state.vectors)
        if state.escaped is not None:
            state.frame.forget_from(state.escaped)

    def _compute(self, state: State, instruction: Arm64Instruction) -> bool:
        """A data-processing instruction on general registers; whether it is one."""
        target = instruction.register(0)
        if not isinstance(target, GeneralRegister):
            return False
        operands = instruction.operands[1:]
        for index, operand in enumerate(operands, 1):
            if operand.number is None and not isinstance(instruction.register(index), GeneralRegister):
                return False
        operation = Operation(
            size=target.size,
            before=read_general(state, target),
            sources=tuple([read_operand(state, operand, target.size, instruction.rva) for operand in operands]),
            immediates=tuple([operand.number for operand in operands if operand.number is not None]),
            shift=operands[-1].shift if operands else 0,
        )
        value = RESULTS[instruction.mnemonic](operation)
        if instruction.mnemonic in SUMS and target.size == self._image.machine.pointer_size:
            value = self._memory.add_index(value, operation.sources[0], operation.sources[-1])
        write_general(state, target, value)
        return True

    def _forget_results(self, state: State, instruction: Arm64Instruction) -> None:
        """An instruction that is not understood: what it writes is unknown.

        Capstone leaves out some of the registers that are written; the first operand is nearly always.
        """
        first = instruction.register(0)
        for register in (*instruction.written, first):
            if register is not None:
                forget_register(state, register)
        self._memory.forget_access(state, instruction)

    def _compare(self, state: State, instruction: Arm64Instruction) -> Step:
        target = instruction.register(0)
        if isinstance(target, GeneralRegister) and len(instruction.operands) > 1:
            left = read_general(state, target)
            right = read_operand(state, instruction.operands[1], target.size, instruction.rva)
            next_rva = instruction.rva + instruction.size
            state.compared = Comparison(next_rva, left, right, target.size, is_mask=instruction.mnemonic == "tst")
        return NOTHING_TO_TELL

    def _address(self, state: State, instruction: Arm64Instruction) -> Step:
        target = instruction.register(0)
        if isinstance(target, GeneralRegister):
            (address,) = _last_number(instruction)
            write_general(state, target, self._virtual_address(address))
        return NOTHING_TO_TELL

    def _call(self, state: State, instruction: Arm64Instruction) -> Step:
        (address,) = _last_number(instruction)
        return Step(call=Call(self._virtual_address(address), UNKNOWN))

    def _call_register(self, state: State, instruction: Arm64Instruction) -> Step:
        target = _read_target(state, instruction)
        dispatched = state.read_register(_TARGET_REGISTER)
        may_check = _is_read(dispatched) and self._may_be_guard_check(target)
        if target != dispatched and (may_check or target in self._guard_checks):
            for name in _CHECK_REGISTERS:
                state.registers.pop(name, None)
            return NOTHING_TO_TELL
        return Step(call=Call(target, dispatched))

    @cached_property
    def _guard_checks(self) -> Tuple[Value, ...]:
        """What a load of the pointer to that check gives, which the image tells the loader: itself, or its number."""
        slot_rva = read_guard_check_slot(self._image)
        if slot_rva is None:
            return ()
        raw = self._image.read(slot_rva, 8)
        pointer: Value = frozenset({ImageRead(slot_rva, 8)})
        return (pointer, constant(int.from_bytes(raw, "little"))) if raw is not None else (pointer,)

    def _may_be_guard_check(self, target: Value) -> bool:
        """Whether it is a pointer of the image that the loader fills in, but no import."""
        slots_rva, slots_bytes = self._import_slots
        return all(
            isinstance(atom, Constant)
            or (isinstance(atom, ImageRead) and not slots_rva <= atom.rva < slots_rva + slots_bytes)
            for atom in target
        )

    def _jump_register(self, state: State, instruction: Arm64Instruction) -> Step:
        target = _read_target(state, instruction)
        if target == UNKNOWN and state.table is not None:
            return Step(switch=Switch())
        call = Call(target, state.read_register(_TARGET_REGISTER), is_jump=True)
        return Step(call=call)

    def _virtual_address(self, rva: int) -> Value:
        return constant((self._base + rva) & _ADDRESS_MASK)


def _branch_on_flags(condition: Condition, state: State, instruction: Arm64Instruction) -> Step:
    return DECIDED[decide(state.compared, instruction.rva, condition)]


def _branch_on_register(state: State, instruction: Arm64Instruction) -> Step:
    """``cbz`` and ``cbnz`` compare a register with zero, ``tbz`` and ``tbnz`` one of its bits."""
    register = instruction.register(0)
    if not isinstance(register, GeneralRegister):
        return NOTHING_TO_TELL
    bit = instruction.operands[1].number if len(instruction.operands) > 2 else None
    mask = constant((1 << 8 * register.size) - 1 if bit is None else 1 << bit)
    comparison = Comparison(instruction.rva, read_general(state, register), mask, register.size, is_mask=True)
    condition = _CONDITIONS["ne" if "n" in instruction.mnemonic else "eq"]
    return DECIDED[decide(comparison, instruction.rva, condition)]


def _do_nothing(state: State, instruction: Arm64Instruction) -> Step:
    return NOTHING_TO_TELL


def _last_number(instruction: Arm64Instruction) -> Tuple[int, ...]:
    """The last operand, if it is a number: the target of a branch, an address."""
    number = instruction.operands[-1].number
    return () if number is None else (number,)


def _keep_nonvolatile(vectors: Cells) -> Cells:
    """What a callee leaves in the vector registers: the lower halves of eight of them."""
    kept = Cells()
    for offset in _NONVOLATILE_VECTORS:
        pieces = vectors.cut(offset, _NONVOLATILE_VECTOR_BYTES)
        if pieces:
            kept.paste(offset, Q_BYTES, pieces)
    return kept


def _read_target(state: State, instruction: Arm64Instruction) -> Value:
    register = instruction.register(0)
    return without_entries(read_general(state, register)) if isinstance(register, GeneralRegister) else UNKNOWN


def _is_read(value: Value) -> bool:
    """Whether it comes from memory or the caller, as a pointer to a function does."""
    return all(isinstance(atom, (FieldRead, ImageRead, Parameter)) for atom in value)
