"""Arithmetic on values that every instruction set needs: addresses of the stack move, numbers are extended."""

from __future__ import annotations

from typing import Optional

from pykdext.attribution.flow.values import (
    UNKNOWN,
    UNKNOWN_ATOM,
    Atom,
    Constant,
    Displaced,
    Entry,
    FieldRead,
    ImageRead,
    Parameter,
    Returned,
    StackAddress,
    Value,
    join,
)

MAX_DISTANCE_BYTES = 1 << 16
"""From a pointer to a member of what it points at; farther ones, and sums of such sums, are not told apart."""


def signed(number: int, size: int) -> int:
    """The ``size`` bytes ``number`` as two's complement."""
    bits = 8 * size
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def signed_field(field: int, bits: int) -> int:
    """The lowest ``bits`` of ``field`` as two's complement."""
    field &= (1 << bits) - 1
    return field - (1 << bits) if field >> (bits - 1) else field


def displace(value: Value, offset: int, size: int) -> Value:
    """``value`` plus the number ``offset``, of ``size`` bytes. What is neither number nor address becomes UNKNOWN."""
    if value is UNKNOWN:
        return value
    return frozenset([_displace_atom(atom, offset, size, None) for atom in value])


def add(left: Value, right: Value, size: int) -> Value:
    """The sum of two values."""
    if left is UNKNOWN or right is UNKNOWN:
        return UNKNOWN
    return join(frozenset([_add_atoms(a, b, size) for a in left for b in right]))


def subtract(left: Value, right: Value, size: int) -> Value:
    """The difference of two values."""
    if left is UNKNOWN or right is UNKNOWN:
        return UNKNOWN
    return join(frozenset([_subtract_atoms(a, b, size) for a in left for b in right]))


def sign_extend(value: Value, from_size: int, to_size: int) -> Value:
    """A shorter value in ``to_size`` bytes. What is no number counts as itself if it has four bytes at least."""
    return frozenset(_sign_extend_atom(atom, from_size, to_size) for atom in value)


def _add_atoms(left: Atom, right: Atom, size: int) -> Atom:
    if isinstance(right, Constant):
        return _displace_atom(left, right.number, size, right)
    if isinstance(left, Constant):
        return _displace_atom(right, left.number, size, left)
    return UNKNOWN_ATOM


def _subtract_atoms(left: Atom, right: Atom, size: int) -> Atom:
    if isinstance(right, Constant):
        return _displace_atom(left, -right.number, size, right)
    if isinstance(left, StackAddress) and isinstance(right, StackAddress):
        return Constant((left.offset - right.offset) & ((1 << 8 * size) - 1))
    return UNKNOWN_ATOM


def _displace_atom(atom: Atom, offset: int, size: int, operand: Optional[Constant]) -> Atom:
    """The sum; a number's origin is the later of the two instructions, where a reader sees how it came about."""
    if isinstance(atom, Constant):
        origins = [number.origin_rva for number in (atom, operand) if number and number.origin_rva is not None]
        return Constant((atom.number + offset) & ((1 << 8 * size) - 1), max(origins, default=None))
    if isinstance(atom, StackAddress):
        return StackAddress(atom.offset + signed(offset, size))
    if isinstance(atom, Entry):
        return Entry(atom.number + signed(offset, size))
    if offset == 0:
        return atom
    distance = signed(offset, size)
    is_pointer = isinstance(atom, (Parameter, Returned)) or (
        isinstance(atom, (ImageRead, FieldRead)) and atom.size == size
    )
    return Displaced(atom, distance) if is_pointer and abs(distance) < MAX_DISTANCE_BYTES else UNKNOWN_ATOM


def _sign_extend_atom(atom: Atom, from_size: int, to_size: int) -> Atom:
    if isinstance(atom, Constant):
        return Constant(signed(atom.number, from_size) & ((1 << 8 * to_size) - 1), atom.origin_rva)
    if from_size >= 4 and isinstance(atom, (Parameter, ImageRead, FieldRead)):
        return atom
    return UNKNOWN_ATOM
