from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pykdext.model import UNSAID, PoolKind, PoolTag, TimeOrigin
from pykdext.records.logs import load_log
from pykdext.records.poolmon import parse_poolmon
from pykdext.records.textfile import TextFile, read_text_file
from tests.helpers import recordwriters as writers
from tests.helpers.patience import ends_soon
from tests.helpers.recordwriters import Row

WRITTEN_AT = datetime(2024, 11, 12, 3, 41, tzinfo=timezone.utc)
ROWS = [
    Row(b"EtwB", "Nonp", 6394, 4056, 163418368),
    Row(b"MmSt", "Paged", 2269405, 2095404, 156097152),
    Row(b"Irp ", "Nonp", 10, 10, 0),
]


def parse(data):
    encoding = None if isinstance(data, bytes) else "utf-8"
    return parse_poolmon(TextFile("poolsnap.log", WRITTEN_AT, data if encoding is None else data.encode(), encoding))


def parse_one(data):
    (snapshot,) = parse(data)
    return snapshot


def usage(snapshot, tag, pool=PoolKind.NONPAGED):
    (row,) = (row for row in snapshot.tags if row.tag == PoolTag.from_text(tag))
    found = row.usage(pool)
    return (found.allocs, found.frees, found.outstanding, found.bytes)


class TestEvidence:
    """The numbers stand in the files; they were read by eye."""

    def load(self, evidence, name):
        return load_log(str(evidence / "poolmon" / name))

    def test_intel_narrow_columns(self, evidence):
        (snapshot,) = self.load(evidence, "intel-mfd-network-adapter-poolmon-n.txt")
        assert len(snapshot.tags) == 13
        assert usage(snapshot, "IXGB") == (37377, 12508, 24869, 55749008)
        assert usage(snapshot, "CM25", PoolKind.PAGED) == (4849, 0, 4849, 21708800)
        assert usage(snapshot, "CM25") == (0, 0, 0, 0)
        assert snapshot.memory.nonpaged_bytes == 710920 << 10
        assert snapshot.memory.paged_bytes == 983564 << 10
        assert snapshot.memory.commit_bytes == 4100436 << 10
        assert snapshot.memory.commit_limit_bytes == 17517136 << 10
        assert snapshot.memory.physical_bytes == 16468560 << 10
        assert snapshot.memory.available_bytes == 12072536 << 10
        assert snapshot.total_bytes(PoolKind.NONPAGED) == 515564320
        assert snapshot.warnings == (
            "the nonpaged rows hold 492 MB, 203 MB less than the pool by the system's own total; "
            "the log may be filtered or cut",
            "the paged rows hold 314 MB, 647 MB less than the pool by the system's own total; "
            "the log may be filtered or cut",
        )

    def test_windows_11_wide_columns(self, evidence):
        (snapshot,) = self.load(evidence, "win11-x64-poolmon-n-partly-synthetic.txt")
        assert len(snapshot.tags) == 7
        assert usage(snapshot, "FMfn", PoolKind.PAGED) == (8665967, 5982729, 2683238, 1495080176)
        assert usage(snapshot, "File") == (44288592, 43651808, 636784, 254683680)
        assert usage(snapshot, "File", PoolKind.PAGED) == (100, 40, 60, 4000)
        assert snapshot.memory.paged_bytes == 4427892 << 10

    def test_server_2003_with_collapsed_blanks(self, evidence):
        (snapshot,) = self.load(evidence, "snapoverflow-52125-2003.txt")
        assert [str(row.tag) for row in snapshot.tags] == ["Ntfr", "Ntfn", "NtFs", "File"]
        assert usage(snapshot, "File") == (13789939, 13704656, 85283, 13203912)
        assert snapshot.tags[0].paged == UNSAID
        assert snapshot.memory.nonpaged_bytes is None and not snapshot.warnings

    def test_documentation_display_page(self, evidence):
        (snapshot,) = self.load(evidence, "windows-driver-docs/poolmon-display.md.txt")
        assert len(snapshot.tags) == 8
        assert usage(snapshot, "Io") == (1021112, 1020985, 127, 91912)
        assert usage(snapshot, "Key ", PoolKind.PAGED) == (954821, 953979, 842, 87528)

    def test_documentation_examples_page(self, evidence):
        snapshots = self.load(evidence, "windows-driver-docs/poolmon-examples.md.txt")
        assert [len(snapshot.tags) for snapshot in snapshots] == [13, 3, 8, 1, 1, 16, 16, 16]
        ntfs, unknown, ipsec, before, after, sessions, session_0, with_drivers = snapshots
        assert usage(ntfs, "NtFB", PoolKind.PAGED) == (3996, 3986, 10, 252088)
        assert usage(unknown, "3MEM") == (3, 0, 3, 248)
        assert usage(ipsec, "IpSI") == (1027, 0, 1027, 53272)
        assert usage(before, "Drsd", PoolKind.PAGED) == (560, 539, 21, 17472)
        assert usage(after, "Drsd", PoolKind.PAGED) == (737, 710, 27, 22464)
        assert usage(sessions, "Dh 2", PoolKind.PAGED) == (344, 344, 0, 0)
        assert usage(session_0, "GTmp", PoolKind.PAGED) == (89079, 89079, 0, 0)
        assert usage(with_drivers, "Gdbr", PoolKind.PAGED) == (6972, 6965, 7, 2184)
        assert "poolmon showed a session pool (All sessions), not the system's pools" in sessions.warnings
        assert with_drivers.memory.nonpaged_bytes == 14684 << 10
        assert [snapshot.taken_at is None for snapshot in snapshots] == [True] * 7 + [False]

    def test_documentation_how_to_page(self, evidence):
        first, second = self.load(
            evidence, "windows-driver-docs/using-poolmon-to-find-a-kernel-mode-memory-leak.md.txt"
        )
        assert [str(row.tag) for row in first.tags] == ["CM  ", "Strg", "Fat ", "MmSt"]
        assert usage(first, "Strg", PoolKind.PAGED) == (10385, 6658, 3727, 317952)
        assert first.memory.paged_bytes == 2180 << 10
        assert usage(second, "HidC", PoolKind.PAGED) == (1667, 1659, 8, 896)
        assert usage(second, "HidC") == (17375, 17256, 119, 19808)
        assert second.memory.physical_bytes == 33473120 << 10

    def test_gflags_page_with_an_indented_screen(self, evidence):
        name = "poolused/windows-driver-docs/example-9---detecting-a-pool-memory-leak.md.txt"
        (snapshot,) = load_log(str(evidence / name))
        assert [str(row.tag) for row in snapshot.tags] == ["CM  ", "Strg", "Fat ", "MmSt"]
        assert usage(snapshot, "CM", PoolKind.PAGED) == (1283, 1002, 281, 1377312)


