"""Rows of a table that cannot be read: they count as missing, and a text that has no others is refused by its line."""

from __future__ import annotations

import pytest

from pykdext.cli.main import main
from pykdext.errors import RecordFormatError
from pykdext.records.logs import load_log_stream

POOLMON = """\
 Memory: 8388080K Avail: 1048576K  PageFlts:     1   InRam Krnl:  100K P:  200K
 Commit:1000K Limit:2000K Peak:1500K            Pool N: 2000K P: 3000K

 Tag  Type     Allocs            Frees            Diff   Bytes      Per Alloc

 Good Nonp        100 (   0)        10 (   0)       90    9000 (     0)    100
 {broken}
 Also Paged       100 (   0)        10 (   0)       90    9000 (     0)    100
"""
COMMAS = "Tag,Type,Allocs,Frees,Diff,Bytes\nGood,Nonp,100,10,90,9000\n{broken}\nAlso,Paged,100,10,90,9000\n"
BLANKS = "Tag   Type  Diff  Bytes\nGood  Nonp  90  9000\n{broken}\nAlso  Paged  90  9000\n"
DEBUGGER = """\
               NonPaged                  Paged
 Tag     Allocs         Used     Allocs         Used
 Good       100         9000          0            0
{broken}
 Also         0            0         90         9000
TOTAL       100         9000         90         9000
"""


@pytest.mark.parametrize(
    ("text", "broken", "number"),
    [
        (POOLMON, "Evil Nonp        1x0 (   0)        10 (   0)       90    9000 (     0)    100", 7),
        (POOLMON, "Evil Nonp        100 (   0)        10 (   0)       91    9000 (     0)    100", 7),
        (COMMAS, "Evil,Nonp,100,1O,90,9000", 3),
        (COMMAS, "Evil,Nonp", 3),
        (COMMAS, "Evil,Pxged,100,10,90,9000", 3),
        (BLANKS, "Evil  Nonp  9?0  9000", 3),
        (DEBUGGER, " Evil       1\ufffd0         9000          0            0", 4),
    ],
)
def test_a_row_that_cannot_be_read_counts_as_missing_and_ends_in_1(tmp_path, capsys, text, broken, number):
    path = tmp_path / "pool.txt"
    path.write_text(text.format(broken=broken), encoding="utf-8")
    assert main(["analyze", str(path)]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "Coverage: 2 of 3 rows of the text could be read" in shown
    assert f"line {number} " in shown
    path.write_text(text.format(broken="").replace("\n\n Also", "\n Also"), encoding="utf-8")
    assert main(["analyze", str(path)]) == 0


def test_find_says_why_it_ends_in_1(tmp_path, capsys):
    path = tmp_path / "pool.csv"
    path.write_text(COMMAS.format(broken="Evil,Nonp,1x0,10,90,9000"))
    assert main(["find", "Good", str(path)]) == 1
    assert "read in part: 2 of 3 rows of the text could be read" in " ".join(capsys.readouterr().out.split())


def test_what_a_debugger_prints_among_the_rows_is_no_row(tmp_path, capsys):
    path = tmp_path / "pool.txt"
    path.write_text(DEBUGGER.format(broken="GetPointerFromAddress: unable to read from fffff803"))
    assert main(["analyze", str(path)]) == 0
    assert "all rows of the file" in capsys.readouterr().out


def test_a_row_is_missing_in_the_sample_in_which_it_stood():
    row = "{time},Good,Nonp,100,10,90,9000\n"
    text = "Time,Tag,Type,Allocs,Frees,Diff,Bytes\n" + "".join(
        [row.format(time=f"2026-09-25 10:0{number}") for number in (1, 2)]
    )
    text += "2026-09-25 10:02,Evil,Nonp,1x0,10,90,9000\n" + row.format(time="2026-09-25 10:03")
    found = [(item.coverage.rows_read, item.coverage.rows_expected) for item in load_log_stream("x", text.encode())]
    assert found == [(None, None), (1, 2), (None, None)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Tag,Type,Allocs,Frees,Diff,Bytes\nEvil,Nonp,100,1O,90,9000\n", 2),
        ("what came\n\nTag   Type  Diff  Bytes\n----  ----  ----  -----\nEvil  Nonp  9?0  9000\n", 5),
        ("| Tag | Type | Bytes |\n|-----|------|-------|\n| Evil | Nonp | lots |\n", 3),
        ("Tag;Type;Allocs;Frees;Diff;Bytes\nEvil;Nonp;100;10;90\nEvil;Nonp;100;10;90\n", 2),
    ],
)
def test_a_table_without_any_row_that_can_be_read_is_refused_by_its_line(text, number):
    with pytest.raises(RecordFormatError) as refusal:
        load_log_stream("pool.txt", text.encode())
    assert refusal.value.line == number
    assert str(refusal.value).startswith(f"pool.txt: line {number}: ")
