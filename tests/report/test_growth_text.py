"""Differences and trends as text, sparkline and JSON."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.attribution.taglists import TagLists
from pykdext.growth import compare_snapshots, follow_series
from pykdext.model import POOL_UNNAMED, Origin, PoolKind, PoolTag, PoolUsage, SystemMemory, TimeOrigin
from pykdext.pipeline import conclude_diff, conclude_series
from pykdext.report.difftext import render_diff_text
from pykdext.report.growthdoc import render_diff_json, render_trend_json
from pykdext.report.html.pages import render_trend_page
from pykdext.report.sparkline import ASCII_RAMP, BLOCKS, render_sparkline
from pykdext.report.trendtext import render_trend_text
from tests.helpers.builders import row, snapshot, snapshots, usage
from tests.helpers.poolseries import GB, KB, MB, quiet_columns, quiet_series, snapshots_of, tag_names

START = datetime(2024, 11, 12, 3, 41, tzinfo=timezone.utc)
ORIGIN = Origin("poolleak --format html", "0.0", START)


def diff_text(diff, rows, width):
    return render_diff_text(diff, rows, conclude_diff(diff, rows, TagLists({})), width)


def diff_json(diff, rows=None):
    return json.loads(render_diff_json(diff, conclude_diff(diff, diff.deltas, TagLists({})), rows))


def trend_text(report, *arguments, **options):
    return render_trend_text(report, conclude_series(report, TagLists({})), *arguments, **options)


def trend_json(report):
    return json.loads(render_trend_json(report, conclude_series(report, TagLists({}))))


# --- diff -----------------------------------------------------------------------------


@pytest.fixture
def diff():
    before = snapshot(
        row("Pipo", usage(1000, 900, 6400)),
        row("Irp ", usage(70_000, 69_000, 300_000)),
        row("Idle", usage(5, 5, 0)),
        path="log-1.txt",
        taken_at=START,
        time_from=TimeOrigin.FILE_NAME,
        uptime_seconds=None,
    )
    after = snapshot(
        row("Pipo", usage(5000, 1900, 198_400)),
        row("Irp ", usage(90_000, 89_500, 150_000)),
        row("Idle", usage(5, 5, 0)),
        row("Newt", paged=PoolUsage(None, None, 3, 96)),
        path="log-2.txt",
        taken_at=START + timedelta(hours=2),
        time_from=TimeOrigin.FILE_NAME,
        uptime_seconds=None,
    )
    return compare_snapshots(before, after)


def test_diff_as_text(diff):
    assert (
        diff_text(diff, diff.deltas, 80)
        == """\
Before: log-1.txt: 2024-11-12 03:41:00 UTC (by the file name)
After:  log-2.txt: 2024-11-12 05:41:00 UTC (by the file name)

Tag Pipo of the nonpaged pool grew most: by 188 KB in 2 h 0 min, 93.8 KB an
hour. A dump or the machine's driver files can tell which driver it is.

Tag   Type    Allocs    Frees    Diff     Bytes   Per hour
----  -----  -------  -------  ------  --------  ---------  ---
Pipo  Nonp    +4,000   +1,000  +3,000  +192,000   +93.8 KB
Newt  Paged        -        -      +3       +96  +48 bytes  new
Irp   Nonp   +20,000  +20,500    -500  -150,000   -73.2 KB

3 of 3 rows that differ are shown; all tags in 2 h 0 min: nonpaged +42,000
bytes, paged +96 bytes

Pool    Before     After      Limit  Filled
-----  -------  --------  ---------  ------
Nonp    299 KB    340 KB  not known       -
Paged  0 bytes  96 bytes  not known       -

Next steps
  poolleak find Pipo --images DIR  who owns it, by the machine's driver files
  A kernel dump taken before the machine is restarted names the driver
