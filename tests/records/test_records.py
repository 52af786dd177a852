from __future__ import annotations

import gc
import gzip
import os
import struct
import sys
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.errors import RecordFormatError, TargetError
from pykdext.model import PoolUsage, SystemMemory, TimeOrigin
from pykdext.records import live
from pykdext.records.logs import UNDATED, load_log
from pykdext.records.moments import MONTH_FIRST, ZONE_UNKNOWN, find_moment, find_name_moment
from pykdext.records.quantities import parse_count, parse_size
from pykdext.records.recognition import is_log_head
from pykdext.records.snapshotfile import render_snapshot_json
from pykdext.records.tagtable import tag_of_text
from tests.helpers import recordwriters as writers
from tests.helpers.builders import row, snapshot, usage
from tests.helpers.recordwriters import Row

ROWS = [Row(b"EtwB", "Nonp", 6394, 4056, 163418368), Row(b"MmSt", "Paged", 2269405, 2095404, 156097152)]
CHANGED_AT = datetime(2020, 2, 2, 2, 2, 2, tzinfo=timezone.utc)


def save(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    os.utime(path, (CHANGED_AT.timestamp(),) * 2)
    return str(path)


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "moment", "doubts"),
        [
            ("2024-11-12T03:41:27Z", "2024-11-12T03:41:27", ()),
            ("2024-11-12 03:41:27.123456+02:00", "2024-11-12T01:41:27", ()),
            ("2024-11-12T03:41:27-0730", "2024-11-12T11:11:27", ()),
            ("2024/11/12 3:41", "2024-11-12T03:41:00", (ZONE_UNKNOWN,)),
            ("at 2024-11-12, 03:41 UTC I ran it", "2024-11-12T03:41:00", ()),
            ("Tue 11/12/2024  3:41:27.53", "2024-11-12T03:41:27", (ZONE_UNKNOWN,)),
            ("Wed 11/12/2024  3:41:27.53", "2024-12-11T03:41:27", (ZONE_UNKNOWN,)),
            ("11/12/2024 3:41:27 PM", "2024-11-12T15:41:27", (MONTH_FIRST, ZONE_UNKNOWN)),
            ("11/11/2024 12:41:27 AM", "2024-11-11T00:41:27", (ZONE_UNKNOWN,)),
            ("22/05/2020 22:35:55.53", "2020-05-22T22:35:55", (ZONE_UNKNOWN,)),
            ("05/22/2020 22:35:55.53", "2020-05-22T22:35:55", (ZONE_UNKNOWN,)),
            ("12.11.2024  3:41:27,53", "2024-11-12T03:41:27", (ZONE_UNKNOWN,)),
            ("12.11.2024 Sal  3:41:27,53", "2024-11-12T03:41:27", (ZONE_UNKNOWN,)),
            ("12. 11. 2024  3:41:27,53", "2024-11-12T03:41:27", (ZONE_UNKNOWN,)),
            ("29 Ağustos 2026 Cumartesi 03:41:27", "2026-08-29T03:41:27", (ZONE_UNKNOWN,)),
            ("29 października 2026 03:41", "2026-10-29T03:41:00", (ZONE_UNKNOWN,)),
            ("12-11-2024 03.41.27", "2024-11-12T03:41:27", (ZONE_UNKNOWN,)),
            ("Tue Nov 12 03:41:27.123 2024 (UTC - 7:00)", "2024-11-12T10:41:27", ()),
            ("Tuesday, November 12, 2024 3:41:27 AM", "2024-11-12T03:41:27", (ZONE_UNKNOWN,)),
            ("12 November 2024 03:41:27", "2024-11-12T03:41:27", (ZONE_UNKNOWN,)),
            ("Tue 11/12/2024\n03:41 AM", "2024-11-12T03:41:00", (ZONE_UNKNOWN,)),
            ("2024-11-12 03:41 and later 2024-11-12 03:56", "2024-11-12T03:56:00", (ZONE_UNKNOWN,)),
        ],
    )
    def test_forms(self, text, moment, doubts):
        found = find_moment(text)
        assert found.at == datetime.fromisoformat(moment).replace(tzinfo=timezone.utc)
        assert found.doubts == doubts

    @pytest.mark.parametrize(
        "text",
        ["", "ms.date: 05/16/2023", "2024-13-12 03:41", "2024-11-31 03:41", "30/30/2024 03:41", "1024-11-12 03:41",
         "Tue Foo 12 03:41:27 2024", "2024-11-12 25:41", "10.0.19041.1 03:41", "Mon 0/5/2024 3:41"],
    )  # fmt: skip
    def test_no_moment(self, text):
        assert find_moment(text) is None

    @pytest.mark.parametrize(
        ("name", "moment"),
        [
            ("log-2024-11-12_0341.txt", "2024-11-12T03:41:00"),
            ("20241112-0341", "2024-11-12T03:41:00"),
            ("poolmon_2024-11-12T03-41", "2024-11-12T03:41:00"),
            ("poolsnap20241112034127.log", "2024-11-12T03:41:27"),
            ("2019.07.24_12.21.57_1563963717.pool.csv", "2019-07-24T12:21:57"),
            ("pool-SRV1-20241112-034127Z.csv", "2024-11-12T03:41:27"),
            ("pool 2024-11-12.txt", "2024-11-12T00:00:00"),
            ("20241112-99999.txt", "2024-11-12T00:00:00"),
            ("pool-1731382887.log", "2024-11-12T03:41:27"),
        ],
    )
    def test_file_names(self, name, moment):
        found = find_name_moment(name)
        assert found.at == datetime.fromisoformat(moment).replace(tzinfo=timezone.utc)
        assert (ZONE_UNKNOWN in found.doubts) == ("Z." not in name and "1731382887" not in name)

    @pytest.mark.parametrize(
        "name", ["poolsnap.log", "log-1.txt", "20241312-0341.txt", "srv20190.txt", "build-19041.log"]
    )
    def test_names_without_a_moment(self, name):
        assert find_name_moment(name) is None

    @given(st.text(max_size=80) | st.text("0123456789-/.: TZapmUTC+", max_size=80))
    def test_no_text_breaks_it(self, text):
        find_moment(text)
        find_name_moment(text)


