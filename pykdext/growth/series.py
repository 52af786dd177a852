"""Many snapshots made one series: sorted, without doubles, of one machine, cut where it does not go on."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, replace
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from pykdext.growth.order import Ordered, date_samples, describe_untrusted_times, order_samples
from pykdext.growth.restart import find_restart, is_file_time, is_same_boot, seconds_between
from pykdext.growth.trendtests import MIN_EFFECTIVE_SAMPLES
from pykdext.model import PoolSnapshot, Segment, TimeOrigin
from pykdext.units import count_things, format_duration, name_some

GAP_FACTOR = 12
"""An interval so many times the usual one is a gap."""

MAX_SAMPLES = 400
"""More samples of a segment than these are thinned out evenly: the slopes of all pairs cost their square."""

_COPIED_TIMES = (TimeOrigin.FILE_NAME, TimeOrigin.FILE_TIME, None)
"""Times that a copy of a log may bear as well: equal contents tell that it is the same sample."""


class MixedMachinesError(ValueError):
    """Snapshots of different machines were given for one series; the text names them."""


@dataclass(frozen=True)
class Series:
    """The samples of the judged segment in order of time, all segments, and what had to be done to get there.

    ``judged`` is the index of the segment; None without samples. ``has_times``: there are times for rates, else the
    samples are in order, but nothing tells how far apart they are. ``uncounted`` samples were left out, as they lack
    processors' tables.
    """

    samples: Tuple[PoolSnapshot, ...]
    segments: Tuple[Segment, ...]
    judged: Optional[int]
    warnings: Tuple[str, ...]
    has_times: bool
    uncounted: int = 0


def arrange_series(
    snapshots: Sequence[PoolSnapshot], allow_mixed: bool, every_seconds: Optional[float] = None
) -> Series:
    """The part of the snapshots that can be judged as one series; ``every_seconds`` dates them in their order.

    Raises:
        MixedMachinesError: hosts, processors' architectures or (without a host) builds differ; not if ``allow_mixed``.
    """
    warnings: List[str] = []
    mixed = _describe_mixture(snapshots)
    if mixed and not allow_mixed:
        raise MixedMachinesError(mixed)
    if mixed:
        warnings.append(f"{mixed}; taken for one series as told")
    counted = [snapshot for snapshot in snapshots if not snapshot.coverage.lacks_counts]
    warnings += _describe_uncounted(snapshots)
    # Times that are told count all samples, those that are left out, too.
    order = order_samples(snapshots if every_seconds else counted, keep_all=every_seconds is not None)
    warnings += order.warnings
    kept = _drop_doubles(order.samples, warnings)
    order = Ordered(tuple(kept), order.has_times, ())
    if every_seconds:
        dated = date_samples(order, every_seconds)
        order = Ordered(tuple(each for each in dated.samples if not each.coverage.lacks_counts), dated.has_times, ())
    if not order.has_times:
        warnings.append(describe_untrusted_times(order.samples))
    ordered = order.samples
    if not ordered:
        return Series((), (), None, tuple(warnings), True, len(snapshots) - len(counted))
    pieces, segments = _cut_segments(ordered, order.has_times)
    judged = _choose_segment(segments)
    if len(segments) > 1:
        warnings += _describe_segments(segments, judged)
    samples = _thin_out(pieces[judged], warnings)
    return Series(samples, segments, judged, tuple(warnings), order.has_times, len(snapshots) - len(counted))


def _describe_mixture(snapshots: Sequence[PoolSnapshot]) -> Optional[str]:
    """Why the snapshots must be of different machines, in words; None if nothing speaks for that.

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


def _describe_uncounted(snapshots: Sequence[PoolSnapshot]) -> Tuple[str, ...]:
    """Which samples lack processors' tables: their tags seem to hold more or less than they do."""
    lacking = [snapshot.source.path or "a sample" for snapshot in snapshots if snapshot.coverage.lacks_counts]
    if not lacking:
        return ()
    why = "rows of the tag tables are missing and what tags hold is not known"
    return (f"left out, for {why}: {name_some(lacking)}",)


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
    if earlier.taken_at == later.taken_at and later.taken_at is not None and not is_file_time(later):
        return True
    return later.time_from in _COPIED_TIMES and bool(later.tags) and earlier.tags == later.tags


def _cut_segments(
    ordered: Sequence[PoolSnapshot], has_times: bool
) -> Tuple[List[Sequence[PoolSnapshot]], Tuple[Segment, ...]]:
    """The samples between gaps and restarts, and what each piece is."""
    find_cut = _cut_finder(ordered) if has_times else _find_restart_cut
    pieces: List[Sequence[PoolSnapshot]] = []
    segments: List[Segment] = []
    start = 0
    for index, snapshot in enumerate(ordered):
        is_last = index + 1 == len(ordered)
        cut = None if is_last else find_cut(snapshot, ordered[index + 1])
        if is_last or cut is not None:
            piece = ordered[start : index + 1]
            first, last = (piece[0].taken_at, piece[-1].taken_at) if has_times else (None, None)
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


def _find_restart_cut(earlier: PoolSnapshot, later: PoolSnapshot) -> Optional[str]:
    """A restart by the counters or uptimes of samples that have no times."""
    restart = find_restart(replace(earlier, taken_at=None), replace(later, taken_at=None))
    return None if restart is None else f"restart: {restart}"


def _choose_segment(segments: Sequence[Segment]) -> int:
    """The last one if it has half the samples of the longest, for it is the state of today; else the longest."""
    longest = max(range(len(segments)), key=lambda index: (segments[index].samples, index))
    last = segments[-1].samples
    if last >= MIN_EFFECTIVE_SAMPLES and 2 * last >= segments[longest].samples:
        return len(segments) - 1
    return longest


def _describe_segments(segments: Sequence[Segment], judged: int) -> List[str]:
    starts = list(itertools.accumulate((segment.samples for segment in segments), initial=0))
    lines = [
        f"after {_describe_end(segment, starts[index + 1])}: {segment.cut}"
        for index, segment in enumerate(segments)
        if segment.cut
    ]
    chosen = segments[judged]
    which = "last" if judged == len(segments) - 1 else "longest"
    if chosen.first and chosen.last:
        span = (
            f"{count_things(chosen.samples, 'sample')} from {chosen.first:%Y-%m-%d %H:%M} to "
            f"{chosen.last:%Y-%m-%d %H:%M} UTC"
        )
    else:
        span = f"samples {starts[judged] + 1} to {starts[judged + 1]}"
    lines.append(f"the series is cut into {count_things(len(segments), 'part')}; the {which} one is judged: {span}")
    return lines


def _describe_end(segment: Segment, number: int) -> str:
    return f"{segment.last:%Y-%m-%d %H:%M} UTC" if segment.last else f"sample {number}"


def _thin_out(piece: Sequence[PoolSnapshot], warnings: List[str]) -> Tuple[PoolSnapshot, ...]:
    """At most ``MAX_SAMPLES`` of them, evenly, with the first and the last."""
    if len(piece) <= MAX_SAMPLES:
        return tuple(piece)
    warnings.append(
        f"{count_things(len(piece), 'sample')} are more than it takes: {MAX_SAMPLES:,} of them, "
        "evenly spread, are judged"
    )
    return tuple(piece[index * (len(piece) - 1) // (MAX_SAMPLES - 1)] for index in range(MAX_SAMPLES))
