"""How reports call the pool of a row: by its name, or, where the source's rows name none, by no name."""

from __future__ import annotations

from typing import List, Optional, Sequence

from pykdext.model import POOL_UNNAMED, PoolKind, PoolSnapshot, PoolTotal

UNNAMED = "-"
"""In the column Type, where no row says its pool."""


def is_pool_named(snapshot: Optional[PoolSnapshot]) -> bool:
    """Whether the source says which pool its rows count; without a snapshot nothing speaks against it."""
    return snapshot is None or POOL_UNNAMED not in snapshot.warnings


def label_pool(pool: PoolKind, snapshot: Optional[PoolSnapshot]) -> str:
    """The word in the column Type of a row of ``snapshot``: ``Nonp``, ``Paged``, or ``-`` where none is named."""
    return pool.label if is_pool_named(snapshot) else UNNAMED


def name_pool(pool: PoolKind, snapshot: Optional[PoolSnapshot]) -> str:
    """The pool of a row of ``snapshot`` within a sentence."""
    return f"{pool.value} pool" if snapshot is None else snapshot.name_pool(pool)


def name_tag(name: str, pool: PoolKind, snapshot: Optional[PoolSnapshot]) -> str:
    """``Toke Paged``: a tag in a pool where there is no column for it; the tag alone where no pool is named."""
    return f"{name} {pool.label}" if is_pool_named(snapshot) else name


def name_limit(limit: Optional[str], snapshot: Optional[PoolSnapshot]) -> str:
    """What a growing tag fills: ``commit limit`` as it is, a pool as the rows of ``snapshot`` name it."""
    return next((name_pool(pool, snapshot) for pool in PoolKind if limit == f"{pool.value} pool"), limit or "")


def label_total(total: PoolTotal, snapshot: Optional[PoolSnapshot]) -> str:
    """As ``label_pool``; what the memory manager itself counts is always of a pool that has a name."""
    return label_pool(total.pool, snapshot) if total.by_tags else total.pool.label


def name_total(total: PoolTotal, snapshot: PoolSnapshot) -> str:
    """As ``label_total``, within a sentence."""
    return name_pool(total.pool, snapshot) if total.by_tags else f"{total.pool.value} pool"


def list_pools(snapshot: PoolSnapshot) -> List[PoolKind]:
    """Those to show of ``snapshot``: both; where no pool is named, the one to which its rows are counted."""
    if is_pool_named(snapshot):
        return list(PoolKind)
    held = [pool for pool in PoolKind if any(not row.usage(pool).is_idle for row in snapshot.tags)]
    return held or [PoolKind.NONPAGED]


def list_totals(totals: Sequence[PoolTotal], snapshot: Optional[PoolSnapshot]) -> List[PoolTotal]:
    """Those to show: where no pool is named, all rows are of one, and the other is not known to be empty."""
    if is_pool_named(snapshot):
        return list(totals)
    return [total for total in totals if total.used_bytes is not None or total.limit_bytes is not None]