"""
    )


def test_a_diff_without_differences(diff):
    text = diff_text(compare_snapshots(diff.before, diff.before), (), 80)
    assert "No tag differs." in text
    assert "Warning: both states bear the same time, so there are no rates" in text


def test_diff_as_json(diff):
    document = diff_json(diff)
    assert document["schema"] == "poolleak.diff/1"
    assert document["interval_seconds"] == 7200
    assert document["before"]["source"]["path"] == "log-1.txt"
    assert document["deltas"][0] == {
        "tag": "Pipo",
        "hex": "5069706f",
        "pool": "nonpaged",
        "allocs": 4000,
        "frees": 1000,
        "outstanding": 3000,
        "bytes": 192_000,
        "bytes_per_hour": 96_000.0,
        "changes": [],
    }
    assert document["totals"] == {"nonpaged_bytes": 42_000, "paged_bytes": 96}
    assert [delta["tag"] for delta in diff_json(diff, diff.deltas[:1])["deltas"]] == ["Pipo"]
    assert diff_json(diff, ())["deltas"] == []


@given(snapshots, snapshots)
def test_any_two_states_render(first, second):
    diff = compare_snapshots(first, second)
    assert diff_text(diff, diff.deltas, 80).endswith("\n")
    assert len(diff_json(diff)["deltas"]) == len(diff.deltas)


# --- sparkline ------------------------------------------------------------------------


def test_a_sparkline_climbs_with_its_values():
    assert render_sparkline(range(8), 8, unicode=True) == BLOCKS == "▁▂▃▄▅▆▇█"
    assert render_sparkline(range(9), 9) == ASCII_RAMP == ".:-=+*#%@"


def test_a_sparkline_of_many_values_shows_their_means():
    assert render_sparkline([0, 0, 0, 100, 100, 100], 2) == ".@"


def test_a_sparkline_has_blanks_where_nothing_is_known():
    assert render_sparkline([None, 1, None, 9], 4) == " . @"
    assert render_sparkline([None, None], 4) == "  "
    assert render_sparkline([5, 5, 5], 8) == "..."
    assert render_sparkline([], 8) == ""


@given(st.lists(st.none() | st.integers(0, 2**64), max_size=300), st.integers(1, 60), st.booleans())
def test_a_sparkline_keeps_its_width(values, columns, unicode):
    drawn = render_sparkline(values, columns, unicode)
    assert len(drawn) == min(columns, len(values))
    assert set(drawn) <= set(BLOCKS if unicode else ASCII_RAMP) | {" "}


# --- trend ----------------------------------------------------------------------------


def trend_series(**facts):
    """A cause that is never freed, its victim, a kernel object, a sawtooth, and quiet tags, for 50 hours."""
    count = 200
    cause = [PoolUsage(100 + 40 * i, 0, 100 + 40 * i, (100 + 40 * i) * 8 * KB) for i in range(count)]
    victim = [PoolUsage(9_000_100 + 40 * i, 9_000_000, 100 + 40 * i, (100 + 40 * i) * KB) for i in range(count)]
    files = [PoolUsage(9_000_100 + 41 * i, 9_000_000, 100 + 41 * i, (100 + 41 * i) * KB // 2) for i in range(count)]
    sawtooth = [PoolUsage(900 * i, 900 * i - i % 50, i % 50, (i % 50) * MB) for i in range(count)]
    columns = [
        ("Pipo", PoolKind.NONPAGED, cause),
        ("Ntfc", PoolKind.PAGED, victim),
        ("File", PoolKind.NONPAGED, files),
        ("Saw ", PoolKind.PAGED, sawtooth),
        *quiet_columns(random.Random(4), tag_names(4), count),
    ]
    return list(snapshots_of(columns, count, **facts))


def is_object(tag):
    return tag.text == "File"


@pytest.fixture(scope="module")
def report():
    memory = SystemMemory(nonpaged_bytes=4 * GB, nonpaged_limit_bytes=4 * GB + 160 * MB)
    return follow_series(trend_series(memory=memory), is_object)


EXPECTED = """\
200 samples from 2024-11-12 03:41 to 2024-11-14 05:26 UTC, 2 d 1 h

Tag Pipo of the nonpaged pool grows by 1.25 MB an hour, 30.0 MB a day (95 %:
1.25 MB to 1.25 MB an hour, p < 0.001); the nonpaged pool is full in 5 d 8 h. A
dump or the machine's driver files can tell which driver it is. It grows in
lockstep with others (group 1, role: cause).

