"""The big-page table: where the allocations of a page and more are, with their tags.

Sources: the types in Microsoft's public PDBs (JPCERTCC/Windows-Symbol-Tables, volatility overlays); volatility for the
free bit; public decompilations for POOL_FLAGS in the newest kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Collection, List, Optional, Tuple

from pykdext.errors import LayoutNotFoundError, TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.biglocation import (
    FIELDS,
    FREE,
    MAX_ROWS,
    TYPE_NAME,
    count_plausible_rows,
    list_big_forms,
    locate_big_table,
)
from pykdext.kernel.structs import iter_whole_rows
from pykdext.model import PROTECTED_POOL, Allocation, PoolKind, PoolTag, Record, Struct
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things
from pykdext.work import UNWATCHED, Work

_SMALLEST_ROW = 12
_SAMPLE_BYTES = 16 * PAGE_BYTES
_PAGED_TYPE = 0x001
_PAGED_FLAG, _NONPAGED_FLAGS = 0x100, 0x0C0
_LAST_BUILD_WITH_POOL_TYPE = 22000
"""The last build whose symbols show POOL_TYPE; some later one stores POOL_FLAGS in the same bits."""


@dataclass(frozen=True)
class BigPages:
    """The live entries of the table, how much of it was read, and what is uncertain about it, in words."""

    allocations: Tuple[Allocation, ...]
    rows_read: int
    rows_expected: int
    warnings: Tuple[str, ...] = ()


def read_big_pages(kernel: Kernel, tags: Collection[PoolTag], work: Work = UNWATCHED) -> BigPages:
    """The big allocations of ``tags`` that are in use; with an ``interruption`` those found before it.

    Raises:
        TargetError: the table cannot be found, or nothing of it is in memory.
    """
    target = kernel.target
    base, count, warnings = locate_big_table(kernel)
    if count > MAX_ROWS:
        raise TargetError(f"big-page table: found {count_things(count, 'row')}, expected at most {MAX_ROWS:,}")
    form = _find_form(kernel, base, count)
    keys = replace(form, fields={name: form.fields[name] for name in ("Va", "Key")})
    tags_by_key = {key: tag for tag in tags for key in (tag.key, tag.key | PROTECTED_POOL)}
    allocations: List[Allocation] = []
    rows_read = 0
    with work.hold():
        for rows in iter_whole_rows(target.read_present(base, count * form.stride), base, form.stride, count):
            rows_read += len(rows) // form.stride
            for number, (address, key) in enumerate(keys.iter_unpack(rows)):
                if key in tags_by_key and address and not address & FREE:
                    row = form.parse(rows[number * form.stride : (number + 1) * form.stride])
                    allocations.append(_allocation(row, tags_by_key[key], target.facts.build))
    if not rows_read and not work.is_ended:
        raise TargetError(f"big-page table at 0x{base:x}: found no page of it, expected {count_things(count, 'row')}")
    return BigPages(tuple(allocations), rows_read, count, warnings)


def _find_form(kernel: Kernel, base: int, count: int) -> Struct:
    """The layout of the table's rows: by symbols, by the build, else the shipped one that reads the most as rows."""
    form = kernel.struct(TYPE_NAME, *FIELDS, sizes={"Key": 4})
    if form is not None and form.has("Va", "Key"):
        return form
    target = kernel.target
    head = next((data for at, data in target.read_present(base, count * _SMALLEST_ROW) if at == base), b"")
    best: Optional[Struct] = None
    most = 0
    for candidate in list_big_forms(target.pointer_size):
        plausible = count_plausible_rows(candidate, head[:_SAMPLE_BYTES], target.machine)
        # Of layouts that read the keys alike the longer one is the newer: the unknown kernel is newer than all.
        if plausible and (plausible, candidate.stride) > (most, best.stride if best else 0):
            best, most = candidate, plausible
    if best is None:
        raise LayoutNotFoundError(target.facts.build, "POOL_TRACKER_BIG_PAGES", "rows that are like none that is known")
    return best


def _allocation(row: Record, tag: PoolTag, build: Optional[int]) -> Allocation:
    if row["NumberOfBytes"] is None:
        return Allocation(row["Va"], (row["NumberOfPages"] or 0) * PAGE_BYTES, tag, None, is_big=True)
    pool = None if row["PoolType"] is None else _pool_of(row["PoolType"] & 0xFFF, build)
    return Allocation(row["Va"], row["NumberOfBytes"], tag, pool, is_big=True)


def _pool_of(pool_type: int, build: Optional[int]) -> PoolKind:
    """POOL_TYPE has bit 0 for paged pool; in the newest kernels the bits may be POOL_FLAGS instead."""
    if build is not None and build > _LAST_BUILD_WITH_POOL_TYPE:
        if pool_type & _PAGED_FLAG:
            return PoolKind.PAGED
        if pool_type & _NONPAGED_FLAGS:
            return PoolKind.NONPAGED
    return PoolKind.PAGED if pool_type & _PAGED_TYPE else PoolKind.NONPAGED