@given(writers.tables(), st.sampled_from(sorted(writers.LAYOUTS)), st.sampled_from([b"\n", b"\r\n"]))
def test_any_written_log_reads_back(rows, layout, newline):
    snapshot = parse_one(writers.write_poolmon(rows, writers.LAYOUTS[layout], newline=newline))
    assert writers.as_rows(snapshot) == writers.expected_rows(rows)
    assert snapshot.memory.nonpaged_bytes == 710920 << 10
    assert not any("line" in warning for warning in snapshot.warnings)


@given(writers.tables(), st.sampled_from(sorted(writers.ENCODINGS)))
def test_any_encoding_reads_back(tmp_path_factory, rows, encoding):
    path = tmp_path_factory.mktemp("log") / "poolsnap.log"
    path.write_bytes(writers.ENCODINGS[encoding](writers.write_poolmon(rows)))
    (snapshot,) = parse_poolmon(read_text_file(str(path)))
    assert writers.as_rows(snapshot) == writers.expected_rows(rows)


@given(st.lists(writers.tables(), min_size=2, max_size=4), st.booleans())
def test_several_snapshots_in_one_file(tables, with_totals):
    head = writers.HEAD if with_totals else b""
    data = b"".join(writers.write_poolmon(rows, head=head) for rows in tables)
    assert [writers.as_rows(snapshot) for snapshot in parse(data)] == [writers.expected_rows(rows) for rows in tables]


@given(writers.tables(writers.printable_tags))
@example([Row(b"Nonp", "Nonp", 5, 2, 9), Row(b"Pool", "Paged", 3, 1, 7)])
def test_screens_that_lost_their_head_and_alignment(rows):
    lines = [b" ".join(writers.narrow(row).split()) + b"   " for row in rows]
    assert writers.as_rows(parse_one(b"\n".join(lines))) == writers.expected_rows(rows)


