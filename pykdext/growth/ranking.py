"""Which tags look like a leak: pure functions on the model.

One snapshot holds no growth. So its tags are judged by what leaks have in common: large, many blocks outstanding,
seldom freed, and an owner that is not part of Windows. Each trait gives points and a reason in words; the thresholds
stand here by name.
"""

from __future__ import annotations

from typing import Iterator, Mapping, Optional, Tuple

from pykdext.model import (
    Confidence,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    Role,
    Suspect,
    TagClass,
    TagOwners,
)
from pykdext.units import format_bytes, format_count, format_share

NOTABLE_SHARE = 0.05
NOTABLE_BYTES = 256 << 20
"""A tag below both is not judged: even if it leaks, it is not what hangs this machine."""

LARGE_SHARE, DOMINANT_SHARE = 0.10, 0.30
OVERWHELMING_SHARE = 0.60
"""Not even the caches of Windows hold this much of a pool while all is well."""
OVERWHELMING_POINTS = 4
LARGE_BYTES = 1 << 30
MANY_BLOCKS = 100_000
FEW_ALLOCATIONS = 1_000
"""With fewer allocations the share that was freed says nothing: buffers that live as long as the system."""
SELDOM_FREED, OFTEN_KEPT = 0.10, 0.50

SUSPICIOUS_SCORE = 5
"""Two traits alone, such as the buffers for life of a foreign driver, are common on healthy servers."""


def find_notable(snapshot: PoolSnapshot) -> Tuple[PoolTag, ...]:
    """The tags that are large enough to be judged, the largest first, no tag twice."""
    rows = sorted(_iter_notable(snapshot), key=lambda row: -(row[2].bytes or 0))
    return tuple(dict.fromkeys(tag for tag, _, _, _ in rows))


def rank_suspects(snapshot: PoolSnapshot, owners: Mapping[PoolTag, TagOwners]) -> Tuple[Suspect, ...]:
    """The tags that look like a leak, the most suspicious first; empty if nothing stands out.

    ``owners`` is what is known of the notable tags' owners; a tag that is missing there has none.
    """
    suspects = [
        _judge(snapshot, tag, pool, usage, share, owners.get(tag))
        for tag, pool, usage, share in _iter_notable(snapshot)
    ]
    suspicious = [suspect for suspect in suspects if suspect.score >= SUSPICIOUS_SCORE]
    return tuple(sorted(suspicious, key=lambda suspect: (-suspect.score, -(suspect.usage.bytes or 0))))


def _iter_notable(snapshot: PoolSnapshot) -> Iterator[Tuple[PoolTag, PoolKind, PoolUsage, float]]:
    for pool in PoolKind:
        total = snapshot.pool_bytes(pool)
        if not total:
            continue
        for row in snapshot.tags:
            usage = row.usage(pool)
            if usage.bytes and (usage.bytes >= NOTABLE_SHARE * total or usage.bytes >= NOTABLE_BYTES):
                yield row.tag, pool, usage, usage.bytes / total


def _judge(
    snapshot: PoolSnapshot,
    tag: PoolTag,
    pool: PoolKind,
    usage: PoolUsage,
    share: float,
    known: Optional[TagOwners],
) -> Suspect:
    traits = [
        *_size_traits(pool, usage, share, is_whole=snapshot.memory.used_bytes(pool) is not None),
        *_lifetime_traits(usage),
        *_owner_traits(known),
        *_habit_traits(known, share),
    ]
    hours = (snapshot.uptime_seconds or 0) / 3600
    return Suspect(
        tag=tag,
        pool=pool,
        usage=usage,
        share=share,
        score=sum(points for points, _ in traits),
        reasons=tuple(reason for _, reason in traits),
        role=_role(known),
        bytes_per_hour=usage.bytes / hours if hours and usage.bytes is not None else None,
        owners=known.owners if known else (),
        descriptions=known.descriptions if known else (),
        owner_notes=known.notes if known else (),
    )


def _size_traits(pool: PoolKind, usage: PoolUsage, share: float, *, is_whole: bool) -> Iterator[Tuple[int, str]]:
    """``is_whole``: the share is that of the whole pool, not of the rows that somebody chose to list."""
    if share >= LARGE_SHARE:
        points = 2 if share >= DOMINANT_SHARE else 1
        if is_whole and share >= OVERWHELMING_SHARE:
            points = OVERWHELMING_POINTS
        yield points, f"holds {format_share(share)} of the {pool.value} pool"
    if (usage.bytes or 0) >= LARGE_BYTES:
        yield 1, f"holds {format_bytes(usage.bytes)}"
    if (usage.outstanding or 0) >= MANY_BLOCKS:
        yield 1, f"{format_count(usage.outstanding)} blocks are outstanding"


def _lifetime_traits(usage: PoolUsage) -> Iterator[Tuple[int, str]]:
    freed = usage.freed_share
    if freed is None or (usage.allocs or 0) < FEW_ALLOCATIONS:
        return
    if freed <= OFTEN_KEPT:
        words = "nothing" if freed == 0 else f"only {format_share(freed)}"
        yield (2 if freed <= SELDOM_FREED else 1), f"{words} of {format_count(usage.allocs)} allocations was ever freed"


def _owner_traits(known: Optional[TagOwners]) -> Iterator[Tuple[int, str]]:
    if known is None:
        return
    foreign = [owner for owner in known.owners if owner.part_of_windows is False]
    if foreign and foreign[0].confidence is not Confidence.POSSIBLE:
        yield 2, f"{foreign[0].module} is not part of Windows"
    elif not known.owners and not known.descriptions:
        yield 1, "no tag list and no image knows the tag"


def _habit_traits(known: Optional[TagOwners], share: float) -> Iterator[Tuple[int, str]]:
    habits = {description.tag_class for description in known.descriptions} if known else set()
    if TagClass.CACHE in habits and share < OVERWHELMING_SHARE:
        yield -2, "but this tag is large on healthy systems too"


def _role(known: Optional[TagOwners]) -> Role:
    if known is None:
        return Role.UNKNOWN
    if any(description.tag_class is TagClass.OBJECT for description in known.descriptions):
        return Role.OBJECT
    foreign = (owner for owner in known.owners if owner.part_of_windows is False)
    if any(owner.confidence.rank <= Confidence.LIKELY.rank for owner in foreign):
        return Role.CAUSE
    return Role.UNKNOWN
