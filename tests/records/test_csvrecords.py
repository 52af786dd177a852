from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.model import POOL_UNNAMED, UNSAID, PoolKind, PoolTag, PoolUsage, SystemMemory, TimeOrigin
from pykdext.records.columns import find_columns, find_pool
from pykdext.records.csvlog import parse_csv
from pykdext.records.logs import load_log
from pykdext.records.moments import ZONE_UNKNOWN
from pykdext.records.pastedtable import parse_pasted_tables
from pykdext.records.recipe import render_recipe
from pykdext.records.samples import ROUNDED
from pykdext.records.textfile import TextFile
from tests.helpers import recordwriters as writers
from tests.helpers.patience import ends_soon
from tests.helpers.recordwriters import Row

NONPAGED, PAGED = PoolKind.NONPAGED, PoolKind.PAGED
ROWS = [Row(b"FMfn", "Paged", 8665967, 5982729, 1495080176), Row(b"Irp ", "Nonp", 10, 4, 4096)]


def text_file(text):
    return TextFile("pool.csv", datetime(2024, 11, 12, tzinfo=timezone.utc), text.encode(), "utf-8")


def parse(text):
    return parse_csv(text_file(text))


def parse_one(text):
    (snapshot,) = parse(text)
    return snapshot


def side(snapshot, tag, pool):
    (row,) = (row for row in snapshot.tags if row.tag == PoolTag.from_text(tag))
    return row.usage(pool)


class TestEvidence:
    def test_powershell_loop_of_one_tag(self, evidence):
        snapshots = load_log(str(evidence / "poolmon/stevea78-poolmon-powershell-csv.txt"))
        assert [side(snapshot, "FMfn", PAGED).bytes for snapshot in snapshots] == [199922400, 199941136, 199878016]
        assert [snapshot.taken_at.second for snapshot in snapshots] == [57, 2, 7]
        assert all(snapshot.tags[0].nonpaged == UNSAID for snapshot in snapshots)
        assert all(snapshot.warnings == (ZONE_UNKNOWN,) for snapshot in snapshots)

    def test_tables_of_issue_trackers(self, evidence):
        first, second = load_log(str(evidence / "poolmon/live-leak-numbers-issues-NtFC-wcifs.txt"))
        assert [str(row.tag) for row in first.tags] == ["NtFC", "HalD", "EtwB", "smCB", "NVRM", "smNp"]
        assert side(first, "NtFC", NONPAGED) == PoolUsage(None, None, None, round(21353.2 * (1 << 20)))
        assert side(first, "NtFC", PAGED) == UNSAID
        assert ROUNDED in first.warnings and POOL_UNNAMED not in first.warnings
        assert {str(row.tag): row.nonpaged.outstanding for row in second.tags} == {
            "Toke": 3708367,
            "FMfn": 13564307,
            "Ntfc": 13346730,
            "IoNm": 13356474,
            "SeAt": 15601954,
            "SeTd": 3708367,
            "D2d ": 13325627,
            "NtfF": 250672,
        }
        assert side(second, "Toke", NONPAGED).bytes == round(7695.3 * (1 << 20))
        assert POOL_UNNAMED in second.warnings


@given(writers.tables(), st.sampled_from(",;\t"))
def test_exports_of_the_powershell_clones_read_back(rows, delimiter):
    snapshot = parse_one(writers.write_clone_csv(rows, delimiter=delimiter))
    assert writers.as_rows(snapshot) == writers.expected_rows(rows)
    assert snapshot.taken_at == datetime(2019, 7, 24, 12, 21, 57, tzinfo=timezone.utc)


@given(writers.tables())
def test_lists_of_poolmonx_read_back(rows):
    snapshot = parse_one(writers.write_poolmonx_csv(rows))
    assert writers.as_rows(snapshot) == writers.expected_rows(rows)
    assert snapshot.taken_at is None