@pytest.mark.parametrize("mark", [".", ",", "'", "\u2019", "\xa0", "\u202f"])
def test_thousands_marks_of_other_countries(mark):
    row = Row(b"FMfn", "Paged", 8665967, 5982729, 1495080176)
    numbers = "  ".join(f"{number:,}".replace(",", mark) for number in (*row.counts, row.each))
    head = writers.HEAD.decode().replace("710920", f"710{mark}920")
    snapshot = parse_one(f"{head}\n FMfn Paged  {numbers}\n")
    assert writers.as_rows(snapshot) == writers.expected_rows([row])
    assert snapshot.memory.nonpaged_bytes == 710920 << 10


@pytest.mark.parametrize("mark", [b"\xa0", b"\xff", b"\xc2\xa0", b"\xe2\x80\xaf"])
def test_thousands_marks_as_bytes(mark):
    line = b" FMfn Paged  8,665,967  5,982,729  2,683,238  1,495,080,176  557\n".replace(b",", mark)
    assert usage(parse_one(line), "FMfn", PoolKind.PAGED) == (8665967, 5982729, 2683238, 1495080176)


class TestOddLines:
    def read(self, line):
        good = b" EtwB Nonp       6394      4056      2338 163418368      69896\n"
        snapshot = parse_one(writers.TITLES + good + line + b"\n" + good.replace(b"EtwB", b"EtwR"))
        return snapshot, [str(row.tag) for row in snapshot.tags]

    @pytest.mark.parametrize(
        "line",
        [
            b" MmSt Paged   2269405   2095404    174001156097152        897",
            b" MmSt Paged   22694052095404    174001 156097152        897",
            b" MmSt Paged   2269405   2095404174001 156097152        897",
            b" MmSt Paged2269405   2095404    174001 156097152        897",
            b" MmSt Paged   2269405(   0)   2095404(   0)174001 156097152(     0)897",
            b" MmStPaged   2269405   2095404    174001 156097152        897",
            b" MmSt Paged   2269405   2095404    174001 156097152",
            b" MmSt Paged   2269405   2095404    174001 156097152        897 x [nt!mm - section",
            b"> MmSt  Paged \t 2269405 \t 2095404    174001 156097152        897",
        ],
    )
    def test_glued_cut_and_quoted_rows(self, line):
        snapshot, tags = self.read(line)
        assert sorted(tags) == ["EtwB", "EtwR", "MmSt"]
        assert usage(snapshot, "MmSt", PoolKind.PAGED) == (2269405, 2095404, 174001, 156097152)
        assert not snapshot.warnings

    @pytest.mark.parametrize(
        "line",
        [
            b"garbage in the middle",
            b" MmSt Paged   2269405   2095404",
            b" MmSt Paged   2269405   2095404    17x001 156097152        897",
            b" TooLong Paged   2269405   2095404    174001 156097152        897",
            b" MmSt Paged   1   0    1 88",  # 88 bytes, or 8 bytes in blocks of 8
            b" MmSt Paged   " + b"9" * 5000 + b"  1  1  1  1",
        ],
    )
    def test_unreadable_lines_are_counted_and_shown_once(self, line):
        snapshot, tags = self.read(line)
        assert sorted(tags) == ["EtwB", "EtwR"]
        (warning,) = snapshot.warnings
        assert warning.startswith("line 4 cannot be read and is left out: ") and len(warning) < 120

    def test_a_row_that_contradicts_itself_is_left_out(self):
        snapshot, tags = self.read(b" MmSt Paged   2269405   2095404    174002 156097152        897")
        assert sorted(tags) == ["EtwB", "EtwR"]
        assert snapshot.warnings[0].startswith("line 4 says a Diff that is not Allocs - Frees")

    def test_the_first_of_many_is_shown(self):
        data = writers.write_poolmon(ROWS).replace(b"\r\n", b"\r\n\x01?\r\n")
        warning = next(warning for warning in parse_one(data).warnings if "cannot be read" in warning)
        assert warning == "line 12 cannot be read and is left out: '\\x01?'; 1 more such"

    def test_a_file_cut_in_its_last_row(self):
        whole = writers.write_poolmon(ROWS)
        snapshot = parse_one(whole + b" Abcd Pag")
        assert snapshot.tags == parse_one(whole).tags
        assert "line 9 cannot be read and is left out: 'Abcd Pag'" in snapshot.warnings

    def test_rows_that_look_alike_are_added_up(self):
        data = writers.write_poolmon([*ROWS, Row(b"EtwB", "Nonp", 6, 4, 100), Row(b"EtwB", "Nonp", 1, 0, 10)])
        snapshot = parse_one(data)
        assert usage(snapshot, "EtwB") == (6401, 4060, 2341, 163418478)
        assert "2 rows repeated a tag and were added up, first EtwB" in snapshot.warnings

    def test_the_protected_bit_of_old_systems_is_no_part_of_a_tag(self):
        data = writers.write_poolmon([Row(b"Tok\xe5", "Paged", 5, 3, 64), Row(b"Toke", "Paged", 1, 0, 32)])
        assert usage(parse_one(data), "Toke", PoolKind.PAGED) == (6, 3, 3, 96)

    def test_totals_lines_and_cut_marks_are_no_rows(self):
        lines = b" ...\n TOTAL Nonp  6404  4066  2338 163418368\n TOTAL Paged 2269405  2095404  174001 156097152\n"
        whole = writers.write_poolmon(ROWS, newline=b"\n")
        assert parse_one(whole + lines) == parse_one(whole)


