"""What of ARM64 code is read without decoding it: calls, references to variables, numbers.

Encodings are those of the Arm Architecture Reference Manual: ``bl`` and ``b``; a variable by a page (``adrp``) and an
offset in a later instruction.
"""

from __future__ import annotations

import re
import struct
from typing import Collection, Dict, FrozenSet, Iterator, Sequence, Set, Tuple

from pykdext.attribution.calls.codereader import OFFSET_BITS, TAG_MASK, Reference, TargetIndex
from pykdext.images.image import Image
from pykdext.units import count_things

_LITERAL_LOAD = re.compile(rb"[\x18\x1c\x58\x5c\x98\x9c]")  # the last byte of the instruction
_CALL = re.compile(rb"[\x14-\x17\x94-\x97]")  # the last byte of the instruction
_WORD_BYTES, _WORD = 4, struct.Struct("<I")
_CALL_REACH = 1 << 26

_ADRP_FOLD = bytes(0x41 if byte & 0x9F == 0x90 else 0x2E for byte in range(256))
_ADRP_REACH_INSTRUCTIONS = 64

_HALF_BITS, _HALF = 16, struct.Struct("<H")
_COUNT_BYTES = 4

_NO_LOAD = False, False, 0

_OffsetsByVariable = Dict[int, Dict[int, None]]
"""Each offset once, in the order in which they were found: several ``adrp`` may lead to one instruction."""


def iter_calls(rva: int, code: bytes) -> Iterator[int]:
    """The calls and jumps in code at ``rva``, packed as ``TargetIndex`` takes them."""
    for match in _CALL.finditer(code):
        offset = match.end() - _WORD_BYTES
        if offset >= 0 and (rva + offset) % _WORD_BYTES == 0:
            steps = int.from_bytes(code[offset : offset + _WORD_BYTES], "little") % _CALL_REACH
            steps -= _CALL_REACH if steps >= _CALL_REACH >> 1 else 0
            yield rva + offset + _WORD_BYTES * steps << OFFSET_BITS | offset