class TestQuantities:
    @pytest.mark.parametrize(
        ("text", "count"),
        [("3,708,367", 3708367), ("8.665.967", 8665967), ("1 234", 1234), ("12'345", 12345), (" 7 ", 7), ("-5", -5),
         ("1,23", None), ("1,234.567", None), ("", None), ("x", None), ("1.5", None), ("9" * 30, None)],
    )  # fmt: skip
    def test_counts(self, text, count):
        assert parse_count(text) == count

    @pytest.mark.parametrize(
        ("text", "unit", "size"),
        [
            ("7,695.3 MB", "bytes", 8069106893),
            ("7.695,3 MB", "bytes", 8069106893),
            ("21353.2", "mb", 22390453043),
            ("1.5 GiB", "bytes", 3 << 29),
            ("64KB", "bytes", 65536),
            ("1,234", "bytes", 1234),
            ("1.234", "bytes", 1234),
            ("1.234", "gb", 1324997411),
            ("1,234 MB", "bytes", 1234 << 20),
            ("1 024", "kb", 1 << 20),
            ("~2 GB", "bytes", 2 << 30),
            ("-1.5 KB", "bytes", -1536),
            ("12 bytes", "mb", 12),
            ("0.18%", "bytes", None),
            ("many", "bytes", None),
            ("1..5 KB", "bytes", None),
            ("1. KB", "bytes", None),
        ],
    )
    def test_sizes(self, text, unit, size):
        assert parse_size(text, unit) == size

    @given(st.integers(0, 2**60), st.sampled_from([",", ".", "'", " ", "\xa0"]))
    def test_grouped_counts_read_back(self, number, mark):
        assert parse_count(f"{number:,}".replace(",", mark)) == number

    @given(st.text(max_size=60) | st.text("0123456789.,' KMGB-", max_size=60), st.sampled_from(["bytes", "mb"]))
    def test_no_text_breaks_them(self, text, unit):
        parse_count(text)
        parse_size(text, unit)


