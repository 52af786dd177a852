from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.errors import RecordFormatError
from pykdext.model import Machine, PoolKind, PoolTag, SystemMemory, TimeOrigin
from pykdext.records.logs import load_log
from pykdext.records.poolused import parse_poolused
from pykdext.records.textfile import TextFile
from pykdext.records.vmtotals import parse_vm_totals
from tests.helpers import recordwriters as writers
from tests.helpers.patience import ends_soon
from tests.helpers.recordwriters import Row

WRITTEN_AT = datetime(2024, 11, 12, 3, 41, tzinfo=timezone.utc)
NO_TOTAL = "the table of !poolused has no line TOTAL; it may be cut"
ROWS = [Row(b"Irp ", "Nonp", 100, 40, 12345), Row(b"CM31", "Paged", 9, 2, 28672), Row(b"Dh 1", "Nonp", 1, 0, 16)]

BANNER = """\
Microsoft (R) Windows Debugger Version 10.0.26100.1 AMD64
Loading Dump File [D:\\dumps\\MEMORY.DMP]
Windows 10 Kernel Version 19041 MP (4 procs) Free x64
Machine Name:
Debug session time: Tue Nov 12 03:41:27.123 2024 (UTC + 1:00)
System Uptime: 11 days 2:03:04.567
"""


def parse(data):
    return parse_poolused(TextFile("windbg.log", WRITTEN_AT, data.encode() if isinstance(data, str) else data, None))


def parse_one(data):
    (snapshot,) = parse(data)
    return snapshot


def usage(snapshot, tag, pool=PoolKind.NONPAGED):
    (row,) = (row for row in snapshot.tags if row.tag == PoolTag.from_text(tag))
    found = row.usage(pool)
    return (found.outstanding, found.bytes)


