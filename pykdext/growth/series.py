"""Many snapshots made one series: sorted, without doubles, of one machine, cut where it does not go on."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from pykdext.growth.restart import find_restart, is_same_boot, seconds_between
from pykdext.growth.trendtests import MIN_EFFECTIVE_SAMPLES
from pykdext.model import PoolSnapshot, Segment
from pykdext.units import format_duration, format_moment, name_some

GAP_FACTOR = 12
"""An interval so many times the usual one is a gap."""

MAX_SAMPLES = 400
"""More samples of a segment than these are thinned out evenly: the slopes of all pairs cost their square."""

_TIMES_OF_FILES = ("file name", "file time")
"""Times that a copy of a log may bear as well: equal contents tell that it is the same sample."""


class MixedMachinesError(ValueError):
    """Snapshots of different machines were given for one series; the text names them."""


@dataclass(frozen=True)
class Series:
    """The samples of the judged segment in order of time, all segments, and what had to be done to get there.

    ``judged`` is the index of the segment; None without samples.
    """

    samples: Tuple[PoolSnapshot, ...]
    segments: Tuple[Segment, ...]
    judged: Optional[int]
    warnings: Tuple[str, ...]


def arrange_series(snapshots: Sequence[PoolSnapshot], allow_mixed: bool) -> Series:
    """The part of the snapshots that can be judged as one series.

    Raises:
        MixedMachinesError: hosts, processors' architectures or (without a host) builds differ; not if ``allow_mixed``.
    """
    warnings: List[str] = []
    mixed = _describe_mixture(snapshots)
    if mixed and not allow_mixed:
        raise MixedMachinesError(mixed)
    if mixed:
        warnings.append(f"{mixed}; taken for one series as told")
    ordered = _drop_doubles(_order_by_time(snapshots, warnings), warnings)
    if not ordered:
        return Series((), (), None, tuple(warnings))
    pieces, segments = _cut_segments(ordered)
    judged = _choose_segment(segments)
    if len(segments) > 1:
        warnings += _describe_segments(segments, judged)
    return Series(_thin_out(pieces[judged], warnings), segments, judged, tuple(warnings))


def _describe_mixture(snapshots: Sequence[PoolSnapshot]) -> Optional[str]:
    """What tells that the snapshots are of different machines, in words.

    A new build on the same host is an update, not another machine.
    """
    hosts: Dict[str, str] = {}
    for snapshot in snapshots:
        if snapshot.host:
            hosts.setdefault(snapshot.host.lower(), snapshot.host)
    if len(hosts) > 1:
        return f"the samples are of different machines: {name_some(sorted(hosts.values()))}"
    machines = sorted({snapshot.machine.value for snapshot in snapshots if snapshot.machine})
    if len(machines) > 1:
        return f"the samples are of different machines: {name_some(machines)}"
    builds = sorted({snapshot.build for snapshot in snapshots if snapshot.build is not None and not snapshot.host})
    if len(builds) > 1:
        return f"the samples are of different Windows builds: {name_some([str(build) for build in builds])}"
    return None


def _order_by_time(snapshots: Sequence[PoolSnapshot], warnings: List[str]) -> List[PoolSnapshot]:
    timed = [snapshot for snapshot in snapshots if snapshot.taken_at is not None]
    if len(timed) < len(snapshots):
        warnings.append(f"{len(snapshots) - len(timed)} of {len(snapshots)} samples have no time and were left out")
    moments = [snapshot.taken_at for snapshot in timed if snapshot.taken_at is not None]
    if any(later < earlier for earlier, later in zip(moments, moments[1:])):
        warnings.append("the samples were not in order of time; they were sorted")
    return [timed[index] for index in sorted(range(len(timed)), key=moments.__getitem__)]


def _drop_doubles(ordered: Sequence[PoolSnapshot], warnings: List[str]) -> List[PoolSnapshot]:
    kept: List[PoolSnapshot] = []
    names: List[str] = []
    for snapshot in ordered:
        if kept and _is_double(kept[-1], snapshot):
            names.append(snapshot.source.path or "a sample")
        else:
            kept.append(snapshot)
    if names:
        warnings.append(f"dropped, for time or contents are those of the sample before: {name_some(names)}")
    return kept


def _is_double(earlier: PoolSnapshot, later: PoolSnapshot) -> bool:
    if earlier.taken_at == later.taken_at:
        return True
    return later.time_from in _TIMES_OF_FILES and bool(later.tags) and earlier.tags == later.tags


def _cut_segments(ordered: Sequence[PoolSnapshot]) -> Tuple[List[Sequence[PoolSnapshot]], Tuple[Segment, ...]]:
    """The samples between gaps and restarts, and what each piece is."""
    find_cut = _cut_finder(ordered)
    pieces: List[Sequence[PoolSnapshot]] = []
    segments: List[Segment] = []
    start = 0
    for index, snapshot in enumerate(ordered):
        is_last = index + 1 == len(ordered)
        cut = None if is_last else find_cut(snapshot, ordered[index + 1])
        if is_last or cut is not None:
            piece = ordered[start : index + 1]
            first, last = piece[0].taken_at, piece[-1].taken_at
            assert first is not None
            assert last is not None
            pieces.append(piece)
            segments.append(Segment(first, last, len(piece), cut))
            start = index + 1
    return pieces, tuple(segments)


def _cut_finder(ordered: Sequence[PoolSnapshot]) -> Callable[[PoolSnapshot, PoolSnapshot], Optional[str]]:
    """Tells why a series does not go on from one sample to the next, in words; None if it does."""
    intervals = [seconds_between(earlier, later) or 0.0 for earlier, later in zip(ordered, ordered[1:])]
    usual = statistics.median(intervals) if intervals else 0.0

    def find_cut(earlier: PoolSnapshot, later: PoolSnapshot) -> Optional[str]:
        restart = find_restart(earlier, later)
        if restart is not None:
            return f"restart: {restart}"
        seconds = seconds_between(earlier, later) or 0.0
        if seconds > GAP_FACTOR * usual and not is_same_boot(earlier, later):
            return f"gap of {format_duration(seconds)} in samples every {format_duration(usual)}"
        return None

    return find_cut


def _choose_segment(segments: Sequence[Segment]) -> int:
    """The last one if it has half the samples of the longest, for it is the state of today; else the longest."""
    longest = max(range(len(segments)), key=lambda index: (segments[index].samples, index))
    last = segments[-1].samples
    if last >= MIN_EFFECTIVE_SAMPLES and 2 * last >= segments[longest].samples:
        return len(segments) - 1
    return longest


def _describe_segments(segments: Sequence[Segment], judged: int) -> List[str]:
    lines = [f"after {_moment(segment)}: {segment.cut}" for segment in segments if segment.cut]
    chosen = segments[judged]
    which = "last" if judged == len(segments) - 1 else "longest"
    lines.append(
        f"the series is cut into {len(segments)} parts; the {which} one is judged: {chosen.samples} samples from "
        f"{format_moment(chosen.first, seconds=False, zone=False)} to {format_moment(chosen.last, seconds=False)}"
    )
    return lines


def _moment(segment: Segment) -> str:
    return format_moment(segment.last, seconds=False)


def _thin_out(piece: Sequence[PoolSnapshot], warnings: List[str]) -> Tuple[PoolSnapshot, ...]:
    """At most ``MAX_SAMPLES`` of them, evenly, with the first and the last."""
    if len(piece) <= MAX_SAMPLES:
        return tuple(piece)
    warnings.append(f"{len(piece)} samples are more than it takes: {MAX_SAMPLES} of them, evenly spread, are judged")
    return tuple(piece[index * (len(piece) - 1) // (MAX_SAMPLES - 1)] for index in range(MAX_SAMPLES))
