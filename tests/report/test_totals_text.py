"""Only a total grew: how fast, until when, and what to capture, for a total names no tag."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from pykdext.growth import follow_series
from pykdext.model import PoolSnapshot, SnapshotSource, SystemMemory
from pykdext.report.sentences.series import capture_steps, describe_series, verdict_on_series

GB = 1 << 30
START = datetime(2026, 6, 12, 8, tzinfo=timezone.utc)


def counters(count, **facts):
    return [
        PoolSnapshot(
            SnapshotSource("performance counters", "counters.csv"),
            (),
            taken_at=START + timedelta(hours=hour),
            time_from="header",
            memory=SystemMemory(nonpaged_bytes=(1 + hour) * GB, paged_bytes=GB, **facts),
        )
        for hour in range(count)
    ]


def test_how_fast_and_until_when():
    report = follow_series(counters(12, nonpaged_limit_bytes=20 * GB))
    assert verdict_on_series(report) == (
        "The nonpaged pool grows by 1.00 GB an hour, 24.0 GB a day, and holds 12.0 GB now; the nonpaged pool is full "
        "in 8 h 0 min. The paged pool holds 1.00 GB and does not grow beyond its noise."
    )


def test_without_a_limit_the_available_memory_bounds_it():
    report = follow_series(counters(12, available_bytes=6 * GB))
    assert "the available memory is used up in 6 h 0 min" in verdict_on_series(report)


def test_what_to_capture_is_said_only_where_no_tag_is_known():
    steps = " ".join(capture_steps(follow_series(counters(12))))
    assert "poolmon -b -n" in steps and "record --recipe" in steps and "kernel dump" in steps
    assert capture_steps(follow_series([])) == ()


def test_counters_without_times_have_an_order_only():
    report = follow_series([replace(state, taken_at=None, time_from=None) for state in counters(12)])
    assert verdict_on_series(report).startswith(
        "The nonpaged pool grows, from 1.00 GB to 12.0 GB; how fast is not known."
    )
    assert describe_series(report) == "12 samples, in their order; when they were taken is not known"