class TestEvidence:
    """The numbers stand in the files; they were read by eye."""

    def load(self, evidence, name):
        return load_log(str(evidence / "poolused" / name))

    def test_windows_xp_with_collapsed_blanks(self, evidence):
        (snapshot,) = self.load(evidence, "askperf-debug101-poolused-xp.txt")
        assert len(snapshot.tags) == 14
        assert usage(snapshot, "8042") == (4, 3944)
        assert usage(snapshot, "AcpR") == (3, 1616)
        assert usage(snapshot, "AcpR", PoolKind.PAGED) == (9, 4208)
        assert snapshot.tags[0].nonpaged.allocs is None
        assert snapshot.warnings == (NO_TOTAL,)

    def test_depleted_pool_with_vm_above(self, evidence):
        (snapshot,) = self.load(evidence, "ntdebugging-2008-nonpagedpool-depletion.txt")
        assert usage(snapshot, "None") == (246479, 50827424)
        assert usage(snapshot, "MmCm") == (1198, 18462512)
        assert snapshot.memory == SystemMemory(
            nonpaged_bytes=125476 << 10,
            nonpaged_limit_bytes=127944 << 10,
            paged_bytes=88076 << 10,
            paged_limit_bytes=155648 << 10,
            physical_bytes=3405680 << 10,
            available_bytes=2293108 << 10,
        )
        assert "!vm says: 3 pool allocations have failed" in snapshot.warnings
        assert "!vm says: Excessive NonPaged Pool Usage" in snapshot.warnings

    def test_two_tables_of_one_session(self, evidence):
        (both,) = self.load(evidence, "poolused2-4-win8-x64-notes.txt")
        assert usage(both, "Cont") == (1094, 6525216)
        assert usage(both, "EtwB", PoolKind.PAGED) == (4, 163840)
        assert usage(both, "CM31", PoolKind.PAGED) == (19797, 91705344)
        assert usage(both, "Ntff") == (5, 1600)
        assert not any("cannot be read" in warning for warning in both.warnings)

    def test_old_search_for_blocks(self, evidence):
        (snapshot,) = load_log(str(evidence / "poolused/windows-driver-docs/-poolfind.md.txt"))
        assert usage(snapshot, "SeSd", PoolKind.PAGED) == (4, 0xD0 * 2 + 0xA0 * 2)
        assert usage(snapshot, "SeSd") == (17, 0xC0 * 3 + 0xA0 * 11 + 0x60 * 2 + 0x100)
        assert any("ended at e1224000" in warning for warning in snapshot.warnings)

    def test_verbose_with_its_total(self, evidence):
        (snapshot,) = self.load(evidence, "verbose-single-tag-total.txt")
        (row,) = snapshot.tags
        assert (row.nonpaged.allocs, row.nonpaged.frees, row.nonpaged.outstanding, row.nonpaged.bytes) == (1, 0, 1, 112)
        assert row.paged.is_idle and row.paged.bytes == 0
        assert snapshot.warnings == ()

    def test_windows_10(self, evidence):
        (snapshot,) = self.load(evidence, "win10-19041-poolused2-zhblog.txt")
        assert len(snapshot.tags) == 20
        assert usage(snapshot, "ConT") == (535, 5935104)
        assert usage(snapshot, "Vad") == (13703, 2192480)
        assert usage(snapshot, "EtwB", PoolKind.PAGED) == (16, 442368)

    def test_documentation_page_with_glued_descriptions(self, evidence):
        (snapshot,) = self.load(evidence, "windows-driver-docs/-poolused.md.txt")
        assert len(snapshot.tags) == 35
        assert usage(snapshot, "1394") == (1, 520)
        assert usage(snapshot, "ohci") == (1, 136)
        assert usage(snapshot, "ohci", PoolKind.PAGED) == (0, 0)  # glued to the description 1394 OHCI
        assert usage(snapshot, "Wmip", PoolKind.PAGED) == (182, 18600)
        assert usage(snapshot, "rx..") == (3, 1248)
        assert snapshot.warnings == (
            "the nonpaged rows hold 126,512 bytes, TOTAL says 209,120,008: 208,993,496 are missing",
            "the paged rows hold 183,024 bytes, TOTAL says 13,066,104: 12,883,080 are missing",
        )

    def test_documentation_page_with_an_indented_table(self, evidence):
        name = "windows-driver-docs/using-the-kernel-debugger-to-find-a-kernel-mode-memory-leak.md.txt"
        (snapshot,) = self.load(evidence, name)
        assert [str(row.tag) for row in snapshot.tags] == ["Abc ", "Tron", "IoN7", "Gla5", "Ggb "]
        assert usage(snapshot, "Gla5") == (1, 128)
        assert usage(snapshot, "Abc", PoolKind.PAGED) == (36405, 33930272)

    def test_vm_alone(self, evidence):
        snapshots = self.load(evidence, "vm-modern-nx-nodes-fragments.txt")
        memories = [snapshot.memory for snapshot in snapshots]
        assert [memory.nonpaged_bytes for memory in memories] == [
            (956 + 120480) << 10,
            (920 + 183496) << 10,
            36868 << 10,
        ]
        assert [memory.paged_bytes for memory in memories] == [151132 << 10, 358108 << 10, None]
        assert [memory.nonpaged_limit_bytes for memory in memories] == [1 << 44, 1 << 44, 3096560 << 10]
        assert all(not snapshot.tags for snapshot in snapshots)

    def test_documentation_page_of_vm(self, evidence):
        (snapshot,) = self.load(evidence, "windows-driver-docs/-vm.md.txt")
        assert snapshot.memory == SystemMemory(
            nonpaged_bytes=3508 << 10,
            nonpaged_limit_bytes=25008 << 10,
            paged_bytes=6388 << 10,
            paged_limit_bytes=53248 << 10,
            commit_bytes=87796 << 10,
            commit_limit_bytes=145024 << 10,
            physical_bytes=65080 << 10,
            available_bytes=22172 << 10,
        )

    @pytest.mark.parametrize("page", ["-for-each-module", "-pool", "-poolval"])
    def test_pages_without_a_table_are_refused(self, evidence, page):
        with pytest.raises(RecordFormatError, match="expected a poolmon log, !poolused text") as caught:
            self.load(evidence, f"windows-driver-docs/{page}.md.txt")
        assert "\n" not in str(caught.value)

    def test_the_page_on_poolmon_options_is_refused(self, evidence):
        with pytest.raises(RecordFormatError):
            load_log(str(evidence / "poolmon/windows-driver-docs/poolmon-startup-command.md.txt"))


