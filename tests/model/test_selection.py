from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.model import PoolKind, PoolTag
from pykdext.model.selection import SORT_KEYS, Selection, match_tag, select_tags, select_usages
from tests.helpers.builders import row, snapshot, snapshots, usage


@pytest.mark.parametrize(
    ("pattern", "tag", "matches"),
    [
        ("Irp", b"Irp ", True),
        ("Irp ", b"Irp ", True),
        ("Irp*", b"Irp ", True),
        ("Irp?", b"Irp ", True),
        ("irp*", b"Irp ", False),
        ("I*", b"Irp ", True),
        ("*p", b"Irp ", True),
        ("????", b"Irp ", True),
        ("?rp", b"Irp ", True),
        ("Ir", b"Irp ", False),
        ("[a]*", b"aaaa", False),
        ("[*", b"[abc", True),
        ("a.c", b"abc ", False),
        (r"\x01*", b"\x01abc", True),
    ],
)
def test_wildcards_are_those_of_windbg(pattern, tag, matches):
    assert match_tag(pattern, PoolTag(tag)) is matches


ROWS = snapshot(
    row("Aaaa", usage(10, 1, 500), usage(3, 3, 0)),
    row("Bbbb", usage(5, 0, 900)),
    row("Cccc", paged=usage(99, 9, 700)),
)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), ["Bbbb Nonp", "Cccc Paged", "Aaaa Nonp", "Aaaa Paged"]),
        (Selection(sort="tag"), ["Aaaa Nonp", "Aaaa Paged", "Bbbb Nonp", "Cccc Paged"]),
        (Selection(sort="outstanding"), ["Cccc Paged", "Aaaa Nonp", "Bbbb Nonp", "Aaaa Paged"]),
        (Selection(sort="frees", top=2), ["Cccc Paged", "Aaaa Paged"]),
        (Selection(pools=(PoolKind.PAGED,), sort="allocs"), ["Cccc Paged", "Aaaa Paged"]),
        (Selection(patterns=("A*", "C?cc")), ["Cccc Paged", "Aaaa Nonp", "Aaaa Paged"]),
    ],
)
def test_rows_are_poolmons_lines(selection, expected):
    assert [f"{one.tag} {one.pool.label}" for one in select_usages(ROWS, selection)] == expected


def test_tags_sort_by_the_pools_that_are_shown():
    assert [one.tag.text for one in select_tags(ROWS, Selection())] == ["Bbbb", "Cccc", "Aaaa"]
    assert [one.tag.text for one in select_tags(ROWS, Selection(pools=(PoolKind.PAGED,)))] == ["Cccc", "Aaaa"]


@given(snapshots, st.sampled_from(SORT_KEYS))
def test_nothing_is_lost_by_sorting(state, key):
    shown = select_usages(state, Selection(sort=key))
    used = [(one.tag, pool) for one in state.tags for pool in PoolKind if not one.usage(pool).is_idle]
    assert sorted((one.tag, one.pool.value) for one in shown) == sorted((tag, pool.value) for tag, pool in used)