@given(writers.tables())
def test_samples_of_the_recipe_read_back(rows):
    snapshot = parse_one(writers.write_recipe_csv(rows))
    assert writers.as_rows(snapshot) == writers.expected_rows(rows)
    assert (snapshot.host, snapshot.uptime_seconds, snapshot.time_from) == ("SRV1", 987654.0, TimeOrigin.HEADER)
    assert snapshot.taken_at == datetime(2024, 11, 12, 3, 41, 27, tzinfo=timezone.utc)
    assert snapshot.memory == SystemMemory(1000, None, 2000, None, 3000, 4000, 5000, 6000)
    assert ZONE_UNKNOWN not in snapshot.warnings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_every_encoding(tmp_path, encoding):
    rows = [Row(b"a\x80\xe9 ", "Paged", 3, 1, 64), Row(b'\0\x01,"', "Nonp", 2, 1, 32)]
    text = writers.write_clone_csv(rows).replace("\x80", "\u20ac")  # PowerShell shows the bytes by Windows-1252
    path = tmp_path / "pool.csv"
    path.write_bytes(text.encode(encoding))
    (snapshot,) = load_log(str(path))
    assert writers.as_rows(snapshot) == writers.expected_rows(rows)


def test_samples_are_told_apart_by_time_and_host():
    first, later = writers.write_clone_csv(ROWS), writers.write_clone_csv(ROWS, time="2019-07-24T12:22:02")
    snapshots = parse(first + later)
    assert [snapshot.taken_at.second for snapshot in snapshots] == [57, 2]
    hosts = [writers.write_recipe_csv(ROWS, host=host) for host in ("SRV1", "SRV2")]
    assert [snapshot.host for snapshot in parse("".join(hosts))] == ["SRV1", "SRV2"]


def test_samples_without_a_time_are_told_apart_by_their_titles():
    text = writers.write_poolmonx_csv(ROWS)
    assert [len(snapshot.tags) for snapshot in parse(text + text)] == [2, 2]


def test_date_and_time_in_two_columns():
    text = "Date,Time,Tag,Type,Bytes\n12.11.2024,03:41:27,FMfn,Paged,64\n"
    assert parse_one(text).taken_at == datetime(2024, 11, 12, 3, 41, 27, tzinfo=timezone.utc)


def test_what_stands_above_the_titles():
    text = "#TYPE Selected.System.Management.Automation.PSCustomObject\nsep=;\n" + writers.write_clone_csv(
        ROWS, delimiter=";"
    )
    assert writers.as_rows(parse_one(text)) == writers.expected_rows(ROWS)


def test_unreadable_lines_are_counted_and_shown_once():
    lines = writers.write_clone_csv(ROWS).splitlines()
    text = "\n".join([*lines[:2], 'half a "line', lines[1].replace("8665967", "many"), "a\rb", *lines[2:]])
    snapshot = parse_one(text)
    assert writers.as_rows(snapshot) == writers.expected_rows(ROWS)
    assert snapshot.warnings == (ZONE_UNKNOWN, "line 3 cannot be read and is left out: 'half a \"line'; 2 more such")


def test_a_wrapped_difference_is_put_right():
    text = "Tag,PagedAllocs,PagedFrees,PagedDiff,PagedUsedBytes\nFMfn,100,4294967000,-4294966900,64\n"
    assert side(parse_one(text), "FMfn", PAGED) == PoolUsage(100, 4294967000, 396, 64)


def test_a_table_without_a_pool_says_so():
    snapshot = parse_one("Tag,Outstanding,Bytes\nFMfn,3,96\n")
    assert side(snapshot, "FMfn", NONPAGED) == PoolUsage(None, None, 3, 96)
    assert snapshot.warnings == (POOL_UNNAMED,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Tag\nFMfn\n",
        "Tag,Name\nFMfn,x\n",
        "Bytes,Size\n1,2\n",
        "Tag,Bytes\n",
        "Tag,Bytes\nToolong,3\n",
        "a,b\n" * 50,
    ],
)
def test_what_is_no_csv_of_tags(text):
    assert parse(text) == ()


