"""What the code of an image calls and refers to, read once: further questions are look-ups.

What is kept of an image has eight bytes a call or operand, and lasts as long as the image.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterator, NamedTuple, Tuple, TypeVar
from weakref import WeakKeyDictionary

from pykdext.attribution.calls.codereader import Operands, TargetIndex
from pykdext.attribution.calls.processors import PROCESSORS
from pykdext.images.image import Image

_Kept = TypeVar("_Kept")
_Piece = Tuple[int, int]
"""Contiguous code that is in memory, by its RVA and length."""


class _Pieces(NamedTuple):
    """What is known of the pieces of one image's code."""

    calls: Dict[_Piece, TargetIndex]
    operands: Dict[_Piece, Operands]


_KNOWN: WeakKeyDictionary[Image, _Pieces] = WeakKeyDictionary()


def iter_call_indexes(image: Image) -> Iterator[Tuple[int, TargetIndex]]:
    """Each piece of the image's code, by its RVA, with its calls and jumps by where they lead."""
    iter_calls = PROCESSORS[image.machine].iter_calls
    known = _KNOWN.setdefault(image, _Pieces({}, {})).calls
    for rva, code in _iter_code(image):
        yield rva, _keep(known, rva, code, lambda rva, code: TargetIndex(iter_calls(rva, code)))


def iter_operands(image: Image) -> Iterator[Tuple[bytes, Operands]]:
    """Each piece of the image's code, with the instructions in it that may refer to variables."""
    read_operands = PROCESSORS[image.machine].read_operands
    known = _KNOWN.setdefault(image, _Pieces({}, {})).operands
    for rva, code in _iter_code(image):
        yield code, _keep(known, rva, code, lambda rva, code: read_operands(image, rva, code))


def _keep(known: Dict[_Piece, _Kept], rva: int, code: bytes, read: Callable[[int, bytes], _Kept]) -> _Kept:
    piece = rva, len(code)
    if piece not in known:
        known[piece] = read(rva, code)
    return known[piece]


def _iter_code(image: Image) -> Iterator[Tuple[int, bytes]]:
    for section in image.sections:
        if section.executable:
            yield from image.iter_present(section)