class PagedOperands:
    """``adrp`` of a page, then ``add``, a load or a store with the offset in it; loads of literals near the code."""

    def __init__(self, _image: Image, rva: int, code: bytes) -> None:
        self._rva = rva
        self._literals = TargetIndex(_iter_literals(rva, code))
        self._pages = TargetIndex(_iter_pages(rva, code))
        self._uses: Dict[int, Tuple[_OffsetsByVariable, _OffsetsByVariable]] = {}

    def iter_references(self, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
        """Instructions that read, or make the address."""
        for variable in wanted:
            reads, _ = self._find_uses(code, variable)
            for offset in (*self._literals.find(variable), *reads.get(variable, ())):
                yield Reference(variable, self._rva + offset)

    def iter_stores(self, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
        """Instructions that write."""
        for variable in wanted:
            _, stores = self._find_uses(code, variable)
            for offset in stores.get(variable, ()):
                yield Reference(variable, self._rva + offset)

    def _find_uses(self, code: bytes, variable: int) -> Tuple[_OffsetsByVariable, _OffsetsByVariable]:
        """Reads and stores of all variables behind each ``adrp`` of this one's page."""
        page = variable & ~0xFFF
        if page not in self._uses:
            reads: _OffsetsByVariable = {}
            stores: _OffsetsByVariable = {}
            for place in self._pages.find(page):
                (word,) = _WORD.unpack_from(code, place)
                for offset, address, is_store in _iter_uses(code, place + _WORD_BYTES, word & 0x1F, page):
                    (stores if is_store else reads).setdefault(address, {})[offset] = None
            self._uses[page] = reads, stores
        return self._uses[page]


def _iter_pages(rva: int, code: bytes) -> Iterator[int]:
    """Each ``adrp``, by the page."""
    for match in re.finditer(b"A", code.translate(_ADRP_FOLD)):
        offset = match.end() - _WORD_BYTES
        if offset >= 0 and (rva + offset) % _WORD_BYTES == 0:
            word = int.from_bytes(code[offset : offset + _WORD_BYTES], "little")
            steps = word >> 3 & 0x1FFFFC | word >> 29 & 3
            page = (rva + offset & ~0xFFF) + ((steps ^ 0x100000) - 0x100000 << 12)
            yield page << OFFSET_BITS | offset


def _iter_literals(rva: int, code: bytes) -> Iterator[int]:
    """Each ``ldr`` of a literal, which is told by its distance."""
    for match in _LITERAL_LOAD.finditer(code):
        offset = match.end() - _WORD_BYTES
        if offset >= 0 and (rva + offset) % _WORD_BYTES == 0:
            steps = int.from_bytes(code[offset : offset + _WORD_BYTES], "little") >> 5 & 0x7FFFF
            target = rva + offset + _WORD_BYTES * (steps - (steps >> 18 << 19))
            yield target << OFFSET_BITS | offset


def _iter_uses(code: bytes, offset: int, register: int, page: int) -> Iterator[Tuple[int, int, bool]]:
    """The instructions from ``offset`` on that use the page in ``register``, with the address; True: it stores there.

    Addresses that ``add`` makes are followed; a register that is loaded, or gets another page, is not an address.
    Without any address left the rest is not looked at: mostly the next instruction loads over the page.
    """
    addresses = {register: page}
    count = min(_ADRP_REACH_INSTRUCTIONS, (len(code) - offset) // _WORD_BYTES)
    for number, word in enumerate(struct.unpack_from(f"<{count}I", code, offset)):
        base, target = word >> 5 & 0x1F, word & 0x1F
        if word & 0xFFC00000 == 0x91000000 and base in addresses:  # add x, base, #imm12
            addresses[target] = addresses[base] + (word >> 10 & 0xFFF)
            yield offset + _WORD_BYTES * number, addresses[target], False
            continue
        is_load, is_vector, scale = _decode_load(word) if word & 0x3B000000 == 0x39000000 else _NO_LOAD
        is_store = word & 0x3FC00000 == 0x39000000
        if (is_store or is_load) and base in addresses:
            yield offset + _WORD_BYTES * number, addresses[base] + ((word >> 10 & 0xFFF) << scale), is_store
        if (is_load and not is_vector) or word & 0x9F000000 == 0x90000000:
            addresses.pop(target, None)
            if not addresses:
                return


def _decode_load(word: int) -> Tuple[bool, bool, int]:
    """Of a load or store: whether it loads, whether that is into a vector register, and the scale of its offset."""
    size, is_vector, operation = word >> 30, bool(word & 0x04000000), word >> 22 & 3
    if is_vector:
        return bool(operation & 1), True, 4 if operation & 2 else size
    return operation != 0, False, size


class Arm64Numbers:
    """The halves that ``movz`` and ``movk`` put into registers."""

    def __init__(self, lower: Collection[int], upper: Collection[int]) -> None:
        self._lower = frozenset(lower)
        self._upper = frozenset(upper)

    @classmethod
    def read(cls, code: bytes) -> Arm64Numbers:
        """Those of a function."""
        words = (word for (word,) in struct.iter_unpack("<I", code[: len(code) & -4]))
        halves = {(word >> 21 & 1, word >> 5 & 0xFFFF) for word in words if word & 0x5F800000 == 0x52800000}
        lower = [half for is_upper, half in halves if not is_upper]
        return cls(lower, [half & TAG_MASK >> _HALF_BITS for is_upper, half in halves if is_upper])

    @classmethod
    def parse(cls, packed: bytes) -> Arm64Numbers:
        """What ``packed`` is of; ValueError if it is cut short."""
        count = int.from_bytes(packed[:_COUNT_BYTES], "little")
        if len(packed) < _COUNT_BYTES + _HALF.size * count or len(packed) % _HALF.size:
            raise ValueError(f"{count_things(len(packed), 'byte')} for {count_things(count, 'number')}")
        halves = [half for (half,) in _HALF.iter_unpack(packed[_COUNT_BYTES:])]
        return cls(halves[:count], halves[count:])

    @property
    def packed(self) -> bytes:
        """All that is looked at, to be kept."""
        count = len(self._lower).to_bytes(_COUNT_BYTES, "little")
        return count + b"".join(map(_HALF.pack, (*sorted(self._lower), *sorted(self._upper))))

    @property
    def halves(self) -> Tuple[FrozenSet[int], FrozenSet[int]]:
        """The lower and the upper ones."""
        return self._lower, self._upper


class Arm64Makers:
    """Functions by the halves that they hold."""

    def __init__(self, functions: Sequence[Arm64Numbers]) -> None:
        self._lower: Dict[int, Set[int]] = {}
        self._upper: Dict[int, Set[int]] = {}
        for place, function in enumerate(functions):
            for known, halves in zip((self._lower, self._upper), function.halves):
                for half in halves:
                    known.setdefault(half, set()).add(place)

    def find(self, number: int) -> FrozenSet[int]:
        """Where one half of the tag is there: tags of one driver mostly begin, or end, with the same characters."""
        return frozenset(self._lower.get(number & 0xFFFF, ())) | self._upper.get(number >> _HALF_BITS, frozenset())
