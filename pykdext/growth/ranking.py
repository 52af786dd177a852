"""Which tags of one state look like a leak, and which are the largest: pure functions on the model."""

from __future__ import annotations

from typing import Iterator, List, Mapping, Optional, Sequence, Tuple

from pykdext.growth.lockstep import BlockCount, find_lockstep
from pykdext.growth.traits import SUSPICIOUS_SCORE, PoolView, add_up, iter_traits
from pykdext.model import (
    Confidence,
    LockstepGroup,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    Role,
    Suspect,
    TableCoverage,
    TagClass,
    TagOwners,
    TagUsage,
)

NOTABLE_SHARE = 0.05
NOTABLE_BYTES = 256 << 20
"""A tag below both is no suspect: even if it leaks, it is not what hangs this machine."""

LISTED_BYTES = 16 << 20
"""Nor is one below this, where the rows may be those that somebody chose: the pool may be far larger."""

COMPANION_BLOCKS = 100_000
"""Smaller counts are equal by chance."""

LARGEST_SHOWN = 3
"""Of each pool, whatever they look like."""

_FREES_SKEW = 8
"""One processor may free so many times as much as another without wonder: interrupts are steered to few of them."""

_STATIC_LIBRARY = ".lib"


def find_notable(snapshot: PoolSnapshot) -> Tuple[PoolTag, ...]:
    """The tags whose owners a verdict asks for, the largest first, no tag twice.

    They are those large enough to be judged, those that go along with them, and the largest of each pool.
    """
    judged = {row.tag for view in _iter_views(snapshot) for row in view.rows if _is_notable(row, view)}
    groups = find_lockstep(_iter_many_blocks(snapshot)) if judged else ()
    followers = {
        member.tag
        for group in groups
        if any(member.tag in judged for member in group.members)
        for member in group.members
    }
    largest = {row.tag for view in _iter_views(snapshot) for row in view.rows[:LARGEST_SHOWN]}
    wanted = judged | followers | largest
    rows = [(row.usage(view.pool).bytes or 0, row.tag) for view in _iter_views(snapshot) for row in view.rows]
    rows.sort(key=lambda entry: -entry[0])
    return tuple(dict.fromkeys(tag for _, tag in rows if tag in wanted))


def rank_suspects(snapshot: PoolSnapshot, owners: Mapping[PoolTag, TagOwners]) -> Tuple[Suspect, ...]:
    """The tags that look like a leak, the most suspicious first; empty if nothing stands out.

    ``owners`` is what is known of the notable tags' owners; a tag that is missing there has none.
    """
    suspects = [
        suspect
        for view in _iter_views(snapshot)
        for row in view.rows
        if _is_notable(row, view)
        and (suspect := _judge(snapshot, row, view, owners.get(row.tag))).score >= SUSPICIOUS_SCORE
        and not may_be_missing_frees(snapshot.coverage, suspect.usage, suspect.role)
    ]
    return tuple(sorted(suspects, key=lambda suspect: (-suspect.score, -(suspect.usage.bytes or 0))))


def may_be_missing_frees(coverage: TableCoverage, usage: PoolUsage, role: Role) -> bool:
    """Whether what a tag seems to hold may be what a missing processor's table counts as freed.

    A tag is beyond that if a driver that is not part of Windows is likely to allocate it, and the processors whose
    tables were read freed so little that the others would have to free far more than they do.
    """
    if not coverage.lacks_counts:
        return False
    if role is not Role.CAUSE or usage.outstanding is None or usage.frees is None:
        return True
    tables, rows = coverage.processor_tables_expected, coverage.rows_expected
    if tables == 1:
        return False  # the row of the tag was read, and no other counts it
    if not tables or not rows:
        return True
    lost = max(1.0, (rows - (coverage.rows_read or 0)) * tables / rows)
    return lost >= tables or _FREES_SKEW * usage.frees * lost / (tables - lost) >= usage.outstanding


def find_largest(snapshot: PoolSnapshot, owners: Mapping[PoolTag, TagOwners]) -> Tuple[Suspect, ...]:
    """The ``LARGEST_SHOWN`` largest tags of each pool, judged in the same way, suspects or not."""
    return tuple(
        _judge(snapshot, row, view, owners.get(row.tag))
        for view in _iter_views(snapshot)
        for row in view.rows[:LARGEST_SHOWN]
    )


