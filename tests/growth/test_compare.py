"""What changed between two states: differences, rates, restarts, wraps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import assume, given

from pykdext.growth import compare_snapshots, rank_deltas
from pykdext.model import UNUSED, Change, PoolKind, PoolSnapshot, PoolUsage, SnapshotSource
from tests.helpers.builders import row, snapshot, snapshots, usage

START = datetime(2024, 11, 12, 3, 41, tzinfo=timezone.utc)


def state(hours, *rows, uptime_seconds=None, **facts):
    return snapshot(*rows, taken_at=START + timedelta(hours=hours), uptime_seconds=uptime_seconds, **facts)


def changes_of(diff):
    return {delta.tag.text: delta.changes for delta in diff.deltas}


def busy_rows(factor, count=8):
    return [row(f"Bus{number}", usage(1000 * factor, 900 * factor, 6400)) for number in range(count)]


def test_numbers_and_rates():
    before = state(0, row("Pipo", usage(1000, 900, 6400), usage(10, 10, 0)), row("Idle", usage(5, 5, 0)))
    after = state(2, row("Pipo", usage(5000, 1900, 198_400), usage(13, 10, 96)), row("Idle", usage(5, 5, 0)))
    diff = compare_snapshots(before, after)
    assert diff.interval_seconds == 7200
    nonpaged, paged = diff.deltas
    assert (nonpaged.pool, nonpaged.allocs, nonpaged.frees) == (PoolKind.NONPAGED, 4000, 1000)
    assert (nonpaged.outstanding, nonpaged.bytes, nonpaged.bytes_per_hour) == (3000, 192_000, 96_000.0)
    assert (paged.pool, paged.allocs, paged.frees, paged.outstanding, paged.bytes) == (PoolKind.PAGED, 3, 0, 3, 96)
    assert (diff.total_bytes(PoolKind.NONPAGED), diff.total_bytes(PoolKind.PAGED)) == (192_000, 96)
    assert diff.warnings == () and diff.restart is None


def test_what_is_not_known_stays_unknown():
    before = state(0, row("Pipo", PoolUsage(None, None, 100, 6400)))
    after = state(1, row("Pipo", PoolUsage(70, 20, 50, None)))
    (delta,) = compare_snapshots(before, after).deltas
    assert (delta.allocs, delta.frees, delta.outstanding, delta.bytes) == (None, None, -50, None)
    assert delta.bytes_per_hour is None


def test_tags_that_appear_and_vanish():
    before = state(0, *busy_rows(1), row("Gone", usage(4, 1, 300)))
    after = state(1, *busy_rows(1), row("Newt", usage(7, 2, 500)))
    diff = compare_snapshots(before, after)
    assert changes_of(diff) == {"Newt": (Change.NEW,), "Gone": (Change.GONE,)}
    assert [delta.bytes for delta in diff.deltas] == [500, -300]
    assert any("Gone: missing in the second state" in warning for warning in diff.warnings)


def test_no_times_no_rates():
    diff = compare_snapshots(snapshot(row("Pipo", usage(1, 0, 64))), snapshot(row("Pipo", usage(2, 0, 128))))
    assert diff.interval_seconds is None and diff.deltas[0].bytes_per_hour is None
    assert diff.warnings == ("the time between the two states is not known, so there are no rates",)


def test_a_restart_shows_by_uptime():
    diff = compare_snapshots(
        state(0, *busy_rows(5), uptime_seconds=864_000.0), state(10, *busy_rows(6), uptime_seconds=3600.0)
    )
    assert diff.restart == "the machine was up 1 h 0 min only, 10 h 0 min after the sample before"
    assert all(delta.bytes_per_hour is None for delta in diff.deltas)
    assert any("was restarted in between (" in warning for warning in diff.warnings)


def test_a_restart_shows_by_counters_that_went_back():
    diff = compare_snapshots(state(0, *busy_rows(500)), state(1, *busy_rows(3)))
    assert diff.restart == "the counters of 8 of 8 tags went back"


def test_an_uptime_that_goes_on_outweighs_the_counters():
    before = state(0, *busy_rows(500), uptime_seconds=7200.0)
    diff = compare_snapshots(before, state(1, *busy_rows(3), uptime_seconds=10_810.0))
    assert diff.restart is None
    assert set(changes_of(diff).values()) == {(Change.WENT_BACK,)}


def test_a_wrapped_counter_is_no_restart():
    before = state(0, *busy_rows(1, 7), row("Irp ", PoolUsage(4_294_967_000, 4_294_966_900, 100, 6400)))
    after = state(1, *busy_rows(1, 7), row("Irp ", PoolUsage(704, 504, 200, 12_800)))
    diff = compare_snapshots(before, after)
    (delta,) = diff.deltas
    assert (delta.allocs, delta.frees, delta.outstanding) == (1000, 900, 100)
    assert delta.changes == (Change.WRAPPED,)
    assert diff.restart is None
    assert any(warning.startswith("Irp : a 32-bit counter went through zero") for warning in diff.warnings)


def test_a_tag_that_vanished_at_a_high_count_did_not_wrap():
    before = state(0, *busy_rows(1), row("Irp ", PoolUsage(4_294_967_000, 4_294_966_900, 100, 6400)))
    (delta,) = compare_snapshots(before, state(1, *busy_rows(1))).deltas
    assert (delta.allocs, delta.changes) == (-4_294_967_000, (Change.GONE,))


def test_states_in_the_wrong_order_are_said():
    before, after = state(2, row("Pipo", usage(9, 0, 900))), state(0, row("Pipo", usage(4, 0, 400)))
    diff = compare_snapshots(before, after)
    assert diff.interval_seconds == -7200 and diff.deltas[0].bytes == -500
    assert diff.deltas[0].bytes_per_hour == 250.0
    assert "taken 2 h 0 min before the first" in diff.warnings[0]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (({"host": "alpha"}, {"host": "beta"}), "different machines: alpha and beta"),
        (({"build": 19045}, {"build": 26100}), "different Windows builds: 19045 and 26100"),
    ],
)
def test_different_machines_are_said(facts, words):
    diff = compare_snapshots(state(0, **facts[0]), state(1, **facts[1]))
    assert words in diff.warnings[0]


def test_rows_sort_by_any_columns():
    before = state(0)
    after = state(
        1,
        row("Aaaa", usage(50, 49, 10)),
        row("Bbbb", usage(9, 1, 30)),
        row("Cccc", usage(9, 5, 20)),
        row("Dddd", PoolUsage(None, None, 5, None)),
    )
    deltas = compare_snapshots(before, after).deltas

    def order(*sorts):
        return "".join(delta.tag.text[0] for delta in rank_deltas(deltas, sorts))

    assert order("bytes") == order("rate") == "BCAD"
    assert order("outstanding") == "BDCA"
    assert order("allocs") == "ABCD" and order("allocs", "frees") == "ACBD"
    assert order("frees") == "ACBD"
    assert order("tag") == "ABCD"


def once_each(state):
    """No reader gives a tag twice."""
    return max(Counter(row.tag for row in state.tags).values(), default=0) <= 1


@given(snapshots)
def test_a_state_does_not_differ_from_itself(state):
    assume(once_each(state))
    assert compare_snapshots(state, state).deltas == ()


@given(snapshots, snapshots)
def test_the_way_back_is_the_negated_way(first, second):
    assume(once_each(first) and once_each(second))
    there, back = compare_snapshots(first, second), compare_snapshots(second, first)

    def numbers(diff, sign):
        return {
            (delta.tag, delta.pool): tuple(
                None if number is None else sign * number
                for number in (delta.allocs, delta.frees, delta.outstanding, delta.bytes)
            )
            for delta in diff.deltas
        }

    assert numbers(there, 1) == numbers(back, -1)


@given(snapshots, snapshots)
def test_the_differences_sum_up_to_that_of_the_totals(first, second):
    assume(once_each(first) and once_each(second))
    diff = compare_snapshots(first, second)
    known = {
        (delta.tag, delta.pool)
        for delta in diff.deltas
        if delta.bytes is not None and Change.UNLISTED not in delta.changes
    }
    for pool in PoolKind:

        def total(state, pool=pool):
            return sum(row.usage(pool).bytes or 0 for row in state.tags if (row.tag, pool) in known)

        if first.coverage.lacks_counts or second.coverage.lacks_counts:
            assert diff.total_bytes(pool) is None
            continue
        assert (diff.total_bytes(pool) or 0) == total(second) - total(first)


@given(snapshots, snapshots)
def test_wraps_and_restarts_never_change_what_is_outstanding(first, second):
    assume(once_each(first) and once_each(second))
    timed = replace(first, taken_at=START), replace(second, taken_at=START + timedelta(hours=1))
    for delta in compare_snapshots(*timed).deltas:
        if delta.outstanding is not None:
            assert delta.outstanding == delta.after.outstanding - delta.before.outstanding


def test_an_empty_state_compares():
    empty = PoolSnapshot(SnapshotSource("poolmon log"), ())
    full = snapshot(row("Pipo", usage(2, 1, 64)), uptime_seconds=None)
    assert [delta.bytes for delta in compare_snapshots(empty, full).deltas] == [64]
    assert compare_snapshots(empty, full).deltas[0].before is UNUSED
