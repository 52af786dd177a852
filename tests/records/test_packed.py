"""Logs that are packed or come through a pipe are read as the files that they are."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import sys
import tarfile
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.errors import RecordFormatError, TargetError
from pykdext.model import TimeOrigin
from pykdext.pipeline.sources import load_states, open_source
from pykdext.records import packed
from pykdext.records.logs import ZONE_OF_PACKER, load_log, load_log_stream
from pykdext.records.recognition import is_log_head
from pykdext.records.snapshotfile import render_snapshot_json
from tests.helpers.builders import row, snapshot, usage

CASES = Path(__file__).parent / "cases"
LOG = (CASES / "31-irp.txt").read_bytes()


def rows(snapshots):
    return [state.tags for state in snapshots]


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(members):
    """A tar archive as ``tar cf`` makes it of a folder: the folder first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("logs")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in members:
            member = tarfile.TarInfo(f"logs/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("log.txt.gz", gzip.compress),
        ("log.xz", lzma.compress),
        ("log.zip", lambda data: zipped([("log.txt", data)])),
        ("logs.tar", lambda data: tarred([("log.txt", data)])),
        ("logs.tgz", lambda data: gzip.compress(tarred([("log.txt", data)]))),
        ("logs.tar.xz", lambda data: lzma.compress(tarred([("log.txt", data)]))),
    ],
)
def test_one_packed_log(tmp_path, name, pack):
    path = tmp_path / name
    path.write_bytes(pack(LOG))
    assert is_log_head(path.read_bytes()[:4096])
    assert rows(load_log(str(path))) == rows(load_log(str(CASES / "31-irp.txt")))
    with open_source(str(path)) as source:
        assert source.snapshot.tags[0].tag.text == "NtFC" or source.snapshot.tags[0].tag.text == "Irp "


def test_an_archive_of_logs_in_natural_order(tmp_path):
    members = [
        (
            f"log-{number}.txt",
            LOG.replace(b"10862955", b"%d" % (10862955 + number)).replace(b"410862955", b"%d" % (410862955 + number)),
        )
        for number in (10, 2, 1)
    ]
    path = tmp_path / "logs.zip"
    path.write_bytes(zipped([*members, ("readme.txt", b"logs of a server\n")]))
    states = load_states(str(path))
    assert [state.source.path for state in states] == [f"{path}/log-{number}.txt" for number in (1, 2, 10)]
    assert all("1 of the packed files cannot be used" in state.warnings[-1] for state in states)


