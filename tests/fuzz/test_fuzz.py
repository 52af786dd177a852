"""A fixed number of cases of each target: about two minutes. ``python -m tests.fuzz`` goes on from there."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz.run import TARGETS, Tally, render, run_case

CASES = 20

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="cases that hang are ended by a signal of POSIX")


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_is_damaged_nothing_crashes_hangs_or_lies(target):
    tally = Tally()
    for seed in range(CASES):
        run_case(target, seed, tally)
    assert not tally.findings, render(tally)
    assert tally.cases[target] == CASES


@pytest.mark.parametrize(
    ("target", "seed"), [("stores", 15), ("structures", 1), ("tag tables", 50063), ("tag tables", 50160)]
)
def test_what_was_found_once_stays_mended(target, seed):
    tally = Tally()
    run_case(target, seed, tally)
    assert not tally.findings, render(tally)
