"""Numbers of a state that cannot be right: they are shown with a doubt, never as facts."""

from __future__ import annotations

from typing import Iterator, Tuple

from pykdext.model import PoolKind, PoolSnapshot
from pykdext.units import format_bytes, name_some

_TOLERANCE = 1.02
"""Counts of one state are read one after the other."""


def iter_doubts(snapshot: PoolSnapshot) -> Iterator[Tuple[PoolKind, str]]:
    """What contradicts itself in a state, one line each, with the pool that it is of."""
    memory = snapshot.memory
    for pool in PoolKind:
        held, limit = snapshot.pool_bytes(pool), memory.limit_bytes(pool)
        if not held:
            continue
        backing = memory.physical_bytes if pool is PoolKind.NONPAGED else memory.commit_limit_bytes
        what = "physical memory" if pool is PoolKind.NONPAGED else "commit limit"
        if backing and held > _TOLERANCE * backing:
            yield (
                pool,
                (
                    f"a {pool.value} pool of {format_bytes(held)} exceeds the {format_bytes(backing)} of {what}: "
                    "the number cannot be right"
                ),
            )
        elif limit and held > _TOLERANCE * limit:
            yield (
                pool,
                (
                    f"a {pool.value} pool of {format_bytes(held)} exceeds its limit of {format_bytes(limit)}: "
                    "one of the numbers cannot be right"
                ),
            )
        hollow = [
            str(row.tag)
            for row in snapshot.tags
            if row.usage(pool).bytes and row.usage(pool).outstanding == 0 and not row.usage(pool).clamped
        ]
        if hollow:
            yield pool, f"{pool.value} pool: bytes without blocks cannot be right: {name_some(hollow)}"
