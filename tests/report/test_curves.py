"""The chart of a series: points, round ticks, the forecast and its limit, whatever the samples are like."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.model import PoolKind, PoolTag, Slope, Trend, TrendReport, Verdict

pytest.importorskip("jinja2", reason="jinja2 (extra html) is not installed")

from pykdext.report.html.curves import POINTS_SHOWN, draw_growth

START = datetime(2024, 2, 27, 22, 30, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def report_on(held, moments, **values):
    trend = Trend(PoolTag(b"Pipo"), PoolKind.NONPAGED, Verdict.LEAK, tuple(held), **values)
    span = (moments[-1] - moments[0]).total_seconds() if moments else None
    return TrendReport(len(held), span, (), None, None, tuple(moments), (trend,), (), ()), [trend]


def hourly(count):
    return [START + number * HOUR for number in range(count)]


def points_of(text):
    return [tuple(map(float, point.split(","))) for point in text.split()]


def test_a_limit_within_reach_is_drawn_where_the_line_meets_it():
    held = [100 << 20, 200 << 20, 300 << 20]
    report, shown = report_on(held, hourly(3), slope=Slope(100 << 20, 0, 0), hours_to_limit=2.0, limit="nonpaged pool")
    (chart,) = draw_growth(report, shown)
    (line,) = chart.curves[0].parts
    assert [left for left, _ in points_of(line)] == [0, 25, 50]
    begin, end = points_of(chart.forecast)
    assert begin == points_of(line)[-1] and end == (100, pytest.approx(chart.limit.place, abs=0.01))
    assert chart.limit.words == "limit, 500 MB" and "reached about 2024-02-28 02:30 UTC" in chart.forecast_words
    assert [tick.words for tick in chart.heights] == ["0", "100 MB", "200 MB", "300 MB", "400 MB", "500 MB"]
    assert [tick.words for tick in chart.times] == ["02-27 23:00", *(f"02-28 0{hour}:00" for hour in range(3))]


def test_a_far_limit_is_told_and_not_drawn():
    report, shown = report_on(
        [10, 20, 30], hourly(3), slope=Slope(10, 0, 0), hours_to_limit=500.0, limit="commit limit"
    )
    (chart,) = draw_growth(report, shown)
    assert chart.limit is None and "(commit limit) about 2024-03-19 20:30 UTC" in chart.forecast_words
    assert points_of(chart.forecast)[1][0] == 100


def test_samples_without_times_or_without_the_tag():
    report, shown = report_on([1024, None, None, 4096], [], hours_to_limit=3.0)
    (chart,) = draw_growth(report, shown)
    assert len(chart.curves[0].parts) == 2 and chart.forecast is None and chart.forecast_words == ""
    assert [tick.words for tick in chart.times] == [f"sample {number}" for number in (1, 2, 3, 4)]
    assert chart.tooltips[1].words == "sample 2\nPipo Nonp: -"


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 1 << 50)), min_size=1, max_size=900).filter(lambda held: any(held)),
    st.floats(0, 1e12),
    st.one_of(st.none(), st.floats(0, 1e7)),
)
def test_everything_stays_inside_and_small(held, rate, left):
    report, shown = report_on(held, hourly(len(held)), slope=Slope(rate, 0, 0), hours_to_limit=left, limit="pool")
    (chart,) = draw_growth(report, shown)
    lines = [points_of(part) for part in chart.curves[0].parts] + (
        [points_of(chart.forecast)] if chart.forecast else []
    )
    assert all(-0.01 <= place <= 100.01 for line in lines for point in line for place in point)
    assert all(0 <= tick.place <= 100 for tick in (*chart.heights, *chart.times))
    assert len(chart.heights) <= 12 and len(chart.times) <= 12 and len(chart.tooltips) <= 60
    assert sum(map(len, lines)) <= 2 * len(held) + 4 and max(map(len, lines)) <= 2 * POINTS_SHOWN


def test_thinning_keeps_the_one_sample_that_stands_out():
    held = [1 << 20] * 5000
    held[3333] = 100 << 20
    report, shown = report_on(held, hourly(5000))
    (chart,) = draw_growth(report, shown)
    points = points_of(chart.curves[0].parts[0])
    assert len(points) <= 2 * POINTS_SHOWN
    assert min(top for _, top in points) == pytest.approx(100 - 100 / 1.04, abs=0.01)
