"""Containers on hand-made bytes: every offset below is written out, none comes from the reader."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumps.forge import forge
from pykdext.errors import DumpFormatError, MemoryReadError, NotKernelTargetError
from pykdext.targets.dump.compressed import open_file
from pykdext.targets.dump.containers import open_container
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.dump.header import parse_header
from tests.helpers.dumpbytes import (
    PAGE,
    UNSET,
    bitmap_dump,
    full_dump,
    header_of,
    page_of,
    range_dump,
    summary_dump,
)
from tests.helpers.patience import ends_soon

NUMBERS = (1, 2, 3, 8, 9, 40, 41, 42, 43, 60)
RUNS = ((1, 3), (8, 2), (40, 4), (60, 1))
SHUFFLED_RUNS = ((40, 4), (1, 3), (60, 1), (8, 2))

CONTAINERS = {
    "full 64": full_dump(RUNS),
    "full 64 shuffled": full_dump(SHUFFLED_RUNS),
    "full 32": full_dump(RUNS, width=32),
    "summary 64": summary_dump(NUMBERS, 64, width=64),
    "summary 32": summary_dump(NUMBERS, 64),
    "bitmap 5": bitmap_dump(NUMBERS, 64, signature=b"FDMP", dump_type=5),
    "bitmap 6": bitmap_dump(NUMBERS, 64),
    "bitmap 7": bitmap_dump(NUMBERS, 64, dump_type=7),
    "bitmap 5 32": bitmap_dump(NUMBERS, 64, signature=b"FDMP", dump_type=5, width=32),
    "bitmap 6 32": bitmap_dump(NUMBERS, 64, width=32),
    "range 8": range_dump(RUNS),
    "range 8 32": range_dump(RUNS, width=32),
    "range 8 shuffled": range_dump(SHUFFLED_RUNS),
    "range 9": range_dump(RUNS, dump_type=9),
    "range 10": range_dump(RUNS, dump_type=10),
    "range 10 with page 0": range_dump(((0, 1), *RUNS), dump_type=10),
}


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


def held_pages(container, bits=70):
    read = {number: read_or_none(container, number) for number in range(bits)}
    return {number: data for number, data in read.items() if data is not None}


def data_start(data):
    """Where the page data of one of CONTAINERS begins: its pages are the last bytes of it."""
    pages = len(data) // PAGE
    while data[-pages * PAGE : (-pages + 1) * PAGE or None] not in {page_of(number) for number in (0, *NUMBERS)}:
        pages -= 1
    return len(data) - pages * PAGE


def assert_true_pages(container, count):
    """The container holds ``count`` pages, all of them as they were, and tells of no others."""
    held = held_pages(container)
    assert len(held) == count == container.present_pages
    for number, data in held.items():
        assert data == page_of(number), number
    assert set(held) <= {0, *NUMBERS}
    everything = list(container.read_present_physical(0, 1 << 52))
    assert b"".join(data for _, data in everything) == b"".join(held[number] for number in sorted(held))
    assert [address for address, _ in everything] == sorted(address for address, _ in everything)


# --- every container ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_reads_its_pages_and_no_others(open_bytes, name):
    container = open_bytes(CONTAINERS[name])
    assert container.warnings == ()
    assert container.pages_expected == container.present_pages
    assert_true_pages(container, len(NUMBERS) + name.endswith("page 0"))


@pytest.mark.parametrize("name", CONTAINERS)
def test_reads_join_neighbours_and_stop_at_gaps(open_bytes, name):
    container = open_bytes(CONTAINERS[name])
    middle = container.read_physical(1 * PAGE + 0x800, 2 * PAGE)
    assert middle == page_of(1)[0x800:] + page_of(2) + page_of(3)[:0x800]
    with pytest.raises(MemoryReadError) as caught:
        container.read_physical(3 * PAGE + 0x800, 0x801)
    assert (caught.value.address, caught.value.size) == (3 * PAGE + 0x800, 0x801)
    parts = list(container.read_present_physical(2 * PAGE + 0x10, 38 * PAGE))
    expected = {2 * PAGE + 0x10: page_of(2)[0x10:] + page_of(3), 8 * PAGE: page_of(8) + page_of(9)}
    assert parts == [*expected.items(), (40 * PAGE, page_of(40)[:0x10])]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_cut_file_is_read_as_far_as_it_goes(open_bytes, name):
    data = CONTAINERS[name]
    start, total = data_start(data), len(NUMBERS) + name.endswith("page 0")
    for size in range(start, len(data), 1024):
        container = open_bytes(data[:size])
        held = (size - start) // PAGE
        assert container.pages_expected == total
        assert f"truncated: {held} of its {total} pages" in container.warnings[0]
        assert_true_pages(container, held)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_cut_before_its_pages_is_refused(open_bytes, name):
    data = CONTAINERS[name]
    start = data_start(data)
    boundaries = {0, 1, 4, 7, 8, 0xF87, 0xFFF, 0x1000, 0x1020, 0x1FFF, 0x2000, 0x2004, 0x201F, 0x2020, 0x2037, 0x2038}
    for size in sorted(boundaries | set(range(max(start - 80, 0), start))):
        if size >= start:
            continue
        with pytest.raises(DumpFormatError) as caught:
            open_bytes(data[:size])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in CONTAINERS if "10" not in name])
def test_what_follows_the_pages_is_not_a_page(open_bytes, name):
    container = open_bytes(CONTAINERS[name] + b"DumpBlob" * 1024)
    assert container.warnings == ()
    assert_true_pages(container, len(NUMBERS))


@pytest.mark.parametrize("name", CONTAINERS)
@ends_soon
def test_damaged_headers_end_in_our_errors(tmp_path, name):
    path = tmp_path / "fuzzed.dmp"
    intact = CONTAINERS[name]
    start = data_start(intact)
    interesting = [0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, 1 << 50, (1 << 64) - 1]

    @settings(max_examples=60, database=None)
    @given(st.lists(st.tuples(st.integers(0, start // 4 - 1), st.sampled_from(interesting)), min_size=1, max_size=3))
    def damage(changes):
        data = bytearray(intact)
        for word, value in changes:
            struct.pack_into("<Q", data, min(4 * word, len(data) - 8), value)
        path.write_bytes(data)
        with open_file(str(path)) as file:
            try:
                container = open_container(file, parse_header(file))
            except (DumpFormatError, NotKernelTargetError):
                return
            for number in (*NUMBERS, 0, 255, 1 << 30):
                page = read_or_none(container, number)
                assert page is None or len(page) == PAGE

    damage()


# --- bitmap dumps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [61, 64, 200])
def test_a_bitmap_ends_where_its_header_says(open_bytes, bits):
    assert_true_pages(open_bytes(bitmap_dump(NUMBERS, bits)), len(NUMBERS))


def test_bits_behind_the_announced_ones_are_ignored(open_bytes):
    container = open_bytes(bitmap_dump([1, 3], 5, extra_bits=[5, 7]))
    assert container.present_pages == 2
    assert list(held_pages(container, 16)) == [1, 3]


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("factor", [64, 1 << 20])
def test_a_bitmap_that_is_whole_is_read_though_its_length_is_told_wrongly(open_bytes, width, factor):
    whole = bitmap_dump(NUMBERS, 64, width=width)
    data = bytearray(whole)
    start = (0x1000 if width == 32 else 0x2000) + 0x30
    data[start : start + 8] = struct.pack("<Q", 64 * factor)
    damaged, intact = open_bytes(data), open_bytes(whole)
    assert damaged.present_pages == intact.present_pages == len(NUMBERS)
    for number in NUMBERS:
        assert damaged.read_physical(number << 12, 4096) == intact.read_physical(number << 12, 4096)
    assert f"the header counts {64 * factor:,} bits of its bitmap" in damaged.warnings[0]


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize(
    ("offset", "damage"),
    [
        (0x30, struct.pack("<Q", 1 << 40)),
        (0x30, struct.pack("<Q", (1 << 64) - 1)),
        (0x20, struct.pack("<Q", 1 << 50)),
        (0x20, struct.pack("<Q", 0)),
        (0x20, struct.pack("<Q", 0x1038)),
        (0x38, b"\xff" * 8),
        (0x38, bytes(8)),
        (0x00, b"RDMPDUMP"),
        (0x00, b"SDMPDUMB"),
    ],
)
def test_damaged_bitmap_headers_are_refused(open_bytes, width, offset, damage):
    data = bytearray(bitmap_dump(NUMBERS, 64, width=width))
    start = (0x1000 if width == 32 else 0x2000) + offset
    data[start : start + len(damage)] = damage
    with pytest.raises(DumpFormatError):
        _ = open_bytes(bytes(data)).present_pages  # a bitmap is refused when it is counted, at the latest


def test_a_bitmap_is_not_read_beyond_all_memory(open_bytes, monkeypatch):
    monkeypatch.setattr("pykdext.targets.dump.containers.MAX_BITMAP_PAGES", 64)
    assert open_bytes(bitmap_dump(NUMBERS, 64)).present_pages == len(NUMBERS)
    with pytest.raises(DumpFormatError):
        open_bytes(bitmap_dump(NUMBERS, 65))


def test_a_wrong_total_is_told_where_the_file_proves_the_bitmap(open_bytes):
    container = open_bytes(bitmap_dump(NUMBERS, 64, present=77))
    assert "counts 77 pages" in container.warnings[0]
    assert_true_pages(container, len(NUMBERS))


# --- summary dumps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("offset", [0x20, 0x28, 0x38])
def test_the_bitmap_of_a_summary_dump_is_found_where_it_fits(open_bytes, width, offset):
    pages = [*range(0, 512, 2), 513]  # no shifted reading marks as many
    container = open_bytes(summary_dump(pages, 514, width=width, bitmap_offset=offset))
    assert (container.present_pages, container.warnings) == (len(pages), ())
    assert sorted(held_pages(container, 520)) == pages
    assert held_pages(container, 520)[513] == page_of(513)


@pytest.mark.parametrize("signature", [b"FDMPDUMP", b"SDMPDUMB", bytes(8)])
def test_a_summary_dump_without_its_signature_is_refused(open_bytes, signature):
    data = summary_dump(NUMBERS, 64)
    with pytest.raises(DumpFormatError) as caught:
        open_bytes(data[:0x1000] + signature + data[0x1008:])
    assert "expected SDMPDUMP" in str(caught.value)


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize(
    "damage",
    [
        {"present": 0xFFFFFFFF},
        {"bits": 0xFFFFFFFF},
        {"bits": 8},
        {"first_page": 0},
        {"first_page": 0x1027},
        {"first_page": 0xFFFFFFFF},
        {"bitmap": b"\xff" * 8},
        {"bitmap": bytes(8)},
    ],
)
def test_damaged_summary_headers_are_refused(open_bytes, width, damage):
    data = bytearray(summary_dump(NUMBERS, 64, width=width))
    start = 0x1000 if width == 32 else 0x2000
    offsets = {"first_page": 0x0C, "bits": 0x10, "present": 0x14}
    for field, value in damage.items():
        if field == "bitmap":
            data[start + 0x20 : start + 0x40] = value * 4
        else:
            struct.pack_into("<I", data, start + offsets[field], value)
    with pytest.raises(DumpFormatError):
        open_bytes(bytes(data))


@pytest.mark.parametrize("width", [32, 64])
def test_a_wrong_total_of_a_summary_dump_is_told_where_the_file_proves_the_bitmap(open_bytes, width):
    data = bytearray(summary_dump(NUMBERS, 64, width=width))
    struct.pack_into("<I", data, (0x1000 if width == 32 else 0x2000) + 0x14, 9)
    container = open_bytes(bytes(data))
    assert "counts 9 pages" in container.warnings[0]
    assert sorted(held_pages(container, 64)) == list(NUMBERS)


# --- complete dumps -------------------------------------------------------------------------------------------


def test_full_dump_reads_across_touching_runs(open_bytes):
    container = open_bytes(full_dump(((1, 2), (3, 2))))
    assert container.read_physical(2 * PAGE, 2 * PAGE) == page_of(2) + page_of(3)


@pytest.mark.parametrize(("width", "room"), [(32, 86), (64, 42)])
def test_as_many_runs_as_the_header_has_room_for(open_bytes, width, room):
    runs = tuple((2 * number + 1, 1) for number in range(room))
    container = open_bytes(full_dump(runs, width=width))
    assert list(held_pages(container, 2 * room + 5)) == [page for page, _ in runs]
    data = bytearray(full_dump(runs, width=width))
    struct.pack_into("<I", data, 0x64 if width == 32 else 0x88, room + 1)
    with pytest.raises(DumpFormatError):
        open_bytes(bytes(data))


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("count", [0, 1000, 0x7FFFFFFF, 0xFFFFFFFF, UNSET])
def test_full_dump_with_absurd_run_counts(open_bytes, width, count):
    data = bytearray(full_dump(((1, 3),), width=width))
    struct.pack_into("<I", data, 0x64 if width == 32 else 0x88, count)
    with pytest.raises(DumpFormatError):
        open_bytes(bytes(data))


@pytest.mark.parametrize("runs", [((1, 3), (3, 2)), ((1, 3), (1, 3)), ((1, 1 << 62),), ((1 << 63, 1),)])
def test_full_dump_with_impossible_runs(open_bytes, runs):
    with pytest.raises(DumpFormatError):
        open_bytes(header_of(64, 1, runs=runs) + page_of(1) * 5)


def test_full_dump_with_one_huge_run_is_a_truncated_one(open_bytes):
    container = open_bytes(header_of(64, 1, runs=((0, 1 << 39),)) + page_of(0) + page_of(1))
    assert container.present_pages == 2
    assert list(held_pages(container, 5)) == [0, 1]
    assert sum(len(data) for _, data in container.read_present_physical(0, 1 << 50)) == 2 * PAGE


def test_a_total_that_contradicts_the_runs_is_told(open_bytes):
    data = bytearray(full_dump(RUNS))
    struct.pack_into("<Q", data, 0x90, 99)
    container = open_bytes(bytes(data))
    assert "counts 99 pages, its memory runs 10" in container.warnings[0]


# --- range dumps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dump_type", [8, 9])
def test_a_kernels_range_list_ends_at_a_range_from_page_0(open_bytes, dump_type):
    data = range_dump(RUNS, dump_type=dump_type, end=(0, 7), tail=struct.pack("<QQ", 77, 1 << 60))
    assert_true_pages(open_bytes(data), len(NUMBERS))


def test_a_complete_range_list_ends_at_its_total(open_bytes):
    data = range_dump(RUNS, dump_type=10, end=(77, 7), tail=struct.pack("<QQ", 1 << 63, 1 << 63))
    assert_true_pages(open_bytes(data), len(NUMBERS))


@pytest.mark.parametrize("dump_type", [8, 9, 10])
def test_a_range_list_may_fill_its_metadata(open_bytes, dump_type):
    data = range_dump(RUNS, dump_type=dump_type, metadata=0x10 * (1 + len(RUNS)), end=(60, 1))
    full = data[: 0x2030 + 0x10 * len(RUNS)] + data[0x2040 + 0x10 * len(RUNS) :]
    assert_true_pages(open_bytes(full), len(NUMBERS))


@pytest.mark.parametrize("total", [0, 9, 11, 1 << 40])
def test_a_wrong_total_of_ranges_is_told_where_the_file_proves_the_list(open_bytes, total):
    container = open_bytes(range_dump(RUNS, dump_type=10, total=total))
    assert f"counts {total:,} pages" in container.warnings[0]
    assert_true_pages(container, 10)


def test_a_range_too_long_is_told_though_others_end_at_the_total(open_bytes):
    data = bytearray(range_dump(RUNS, dump_type=10))
    struct.pack_into("<Q", data, 0x2038, 4)  # the first of 3, 2, 4 and 1 pages: without the last they are ten as well
    container = open_bytes(bytes(data))
    assert "the header counts 10 pages, its ranges 11" in container.warnings[0]


@pytest.mark.parametrize("total", [0, 8, 11, 1 << 40])
def test_a_wrong_total_of_ranges_is_refused_in_a_cut_file(open_bytes, total):
    with pytest.raises(DumpFormatError):
        open_bytes(range_dump(RUNS, dump_type=10, total=total)[:-1])


@pytest.mark.parametrize("dump_type", [8, 9, 10])
@pytest.mark.parametrize(
    "runs",
    [
        (),
        ((1, 3), (3, 2)),
        ((1, 3), (1, 3)),
        ((8, 3), (7, 2)),
    ],
)
def test_ranges_that_overlap_or_are_missing_are_refused(open_bytes, dump_type, runs):
    with pytest.raises(DumpFormatError):
        open_bytes(range_dump(runs, dump_type=dump_type))


@pytest.mark.parametrize("dump_type", [8, 9, 10])
@pytest.mark.parametrize("item", [(1 << 63, 1), (1, 1 << 62), (1, (1 << 64) - 1), ((1 << 64) - 1, (1 << 64) - 1)])
def test_ranges_beyond_physical_memory_are_refused(open_bytes, dump_type, item):
    data = bytearray(range_dump(RUNS, dump_type=dump_type))
    struct.pack_into("<QQ", data, 0x2030, *item)
    with pytest.raises(DumpFormatError):
        open_bytes(bytes(data))


@pytest.mark.parametrize("dump_type", [8, 9, 10])
@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0x00, 0x41),
        (0x04, 0x504D4453),  # SDMP
        (0x08, 0),
        (0x10, 0),
        (0x10, 0x201),
        (0x10, 0xFFFFFFFF),
        (0x14, 0xFFFFFFFF),
        (0x18, 0),
        (0x18, 0x2241),
        (0x1C, 0xFFFFFFFF),
    ],
)
def test_damaged_range_headers_are_refused(open_bytes, dump_type, offset, value):
    data = bytearray(range_dump(RUNS, dump_type=dump_type))
    struct.pack_into("<I", data, 0x2000 + offset, value)
    with pytest.raises(DumpFormatError) as caught:
        open_bytes(bytes(data))
    assert "\n" not in str(caught.value)


def test_an_endless_range_list_is_refused(open_bytes, monkeypatch):
    monkeypatch.setattr("pykdext.targets.dump.rangedump.MAX_RANGES", 16)
    runs = tuple((2 * number + 1, 1) for number in range(20))
    with pytest.raises(DumpFormatError) as caught:
        open_bytes(range_dump(runs))
    assert "16 ranges of pages or more" in str(caught.value)


@pytest.mark.parametrize("kind", [1, 5, 6, 8, 10])
@pytest.mark.parametrize(
    ("added", "is_told"), [(b"DumpBlob" + bytes(4088), False), (bytes(8192), False), (b"x" * 4096, True)]
)
def test_pages_behind_the_last_one_are_told(tmp_path, kind, added, is_told):
    """A page too many in the middle moves all others: the last one stands where nothing is expected."""
    path = tmp_path / "x.dmp"
    forge("quiet").save(path, kind=kind)
    path.write_bytes(path.read_bytes() + added)
    with open_crashdump(str(path)) as dump:
        assert any("behind the last page" in line for line in dump.facts.warnings) == is_told
