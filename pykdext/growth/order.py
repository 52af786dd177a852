"""In which order samples were taken, told by what can be trusted, and whether their times can be.

First come times inside the samples, or in the names of their files. Without these the counters themselves: allocations
only grow from one boot to the next. Then names in natural order. Times of files come last, for a copy has new ones.
"""

from __future__ import annotations

import itertools
import re
import statistics
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import List, Optional, Sequence, Tuple, Union

from pykdext.growth.restart import MIN_FILE_SECONDS, RESTART_SHARE, count_gone_back, is_file_time
from pykdext.model import PoolSnapshot, TimeOrigin
from pykdext.units import choose_form, count_things, format_duration

MIN_FILE_INTERVAL_SECONDS = 5.0
"""Files that were written faster than this, in the middle, were copied."""

SURE_FILE_INTERVAL_SECONDS = 60.0
REGULAR_SHARE = 0.75
REGULAR_DEVIATION = 0.5
"""Below a minute, so many intervals must be within half of the usual one: a sampling loop is regular."""

CONTRADICTING_SHARE = 0.005
"""So many counters that go back tell that two samples are not of this order within one boot."""

JUMP_FACTOR = 100
"""A step of the counters so many times the usual one leads to another boot."""

_SAMPLES_A_BREAK = 20
"""Names give an order if counters go back no more often than once in so many samples, and then as in a restart."""

_FEW_INTERVALS = 3
_MOST_BOOTS = 64


@dataclass(frozen=True)
class Ordered:
    """Samples in the order in which they were taken; ``has_times``: their times can be trusted for rates."""

    samples: Tuple[PoolSnapshot, ...]
    has_times: bool
    warnings: Tuple[str, ...]


def order_samples(snapshots: Sequence[PoolSnapshot], keep_all: bool = False) -> Ordered:
    """The samples in the order of time.

    Where only some have a time, the others are left out; with ``keep_all`` counters and names give the order then.
    """
    trusted = [snapshot for snapshot in snapshots if snapshot.taken_at and not is_file_time(snapshot)]
    if snapshots and (not trusted or (keep_all and len(trusted) < len(snapshots))):
        return _order_without_times(snapshots)
    warnings: List[str] = []
    timed = [snapshot for snapshot in snapshots if snapshot.taken_at is not None]
    if len(timed) < len(snapshots):
        warnings.append(
            f"{len(snapshots) - len(timed)} of {count_things(len(snapshots), 'sample')} "
            f"{choose_form(len(snapshots) - len(timed), 'has no time and was', 'have no time and were')} left out"
        )
    moments = [snapshot.taken_at for snapshot in timed if snapshot.taken_at is not None]
    if any(later < earlier for earlier, later in zip(moments, moments[1:])):
        warnings.append("the samples were not in order of time; they were sorted")
    ordered = [timed[index] for index in sorted(range(len(timed)), key=moments.__getitem__)]
    return Ordered(tuple(ordered), True, tuple(warnings))


def date_samples(ordered: Ordered, seconds: float) -> Ordered:
    """The samples dated ``seconds`` apart, counted from the first that has a time that can be trusted.

    Where none has, the last one is taken as of its file's time.
    """
    samples = ordered.samples
    if not samples:
        return ordered
    known = [index for index, sample in enumerate(samples) if sample.taken_at and not is_file_time(sample)]
    anchor = known[0] if known else len(samples) - 1
    origin = samples[anchor].taken_at or next((sample.taken_at for sample in samples if sample.taken_at), None)
    if origin is None:
        return ordered
    places = list(itertools.accumulate(1 + sample.passed_over for sample in samples))
    dated = tuple(
        replace(
            sample,
            taken_at=origin + timedelta(seconds=seconds * (place - places[anchor])),
            time_from=TimeOrigin.INTERVAL,
        )
        for place, sample in zip(places, samples)
    )
    return Ordered(dated, True, ordered.warnings)


def natural_key(path: str) -> Tuple[Union[int, str], ...]:
    """A sort key in which ``log-2`` stands before ``log-10``."""
    pieces = re.split(r"([0-9]+)", path)
    return tuple(int(piece) if number % 2 else piece.lower() for number, piece in enumerate(pieces))


def _order_without_times(snapshots: Sequence[PoolSnapshot]) -> Ordered:
    """Samples of which only the files have times, or none."""
    if len(snapshots) == 1:
        return Ordered(tuple(snapshots), snapshots[0].taken_at is not None, ())
    by_name = sorted(snapshots, key=lambda snapshot: natural_key(snapshot.source.path))
    ordered, warnings = _order_by_counters(by_name)
    if _spread_as_samples(ordered):
        return Ordered(tuple(ordered), True, tuple(warnings))
    return Ordered(tuple(ordered), False, tuple(warnings))


