"""What ARM64's data-processing instructions compute, on values instead of numbers.

Meanings are those of the Arm Architecture Reference Manual. Conditions are not evaluated: both choices are possible.
"""

from __future__ import annotations

from typing import Callable, Dict, NamedTuple, Tuple

from pykdext.attribution.flow.arithmetic import add, sign_extend, signed, subtract
from pykdext.attribution.flow.cells import part
from pykdext.attribution.flow.values import Constant, StackAddress, Value, combine, constant, join, map_constants

_MAX_ALIGNMENT = 0x1000


class Operation(NamedTuple):
    """The inputs of an instruction that computes one register.

    Attributes:
        size: bytes of the result. before: what the destination holds, for instructions that change a part of it.
        sources: of the operands, shifted and extended as the instruction says, immediates included.
        immediates: of the operands, as numbers. shift: of the last operand, in bits.
    """

    size: int
    before: Value
    sources: Tuple[Value, ...]
    immediates: Tuple[int, ...]
    shift: int


Result = Callable[[Operation], Value]


def shift_value(value: Value, kind: str, amount: int, size: int) -> Value:
    """``value`` of ``size`` bytes shifted by a constant amount: ``lsl``, ``lsr``, ``asr`` or ``ror``."""
    if amount == 0:
        return value
    bits = 8 * size
    return map_constants(value, lambda number: _SHIFTS[kind](number, amount % bits, bits), bits)