def find_companions(
    snapshot: PoolSnapshot, suspects: Sequence[Suspect], owners: Mapping[PoolTag, TagOwners]
) -> Tuple[LockstepGroup, ...]:
    """Groups of tags whose outstanding blocks agree in number, those with a suspect among them, numbered from 1.

    There are none where processors' tables are missing.
    """

    def is_object(tag: PoolTag) -> bool:
        return find_role(owners.get(tag)) is Role.OBJECT

    if snapshot.coverage.lacks_counts:  # counts that agree in a part do not agree for that
        return ()
    suspicious = {(suspect.tag, suspect.pool) for suspect in suspects}
    if not suspicious:
        return ()
    found: List[LockstepGroup] = []
    for group in find_lockstep(_iter_many_blocks(snapshot), is_object):
        if any((member.tag, member.pool) in suspicious for member in group.members):
            found.append(LockstepGroup(len(found) + 1, group.members))
    return tuple(found)


def judge_companions(
    snapshot: PoolSnapshot,
    groups: Sequence[LockstepGroup],
    suspects: Sequence[Suspect],
    owners: Mapping[PoolTag, TagOwners],
) -> Tuple[Suspect, ...]:
    """The members of ``groups`` that are no suspects, judged in the same way."""
    suspicious = {(suspect.tag, suspect.pool) for suspect in suspects}
    wanted = {(member.tag, member.pool) for group in groups for member in group.members} - suspicious
    return tuple(
        _judge(snapshot, row, view, owners.get(row.tag))
        for view in _iter_views(snapshot)
        for row in view.rows
        if (row.tag, view.pool) in wanted
    )


def find_role(known: Optional[TagOwners]) -> Role:
    """What a tag is in a leak, by what is known of it."""
    if known is None:
        return Role.UNKNOWN
    classes = [item.tag_class for item in known.descriptions if item.tag_class]
    if TagClass.OBJECT in classes:
        return Role.OBJECT
    if TagClass.GENERIC in classes or any(
        item.module.lower().endswith(_STATIC_LIBRARY) for item in known.descriptions[:1]
    ):
        return Role.SHARED
    foreign = (owner for owner in known.owners if owner.part_of_windows is False)
    if any(owner.confidence.rank <= Confidence.LIKELY.rank for owner in foreign):
        return Role.CAUSE
    return Role.CACHE if TagClass.CACHE in classes else Role.UNKNOWN


def _iter_many_blocks(snapshot: PoolSnapshot) -> Iterator[BlockCount]:
    for row in snapshot.tags:
        for pool in PoolKind:
            usage = row.usage(pool)
            if usage.outstanding is not None and usage.outstanding >= COMPANION_BLOCKS:
                yield BlockCount(row.tag, pool, usage.outstanding, usage)


def _iter_views(snapshot: PoolSnapshot) -> Iterator[PoolView]:
    for pool in PoolKind:
        view = PoolView.of(snapshot, pool)
        if view is not None:
            yield view


def _is_notable(row: TagUsage, view: PoolView) -> bool:
    held = row.usage(view.pool).bytes or 0
    if not view.is_whole and held < LISTED_BYTES:
        return False
    return held >= NOTABLE_BYTES or held >= NOTABLE_SHARE * view.bytes


def _judge(snapshot: PoolSnapshot, row: TagUsage, view: PoolView, known: Optional[TagOwners]) -> Suspect:
    usage = row.usage(view.pool)
    traits = list(iter_traits(row, view, known))
    hours = (snapshot.uptime_seconds or 0) / 3600 if view.is_counted else 0
    return Suspect(
        tag=row.tag,
        pool=view.pool,
        usage=usage,
        share=(usage.bytes or 0) / view.bytes if view.is_counted else None,
        score=add_up(traits),
        reasons=tuple(trait.words for trait in traits),
        role=find_role(known),
        bytes_per_hour=usage.bytes / hours if hours and usage.bytes is not None else None,
        owners=known.owners if known else (),
        descriptions=known.descriptions if known else (),
        owner_notes=known.notes if known else (),
    )
