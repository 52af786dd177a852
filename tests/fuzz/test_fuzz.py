"""A fixed number of cases of each target: about a minute. ``python -m tests.fuzz`` goes on from there."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.guided import ChanceOfInput
from tests.fuzz.run import TARGETS, Tally, render, run_case

CASES = 12

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="cases that hang are ended by a signal of POSIX")


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_is_damaged_nothing_crashes_hangs_or_lies(target):
    tally = Tally()
    for seed in range(CASES):
        run_case(target, seed, tally)
    assert not tally.findings, render(tally)
    assert tally.cases[target] == CASES


def test_an_input_decides_what_is_drawn_and_goes_on_behind_its_end():
    data = bytes(range(1, 20))
    one, same, other = (ChanceOfInput(given) for given in (data, data, data[:-1] + b"x"))
    drawn = [one.randrange(256) for _ in range(40)]
    assert drawn == [same.randrange(256) for _ in range(40)]
    assert drawn[: len(data)] != [other.randrange(256) for _ in range(len(data))]
    assert ChanceOfInput(b"").random() < 1
    assert sorted(ChanceOfInput(data).sample(range(9), 9)) == list(range(9))


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        ("stores", 15),
        ("structures", 1),
        ("tag tables", 50063),
        ("tag tables", 50160),
        ("bitmap", 900026),
        ("opposite", 1103),
    ],
)
def test_what_was_found_once_stays_mended(target, seed):
    tally = Tally()
    run_case(target, seed, tally)
    assert not tally.findings, render(tally)
