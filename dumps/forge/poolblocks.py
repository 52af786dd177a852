"""Pool pages: blocks behind a POOL_HEADER, and what their owners keep in them (layouts of the public symbols)."""

from __future__ import annotations

import random
import struct
from typing import List, NamedTuple, Optional, Sequence, Tuple

from dumps.forge.architectures import Architecture

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


def pack_pool_page(
    architecture: Architecture,
    page_va: int,
    tag: bytes,
    block_bytes: int,
    *,
    paged: bool,
    build: int,
    contents: Sequence[int],
    chance: random.Random,
) -> Tuple[bytes, List[PoolBlock]]:
    """Return a page full of blocks of one tag and its blocks in use; every seventh block is free.

    ``contents`` are pointers of the owner that each of its blocks repeats. Up to build 17763 blocks are chained by
    PreviousSize; since then a page of the segment heap starts with the heap's own header.
    """
    chained = build < _FIRST_WITH_SEGMENT_HEAP
    header_bytes = unit = 2 * architecture.pointer_bytes
    in_use = (_IN_USE | paged) if build >= _FIRST_WITH_IN_USE_BIT else 1 + paged
    offset = 0 if chained else _SUBSEGMENT_HEADER_BYTES
    page = bytearray(_PAGE_BYTES)
    blocks: List[PoolBlock] = []
    previous_bytes, number = 0, 0
    while offset + block_bytes <= _PAGE_BYTES:
        free = number % 7 == 6
        header = _pack_header(architecture, previous_bytes // unit, block_bytes // unit, 0 if free else in_use, tag)
        if not free:
            blocks.append(PoolBlock(page_va + offset, block_bytes, is_big=False))
        body = pack_contents(architecture, page_va + offset, block_bytes - header_bytes, contents, chance)
        page[offset : offset + block_bytes] = header + body
        previous_bytes = block_bytes if chained else 0
        offset += block_bytes
        number += 1
    if chained and offset < _PAGE_BYTES:
        rest_bytes = _PAGE_BYTES - offset
        header = _pack_header(architecture, previous_bytes // unit, rest_bytes // unit, 0, b"Free")
        page[offset : offset + header_bytes] = header
    return bytes(page), blocks


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
