"""Physical memory by use in texts: RAMMap's table as it is copied, exported and quoted, and !memusage of three ages."""

from __future__ import annotations

import json

import pytest

from pykdext.cli.main import main
from pykdext.model.memory import FrameUse
from pykdext.records.frametables import find_frame_table
from pykdext.records.logs import load_newest

TITLES = ["Usage", "Total", "Active", "Standby", "Modified", "Modified No Write", "Transition", "Zeroed", "Free", "Bad"]
CELLS = {
    "Process Private": "3,033,200 K|2,949,060 K|64,140 K|20,000 K||||||",
    "Mapped File": "3,215,380 K|815,380 K|2,400,000 K|||||||",
    "Shareable": "402,112 K|302,112 K|90,000 K|10,000 K||||||",
    "Page Table": "3,072,072 K|3,072,072 K||||||||",
    "Paged Pool": "810,500 K|700,500 K|100,000 K|10,000 K||||||",
    "Nonpaged Pool": "1,549,964 K|1,549,964 K||||||||",
    "System PTE": "120,000 K|120,000 K||||||||",
    "Metafile": "900,000 K|100,000 K|800,000 K|||||||",
    "AWE": "|||||||||",
    "Driver Locked": "185,136 K|185,136 K||||||||",
    "Kernel Stack": "40,104 K|40,104 K||||||||",
    "Unused": "2,555,000 K||||||2,500,000 K|55,000 K|",
    "Total": "15,883,468 K|9,834,328 K|3,454,140 K|40,000 K|||2,500,000 K|55,000 K|",
}
K = 1024
TOLD = {
    FrameUse.PAGE_TABLES: 3_072_072 * K,
    FrameUse.PRIVATE: 2_949_060 * K,
    FrameUse.STANDBY: 3_454_140 * K,
    FrameUse.MODIFIED: 40_000 * K,
    FrameUse.ZEROED: 2_500_000 * K,
    FrameUse.FREE: 55_000 * K,
    FrameUse.NONPAGED_POOL: 1_549_964 * K,
    FrameUse.DRIVER_LOCKED: 185_136 * K,
    FrameUse.METAFILE: 100_000 * K,
}


def tab_copy():
    rows = [TITLES, *([name, *cells.split("|")] for name, cells in CELLS.items())]
    return "\n".join("\t".join(row) for row in rows)


def comma_export():
    rows = [TITLES, *([name, *cells.split("|")] for name, cells in CELLS.items())]
    return "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)


def markdown():
    rows = [TITLES, ["---"] * 10, *([name, *cells.split("|")] for name, cells in CELLS.items())]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


@pytest.mark.parametrize("write", [tab_copy, comma_export, markdown])
@pytest.mark.parametrize("mark", [",", ".", "\xa0", "\u202f"])
def test_rammap_with_its_lists(write, mark):
    text = write().replace(" K", "#").replace(",", "," if write is comma_export and mark == "," else mark)
    if write is comma_export:
        text = text.replace(f'"{mark}"', '","')
    table = find_frame_table(f"seen on SRV7:\r\n{text.replace('#', ' K')}\n")
    assert {use: table.frames.bytes_of(use) for use in TOLD} == TOLD
    assert table.frames.expected == 15_883_468 * K // 4096
    assert table.warnings == ()


def test_totals_alone_do_not_tell_what_is_on_standby():
    text = "Page Table: ~3,072,072 K (~3.0 GB)\n- Process Private: ~3,033,200 K total, ~2,949,060 K active\n"
    table = find_frame_table(f"{text}* Mapped File: 3.1 GB\nNonpaged Pool: ~1,549,964 K\nDriver Locked 181 MB\n")
    assert table.frames.bytes_of(FrameUse.PAGE_TABLES) == 3_072_072 * K
    assert table.frames.bytes_of(FrameUse.PRIVATE) == 3_033_200 * K
    assert table.frames.bytes_of(FrameUse.DRIVER_LOCKED) == 181 << 20
    assert len(table.warnings) == 2


@pytest.mark.parametrize(
    "text", ["", "Paged Pool: 612 MB\nNonpaged pool 1.2 GB\nTotal 3", "Process Private was large\n"]
)
def test_other_texts_are_no_table(text):
    assert find_frame_table(text) is None


LISTS = """
kd> !memusage
 loading PFN database
             Zeroed:     9841 (   39364 kb)
               Free:   113298 (  453192 kb)
            Standby:   105520 (  422080 kb)
           Modified:     7923 (   31692 kb)
    ModifiedNoWrite:        7 (      28 kb)
       Active/Valid:   286963 ( 1147852 kb)
         Transition:       45 (     180 kb)
{bad}            Unknown:        0 (       0 kb)
              TOTAL:   524164 ( 2096656 kb)
Scanning PFN database - (100% complete)

  Usage Summary (in Kb):
Control       Valid Standby Dirty Shared Locked PageTables  name
"""
ROWS = """ffffffffd 611288      0     0     0 611288     0    AWE
ffffd4057034ecd0   328    148     0     0     0     0  mapped_file( usb port.sys )
8251a258     8   1708     0     0     0     0    No Name for File
-------- 40     20     0 ----- ----- 0  session 0 0
--------  1348      0     0 ----- -----   904  process ( System )
--------   64492   12     4 ----- -----    72  process ( sql server.exe )
--------   492      0     0 ----- 0 -----  driver ( ntkrnlmp.exe )
"""


@pytest.mark.parametrize("bad", ["", "SLIST/Bad:      567 (    2268 kb)\n", "SLIST/Temp: 567 ( 2268 kb)\n"])
def test_memusage(bad):
    table = find_frame_table(LISTS.format(bad=bad) + ROWS)
    frames = table.frames
    assert frames.bytes_of(FrameUse.MODIFIED) == 7930 * 4096
    assert frames.bytes_of(FrameUse.AWE) == 611288 * K
    assert frames.bytes_of(FrameUse.MAPPED_FILES) == 336 * K
    assert frames.bytes_of(FrameUse.PRIVATE) == (444 + 64420) * K
    assert frames.bytes_of(FrameUse.PAGE_TABLES) == 976 * K
    assert [(row.image, row.bytes, row.table_bytes) for row in frames.private] == [
        ("sql server.exe", 64420 * K, 72 * K),
        ("System", 444 * K, 904 * K),
    ]
    assert frames.read == sum(count.frames for count in frames.uses) <= frames.expected


def test_rows_that_hold_more_than_there_is_are_not_believed():
    table = find_frame_table(LISTS.format(bad="") + ROWS.replace("611288  ", "6112880000  "))
    assert table.frames.bytes_of(FrameUse.AWE) == 0
    assert "rows hold more than is in use" in table.warnings[0]


@pytest.mark.parametrize("text", [tab_copy(), LISTS.format(bad="") + ROWS])
def test_the_commands_say_it(text, tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text(text)
    main(["memory", str(path), "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    assert document["dominant"] in ("page tables", "AWE and physical pages of processes")
    assert document["frames"]["uses"][0]["bytes"] > 500 << 20


def test_the_table_is_found_beside_tags(tmp_path):
    path = tmp_path / "both.txt"
    path.write_text(
        f" Tag  Type     Allocs     Frees      Diff     Bytes\n Toke Paged  100 50 50 409600\n\n{tab_copy()}\n"
    )
    snapshot = load_newest(str(path))
    assert len(snapshot.tags) == 1
    assert snapshot.frames.bytes_of(FrameUse.PAGE_TABLES) == 3_072_072 * K