@given(writers.tags)
def test_texts_of_tags(tag):
    assert tag_of_text(tag.decode("latin-1")).raw == tag
    assert tag_of_text(tag.decode("latin-1").replace("\0", "\u2400")).raw == tag


@pytest.mark.parametrize("text", ["", "12345", "a\u20ac\u4e00b"])
def test_texts_that_are_no_tags(text):
    assert tag_of_text(text) is None or tag_of_text(text).raw == b"a\x80?b"


class TestLoadLog:
    def test_the_name_of_the_file_does_not_matter(self, tmp_path):
        for name in ("a.dmp", "b.csv", "c.json", "d"):
            assert load_log(save(tmp_path, name, writers.write_poolmon(ROWS)))[0].source.kind == "poolmon log"

    def test_each_form_is_recognised(self, tmp_path):
        forms = {
            "poolmon log": writers.write_poolmon(ROWS),
            "!poolused text": writers.write_poolused(ROWS),
            "CSV of tags": writers.write_clone_csv(ROWS),
            "table of tags": "| Tag | Bytes |\n|---|---|\n| File | 12 |\n",
            "!vm text": "PagedPool Usage:            59028 (     236112 Kb)\n",
        }
        for kind, data in forms.items():
            (found,) = load_log(save(tmp_path, "x", data))
            assert (found.source.kind, found.source.path) == (kind, str(tmp_path / "x"))

    def test_own_snapshots(self, tmp_path):
        state = snapshot(row("Pipo", usage(10, 2, 640)))
        data = render_snapshot_json(state).encode()
        assert load_log(save(tmp_path, "a", data)) == load_log(save(tmp_path, "b", gzip.compress(data))) == (state,)

    def test_time_from_the_header_then_the_name_then_the_file(self, tmp_path):
        dated = writers.write_poolmon(ROWS, before=b"2024-11-12 03:41:27Z\n")
        (found,) = load_log(save(tmp_path, "log-2023-01-01_0000.txt", dated))
        assert (found.taken_at.year, found.time_from) == (2024, TimeOrigin.HEADER)
        assert not any(warning == ZONE_UNKNOWN for warning in found.warnings)
        (found,) = load_log(save(tmp_path, "log-2023-01-01_0000.txt", writers.write_poolmon(ROWS)))
        assert (found.taken_at.year, found.time_from) == (2023, TimeOrigin.FILE_NAME)
        assert found.warnings[0] == ZONE_UNKNOWN
        (found,) = load_log(save(tmp_path, "poolsnap.log", writers.write_poolmon(ROWS)))
        assert (found.taken_at, found.time_from) == (CHANGED_AT, TimeOrigin.FILE_TIME)

    def test_several_snapshots_without_times(self, tmp_path):
        data = writers.write_poolmon(ROWS) * 3
        found = load_log(save(tmp_path, "poolsnap.log", data))
        assert [item.time_from for item in found] == [None, None, TimeOrigin.FILE_TIME]
        assert all(UNDATED in item.warnings for item in found)
        named = load_log(save(tmp_path, "20241112-0341.log", data))
        assert [item.time_from for item in named] == [TimeOrigin.FILE_NAME, None, None]

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "found an empty file"),
            (b" \r\n\r\n", "found an empty file"),
            (b"\x7fELF\x02\x01\x01" + bytes(range(32)) * 20, "found binary data"),
            (b"Dear all,\nit leaks again.\n", "found text that begins 'Dear all,'"),
            ("Liebe Kollegen\n".encode("utf-16"), "found text that begins 'Liebe Kollegen'"),
            (b"Query pooltags Failed c0000002\n", "found poolmon's message that pool tagging is off"),
            (writers.write_poolmon([]), "found text that begins 'Memory:16468560K"),
        ],
    )
    def test_what_is_no_log_is_one_line(self, tmp_path, data, words):
        with pytest.raises(RecordFormatError) as caught:
            load_log(save(tmp_path, "x.log", data))
        assert words in str(caught.value) and "expected a poolmon log" in str(caught.value)
        assert "\n" not in str(caught.value) and "x.log" in str(caught.value)

    def test_a_file_that_is_too_large(self, tmp_path, monkeypatch):
        monkeypatch.setattr("pykdext.records.textfile.MAX_TEXT_BYTES", 100)
        with pytest.raises(RecordFormatError, match="more than 0 MB"):
            load_log(save(tmp_path, "x.log", writers.write_poolmon(ROWS)))

    @pytest.mark.parametrize("was_enabled", [True, False])
    def test_the_garbage_collector_is_left_as_it_was(self, tmp_path, was_enabled):
        (gc.enable if was_enabled else gc.disable)()
        try:
            load_log(save(tmp_path, "x.log", writers.write_poolmon(ROWS)))
            assert gc.isenabled() == was_enabled
        finally:
            gc.enable()

    @pytest.mark.parametrize(
        ("head", "is_log"),
        [
            (writers.HEAD, True),
            (writers.HEAD.decode().encode("utf-16"), True),
            (writers.HEAD.decode().encode("utf-16-be"), True),
            (b'{\n  "schema": "poolleak.snapshot/1",', True),
            (writers.narrow(Row(b"\0\1\2\3", "Nonp", 1, 0, 1)) * 9, True),
            (b"", False),
            (b"PAGEDU64" + b"PAGE" * 1000, False),
            (b"PAGEDUMP" + b"PAGE" * 1000, False),
            (b"MDMP\x93\xa7", False),
            (bytes(4096), False),
            (gzip.compress(b"PAGEDU64" * 500), False),
            (b"\xfd7zXZ\0\0\4" + bytes(range(256)), False),
        ],
        ids=range(12),
    )
    def test_heads(self, head, is_log):
        assert is_log_head(head) is is_log