@pytest.mark.parametrize(
    ("title", "meaning"),
    [
        ("PagedUsedBytes", ("bytes", PAGED, "bytes")),
        ("Non Paged Usage", ("bytes", NONPAGED, "bytes")),
        ("NonpagedBytes", ("bytes", NONPAGED, "bytes")),
        ("NP_MB", ("bytes", NONPAGED, "mb")),
        ("Size (GiB)", ("bytes", None, "gb")),
        ("KBytes", ("bytes", None, "kb")),
        ("NonPagedDiff", ("outstanding", NONPAGED, "bytes")),
        ("Outstanding allocations (`allocs - frees`)", ("outstanding", None, "bytes")),
        ("Paged Frees", ("frees", PAGED, "bytes")),
        ("Allocs", ("allocs", None, "bytes")),
        ("Per Alloc", None),
        ("B / Alloc", None),
        ("share", None),
        ("Freed %", None),
        ("TotalUsedBytes", None),
        ("Rate (GB/hr)", None),
        ("Description", None),
    ],
)
def test_meaning_of_titles(title, meaning):
    columns = find_columns(["Tag", title])
    if meaning is None:
        assert columns is None
        return
    field, pool, unit = meaning
    text = "8" if field != "bytes" else "8 bytes"
    (found,) = columns.read_row(["Abcd", text])
    assert (found.pool, getattr(found.usage, field)) == (pool, 8)
    shifts = {"bytes": 0, "kb": 10, "mb": 20, "gb": 30}
    if field == "bytes":
        assert columns.read_row(["Abcd", "3"])[0].usage.bytes == 3 << shifts[unit]


@pytest.mark.parametrize(
    ("text", "pool"), [("Nonp", NONPAGED), ("Non-Paged", NONPAGED), ("Paged", PAGED), ("other", None)]
)
def test_names_of_pools(text, pool):
    assert find_pool(text) is pool


class TestPastedTables:
    def parse(self, text):
        return parse_pasted_tables(text_file(text))

    def test_powershell_table(self):
        text = (
            "Tag  PagedAllocs PagedFrees PagedUsedBytes NonPagedUsedBytes TotalUsedBytes\n"
            "---  ----------- ---------- -------------- ----------------- --------------\n"
            "FMfn     8665967    5982729     1495080176                 0     1495080176\n"
            "Irp            1          0             64              4096           4160\n"
        )
        (snapshot,) = self.parse(text)
        assert side(snapshot, "FMfn", PAGED) == PoolUsage(8665967, 5982729, 2683238, 1495080176)
        assert side(snapshot, "Irp", NONPAGED) == PoolUsage(None, None, None, 4096)
        assert snapshot.warnings == ()

    def test_titles_of_several_words(self):
        (snapshot,) = self.parse("Tag    Paged Allocs   Paged Frees   Paged MB\nFMfn   3,000   1,000   1.5\n")
        assert side(snapshot, "FMfn", PAGED) == PoolUsage(3000, 1000, 2000, 3 << 19)

    def test_markdown_with_pools_in_a_column(self):
        text = (
            "Growth since noon:\n\n"
            "| **Tag** | Pool | Allocs | Frees | Size | Owner |\n|:--|---|--:|--:|--:|---|\n"
            "| `Irp ` | nonpaged | 1,234 | **1,000** | 12.5 KB | nt |\n"
            "| Toke | paged | 7 | 7 | 0 | nt |\n"
            "| broken | paged | 7 | 7 | 0 | nt |\n"
            "| File | paged | 9 | - | 1,024 | nt |\n\n"
            "| Uptime | `Proc` outstanding |\n|---|---|\n| 1m | 2,655 |\n"
        )
        (snapshot,) = self.parse(text)
        assert side(snapshot, "Irp", NONPAGED) == PoolUsage(1234, 1000, 234, 12800)
        assert side(snapshot, "File", PAGED) == PoolUsage(9, None, None, 1024)
        assert [str(row.tag) for row in snapshot.tags] == ["Irp ", "Toke", "File"]
        assert snapshot.warnings[0] == "line 7 cannot be read and is left out: '| broken | paged | 7 | 7 | 0 | nt |'"

    @pytest.mark.parametrize(
        ("caption", "pool", "is_named"),
        [
            ("Paged pool by tag:", PAGED, True),
            ("non-paged pool", NONPAGED, True),
            ("paged and nonpaged pool", NONPAGED, False),
            ("", NONPAGED, False),
        ],
    )
    def test_the_line_above_names_the_pool(self, caption, pool, is_named):
        (snapshot,) = self.parse(f"{caption}\n\nTag    Bytes\nFMfn   96\n")
        assert side(snapshot, "FMfn", pool).bytes == 96
        assert (POOL_UNNAMED not in snapshot.warnings) == is_named

    @pytest.mark.parametrize(
        "text", ["the tag used bytes of pool\nand then some", "Tag Bytes", "Tag Bytes\n\n\n\n\nFMfn 3"]
    )
    def test_prose_is_no_table(self, text):
        assert self.parse(text) == ()

    @given(st.text("| Tagbytes019-:\n", max_size=200))
    def test_no_text_breaks_the_reader(self, text):
        self.parse(text)
        self.parse("| Tag | Bytes |\n|--|--|\n" + text)


