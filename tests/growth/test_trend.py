"""The trend of a series: tests of its statistics, verdicts, false alarms, and what is done to a disordered series."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from datetime import timedelta
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.growth import MixedMachinesError, follow_series
from pykdext.growth.judge import judge_series
from pykdext.growth.trendtests import check_monotonic, estimate_slope
from pykdext.model import Machine, PoolKind, PoolTag, PoolUsage, Role, Slope, SystemMemory, TimeOrigin, Verdict
from tests.helpers.poolseries import (
    CAUSE,
    GB,
    INTERVAL,
    KB,
    LEAK,
    LEAK_BYTES_A_SAMPLE,
    MB,
    NOISES,
    PLATEAU,
    RESTART_AT,
    SAWTOOTH,
    START,
    VICTIM,
    quiet_series,
    snapshots_of,
    troubled_series,
    usages_of,
    white_noise,
)

QUARTER_HOURS = [index / 4 for index in range(400)]
ALARMS = (Verdict.LEAK, Verdict.GROWTH)


def follow_bytes(values, name="Pipo", **facts):
    """The report on one tag that holds these bytes."""
    columns = [(name, PoolKind.NONPAGED, list(usages_of(values, 64, random.Random(0))))]
    return follow_series(list(snapshots_of(columns, len(values), **facts)))


def judge(values):
    return judge_series(QUARTER_HOURS[: len(values)], [int(value) for value in values])


# --- Mann-Kendall and Theil-Sen -------------------------------------------------------


def test_mann_kendall_by_hand():
    """All 28 pairs of 8 rising values rise; the variance is 8 * 7 * 21 / 18."""
    test = check_monotonic([3, 5, 6, 7, 9, 12, 14, 15])
    assert (test.score, test.variance) == (28, pytest.approx(65.333, abs=0.001))
    assert test.p == pytest.approx(math.erfc(27 / math.sqrt(8 * 7 * 21 / 18) / math.sqrt(2)))
    assert test.p == pytest.approx(0.00084, abs=0.00001)


def test_mann_kendall_takes_ties_off_the_variance():
    """3 equal values of 8: (8 * 7 * 21 - 3 * 2 * 11) / 18; white enough that nothing is added."""
    test = check_monotonic([4, 1, 4, 9, 4, 0, 7, 3])
    assert test.variance == pytest.approx((8 * 7 * 21 - 3 * 2 * 11) / 18)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60))
def test_the_score_is_that_of_all_pairs(values):
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(values, 2))
    assert check_monotonic(values).score == score


def test_theil_sen_by_hand():
    """Slopes of the six pairs: 1, 1, 8/3, 1, 7/2, 6; the outlier at the end does not pull the median up."""
    slope = estimate_slope([0, 1, 2, 3], [0, 1, 2, 8], variance=0.0)
    assert slope.bytes_per_hour == pytest.approx((1 + 8 / 3) / 2)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(-1000, 1000)), min_size=2, max_size=40),
    st.floats(0, 1e6),
)
def test_the_slope_is_the_median_of_all_pairs_and_within_its_interval(steps, variance):
    hours, values, hour = [], [], 0
    for step, value in steps:
        hour += step
        hours.append(hour)
        values.append(value)
    slopes = sorted((values[b] - values[a]) / (hours[b] - hours[a]) for a, b in combinations(range(len(hours)), 2))
    middle = len(slopes) // 2
    median = slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2
    slope = estimate_slope(hours, values, variance)
    assert slope.bytes_per_hour == median
    assert slopes[0] <= slope.low <= slope.bytes_per_hour <= slope.high <= slopes[-1]


def test_the_interval_holds_the_true_slope():
    """Of 200 series with a slope of 1000 bytes an hour, 95 % of the intervals hold it, give or take 4 %."""
    rng = random.Random(5)
    held = 0
    for _ in range(200):
        values = [int(250 * index + 20_000 * deviation) for index, deviation in enumerate(white_noise(rng, 60))]
        slope = estimate_slope(QUARTER_HOURS[:60], values, check_monotonic(values).variance)
        held += slope.low <= 1000 <= slope.high
    assert 0.91 <= held / 200 <= 0.99


# --- verdicts -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def troubled():
    return follow_series(troubled_series(), lambda tag: False)


def trend_of(report, name):
    (trend,) = (trend for trend in report.trends if trend.tag == PoolTag.from_text(name))
    return trend


def test_the_slow_leak_is_first_among_2000_tags(troubled):
    first = troubled.trends[0]
    assert (first.tag.text, first.pool, first.verdict) == (LEAK, PoolKind.NONPAGED, Verdict.LEAK)
    assert first.monotonic_p < 0.0001
    assert first.slope.low <= 4 * LEAK_BYTES_A_SAMPLE <= first.slope.high
    assert len(troubled.trends) == 2000


def test_the_limit_is_where_this_rate_leads_to(troubled):
    first = troubled.trends[0]
    assert first.limit == "nonpaged pool"
    assert first.hours_to_limit == pytest.approx(GB / first.slope.bytes_per_hour)


def test_the_others_are_named_rightly(troubled):
    assert trend_of(troubled, SAWTOOTH).verdict is Verdict.SAWTOOTH
    assert trend_of(troubled, SAWTOOTH).note == "climbs; fell back 4 times"
    plateau = trend_of(troubled, PLATEAU)
    assert plateau.verdict is Verdict.STEADY and plateau.note.startswith("plateau: grew by 15.")
    cause, victim = trend_of(troubled, CAUSE), trend_of(troubled, VICTIM)
    assert cause.verdict is victim.verdict is Verdict.LEAK
    assert (cause.role, victim.role) == (Role.CAUSE, Role.VICTIM)
    assert cause.group == victim.group == 1
    (group,) = troubled.groups
    assert [member.tag.text for member in group.members] == [CAUSE, VICTIM]
    assert group.members[1].ratio == pytest.approx(2, abs=0.01)


def test_the_restart_cuts_the_series_and_is_said(troubled):
    before, after = troubled.segments
    assert (before.samples, after.samples) == (RESTART_AT, 200 - RESTART_AT)
    assert before.cut.startswith("restart: the counters of") and after.cut is None
    assert troubled.judged is after and troubled.samples == after.samples
    assert any("the last one is judged: 160 samples" in warning for warning in troubled.warnings)


def test_false_alarms_on_50_quiet_series():
    counts = dict.fromkeys(Verdict, 0)
    for seed in range(50):
        for trend in follow_series(quiet_series(seed, 40)).trends:
            counts[trend.verdict] += 1
    tags, alarms = sum(counts.values()), sum(counts[verdict] for verdict in ALARMS)
    print(
        f"\n{alarms} false alarms ({counts[Verdict.LEAK]} leak, {counts[Verdict.GROWTH]} growth) in {tags} quiet tags"
    )
    assert tags == 50 * 40
    assert alarms <= tags / 100
    assert counts[Verdict.LEAK] <= tags / 500


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.__name__)
def test_a_leak_ten_times_its_noise_is_found_under_any_noise(noise):
    rng = random.Random(2)
    for _ in range(20):
        deviations = noise(rng, 200)
        growth = 10 * statistics.pstdev(deviations)
        values = [1e8 + 1e6 * (growth * i / 200 + deviation) for i, deviation in enumerate(deviations)]
        assert judge(values).verdict in ALARMS


def test_a_leak_in_steps_is_a_leak():
    assert judge([(i // 25) * MB for i in range(200)]).verdict is Verdict.LEAK


def test_a_leak_that_gains_speed_is_a_leak():
    assert judge([i * i * KB for i in range(100)]).verdict is Verdict.LEAK


def test_growth_that_slows_down_is_no_certain_leak():
    judged = judge([100 * MB * math.sqrt(i) for i in range(200)])
    assert (judged.verdict, judged.note) == (Verdict.GROWTH, "it grows ever slower")


@pytest.mark.parametrize("end", [80, 100, 130])
def test_growth_that_stopped_is_a_plateau(end):
    rng = random.Random(end)
    judged = judge([MB * min(i, end) + 200 * KB * rng.gauss(0, 1) for i in range(200)])
    assert judged.verdict is Verdict.STEADY and judged.note.startswith("plateau")


def test_a_cache_that_is_trimmed_is_a_sawtooth():
    judged = judge([MB * (i % 50) for i in range(200)])
    assert (judged.verdict, judged.note) == (Verdict.SAWTOOTH, "climbs; fell back 3 times")


def test_a_driver_restarted_once_is_a_sawtooth():
    assert judge([MB * (i % 120) for i in range(200)]).note == "climbs; fell back once"


def test_a_sawtooth_over_a_leak_is_no_mere_sawtooth():
    assert judge([MB * (i % 20) + 2 * MB * (i - i % 20) for i in range(200)]).verdict is Verdict.LEAK


def test_what_is_given_back_shrinks():
    judged = judge([GB - MB * i for i in range(100)])
    assert judged.verdict is Verdict.SHRINKING and judged.slope.bytes_per_hour == -4 * MB


def test_small_changes_are_not_tested():
    judged = judge([MB + 600 * i for i in range(100)])
    assert (judged.verdict, judged.slope, judged.monotonic_p) == (Verdict.STEADY, None, None)


@pytest.mark.parametrize("count", [2, 5, 7])
def test_too_few_samples_get_a_slope_but_no_verdict(count):
    report = follow_bytes([MB * i for i in range(count)])
    assert report.trends[0].verdict is Verdict.TOO_FEW_SAMPLES
    assert report.trends[0].slope.bytes_per_hour == 4 * MB
    assert f"{count} samples are too few for a verdict; it takes 8" in report.warnings


def test_one_sample_has_no_slope():
    report = follow_bytes([MB])
    assert report.trends[0].verdict is Verdict.TOO_FEW_SAMPLES and report.trends[0].slope is None


def test_no_samples_give_an_empty_report():
    report = follow_series([])
    assert (report.samples, report.judged, report.trends) == (0, None, ())


# --- limits ---------------------------------------------------------------------------


def rising(**memory):
    return follow_bytes([MB * i for i in range(100)], memory=SystemMemory(**memory)).trends[0]


def test_the_commit_limit_bounds_a_pool_without_a_limit():
    trend = rising(commit_bytes=6 * GB, commit_limit_bytes=8 * GB)
    assert (trend.limit, trend.hours_to_limit) == ("commit limit", pytest.approx(512))


def test_the_nearer_limit_counts():
    trend = rising(nonpaged_bytes=GB, nonpaged_limit_bytes=5 * GB, commit_bytes=7 * GB, commit_limit_bytes=8 * GB)
    assert (trend.limit, trend.hours_to_limit) == ("commit limit", pytest.approx(256))


def test_the_sum_of_the_tags_stands_for_the_pool():
    trend = rising(nonpaged_limit_bytes=99 * MB + GB)
    assert trend.hours_to_limit == pytest.approx(256)


def test_without_limits_there_is_no_deadline():
    assert (rising().limit, rising().hours_to_limit) == (None, None)


# --- disordered series ----------------------------------------------------------------


@pytest.fixture
def leaking():
    usages = [PoolUsage(1000 + 10 * i, 1000, 10 * i, 10 * i * 64 * KB) for i in range(40)]
    return list(snapshots_of([("Pipo", PoolKind.NONPAGED, usages)], 40))


def test_samples_are_sorted_and_this_is_said(leaking):
    shuffled = leaking[20:] + leaking[:20]
    report = follow_series(shuffled)
    assert "the samples were not in order of time; they were sorted" in report.warnings
    assert report.trends == follow_series(leaking).trends


def test_hours_that_cannot_be_told_apart_have_no_slope_between_them():
    far = 7.0e7  # eight thousand years
    assert far + 1e-6 / 3600 == far
    slope = estimate_slope([0.0, far, far + 1e-6 / 3600], [0, 7, 14], 1.0)
    assert 0 < slope.low <= slope.bytes_per_hour <= slope.high < 1e-6
    assert estimate_slope([far, far], [0, 7], 1.0) == Slope(0.0, 0.0, 0.0)


def test_doubles_are_dropped_and_named(leaking):
    report = follow_series([*leaking, leaking[7]])
    assert report.samples == 40
    assert "dropped, for time or contents are those of the sample before: log-007.txt" in report.warnings


def test_a_copy_of_a_log_with_a_time_of_its_own_is_a_double(leaking):
    by_file_time = [replace(sample, time_from=TimeOrigin.FILE_TIME) for sample in leaking]
    copy = replace(by_file_time[-1], taken_at=by_file_time[-1].taken_at + timedelta(minutes=3))
    assert follow_series([*by_file_time, copy]).samples == 40
    by_header = replace(copy, time_from=TimeOrigin.HEADER)
    assert follow_series([*leaking, by_header]).samples == 41


def test_samples_without_a_time_are_left_out(leaking):
    report = follow_series([*leaking[:-2], *(replace(sample, taken_at=None) for sample in leaking[-2:])])
    assert report.samples == 38
    assert "2 of 40 samples have no time and were left out" in report.warnings


@pytest.mark.parametrize(
    "other", [{"host": "other"}, {"machine": Machine.ARM64}, {"host": None, "build": 26100}], ids=str
)
def test_different_machines_are_refused_unless_told(leaking, other):
    base = {"host": None} if other.get("host", "") is None else {}
    series = [replace(sample, machine=Machine.X64, build=19045, **base) for sample in leaking]
    series[-1] = replace(series[-1], **other)
    with pytest.raises(MixedMachinesError, match="different"):
        follow_series(series)
    report = follow_series(series, allow_mixed=True)
    assert any(warning.endswith("taken for one series as told") for warning in report.warnings)


def test_hosts_differ_by_name_not_by_case(leaking):
    assert follow_series([*leaking[:-1], replace(leaking[-1], host="SERVER")]).samples == 40


def shift(sample, hours):
    return replace(sample, taken_at=sample.taken_at + timedelta(hours=hours))


def test_a_gap_cuts_the_series(leaking):
    series = leaking[:10] + [shift(sample, 40) for sample in leaking[10:]]
    report = follow_series(series)
    assert [segment.samples for segment in report.segments] == [10, 30]
    assert report.segments[0].cut == "gap of 1 d 16 h in samples every 15 min 0 s"
    assert report.samples == 30 and report.trends[0].first_bytes == 10 * 10 * 64 * KB


def test_a_gap_within_one_boot_does_not(leaking):
    series = leaking[:10] + [shift(sample, 40) for sample in leaking[10:]]
    with_uptime = [replace(sample, uptime_seconds=(sample.taken_at - START).total_seconds() + 60) for sample in series]
    assert len(follow_series(with_uptime).segments) == 1


def test_the_longest_part_is_judged_if_the_last_is_short(leaking):
    series = leaking[:30] + [shift(sample, 40) for sample in leaking[30:]]
    report = follow_series(series)
    assert report.judged is report.segments[0]
    assert any("the longest one is judged: 30 samples" in warning for warning in report.warnings)


def test_long_series_are_thinned_out():
    report = follow_bytes([64 * KB * i for i in range(1000)])
    assert report.samples == 400 and report.trends[0].verdict is Verdict.LEAK
    assert report.trends[0].last_bytes == 999 * 64 * KB
    assert report.span_seconds == 999 * INTERVAL.total_seconds()


def test_a_tag_that_is_gone_leaks_no_more():
    usages = [PoolUsage(10 * i, 0, 10 * i, MB * i) for i in range(60)]
    here = [PoolUsage(5, 1, 4, MB)] * 60
    columns = [("Gone", PoolKind.PAGED, [*usages[:-3], None, None, None]), ("Here", PoolKind.PAGED, here)]
    report = follow_series(list(snapshots_of(columns, 60)))
    gone = trend_of(report, "Gone")
    assert (gone.verdict, gone.note) == (Verdict.STEADY, "not in the newest sample")


def test_a_tag_that_came_late_is_judged_from_there():
    usages = [PoolUsage(10 * i, 0, 10 * i, MB * i) for i in range(60)]
    report = follow_series(list(snapshots_of([("Late", PoolKind.PAGED, [None] * 30 + usages[30:])], 60)))
    assert report.trends[0].verdict is Verdict.LEAK and report.trends[0].first_bytes == 30 * MB


def test_logs_without_bytes_are_said(leaking):
    usages = [PoolUsage(10 * i, 0, 10 * i, None) for i in range(20)]
    report = follow_series(list(snapshots_of([("Pipo", PoolKind.NONPAGED, usages)], 20)))
    assert report.trends == () and "no sample tells how many bytes a tag holds" in report.warnings


def test_warnings_of_single_samples_are_told_but_not_200_times(leaking):
    local_time = "times without a zone are taken as UTC"
    report = follow_series(
        [replace(sample, warnings=(local_time, f"line {number} was not read")) for number, sample in enumerate(leaking)]
    )
    assert f"40 samples: {local_time}" in report.warnings
    assert "40 samples, first log-000.txt: line 0 was not read" in report.warnings
    assert len(report.warnings) == 3


def test_less_than_a_day_is_said(leaking):
    warning = "the samples span less than a day: what rises by day may fall by night"
    assert warning in follow_series(leaking).warnings
    assert warning not in follow_bytes([MB * i for i in range(100)]).warnings


def test_an_object_tag_is_labelled(leaking):
    (trend,) = follow_series(leaking, lambda tag: tag.text == "Pipo").trends
    assert trend.role is Role.OBJECT
