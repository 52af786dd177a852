"""Dump files as they come: plain, compressed, in archives, cut, damaged, or not dumps at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import threading
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.errors import DumpFormatError, MemoryReadError, PykdextError, TargetError
from pykdext.targets.dump.compressed import open_file
from pykdext.targets.dump.containers import open_container
from pykdext.targets.dump.header import parse_header
from pykdext.targets.filebytes import FileBytes
from tests.helpers.dumpbytes import PAGE, bitmap_dump, full_dump, range_dump

NOISE = os.urandom(1 << 20)


def pack_zip(data, name="MEMORY.DMP", method=zipfile.ZIP_DEFLATED):
    return pack_members({name: data}, method)


def pack_members(members, method=zipfile.ZIP_DEFLATED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return packed.getvalue()


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, pack_zip])
def test_compressed_dumps_are_read_by_content(tmp_path, pack):
    data = bitmap_dump([1, 5, 6], 64)
    path = tmp_path / "memory.dmp"
    path.write_bytes(pack(data))
    seen = []
    with open_file(str(path), lambda done, total: seen.append((done, total))) as file:
        assert (file.size, file.warnings) == (len(data), ())
        assert file.read_at(0, len(data) + 10) == data
    assert seen[-1][0] <= seen[-1][1] == path.stat().st_size


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_cut_compressed_dumps_are_read_as_far_as_they_go(tmp_path, pack):
    noise = NOISE
    path = tmp_path / "memory.dmp"
    packed = pack(noise)
    path.write_bytes(packed[: len(packed) // 2])
    with open_file(str(path)) as file:
        assert 0 < file.size < len(noise)
        assert file.read_at(0, file.size) == noise[: file.size]
        assert f"{file.size:,} bytes only" in file.warnings[0]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_damaged_compressed_dumps_say_so(tmp_path, pack):
    packed = bytearray(pack(os.urandom(1 << 20)))
    packed[len(packed) // 2 : len(packed) // 2 + 64] = bytes(64)
    path = tmp_path / "memory.dmp"
    path.write_bytes(packed)
    with open_file(str(path)) as file:
        assert file.warnings


def test_unpacked_zeros_take_no_room_on_the_disk(tmp_path):
    data = b"head" + bytes(64 << 20) + b"tail"
    path = tmp_path / "memory.dmp"
    path.write_bytes(gzip.compress(data, 1))
    with open_file(str(path)) as file:
        assert file.size == len(data)
        assert file.read_at(len(data) - 4, 4) == b"tail"
        assert os.fstat(file._descriptor).st_blocks * 512 < 1 << 20


def test_unpacking_stops_at_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("pykdext.targets.dump.compressed.MAX_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "memory.dmp"
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    with open_file(str(path)) as file:
        assert file.size <= 1 << 20
        assert "more than 1,048,576 bytes" in file.warnings[0]


def test_unpacking_leaves_room_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("pykdext.targets.dump.compressed.RESERVED_DISK_BYTES", 1 << 62)
    path = tmp_path / "memory.dmp"
    path.write_bytes(gzip.compress(bytes(1 << 20) + b"data"))
    with open_file(str(path)) as file:
        assert file.size == 1 << 20  # holes take no room
        assert "no more room" in file.warnings[0]


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "none.dmp", tmp_path):
        with pytest.raises(TargetError) as caught:
            open_file(str(path))
        assert str(path) in str(caught.value)


def test_positional_reads_agree_with_and_without_pread(tmp_path):
    data = os.urandom(1 << 16)
    path = tmp_path / "file"
    path.write_bytes(data)
    with open(path, "rb") as stream, FileBytes(stream, str(path)) as file:
        wrong = []

        def read_often(start):
            for offset in range(start, len(data), 977):
                if file._seek_and_read(file._descriptor, 500, offset) != data[offset : offset + 500]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read_often, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert file.read_at(len(data) - 3, 10) == data[-3:]
        assert file.read_at(len(data) + 3, 10) == b""


def test_reads_that_come_in_pieces_are_put_together(tmp_path):
    class Slow(FileBytes):
        def _read_some(self, descriptor, size, offset):
            return self._seek_and_read(descriptor, min(size, 7), offset)

    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with open(path, "rb") as stream, Slow(stream, str(path)) as file:
        assert file.read_at(3, 50) == bytes(range(3, 53))
        assert file.read_at(90, 50) == bytes(range(90, 100))


@pytest.mark.parametrize("data", [bitmap_dump([1, 2, 3], 64), full_dump(((1, 3),)), range_dump(((1, 3),))])
def test_a_file_that_shrinks_gives_errors_not_short_answers(tmp_path, data):
    path = tmp_path / "memory.dmp"
    path.write_bytes(data)
    with open_file(str(path)) as file:
        container = open_container(file, parse_header(file))
        os.truncate(path, len(data) - 100)
        with pytest.raises(MemoryReadError):
            container.read_physical(3 * PAGE, PAGE)


def test_a_temporary_disk_that_fails_is_told(tmp_path, monkeypatch):
    path = tmp_path / "memory.dmp"
    path.write_bytes(gzip.compress(b"data"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(TargetError):
        open_file(str(path))


def test_a_closed_file_is_not_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"data")
    file = open_file(str(path))
    file.close()
    with open(path, "rb"), pytest.raises(TargetError):  # the system gives the same number to the next file
        file.read_at(0, 4)


# --- ZIP archives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_the_one_dump_of_an_archive_is_read(tmp_path, method):
    dump = bitmap_dump([1, 5, 6], 64)
    path = tmp_path / "dumps.zip"
    members = {"dumps/": b"", "dumps/readme.txt": b"see MEMORY.DMP", "dumps/MEMORY.DMP": dump, "log.txt": NOISE}
    path.write_bytes(pack_members(members, method))
    with open_file(str(path)) as file:
        assert file.warnings == ()
        assert file.read_at(0, len(dump) + 1) == dump


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "empty ZIP archive"),
        ({"notes.txt": b"nothing here"}, "0 kernel dumps among 1 file: 'notes.txt'"),
        (
            {"a.dmp": bitmap_dump([1], 8), "b.dmp": full_dump(((1, 3),))},
            "2 kernel dumps among 2 files: 'a.dmp', 'b.dmp'",
        ),
        ({"two\nlines": b"PAGE"}, "'two\\nlines'"),
    ],
)
def test_archives_without_the_one_dump_are_refused(tmp_path, members, words):
    path = tmp_path / "dumps.zip"
    path.write_bytes(pack_members(members))
    with pytest.raises(DumpFormatError) as caught, open_file(str(path)) as file:
        parse_header(file)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def with_byte_in_headers(packed, offset, value):
    """The archive with a byte of its member's local header, and of the same field in its directory, changed."""
    data = bytearray(packed)
    directory = data.rindex(b"PK\x01\x02")
    data[offset] = data[directory + offset + 2] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (with_byte_in_headers(pack_zip(NOISE), 6, 1), "password"),
        (with_byte_in_headers(pack_zip(NOISE), 8, 9), "Deflate64"),
        (pack_zip(NOISE)[: 1 << 19], "cut short"),
        (pack_zip(NOISE)[:30], "cut short"),
    ],
    ids=["encrypted", "method", "cut in the data", "cut in the header"],
)
def test_archives_that_cannot_be_unpacked_say_why(tmp_path, packed, words):
    path = tmp_path / "dumps.zip"
    path.write_bytes(packed)
    with pytest.raises(DumpFormatError) as caught:
        open_file(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_member_is_read_as_far_as_it_goes(tmp_path):
    dump = bitmap_dump([1, 5, 6], 64) + NOISE
    packed = bytearray(pack_zip(dump))
    packed[len(packed) // 2 : len(packed) // 2 + 64] = bytes(64)
    path = tmp_path / "dumps.zip"
    path.write_bytes(packed)
    with open_file(str(path)) as file:
        assert "bytes only" in file.warnings[0]
        assert file.read_at(0, 0x2000) == dump[:0x2000]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 500), st.binary(min_size=1, max_size=6)), min_size=1, max_size=4))
