"""The chart of a series: how tags grow, where the first of them is heading, and the limit that it reaches.

Places are in percent of the drawing, from its left and from its top.
"""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from pykdext.model import TotalTrend, Trend, TrendReport, Verdict
from pykdext.report.poolnames import name_limit, name_tag
from pykdext.units import count_things, format_bytes, format_moment

CURVES_SHOWN = 8

POINTS_SHOWN = 240
"""Longer series are thinned: of each stretch the lowest and the highest sample stay."""

_TOOLTIPS_SHOWN = 60

_FORECAST_SPANS = 2.0
"""A limit that is farther away than the series is long, times this, is not drawn but told."""

_TICKS_WANTED = 5
_MINUTES = (1, 5, 15, 30, 60, 180, 360, 720)
_DAYS = (1, 2, 7, 14, 30, 90, 180, 365, 730, 1825)


_Line = Union[Trend, TotalTrend]


class Tick(NamedTuple):
    """A label of an axis and its place."""

    place: float
    words: str


class Curve(NamedTuple):
    """A line: its name and the words behind it, its points in parts (a sample that lacks the tag parts it)."""

    name: str
    words: str
    parts: Sequence[str]
    number: int


class Tooltip(NamedTuple):
    """What is shown where the pointer rests: a strip of the drawing and its words."""

    start: float
    length: float
    words: str


class CurveChart(NamedTuple):
    """Curves over time. ``forecast`` is a line of points, ``limit`` the height of a limit; None where there is none.

    ``forecast_words`` say what the forecast means, also where it is not drawn; empty without one.
    """

    title: str
    summary: str
    curves: Sequence[Curve]
    heights: Sequence[Tick]
    times: Sequence[Tick]
    tooltips: Sequence[Tooltip]
    forecast: Optional[str]
    limit: Optional[Tick]
    forecast_words: str


class _Scale(NamedTuple):
    """From hours after the first sample (or numbers of samples) and bytes to percent."""

    hours: float
    bytes: float

    def point(self, hours: float, held: float) -> str:
        return f"{self.left(hours):.2f},{self.top(held):.2f}"

    def left(self, hours: float) -> float:
        return round(100 * hours / (self.hours or 1), 3)

    def top(self, held: float) -> float:
        return round(100 - 100 * held / (self.bytes or 1), 3)


class _Forecast(NamedTuple):
    """Where the first growing tag goes: from its last sample on, until its limit or the end of the drawing."""

    held: int
    hours: float
    bytes_per_hour: float
    limit: Optional[float]
    words: str


def draw_growth(report: TrendReport, shown: Sequence[Trend]) -> List[CurveChart]:
    """A chart of the bytes of the first trends over time, of the pools as a whole where no tags are known."""
    trends: Sequence[_Line] = shown[:CURVES_SHOWN] if report.trends else report.totals
    if not trends:
        return []
    hours = _place_samples(report, max(len(trend.bytes) for trend in trends))
    forecast = _look_ahead(report, trends, hours[-1])
    highest: float = max(held for trend in trends for held in trend.bytes if held is not None)
    end = hours[-1]
    if forecast is not None:
        highest = max(highest, forecast.limit or 0, forecast.held + forecast.hours * forecast.bytes_per_hour)
        end += forecast.hours
    heights = list(_iter_byte_ticks(highest))
    scale = _Scale(end, max(1.04 * highest, 1))
    of = "the rows of the table below"
    if len(shown) > CURVES_SHOWN:
        of = f"the first {CURVES_SHOWN} of {count_things(len(shown), 'row')} of the table below"
    when = "at each sample (UTC)" if report.has_times else "at each sample, in their order"
    return [
        CurveChart(
            "How they grow",
            f"Bytes held {when}, by {of if report.trends else 'each pool as a whole'}.",
            [_draw_curve(trend, _name(trend, report), hours, scale, number) for number, trend in enumerate(trends)],
            [Tick(scale.top(held), words) for held, words in heights],
            [Tick(scale.left(at), words) for at, words in _iter_time_ticks(report, end)],
            list(_iter_tooltips(report, trends, hours, scale)),
            _draw_forecast(forecast, hours[-1], scale),
            _draw_limit(forecast, scale),
            forecast.words if forecast else "",
        )
    ]


def _place_samples(report: TrendReport, samples: int) -> List[float]:
    """Hours of each sample after the first one; without times their numbers."""
    if not report.moments or len(report.moments) != samples:
        return [float(number) for number in range(samples)]
    first = report.moments[0]
    return [(moment - first).total_seconds() / 3600 for moment in report.moments]


def _look_ahead(report: TrendReport, trends: Sequence[_Line], span: float) -> Optional[_Forecast]:
    """The forecast of the most alarming trend, if it has a rate beyond its noise and a time."""
    first = next((trend for trend in trends if trend.verdict in (Verdict.LEAK, Verdict.GROWTH)), None)
    held = _last_held(first) if first else None
    if not report.moments or first is None or held is None or first.slope is None or first.slope.bytes_per_hour <= 0:
        return None
    rate, left, name = first.slope.bytes_per_hour, first.hours_to_limit, _name(first, report)
    limit = name_limit(first.limit, report.newest) if isinstance(first, Trend) else first.limit
    if left is None:
        return _Forecast(held, span / 3, rate, None, f"Dashed to the right: {name} at this rate; no limit is known.")
    if left > _FORECAST_SPANS * span:
        when = format_moment(_add_hours(report.moments[-1], left), seconds=False)
        words = f"Dashed to the right: {name} at this rate. It reaches the limit ({limit}) about {when}."
        return _Forecast(held, span / 3, rate, None, words)
    when = format_moment(_add_hours(report.moments[-1], left), seconds=False)
    words = f"Dashed to the right: {name} at this rate, until the limit ({limit}) is reached about {when}."
    return _Forecast(held, max(left, 0.0), rate, held + max(left, 0.0) * rate, words)


