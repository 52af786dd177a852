"""Samples as they arrive: copied, shuffled, named in many ways. The leak and its rate must not depend on it."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.growth import compare_snapshots, follow_series
from pykdext.growth.order import date_samples, natural_key, order_samples
from pykdext.model import PoolKind, PoolUsage, SnapshotSource, TimeOrigin, Verdict
from tests.helpers.poolseries import INTERVAL, LEAK, RESTART_AT, START, snapshots_of, troubled_series

EVERY = INTERVAL.total_seconds()


@pytest.fixture(scope="module")
def untouched():
    """200 samples with their times, a restart after 40."""
    return troubled_series(tag_count=40)


def copied(series, name, seed=0, seconds=1.0):
    """The series as files that were all written within a second, in any order; ``name`` names each by its number."""
    rng = random.Random(seed)
    files = [
        replace(
            sample,
            source=SnapshotSource("poolmon log", name(number)),
            taken_at=START + timedelta(seconds=rng.uniform(0, seconds)),
            time_from=TimeOrigin.FILE_TIME,
        )
        for number, sample in enumerate(series, start=1)
    ]
    rng.shuffle(files)
    return files


def without_allocs(series):
    """As ``!poolused 2`` tells: what is in use, not how often anything was allocated."""

    def bare(usage):
        return PoolUsage(None, None, usage.outstanding, usage.bytes)

    return [
        replace(
            sample, tags=tuple(replace(row, nonpaged=bare(row.nonpaged), paged=bare(row.paged)) for row in sample.tags)
        )
        for sample in series
    ]


def key_numbers(report):
    """The verdict, rate and deadline of each tag."""
    return {
        (trend.tag, trend.pool): (
            trend.verdict,
            trend.slope
            and (round(trend.slope.bytes_per_hour, 3), round(trend.slope.low, 3), round(trend.slope.high, 3)),
            trend.hours_to_limit and round(trend.hours_to_limit, 6),
            trend.bytes,
        )
        for trend in report.trends
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(lambda number: f"log-{number}.txt", id="natural order"),
        pytest.param(lambda number: f"LOG{number:03}.TXT", id="alphabet"),
        pytest.param(lambda number: f"{hash((number, 5)) % 10**9}.txt", id="names without an order"),
    ],
)
def test_copied_logs_with_an_interval_are_the_untouched_series(untouched, name):
    report = follow_series(copied(untouched, name), every_seconds=EVERY)
    expected = follow_series(untouched)
    assert report.samples == expected.samples == 200 - RESTART_AT
    assert key_numbers(report) == key_numbers(expected)
    assert any(trend.tag.text == LEAK and trend.verdict is Verdict.LEAK for trend in report.trends)
    assert sum("restart" in warning for warning in report.warnings) >= 1


def test_names_alone_order_what_has_no_counters(untouched):
    bare = without_allocs(untouched[RESTART_AT:])
    report = follow_series(copied(bare, lambda number: f"log-{number}.txt"), every_seconds=EVERY)
    assert key_numbers(report) == key_numbers(follow_series(bare))


def test_copied_logs_without_an_interval_are_all_samples_but_have_no_rate(untouched):
    report = follow_series(copied(untouched, lambda number: f"log-{number}.txt"))
    assert report.samples == 200 - RESTART_AT and report.span_seconds is None and report.moments == ()
    assert all(trend.slope is None and trend.hours_to_limit is None for trend in report.trends)
    verdicts = {(trend.tag, trend.pool): trend.verdict for trend in report.trends}
    assert verdicts == {(trend.tag, trend.pool): trend.verdict for trend in follow_series(untouched).trends}
    assert any("--every gives the interval" in warning for warning in report.warnings)


def test_files_written_as_samples_are_keep_their_times(untouched):
    series = [replace(sample, time_from=TimeOrigin.FILE_TIME) for sample in untouched]
    shuffled = random.Random(3).sample(series, len(series))
    report = follow_series(shuffled)
    assert key_numbers(report) == key_numbers(follow_series(untouched))
    assert any("samples have the time of their file's last change" in warning for warning in report.warnings)


def test_shuffled_samples_with_times_are_sorted(untouched):
    shuffled = random.Random(2).sample(untouched, len(untouched))
    assert key_numbers(follow_series(shuffled)) == key_numbers(follow_series(untouched))


def test_an_interval_goes_in_order_of_the_times_inside(untouched):
    shuffled = random.Random(2).sample(untouched, len(untouched))
    assert key_numbers(follow_series(shuffled, every_seconds=EVERY)) == key_numbers(follow_series(untouched))


def test_a_copy_of_a_log_is_no_sample(untouched):
    files = copied(untouched, lambda number: f"log-{number}.txt")
    copy = replace(files[7], source=SnapshotSource("poolmon log", files[7].source.path.replace(".txt", " - Copy.txt")))
    report = follow_series([*files, copy], every_seconds=EVERY)
    assert report.samples == 200 - RESTART_AT


@given(st.randoms(use_true_random=False), st.integers(2, 30))
def test_counters_order_any_shuffled_boot(rng, count):
    usages = [PoolUsage(100 * number + 50, 90 * number, 10 * number + 50, 640 * number) for number in range(count)]
    columns = [("Pipo", PoolKind.NONPAGED, usages), ("Toke", PoolKind.PAGED, usages)]
    series = list(snapshots_of(columns, count))
    names = rng.sample(range(10**6), count)
    files = [
        replace(
            sample,
            source=SnapshotSource("poolmon log", f"{1000 * name}.txt"),
            taken_at=START,
            time_from=TimeOrigin.FILE_TIME,
        )
        for sample, name in zip(series, names)
    ]
    rng.shuffle(files)
    assert [sample.tags for sample in order_samples(files).samples] == [sample.tags for sample in series]


@given(st.lists(st.integers(0, 10**6), max_size=20))
def test_numbers_in_names_count_as_numbers(numbers):
    assert sorted((f"log-{number}.txt" for number in numbers), key=natural_key) == [
        f"log-{number}.txt" for number in sorted(numbers)
    ]


def test_an_interval_counts_from_the_sample_that_has_a_time():
    usages = [PoolUsage(100 * number, 0, 100 * number, 6400 * number) for number in range(1, 4)]
    series = list(snapshots_of([("Pipo", PoolKind.NONPAGED, usages)], 3))
    mixed = [replace(sample, taken_at=None, time_from=None) for sample in series[:2]] + series[2:]
    dated = date_samples(order_samples(mixed, keep_all=True), 60)
    assert [sample.taken_at for sample in dated.samples] == [
        series[2].taken_at - timedelta(seconds=seconds) for seconds in (120, 60, 0)
    ]
    assert {sample.time_from for sample in dated.samples} == {TimeOrigin.INTERVAL}


def test_no_samples():
    assert date_samples(order_samples([]), 60).samples == ()


class TestTwoStates:
    def sides(self, seconds, time_from=TimeOrigin.FILE_TIME, after_from=TimeOrigin.FILE_TIME):
        usages = [PoolUsage(10, 0, 10, 640), PoolUsage(1000, 0, 1000, 64000)]
        before, after = snapshots_of([("Irp", PoolKind.NONPAGED, usages)], 2)
        before = replace(before, time_from=time_from)
        return before, replace(after, taken_at=before.taken_at + timedelta(seconds=seconds), time_from=after_from)

    @pytest.mark.parametrize("seconds", [0, 2, 299, -2, -86400])
    def test_files_written_seconds_apart_give_no_rate(self, seconds):
        diff = compare_snapshots(*self.sides(seconds))
        assert diff.interval_seconds is None
        assert all(delta.bytes_per_hour is None for delta in diff.deltas)
        assert any("no rates" in warning for warning in diff.warnings)

    def test_one_time_of_a_file_is_enough_to_doubt(self):
        assert compare_snapshots(*self.sides(2, time_from=TimeOrigin.HEADER)).interval_seconds is None

    @pytest.mark.parametrize(
        ("seconds", "where"), [(2, TimeOrigin.HEADER), (2, TimeOrigin.FILE_NAME), (3600, TimeOrigin.FILE_TIME)]
    )
    def test_other_times_give_rates(self, seconds, where):
        assert compare_snapshots(*self.sides(seconds, where, where)).interval_seconds == seconds
