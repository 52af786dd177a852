"""Which small blocks the segment heap's own records prove, by whatever kind of the heap's memory they lie in."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.pool.equalblocks import SubsegmentReader, stands_in_stride
from pykdext.kernel.pool.heapchunks import CHUNK_32, MAX_PAGES, NO_KEYS, HeapKeys, KeyVotes, has_moved_chunk
from pykdext.kernel.pool.poolheaders import PlacedHeader, find_headers
from pykdext.model import PoolKind
from pykdext.targets.protocol import PAGE_BYTES, Target

_SAMPLE = 256
"""Blocks by which the keys that symbols tell and those voted for are compared."""

PlacedBlock = Tuple[int, int, PoolKind, bool]
"""Address of the header, size with it, pool, and whether the headers around it make it certain."""


CERTAIN, LIKELY, FREE = 1, 2, 3
"""Marks of blocks: proven by the heap's records, likely for a row of equal ones, free by the heap's records."""


class BlockProver:
    """Judges the blocks of one walk: pages that hold some are noted first, then all blocks are judged together."""

    def __init__(self, target: Target, keys: HeapKeys = NO_KEYS) -> None:
        """``keys`` are those that symbols tell: they are believed as far as they fit the blocks."""
        self._target = target
        self._told = keys
        self._form = keys.form
        self._pages: List[Tuple[int, bytes]] = []
        self._page: Tuple[int, bytes] = (-1, b"")
        self._headers: Tuple[int, List[PlacedHeader]] = (-1, [])
        self._subsegments: Optional[SubsegmentReader] = None
        if keys.lfh_key is not None:
            self._subsegments = SubsegmentReader(self._read, keys.lfh_key)

    def note_page(self, address: int, data: bytes) -> None:
        """Keep (a part of) a page whose headers can vote for the heap's key, until there are enough."""
        if len(self._pages) < MAX_PAGES and address % self._form.unit_bytes == 0:
            self._pages.append((address, data))

    def judge(self, blocks: Sequence[PlacedBlock], words: Sequence[int], marks: bytearray) -> None:
        """Mark, by the blocks' numbers, what can be told of those that are not certain.

        ``words`` are those where each block's chunk begins, as many as there are blocks; 0: it was not at hand.
        """
        sample = [pair for pair in zip(blocks, words) if not pair[0][3]][:_SAMPLE]
        keys, form = self._choose_keys(sample), self._form
        left = [number for number, block in enumerate(blocks) if not block[3]]
        if keys.heap_key is not None and form is not CHUNK_32:
            left = self._mark_chunks(blocks, words, marks, keys.heap_key ^ form.allocated, left)
        for number in left:
            marks[number] = self._judge(blocks[number][0], blocks[number][1], words[number], keys)

    def _mark_chunks(
        self, blocks: Sequence[PlacedBlock], words: Sequence[int], marks: bytearray, key: int, numbers: Sequence[int]
    ) -> List[int]:
        """What HeapKeys.confirms tells, without a call for each of very many blocks; the numbers of the others."""
        form = self._form
        fixed, header_bytes, each = form.fixed, form.header_bytes, (1 << form.size_shift) // form.unit_bytes
        spare = (1 << form.size_shift, 2 << form.size_shift)  # a chunk is one unit or two larger than its block
        left: List[int] = []
        for number in numbers:
            block = blocks[number]
            if ((words[number] ^ block[0] - header_bytes ^ key) & fixed) - block[1] * each in spare:
                marks[number] = CERTAIN
            else:
                left.append(number)
        return left

    def _choose_keys(self, sample: Sequence[Tuple[PlacedBlock, int]]) -> HeapKeys:
        """Of what symbols tell and what the headers vote for the key that proves more of a sample.

        Nobody votes where the told key proves most of it.
        """
        told = self._count_chunks(sample, self._told)
        if 2 * told > len(sample):
            return self._told
        voted = self._count_votes()
        return voted if self._count_chunks(sample, voted) > told else self._told

    def _count_chunks(self, sample: Sequence[Tuple[PlacedBlock, int]], keys: HeapKeys) -> int:
        return sum(self._is_chunk(address, size, word, keys) for (address, size, *_), word in sample)

    def _count_votes(self) -> HeapKeys:
        votes = KeyVotes(self._form)
        for address, data in self._pages:
            votes.add(address, data, find_headers(address, data, self._form.unit_bytes))
            if votes.is_full:
                break
        return votes.winner() or HeapKeys(form=self._form)

    def _judge(self, address: int, size: int, word: int, keys: HeapKeys) -> int:
        """The mark of a block; 0: nothing can be told but what its header says."""
        if self._is_chunk(address, size, word, keys):
            return CERTAIN
        if self._subsegments is not None:
            busy = self._subsegments.is_busy(address, size)
            if busy is not None:
                return CERTAIN if busy else FREE
        page = address & -PAGE_BYTES
        if self._headers[0] != page:
            self._headers = (page, find_headers(page, self._read_page(page), self._form.unit_bytes))
        return LIKELY if stands_in_stride(self._headers[1], address, size // self._form.unit_bytes, size) else 0

    def _is_chunk(self, address: int, size: int, word: int, keys: HeapKeys) -> bool:
        if keys.heap_key is None:
            return False
        form = self._form
        chunk, units = address - form.header_bytes, size // form.unit_bytes
        word = word or self._word_at(chunk)
        if word and keys.confirms(word, chunk, units):
            return form is not CHUNK_32 or self._has_neighbour(word, chunk, keys)
        page, offset = divmod(address, PAGE_BYTES)
        before = (page - 1) * PAGE_BYTES
        return offset == 0 and has_moved_chunk(keys, self._read_page(before), before, units)

    def _has_neighbour(self, word: int, chunk: int, keys: HeapKeys) -> bool:
        """Whether the chunk behind or the one before agrees with a chunk's header in the size of one of them."""
        form, key = self._form, keys.heap_key
        if key is None or not keys.is_whole:
            return False
        plain = word ^ chunk ^ key
        behind = chunk + form.size_of(plain) * form.unit_bytes
        following = self._word_at(behind)
        if following and form.previous_of(following ^ behind ^ key) == form.size_of(plain):
            return True
        previous = form.previous_of(plain)
        before = chunk - previous * form.unit_bytes
        leading = self._word_at(before) if previous else 0
        return bool(leading) and form.size_of(leading ^ before ^ key) == previous

    def _word_at(self, chunk: int) -> int:
        """The first word of a chunk's header; 0: not in memory."""
        try:
            return int.from_bytes(self._read(chunk, self._form.word_bytes), "little")
        except MemoryReadError:
            return 0

    def _read_page(self, page: int) -> bytes:
        """What can be read of a page, without its end if that is missing; empty if its start is."""
        try:
            return self._read(page, PAGE_BYTES)
        except MemoryReadError:
            return b""

    def _read(self, address: int, size: int) -> bytes:
        """Bytes out of one page, which is kept for the next read.

        Raises:
            MemoryReadError: not all of them are in memory.
        """
        page = address & -PAGE_BYTES
        if self._page[0] != page:
            try:
                self._page = (page, self._target.read_virtual(page, PAGE_BYTES))
            except MemoryReadError:
                return self._target.read_virtual(address, size)
        return self._page[1][address - page : address - page + size]
