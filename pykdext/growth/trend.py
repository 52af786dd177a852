"""How a series of snapshots goes on: the trend of each tag, and when a pool is full."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar

from pykdext.growth.judge import MIN_SAMPLES, Judgement, judge_series
from pykdext.growth.lockstep import MIN_GROWN_BLOCKS, BlockCount, IsObject, find_lockstep, no_objects
from pykdext.growth.series import arrange_series
from pykdext.model import (
    LockstepGroup,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolTotal,
    Role,
    Slope,
    TagUsage,
    TimeOrigin,
    TotalTrend,
    Trend,
    TrendReport,
    Verdict,
)
from pykdext.units import count_things, say_rest

_END_SAMPLES = 3
"""Growth in blocks is the median of the last samples less that of the first, so that one odd sample does not matter."""

_SAMPLE_WARNINGS = 8
_DIGITS = re.compile(r"\d[\d.,]*(?: [KMGTP]B)?")

_HOURS_A_DAY = 24

_GROWING = (Verdict.LEAK, Verdict.GROWTH)

_Rows = Sequence[Optional[TagUsage]]


def follow_series(
    snapshots: Sequence[PoolSnapshot],
    is_object: IsObject = no_objects,
    allow_mixed: bool = False,
    every_seconds: Optional[float] = None,
) -> TrendReport:
    """The trend of every tag over the snapshots, which may come in any order.

    ``every_seconds`` is the time from one sample to the next, for samples that bear none. Without any time there are
    verdicts, but no rates: ``span_seconds`` is None then.
    ``is_object`` tells tags of kernel objects. Tags without bytes in any sample have no trend.

    Raises:
        MixedMachinesError: the snapshots are of different machines; not if ``allow_mixed``.
    """
    series = arrange_series(snapshots, allow_mixed, every_seconds)
    guesses = series.has_times and not every_seconds
    warnings = [*series.warnings, *_iter_sample_warnings(snapshots, guesses)]
    if 0 < len(series.samples) < MIN_SAMPLES:
        few = "sample is" if len(series.samples) == 1 else "samples are"
        warnings.append(f"{len(series.samples)} {few} too few for a verdict; it takes {MIN_SAMPLES}")
    moments = tuple(sample.taken_at for sample in series.samples if sample.taken_at) if series.has_times else ()
    hours = [(moment - moments[0]).total_seconds() / 3600 for moment in moments]
    places = hours if series.has_times else list(map(float, range(len(series.samples))))
    if len(hours) >= MIN_SAMPLES and hours[-1] < _HOURS_A_DAY:
        warnings.append("the samples span less than a day: what rises by day may fall by night")
    columns = _collect_rows(series.samples)
    trends = list(_iter_trends(columns, places, series.samples))
    totals = tuple(_iter_total_trends(places, series.samples))
    if series.samples and not trends and not totals:
        warnings.append("no sample tells how many bytes a tag holds")
    groups = find_lockstep(_iter_grown_blocks(trends, columns), is_object)
    ranked = _rank_trends(_add_roles(trends, groups, is_object), groups)
    return TrendReport(
        samples=len(series.samples),
        span_seconds=(hours[-1] * 3600 if hours else 0.0) if series.has_times else None,
        segments=series.segments,
        judged=series.segments[series.judged] if series.judged is not None else None,
        newest=series.samples[-1] if series.samples else None,
        moments=moments,
        trends=ranked if series.has_times else tuple(map(_drop_rate, ranked)),
        groups=groups,
        warnings=tuple(warnings),
        totals=totals if series.has_times else tuple(map(_drop_rate, totals)),
        uncounted=series.uncounted,
    )


_AnyTrend = TypeVar("_AnyTrend", Trend, TotalTrend)


def _drop_rate(trend: _AnyTrend) -> _AnyTrend:
    """The trend of samples of which only the order is known: no slope, no deadline, no duration in the note."""
    note = trend.note.partition(", no more for ")[0]
    return replace(trend, slope=None, hours_to_limit=None, limit=None, note=note)


def _iter_total_trends(hours: Sequence[float], samples: Sequence[PoolSnapshot]) -> Iterator[TotalTrend]:
    """The trend of each pool of which two samples at least tell the whole."""
    for pool in PoolKind:
        held = [sample.memory.used_bytes(pool) for sample in samples]
        known = [(hour, value) for hour, value in zip(hours, held) if value is not None]
        if len(known) < 2:
            continue
        judged = judge_series([hour for hour, _ in known], [value for _, value in known])
        grows = judged.verdict in (*_GROWING, Verdict.TOO_FEW_SAMPLES)
        limit, left = _find_limit(samples[-1], pool, judged.slope) if grows else (None, None)
        yield TotalTrend(pool, judged.verdict, tuple(held), judged.slope, judged.monotonic_p, left, limit, judged.note)


def _iter_sample_warnings(snapshots: Sequence[PoolSnapshot], guesses: bool) -> Iterator[str]:
    """What the readers of the samples had to say: most of it they say of every sample.

    ``guesses``: the times of files are taken for those of their samples.
    """
    guessed = sum(snapshot.time_from is TimeOrigin.FILE_TIME for snapshot in snapshots) if guesses else 0
    if guessed:
        yield (
            f"{guessed} of {count_things(len(snapshots), 'sample')} have the time of their file's last change, which a "
            "copy may have lost: --every tells the true interval"
        )
    paths: Dict[str, List[str]] = {}
    for snapshot in snapshots:
        for warning in snapshot.warnings:
            paths.setdefault(warning, []).append(snapshot.source.path)
    alike: Dict[str, List[str]] = {}
    for warning in paths:
        alike.setdefault(_DIGITS.sub("#", warning), []).append(warning)
    lines = [_describe_warnings(warnings, paths) for warnings in alike.values()]
    yield from lines[:_SAMPLE_WARNINGS]
    if len(lines) > _SAMPLE_WARNINGS:
        yield say_rest(len(lines), _SAMPLE_WARNINGS, "warning about a single sample", "warnings about single samples")


def _describe_warnings(warnings: Sequence[str], paths: Mapping[str, Sequence[str]]) -> str:
    """One line for warnings that differ in numbers only, and for how many samples they are."""
    where = list(dict.fromkeys(path for warning in warnings for path in paths[warning]))
    count = sum(len(paths[warning]) for warning in warnings)
    if count == 1:
        return f"{where[0]}: {warnings[0]}"
    first = "" if len(warnings) == 1 else f", first {where[0]}"
    return f"{count_things(count, 'sample')}{first}: {warnings[0]}"


def _collect_rows(samples: Sequence[PoolSnapshot]) -> Dict[bytes, List[Optional[TagUsage]]]:
    """The row of each tag in each sample; None where a sample does not list the tag."""
    columns: Dict[bytes, List[Optional[TagUsage]]] = {}
    for index, sample in enumerate(samples):
        for row in sample.tags:
            column = columns.get(row.tag.raw)
            if column is None:
                column = columns[row.tag.raw] = [None] * len(samples)
            column[index] = row
    return columns


def _iter_trends(
    columns: Dict[bytes, List[Optional[TagUsage]]], hours: Sequence[float], samples: Sequence[PoolSnapshot]
) -> Iterator[Trend]:
    for raw, rows in columns.items():
        for pool in PoolKind:
            held = _bytes_of(rows, pool)
            if any(held):
                yield _follow_tag(PoolTag(raw), pool, held, hours, samples[-1])


def _bytes_of(rows: _Rows, pool: PoolKind) -> List[Optional[int]]:
    if pool is PoolKind.NONPAGED:
        return [None if row is None else row.nonpaged.bytes for row in rows]
    return [None if row is None else row.paged.bytes for row in rows]


def _follow_tag(
    tag: PoolTag, pool: PoolKind, held: Sequence[Optional[int]], hours: Sequence[float], newest: PoolSnapshot
) -> Trend:
    known = [(hour, value) for hour, value in zip(hours, held) if value is not None]
    judged = judge_series([hour for hour, _ in known], [value for _, value in known])
    if held[-1] is None and judged.verdict in _GROWING:
        judged = Judgement(Verdict.STEADY, judged.slope, judged.monotonic_p, "not in the newest sample")
    limit, hours_left = _find_limit(newest, pool, judged.slope) if judged.verdict in _GROWING else (None, None)
    return Trend(
        tag=tag,
        pool=pool,
        verdict=judged.verdict,
        bytes=tuple(held),
        slope=judged.slope,
        monotonic_p=judged.monotonic_p,
        hours_to_limit=hours_left,
        limit=limit,
        note=judged.note,
    )


def _find_limit(newest: PoolSnapshot, pool: PoolKind, slope: Optional[Slope]) -> Tuple[Optional[str], Optional[float]]:
    """Which limit this growth reaches first, and in how many hours; the commit limit bounds all memory.

    Where neither limit is known, the nonpaged pool cannot take more than the memory that is available.
    """
    if slope is None or slope.bytes_per_hour <= 0:
        return None, None
    total, memory = PoolTotal.of(newest, pool), newest.memory
    limits = (
        (f"{pool.value} pool", total.used_bytes, total.limit_bytes),
        ("commit limit", memory.commit_bytes, memory.commit_limit_bytes),
        ("available memory", 0 if pool is PoolKind.NONPAGED else None, memory.available_bytes),
    )
    left = [
        (max(0, limit - used) / slope.bytes_per_hour, name)
        for name, used, limit in limits
        if used is not None and limit is not None
    ]
    if len(left) > 1:
        left = [entry for entry in left if entry[1] != "available memory"]
    if not left:
        return None, None
    hours, name = min(left)
    return name, hours


def _iter_grown_blocks(trends: Sequence[Trend], columns: Dict[bytes, List[Optional[TagUsage]]]) -> Iterator[BlockCount]:
    """By how many blocks the growing tags grew."""
    for trend in trends:
        if trend.verdict in _GROWING or (trend.slope and trend.verdict is Verdict.TOO_FEW_SAMPLES):
            usages = [row.usage(trend.pool) for row in columns[trend.tag.raw] if row is not None]
            counts = [usage.outstanding for usage in usages if usage.outstanding is not None]
            grown = _growth_between_ends(counts) if counts else 0
            if grown >= MIN_GROWN_BLOCKS:
                yield BlockCount(trend.tag, trend.pool, grown, usages[-1])


def _growth_between_ends(counts: Sequence[int]) -> int:
    first, last = sorted(counts[:_END_SAMPLES]), sorted(counts[-_END_SAMPLES:])
    return last[len(last) // 2] - first[len(first) // 2]


def _add_roles(trends: Sequence[Trend], groups: Sequence[LockstepGroup], is_object: IsObject) -> Iterator[Trend]:
    places = {(member.tag, member.pool): (group, member) for group in groups for member in group.members}
    for trend in trends:
        place = places.get((trend.tag, trend.pool)) if places else None
        if place is not None:
            yield replace(trend, group=place[0].number, role=place[1].role)
        elif is_object(trend.tag):
            yield replace(trend, role=Role.OBJECT)
        else:
            yield trend


def _rank_trends(trends: Iterator[Trend], groups: Sequence[LockstepGroup]) -> Tuple[Trend, ...]:
    """The most alarming first: by verdict, then by rate; a lockstep group stays together, its cause first."""
    ranked = sorted(trends, key=lambda trend: (trend.verdict.rank, -_rate(trend), trend.tag, trend.pool.value))
    places = {(member.tag, member.pool): at for group in groups for at, member in enumerate(group.members)}
    leaders: Dict[int, int] = {}
    for at, trend in enumerate(ranked):
        if trend.group is not None:
            leaders.setdefault(trend.group, at)

    def key(entry: Tuple[int, Trend]) -> Tuple[int, int]:
        at, trend = entry
        leader = at if trend.group is None else leaders[trend.group]
        return leader, places.get((trend.tag, trend.pool), 0)

    return tuple(trend for _, trend in sorted(enumerate(ranked), key=key))


def _rate(trend: Trend) -> float:
    return trend.slope.bytes_per_hour if trend.slope else 0.0