FORMS = [
    lambda rows: writers.write_poolmon(rows, writers.with_mapped_driver),
    lambda rows: writers.write_poolmon(rows).decode("latin-1").encode("utf-16"),
    lambda rows: writers.write_poolused(rows, verbose=True),
    lambda rows: writers.write_poolused(rows, glued=True),
    lambda rows: writers.write_clone_csv(rows).encode(),
    lambda rows: writers.write_recipe_csv(rows).encode(),
]


@st.composite
def mutated_logs(draw):
    text = bytearray(draw(st.sampled_from(FORMS))(draw(writers.tables())))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 20)))
        text[start:stop] = draw(st.binary(max_size=8) | st.sampled_from([b"\n", b"\r", b"9" * 30, b" Nonp ", b'"']))
    return bytes(text)


@given(mutated_logs())
def test_mutations_never_raise_anything_but_our_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("mutated") / "log"
    path.write_bytes(data)
    try:
        snapshots = load_log(str(path))
    except RecordFormatError as error:
        sentences = [str(error)]
    else:
        assert snapshots
        sentences = [warning for item in snapshots for warning in item.warnings]
    assert all("\n" not in sentence and len(sentence) < 400 for sentence in sentences)


class TestLive:
    X64 = (
        "03000000 00000000"
        "49727020 05000000 02000000 00000000 0010000000000000 07000000 01000000 0000000002000000"
        "436f6e54 00000000 00000000 00000000 0000000000000000 03000000 03000000 0000000000000000"
        "546f6be5 04000000 fcffffff 00000000 4000000000000000 01000000 02000000 0000000000000000"
    )
    X86 = (
        "02000000"
        "49727020 05000000 02000000 00100000 07000000 01000000 00000080"
        "436f6e54 00000000 00000000 00000000 03000000 03000000 00000000"
    )

    def test_64_bit_table(self):
        irp, cont, toke = live.parse_pool_tag_information(bytes.fromhex(self.X64), 8)
        assert (irp.tag.raw, irp.paged, irp.nonpaged) == (
            b"Irp ",
            PoolUsage(5, 2, 3, 4096),
            PoolUsage(7, 1, 6, 2 << 32),
        )
        assert cont.nonpaged == PoolUsage(3, 3, 0, 0) and cont.paged.is_idle
        assert toke.tag.raw == b"Toke"
        assert toke.paged == PoolUsage(4, 2**32 - 4, 8, 64)  # the count of allocations wrapped
        assert toke.nonpaged == PoolUsage(1, 2, 0, 0, clamped=True)

    def test_32_bit_table(self):
        irp, _ = live.parse_pool_tag_information(bytes.fromhex(self.X86), 4)
        assert (irp.paged, irp.nonpaged) == (PoolUsage(5, 2, 3, 4096), PoolUsage(7, 1, 6, 1 << 31))

    @pytest.mark.parametrize("cut", [0, 3, 7, 8, 60, 127])
    def test_a_table_shorter_than_its_count(self, cut):
        with pytest.raises(TargetError, match=r"pool tags: found .* bytes, expected"):
            live.parse_pool_tag_information(bytes.fromhex(self.X64)[:cut], 8)

    @pytest.mark.parametrize(("pointer_size", "form"), [(8, "<I4x10Q3I4x"), (4, "<I10I3I")])
    def test_totals(self, pointer_size, form):
        buffer = struct.pack(form, 104, 11, 12, 13, 14, 15, 16, 17, 18, 19, 4096, 21, 22, 23)
        assert len(buffer) == {8: 104, 4: 56}[pointer_size]
        assert live.parse_performance_information(buffer, pointer_size) == SystemMemory(
            nonpaged_bytes=19 << 12,
            paged_bytes=18 << 12,
            commit_bytes=11 << 12,
            commit_limit_bytes=12 << 12,
            physical_bytes=14 << 12,
            available_bytes=15 << 12,
        )
        assert live.parse_performance_information(b"", pointer_size) == SystemMemory()

    def test_the_buffer_grows_until_the_table_fits(self):
        sizes = []

        def query(buffer):
            sizes.append(len(buffer))
            if len(buffer) < 1_000_000:
                return live.STATUS_INFO_LENGTH_MISMATCH, 700_000
            buffer[:3] = b"abc"
            return 0, 3

        assert live.read_growing(query) == b"abc"
        assert sizes == [262144, 700_000, 1_400_000]

    def test_the_buffer_has_a_limit(self):
        with pytest.raises(TargetError, match="a table above 64 MB"):
            live.read_growing(lambda buffer: (live.STATUS_INFO_LENGTH_MISMATCH, 0))

    def test_a_refusal_is_one_line(self):
        with pytest.raises(TargetError, match="found status 0xc0000022, expected success"):
            live.read_growing(lambda buffer: (0xC0000022, 0))

    @pytest.mark.skipif(sys.platform == "win32", reason="this is Windows")
    def test_other_systems_say_so(self):
        with pytest.raises(TargetError, match=r"expected Windows\. Hint: poolleak record --recipe"):
            live.read_live_snapshot()

    @pytest.mark.skipif(sys.platform != "win32", reason="needs Windows")
    def test_this_machine(self):
        state = live.read_live_snapshot()
        assert len(state.tags) > 100 and state.uptime_seconds > 0
        assert 0 < state.memory.nonpaged_bytes < state.memory.physical_bytes
