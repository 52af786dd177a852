"""What the integer instructions of x64 and x86 do to a state."""

from __future__ import annotations

import operator
from typing import Callable, Dict, Optional

from pykdext.attribution.flow.arithmetic import add, sign_extend, signed, subtract
from pykdext.attribution.flow.cells import MAX_CELL_BYTES
from pykdext.attribution.flow.decisions import Comparison
from pykdext.attribution.flow.intel.decoder import (
    GeneralRegister,
    IntelInstruction,
    MemoryOperand,
    Operand,
    OtherRegister,
)
from pykdext.attribution.flow.intel.operands import COMPARED, RESTING_STACK, Operands
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import (
    UNKNOWN,
    Location,
    Parameter,
    StackAddress,
    Value,
    combine,
    constant,
    join,
    map_constants,
    numbers,
)

Handler = Callable[[Operands, State, IntelInstruction], None]

MAX_BLOCK_BYTES = 1024
"""A repeated move or store of at most so much is followed byte by byte."""

CONDITIONS = ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"]
"""The sixteen conditions, as mnemonics of jumps, moves and sets end."""

NOTHING = frozenset(
    [
        "bt",
        "nop",
        "pause",
        "lfence",
        "mfence",
        "sfence",
        "cld",
        "std",
        "cli",
        "sti",
        "clac",
        "stac",
        "endbr64",
        "endbr32",
        "prefetchnta",
        "prefetcht0",
        "prefetcht1",
        "prefetcht2",
        "prefetchw",
        "comiss",
        "comisd",
        "ucomiss",
        "ucomisd",
        "ptest",
        "vzeroupper",
    ]
)
"""They change nothing that is followed."""


