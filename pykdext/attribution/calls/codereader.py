"""What the search of code, without decoding it, asks of a processor."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import islice
from typing import Any, Callable, Collection, FrozenSet, Iterable, Iterator, List, NamedTuple, Protocol, Sequence

from pykdext.images.image import Image
from pykdext.model import PROTECTED_POOL

TAG_MASK = PROTECTED_POOL - 1
"""The tag tables have a tag without this bit."""

OFFSET_BITS = 28
"""Of a place in an image: no more than ``MAX_IMAGE_BYTES`` of one are looked at."""

MAX_PLACES = 1 << 22
"""Calls, or operands, noted of one piece of code: about 100 MB of it have so many."""

_OFFSET_MASK = (1 << OFFSET_BITS) - 1


class Reference(NamedTuple):
    """An instruction at ``rva`` that reads a variable of the image, or takes its address."""

    variable: int
    rva: int


class TargetIndex:
    """Offsets in a piece of code by what the bytes there refer to, each eight bytes. Targets have 35 bits, and a sign.

    ``packed``: of each place its target, shifted by OFFSET_BITS, and in these bits its offset.
    """

    def __init__(self, packed: Iterable[int]) -> None:
        self._packed = array("q", sorted(islice(packed, MAX_PLACES)))

    def find(self, target: int) -> List[int]:
        """The offsets that refer to ``target``, ascending."""
        first = bisect_left(self._packed, target << OFFSET_BITS)
        stop = bisect_left(self._packed, target + 1 << OFFSET_BITS, first)
        return [packed & _OFFSET_MASK for packed in self._packed[first:stop]]


class Operands(Protocol):
    """The instructions in one piece of an image's code that may refer to variables. ``code`` is that piece again."""

    def iter_references(self, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
        """Those that read one of ``wanted`` (RVAs), or take its address."""

    def iter_stores(self, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
        """Those that write one of ``wanted``."""


class Numbers(Protocol):
    """The numbers in a function's instructions."""

    @property
    def packed(self) -> bytes:
        """As bytes, to be kept."""


class Makers(Protocol):
    """The ``Numbers`` of several functions, searched together."""

    def find(self, number: int) -> FrozenSet[int]:
        """Which functions, by their order, hold numbers of which few instructions can make a tag.

        That is ``number`` (a tag without PROTECTED_POOL), or the tag with it.
        """


class CodeReader(NamedTuple):
    """One processor's row.

    Attributes:
        iter_calls: the calls and jumps in code at an RVA, packed as ``TargetIndex`` takes them. read_operands: of a
        piece, at an RVA, of an image's code. read_numbers: of the code of one function. parse_numbers: of what was
        ``packed``; ValueError if it is damaged. open_makers: of the functions with these numbers.
    """

    iter_calls: Callable[[int, bytes], Iterator[int]]
    read_operands: Callable[[Image, int, bytes], Operands]
    read_numbers: Callable[[bytes], Numbers]
    parse_numbers: Callable[[bytes], Numbers]
    open_makers: Callable[[Sequence[Any]], Makers]
