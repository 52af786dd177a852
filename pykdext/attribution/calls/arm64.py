"""What of ARM64 code is read without decoding it: calls, references to variables, numbers.

Encodings are those of the Arm Architecture Reference Manual: ``bl`` and ``b``; a variable by a page (``adrp``) and an
offset in a later instruction.
"""

from __future__ import annotations

import re
import struct
from typing import Collection, FrozenSet, Iterator, Tuple

from pykdext.attribution.calls.codereader import TAG_MASK, Reference
from pykdext.images.image import Image
from pykdext.units import count_things

_LITERAL_LOAD = re.compile(rb"[\x18\x1c\x58\x5c\x98\x9c]")  # the last byte of the instruction
_CALL = re.compile(rb"[\x14-\x17\x94-\x97]")  # the last byte of the instruction
_WORD_BYTES = 4
_CALL_REACH = 1 << 26

_ADRP_FOLD = bytes(0x41 if byte & 0x9F == 0x90 else 0x2E for byte in range(256))
_ADRP_REACH_INSTRUCTIONS = 64

_HALF_BITS, _HALF = 16, struct.Struct("<H")
_COUNT_BYTES = 4


def iter_calls(rva: int, code: bytes, wanted: FrozenSet[int], mask: int) -> Iterator[int]:
    """The RVAs of calls and jumps to ``wanted`` in code at ``rva``; ``mask`` has the bits of an address."""
    for match in _CALL.finditer(code):
        offset = match.end() - _WORD_BYTES
        if offset >= 0 and (rva + offset) % _WORD_BYTES == 0:
            steps = int.from_bytes(code[offset : offset + _WORD_BYTES], "little") % _CALL_REACH
            steps -= _CALL_REACH if steps >= _CALL_REACH >> 1 else 0
            if rva + offset + _WORD_BYTES * steps & mask in wanted:
                yield rva + offset


def iter_references(_image: Image, rva: int, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
    """``adrp`` of a page, then ``add`` or a load with the offset in it; loads of literals, which lie near the code."""
    yield from _iter_literals(rva, code, wanted)
    for place, page, register in _iter_pages(rva, code, wanted):
        for offset, address in _iter_uses(code, place + 4, register, page):
            if address in wanted:
                yield Reference(address, rva + offset)


def iter_stores(_image: Image, rva: int, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
    """``adrp`` of a page, then a store with the offset in it."""
    for place, page, register in _iter_pages(rva, code, wanted):
        for offset, address in _iter_uses(code, place + 4, register, page, stores=True):
            if address in wanted:
                yield Reference(address, rva + offset)


def _iter_pages(rva: int, code: bytes, wanted: Collection[int]) -> Iterator[Tuple[int, int, int]]:
    """Each ``adrp`` of a page with one of ``wanted``: its offset, the page, the register."""
    pages = {variable & ~0xFFF for variable in wanted}
    for match in re.finditer(b"A", code.translate(_ADRP_FOLD)):
        offset = match.end() - 4
        if offset >= 0 and (rva + offset) % 4 == 0:
            word = int.from_bytes(code[offset : offset + 4], "little")
            steps = word >> 3 & 0x1FFFFC | word >> 29 & 3
            page = (rva + offset & ~0xFFF) + ((steps ^ 0x100000) - 0x100000 << 12)
            if page in pages:
                yield offset, page, word & 0x1F


def _iter_literals(rva: int, code: bytes, wanted: Collection[int]) -> Iterator[Reference]:
    """``ldr`` of a literal, which is told by its distance."""
    for match in _LITERAL_LOAD.finditer(code):
        offset = match.end() - _WORD_BYTES
        if offset >= 0 and (rva + offset) % _WORD_BYTES == 0:
            steps = int.from_bytes(code[offset : offset + _WORD_BYTES], "little") >> 5 & 0x7FFFF
            target = rva + offset + _WORD_BYTES * (steps - (steps >> 18 << 19))
            if target in wanted:
                yield Reference(target, rva + offset)


def _iter_uses(
    code: bytes, offset: int, register: int, page: int, *, stores: bool = False
) -> Iterator[Tuple[int, int]]:
    """The instructions from ``offset`` on that add to the page in ``register`` or load from it, with the address.

    With ``stores`` it is only those that store there.

    Addresses that ``add`` makes are followed; a register that is loaded, or gets another page, is not an address.
    """
    addresses = {register: page}
    count = min(_ADRP_REACH_INSTRUCTIONS, (len(code) - offset) // 4)
    for number, word in enumerate(struct.unpack_from(f"<{count}I", code, offset)):
        base, target = word >> 5 & 0x1F, word & 0x1F
        if word & 0xFFC00000 == 0x91000000 and base in addresses:  # add x, base, #imm12
            addresses[target] = addresses[base] + (word >> 10 & 0xFFF)
            if not stores:
                yield offset + 4 * number, addresses[target]
            continue
        is_load, is_vector, scale = _decode_load(word)
        is_store = word & 0x3FC00000 == 0x39000000
        if (is_store if stores else is_load) and base in addresses:
            yield offset + 4 * number, addresses[base] + ((word >> 10 & 0xFFF) << scale)
        if (is_load and not is_vector) or word & 0x9F000000 == 0x90000000:
            addresses.pop(target, None)


def _decode_load(word: int) -> Tuple[bool, bool, int]:
    """Whether an instruction loads from a base and an offset, into a vector register, and the offset's scale."""
    if word & 0x3B000000 != 0x39000000:
        return False, False, 0
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

    def can_make(self, number: int) -> bool:
        """Where one half of the tag is there: tags of one driver mostly begin, or end, with the same characters."""
        return number & 0xFFFF in self._lower or number >> _HALF_BITS in self._upper