def _add_hours(moment: datetime, hours: float) -> Optional[datetime]:
    try:
        return moment + timedelta(hours=hours)
    except OverflowError:
        return None


def _draw_curve(trend: _Line, name: str, hours: Sequence[float], scale: _Scale, number: int) -> Curve:
    runs = itertools.groupby(zip(hours, trend.bytes), key=lambda sample: sample[1] is not None)
    parts = []
    for known, samples in runs:
        if known:
            points = _thin([(at, held) for at, held in samples if held is not None])
            parts.append(" ".join(scale.point(at, held) for at, held in points))
    return Curve(name, format_bytes(_last_held(trend)), parts, number)


def _name(trend: _Line, report: TrendReport) -> str:
    if isinstance(trend, Trend):
        return name_tag(trend.tag.text, trend.pool, report.newest)
    return f"{trend.pool.value} pool"


def _last_held(trend: _Line) -> Optional[int]:
    return next((held for held in reversed(trend.bytes) if held is not None), None)


def _thin(points: Sequence[Tuple[float, int]]) -> Sequence[Tuple[float, int]]:
    """As many points as a drawing can show, with all peaks; a single one gets a partner, so that a line is seen."""
    if len(points) == 1:
        return [*points, *points]
    if len(points) <= POINTS_SHOWN:
        return points
    stretch = 2 * len(points) // POINTS_SHOWN + 1
    kept: List[Tuple[float, int]] = [points[0]]
    for start in range(1, len(points) - 1, stretch):
        part = points[start : min(start + stretch, len(points) - 1)]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return [*kept, points[-1]]


def _draw_forecast(forecast: Optional[_Forecast], last: float, scale: _Scale) -> Optional[str]:
    if forecast is None or forecast.hours <= 0:
        return None
    end = scale.point(last + forecast.hours, forecast.held + forecast.hours * forecast.bytes_per_hour)
    return f"{scale.point(last, forecast.held)} {end}"


def _draw_limit(forecast: Optional[_Forecast], scale: _Scale) -> Optional[Tick]:
    if forecast is None or forecast.limit is None:
        return None
    return Tick(scale.top(forecast.limit), f"limit, {format_bytes(forecast.limit)}")


def _iter_byte_ticks(highest: float) -> Iterator[Tuple[float, str]]:
    """Round numbers of a fitting unit of bytes, from 0 to the highest."""
    unit = 1
    while highest / unit >= 1024:
        unit *= 1024
    step = _choose_step(highest / unit) * unit
    number = 0
    while number * step <= highest:
        held = number * step
        yield held, "0" if not number else _say_round(held)
        number += 1


def _say_round(held: float) -> str:
    number, _, unit = format_bytes(held).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def _choose_step(highest: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are about as many steps as ticks are wanted; at least a byte."""
    rough = highest / _TICKS_WANTED
    power = 10.0 ** (len(str(int(rough))) - 1) if rough >= 1 else 0.1 if rough >= 0.1 else 0.01
    return next((power * factor for factor in (1, 2, 5) if power * factor >= rough), power * 10)


def _iter_time_ticks(report: TrendReport, end: float) -> Iterator[Tuple[float, str]]:
    """Round times from the first sample to the end of the drawing; without times the numbers of samples."""
    if not report.moments:
        for number in range(0, int(end) + 1, max(1, round(_choose_step(end)))):
            yield number, f"sample {number + 1}"
        return
    first = report.moments[0]
    minutes = _choose_minutes(60 * end)
    at = first.replace(hour=0, minute=0, second=0, microsecond=0)
    step = timedelta(minutes=minutes)
    skipped = -(-(first - at) // step)
    at += skipped * step
    form = "%m-%d %H:%M" if minutes < 24 * 60 else "%Y-%m-%d"
    for _ in range(2 * _TICKS_WANTED):
        if (at - first).total_seconds() > 3600 * end:
            return
        yield (at - first).total_seconds() / 3600, at.strftime(form)
        at = _add_hours(at, minutes / 60) or datetime.max.replace(tzinfo=at.tzinfo)


def _choose_minutes(span: float) -> int:
    steps = (*_MINUTES, *(24 * 60 * days for days in _DAYS))
    return next((step for step in steps if span / step <= _TICKS_WANTED), max(steps[-1], int(span / _TICKS_WANTED)))


def _iter_tooltips(
    report: TrendReport, trends: Sequence[_Line], hours: Sequence[float], scale: _Scale
) -> Iterator[Tooltip]:
    """Strips around some samples, with what each curve holds there."""
    step = max(1, -(-len(hours) // _TOOLTIPS_SHOWN))
    places = range(0, len(hours), step)
    edges = [0.0, *((hours[left] + hours[right]) / 2 for left, right in zip(places, places[1:])), hours[-1]]
    for number, (start, end) in zip(places, zip(edges, edges[1:])):
        when = (
            format_moment(report.moments[number], seconds=False)
            if len(report.moments) == len(hours)
            else f"sample {number + 1}"
        )
        held = [
            f"{_name(trend, report)}: {format_bytes(trend.bytes[number])}"
            for trend in trends
            if number < len(trend.bytes)
        ]
        left = scale.left(start)
        yield Tooltip(left, round(scale.left(end) - left, 3), "\n".join([when, *held]))
