"""How a pool tag stands in an image: the words for it, shared by the code tables of the machines and their readers."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Tuple

from pykdext.model import Confidence, EvidenceKind

TAG_BYTES = 4

MIN_TEXT_BYTES_IN_CODE = 8
"""Printable runs of this length in code are texts; shorter ones are common between instructions."""

TEXT = rb"\x20-\x7e"
"""Characters of a tag, as part of a regular expression's set."""

PROTECTED_TEXT = rb"\xa0-\xfe"
"""The same with bit 7: a tag's last character if the allocation asks for PROTECTED_POOL."""

TAG = rb"[" + TEXT + rb"]{3}[" + TEXT + PROTECTED_TEXT + rb"]"
"""The regular expression of four bytes that look like a tag."""

_PLAUSIBLE = re.compile(TAG)
_TEXT_AT_START = re.compile(rb"[" + TEXT + rb"]*")


class Position(enum.IntEnum):
    """Where the instruction puts the value in a call of an allocator; what says most for an allocation comes first."""

    THIRD_ARGUMENT = 0
    FOURTH_ARGUMENT = 1
    OTHER_ARGUMENT = 2
    FIRST_ARGUMENT = 3
    FRAME = 4
    GLOBAL = 5
    REGISTER = 6
    SECOND_ARGUMENT = 7
    STRUCTURE = 8
    NONE = 9


@dataclass(frozen=True, eq=False)
class Encoding:
    """One way in which a tag stands in an image; ``kind`` is that of the evidence, ``form`` has a ``{tag}``.

    A hint is no evidence where the tag is likely somewhere else. ``is_local``: the instruction stores into the frame,
    where local variables are, too. ``is_literal``: it is a constant among the instructions, for one that reads it.
    Compared by identity: there is one object for each row of the tables.
    """

    kind: EvidenceKind
    form: str
    position: Position
    confidence: Confidence
    meaning: str
    is_hint: bool = False
    is_local: bool = False
    is_literal: bool = False

    @cached_property
    def rank(self) -> Tuple[int, int]:
        """Sorts the encodings that say most for an allocation first."""
        return self.confidence.rank, self.position


def immediate(form: str, position: Position, confidence: Confidence, meaning: str) -> Encoding:
    """An encoding that an instruction, or a pair of instructions, holds."""
    return Encoding(EvidenceKind.IMMEDIATE, form, position, confidence, meaning)


def hint(kind: EvidenceKind, form: str, meaning: str, *, is_literal: bool = False) -> Encoding:
    """An encoding that counts only if the tag has no likely place."""
    return Encoding(kind, form, Position.NONE, Confidence.POSSIBLE, meaning, is_hint=True, is_literal=is_literal)


DATA_DWORD = Encoding(
    EvidenceKind.DATA, "dword {tag}", Position.NONE, Confidence.POSSIBLE, "in data: a registration table or a variable"
)
RAW_BYTES = hint(EvidenceKind.BYTES, "bytes {tag}", "in code, in no known instruction")
AMONG_TEXT = hint(EvidenceKind.DATA, "bytes {tag}", "in data, beside other characters: a table of tags, or a text")
IN_TEXT = hint(EvidenceKind.DATA, "bytes {tag}", "in data, between other characters: a text, or a table of tags")
REVERSED = hint(EvidenceKind.REVERSED, "{tag} backwards", "the letters in reverse order: a driver that swaps them")


class Immediate(NamedTuple):
    """A tag in code: the offset of its bytes or, where it has halves, of the instruction that completes it."""

    offset: int
    tag: bytes
    encoding: Encoding


def is_plausible(tag: bytes) -> bool:
    """Whether four bytes look like a tag: printable ASCII, the last one perhaps with the bit of PROTECTED_POOL."""
    return _PLAUSIBLE.match(tag) is not None


def canonical(tag: bytes) -> bytes:
    """The four bytes of a tag without the bit of PROTECTED_POOL."""
    return tag[:3] + bytes((tag[3] & 0x7F,))


def protected(tag: bytes) -> bytes:
    """The four bytes of a tag with the bit of PROTECTED_POOL."""
    return tag[:3] + bytes((tag[3] | 0x80,))


def measure_text(data: bytes, offset: int, limit: int) -> Tuple[int, int]:
    """How many characters of printable ASCII stand right before and right behind the four bytes at ``offset``.

    No more than ``limit`` are counted on each side.
    """
    before = data[max(offset - limit, 0) : offset][::-1]
    behind = data[offset + TAG_BYTES : offset + TAG_BYTES + limit]
    return _count_text(before), _count_text(behind)


def _count_text(data: bytes) -> int:
    match = _TEXT_AT_START.match(data)
    return match.end() if match else 0
