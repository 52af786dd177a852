"""The numbers in the instructions of x86 and x64 functions, of which code can make a tag."""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from itertools import accumulate
from typing import Collection, Dict, FrozenSet, Iterator, List, Sequence, Set

from pykdext.attribution.calls.codereader import TAG_MASK
from pykdext.attribution.places.tagencodings import PROTECTED_TEXT, TAG_BYTES, TEXT
from pykdext.model import PROTECTED_POOL
from pykdext.units import count_things

_COUNT = _BASE = struct.Struct("<I")

_TAGS = re.compile(rb"[" + TEXT + rb"]{3,}[" + PROTECTED_TEXT + rb"]?", re.DOTALL)
"""Any four bytes of a match look like a tag, and so no others."""

_NUMBER_FOLLOWS = frozenset((*range(0xB8, 0xC0), *range(0x05, 0x40, 8), 0x68, 0xA9))
"""``mov`` of a register, arithmetic and ``test`` with the accumulator, ``push``."""

_OPERAND_FOLLOWS = frozenset((0x69, 0x81, 0x8D, 0xC7, 0xF7))
"""``imul``, arithmetic, ``lea``, ``mov`` and ``test``: modrm, perhaps SIB and displacement stand before the number."""

_LONGEST_OPERAND_BYTES = 7
"""From such an opcode to the number."""

MAX_BASES = 1024
"""Numbers of one function that look like tags: one with more may make any."""

_LOWER_BYTES, _LOWER = 3, 0xFFFFFF
_ONE_CHARACTER = frozenset(change << shift for shift in range(0, 8 * TAG_BYTES, 8) for change in range(1, 0x100))
"""How two numbers differ, bit by bit, that have three bytes in common."""


def _may_be_operand(code: bytes, start: int) -> bool:
    """Whether an instruction may have the four bytes at ``start`` as its number, or as the upper half of that."""
    if start < 1:
        return False
    return (
        code[start - 1] in _NUMBER_FOLLOWS
        or not _OPERAND_FOLLOWS.isdisjoint(code[max(start - _LONGEST_OPERAND_BYTES, 0) : start - 1])
        or (start > TAG_BYTES and code[start - TAG_BYTES - 1] & 0xF8 == 0xB8)
    )


class IntelNumbers:
    """Whatever bytes of x86 and x64 code may be operands; of what looks like a tag, what stands behind an opcode."""

    def __init__(self, code: bytes, bases: Collection[int]) -> None:
        self._code = code
        self._bases = frozenset(bases)

    @classmethod
    def read(cls, code: bytes) -> IntelNumbers:
        """Those of a function."""
        tags = (
            code[start : start + TAG_BYTES]
            for match in _TAGS.finditer(code)
            for start in range(match.start(), match.end() - TAG_BYTES + 1)
            if _may_be_operand(code, start)
        )
        return cls(code, [int.from_bytes(tag, "little") & TAG_MASK for tag in tags])

    @classmethod
    def parse(cls, packed: bytes) -> IntelNumbers:
        """What ``packed`` is of; ValueError if it is cut short."""
        (count,) = _COUNT.unpack(packed[: _COUNT.size].ljust(_COUNT.size, b"\xff"))
        end = _COUNT.size + TAG_BYTES * count
        if len(packed) < end:
            raise ValueError(f"{count_things(len(packed), 'byte')} for {count_things(count, 'number')}")
        return cls(packed[end:], [base for (base,) in _BASE.iter_unpack(packed[_COUNT.size : end])])

    @property
    def packed(self) -> bytes:
        """All that is looked at, to be kept."""
        return _COUNT.pack(len(self._bases)) + b"".join(map(_BASE.pack, sorted(self._bases))) + self._code

    @property
    def code(self) -> bytes:
        """The bytes in which numbers are looked for."""
        return self._code

    @property
    def bases(self) -> FrozenSet[int]:
        """What looks like a tag, without PROTECTED_POOL."""
        return self._bases


class IntelMakers:
    """The code of functions side by side: a number that none of them holds is told by one search."""

    def __init__(self, functions: Sequence[IntelNumbers]) -> None:
        self._codes = [function.code for function in functions]
        self._joined = b"".join(self._codes)
        self._ends = list(accumulate(map(len, self._codes)))
        self._crowded = {place for place, function in enumerate(functions) if len(function.bases) > MAX_BASES}
        self._places: Dict[int, List[int]] = {}
        for place, function in enumerate(functions):
            for base in function.bases if place not in self._crowded else ():
                self._places.setdefault(base, []).append(place)

    def find(self, number: int) -> FrozenSet[int]:
        """By a shift, by a change of one character, or by the difference to another tag, which must be there, too.

        Of a difference the lower three bytes are looked for: the last one depends on PROTECTED_POOL.
        """
        found = self._find_shifted(number) | self._crowded
        codes = self._codes
        for base, places in self._places.items():
            if base ^ number in _ONE_CHARACTER:
                found.update(places)
                continue
            difference = (number - base & _LOWER).to_bytes(_LOWER_BYTES, "little")
            change = ((number ^ base) & _LOWER).to_bytes(_LOWER_BYTES, "little")
            for place in places:
                if difference in codes[place] or change in codes[place]:
                    found.add(place)
        return frozenset(found)

    def _find_shifted(self, number: int) -> Set[int]:
        zero_bits = (number & -number).bit_length() - 1
        shifted = {tag >> max(zero_bits, 0) for tag in (number, number | PROTECTED_POOL)}
        return {place for tag in shifted for place in self._iter_holders(tag.to_bytes(TAG_BYTES, "little"))}

    def _iter_holders(self, wanted: bytes) -> Iterator[int]:
        """The functions that hold the bytes ``wanted``."""
        offset = self._joined.find(wanted)
        while offset >= 0:
            place = bisect_right(self._ends, offset)
            if offset + len(wanted) <= self._ends[place]:
                yield place
                offset = self._joined.find(wanted, self._ends[place])
            else:
                offset = self._joined.find(wanted, offset + 1)
