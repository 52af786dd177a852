"""A series of numbers as one line of characters."""

from __future__ import annotations

from typing import List, Optional, Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_RAMP = ".:-=+*#%@"
"""From faint to dense, for terminals and WinDbg windows that show ASCII only."""


def render_sparkline(values: Sequence[Optional[float]], columns: int, unicode: bool = False) -> str:
    """The values from lowest to highest in at most ``columns`` characters; a blank where no value is known.

    More values than columns are put together by their mean; a series that does not change is drawn low.
    """
    means = _gather(values, columns)
    known = [mean for mean in means if mean is not None]
    if not known:
        return " " * len(means)
    ramp = BLOCKS if unicode else ASCII_RAMP
    low, span = min(known), max(known) - min(known)
    return "".join(" " if mean is None else ramp[_level(mean - low, span, len(ramp))] for mean in means)


def _gather(values: Sequence[Optional[float]], columns: int) -> List[Optional[float]]:
    count = min(columns, len(values))
    means: List[Optional[float]] = []
    for column in range(count):
        part = values[column * len(values) // count : (column + 1) * len(values) // count]
        known = [value for value in part if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def _level(height: float, span: float, levels: int) -> int:
    return min(levels - 1, int(height / span * levels)) if span else 0
