"""Two states of which one is only a part of a list, or tells of one pool: what is then said of growth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pykdext.growth import compare_snapshots
from pykdext.model import Change, PoolKind, PoolUsage, SnapshotSource, SystemMemory
from pykdext.pipeline import TagLists, conclude_diff
from pykdext.report.difftext import render_diff_text
from tests.helpers.builders import row, snapshot, usage

MB = 1 << 20
OLD, GROWN = row("Zold", usage(500, 100, 40 * MB)), row("Zold", usage(600, 100, 50 * MB))
FRESH = row("Zfre", usage(9000, 10, 900 * MB))
BOTH_POOLS = row("Ztwo", usage(9, 1, MB), usage(90, 1, 9 * MB))


def paste(*rows, **facts):
    return replace(snapshot(*rows, **facts), source=SnapshotSource("table of tags", "paste.txt"))


def told(before, after):
    diff = compare_snapshots(before, after)
    conclusion = conclude_diff(diff, diff.deltas, TagLists.load())
    return diff, conclusion, " ".join(render_diff_text(diff, diff.deltas, conclusion, 200).split())


def changes(diff, tag):
    return next(delta.changes for delta in diff.deltas if delta.tag.text == tag)


def test_a_tag_that_a_cut_list_does_not_have_did_not_grow_for_that():
    diff, conclusion, shown = told(paste(OLD), paste(GROWN, FRESH))
    assert changes(diff, "Zfre") == (Change.UNLISTED,)
    assert conclusion.verdict.startswith("Tag Zold of the nonpaged pool grew most: by 10.0 MB")
    assert conclusion.verdict.endswith("Tag Zfre holds 900 MB; the first list, which is only a part, does not have it.")
    assert diff.total_bytes(PoolKind.NONPAGED) == 10 * MB
    assert "tags that both states list: nonpaged +10,485,760 bytes" in shown
    assert "Zfre: missing in the first state, which is a part of a list or cut" in shown


def test_where_nothing_else_grew_the_verdict_says_what_is_not_known():
    verdict = told(paste(OLD), paste(OLD, FRESH))[1].verdict
    assert verdict.startswith("No tag that both states list grew. Tag Zfre of the nonpaged pool holds 900 MB;")


@pytest.mark.parametrize(
    ("facts", "change"),
    [
        ({"memory": SystemMemory(nonpaged_bytes=42 * MB)}, Change.NEW),
        ({"memory": SystemMemory(nonpaged_bytes=500 * MB)}, Change.NEW),  # so much cannot have been there
        ({"memory": SystemMemory(nonpaged_bytes=1500 * MB)}, Change.UNLISTED),
        ({"stated_nonpaged": PoolUsage(None, None, 400, 40 * MB)}, Change.NEW),
        ({"stated_nonpaged": PoolUsage(None, None, 9400, 1500 * MB)}, Change.UNLISTED),
    ],
)
def test_a_total_tells_what_the_list_lacks(facts, change):
    before = replace(paste(OLD), **facts)
    assert changes(compare_snapshots(before, paste(GROWN, FRESH)), "Zfre") == (change,)


def test_a_list_of_hundreds_of_tags_is_whole():
    many = [row(f"Q{number:03d}", usage(9, 1, MB)) for number in range(200)]
    before = replace(paste(OLD, *many), memory=SystemMemory(nonpaged_bytes=5000 * MB))
    assert changes(compare_snapshots(before, paste(GROWN, FRESH, *many)), "Zfre") == (Change.NEW,)


def test_a_dump_has_every_tag():
    assert changes(compare_snapshots(snapshot(OLD), snapshot(GROWN, FRESH)), "Zfre") == (Change.NEW,)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_pool_that_one_state_does_not_list_is_not_compared(swapped):
    one = paste(replace(OLD, paged=PoolUsage(None, None, None, None)))
    sides = (paste(GROWN, BOTH_POOLS), one) if swapped else (one, paste(GROWN, BOTH_POOLS))
    diff, _, shown = told(*sides)
    assert all(delta.pool is PoolKind.NONPAGED for delta in diff.deltas)
    name = "second" if swapped else "first"
    assert f"the {name} state does not list the paged pool: nothing of it is compared" in shown


def test_a_pool_that_no_state_lists_is_not_spoken_of():
    unsaid = PoolUsage(None, None, None, None)
    shown = told(paste(replace(OLD, paged=unsaid)), paste(replace(GROWN, paged=unsaid)))[2]
    assert "paged not known" not in shown.replace("nonpaged", "")


def test_no_tag_grew_is_not_said_above_a_row_with_more_blocks():
    unsized = [replace(item, nonpaged=replace(item.nonpaged, bytes=None)) for item in (OLD, GROWN)]
    for before, after, words in (
        (OLD, replace(GROWN, nonpaged=replace(GROWN.nonpaged, bytes=40 * MB)), "No tag holds more bytes; tag Zold"),
        (*unsized, "No verdict: the two states do not both tell how many bytes a tag holds; tag Zold"),
    ):
        assert (
            told(snapshot(before), snapshot(after))[1].verdict
            == f"{words} has 100 blocks more than before, the most of all."
        )


def test_counters_that_go_back_without_times_are_a_restart_or_a_wrong_order_in_the_verdict_too():
    before, after = (replace(paste(item), taken_at=None) for item in (GROWN, OLD))
    verdict = told(before, after)[1].verdict
    assert verdict.startswith("The machine was restarted in between, or the states are given in the wrong order.")
