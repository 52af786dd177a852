"""nt's pool tag tables (_POOL_TRACKER_TABLE) and big-page table (_POOL_TRACKER_BIG_PAGES).

Layouts from the public kernels' type information; hash and special rows as observed in real tables.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Dict, Iterable, List, NamedTuple, Sequence

from dumps.forge.architectures import Architecture

OVERFLOW_TAG = b"Ovfl"

_HASH_FACTOR = 40543
_PROTECTED = 0x80000000
_WORD = 1 << 64
_BIG_PAGE_ALIGNMENT = 0x1000
_FIRST_WITH_NEW_HASH = 6000  # Vista; before, the hash folds the bytes of a tag
_FIRST_WITH_SLUSH = 10240
_NO_EXECUTE_POOL = 0x200  # POOL_TYPE of nonpaged pool since Windows 8


class TagTruth(NamedTuple):
    """What one tag's counters add up to over all processors."""

    nonpaged_allocs: int = 0
    nonpaged_frees: int = 0
    nonpaged_bytes: int = 0
    paged_allocs: int = 0
    paged_frees: int = 0
    paged_bytes: int = 0


@dataclass(frozen=True)
class BigPage:
    """One row of the big-page table; a freed one keeps its address with bit 0 set."""

    va: int
    tag: bytes
    size_bytes: int
    paged: bool
    freed: bool = False


def place_tags(tags: Iterable[bytes], row_count: int, build: int) -> Dict[bytes, int]:
    """Return the row of each tag: hashed, then probed linearly; the last row takes only the overflow tag."""
    mask = row_count - 2
    rows: Dict[bytes, int] = {}
    taken = set()
    for tag in tags:
        row = (_hash(_clean_key(tag)) if build >= _FIRST_WITH_NEW_HASH else _fold_hash(tag)) & mask
        while row in taken:
            row = row + 1 & mask
        taken.add(row)
        rows[tag] = row
    rows[OVERFLOW_TAG] = row_count - 1
    return rows


def spread_counters(total: TagTruth, processors: int, chance: random.Random) -> List[TagTruth]:
    """Split a tag's counters over processors; blocks allocated on one and freed on another leave negative bytes."""
    nonpaged = _spread_pool(*total[:3], processors, chance)
    paged = _spread_pool(*total[3:], processors, chance)
    return [TagTruth(*nonpaged[n], *paged[n]) for n in range(processors)]


def pack_table(rows: Dict[int, bytes], row_count: int, row_bytes: int) -> bytes:
    """Return a table from its packed rows, by index."""
    table = bytearray(row_count * row_bytes)
    for index, row in rows.items():
        table[index * row_bytes : (index + 1) * row_bytes] = row
    return bytes(table)


def pack_row(tag: bytes, counters: TagTruth, row_bytes: int) -> bytes:
    """Return one row; counters are modular.

    On 64-bit systems it has 28h bytes up to build 15063, 38h up to 19045, 50h since 20348; on 32-bit ones 1Ch up to
    15063, then 30h.
    """
    key = _clean_key(tag)
    allocs, frees, size, paged_allocs, paged_frees, paged_size = (value % _WORD for value in counters)
    if row_bytes in (0x28, 0x1C):
        counts = (value & 0xFFFFFFFF for value in (allocs, frees, paged_allocs, paged_frees))
        first, second, third, fourth = counts
        if row_bytes == 0x1C:
            sizes = (size & 0xFFFFFFFF, paged_size & 0xFFFFFFFF)
            return struct.pack("<7I", key, first, second, sizes[0], third, fourth, sizes[1])
        return struct.pack("<IIIxxxxQIIQ", key, first, second, size, third, fourth, paged_size)
    if row_bytes == 0x30:
        sizes = (size & 0xFFFFFFFF, paged_size & 0xFFFFFFFF)
        return struct.pack("<IIQQIxxxxQQ", key, sizes[0], allocs, frees, sizes[1], paged_allocs, paged_frees)
    row = struct.pack("<IxxxxQQQQQQ", key, size, allocs, frees, paged_size, paged_allocs, paged_frees)
    return row.ljust(row_bytes, b"\0")


def pack_big_pages(
    pages: Sequence[BigPage], row_count: int, row_bytes: int, build: int, architecture: Architecture
) -> bytes:
    """Return the big-page table, rows hashed by page; ``row_count`` is a power of two."""
    rows: Dict[int, bytes] = {}
    for page in pages:
        number = page.va >> 12 & 0xFFFFFFFF
        row = (_hash(number) if build >= _FIRST_WITH_NEW_HASH else _fold_page(number)) & row_count - 1
        while row in rows:
            row = row + 1 & row_count - 1
        rows[row] = _pack_big_page(page, build, architecture).ljust(row_bytes, b"\0")
    free_row = architecture.pack_pointers(1).ljust(row_bytes, b"\0")
    free_rows = {index: free_row for index in range(row_count) if index not in rows}
    return pack_table({**rows, **free_rows}, row_count, row_bytes)


def _pack_big_page(page: BigPage, build: int, architecture: Architecture) -> bytes:
    """Return one row: up to 2003 with a number of pages, later with the kind of pool and a size in bytes."""
    start = architecture.pack_pointers(page.va | page.freed) + page.tag
    if build < _FIRST_WITH_NEW_HASH:
        return start + struct.pack("<I", page.size_bytes // _BIG_PAGE_ALIGNMENT)
    kind = 1 if page.paged else (_NO_EXECUTE_POOL if build > 7601 else 0)
    if build >= _FIRST_WITH_SLUSH:
        slush = -page.size_bytes % _BIG_PAGE_ALIGNMENT
        kind = kind << 8 | slush << 20 & 0xFFFFFFFF
    return start + struct.pack("<I", kind) + architecture.pack_pointers(page.size_bytes)


def _spread_pool(allocs: int, frees: int, size: int, processors: int, chance: random.Random) -> List[Sequence[int]]:
    average = size // (allocs - frees) if allocs > frees else 0x100
    allocated = _compose(allocs, processors, chance)
    freed = _compose(frees, processors, chance)
    sizes = [(taken - given) * average for taken, given in zip(allocated, freed)]
    sizes[0] += size - sum(sizes)
    return list(zip(allocated, freed, sizes))


def _compose(total: int, parts: int, chance: random.Random) -> List[int]:
    """Split a count into parts of quite different sizes that add up to it."""
    weights = [chance.uniform(0.3, 1.0) for _ in range(parts)]
    split = [int(total * weight / sum(weights)) for weight in weights]
    split[-1] += total - sum(split)
    return split


def _clean_key(tag: bytes) -> int:
    return int.from_bytes(tag, "little") & ~_PROTECTED


def _hash(key: int) -> int:
    product = key * _HASH_FACTOR
    return (product & 0xFFFFFFFF) ^ (product >> 32 & 0xFFFFFFFF)


def _fold_hash(tag: bytes) -> int:
    key = ((tag[0] << 2 ^ tag[1]) << 2 ^ tag[2]) << 2 ^ tag[3]
    return (key * _HASH_FACTOR & 0xFFFFFFFF) >> 2


def _fold_page(number: int) -> int:
    return number >> 24 ^ number >> 16 ^ number >> 8 ^ number
