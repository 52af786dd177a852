"""POOL_HEADERs of 64-bit segment-heap kernels in a page of memory, found without knowing any tag.

In such kernels the header keeps no size of the block before; PoolIndex may be anything (so in two real dumps).
"""

from __future__ import annotations

import struct
from typing import List, NamedTuple

from pykdext.targets.protocol import PAGE_BYTES

UNIT_BYTES = 0x10
_SLOTS = PAGE_BYTES // UNIT_BYTES
_IN_USE = 2
_MAX_POOL_TYPE = 0x40
_ALL = (1 << 8 * _SLOTS) - 1


def _table(accepted: range, *more: int) -> bytes:
    return bytes(int(value in accepted or value in more) for value in range(256))


_ZERO, _NOT_ZERO = _table(range(1)), _table(range(1, 256))
_TYPE = bytes(int(bool(value & _IN_USE) and value < _MAX_POOL_TYPE) for value in range(256))
_LETTER, _LAST_LETTER = _table(range(0x20, 0x7F)), _table(range(0x20, 0x7F), *range(0xA0, 0xFF))
_ACCEPTED = ((0, _ZERO), (2, _NOT_ZERO), (3, _TYPE), (4, _LETTER), (5, _LETTER), (6, _LETTER), (7, _LAST_LETTER))


class PlacedHeader(NamedTuple):
    """A header by its address and the size that it tells, itself included."""

    address: int
    units: int


def find_headers(address: int, data: bytes) -> List[PlacedHeader]:
    """All that looks like the header of a block in use; leftovers and the insides of blocks may look so, too.

    ``data`` lie in one page, and ``address`` is a multiple of 16.
    """
    size = len(data) - len(data) % UNIT_BYTES
    bits = _ALL
    for place, accepted in _ACCEPTED:
        bits &= int.from_bytes(data[place:size:UNIT_BYTES].translate(accepted), "little")
    marks = bits.to_bytes(_SLOTS, "little")
    end = (address & -PAGE_BYTES) + PAGE_BYTES
    found: List[PlacedHeader] = []
    slot = marks.find(1)
    while slot >= 0:
        header = PlacedHeader(address + slot * UNIT_BYTES, data[slot * UNIT_BYTES + 2])
        if header.address + header.units * UNIT_BYTES <= end:
            found.append(header)
        slot = marks.find(1, slot + 1)
    return found


def words_of(data: bytes) -> List[int]:
    """Numbers of 64 bits, as many as are whole."""
    return list(struct.unpack_from(f"<{len(data) // 8}Q", data))
