"""What the bytes of one tag do over a series: leak, growth, sawtooth, plateau, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from operator import sub
from typing import List, Optional, Sequence, Tuple

from pykdext.growth.trendtests import (
    MIN_EFFECTIVE_SAMPLES,
    MonotonicTest,
    check_monotonic,
    estimate_slope,
)
from pykdext.model import Slope, Verdict
from pykdext.units import format_bytes, format_duration

MIN_CHANGE_BYTES = 64 << 10
"""A tag whose largest and smallest sample are closer than this is steady without a test: it does not matter."""

MIN_SAMPLES = MIN_EFFECTIVE_SAMPLES
"""Fewer may each be above the one before by chance."""

LEAK_SIGNIFICANCE, GROWTH_SIGNIFICANCE = 0.0001, 0.001
LEAK_STRENGTH, GROWTH_STRENGTH = 10.0, 6.0
"""A rise is certain (or likely) below this p of the Mann-Kendall test, or if it is so many times as large as the
deviation from its line: daily cycles on top of a leak cost the test its power. Thousands of tags are tested at once; of
quiet series (mean-reverting walks, daily cycles, bursts) fewer than 1 in 100 are called likely, 1 in 500 certain."""

STOPPED, SLOWED = 0.25, 0.75
"""Growth stopped (or slows down) if the last third of the samples rises by less than this share of the rate before,
by the upper end of its confidence interval."""

TAIL_SHARE = 3
"""The last third of the samples is what a growth goes on with."""

PLATEAU_SIGNIFICANCE = 0.05
"""A growth that stopped early leaves the whole series no more than a weak trend, but is worth a note."""

FALL_SHARE = 0.5
"""A fall by this share of the whole range within two samples may end a tooth of a sawtooth."""

LASTING_FALL_SHARE = 0.25
"""And the median of three samples must fall by this share, else it was a single high or low sample."""

MIN_TOOTH_SAMPLES = 5
TOOTH_STEEPNESS = 0.5
"""Kendall's tau that a tooth climbs with, at least."""

TROUGH_SHARE = 0.25
"""A sawtooth that falls back less far than its first trough plus this share of the range leaks beneath."""


@dataclass(frozen=True)
class Judgement:
    """What was found out about one series; see ``Trend`` for the fields."""

    verdict: Verdict
    slope: Optional[Slope] = None
    monotonic_p: Optional[float] = None
    note: str = ""


def judge_series(hours: Sequence[float], values: Sequence[int]) -> Judgement:
    """Judge the bytes of one tag at rising ``hours``.

    The exact Theil-Sen slope, which costs the square of the samples, is only estimated for series that rise or fall
    significantly, so that thousands of quiet ones cost little.
    """
    span = max(values) - min(values)
    if len(values) < MIN_SAMPLES:
        is_moving = len(values) > 1 and span >= MIN_CHANGE_BYTES
        slope = estimate_slope(hours, values, check_monotonic(values).variance) if is_moving else None
        return Judgement(Verdict.TOO_FEW_SAMPLES, slope)
    if span < MIN_CHANGE_BYTES:
        return Judgement(Verdict.STEADY)
    test = check_monotonic(values)
    teeth = _find_teeth(values, span)
    if teeth:
        return Judgement(Verdict.SAWTOOTH, None, test.p, f"climbs; fell back {_times(len(teeth) - 1)}")
    if test.score > 0 and (test.p <= PLATEAU_SIGNIFICANCE or _is_likely(test)):
        return _judge_rise(hours, values, test)
    if test.score < 0 and _is_certain(test):
        return _judge_fall(hours, values, test)
    return Judgement(Verdict.STEADY, None, test.p)


def _is_certain(test: MonotonicTest) -> bool:
    return test.p <= LEAK_SIGNIFICANCE or test.strength >= LEAK_STRENGTH


def _is_likely(test: MonotonicTest) -> bool:
    return test.p <= GROWTH_SIGNIFICANCE or test.strength >= GROWTH_STRENGTH


