"""Where a page stands among the pages of a bitmap dump: the rank of its bit.

The dump stores the pages whose bit is set, packed in the order of their numbers: page n stands at the index "number
of set bits below n". The standard library's C code counts the bits: ``bytes.translate`` turns each byte into its
number of set bits, and the low half of ``zlib.adler32`` is one more than the sum of the bytes, as long as that is
below its modulus.
"""

from __future__ import annotations

from array import array
from typing import Iterator, Tuple
from zlib import adler32

_BITS_OF_BYTE = bytes(bin(byte).count("1") for byte in range(256))
_BITS_BELOW = tuple((1 << bit) - 1 for bit in range(8))

_BLOCK_SHIFT = 8
_BLOCK_BYTES = 1 << _BLOCK_SHIFT
"""One rank is kept for so many bytes of the bitmap. 8 * _BLOCK_BYTES is below Adler's modulus 65521."""

_TRANSLATE_BLOCKS = 512
"""Blocks counted at once: bounds the memory on top of the bitmap, and what the first page costs."""

_WINDOW_PAGES = 4096
"""Runs are searched in integers of so many bits: long enough to join, short enough to shift quickly."""

PresentRun = Tuple[int, int, int]
"""Neighbouring pages that are present: number of the first page, its index in the page data, how many."""


class PageIndex:
    """Maps page numbers to indexes in the page data. Holds the bitmap, and counts it as far as pages are asked for.

    ``bits``: how many the bitmap has.
    """

    def __init__(self, bitmap: bytes, bits: int) -> None:
        """``bitmap``: bit i of byte b, lowest first, tells of page 8 * b + i. Bits from ``bits`` on are ignored."""
        if bits & 7:
            bitmap = bitmap[: bits >> 3] + bytes((bitmap[bits >> 3] & _BITS_BELOW[bits & 7],))
        self.bits = bits
        self._bitmap = bitmap[: (bits + 7) >> 3]
        self._ranks = array("Q")  # set bits before each block, as far as they were counted
        self._counted = 0  # set bits in all the blocks that have a rank

    @property
    def present(self) -> int:
        """Number of set bits: counts what is not counted yet."""
        self._count_up_to(len(self._bitmap))
        return self._counted

    def _count_up_to(self, end: int) -> None:
        """Extend ``_ranks`` so far that the bitmap's bytes before ``end`` are counted."""
        bitmap, append, rank = self._bitmap, self._ranks.append, self._counted
        step = _TRANSLATE_BLOCKS * _BLOCK_BYTES
        for start in range(len(self._ranks) * _BLOCK_BYTES, end, step):
            counts = bitmap[start : start + step].translate(_BITS_OF_BYTE)
            for block in range(0, len(counts), _BLOCK_BYTES):
                append(rank)
                rank += (adler32(counts[block : block + _BLOCK_BYTES]) & 0xFFFF) - 1
        self._counted = rank

    def find(self, page: int) -> int:
        """Index of ``page`` in the page data, or -1 if the page is not present."""
        at = page >> 3
        try:
            byte = self._bitmap[at]
        except IndexError:
            return -1
        if not byte >> (page & 7) & 1:
            return -1
        block = at >> _BLOCK_SHIFT
        if block >= len(self._ranks):
            self._count_up_to(at + 1)
        counts = self._bitmap[block << _BLOCK_SHIFT : at].translate(_BITS_OF_BYTE)
        return self._ranks[block] + (adler32(counts) & 0xFFFF) - 1 + _BITS_OF_BYTE[byte & _BITS_BELOW[page & 7]]

    def with_page(self, page: int) -> PageIndex:
        """The same with the bit of ``page`` set, which is one of the bitmap's."""
        bitmap = bytearray(self._bitmap)
        bitmap[page >> 3] |= 1 << (page & 7)
        return PageIndex(bytes(bitmap), self.bits)

    def count_below(self, page: int) -> int:
        """Number of pages before ``page`` that are present."""
        at = min(page >> 3, len(self._bitmap))
        self._count_up_to(at)
        block = min(at >> _BLOCK_SHIFT, len(self._ranks) - 1)
        if block < 0:
            return 0
        counts = self._bitmap[block << _BLOCK_SHIFT : at].translate(_BITS_OF_BYTE)
        last = self._bitmap[at] & _BITS_BELOW[page & 7] if at < len(self._bitmap) else 0
        return self._ranks[block] + sum(counts) + _BITS_OF_BYTE[last]

    def iter_runs(self, page: int, count: int) -> Iterator[PresentRun]:
        """The present pages of ``count`` pages from ``page`` on, ascending; runs may touch each other."""
        end = min(page + count, len(self._bitmap) << 3)
        while page < end:
            stop = min(end, page + _WINDOW_PAGES)
            bits = int.from_bytes(self._bitmap[page >> 3 : (stop + 7) >> 3], "little") >> (page & 7)
            bits &= (1 << (stop - page)) - 1
            yield from self._iter_set_runs(bits, page)
            page = stop

    def _iter_set_runs(self, bits: int, page: int) -> Iterator[PresentRun]:
        """The runs of set bits of a window whose lowest bit is ``page``."""
        while bits:
            absent = (bits & -bits).bit_length() - 1
            bits >>= absent
            page += absent
            length = (~bits & (bits + 1)).bit_length() - 1
            yield page, self.find(page), length
            bits >>= length
            page += length
