"""Several tables of one text that are one state: the nonpaged pool in one, the paged in the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

from pykdext.model import POOL_OF_SESSION, UNSAID, PoolKind, PoolSnapshot, PoolUsage, TableCoverage
from pykdext.records.tagtable import TagTable, count_rows


def join_states(snapshots: Iterable[PoolSnapshot]) -> Tuple[PoolSnapshot, ...]:
    """The snapshots, neighbours joined that are of one moment and of different pools."""
    return _join(snapshots, [])


def join_sorted_tables(snapshots: Sequence[PoolSnapshot], sorts: Sequence[str]) -> Tuple[PoolSnapshot, ...]:
    """The snapshots, neighbours joined that list the same state sorted in two ways (``!poolused 2`` and ``4``).

    ``sorts`` names how each is sorted; no tag that both list may differ.
    """
    return _join(snapshots, sorts)


def _join(snapshots: Iterable[PoolSnapshot], sorts: Sequence[str]) -> Tuple[PoolSnapshot, ...]:
    joined: List[PoolSnapshot] = []
    last_sorts: List[Set[str]] = []
    for index, snapshot in enumerate(snapshots):
        sort = sorts[index] if sorts else ""
        if joined and _is_same_moment(joined[-1], snapshot):
            parted = _told_pools(joined[-1]).isdisjoint(_told_pools(snapshot))
            resorted = bool(sort) and bool(last_sorts[-1]) and sort not in last_sorts[-1]
            if parted or (resorted and _agree(joined[-1], snapshot)):
                joined[-1] = _unite(joined[-1], snapshot)
                last_sorts[-1].add(sort)
                continue
        joined.append(snapshot)
        last_sorts.append({sort} if sort else set())
    return tuple(joined)


def _is_same_moment(one: PoolSnapshot, other: PoolSnapshot) -> bool:
    are_alike = (POOL_OF_SESSION in one.warnings) is (POOL_OF_SESSION in other.warnings)
    return are_alike and one.taken_at == other.taken_at and one.host == other.host and one.source == other.source


def _told_pools(snapshot: PoolSnapshot) -> Set[PoolKind]:
    return {pool for pool in PoolKind if any(row.usage(pool) != UNSAID for row in snapshot.tags)}


def _agree(one: PoolSnapshot, other: PoolSnapshot) -> bool:
    rows = {row.tag: row for row in one.tags}
    return all(rows.get(row.tag, row) == row for row in other.tags)


def _unite(one: PoolSnapshot, other: PoolSnapshot) -> PoolSnapshot:
    sides: Dict[PoolKind, Dict[bytes, PoolUsage]] = {pool: {} for pool in PoolKind}
    table = TagTable()
    for snapshot in (one, other):
        for row in snapshot.tags:
            for pool in PoolKind:
                usage = row.usage(pool)
                if usage != UNSAID and row.tag.raw not in sides[pool]:
                    sides[pool][row.tag.raw] = usage
                    table.add(row.tag, pool, usage)
    return replace(
        one,
        tags=table.usages,
        memory=other.memory if _is_empty(one) else one.memory,
        warnings=tuple(dict.fromkeys((*one.warnings, *other.warnings))),
        stated_nonpaged=_settle_total(one.stated_nonpaged, other.stated_nonpaged, sides[PoolKind.NONPAGED]),
        stated_paged=_settle_total(one.stated_paged, other.stated_paged, sides[PoolKind.PAGED]),
        stated_drivers=tuple(dict.fromkeys((*one.stated_drivers, *other.stated_drivers))),
        blocks=(*one.blocks, *other.blocks),
        coverage=_add_coverages(one, other),
    )


def _add_coverages(one: PoolSnapshot, other: PoolSnapshot) -> TableCoverage:
    """The rows of both tables; nothing is said where none of either is lost."""
    parts = [
        (len(part.tags), len(part.tags)) if rows.rows_expected is None else (rows.rows_read or 0, rows.rows_expected)
        for part in (one, other)
        for rows in (part.coverage,)
    ]
    read, expected = map(sum, zip(*parts))
    return count_rows(read, expected - read)


def _is_empty(snapshot: PoolSnapshot) -> bool:
    return all(snapshot.memory.used_bytes(pool) is None for pool in PoolKind)


def _settle_total(
    one: Optional[PoolUsage], other: Optional[PoolUsage], rows: Dict[bytes, PoolUsage]
) -> Optional[PoolUsage]:
    """The first total that is not less than what all rows hold; None if neither is one."""
    held = sum(usage.bytes or 0 for usage in rows.values())
    return next((total for total in (one, other) if total is not None and (total.bytes or 0) >= held), None)