class TestCounters:
    def row(self, allocs, frees, diff, size=64):
        snapshot = parse_one(b" Abcd Nonp %d %d %d %d 64\n" % (allocs, frees, diff, size))
        return snapshot.tags[0].nonpaged

    @pytest.mark.parametrize("diff", [396, 396 - 2**32])
    def test_allocations_that_wrapped(self, diff):
        found = self.row(100, 2**32 - 296, diff)
        assert (found.allocs, found.frees, found.outstanding, found.clamped) == (100, 2**32 - 296, 396, False)

    def test_more_frees_than_allocations(self):
        found = self.row(10, 12, -2)
        assert (found.outstanding, found.bytes, found.clamped) == (0, 64, True)

    def test_negative_bytes(self):
        found = self.row(12, 10, 2, -64)
        assert (found.outstanding, found.bytes, found.clamped) == (2, 0, True)


class TestTimeAndHost:
    @pytest.mark.parametrize(
        ("line", "moment"),
        [
            (b"Tue 11/12/2024  3:41:27.53", "2024-11-12T03:41:27"),
            (b"12.11.2024  3:41:27,53", "2024-11-12T03:41:27"),
            (b"2024-11-12T03:41:27Z", "2024-11-12T03:41:27"),
            (b"Tuesday, November 12, 2024 3:41:27 PM", "2024-11-12T15:41:27"),
        ],
    )
    def test_a_line_above_the_screen_dates_it(self, line, moment):
        snapshot = parse_one(writers.write_poolmon(ROWS, before=b"Computer: SRV1\n" + line + b"\n"))
        assert snapshot.taken_at == datetime.fromisoformat(moment).replace(tzinfo=timezone.utc)
        assert (snapshot.time_from, snapshot.host) == (TimeOrigin.HEADER, "SRV1")

    def test_each_screen_has_its_own_time(self):
        lines = [b"2024-11-12 03:00\n", b"2024-11-12 03:15\n", b"2024-11-12 03:30\n"]
        snapshots = parse(b"".join(writers.write_poolmon(ROWS, before=line, newline=b"\n") for line in lines))
        assert [snapshot.taken_at.minute for snapshot in snapshots] == [0, 15, 30]
        assert not any("cannot be read" in warning for snapshot in snapshots for warning in snapshot.warnings)


@pytest.mark.parametrize(
    ("total", "words"),
    [(190000, None), (160000, None), (300000, "less than the pool"), (100000, "more than the pool")],
)
def test_rows_are_checked_against_the_system_total(total, words):
    head = writers.HEAD.replace(b"710920", b"%d" % total)
    warnings = parse_one(writers.write_poolmon(ROWS, head=head)).warnings
    found = [warning for warning in warnings if warning.startswith("the nonpaged rows hold 156 MB")]
    assert len(found) == (words is not None) and all(words in warning for warning in found)


@given(st.binary(max_size=300) | st.text("NonpPaged 0123456789()-\n\t.", max_size=300).map(str.encode))
def test_no_text_breaks_the_reader(data):
    for snapshot in parse(data):
        assert snapshot.tags


@pytest.mark.parametrize(
    "data",
    [
        b" Paged" * 200_000,
        b"Paged(" * 200_000,
        b" " * 1_000_000 + b"Nonp 1",
        b"Memory: Avail: " * 100_000,
        b"Memory: Avail:\n" * 100_000 + writers.narrow(ROWS[0]),
        b" Abcd Nonp" + b" " * 500_000 + b"1 2",
        b" Abcd Nonp 1(" * 100_000,
        b"\n".join([b" Abcd Nonp 111111111111111 22222222222222 33333333333333 44444444444444"] * 2000),
    ],
    ids=range(8),
)
@ends_soon
def test_nothing_hangs(data):
    parse(data)