def test_damaged_archives_end_in_our_errors(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "fuzzed.zip"
    data = bytearray(pack_members({"readme.txt": b"see the dump", "MEMORY.DMP": bitmap_dump([1, 5], 64)[:0x2100]}))
    for offset, value in changes:
        at = offset % len(data)
        data[at : at + len(value)] = value
    data[:4] = b"PK\x03\x04"
    path.write_bytes(data)
    with contextlib.suppress(PykdextError), open_file(str(path)) as file:
        assert file.size <= 1 << 20


# --- what is no dump ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"MSCF" + bytes(100), "cabextract"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z x"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(100), "unrar"),
        (b"BZh91AY&SY" + bytes(100), "bunzip2"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "unzstd"),
        (b"MEMORY.DMP".ljust(0x101, b"\0") + b"ustar\x0000" + bytes(100), "tar xf"),
        (gzip.compress(b"MEMORY.DMP".ljust(0x101, b"\0") + b"ustar\x0000" + bytes(100)), "tar xf"),
    ],
    ids=["cab", "7z", "rar", "bzip2", "zstd", "tar", "tar.gz"],  # gzip writes the time into its data
)
def test_other_wrappings_are_named_with_what_unpacks_them(tmp_path, data, words):
    path = tmp_path / "memory.dmp"
    path.write_bytes(data)
    with open_file(str(path)) as file, pytest.raises(DumpFormatError) as caught:
        parse_header(file)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
