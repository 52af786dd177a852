"""Blocks of one size beside each other in the segment heap (its low-fragmentation part): no header of their own.

A subsegment begins at a page with a header that tells, hidden by a key, the size of its blocks and where the first is,
and in plain how many there are and which are in use, two bits a block. nt keeps the key in RtlpHpHeapGlobals; without
it eight headers at one stride in a page, and none between them, make such blocks likely.

Sources: _HEAP_LFH_SUBSEGMENT in Microsoft's public PDBs (17763 to 22000), public studies of the kernel's segment heap.
Builds that hide it in another way are not decoded: their blocks stay likely.
"""

from __future__ import annotations

import struct
from typing import Callable, Dict, NamedTuple, Optional, Sequence

from pykdext.errors import MemoryReadError
from pykdext.kernel.pool.poolheaders import UNIT_BYTES, PlacedHeader
from pykdext.targets.protocol import PAGE_BYTES

MIN_STRIDE_HEADERS = 8
MAX_SUBSEGMENT_PAGES = 32

_FREE_OFFSET, _OFFSETS_OFFSET, _BITMAP_OFFSET = 0x20, 0x28, 0x30
_MAX_COMMIT_STATES_BYTES = 0x80
_BITS_A_BLOCK = 2
_WORD = 0xFFFFFFFF


class _Subsegment(NamedTuple):
    """Where a subsegment's blocks begin, and how many there are."""

    start: int
    first: int
    size: int
    blocks: int


class SubsegmentReader:
    """Asks the bitmaps of subsegments; ``read`` raises MemoryReadError for what is not in memory."""

    def __init__(self, read: Callable[[int, int], bytes], lfh_key: int) -> None:
        self._read = read
        self._key = lfh_key & _WORD
        self._seen: Dict[int, Optional[_Subsegment]] = {}

    def is_busy(self, address: int, size: int) -> Optional[bool]:
        """Whether a block of a subsegment is in use; None: no subsegment with blocks of that size lies around it."""
        page = address & -PAGE_BYTES
        for start in range(page, page - MAX_SUBSEGMENT_PAGES * PAGE_BYTES, -PAGE_BYTES):
            if start not in self._seen:
                self._seen[start] = self._read_subsegment(start)
            found = self._seen[start]
            if found is None or found.size != size:
                continue
            number, rest = divmod(address - start - found.first, size)
            if rest == 0 and 0 <= number < found.blocks:
                return self._is_marked(found, number)
        return None

    def _read_subsegment(self, start: int) -> Optional[_Subsegment]:
        try:
            head = self._read(start, _BITMAP_OFFSET)
        except MemoryReadError:
            return None
        free, count = struct.unpack_from("<HH", head, _FREE_OFFSET)
        (hidden,) = struct.unpack_from("<I", head, _OFFSETS_OFFSET)
        plain = hidden ^ self._key ^ start >> 12 & _WORD
        size, first = plain & 0xFFFF, plain >> 16
        bitmap_end = _BITMAP_OFFSET + -(-count * _BITS_A_BLOCK // 64) * 8
        if not count or free > count or not size or size % UNIT_BYTES:
            return None
        if not bitmap_end <= first <= bitmap_end + _MAX_COMMIT_STATES_BYTES:
            return None
        if first + count * size > MAX_SUBSEGMENT_PAGES * PAGE_BYTES:
            return None
        return _Subsegment(start, first, size, count)

    def _is_marked(self, found: _Subsegment, number: int) -> Optional[bool]:
        byte, shift = divmod(number * _BITS_A_BLOCK, 8)
        try:
            return bool(self._read(found.start + _BITMAP_OFFSET + byte, 1)[0] >> shift & 1)
        except MemoryReadError:
            return None


def stands_in_stride(headers: Sequence[PlacedHeader], address: int, units: int, size: int) -> bool:
    """Whether a header of a page is one of at least eight equal ones at one stride, with none between them."""
    equal = [header.address for header in headers if (header.address - address) % size == 0 and header.units == units]
    if len(equal) < MIN_STRIDE_HEADERS:
        return False
    return not any(equal[0] < header.address < equal[-1] and (header.address - address) % size for header in headers)
