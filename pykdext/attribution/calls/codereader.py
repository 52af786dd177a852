"""What the search of code, without decoding it, asks of a processor."""

from __future__ import annotations

from typing import Callable, Collection, FrozenSet, Iterator, NamedTuple, Protocol

from pykdext.images.image import Image
from pykdext.model import PROTECTED_POOL

TAG_MASK = PROTECTED_POOL - 1
"""The tag tables have a tag without this bit."""


class Reference(NamedTuple):
    """An instruction at ``rva`` that reads a variable of the image, or takes its address."""

    variable: int
    rva: int


class Numbers(Protocol):
    """The numbers in a function's instructions."""

    @property
    def packed(self) -> bytes:
        """As bytes, to be kept."""

    def can_make(self, number: int) -> bool:
        """Whether few instructions with them can make the tag ``number`` (without PROTECTED_POOL), or that with it."""


class CodeReader(NamedTuple):
    """One processor's row.

    Attributes:
        iter_calls: the calls and jumps in code at an RVA to given places, with the mask of an address.
        iter_references: the instructions in a piece of an image's code, at an RVA, that refer to given variables.
        iter_stores: those that write them. read_numbers: of the code of one function. parse_numbers: of what was
        ``packed``; ValueError if it is damaged.
    """

    iter_calls: Callable[[int, bytes, FrozenSet[int], int], Iterator[int]]
    iter_references: Callable[[Image, int, bytes, Collection[int]], Iterator[Reference]]
    iter_stores: Callable[[Image, int, bytes, Collection[int]], Iterator[Reference]]
    read_numbers: Callable[[bytes], Numbers]
    parse_numbers: Callable[[bytes], Numbers]
