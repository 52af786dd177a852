"""The statistics of a series: Mann-Kendall test and Theil-Sen slope, honest about neighbours that resemble each other.

Mann (1945) and Kendall (1975): whether values rise or fall at all, from the signs of all pairs. Theil (1950) and Sen
(1968): how fast, as the median of the slopes of all pairs, with a confidence interval from Kendall's variance. Both
take samples for independent; those of a pool are not: it fills and drains by hours and days. So the variance is
enlarged by the autocorrelation of what is left when a line is taken off: (1 + r) / (1 - r) as for an autoregressive
process (Bayley and Hammersley 1946), or 1 + 2 * (r1 + r2 + ...) up to the first that is not positive (Geyer 1992).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from operator import mul
from typing import List, Sequence, Tuple

from pykdext.model import Slope

MIN_EFFECTIVE_SAMPLES = 8
"""Never are samples counted for fewer than these: what is left of a bent curve resembles its neighbours too."""

_TWO_SIDED_95 = 1.959964
"""The quantile of the normal distribution for a confidence interval of 95 %."""


@dataclass(frozen=True)
class MonotonicTest:
    """Mann-Kendall's ``score`` (pairs that rise less pairs that fall), its ``variance``, and the two-sided ``p``.

    ``strength`` is the change along the straight line by the deviation from it; infinite for a line.
    """

    score: int
    variance: float
    p: float
    strength: float


def check_monotonic(values: Sequence[int]) -> MonotonicTest:
    """Mann-Kendall test with ties, the variance enlarged for autocorrelation, in n log n comparisons."""
    score = _kendall_score(values)
    change, rest = _take_line_off(values)
    power = float(sum(map(mul, rest, rest)))
    variance = _kendall_variance(values) * _autocorrelation_factor(rest, power)
    strength = abs(change) / math.sqrt(power / len(values)) if power else math.inf
    if score == 0 or variance == 0:
        return MonotonicTest(score, variance, 1.0, strength)
    z = (abs(score) - 1) / math.sqrt(variance)
    return MonotonicTest(score, variance, math.erfc(z / math.sqrt(2)), strength)


def estimate_slope(hours: Sequence[float], values: Sequence[int], variance: float) -> Slope:
    """Theil-Sen slope of all pairs, and Sen's interval for the ``variance`` of Kendall's score.

    ``hours`` must not fall, and there must be two samples at least. Pairs of the same hour have no slope;
    over thousands of years moments that are microseconds apart have the same.
    """
    slopes: List[float] = []
    for index, (hour, value) in enumerate(zip(hours, values)):
        slopes += [
            (later_value - value) / (later_hour - hour)
            for later_hour, later_value in zip(hours[index + 1 :], values[index + 1 :])
            if later_hour > hour
        ]
    slopes = sorted(slopes) or [0.0]
    middle, half_width = len(slopes) // 2, _TWO_SIDED_95 * math.sqrt(variance) / 2
    median = slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2
    low = math.floor(len(slopes) / 2 - half_width) - 1
    high = math.ceil(len(slopes) / 2 + half_width)
    return Slope(median, slopes[max(0, low)], slopes[min(len(slopes) - 1, high)])


def _kendall_score(values: Sequence[int]) -> int:
    """Each value is compared with all before it by its place in their sorted list."""
    before: List[int] = []
    score = 0
    for count, value in enumerate(values):
        lower = bisect_left(before, value)
        not_higher = bisect_right(before, value, lower)
        score += lower - (count - not_higher)
        before.insert(not_higher, value)
    return score


def _kendall_variance(values: Sequence[int]) -> float:
    count = len(values)
    ties = Counter(values).values() if len(set(values)) < count else ()
    tied = sum(size * (size - 1) * (2 * size + 5) for size in ties)
    return (count * (count - 1) * (2 * count + 5) - tied) / 18


def _take_line_off(values: Sequence[int]) -> Tuple[float, List[float]]:
    """By how much the line of least squares changes from the first value to the last, and what it leaves."""
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    spread = count * (count * count - 1) / 12
    step = sum((index - middle) * value for index, value in enumerate(values)) / spread if spread else 0.0
    return step * (count - 1), [value - mean - step * (index - middle) for index, value in enumerate(values)]


def _autocorrelation_factor(rest: Sequence[float], power: float) -> float:
    """How many neighbours tell no more than one independent sample, 1 or above; ``power`` is the sum of squares.

    The larger of two estimates: that of a process that forgets at a constant rate, from the nearest neighbours and
    corrected for the line that was taken off; and the sum over all lags until the first that is not positive.
    """
    count = len(rest)
    most = max(1.0, count / MIN_EFFECTIVE_SAMPLES)
    if not power:
        return 1.0
    nearest = _correlate(rest, 1, power)
    likely = nearest + (2 + 4 * nearest) / count
    if likely >= 1:
        return most
    forgetful, summed = (1 + likely) / (1 - likely), 1.0
    for lag in range(1, count):
        correlation = _correlate(rest, lag, power)
        if correlation <= 0 or max(forgetful, summed) >= most:
            break
        summed += 2 * correlation
    return min(max(forgetful, summed, 1.0), most)


def _correlate(rest: Sequence[float], lag: int, power: float) -> float:
    return float(sum(map(mul, rest, rest[lag:]))) / power
