"""What sources say of who allocates a tag, and the sums that they print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pykdext.cli.main import main
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


DEBUGGER_TEXT = """\
0: kd> !poolused 2
               NonPaged                  Paged
 Tag     Allocs         Used     Allocs         Used
 Zbcd     10000     12345678          7          777  Foo , Binary: foo.sys
 Irp       1000      1345678          7          777  Io, IRP packets , Binary: wrong.sys
TOTAL     11000     13691356         14         1554
"""
POOLMON_TEXT = """\
 Tag  Type     Allocs            Frees            Diff   Bytes      Per Alloc  Mapped_Driver

 Zbcd Nonp      10000 (   0)         0 (   0)    10000 1234567 (     0)    123 [foo.sys]
"""
COLUMN_TEXT = "Tag,Type,Diff,Bytes,Driver\nZbcd,Nonp,10000,1234567,foo.sys\n"


@pytest.mark.parametrize(
    ("text", "told_by"),
    [
        (DEBUGGER_TEXT, "Binary in !poolused"),
        (POOLMON_TEXT, "column Mapped_Driver"),
        (COLUMN_TEXT, "a column of the table"),
    ],
)
def test_every_command_gives_the_driver_that_the_text_states(tmp_path, capsys, text, told_by):
    path = tmp_path / "log.txt"
    path.write_text(text)
    assert main(["find", "Zbcd", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Owner: foo.sys, possible" in shown
    assert told_by in shown and "there is no driver image to search" in shown
    for view in ("poolmon", "poolused"):
        assert main(["used", str(path), "--view", view]) == 0
        shown = capsys.readouterr().out
        assert re.search(r"^Zbcd .*foo\.sys: possible", shown, re.MULTILINE)
        assert "wrong.sys" not in shown  # the tag of an object is nobody's
    assert main(["blocks", "Zbcd", str(path)]) == 3
    assert f"foo.sys (possible, {told_by})" in capsys.readouterr().err


def test_a_list_of_blocks_gives_the_driver_that_it_states(capsys):
    path = str(CASES / "43-verifier-allocs.txt")
    assert main(["blocks", "ebpf", path]) == 0
    assert "the text itself states ebpfcore.sys (possible, !verifier)." in " ".join(capsys.readouterr().out.split())
    assert main(["blocks", "ebpf", path, "--format", "json"]) == 0
    (stated,) = json.loads(capsys.readouterr().out)["stated_drivers"]
    assert (stated["module"], stated["told_by"]) == ("ebpfcore.sys", "!verifier")
