"""Which small blocks the segment heap's own records prove, by whatever kind of the heap's memory they lie in."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional, Sequence, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.pool.equalblocks import SubsegmentReader, stands_in_stride
from pykdext.kernel.pool.heapchunks import CHUNK_BYTES, NO_KEYS, HeapKeys, KeyVotes, has_moved_chunk
from pykdext.kernel.pool.poolheaders import UNIT_BYTES, PlacedHeader, find_headers
from pykdext.model import Allocation
from pykdext.targets.protocol import PAGE_BYTES, Target

_SAMPLE = 256
"""Blocks by which the keys that symbols tell and those voted for are compared."""


class BlockProver:
    """Judges the blocks of one walk: pages that hold some are noted first, then all blocks are judged together."""

    def __init__(self, target: Target, keys: HeapKeys = NO_KEYS) -> None:
        """``keys`` are those that symbols tell: they are believed as far as they fit the blocks."""
        self._target = target
        self._told = keys
        self._votes = KeyVotes()
        self._page: Tuple[int, bytes] = (-1, b"")
        self._headers: Tuple[int, List[PlacedHeader]] = (-1, [])
        self._subsegments: Optional[SubsegmentReader] = None
        if keys.lfh_key is not None:
            self._subsegments = SubsegmentReader(self._read, keys.lfh_key)

    def note_page(self, address: int, data: bytes) -> None:
        """Let the headers in (a part of) a page vote for the heap's key, until enough have."""
        if not self._votes.is_full and address % UNIT_BYTES == 0:
            self._votes.add(address, data, find_headers(address, data))

    def judge(self, blocks: Sequence[Allocation], words: Sequence[int]) -> List[Allocation]:
        """The blocks that are in use, as far as can be told: certain, likely, or known by their header alone.

        ``words`` are those where each block's chunk begins; 0: it was not at hand.
        """
        missing = [0] * (len(blocks) - len(words))  # an end by the user may come between a block and its word
        pairs = list(zip(blocks, [*words, *missing]))
        keys = self._choose_keys([pair for pair in pairs if not pair[0].is_certain][:_SAMPLE])
        judged = (block if block.is_certain else self._judge(block, word, keys) for block, word in pairs)
        return [block for block in judged if block is not None]

    def _choose_keys(self, sample: Sequence[Tuple[Allocation, int]]) -> HeapKeys:
        """Of what symbols tell and what the headers vote for the key that proves more of a sample."""
        candidates = [self._told, self._votes.winner() or NO_KEYS]
        return max(candidates, key=lambda keys: sum(self._is_chunk(*pair, keys) for pair in sample))

    def _judge(self, block: Allocation, word: int, keys: HeapKeys) -> Optional[Allocation]:
        """The block with its certainty; None: the heap says that it is free."""
        if self._is_chunk(block, word, keys):
            return replace(block, is_certain=True)
        if self._subsegments is not None:
            busy = self._subsegments.is_busy(block.address, block.size_bytes)
            if busy is not None:
                return replace(block, is_certain=True) if busy else None
        page = block.address & -PAGE_BYTES
        if self._headers[0] != page:
            self._headers = (page, find_headers(page, self._read_page(page)))
        likely = stands_in_stride(self._headers[1], block.address, block.size_bytes // UNIT_BYTES)
        return replace(block, is_likely=True) if likely else block

    def _is_chunk(self, block: Allocation, word: int, keys: HeapKeys) -> bool:
        if keys.heap_key is None:
            return False
        chunk, units = block.address - CHUNK_BYTES, block.size_bytes // UNIT_BYTES
        if not word:
            try:
                word = int.from_bytes(self._read(chunk, 8), "little")
            except MemoryReadError:
                return False
        if keys.confirms(word, chunk, units):
            return True
        page, offset = divmod(block.address, PAGE_BYTES)
        before = (page - 1) * PAGE_BYTES
        return offset == 0 and has_moved_chunk(keys, self._read_page(before), before, units)

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
