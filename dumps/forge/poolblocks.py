"""Pool pages: blocks behind a POOL_HEADER, and what their owners keep in them (layouts of the public symbols)."""

from __future__ import annotations

import random
import struct
from typing import List, NamedTuple, Optional, Sequence, Tuple

from dumps.forge.architectures import Architecture
from dumps.forge.segmentheap import (
    SegmentHeap,
    count_equal_blocks,
    first_equal_block,
    lies_with_equals,
)

_PAGE_BYTES = 0x1000
_SUBSEGMENT_HEADER_BYTES = 0x40
_FIRST_WITH_SEGMENT_HEAP = 18362
_FIRST_WITH_IN_USE_BIT = 6000
_IN_USE = 2


class PoolBlock(NamedTuple):
    """A block that is in use: the address of its header (or of the big block), its size in bytes, header included."""

    va: int
    size: int
    is_big: bool


class PageFiller:
    """Fills pages with blocks of one tag for one machine; every seventh block is free.

    Up to build 17763 blocks are chained by PreviousSize. Since then small ones stand in rows of equal ones, others in
    chunks of the segment heap; on 32 bits all of them stand in chunks.
    """

    def __init__(
        self, architecture: Architecture, build: int, chance: random.Random, heap: Optional[SegmentHeap]
    ) -> None:
        self._architecture = architecture
        self._build = build
        self._chance = chance
        self._heap = heap

    def fill(
        self, page_va: int, tag: bytes, block_bytes: int, *, paged: bool, contents: Sequence[int]
    ) -> Tuple[bytes, List[PoolBlock]]:
        """Return a page and its blocks in use; each block repeats ``contents``, pointers of the owner."""
        chained = self._build < _FIRST_WITH_SEGMENT_HEAP
        unit = 2 * self._architecture.pointer_bytes
        offset, step, count = first_block_offset(self._build), block_bytes, _PAGE_BYTES // block_bytes
        equal = self._heap is not None and lies_with_equals(self._heap, block_bytes)
        if self._heap is not None and equal:
            count = count_equal_blocks(block_bytes)
            offset = first_equal_block(count)
        elif self._heap is not None:
            step += self._heap.chunk_bytes
        count = min(count, (_PAGE_BYTES - offset) // step)
        page = bytearray(_PAGE_BYTES)
        blocks: List[PoolBlock] = []
        previous_bytes = 0
        for number in range(count):
            free = number % 7 == 6
            va = page_va + offset + step - block_bytes
            head = block_header(
                self._architecture, self._build, previous_bytes, block_bytes, tag, paged=None if free else paged
            )
            block = head + pack_contents(self._architecture, va, block_bytes - unit, contents, self._chance)
            if self._heap is not None and not equal:
                block = self._put_in_chunk(va - self._heap.chunk_bytes, block, previous_bytes and step, free=free)
            page[offset : offset + step] = block
            if not free:
                blocks.append(PoolBlock(va, block_bytes, is_big=False))
            previous_bytes = block_bytes
            offset += step
        if chained and offset < _PAGE_BYTES:
            page[offset : offset + unit] = block_header(
                self._architecture, self._build, previous_bytes, _PAGE_BYTES - offset, b"Free", paged=None
            )
        if self._heap is not None and equal:
            header = self._heap.subsegment_header(page_va, block_bytes, [number % 7 != 6 for number in range(count)])
            page[: len(header)] = header
        return bytes(page), blocks

    def _put_in_chunk(self, va: int, block: bytes, previous_bytes: int, *, free: bool) -> bytes:
        """Return a block behind its chunk's header; the record of a free chunk covers the block's own header."""
        assert self._heap is not None
        size = len(block) + self._heap.chunk_bytes
        if not free:
            return self._heap.chunk_header(va, size, previous_bytes, allocated=True) + block
        record = self._heap.free_chunk(va, size, previous_bytes, self._chance)
        return record + block[len(record) - self._heap.chunk_bytes :]


def first_block_offset(build: int) -> int:
    """Return where the first block of a page stands: behind the heap's own header since the segment heap."""
    return 0 if build < _FIRST_WITH_SEGMENT_HEAP else _SUBSEGMENT_HEADER_BYTES


def block_header(
    architecture: Architecture, build: int, previous_bytes: int, block_bytes: int, tag: bytes, *, paged: Optional[bool]
) -> bytes:
    """Return the header of a block in a pool, or of a free one (``paged`` None)."""
    unit = 2 * architecture.pointer_bytes
    in_use = 0 if paged is None else (_IN_USE | paged) if build >= _FIRST_WITH_IN_USE_BIT else 1 + paged
    previous_units = previous_bytes // unit if build < _FIRST_WITH_SEGMENT_HEAP else 0
    return _pack_header(architecture, previous_units, block_bytes // unit, in_use, tag)


def _pack_header(architecture: Architecture, previous_units: int, units: int, kind: int, tag: bytes) -> bytes:
    """Return a POOL_HEADER: PreviousSize, PoolIndex, BlockSize, PoolType, the tag and, on 64 bits, ProcessBilled."""
    if architecture.narrow:
        return struct.pack("<HH4s", previous_units, units | kind << 9, tag)
    return struct.pack("<BBBB4sQ", previous_units, 0, units, kind, tag, 0)


def pack_contents(
    architecture: Architecture, link_va: int, size: int, contents: Sequence[int], chance: random.Random
) -> bytes:
    """Return what an owner keeps in a block: list links, its pointers, a few numbers, then data."""
    link = link_va + 2 * architecture.pointer_bytes
    words = [link, link, *contents, chance.getrandbits(24), chance.getrandbits(16)]
    body = architecture.pack_pointers(*words)[:size]
    return body + chance.getrandbits(8 * 16).to_bytes(16, "little")[: size - len(body)].ljust(size - len(body), b"\0")