def _move(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    operands.write(state, instruction, 0, operands.read(state, instruction, 1))


def _move_sign_extended(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    target, source = instruction.operands
    value = operands.read(state, instruction, 1)
    operands.write(state, instruction, 0, sign_extend(value, source.size, target.size))


def _load_address(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    memory = instruction.operands[1]
    if isinstance(memory, MemoryOperand):
        operands.write(state, instruction, 0, operands.effective_address(state, instruction, memory))


def _exchange(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    left, right = operands.read(state, instruction, 0), operands.read(state, instruction, 1)
    operands.write(state, instruction, 0, right)
    operands.write(state, instruction, 1, left)


def _move_if(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    operands.write(
        state, instruction, 0, join(operands.read(state, instruction, 0), operands.read(state, instruction, 1))
    )


def _set_if(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    operands.write(state, instruction, 0, join(constant(0, instruction.rva), constant(1, instruction.rva)))


def _add(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    size = instruction.operands[0].size
    left, right = operands.read(state, instruction, 0), operands.read(state, instruction, 1)
    total = add(left, right, size)
    if size == operands.pointer_bytes:
        total = operands.memory.add_index(total, left, right)
    operands.write(state, instruction, 0, total)


def _subtract(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    size = instruction.operands[0].size
    if _same_register(instruction):
        value = constant(0, instruction.rva)
    else:
        value = subtract(operands.read(state, instruction, 0), operands.read(state, instruction, 1), size)
    operands.write(state, instruction, 0, value)


def _add_with_carry(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    size = instruction.operands[0].size
    total = add(operands.read(state, instruction, 0), operands.read(state, instruction, 1), size)
    operands.write(state, instruction, 0, join(total, add(total, constant(1), size)))


def _subtract_with_borrow(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    size = instruction.operands[0].size
    if _same_register(instruction):
        difference = constant(0, instruction.rva)
    else:
        difference = subtract(operands.read(state, instruction, 0), operands.read(state, instruction, 1), size)
    operands.write(state, instruction, 0, join(difference, subtract(difference, constant(1), size)))


def _and(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    size = instruction.operands[0].size
    left, right = operands.read(state, instruction, 0), operands.read(state, instruction, 1)
    masks = numbers(right)
    if masks == frozenset({0}):
        value = right
    elif masks is not None and len(masks) == 1 and all(isinstance(atom, StackAddress) for atom in left):
        (mask,) = masks  # the stack pointer is aligned: where to is a convention, as long as it is below
        value = frozenset(
            StackAddress(atom.offset & signed(mask, size)) for atom in left if isinstance(atom, StackAddress)
        )
    else:
        value = combine(left, right, operator.and_, 8 * size)
    operands.write(state, instruction, 0, value)


def _or(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    size = instruction.operands[0].size
    left, right = operands.read(state, instruction, 0), operands.read(state, instruction, 1)
    all_ones = numbers(right) == frozenset({(1 << 8 * size) - 1})
    operands.write(state, instruction, 0, right if all_ones else combine(left, right, operator.or_, 8 * size))


def _exclusive_or(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    if _same_register(instruction):
        operands.write(state, instruction, 0, constant(0, instruction.rva))
    else:
        _BINARY["xor"](operands, state, instruction)


def _binary(operation: Callable[[int, int, int], int]) -> Handler:
    """``operation`` gets the two numbers and the operand's bits."""

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        bits = 8 * instruction.operands[0].size
        right = operands.read(state, instruction, 1) if len(instruction.operands) > 1 else constant(1)
        left = operands.read(state, instruction, 0)
        operands.write(state, instruction, 0, combine(left, right, lambda a, b: operation(a, b, bits), bits))

    return handle


def _unary(operation: Callable[[int, int], int]) -> Handler:
    """``operation`` gets the number and the operand's bytes."""

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        size = instruction.operands[0].size
        value = operands.read(state, instruction, 0)
        changed = map_constants(value, lambda number: operation(number, size), 8 * size)
        operands.write(state, instruction, 0, changed)

    return handle


def _step_by(step: int) -> Handler:
    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        value = operands.read(state, instruction, 0)
        operands.write(state, instruction, 0, add(value, constant(step), instruction.operands[0].size))

    return handle


def _multiply(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    if len(instruction.operands) == 1:
        operands.set_register(state, operands.accumulator, UNKNOWN)
        operands.set_register(state, operands.data, UNKNOWN)
        return
    bits = 8 * instruction.operands[0].size
    factors = [operands.read(state, instruction, index) for index in range(len(instruction.operands))][-2:]
    operands.write(state, instruction, 0, combine(factors[0], factors[1], operator.mul, bits))


def _compare(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    left, right = operands.read(state, instruction, 0), operands.read(state, instruction, 1)
    state.registers[COMPARED] = right
    next_rva = instruction.rva + instruction.size
    state.compared = Comparison(next_rva, left, right, instruction.operands[0].size)


def _test(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """Of registers only: a test of memory is one of a flag that others change."""
    if isinstance(instruction.operands[0], GeneralRegister):
        left, right = operands.read(state, instruction, 0), operands.read(state, instruction, 1)
        next_rva = instruction.rva + instruction.size
        state.compared = Comparison(next_rva, left, right, instruction.operands[0].size, is_mask=True)


def _compare_and_exchange(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    old, new = operands.read(state, instruction, 0), operands.read(state, instruction, 1)
    operands.write(state, instruction, 0, join(old, new))
    accumulator = GeneralRegister(operands.accumulator, instruction.operands[0].size)
    operands.write_register(state, accumulator, join(operands.read_register(state, accumulator), old))


def _extend_accumulator(from_size: int) -> Handler:
    """Sign-extend within rax: cbw, cwde, cdqe."""

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        value = operands.read_register(state, GeneralRegister(operands.accumulator, from_size))
        target = GeneralRegister(operands.accumulator, 2 * from_size)
        operands.write_register(state, target, sign_extend(value, from_size, target.size))

    return handle


def _extend_into_data(size: int) -> Handler:
    """Fill rdx with the sign of rax: cdq, cqo."""

    def handle(operands: Operands, state: State, instruction: IntelInstruction) -> None:
        value = operands.read_register(state, GeneralRegister(operands.accumulator, size))
        known = numbers(value)
        signs = {-1 if signed(number, size) < 0 else 0 for number in known} if known is not None else {0, -1}
        mask = (1 << 8 * size) - 1
        sign_value = join(*(constant(sign & mask, instruction.rva) for sign in signs))
        operands.write_register(state, GeneralRegister(operands.data, size), sign_value)

    return handle


def _push(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    pushed = instruction.operands[0]
    value = operands.read(state, instruction, 0)
    operands.find_stack(state, instruction.rva)
    operands.push(state, _stacked_bytes(operands, pushed), value)
    if isinstance(pushed, GeneralRegister) and value == {Parameter(Location(pushed.name))}:
        # what the caller had in it: the register is saved, this is no argument
        state.registers[RESTING_STACK] = state.read_register(operands.stack_pointer)


def _push_flags(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    operands.push(state, operands.pointer_bytes, UNKNOWN)


def _pop(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    operands.write(state, instruction, 0, operands.pop(state, _stacked_bytes(operands, instruction.operands[0])))


def _stacked_bytes(operands: Operands, operand: Operand) -> int:
    """What an operand takes on the stack: a segment register as much as a pointer, whatever its size."""
    is_short = operand.size == 2 and not isinstance(operand, OtherRegister)
    return 2 if is_short else operands.pointer_bytes


def _pop_flags(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    operands.pop(state, operands.pointer_bytes)


def _leave(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    operands.set_register(state, operands.stack_pointer, state.read_register(operands.frame_pointer))
    operands.set_register(state, operands.frame_pointer, operands.pop(state, operands.pointer_bytes))


def _copy_block(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """``movs``: with a known count what is known of the source comes with it."""
    length = _block_bytes(operands, state, instruction)
    target, source = state.read_register(operands.destination), state.read_register(operands.source)
    if length is None:
        _forget_block(state, target)
    else:
        for start in range(0, length, MAX_CELL_BYTES):
            size = min(MAX_CELL_BYTES, length - start)
            pieces = operands.memory.load_cells(state, source, start, size)
            operands.memory.store_cells(state, target, start, size, pieces)
    _end_block(operands, state, length, operands.destination, operands.source)


def _fill_block(operands: Operands, state: State, instruction: IntelInstruction) -> None:
    """``stos``."""
    length = _block_bytes(operands, state, instruction)
    target = state.read_register(operands.destination)
    if length is None:
        _forget_block(state, target)
    else:
        unit = instruction.operands[0].size
        value = operands.read_register(state, GeneralRegister(operands.accumulator, unit))
        for start in range(0, length, unit):
            operands.memory.store(state, target, start, unit, value)
    _end_block(operands, state, length, operands.destination)


def _block_bytes(operands: Operands, state: State, instruction: IntelInstruction) -> Optional[int]:
    """How much a string instruction moves upwards, if that is known and not too much."""
    unit = instruction.operands[0].size
    if not instruction.repeated:
        return unit
    counts = numbers(state.read_register(operands.counter))
    if counts is None or len(counts) != 1:
        return None
    (count,) = counts
    return count * unit if count * unit <= MAX_BLOCK_BYTES else None


def _forget_block(state: State, target: Value) -> None:
    for atom in target:
        if isinstance(atom, StackAddress):
            state.frame.forget_from(atom.offset)


def _end_block(operands: Operands, state: State, length: Optional[int], *pointers: str) -> None:
    for name in pointers:
        moved = UNKNOWN if length is None else add(state.read_register(name), constant(length), operands.pointer_bytes)
        operands.set_register(state, name, moved)


def _same_register(instruction: IntelInstruction) -> bool:
    return instruction.operands[0] == instruction.operands[1] and isinstance(instruction.operands[0], GeneralRegister)


def _shift_right_signed(number: int, count: int, bits: int) -> int:
    return signed(number, bits // 8) >> _shift(count, bits)


def _rotate_left(number: int, count: int, bits: int) -> int:
    count %= bits
    return number << count | number >> (bits - count)


def _shift(count: int, bits: int) -> int:
    """The processor counts shifts modulo 64 for operands of 64 bits, else modulo 32."""
    return count & (63 if bits == 64 else 31)


_BINARY: Dict[str, Handler] = {
    "xor": _binary(lambda a, b, bits: a ^ b),
    "shl": _binary(lambda a, b, bits: a << _shift(b, bits)),
    "sal": _binary(lambda a, b, bits: a << _shift(b, bits)),
    "shr": _binary(lambda a, b, bits: a >> _shift(b, bits)),
    "sar": _binary(_shift_right_signed),
    "rol": _binary(_rotate_left),
    "ror": _binary(lambda a, b, bits: _rotate_left(a, bits - b % bits, bits)),
    "bts": _binary(lambda a, b, bits: a | 1 << b % bits),
    "btr": _binary(lambda a, b, bits: a & ~(1 << b % bits)),
}

SCALAR_HANDLERS: Dict[str, Handler] = {
    **_BINARY,
    **dict.fromkeys(("mov", "movabs", "movzx", "movnti"), _move),
    **dict.fromkeys(("movsx", "movsxd"), _move_sign_extended),
    **{f"cmov{condition}": _move_if for condition in CONDITIONS},
    **{f"set{condition}": _set_if for condition in CONDITIONS},
    "lea": _load_address,
    "xchg": _exchange,
    "add": _add,
    "sub": _subtract,
    "adc": _add_with_carry,
    "sbb": _subtract_with_borrow,
    "and": _and,
    "or": _or,
    "xor": _exclusive_or,
    "neg": _unary(lambda number, size: -number),
    "not": _unary(lambda number, size: ~number),
    "bswap": _unary(lambda number, size: int.from_bytes(number.to_bytes(size, "little"), "big")),
    "inc": _step_by(1),
    "dec": _step_by(-1),
    "imul": _multiply,
    "mul": _multiply,
    "cmp": _compare,
    "test": _test,
    "cmpxchg": _compare_and_exchange,
    "cbw": _extend_accumulator(1),
    "cwde": _extend_accumulator(2),
    "cdqe": _extend_accumulator(4),
    "cdq": _extend_into_data(4),
    "cqo": _extend_into_data(8),
    "push": _push,
    "pop": _pop,
    **dict.fromkeys(("pushf", "pushfd", "pushfq"), _push_flags),
    **dict.fromkeys(("popf", "popfd", "popfq"), _pop_flags),
    "leave": _leave,
    **{f"movs{unit}": _copy_block for unit in "bwdq"},
    **{f"stos{unit}": _fill_block for unit in "bwdq"},
}
"""By mnemonic. ``movsd`` is also a vector instruction: only the form with two memory operands is meant here."""
