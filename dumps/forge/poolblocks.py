"""Pool pages: blocks behind a POOL_HEADER, and what their owners keep in them (x64 layout of the public symbols)."""

from __future__ import annotations

import random
import struct
from typing import List, NamedTuple, Sequence, Tuple

POOL_HEADER_BYTES = 0x10

_PAGE_BYTES = 0x1000
_UNIT = 0x10
_SUBSEGMENT_HEADER_BYTES = 0x40
_SEGMENT_HEAP_BUILD = 17763
_IN_USE = 2


class PoolBlock(NamedTuple):
    """A block that is in use: the address of its header (or of the big block), its size in bytes, header included."""

    va: int
    size: int
    is_big: bool


def pack_pool_page(
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

    ``contents`` are pointers of the owner that each of its blocks repeats. Up to build 17134 blocks are chained by
    PreviousSize; since then a page of the segment heap starts with the heap's own header.
    """
    chained = build < _SEGMENT_HEAP_BUILD
    offset = 0 if chained else _SUBSEGMENT_HEADER_BYTES
    page = bytearray(_PAGE_BYTES)
    blocks: List[PoolBlock] = []
    previous_units, number = 0, 0
    while offset + block_bytes <= _PAGE_BYTES:
        free = number % 7 == 6
        kind = 0 if free else _IN_USE | paged
        struct.pack_into("<BBBB4sQ", page, offset, previous_units, 0, block_bytes // _UNIT, kind, tag, 0)
        if not free:
            blocks.append(PoolBlock(page_va + offset, block_bytes, is_big=False))
        body = pack_contents(page_va + offset, block_bytes - POOL_HEADER_BYTES, contents, chance)
        page[offset + POOL_HEADER_BYTES : offset + block_bytes] = body
        previous_units = block_bytes // _UNIT if chained else 0
        offset += block_bytes
        number += 1
    if chained and offset < _PAGE_BYTES:
        rest_units = (_PAGE_BYTES - offset) // _UNIT
        struct.pack_into("<BBBB4sQ", page, offset, previous_units, 0, rest_units, 0, b"Free", 0)
    return bytes(page), blocks


def pack_contents(link_va: int, size: int, contents: Sequence[int], chance: random.Random) -> bytes:
    """Return what an owner keeps in a block: list links, its pointers, a few numbers, then data."""
    words = [link_va + 0x10, link_va + 0x10, *contents, chance.getrandbits(24), chance.getrandbits(16)]
    body = struct.pack(f"<{len(words)}Q", *words)[:size]
    return body + chance.getrandbits(8 * 16).to_bytes(16, "little")[: size - len(body)].ljust(size - len(body), b"\0")