def _order_by_counters(by_name: List[PoolSnapshot]) -> Tuple[List[PoolSnapshot], List[str]]:
    """The samples in an order in which allocations only grow, boot by boot; by name where they do not tell."""
    sums = [_sum_allocs(snapshot) for snapshot in by_name]
    if any(total is None for total in sums):
        return by_name, []
    breaks = [pair for pair in zip(by_name, by_name[1:]) if not _may_follow(*pair)]
    are_few = len(breaks) <= max(1, len(by_name) // _SAMPLES_A_BREAK)
    if not breaks or (are_few and all(_is_restart(*pair) for pair in breaks) and _are_numbered(by_name)):
        return by_name, []
    boots = _part_boots(by_name, [total or 0 for total in sums])
    if len(boots) > _MOST_BOOTS:
        return by_name, []
    warnings = ["the samples were sorted by their counters, which only grow: the names of the files give no order"]
    if len(boots) > 1:
        warnings.append(f"they are of {count_things(len(boots), 'boot')}, and nothing tells which came first")
    boots.sort(key=lambda boot: _sum_allocs(boot[0]) or 0, reverse=True)  # so that a restart shows between them
    return [snapshot for boot in boots for snapshot in boot], warnings


def _are_numbered(samples: Sequence[PoolSnapshot]) -> bool:
    """Whether the names count: the same letters and a number that rises, with few left out."""
    keys = list(dict.fromkeys(natural_key(sample.source.path) for sample in samples))
    letters = {tuple(piece for piece in key if isinstance(piece, str)) for key in keys}
    numbers = [tuple(piece for piece in key if isinstance(piece, int)) for key in keys]
    if len(letters) > 1 or not numbers[0]:
        return len(keys) == 1
    counted = [column for column in zip(*numbers) if len(set(column)) == len(keys)]
    return any(max(column) - min(column) < 2 * len(keys) for column in counted)


def _part_boots(samples: Sequence[PoolSnapshot], sums: Sequence[int]) -> List[List[PoolSnapshot]]:
    """The samples parted so that within a part no counter goes back, each part in order."""
    boots: List[List[PoolSnapshot]] = []
    for place in sorted(range(len(samples)), key=lambda place: (sums[place], place)):
        following = next((boot for boot in reversed(boots) if _may_follow(boot[-1], samples[place])), None)
        if following is None:
            boots.append([samples[place]])
            if len(boots) > _MOST_BOOTS:
                return boots
        else:
            following.append(samples[place])
    return [piece for boot in boots for piece in _cut_at_jumps(boot)]


def _cut_at_jumps(boot: List[PoolSnapshot]) -> List[List[PoolSnapshot]]:
    """Samples of rising counters cut where these rise by far more than usual: two boots can follow by chance."""
    sums = [_sum_allocs(sample) or 0 for sample in boot]
    steps = [later - earlier for earlier, later in zip(sums, sums[1:])]
    usual = statistics.median(steps) if steps else 0
    pieces = [[boot[0]]]
    for sample, step in zip(boot[1:], steps):
        if len(steps) > _FEW_INTERVALS and step > JUMP_FACTOR * max(usual, 1):
            pieces.append([])
        pieces[-1].append(sample)
    return pieces


def _is_restart(earlier: PoolSnapshot, later: PoolSnapshot) -> bool:
    compared, gone_back = count_gone_back(earlier, later)
    return gone_back >= RESTART_SHARE * compared


def _may_follow(earlier: PoolSnapshot, later: PoolSnapshot) -> bool:
    compared, gone_back = count_gone_back(earlier, later)
    return gone_back <= CONTRADICTING_SHARE * compared


def _sum_allocs(snapshot: PoolSnapshot) -> Optional[int]:
    """All allocations since boot; None where the source does not count them."""
    counts = [count for row in snapshot.tags for count in (row.nonpaged.allocs, row.paged.allocs) if count is not None]
    return sum(counts) if counts else None


def _spread_as_samples(ordered: Sequence[PoolSnapshot]) -> bool:
    """Whether the times of the files can be those of the samples: in their order, and as far apart as samples are."""
    moments = [snapshot.taken_at for snapshot in ordered]
    if any(moment is None for moment in moments):
        return False
    seconds = [(later - earlier).total_seconds() for earlier, later in zip(moments, moments[1:]) if later and earlier]
    if not seconds or min(seconds) <= 0:
        return False
    usual = statistics.median(seconds)
    if len(seconds) < _FEW_INTERVALS:
        return usual >= MIN_FILE_SECONDS
    if usual >= SURE_FILE_INTERVAL_SECONDS:
        return min(seconds) >= 1.0
    regular = sum(abs(interval - usual) <= REGULAR_DEVIATION * usual for interval in seconds)
    return usual >= MIN_FILE_INTERVAL_SECONDS and regular >= REGULAR_SHARE * len(seconds)


def describe_untrusted_times(snapshots: Sequence[PoolSnapshot]) -> str:
    """Why there are no rates, in words."""
    times = sorted({snapshot.taken_at for snapshot in snapshots if snapshot.taken_at})
    written = ""
    if len(times) > 1:
        span = format_duration((times[-1] - times[0]).total_seconds())
        written = f", and their files were written within {span}, as copies are"
    return (
        f"the samples bear no time{written}: only their order is known, not how fast anything grows; --every gives the "
        "interval"
    )
