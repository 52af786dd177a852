"""The big-page table: where the allocations of a page and more are, with their tags.

Sources: the types in Microsoft's public PDBs (JPCERTCC/Windows-Symbol-Tables, volatility overlays); volatility for the
free bit; public decompilations for POOL_FLAGS in the newest kernels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Collection, Iterator, List, Mapping, Optional, Tuple

from pykdext.errors import TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.rows import iter_whole_rows
from pykdext.model import PROTECTED_POOL, Allocation, PoolKind, PoolTag
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.work import Interruption, hold, is_interrupted

MAX_ROWS = 1 << 24
"""Windows doubles the table as it fills; 16 million entries describe 64 GiB in the smallest big allocations."""

_FREE = 1
"""Bit 0 of Va: the entry is not in use."""

_PAGED_TYPE = 0x001
_PAGED_FLAG, _NONPAGED_FLAGS = 0x100, 0x0C0
_LAST_BUILD_WITH_POOL_TYPE = 22000
"""The last build whose symbols show POOL_TYPE; some later one stores POOL_FLAGS in the same bits."""


@dataclass(frozen=True)
class BigPageLayout:
    """One generation of POOL_TRACKER_BIG_PAGES.

    Attributes:
        pointer_size, first_build: where it applies.
        row_format: ``struct`` format that gives Va, Key, the word with PoolType in it, and the size in bytes; or, where
            ``type_shift`` is None, Va, Key and the size in pages.
        type_shift: where PoolType begins in its word.
    """

    pointer_size: int
    first_build: int
    row_format: str
    type_shift: Optional[int]


BIG_PAGE_LAYOUTS = (
    # Newest first: the first that is not newer than the build applies.
    BigPageLayout(8, 20348, "<QIIQ8x", 8),  # ProcessBilled at the end
    BigPageLayout(8, 10240, "<QIIQ", 8),  # Pattern, PoolType, SlushSize share a word
    BigPageLayout(8, 6000, "<QIIQ", 0),
    BigPageLayout(8, 3790, "<QII8x", None),
    BigPageLayout(4, 10240, "<IIII", 8),
    BigPageLayout(4, 6000, "<IIII", 0),
    BigPageLayout(4, 3790, "<III4x", None),
    BigPageLayout(4, 2600, "<III", None),
)


def find_big_page_layout(pointer_size: int, build: Optional[int]) -> Optional[BigPageLayout]:
    """The layout of this build's table; None for builds older than Windows XP or unknown ones."""
    if build is None:
        return None
    fitting = (layout for layout in BIG_PAGE_LAYOUTS if layout.pointer_size == pointer_size)
    return next((layout for layout in fitting if layout.first_build <= build), None)


@dataclass(frozen=True)
class BigPages:
    """The live entries of the table, and how much of it was read."""

    allocations: Tuple[Allocation, ...]
    rows_read: int
    rows_expected: int


def read_big_pages(kernel: Kernel, tags: Collection[PoolTag], interruption: Optional[Interruption] = None) -> BigPages:
    """The big allocations of ``tags`` that are in use; with an ``interruption`` those found before it.

    Raises:
        TargetError: the table cannot be found, or nothing of it is in memory.
    """
    target = kernel.target
    layout = find_big_page_layout(target.pointer_size, target.facts.build)
    base, count = kernel.find_variable("PoolBigPageTable"), kernel.find_variable("PoolBigPageTableSize")
    if layout is None or not base or not count:
        raise TargetError(
            "big-page table: found no symbol for nt!PoolBigPageTable and its size, expected both. "
            "Hint: give the kernel's PDB with --symbols"
        )
    if count > MAX_ROWS:
        raise TargetError(f"big-page table: found {count:,} rows, expected at most {MAX_ROWS:,}")
    reader = struct.Struct(layout.row_format)
    tags_by_key = {key: tag for tag in tags for key in (tag.key, tag.key | PROTECTED_POOL)}
    allocations: List[Allocation] = []
    rows_read = 0
    with hold(interruption):
        for rows in iter_whole_rows(target.read_present(base, count * reader.size), base, reader.size, count):
            rows_read += len(rows) // reader.size
            allocations += _iter_live(reader, layout, rows, tags_by_key, target.facts.build)
    if not rows_read and not is_interrupted(interruption):
        raise TargetError(f"big-page table at 0x{base:x}: found no page of it, expected {count:,} rows")
    return BigPages(tuple(allocations), rows_read, count)


def _iter_live(
    reader: struct.Struct,
    layout: BigPageLayout,
    rows: bytes,
    tags_by_key: Mapping[int, PoolTag],
    build: Optional[int],
) -> Iterator[Allocation]:
    for address, key, *rest in reader.iter_unpack(rows):
        if not address or address & _FREE or key not in tags_by_key:
            continue
        tag = tags_by_key[key]
        if layout.type_shift is None:
            yield Allocation(address, rest[0] * PAGE_BYTES, tag, None, is_big=True)
        else:
            pool = _pool_of(rest[0] >> layout.type_shift & 0xFFF, build)
            yield Allocation(address, rest[1], tag, pool, is_big=True)


def _pool_of(pool_type: int, build: Optional[int]) -> PoolKind:
    """POOL_TYPE has bit 0 for paged pool; in the newest kernels the bits may be POOL_FLAGS instead."""
    if build is not None and build > _LAST_BUILD_WITH_POOL_TYPE:
        if pool_type & _PAGED_FLAG:
            return PoolKind.PAGED
        if pool_type & _NONPAGED_FLAGS:
            return PoolKind.NONPAGED
    return PoolKind.PAGED if pool_type & _PAGED_TYPE else PoolKind.NONPAGED
