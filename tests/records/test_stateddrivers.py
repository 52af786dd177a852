"""What sources say of who allocates a tag, and the sums that they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykdext.model import PoolKind, PoolTag
from pykdext.records.logs import load_log
from pykdext.records.stateddrivers import find_binary, find_drivers

CASES = Path(__file__).parent / "cases"
TAG = PoolTag.from_text("Fecf")


@pytest.mark.parametrize(
    ("cell", "modules"),
    [
        ("netio.sys", ["netio.sys"]),
        ("nt!io", ["nt"]),
        ("[nt!ps        - Thread objects]", ["nt"]),
        ("[<unknown>]", []),
        ("UNKNOWN", []),
        ("", []),
        ("-", []),
        (r"\SystemRoot\system32\drivers\npcap.sys", ["npcap.sys"]),
        ("[mup.sys][rdbss.sys]", ["mup.sys", "rdbss.sys"]),
        ("a.sys, b.sys or A.sys", ["a.sys", "b.sys", "A.sys"]),
        ("used by some driver of the vendor", []),
        ("; ".join(f"d{i}.sys" for i in range(9)), []),
    ],
)
def test_reads_the_drivers_of_a_cell(cell, modules):
    assert [driver.module for driver in find_drivers(TAG, cell, "column Source")] == modules


def test_a_description_names_a_binary_and_says_where():
    (driver,) = find_binary(TAG, "\tWFP filter engine callout context , Binary: netio.sys")
    assert (driver.tag, driver.module, driver.told_by) == (TAG, "netio.sys", "Binary in !poolused")
    assert driver.text == "WFP filter engine callout context , Binary: netio.sys"
    assert find_binary(TAG, "UNKNOWN pooltag 'Fecf', please update pooltag.txt") == ()


def test_poolused_keeps_the_drivers_and_totals_of_its_text():
    (state,) = load_log(str(CASES / "21-poolused-binary-named.txt"))
    assert [(driver.tag.text, driver.module) for driver in state.stated_drivers] == [
        ("Fecf", "netio.sys"),
        ("EtwB", "nt"),
    ]
    total = state.stated_total(PoolKind.NONPAGED)
    assert (total.outstanding, total.bytes) == (22571473, 3255314816)
    assert state.stated_total(PoolKind.PAGED).bytes == 163840


def test_a_total_counts_tags_that_are_not_listed():
    (state,) = load_log(str(CASES / "73-lists.txt"))
    assert state.total_bytes(PoolKind.PAGED) == 851968
    assert state.pool_bytes(PoolKind.PAGED) == 712345678


def test_poolmon_keeps_the_column_mapped_driver():
    (state,) = load_log(str(CASES / "20-mapped-driver.txt"))
    assert [(driver.tag.text, driver.module, driver.told_by) for driver in state.stated_drivers] == [
        ("Thre", "nt", "column Mapped_Driver"),
        ("NpCD", "npcap.sys", "column Mapped_Driver"),
    ]
