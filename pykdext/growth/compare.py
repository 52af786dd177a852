"""What changed from one snapshot to another."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from pykdext.growth.restart import COUNTER_RANGE, find_restart, is_wrap, seconds_between, trusted_seconds_between
from pykdext.model import UNSAID, UNUSED, Change, Diff, PoolKind, PoolSnapshot, PoolTag, TagDelta, TagUsage
from pykdext.model.growth import say_restart
from pykdext.units import format_duration, name_some

_SORT_NUMBERS: Dict[str, Callable[[TagDelta], Optional[float]]] = {
    "bytes": lambda delta: delta.bytes,
    "outstanding": lambda delta: delta.outstanding,
    "allocs": lambda delta: delta.allocs,
    "frees": lambda delta: delta.frees,
    "rate": lambda delta: delta.bytes_per_hour,
}


def compare_snapshots(before: PoolSnapshot, after: PoolSnapshot) -> Diff:
    """All tags whose counters differ, those whose bytes grew most first.

    A tag that is missing in a snapshot counts as never used there, if that tells of the pool at all.
    ``compare_snapshots(b, a)`` has the negated numbers of ``compare_snapshots(a, b)``; the order in time, not that of
    the arguments, tells what wrapped.
    """
    seconds = trusted_seconds_between(before, after)
    is_swapped = seconds is not None and seconds < 0
    earlier, later = (after, before) if is_swapped else (before, after)
    restart = find_restart(earlier, later)
    hours = seconds / 3600 if seconds and restart is None else None
    can_wrap = bool(seconds) and restart is None
    deltas = tuple(
        _doubt_new(delta, before)
        for first, second, pool in _iter_pairs(before, after)
        if (delta := _compare_usages(first, second, pool, hours, can_wrap, is_swapped)) is not None
    )
    return Diff(
        before=before,
        after=after,
        interval_seconds=seconds,
        deltas=rank_deltas(deltas),
        restart=restart,
        warnings=tuple(_iter_warnings(before, after, deltas, restart)),
    )


def rank_deltas(deltas: Iterable[TagDelta], sorts: Sequence[str] = ("bytes",)) -> Tuple[TagDelta, ...]:
    """Sorted by each of ``sorts`` in turn, at last by tag.

    A sort is ``bytes``, ``outstanding``, ``allocs``, ``frees``, ``rate`` or ``tag``.
    What grew most comes first, what shrank most last, unknown numbers after all others; tags ascend.
    """

    def key(delta: TagDelta) -> Tuple[object, ...]:
        parts: List[object] = []
        for sort in sorts:
            if sort == "tag":
                parts += [delta.tag, delta.pool.value]
            else:
                number = _SORT_NUMBERS[sort](delta)
                parts.append((number is None, -(number or 0)))
        return (*parts, delta.tag, delta.pool.value)

    return tuple(sorted(deltas, key=key))


def _iter_pairs(
    before: PoolSnapshot, after: PoolSnapshot
) -> Iterator[Tuple[Optional[TagUsage], Optional[TagUsage], PoolKind]]:
    firsts = {row.tag.raw: row for row in before.tags}
    seconds = {row.tag.raw: row for row in after.tags}
    pools = [pool for pool in PoolKind if not _untold_sides(before, after, pool)]
    for raw in {**firsts, **seconds}:
        for pool in pools:
            yield firsts.get(raw), seconds.get(raw), pool


def _untold_sides(before: PoolSnapshot, after: PoolSnapshot, pool: PoolKind) -> List[str]:
    """Which of the states does not list ``pool`` though the other one does."""
    told = {
        name: any(row.usage(pool) != UNSAID for row in state.tags) or not state.tags
        for name, state in (("first", before), ("second", after))
    }
    return [name for name, is_told in told.items() if not is_told] if any(told.values()) else []


def _doubt_new(delta: TagDelta, before: PoolSnapshot) -> TagDelta:
    """The difference, marked where the tag may have been in use though the first list does not have it."""
    if Change.NEW not in delta.changes:
        return delta
    unlisted = before.unlisted_bytes(delta.pool)
    if unlisted is not None and unlisted < max(1, delta.after.bytes or 0):
        return delta
    changes = tuple(Change.UNLISTED if change is Change.NEW else change for change in delta.changes)
    return replace(delta, changes=changes)


def _compare_usages(
    first: Optional[TagUsage],
    second: Optional[TagUsage],
    pool: PoolKind,
    hours: Optional[float],
    can_wrap: bool,
    is_swapped: bool,
) -> Optional[TagDelta]:
    """The difference of one side of a tag; None if no counter is known to differ."""
    before = first.usage(pool) if first else UNUSED
    after = second.usage(pool) if second else UNUSED
    if before == after:
        return None
    presence = (Change.NEW,) if first is None else (Change.GONE,) if second is None else ()
    can_wrap = can_wrap and not presence
    allocs, allocs_change = _subtract_counters(before.allocs, after.allocs, can_wrap, is_swapped)
    frees, frees_change = _subtract_counters(before.frees, after.frees, can_wrap, is_swapped)
    outstanding = _subtract(before.outstanding, after.outstanding)
    used_bytes = _subtract(before.bytes, after.bytes)
    if not (allocs or frees or outstanding or used_bytes):
        return None
    odd = tuple(dict.fromkeys(change for change in (allocs_change, frees_change) if change))
    return TagDelta(
        tag=_tag_of(first, second),
        pool=pool,
        before=before,
        after=after,
        allocs=allocs,
        frees=frees,
        outstanding=outstanding,
        bytes=used_bytes,
        bytes_per_hour=used_bytes / hours if hours and used_bytes is not None else None,
        changes=presence + odd,
    )


def _tag_of(first: Optional[TagUsage], second: Optional[TagUsage]) -> PoolTag:
    row = second or first
    assert row is not None
    return row.tag


def _subtract(before: Optional[int], after: Optional[int]) -> Optional[int]:
    return None if before is None or after is None else after - before


def _subtract_counters(
    before: Optional[int], after: Optional[int], can_wrap: bool, is_swapped: bool
) -> Tuple[Optional[int], Optional[Change]]:
    """The difference of counters that only rise, and what is odd about it; without ``can_wrap`` nothing is."""
    difference = _subtract(before, after)
    forward = difference if difference is None or not is_swapped else -difference
    if forward is None or difference is None or forward >= 0 or not can_wrap:
        return difference, None
    if is_wrap(*((after, before) if is_swapped else (before, after))):
        return difference + (-COUNTER_RANGE if is_swapped else COUNTER_RANGE), Change.WRAPPED
    return difference, Change.WENT_BACK


def _iter_warnings(
    before: PoolSnapshot, after: PoolSnapshot, deltas: Sequence[TagDelta], restart: Optional[str]
) -> Iterator[str]:
    yield from (f"before: {warning}" for warning in before.warnings)
    yield from (f"after: {warning}" for warning in after.warnings)
    yield from _machine_warnings(before, after)
    for pool in PoolKind:
        for name in _untold_sides(before, after, pool):
            yield f"the {name} state does not list the {pool.value} pool: nothing of it is compared"
    seconds = trusted_seconds_between(before, after)
    if seconds is None:
        yield _describe_unknown_interval(before, after)
    elif seconds < 0:
        yield f"the second state was taken {format_duration(-seconds)} before the first, so growth is negative"
    elif seconds == 0:
        yield "both states bear the same time, so there are no rates"
    if restart is not None:
        yield f"{say_restart(seconds)} ({restart}); differences compare two boots, so there are no rates"
    yield from _counter_warnings(deltas)


def _describe_unknown_interval(before: PoolSnapshot, after: PoolSnapshot) -> str:
    seconds = seconds_between(before, after)
    if seconds is None:
        return "the time between the two states is not known, so there are no rates"
    return (
        f"the times are those of files that were written {format_duration(abs(seconds))} apart, perhaps when they were "
        "copied: the time between the two states is not known, so there are no rates"
    )


def _machine_warnings(before: PoolSnapshot, after: PoolSnapshot) -> Iterator[str]:
    if before.host and after.host and before.host.lower() != after.host.lower():
        yield f"the states are of different machines: {before.host} and {after.host}"
    if before.machine and after.machine and before.machine is not after.machine:
        yield f"the states are of different machines: {before.machine.value} and {after.machine.value}"
    if before.build is not None and after.build is not None and before.build != after.build:
        yield f"the states are of different Windows builds: {before.build} and {after.build}"


def _counter_warnings(deltas: Sequence[TagDelta]) -> Iterator[str]:
    sentences = {
        Change.WRAPPED: "a 32-bit counter went through zero, which was taken into account",
        Change.WENT_BACK: "a counter went back though the machine was not restarted; the difference is as it stands",
        Change.UNLISTED: "missing in the first state, which is a part of a list or cut; they may have been in use",
        Change.GONE: "missing in the second state, which may be a shortened list; counted as 0 there",
    }
    for change, sentence in sentences.items():
        tags = list(dict.fromkeys(delta.tag.text for delta in deltas if change in delta.changes))
        if tags:
            yield f"{name_some(tags)}: {sentence}"
