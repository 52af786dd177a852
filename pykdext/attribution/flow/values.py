"""What a register or stack slot can hold at a place in a function: a small set of possibilities.

Only what helps to follow a pool tag is kept: constants, what the function was called with, what is read from the image,
and addresses of the function's own stack. Everything else is ``UNKNOWN``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, FrozenSet, NamedTuple, Optional, Set, Tuple, Union

from pykdext.images.image import Image

MAX_ATOMS, MAX_TAGS = 8, 32
"""Possibilities kept of one value, and those of one that may be tags; more of them are UNKNOWN.

What a loop counts or steps through ends soon this way, while a call may get one of many tags.
"""

MAX_DEREFERENCES = 3
"""Nested reads through unknown pointers that are told apart."""


class Location(NamedTuple):
    """Where a value is handed to a called function, whatever the calling convention.

    ``register`` names the full register (``rcx``, ``ecx`` on x86, ``x2``); with an empty name it is the stack slot
    ``stack_offset`` bytes above the stack pointer as it is right before the call instruction.
    """

    register: str = ""
    stack_offset: int = 0


@dataclass(frozen=True)
class Constant:
    """A number, unsigned, with the RVA of the instruction that brought it in (None: from data of the image).

    The origin tells a reader where to look; two constants of the same number are the same possibility.
    """

    number: int
    origin_rva: Optional[int] = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


@dataclass(frozen=True)
class Parameter:
    """What the function was called with: the content of ``location`` at the call."""

    location: Location


@dataclass(frozen=True)
class ImageRead:
    """The ``size`` bytes that the image has at ``rva``: a global variable, or a slot of the import table."""

    rva: int
    size: int


@dataclass(frozen=True)
class FieldRead:
    """The ``size`` bytes at ``offset`` from the address ``base``: a structure behind a pointer, or a function table."""

    base: Atom
    offset: int
    size: int

    @property
    def dereferences(self) -> int:
        """How many pointers were followed."""
        return 1 + (self.base.dereferences if isinstance(self.base, FieldRead) else 0)


@dataclass(frozen=True)
class StackAddress:
    """The address ``offset`` bytes above the stack pointer at the function's entry (below it: negative)."""

    offset: int


@dataclass(frozen=True)
class Displaced:
    """The address ``offset`` bytes behind, or before, the pointer ``base``: that of a member of what it points at."""

    base: Atom
    offset: int


@dataclass(frozen=True)
class Returned:
    """What the call at ``call_rva`` returned, of a function of which that is of interest."""

    call_rva: int


@dataclass(frozen=True)
class Entry:
    """An address of an entry of an array in the image, which nobody knows: ``number`` is that of the first entry.

    It stands beside ``UNKNOWN`` and says nothing of the value; a load through it tells that the array is read.
    """

    number: int


@dataclass(frozen=True)
class Result:
    """What the call at ``call_rva`` returned, of a function of the image."""

    call_rva: int


@dataclass(frozen=True)
class Unknown:
    """Anything."""


Atom = Union[Constant, Parameter, ImageRead, FieldRead, StackAddress, Displaced, Returned, Result, Entry, Unknown]
Value = FrozenSet[Atom]

_TAGS = (Parameter, ImageRead, FieldRead)
"""What may be a tag of which the number is not known."""

_TAG_BITS, _TAG_MASK = 32, 0x7FFFFFFF
_PROBES = (0x2AAAAAAA, 0x55555555)
"""Each bit of a tag once set, once not."""

UNKNOWN_ATOM = Unknown()
UNKNOWN: Value = frozenset({UNKNOWN_ATOM})


def constant(number: int, origin_rva: Optional[int] = None) -> Value:
    """The value that is only this number."""
    return frozenset({Constant(number, origin_rva)})


def split_address(atom: Atom) -> Tuple[Atom, int]:
    """The pointer from which an address is told, and the distance to it."""
    return (atom.base, atom.offset) if isinstance(atom, Displaced) else (atom, 0)