Tag   Type   Verdict   Per hour      Now   Full in  Bytes
----  -----  --------  --------  -------  --------  ----------------------------
Pipo  Nonp   leak      +1.25 MB  63.0 MB   5 d 8 h  ....:::---===++****##%%%%@@@
Ntfc  Paged  leak       +160 KB  7.87 MB         -  ....:::---===++****##%%%%@@@
File  Nonp   leak      +82.0 KB  4.03 MB  83 d 6 h  ....:::---===++****##%%%%@@@
Saw   Paged  sawtooth         -  49.0 MB         -  .:-+*%@.:-+*%@.:-+*%@.:-+*%@
Saw  Paged: climbs; fell back 3 times

Group 1: blocks grow in lockstep, so one cause holds them all
Tag   Type   Blocks   Ratio  Freed  Role
----  -----  ------  ------  -----  ---------------------------------------
Pipo  Nonp   +7,880  x1.000     0%  cause: never freed, holds the others
Ntfc  Paged  +7,880  x1.000  99.9%  victim: freed when the cause lets go
File  Nonp   +8,077  x1.025  99.9%  object: made for somebody: ask for whom

File: object that Windows makes for somebody else, not the cause. Ask next: who
  opens files?

Pool       Now      Limit  Filled
-----  -------  ---------  ------
Nonp   4.00 GB    4.16 GB     96%
Paged   207 MB  not known       -

Next steps
  poolleak find Pipo --images DIR  who owns it, by the machine's driver files
  A kernel dump taken before the machine is restarted names the driver

