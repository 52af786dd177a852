"""What weighs more than the pools: by size, share of the machine, and what counts it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pykdext.growth.untagged import find_dominant, rank_untagged
from pykdext.model import UntaggedKind
from pykdext.model.memory import CommitLine, CommitPart, CommitSheet, FrameUse, PageFrames, UseCount

GIB = 1 << 30


def sheet_with(mdl):
    return CommitSheet((CommitLine("Pages For MDLs", CommitPart.DRIVERS, mdl),), committed_bytes=40 * GIB)


def frames_with(use, frames, expected=16 * GIB >> 12, sampled=False):
    return PageFrames((UseCount(use, frames),), expected, expected, sampled, True)


def test_the_largest_comes_first_and_names_its_source():
    ranked = rank_untagged(sheet_with(2 * GIB), frames_with(FrameUse.SYSTEM_PTES, 13 * GIB >> 12))
    assert [holding.kind for holding in ranked] == [UntaggedKind.SYSTEM_PTES, UntaggedKind.MDL]
    assert ranked[0].source == "page frame database" and not ranked[0].is_estimate


def test_what_holds_more_than_the_pools_stands_out():
    ranked = rank_untagged(sheet_with(12 * GIB), None)
    assert find_dominant(ranked, 64 * GIB, 3 * GIB) == ranked[0]
    assert find_dominant(ranked, 64 * GIB, 13 * GIB) is None


def test_little_memory_fills_no_machine():
    assert find_dominant(rank_untagged(sheet_with(3 * GIB), None), 64 * GIB, 1 * GIB) is None


def test_more_than_the_machine_has_is_not_believed():
    assert find_dominant(rank_untagged(sheet_with(100 * GIB), None), 64 * GIB, 1 * GIB) is None


def test_nothing_is_judged_without_the_machine():
    assert find_dominant(rank_untagged(sheet_with(100 * GIB), None), None, None) is None
    assert find_dominant((), 64 * GIB, None) is None


@given(st.lists(st.sampled_from(list(FrameUse)), unique=True), st.integers(0, 1 << 40))
def test_only_kinds_that_no_tag_counts_are_ranked(uses, frames):
    counted = PageFrames(tuple(UseCount(use, frames) for use in uses), 1 << 24, 1 << 24, False, True)
    ranked = rank_untagged(None, counted)
    assert not [holding for holding in ranked if "pool" in holding.kind.value]
    assert list(ranked) == sorted(ranked, key=lambda holding: -holding.bytes)