def sizes_only(snapshot):
    return sorted(
        (row.tag.raw, side.outstanding, side.bytes, pool)
        for row in snapshot.tags
        for pool, side in (("Nonp", row.nonpaged), ("Paged", row.paged))
        if side.outstanding or side.bytes
    )


def expected_sizes(rows):
    return sorted((row.tag, row.diff, row.size, row.pool) for row in rows if row.diff or row.size)


@given(writers.tables(writers.printable_tags), st.booleans(), st.booleans())
def test_any_written_table_reads_back(rows, verbose, glued):
    snapshot = parse_one(writers.write_poolused(rows, verbose=verbose, glued=glued))
    assert sizes_only(snapshot) == expected_sizes(rows)
    assert snapshot.warnings == ()
    if verbose:
        assert writers.as_rows(snapshot) == writers.expected_rows(rows)


@given(writers.tables(writers.tags))
def test_tags_of_any_bytes(rows):
    data = writers.write_poolused(rows, verbose=True)
    try:
        data.decode()
    except UnicodeDecodeError:
        assert writers.as_rows(parse_one(data)) == writers.expected_rows(rows)


@given(st.lists(writers.tables(writers.printable_tags), min_size=2, max_size=3))
def test_several_tables_with_chatter(tables):
    text = BANNER.encode() + b"\n".join(writers.write_poolused(rows) for rows in tables) + b"0: kd> lm\nstart    end\n"
    snapshots = parse(text)
    assert [sizes_only(snapshot) for snapshot in snapshots] == [expected_sizes(rows) for rows in tables]


def test_the_banner_tells_about_the_machine():
    snapshot = parse_one(BANNER.encode() + writers.write_poolused(ROWS))
    assert snapshot.taken_at == datetime(2024, 11, 12, 2, 41, 27, tzinfo=timezone.utc)
    assert (snapshot.build, snapshot.machine, snapshot.processors) == (19041, Machine.X64, 4)
    assert snapshot.uptime_seconds == 11 * 86400 + 2 * 3600 + 3 * 60 + 4.567
    assert (snapshot.host, snapshot.time_from, snapshot.warnings) == (None, TimeOrigin.HEADER, ())


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("Windows Server 2003 Kernel Version 3790 (Service Pack 2) UP Free x86 compatible", (3790, Machine.X86, None)),
        ("Windows 7 Kernel Version 7601 (Service Pack 1) MP (16 procs) Free x64", (7601, Machine.X64, 16)),
        ("Windows 10 Kernel Version 22000 MP (8 procs) Free ARM 64-bit (AArch64)", (22000, Machine.ARM64, 8)),
    ],
)
def test_banners_of_other_systems(line, facts):
    snapshot = parse_one(line.encode() + b"\n" + writers.write_poolused(ROWS))
    assert (snapshot.build, snapshot.machine, snapshot.processors) == facts


def test_dates_of_modules_do_not_date_the_table():
    chatter = b"    Timestamp:        Tue Nov 12 03:41:27 2019 (5DCA2957)\n"
    assert parse_one(chatter + writers.write_poolused(ROWS)).taken_at is None


def test_a_cut_table_says_so():
    assert parse_one(writers.write_poolused(ROWS, total=False)).warnings == (NO_TOTAL,)


def test_a_line_that_is_missing_is_noticed():
    lines = writers.write_poolused(ROWS).split(b"\n")
    without = b"\n".join(line for line in lines if not line.startswith(b" CM31"))
    assert parse_one(without).warnings == ("the paged rows hold 0 bytes, TOTAL says 28,672: 28,672 are missing",)


