"""Long logs: evenly spread states are read, each with its place, so that rates and ends stay what they are."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.growth import follow_series
from pykdext.records import longlogs
from pykdext.records.logs import load_log
from pykdext.records.longlogs import choose_states

STATES = 120
START = datetime.datetime(2024, 11, 10, 16, 0)
TITLES = " Tag  Type     Allocs            Frees            Diff   Bytes  Per Alloc\n"


@given(st.integers(0, 5000), st.integers(0, 10_000_000))
def test_states_are_chosen_evenly_with_both_ends(count, rows):
    places = choose_states(count, rows)
    assert list(places) == sorted(set(places))
    if count:
        assert (places[0], places[-1]) == (0, count - 1)
    steps = {later - earlier for earlier, later in zip(places, places[1:])}
    assert not steps or max(steps) - min(steps) <= 1
    assert len(places) == count or len(places) <= longlogs.MOST_STATES


def write_poolmon(path, has_times):
    with open(path, "w", encoding="ascii") as file:
        for number in range(STATES):
            if has_times:
                file.write(f"{START + datetime.timedelta(minutes=15 * number):%Y-%m-%d %H:%M:%S}\n")
            file.write(TITLES)
            for tag, each in (("Pipo", 432), ("Irp ", 0)):
                grown = 1000 + number * 100 if each else 1000
                file.write(f" {tag} Nonp {grown + 500} 500 {grown} {grown * (each or 512)} {each or 512}\n")


def write_csv(path, has_times):
    with open(path, "w", encoding="ascii") as file:
        file.write("Time,Tag,Type,Allocs,Frees,Diff,Bytes\n")
        for number in range(STATES):
            at = START + datetime.timedelta(minutes=15 * number)
            for tag, grown, each in (("Pipo", 1000 + number * 100, 432), ("Irp ", 1000, 512)):
                file.write(f"{at:%Y-%m-%d %H:%M:%S},{tag},Nonp,{grown + 500},500,{grown},{grown * each}\n")


@pytest.mark.parametrize(("write", "has_times"), [(write_poolmon, True), (write_poolmon, False), (write_csv, True)])
def test_the_trend_of_a_long_log_is_that_of_the_whole(tmp_path, monkeypatch, write, has_times):
    path = tmp_path / "log.txt"
    write(path, has_times)
    every = None if has_times else 900.0
    whole = load_log(str(path))
    for name in ("pykdext.records.longlogs.MOST_ROWS", "pykdext.records.csvlog.MOST_ROWS"):
        monkeypatch.setattr(name, 60)
    monkeypatch.setattr("pykdext.records.longlogs._BYTES_A_ROW", 50)
    spread = load_log(str(path))
    assert len(whole) == STATES
    assert 2 < len(spread) < STATES / 2
    assert (spread[0].tags, spread[-1].tags) == (whole[0].tags, whole[-1].tags)
    assert sum(1 + snapshot.passed_over for snapshot in spread) == STATES
    assert f"the log holds {STATES} states: {len(spread)} of them" in spread[0].warnings[0]
    of_whole, of_spread = (follow_series(states, every_seconds=every) for states in (whole, spread))
    assert of_spread.span_seconds == of_whole.span_seconds
    rates = [report.trends[0].slope.bytes_per_hour for report in (of_whole, of_spread)]
    assert rates[0] == pytest.approx(rates[1]) == pytest.approx(432 * 100 * 4)