def stored(members, folder=True):
    """A ZIP archive whose files are only stored, a folder first, each as old as is said; no time in UTC."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        if folder:
            archive.writestr(zipfile.ZipInfo("logs/", (2024, 3, 1, 0, 0, 0)), b"")
        for name, data, date_time in members:
            archive.writestr(zipfile.ZipInfo(f"logs/{name}", date_time), data)
    return buffer.getvalue()


@pytest.mark.parametrize("folder", [True, False])
def test_stored_archives_of_short_logs_are_logs(folder):
    log = snapshot(row("Pipo", usage(10, 2, 640)))
    members = [(f"{day}.json", render_snapshot_json(log).encode(), (2024, 3, day, 8, 0, 0)) for day in (1, 2)]
    data = stored(members, folder)
    assert is_log_head(data[:4096])
    assert load_log_stream("x", data) == (log, log)


def test_a_stored_archive_whose_sizes_stand_behind_its_files():
    class Pipe(io.BytesIO):
        def seek(self, *args):
            raise OSError

        def tell(self):
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        archive.writestr("log.txt", b"Tag Type Allocs Frees Diff Bytes\nABCD Nonp 9 1 8 640\n")
    assert is_log_head(pipe.getvalue())


LATE = datetime(2026, 1, 1, tzinfo=timezone.utc)


def times_of(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    os.utime(path, (LATE.timestamp(), LATE.timestamp()))
    return load_states(str(path))


class TestTimesOfPackedFiles:
    """The last change of a file before it was packed is told, not that of the archive."""

    def test_zip_has_local_times(self, tmp_path):
        days = [(2024, 3, day, 8, 0, 0) for day in (1, 2)]
        states = times_of(tmp_path, "a.zip", stored([(f"{day[2]}.txt", LOG, day) for day in days]))
        assert [state.taken_at for state in states] == [datetime(*day, tzinfo=timezone.utc) for day in days]
        assert all(state.time_from is TimeOrigin.FILE_TIME and ZONE_OF_PACKER in state.warnings for state in states)

    def test_zip_may_add_the_time_in_utc(self, tmp_path):
        at = datetime(2024, 3, 1, 6, 30, 1, tzinfo=timezone.utc)
        info = zipfile.ZipInfo("log.txt", (2024, 3, 1, 8, 30, 0))
        info.extra = b"\x01\x99\x02\x00ab" + b"UT\x05\x00\x03" + int(at.timestamp()).to_bytes(4, "little")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(info, LOG)
        (state,) = times_of(tmp_path, "a.zip", buffer.getvalue())
        assert state.taken_at == at
        assert ZONE_OF_PACKER not in state.warnings

    @pytest.mark.parametrize("pack", [lambda data: data, gzip.compress])
    def test_tar(self, tmp_path, pack):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            member = tarfile.TarInfo("log.txt")
            member.size, member.mtime = len(LOG), 1709280000
            archive.addfile(member, io.BytesIO(LOG))
        (state,) = times_of(tmp_path, "a.tar", pack(buffer.getvalue()))
        assert state.taken_at == datetime(2024, 3, 1, 8, tzinfo=timezone.utc)

    @pytest.mark.parametrize(
        ("name", "expected"), [("log.txt", datetime(2024, 3, 1, 8, tzinfo=timezone.utc)), ("", LATE)]
    )
    def test_gzip_of_a_file_and_of_a_stream(self, tmp_path, name, expected):
        buffer = io.BytesIO()
        with gzip.GzipFile(name, "wb", fileobj=buffer, mtime=1709280000) as file:
            file.write(LOG)
        (state,) = times_of(tmp_path, "a.gz", buffer.getvalue())
        assert state.taken_at == expected

    @pytest.mark.parametrize("data", [gzip.compress(LOG, mtime=0), stored([("a", LOG, (1980, 1, 1, 0, 0, 0))])])
    def test_where_none_is_kept_that_of_the_archive_goes(self, tmp_path, data):
        (state,) = times_of(tmp_path, "a", data)
        assert state.taken_at == LATE


def test_snapshots_in_an_archive():
    state = snapshot(row("Pipo", usage(10, 2, 640)))
    data = zipped([("a.json", render_snapshot_json(state).encode())])
    assert load_log_stream("archive", data) == (state,)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-40], lambda data: data[:60] + b"\xff" * 40 + data[100:]],
    ids=["cut", "overwritten"],
)
@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, lambda data: zipped([("log.txt", data)])])
def test_damaged_packed_logs_are_refused_in_words(damage, pack):
    with pytest.raises(RecordFormatError, match=r"^x: "):
        load_log_stream("x", damage(pack(LOG)))


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(packed, "MAX_UNPACKED_BYTES", 1 << 20)
    for data in (gzip.compress(bytes(2 << 20)), zipped([("a", bytes(700_000)), ("b", bytes(700_000))])):
        with pytest.raises(RecordFormatError, match="when unpacked"):
            load_log_stream("bomb", data)


@given(st.sampled_from([b"\x1f\x8b", b"\xfd7zXZ\x00", b"PK\x03\x04"]), st.binary(max_size=200))
def test_no_bytes_break_the_reader(magic, rest):
    packed.peek_packed(magic + rest)
    with contextlib.suppress(RecordFormatError):
        load_log_stream("x", magic + rest)


class TestStreams:
    def read(self, monkeypatch, data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return load_states("-")

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_standard_input(self, monkeypatch, pack):
        (state,) = self.read(monkeypatch, pack(LOG))
        assert state.tags == load_log(str(CASES / "31-irp.txt"))[0].tags
        assert (state.taken_at, state.time_from, state.source.path) == (None, None, "standard input")

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
    def test_text_of_the_clipboard(self, monkeypatch, encoding):
        text = (CASES / "75-codex-md.txt").read_text(encoding="utf-8")
        (state,) = self.read(monkeypatch, text.encode(encoding))
        assert len(state.tags) == 4

    def test_a_time_inside_counts(self, monkeypatch):
        states = self.read(monkeypatch, (CASES / "77-series-zh.txt").read_bytes())
        assert states[0].taken_at == datetime(2026, 6, 13, 8, 0, 1, tzinfo=timezone.utc)

    def test_a_dump_cannot_come_through_a_pipe(self, monkeypatch):
        with pytest.raises(TargetError, match="standard input: found a dump"):
            self.read(monkeypatch, b"PAGEDU64" + bytes(8192))

    def test_nothing(self, monkeypatch):
        with pytest.raises(RecordFormatError, match="standard input: found an empty file"):
            self.read(monkeypatch, b"")

    @pytest.mark.skipif(sys.platform == "win32", reason="needs pipes with names")
    def test_a_pipe_with_a_name(self, tmp_path):
        import threading

        path = str(tmp_path / "pipe")
        os.mkfifo(path)
        writer = threading.Thread(target=lambda: Path(path).write_bytes(LOG), daemon=True)
        writer.start()
        (state,) = load_states(path)
        writer.join()
        assert state.tags == load_log(str(CASES / "31-irp.txt"))[0].tags


@given(st.binary(max_size=40), st.integers(0, 600))
def test_a_damaged_tar_archive_is_a_log_or_an_error_in_words(damage, place):
    whole = tarred([("log.txt", LOG[:2000])])
    data = whole[:place] + damage + whole[place + len(damage) :]
    is_log_head(data[:4096])
    with contextlib.suppress(RecordFormatError):
        load_log_stream("pipe", data)


@pytest.mark.parametrize("size", [b"\x80" + b"\x7f" * 11, b"\xff" * 12, b"77777777777\0"])
def test_a_tar_archive_whose_file_has_an_impossible_size_is_refused_in_words(tmp_path, size):
    whole = bytearray(tarred([("a.txt", LOG[:2000]), ("b.txt", LOG[:2000])]))
    last = whole.index(b"logs/b.txt")
    whole[last + 124 : last + 136] = size
    whole[last + 148 : last + 156] = b" " * 8
    whole[last + 148 : last + 156] = b"%06o\0 " % sum(whole[last : last + 512])
    path = tmp_path / "logs.tar"
    path.write_bytes(whole)
    with pytest.raises(RecordFormatError, match="damaged packed data"):
        load_log(str(path))