class TestRecipe:
    def test_the_script_writes_what_the_reader_wants(self):
        script = render_recipe()
        titles = "".join(line.split('"')[1] for line in script.splitlines() if 'csv.Append("' in line and "," in line)
        assert titles.startswith(writers.RECIPE_TITLES)

    def test_settings(self):
        script = render_recipe(60, 5, "C:\\it's here")
        assert "param([int]$EverySeconds = 60, [int]$Count = 5, [string]$Folder = 'C:\\it''s here')" in script
        assert script.count("$EverySeconds") == render_recipe().count("$EverySeconds") == 2
        assert render_recipe().splitlines()[1:] != script.splitlines()[1:]

    def test_it_is_plain_and_balanced(self):
        script = render_recipe()
        assert script.isascii() and max(map(len, script.splitlines())) <= 120
        assert all(script.count(left) == script.count(right) for left, right in ("{}", "()", "[]"))

    def test_a_sample_that_the_script_wrote(self):
        """Two rows of the C# part's own output, run on Linux against a stand-in for ntdll and psapi."""
        text = writers.RECIPE_TITLES + (
            "\r\n2026-11-23T04:13:30Z,vm,,36864000000,32768000000,4096000000,8192000000,16384000000,20480000000,"
            '49727020,"Irp ",0,0,0,0,0,0\r\n'
            '2026-11-23T04:13:30Z,vm,,,,,,,,612201ff,"a???",4294967295,0,4096,2,1,4294967296\r\n'
        )
        snapshot = parse_one(text)
        assert snapshot.memory.nonpaged_bytes == 36864000000 and snapshot.uptime_seconds is None
        odd = snapshot.tags[1]
        assert odd.tag.raw == b'a"\x01\x7f'  # PROTECTED_POOL is no part of the tag
        assert (odd.paged.outstanding, odd.nonpaged.bytes) == (4294967295, 4294967296)


@given(st.text(max_size=300) | st.text('TagBytes,;"\t\n019', max_size=300))
def test_no_text_breaks_the_reader(text):
    parse(text)
    parse("Tag,Type,Allocs,Bytes\n" + text)


@pytest.mark.parametrize(
    "text",
    [
        "Tag,Bytes\n" + '"' * 500_000,
        "Tag,Bytes\n" + "x" * 500_000,
        "Tag,Bytes\n" + ",".join(["1"] * 200_000),
        "Tag,Bytes\nAbcd," + "9" * 100_000,
        "Tag,Bytes\nAbcd," + "1," * 100_000,
        "| Tag | Bytes |\n" + "| x |\n" * 50_000,
        "Tag " + " " * 300_000 + "Bytes\n",
    ],
    ids=range(7),
)
@ends_soon
def test_nothing_hangs(text):
    parse(text)
    parse_pasted_tables(text_file(text))
