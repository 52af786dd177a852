"""Containers on hand-made bytes: every offset below is written out, none comes from the reader."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.errors import (
    DumpFormatError,
    MemoryReadError,
    NotKernelTargetError,
    TargetError,
    UnsupportedDumpError,
)
from pykdext.targets.compressed import open_file
from pykdext.targets.containers import open_container
from pykdext.targets.dumpheader import parse_header
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.pageindex import PageIndex

PAGE = 0x1000


def page_of(number):
    """A page whose every 8 bytes tell its number."""
    return struct.pack("<Q", number) * 512


def header(dump_type=6, *, machine=0x8664, dtb=0x1AD002, attributes=None, runs=()):
    data = bytearray(b"PAGE" * 0x800)
    data[4:8] = b"DU64"
    struct.pack_into("<II", data, 0x08, 15, 19041)
    struct.pack_into("<Q", data, 0x10, dtb)
    struct.pack_into("<II", data, 0x30, machine, 4)
    struct.pack_into("<I", data, 0xF98, dump_type)
    if attributes is not None:
        struct.pack_into("<I", data, 0x1050, attributes)
    if runs:
        struct.pack_into("<IIQ", data, 0x88, len(runs), 0, sum(count for _, count in runs))
        for number, (base, count) in enumerate(runs):
            struct.pack_into("<QQ", data, 0x98 + 16 * number, base, count)
    return data


def bitmap_dump(pages, bits, *, signature=b"SDMP", present=None, first_page=None, dump_type=6, extra_bits=()):
    """A bitmap dump of ``pages`` (numbers). ``extra_bits`` are set behind ``bits``, in the last byte."""
    bitmap = bytearray((bits + 7) // 8)
    for number in [*pages, *extra_bits]:
        bitmap[number // 8] |= 1 << number % 8
    if first_page is None:
        first_page = 0x2038 + len(bitmap)
    if present is None:
        present = len(pages)
    start = signature + b"DUMP" + bytes(0x18) + struct.pack("<QQQ", first_page, present, bits)
    data = bytes(header(dump_type)) + start + bytes(bitmap)
    return data + b"".join(page_of(number) for number in sorted(pages))


def full_dump(runs, *, cut_pages=0):
    numbers = [base + i for base, count in runs for i in range(count)]
    return bytes(header(1, runs=runs)) + b"".join(page_of(n) for n in numbers[: len(numbers) - cut_pages])


@pytest.fixture
def open_bytes(tmp_path):
    opened = []

    def open_(data):
        path = tmp_path / "memory.dmp"
        path.write_bytes(data)
        file = open_file(str(path))
        opened.append(file)
        return open_container(file, parse_header(file))

    yield open_
    for file in opened:
        file.close()


def read_or_none(container, number):
    try:
        return container.read_physical(number * PAGE, PAGE)
    except MemoryReadError:
        return None


def held_pages(container, bits):
    read = {number: read_or_none(container, number) for number in range(bits)}
    return {number: data for number, data in read.items() if data is not None}


# --- the page index -------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1500), st.integers(0, 7), st.data())
def test_page_index_is_the_naive_rank(bitmap, cut, data):
    bits = max(0, len(bitmap) * 8 - cut)
    index = PageIndex(bitmap, bits)
    set_bits = [n for n in range(bits) if bitmap[n // 8] >> n % 8 & 1]
    rank = {number: at for at, number in enumerate(set_bits)}
    assert index.present == len(set_bits)
    for number in [*range(min(bits, 64)), *range(max(0, bits - 64), bits + 80)]:
        assert index.find(number) == rank.get(number, -1)
    first = data.draw(st.integers(0, bits + 20))
    count = data.draw(st.integers(0, bits + 20))
    found = []
    for page, at, length in index.iter_runs(first, count):
        assert length > 0
        found += [(page + i, at + i) for i in range(length)]
    assert found == [(n, rank[n]) for n in set_bits if first <= n < first + count]


def test_page_index_across_blocks_and_windows():
    bits = 1 << 20
    for pattern in (b"\xff", b"\x00", b"\x01", b"\x80", b"\xaa", b"\xff\x00" * 300):
        bitmap = (pattern * (bits // 8))[: bits // 8]
        index = PageIndex(bitmap, bits)
        naive = bin(int.from_bytes(bitmap, "little")).count("1")
        assert index.present == naive
        covered = sum(length for _, _, length in index.iter_runs(0, bits))
        assert covered == naive
        last = max((n for n in range(bits - 20000, bits) if bitmap[n // 8] >> n % 8 & 1), default=None)
        if last is not None:
            assert index.find(last) == naive - 1


# --- bitmap dumps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dump_type", [5, 6, 7])
@pytest.mark.parametrize("bits", [61, 64, 200])
def test_bitmap_dump_reads_its_pages_and_no_others(open_bytes, dump_type, bits):
    pages = [0, 1, 2, 7, 8, 31, 40, 41, 60]
    signature = b"FDMP" if dump_type == 5 else b"SDMP"
    container = open_bytes(bitmap_dump(pages, bits, signature=signature, dump_type=dump_type))
    assert container.present_pages == container.pages_expected == len(pages)
    assert container.warnings == ()
    assert held_pages(container, bits + 70) == {number: page_of(number) for number in pages}


def test_bits_behind_the_announced_ones_are_ignored(open_bytes):
    container = open_bytes(bitmap_dump([1, 3], 5, extra_bits=[5, 7]))
    assert container.present_pages == 2
    assert list(held_pages(container, 16)) == [1, 3]


def test_reads_join_neighbours_and_stop_at_gaps(open_bytes):
    container = open_bytes(bitmap_dump([4, 5, 6, 8], 64))
    middle = container.read_physical(4 * PAGE + 0x800, 2 * PAGE)
    assert middle == page_of(4)[0x800:] + page_of(5) + page_of(6)[:0x800]
    with pytest.raises(MemoryReadError) as caught:
        container.read_physical(6 * PAGE + 0x800, 0x801)
    assert (caught.value.address, caught.value.size) == (6 * PAGE + 0x800, 0x801)
    parts = list(container.read_present_physical(3 * PAGE + 0x10, 5 * PAGE))
    assert parts == [(4 * PAGE, page_of(4) + page_of(5) + page_of(6)), (8 * PAGE, page_of(8)[:0x10])]


def test_truncated_page_data_is_read_as_far_as_it_goes(open_bytes):
    pages = list(range(10, 30))
    data = bitmap_dump(pages, 64)
    container = open_bytes(data[: -5 * PAGE - 1])
    assert (container.present_pages, container.pages_expected) == (14, 20)
    assert "truncated: 14 of its 20 pages" in container.warnings[0]
    assert held_pages(container, 64) == {n: page_of(n) for n in range(10, 24)}
    assert b"".join(d for _, d in container.read_present_physical(0, 64 * PAGE)) == b"".join(
        page_of(n) for n in range(10, 24)
    )


def test_truncation_at_every_structure_boundary(open_bytes):
    data = bitmap_dump(range(0, 24, 2), 256)
    first = 0x2038 + 32
    for size in [0, 1, 4, 8, 0x30, 0xF98, 0x1FFF, 0x2000, 0x2004, 0x2020, 0x2037, 0x2038, 0x2050, first - 1]:
        with pytest.raises(DumpFormatError) as caught:
            open_bytes(data[:size])
        assert "\n" not in str(caught.value)
    for size in range(first, len(data) + 1, 2048):
        held = (size - first) // PAGE
        assert list(held_pages(open_bytes(data[:size]), 64)) == list(range(0, 24, 2))[:held]


@pytest.mark.parametrize(
    "damage",
    [
        {"bits": 1 << 40},
        {"bits": (1 << 64) - 1},
        {"first_page": 1 << 50},
        {"first_page": 0},
        {"first_page": 0x2038},
        {"bitmap": b"\xff" * 32},
        {"bitmap": bytes(32)},
        {"signature": b"RDMPDUMP"},
        {"signature": b"SDMPDUMB"},
    ],
)
def test_damaged_bitmap_headers_are_refused(open_bytes, damage):
    data = bytearray(bitmap_dump(range(0, 24, 2), 256))
    if "bits" in damage:
        struct.pack_into("<Q", data, 0x2030, damage["bits"])
    if "first_page" in damage:
        struct.pack_into("<Q", data, 0x2020, damage["first_page"])
    if "bitmap" in damage:
        data[0x2038 : 0x2038 + 32] = damage["bitmap"]
    if "signature" in damage:
        data[0x2000:0x2008] = damage["signature"]
    with pytest.raises(DumpFormatError):
        open_bytes(bytes(data))


def test_a_wrong_total_is_told_where_the_file_proves_the_bitmap(open_bytes):
    container = open_bytes(bitmap_dump([1, 2, 3], 64, present=7))
    assert "counts 7 pages" in container.warnings[0]
    assert list(held_pages(container, 64)) == [1, 2, 3]


def test_what_follows_the_pages_is_not_a_page(open_bytes):
    container = open_bytes(bitmap_dump([1, 2, 3], 64) + b"blob" * 4096)
    assert container.present_pages == 3
    assert list(held_pages(container, 64)) == [1, 2, 3]


# --- complete dumps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [((1, 3),), ((1, 3), (16, 5), (40, 1)), ((40, 2), (1, 3))])
def test_full_dump_reads_its_runs(open_bytes, runs):
    container = open_bytes(full_dump(runs))
    expected = sorted(base + i for base, count in runs for i in range(count))
    assert container.present_pages == container.pages_expected == len(expected)
    assert held_pages(container, 64) == {number: page_of(number) for number in expected}
    everything = b"".join(data for _, data in container.read_present_physical(0, 64 * PAGE))
    assert everything == b"".join(page_of(number) for number in expected)


def test_full_dump_reads_across_touching_runs(open_bytes):
    container = open_bytes(full_dump(((1, 2), (3, 2))))
    assert container.read_physical(2 * PAGE, 2 * PAGE) == page_of(2) + page_of(3)


def test_truncated_full_dump(open_bytes):
    container = open_bytes(full_dump(((1, 3), (16, 5)), cut_pages=4))
    assert (container.present_pages, container.pages_expected) == (4, 8)
    assert list(held_pages(container, 64)) == [1, 2, 3, 16]
    with pytest.raises(MemoryReadError):
        container.read_physical(16 * PAGE, 2 * PAGE)


@pytest.mark.parametrize("count", [0, 43, 1000, 0x7FFFFFFF, 0xFFFFFFFF, None])
def test_full_dump_with_absurd_run_counts(open_bytes, count):
    data = bytearray(full_dump(((1, 3),)))
    struct.pack_into("<I", data, 0x88, 0x45474150 if count is None else count)
    with pytest.raises(DumpFormatError):
        open_bytes(bytes(data))


@pytest.mark.parametrize("runs", [((1, 3), (3, 2)), ((1, 3), (1, 3)), ((1, 1 << 62),), ((1 << 63, 1),)])
def test_full_dump_with_impossible_runs(open_bytes, runs):
    with pytest.raises(DumpFormatError):
        open_bytes(bytes(header(1, runs=runs)) + page_of(1) * 5)


def test_full_dump_with_one_huge_run_is_a_truncated_one(open_bytes):
    container = open_bytes(bytes(header(1, runs=((0, 1 << 39),))) + page_of(0) + page_of(1))
    assert container.present_pages == 2
    assert list(held_pages(container, 5)) == [0, 1]
    assert sum(len(data) for _, data in container.read_present_physical(0, 1 << 50)) == 2 * PAGE


# --- what is not read -----------------------------------------------------------------------------------------


def set_dword(offset, value):
    data = header(6)
    struct.pack_into("<I", data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "error", "word"),
    [
        (b"", DumpFormatError, "empty file"),
        (bytes(0x3000), DumpFormatError, "zeros"),
        (b"hello, world", DumpFormatError, "hello"),
        (b"PAGEDUMP" + bytes(0x1000), UnsupportedDumpError, "32-bit"),
        (b"MDMP" + bytes(0x100), NotKernelTargetError, "user-mode"),
        (b"hibr" + bytes(0x1000), DumpFormatError, "hibernation"),
        (b"HIBR" + bytes(0x1000), DumpFormatError, "hibernation"),
        (b"\x7fELF" + bytes(100), DumpFormatError, "ELF"),
        (b"PK\x03\x04" + bytes(100), DumpFormatError, "ZIP"),
        (b"MSCF" + bytes(100), DumpFormatError, "cabinet"),
        (set_dword(0xF98, 2), UnsupportedDumpError, "summary"),
        (set_dword(0xF98, 3), UnsupportedDumpError, "header-only"),
        (set_dword(0xF98, 4), UnsupportedDumpError, "triage"),
        (set_dword(0xF98, 8), UnsupportedDumpError, "type 8"),
        (set_dword(0xF98, 9), UnsupportedDumpError, "type 9"),
        (set_dword(0xF98, 10), UnsupportedDumpError, "type 10"),
        (set_dword(0xF98, 0), DumpFormatError, "0x0"),
        (set_dword(0xF98, 77), DumpFormatError, "0x4d"),
        (set_dword(0xF98, 0x45474150), DumpFormatError, "no DumpType"),
        (set_dword(0x30, 0xAA64), UnsupportedDumpError, "ARM64"),
        (set_dword(0x30, 0x14C), UnsupportedDumpError, "x86"),
        (set_dword(0x30, 0x1234), UnsupportedDumpError, "0x1234"),
        (set_dword(0x1050, 0x100), UnsupportedDumpError, "encrypted"),
        (bytes(header(6, dtb=0)), DumpFormatError, "DirectoryTableBase"),
        (bytes(header(6, dtb=0x4547415045474150)), DumpFormatError, "DirectoryTableBase"),
    ],
)
def test_what_is_not_read_is_refused_in_one_line(open_bytes, tmp_path, data, error, word):
    with pytest.raises(error) as caught:
        open_bytes(data)
    text = str(caught.value)
    assert word in text
    assert str(tmp_path / "memory.dmp") in text
    assert "\n" not in text


def test_unset_attributes_mean_none_set(open_bytes):
    data = header(6)
    assert data[0x1050:0x1054] == b"PAGE"
    assert struct.unpack_from("<I", data, 0x1050)[0] & 0x100  # read literally, the filler would say "encrypted"
    open_bytes(bitmap_dump([1], 8))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0x2100), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_damaged_headers_end_in_our_errors_or_in_true_pages(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "fuzzed.dmp"
    data = bytearray(bitmap_dump(range(0, 24, 2), 256))
    for offset, value in changes:
        data[offset : offset + len(value)] = value
    path.write_bytes(data)
    with open_file(str(path)) as file:
        try:
            container = open_container(file, parse_header(file))
        except (DumpFormatError, NotKernelTargetError):
            return
        for number in (0, 2, 3, 22, 255, 1 << 30):
            data = read_or_none(container, number)
            assert data is None or len(data) == PAGE


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
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
    noise = os.urandom(1 << 20)
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
    monkeypatch.setattr("pykdext.targets.compressed.MAX_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "memory.dmp"
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    with open_file(str(path)) as file:
        assert file.size <= 1 << 20
        assert "more than 1,048,576 bytes" in file.warnings[0]


def test_unpacking_leaves_room_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("pykdext.targets.compressed.RESERVED_DISK_BYTES", 1 << 62)
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
                if file._seek_and_read(500, offset) != data[offset : offset + 500]:
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
        def _read_some(self, size, offset):
            return self._seek_and_read(min(size, 7), offset)

    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with open(path, "rb") as stream, Slow(stream, str(path)) as file:
        assert file.read_at(3, 50) == bytes(range(3, 53))
        assert file.read_at(90, 50) == bytes(range(90, 100))


def test_a_file_that_shrinks_gives_errors_not_short_answers(tmp_path, open_bytes):
    for data, page in ((bitmap_dump([1, 2, 3], 64), 3), (full_dump(((1, 3),)), 3)):
        container = open_bytes(data)
        os.truncate(tmp_path / "memory.dmp", len(data) - 100)
        with pytest.raises(MemoryReadError):
            container.read_physical(page * PAGE, PAGE)


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