def test_unreadable_lines_within_the_table():
    text = writers.write_poolused(ROWS).replace(b" CM31", b"GetPointerFromAddress: unable to read\n ...\n CM31")
    snapshot = parse_one(text)
    assert len(snapshot.tags) == 3
    (warning,) = snapshot.warnings
    assert warning == "line 8 cannot be read and is left out: 'GetPointerFromAddress: unable to read'"


def test_what_follows_a_table_is_not_part_of_it():
    text = writers.write_poolused(ROWS, total=False) + b"\nThat is what I see. Any idea?\nThanks\n"
    assert parse_one(text).warnings == (NO_TOTAL,)


def test_a_description_that_begins_with_a_digit_at_an_aligned_number():
    titles = " Tag     Allocs         Used     Allocs         Used\n\n"
    row = parse_one(titles + " ohci         1          136          7          5283861 filter\n").tags[0]
    assert (row.nonpaged.bytes, row.paged.outstanding, row.paged.bytes) == (136, 7, 528)


def test_sums_below_zero_are_clamped():
    text = (
        " Tag     Allocs         Used     Allocs         Used\n\n Abcd 18446744073709551615 18446744073709551600 1 64\n"
    )
    row = parse_one(text).tags[0]
    assert (row.nonpaged.outstanding, row.nonpaged.bytes, row.nonpaged.clamped) == (0, 0, True)
    assert (row.paged.outstanding, row.paged.bytes, row.paged.clamped) == (1, 64, False)


def test_the_session_pool_is_told_apart():
    text = writers.write_poolused(ROWS).replace(b"Sorting by NonPaged Pool", b"Sorting by Session NonPaged Pool")
    assert "!poolused showed a session pool, not the system's pools" in parse_one(text).warnings


class TestVmTotals:
    def test_a_counter_below_zero_is_not_known(self):
        (totals,) = parse_vm_totals(
            "PagedPool Usage:            59028 (     236112 Kb)\n"
            "Committed pages:  18446735296008579352 (18446708962905662560 Kb)\n"
        )
        assert totals.memory == SystemMemory(paged_bytes=236112 << 10)

    def test_vm_below_the_table(self):
        below = b"\n0: kd> !vm 1\nNonPagedPool Usage:  227 ( 908 Kb)\nNonPagedPoolNx Usage: 31727 ( 126908 Kb)\n"
        assert parse_one(writers.write_poolused(ROWS) + below).memory.nonpaged_bytes == (908 + 126908) << 10

    def test_nothing(self):
        assert parse_vm_totals("PagedPool is what you want, 12 (13 Kb)") == ()


@given(st.binary(max_size=300) | st.text(" TagAllocsUsed0123456789\n\t", max_size=300).map(str.encode))
def test_no_text_breaks_the_reader(data):
    parse(data)
    parse(b" Tag    Allocs     Used    Allocs     Used\n" + data)


@pytest.mark.parametrize(
    "data",
    [
        b" Tag    Allocs     Used    Allocs     Used\n" * 20_000,
        b" Tag    Allocs     Used    Allocs     Used\n" + b" Abcd " + b" " * 500_000,
        b" Tag    Allocs     Used    Allocs     Used\n" + b"garbage\n" * 100_000,
        b"Kernel Version 1 (" * 50_000,
        b"PagedPool Usage: 1 ( 1 Kb)\n" * 20_000,
    ],
    ids=range(5),
)
@ends_soon
def test_nothing_hangs(data):
    parse(data)
    parse_vm_totals(data.decode())


def test_a_session_pool_is_called_so(tmp_path):
    path = tmp_path / "session.txt"
    path.write_text(
        "0: kd> !poolused 8\n   Sorting by  Session Tag\n\n               NonPaged                  Paged\n"
        " Tag     Allocs         Used     Allocs         Used\n\n"
        " Gh05         0            0       1204       385280\tGDITAG_HMGR , Binary: win32k.sys\n"
        " TOTAL         0            0      1204       385280\n"
    )
    snapshot = load_log(str(path))[-1]
    assert snapshot.name_pool(PoolKind.PAGED) == "session paged pool"