def _judge_rise(hours: Sequence[float], values: Sequence[int], test: MonotonicTest) -> Judgement:
    """Leak, growth that slows down or is not certain, plateau, or a rise within the noise."""
    tail = _compare_tail(hours, values)
    if tail is not None and tail < STOPPED:
        start = len(values) - len(values) // TAIL_SHARE
        flat = format_duration(3600 * (hours[-1] - hours[start]))
        grown = format_bytes(_median(values[start:]) - values[0])
        return Judgement(Verdict.STEADY, None, test.p, f"plateau: grew by {grown}, no more for {flat}")
    if not _is_likely(test):
        return Judgement(Verdict.STEADY, None, test.p)
    slope = estimate_slope(hours, values, test.variance)
    if slope.bytes_per_hour * (hours[-1] - hours[0]) < MIN_CHANGE_BYTES:
        return Judgement(Verdict.STEADY, slope, test.p)
    if tail is not None and tail < SLOWED:
        return Judgement(Verdict.GROWTH, slope, test.p, "it grows ever slower")
    if not _is_certain(test):
        return Judgement(Verdict.GROWTH, slope, test.p, "more samples will tell: quiet tags rise like this at times")
    return Judgement(Verdict.LEAK, slope, test.p)


def _judge_fall(hours: Sequence[float], values: Sequence[int], test: MonotonicTest) -> Judgement:
    slope = estimate_slope(hours, values, test.variance)
    is_shrinking = -slope.bytes_per_hour * (hours[-1] - hours[0]) >= MIN_CHANGE_BYTES
    return Judgement(Verdict.SHRINKING if is_shrinking else Verdict.STEADY, slope, test.p)


def _compare_tail(hours: Sequence[float], values: Sequence[int]) -> Optional[float]:
    """How fast the last third rises at most, as a share of the rate before it.

    None where either part is too short, or the part before does not rise significantly by itself.
    """
    split = len(values) - len(values) // TAIL_SHARE
    if len(values) - split < MIN_SAMPLES:
        return None
    head = check_monotonic(values[:split])
    if head.score <= 0 or not _is_likely(head):
        return None
    before = estimate_slope(hours[:split], values[:split], head.variance).bytes_per_hour
    if before <= 0:
        return None
    tail = check_monotonic(values[split:])
    return estimate_slope(hours[split:], values[split:], tail.variance).high / before


def _find_teeth(values: Sequence[int], span: int) -> Tuple[Sequence[int], ...]:
    """The climbs of a sawtooth, two at least; empty for any other series."""
    pieces = _cut_at_falls(values, span)
    if len(pieces) < 2:
        return ()
    climbs = [piece for piece in pieces if len(piece) >= MIN_TOOTH_SAMPLES and _climbs(piece)]
    if len(climbs) < 2 or 2 * sum(map(len, climbs)) < len(values):
        return ()
    if min(climbs[-1]) > min(climbs[0]) + TROUGH_SHARE * span:
        return ()
    return tuple(climbs)


def _cut_at_falls(values: Sequence[int], span: int) -> List[Sequence[int]]:
    """The series cut where it falls steeply and stays low; a fall may take two samples."""
    pieces: List[Sequence[int]] = []
    if max(map(sub, values, values[1:])) < FALL_SHARE * span > max(map(sub, values, values[2:])):
        return pieces
    start = index = 0
    while index < len(values) - 1:
        low = min(range(index + 1, min(index + 3, len(values))), key=values.__getitem__)
        if values[index] - values[low] >= FALL_SHARE * span and (
            _median(values[max(0, index - 2) : index + 1]) - _median(values[low : low + 3]) >= LASTING_FALL_SHARE * span
        ):
            pieces.append(values[start : index + 1])
            start = index = low
        else:
            index += 1
    return [*pieces, values[start:]]


def _climbs(piece: Sequence[int]) -> bool:
    pairs = len(piece) * (len(piece) - 1) / 2
    return check_monotonic(piece).score >= TOOTH_STEEPNESS * pairs


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