8 rows (tag and pool): 3 leak, 1 sawtooth, 4 steady
"""


def test_trend_as_text(report):
    text = trend_text(report, 80, questions={PoolTag(b"File"): "who opens files?"})
    assert text == EXPECTED


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("unicode", [False, True])
def test_the_trend_fits_its_width(report, width, unicode):
    text = trend_text(report, width, unicode)
    assert max(map(len, text.splitlines())) <= width
    assert ("█" in text) is unicode
    assert unicode or text.isascii()


def test_long_tags_leave_no_room_for_a_sparkline():
    usages = [PoolUsage(40 * i, 0, 40 * i, 40 * i * 8 * KB) for i in range(60)]
    series = list(snapshots_of([("\\xff\\xfe\\x01\\x02", PoolKind.NONPAGED, usages)], 60))
    lines = trend_text(follow_series(series), 60).splitlines()
    assert all("Bytes" not in line for line in lines)
    assert max(map(len, lines)) <= 60


def test_a_quiet_series_says_so():
    text = trend_text(follow_series(quiet_series(3, 4)), 80)
    assert "\nNo tag grows beyond its noise.\n" in text
    assert "4 rows (tag and pool): 4 steady" in text


def test_an_uncertain_growth_is_no_leak():
    values = [int(100 * MB * i**0.5) for i in range(200)]
    series = list(snapshots_of([("Slow", PoolKind.PAGED, [PoolUsage(None, None, None, held) for held in values])], 200))
    text = trend_text(follow_series(series), 100)
    assert "No leak for certain: it grows ever slower." in " ".join(text.split())


def test_too_few_samples_say_what_they_can():
    text = trend_text(follow_series(trend_series()[:5], is_object), 80)
    assert "The samples are too few for a verdict. Tag Saw  of the paged pool grows by" in text
    assert "Warning: 5 samples are too few for a verdict; it takes 8" in text


def test_no_samples_at_all():
    text = trend_text(follow_series([]), 80)
    assert text == "No samples\n\nThere is no sample to judge.\n\nNo tag to follow\n"


def test_a_limit_that_is_reached_already():
    memory = SystemMemory(commit_bytes=9 * GB, commit_limit_bytes=8 * GB)
    text = trend_text(follow_series(trend_series(memory=memory)), 100)
    assert "; the commit limit is reached already." in " ".join(text.split())


def test_trend_as_json(report):
    document = trend_json(report)
    assert document["schema"] == "poolleak.trend/1"
    assert (document["samples"], document["span_seconds"]) == (200, 199 * 900.0)
    first = document["trends"][0]
    assert first == {
        "tag": "Pipo",
        "hex": "5069706f",
        "pool": "nonpaged",
        "first_bytes": 100 * 8 * KB,
        "last_bytes": 8060 * 8 * KB,
        "slope_bytes_per_hour": 160 * 8 * KB,
        "slope_low": 160 * 8 * KB,
        "slope_high": 160 * 8 * KB,
        "monotonic_p": report.trends[0].monotonic_p,
        "verdict": "leak",
        "hours_to_limit": 128.0,
        "limit": "nonpaged pool",
        "group": 1,
        "role": "cause",
        "note": "",
    }
    assert [trend["verdict"] for trend in document["trends"]] == ["leak"] * 3 + ["sawtooth"] + ["steady"] * 4
    assert document["segments"][0]["judged"] is True
    (group,) = document["groups"]
    assert [(member["tag"], member["role"]) for member in group["members"]] == [
        ("Pipo", "cause"),
        ("Ntfc", "victim"),
        ("File", "object"),
    ]


@given(st.lists(snapshots, max_size=4))
def test_any_series_renders(series):
    report = follow_series(series, allow_mixed=True)
    assert trend_text(report, 80).endswith("\n")
    assert len(trend_json(report)["trends"]) == len(report.trends)


def test_a_series_without_bytes_has_no_verdict():
    usages = [PoolUsage(1000 + 100 * hour, 10, 990 + 100 * hour, None) for hour in range(12)]
    text = trend_text(follow_series(list(snapshots_of([("Pipo", PoolKind.NONPAGED, usages)], 12))), 100)
    assert "\nNo verdict: no sample tells how many bytes a tag holds. Logs of poolmon or dumps would decide.\n" in text
    assert "grows" not in text


def test_of_tags_that_are_not_there_nothing_is_said():
    report = replace(follow_series(quiet_series(3, 4)), trends=())
    text = trend_text(report, 100)
    assert "None of the tags that were asked for is in the samples: nothing is said of others." in text
    assert "A total names no tag" not in text


def test_of_rows_that_were_not_asked_for_no_difference_says_anything(diff):
    assert "\nNo tag that was asked for differs.\n" in diff_text(diff, [], 100)
    shrunk = [delta for delta in diff.deltas if (delta.bytes or 0) < 0]
    assert shrunk
    assert "\nNo tag that was asked for grew.\n" in diff_text(diff, shrunk, 100)
    unknown = replace(diff, deltas=tuple(replace(delta, bytes=None) for delta in diff.deltas))
    assert "\nNo verdict: the two states do not both tell" in diff_text(unknown, unknown.deltas, 100)


@pytest.mark.parametrize("hours", [0, 1])
def test_no_pool_is_named_where_the_samples_name_none(hours):
    """With times and without."""
    samples = [
        snapshot(
            row("Leak", usage(number * 1000, 0, number * MB)),
            path=f"log-{number}.txt",
            taken_at=START + timedelta(hours=number) if hours else None,
            time_from=TimeOrigin.HEADER if hours else None,
            uptime_seconds=None,
            warnings=(POOL_UNNAMED,),
        )
        for number in range(1, 11)
    ]
    verdict = conclude_series(follow_series(samples), TagLists({})).verdict
    assert verdict.startswith("Tag Leak of the pool (which one is not said) grows ")
    named = [replace(sample, warnings=()) for sample in samples]
    assert conclude_series(follow_series(named), TagLists({})).verdict.startswith(
        "Tag Leak of the nonpaged pool grows "
    )


@pytest.mark.parametrize("is_named", [False, True])
def test_the_pool_that_is_full_is_named_as_its_rows_are(is_named):
    samples = [
        snapshot(
            row("Leak", usage(number * 1000, 0, number * MB)),
            path=f"log-{number}.txt",
            taken_at=START + timedelta(hours=number),
            time_from=TimeOrigin.HEADER,
            memory=SystemMemory(nonpaged_limit_bytes=200 * MB),
            warnings=() if is_named else (POOL_UNNAMED,),
        )
        for number in range(1, 11)
    ]
    report = follow_series(samples)
    assert report.trends[0].limit == "nonpaged pool"  # as the schema says
    text = " ".join(trend_text(report, 120).split())
    page = render_trend_page(report, conclude_series(report, TagLists({})), {}, ORIGIN)
    page = page[page.index("<main") : page.index("All tags (")]
    if is_named:
        assert "the nonpaged pool is full in" in text and "Leak Nonp" in text
        assert "the limit (nonpaged pool)" in page and "Leak Nonp" in page
    else:
        assert "the pool (which one is not said) is full in" in text and "Leak - " in text
        assert "the limit (pool (which one is not said))" in page and "<td>-</td>" in page
        for shown in (text, page):
            assert not re.search("Nonp|nonpaged pool", shown.split("Limit Filled")[0])