_SHIFTS: Dict[str, Callable[[int, int, int], int]] = {
    "lsl": lambda number, amount, bits: number << amount,
    "lsr": lambda number, amount, bits: number >> amount,
    "asr": lambda number, amount, bits: signed(number, bits // 8) >> amount,
    "ror": lambda number, amount, bits: number >> amount | number << (bits - amount),
}


def _shift(kind: str) -> Result:
    def result(operation: Operation) -> Value:
        bits = 8 * operation.size
        value, amounts = operation.sources
        return combine(value, amounts, lambda number, amount: _SHIFTS[kind](number, amount % bits, bits), bits)

    return result


def _sum(compute: Callable[[Value, Value, int], Value]) -> Result:
    return lambda operation: compute(operation.sources[0], operation.sources[1], operation.size)


def _bitwise(compute: Callable[[int, int], int]) -> Result:
    def result(operation: Operation) -> Value:
        return combine(operation.sources[0], operation.sources[1], compute, 8 * operation.size)

    return result


def _and(operation: Operation) -> Value:
    """Also the alignment of a stack pointer: the frame below it is as good as where it was."""
    left, right = operation.sources
    both = combine(left, right, lambda a, b: a & b, 8 * operation.size)
    kept = {atom for atom in left if isinstance(atom, StackAddress)}
    if kept and len(kept) == len(left) and all(_is_alignment(mask, operation.size) for mask in right):
        return frozenset(kept)
    return both


def _is_alignment(mask: object, size: int) -> bool:
    return isinstance(mask, Constant) and -_MAX_ALIGNMENT <= signed(mask.number, size) < 0


def _complement(value: Value, size: int) -> Value:
    return map_constants(value, lambda number: ~number, 8 * size)


def _negate(value: Value, size: int) -> Value:
    return map_constants(value, lambda number: -number, 8 * size)


def _move_keep(operation: Operation) -> Value:
    """``movk``: one quarter of the register is replaced."""
    mask = 0xFFFF << operation.shift
    kept = map_constants(operation.before, lambda number: number & ~mask, 8 * operation.size)
    return combine(kept, operation.sources[0], lambda old, new: old | new, 8 * operation.size)


def _conditional(change: Callable[[Value, int], Value], operands: int) -> Result:
    """A selection whose second choice is changed: ``csinc`` and its short forms, which have one operand."""

    def result(operation: Operation) -> Value:
        second = change(operation.sources[operands - 1], operation.size)
        return join(operation.sources[0], second)

    return result


def _conditional_set(number: int) -> Result:
    return lambda operation: join(constant(0), constant(number & ((1 << 8 * operation.size) - 1)))


def _increment(value: Value, size: int) -> Value:
    return add(value, constant(1), size)


def _extract(extend_sign: bool) -> Result:
    """``ubfx``, ``sbfx``: ``width`` bits from bit ``lowest`` on."""

    def result(operation: Operation) -> Value:
        lowest, width = operation.immediates
        return map_constants(
            operation.sources[0], lambda number: _field(number >> lowest, width, extend_sign), 8 * operation.size
        )

    return result


def _insert_in_zero(extend_sign: bool) -> Result:
    """``ubfiz``, ``sbfiz``: the low ``width`` bits, moved up to ``lowest``."""

    def result(operation: Operation) -> Value:
        lowest, width = operation.immediates
        return map_constants(
            operation.sources[0], lambda number: _field(number, width, extend_sign) << lowest, 8 * operation.size
        )

    return result


def _field(number: int, width: int, extend_sign: bool) -> int:
    number &= (1 << width) - 1
    return number - (1 << width) if extend_sign and number >> (width - 1) else number


def _replace(from_lowest: bool) -> Result:
    """``bfi`` puts the low bits of the source at ``lowest``; ``bfxil`` (``from_lowest``) takes them from there."""

    def result(operation: Operation) -> Value:
        lowest, width = operation.immediates
        mask = (1 << width) - 1

        def compute(old: int, new: int) -> int:
            if from_lowest:
                return old & ~mask | new >> lowest & mask
            return old & ~(mask << lowest) | (new & mask) << lowest

        return combine(operation.before, operation.sources[0], compute, 8 * operation.size)

    return result


def _multiply(sign: int) -> Result:
    """``mul`` and ``madd`` (``sign`` 1), ``mneg`` and ``msub``."""

    def result(operation: Operation) -> Value:
        left, right, *addend = operation.sources
        product = combine(left, right, lambda a, b: sign * a * b, 8 * operation.size)
        return add(product, addend[0], operation.size) if addend else product

    return result


def _multiply_long(sign: int, *, is_signed: bool) -> Result:
    """``umull`` and ``umaddl`` (``sign`` 1), ``umnegl`` and ``umsubl``: of four bytes eight; and their signed kin."""

    def result(operation: Operation) -> Value:
        left, right, *addend = operation.sources
        factors = [part(value, 0, 4) for value in (left, right)]
        if is_signed:
            factors = [sign_extend(value, 4, 8) for value in factors]
        product = combine(factors[0], factors[1], lambda a, b: sign * a * b, 64)
        return add(product, addend[0], 8) if addend else product

    return result


def _zero_extend(from_size: int) -> Result:
    return lambda operation: part(operation.sources[0], 0, from_size)


def _sign_extend(from_size: int) -> Result:
    return lambda operation: sign_extend(part(operation.sources[0], 0, from_size), from_size, operation.size)


def _reverse_bytes(operation: Operation) -> Value:
    size = operation.size
    return map_constants(
        operation.sources[0], lambda number: int.from_bytes(number.to_bytes(size, "little"), "big"), 8 * size
    )


def _first(operation: Operation) -> Value:
    return operation.sources[0]


RESULTS: Dict[str, Result] = {
    "mov": _first,
    "movz": _first,
    "movn": lambda operation: _complement(operation.sources[0], operation.size),
    "movk": _move_keep,
    "mvn": lambda operation: _complement(operation.sources[0], operation.size),
    "add": _sum(add),
    "adds": _sum(add),
    "sub": _sum(subtract),
    "subs": _sum(subtract),
    "neg": lambda operation: _negate(operation.sources[0], operation.size),
    "negs": lambda operation: _negate(operation.sources[0], operation.size),
    "and": _and,
    "ands": _and,
    "bic": _bitwise(lambda a, b: a & ~b),
    "bics": _bitwise(lambda a, b: a & ~b),
    "orr": _bitwise(lambda a, b: a | b),
    "orn": _bitwise(lambda a, b: a | ~b),
    "eor": _bitwise(lambda a, b: a ^ b),
    "eon": _bitwise(lambda a, b: a ^ ~b),
    "lsl": _shift("lsl"),
    "lsr": _shift("lsr"),
    "asr": _shift("asr"),
    "ror": _shift("ror"),
    "mul": _multiply(1),
    "madd": _multiply(1),
    "mneg": _multiply(-1),
    "msub": _multiply(-1),
    "umull": _multiply_long(1, is_signed=False),
    "umaddl": _multiply_long(1, is_signed=False),
    "umnegl": _multiply_long(-1, is_signed=False),
    "umsubl": _multiply_long(-1, is_signed=False),
    "smull": _multiply_long(1, is_signed=True),
    "smaddl": _multiply_long(1, is_signed=True),
    "smnegl": _multiply_long(-1, is_signed=True),
    "smsubl": _multiply_long(-1, is_signed=True),
    "csel": lambda operation: join(*operation.sources),
    "csinc": _conditional(_increment, 2),
    "csinv": _conditional(_complement, 2),
    "csneg": _conditional(_negate, 2),
    "cinc": _conditional(_increment, 1),
    "cinv": _conditional(_complement, 1),
    "cneg": _conditional(_negate, 1),
    "cset": _conditional_set(1),
    "csetm": _conditional_set(-1),
    "ubfx": _extract(False),
    "sbfx": _extract(True),
    "ubfiz": _insert_in_zero(False),
    "sbfiz": _insert_in_zero(True),
    "bfi": _replace(from_lowest=False),
    "bfxil": _replace(from_lowest=True),
    "uxtb": _zero_extend(1),
    "uxth": _zero_extend(2),
    "uxtw": _zero_extend(4),
    "sxtb": _sign_extend(1),
    "sxth": _sign_extend(2),
    "sxtw": _sign_extend(4),
    "rev": _reverse_bytes,
}
"""By mnemonic: what the first operand, a general register, becomes."""

EXTENSIONS: Dict[str, Tuple[int, bool]] = {
    "uxtb": (1, False),
    "uxth": (2, False),
    "uxtw": (4, False),
    "uxtx": (8, False),
    "sxtb": (1, True),
    "sxth": (2, True),
    "sxtw": (4, True),
    "sxtx": (8, True),
}
"""Of an operand: the bytes that are taken of it, and whether their sign is extended."""


SUMS = frozenset(("add", "madd", "umaddl", "smaddl"))
"""What makes the address of an entry: of an array at the first or the last source."""


def extend_value(value: Value, extension: str, size: int) -> Value:
    """An operand extended to ``size`` bytes."""
    from_size, extend_sign = EXTENSIONS[extension]
    taken = part(value, 0, min(from_size, size))
    return sign_extend(taken, from_size, size) if extend_sign and from_size < size else taken


def has_number_of(value: Value, rva: int) -> bool:
    """Whether the instruction at ``rva`` brought in a number of ``value``."""
    return any(isinstance(atom, Constant) and atom.origin_rva == rva for atom in value)