def member_at(base: Atom, offset: int, size: int) -> FieldRead:
    """What a load tells that reads at ``offset`` from ``base``; of a frame the place alone counts."""
    if isinstance(base, StackAddress):
        return FieldRead(StackAddress(base.offset + offset), 0, size)
    return FieldRead(base, offset, size)


def find_distance(base: Atom, address: Value) -> Optional[int]:
    """How far behind the pointer ``base`` the one address is that ``address`` can be; None if it is another's."""
    (atom, *others) = address
    if others:
        return None
    if isinstance(atom, StackAddress) and isinstance(base, StackAddress):
        return atom.offset - base.offset
    pointer, distance = split_address(atom)
    return distance if pointer == base and base != UNKNOWN_ATOM else None


def address_in(image: Image, rva: int) -> Constant:
    """The virtual address of ``rva``, which may lie outside of the image."""
    return Constant((image.module.base + rva) % (1 << 8 * image.machine.pointer_size))


def join(*values: Value) -> Value:
    """Everything that one of ``values`` can be."""
    return _bounded(frozenset().union(*values))


def numbers(value: Value) -> Optional[FrozenSet[int]]:
    """The numbers that ``value`` can be, or None if it can be something else."""
    found = {atom.number for atom in value if isinstance(atom, Constant)}
    return frozenset(found) if len(found) == len(value) else None


def without_entries(value: Value) -> Value:
    """``value`` itself, where it may be an entry's address just as any other."""
    return value if value is UNKNOWN else frozenset(atom for atom in value if not isinstance(atom, Entry))


def map_constants(value: Value, change: Callable[[int], int], bits: int = 64) -> Value:
    """``change`` done to every number of ``value``, cut to ``bits``; what is no number becomes UNKNOWN."""
    if value is UNKNOWN:
        return value
    mask = (1 << bits) - 1
    return _bounded(
        frozenset(
            Constant(change(atom.number) & mask, atom.origin_rva) if isinstance(atom, Constant) else UNKNOWN_ATOM
            for atom in value
        )
    )


def combine(left: Value, right: Value, operation: Callable[[int, int], int], bits: int = 64) -> Value:
    """``operation`` on every pair of numbers of both, cut to ``bits``; the origin is the later instruction's."""
    if left is UNKNOWN or right is UNKNOWN:
        return UNKNOWN
    mask = (1 << bits) - 1
    atoms: Set[Atom] = set()
    for a in left:
        for b in right:
            if isinstance(a, Constant) and isinstance(b, Constant):
                origins = [origin for origin in (a.origin_rva, b.origin_rva) if origin is not None]
                atoms.add(Constant(operation(a.number, b.number) & mask, max(origins, default=None)))
            else:
                atoms.add(_keep_tag(a, b, operation) if bits == _TAG_BITS else UNKNOWN_ATOM)
    return _bounded(frozenset(atoms))


def _keep_tag(left: Atom, right: Atom, operation: Callable[[int, int], int]) -> Atom:
    """What is no number, where an operation with a number changes no more than the bit of PROTECTED_POOL of a tag."""
    if isinstance(right, Constant) and isinstance(left, _TAGS):
        results = [operation(probe, right.number) for probe in _PROBES]
        kept: Atom = left
    elif isinstance(left, Constant) and isinstance(right, _TAGS):
        results = [operation(left.number, probe) for probe in _PROBES]
        kept = right
    else:
        return UNKNOWN_ATOM
    return kept if all(result & _TAG_MASK == probe for result, probe in zip(results, _PROBES)) else UNKNOWN_ATOM


def _bounded(value: Value) -> Value:
    if 0 < len(value) <= MAX_ATOMS:
        return value
    if not 0 < len(value) <= MAX_TAGS:
        return UNKNOWN
    tags = [atom for atom in value if isinstance(atom, Constant) and _may_be_tag(atom.number)]
    return value if len(value) - len(tags) <= MAX_ATOMS else UNKNOWN


def _may_be_tag(number: int) -> bool:
    """Whether each of its four bytes may be a character: 0x20 to 0x7f, with the highest bit set or not."""
    return number < 1 << 32 and (number | number << 1) & 0x40404040 == 0x40404040
