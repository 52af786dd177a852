"""POOL_HEADERs of segment-heap kernels in a page of memory, found without knowing any tag.

In such kernels the header keeps no size of the block before; PoolIndex may be anything (so in two real dumps). On 32
bits the two numbers before the tag have 9 and 7 bits each, on 64 bits 8.
"""

from __future__ import annotations

from typing import List, NamedTuple

from pykdext.targets.protocol import PAGE_BYTES

UNIT_BYTES = 0x10
_NARROW_UNIT_BYTES = 8
_IN_USE = 2
_MAX_POOL_TYPE = 0x40


def _table(accepted: range, *more: int) -> bytes:
    return bytes(int(value in accepted or value in more) for value in range(256))


_ZERO, _NOT_ZERO, _EVEN = _table(range(1)), _table(range(1, 256)), _table(range(0, 256, 2))
_TYPE = bytes(int(bool(value & _IN_USE) and value < _MAX_POOL_TYPE) for value in range(256))
_NARROW_TYPE = bytes(int(bool(value >> 1 & _IN_USE) and value >> 1 < _MAX_POOL_TYPE) for value in range(256))
_LETTER, _LAST_LETTER = _table(range(0x20, 0x7F)), _table(range(0x20, 0x7F), *range(0xA0, 0xFF))
_TAG = ((4, _LETTER), (5, _LETTER), (6, _LETTER), (7, _LAST_LETTER))
_ACCEPTED = ((0, _ZERO), (2, _NOT_ZERO), (3, _TYPE), *_TAG)
_NARROW_ACCEPTED = ((0, _ZERO), (1, _EVEN), (3, _NARROW_TYPE), *_TAG)


class PlacedHeader(NamedTuple):
    """A header by its address and the size that it tells, itself included."""

    address: int
    units: int


def find_headers(address: int, data: bytes, unit_bytes: int = UNIT_BYTES) -> List[PlacedHeader]:
    """All that looks like the header of a block in use; leftovers and the insides of blocks may look so, too.

    ``data`` lie in one page, and ``address`` is a multiple of ``unit_bytes``: 16, or 8 on 32 bits.
    """
    size = len(data) - len(data) % unit_bytes
    slots = PAGE_BYTES // unit_bytes
    narrow = unit_bytes == _NARROW_UNIT_BYTES
    bits = (1 << 8 * slots) - 1
    for place, accepted in _NARROW_ACCEPTED if narrow else _ACCEPTED:
        bits &= int.from_bytes(data[place:size:unit_bytes].translate(accepted), "little")
    marks = bits.to_bytes(slots, "little")
    end = (address & -PAGE_BYTES) + PAGE_BYTES
    found: List[PlacedHeader] = []
    slot = marks.find(1)
    while slot >= 0:
        at = slot * unit_bytes
        header = PlacedHeader(address + at, data[at + 2] | (data[at + 3] & 1) << 8 if narrow else data[at + 2])
        if header.units and header.address + header.units * unit_bytes <= end:
            found.append(header)
        slot = marks.find(1, slot + 1)
    return found
