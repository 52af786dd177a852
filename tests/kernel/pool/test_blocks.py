"""Big pages, small blocks and pool limits from bytes written by hand."""

from __future__ import annotations

import struct

import pytest

from pykdext.errors import LayoutNotFoundError, TargetError
from pykdext.kernel.kernel import Kernel, TargetSymbols
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.kernel.pool.smallblocks import find_small_blocks
from pykdext.kernel.systemmemory import read_commit, read_system_memory
from pykdext.model import Machine, PoolKind, PoolTag, SystemMemory, TargetFacts
from pykdext.symbols.chain import SymbolChain
from tests.helpers.segments import SegmentsTarget

PIPO = PoolTag(b"Pipo")
KEY = int.from_bytes(b"Pipo", "little")
PROTECTED = KEY | 0x80000000
VARIABLES, TABLE, POOL = 0xFFFFF80000C10000, 0xFFFFA00000000000, 0xFFFFE00000000000
VARIABLES32, TABLE32, POOL32 = 0x80500000, 0x81000000, 0x82000000


def kernel_of(segments, symbols, build, machine=Machine.X64):
    target = SegmentsTarget(
        segments, machine=machine, symbols=symbols, facts=TargetFacts("segments", machine, build=build)
    )
    return Kernel(target, None, SymbolChain([TargetSymbols(target)]))


def big_kernel(build, rows, machine=Machine.X64, count=None, holes=()):
    data = b"".join(rows)
    wide = machine is not Machine.X86
    variables, table = (VARIABLES, TABLE) if wide else (VARIABLES32, TABLE32)
    words = struct.pack("<2Q" if wide else "<2I", table, len(rows) if count is None else count)
    size = 8 if wide else 4
    segments = {variables: words}
    segments.update(
        {table + at: data[at : at + 0x1000] for at in range(0, len(data), 0x1000) if at // 0x1000 not in holes}
    )
    return kernel_of(
        segments, {"PoolBigPageTable": variables, "PoolBigPageTableSize": variables + size}, build, machine
    )


# One live entry for each generation: 12345000h bytes of paged pool where the row tells of the pool.
GENERATIONS = [
    (2600, Machine.X86, struct.pack("<III", 0x82000000, KEY, 3), None),
    (3790, Machine.X86, struct.pack("<IIII", 0x82000000, KEY, 3, 0x77), None),
    (3790, Machine.X64, struct.pack("<QIIQ", POOL, KEY, 3, 0x77), None),
    (6002, Machine.X86, struct.pack("<IIII", 0x82000000, KEY, 1, 0x3000), PoolKind.PAGED),
    (7601, Machine.X64, struct.pack("<QIIQ", POOL, KEY, 1, 0x3000), PoolKind.PAGED),
    (9600, Machine.X64, struct.pack("<QIIQ", POOL, PROTECTED, 0x200, 0x3000), PoolKind.NONPAGED),
    (17763, Machine.X86, struct.pack("<IIII", 0x82000000, KEY, 0x01_0155, 0x3000), PoolKind.PAGED),
    (19041, Machine.X64, struct.pack("<QIIQ", POOL, KEY, 0x12_0200FF, 0x3000), PoolKind.NONPAGED),
    (19041, Machine.ARM64, struct.pack("<QIIQ", POOL, KEY, 0x12_00_01_FF, 0x3000), PoolKind.PAGED),
    (20348, Machine.X64, struct.pack("<QIIQQ", POOL, KEY, 0x100, 0x3000, 0xAB), PoolKind.PAGED),
    (22000, Machine.X64, struct.pack("<QIIQQ", POOL, KEY, 0x20000, 0x3000, 0), PoolKind.NONPAGED),
    (26100, Machine.X64, struct.pack("<QIIQQ", POOL, KEY, 0x10000, 0x3000, 0), PoolKind.PAGED),
    (26100, Machine.X64, struct.pack("<QIIQQ", POOL, KEY, 0x04000, 0x3000, 0), PoolKind.NONPAGED),
]


@pytest.mark.parametrize(("build", "machine", "entry", "pool"), GENERATIONS)
def test_every_generation_of_the_big_page_table(build, machine, entry, pool):
    pointer = 4 if machine is Machine.X86 else 8
    free = bytes([entry[0] | 1]) + entry[1:]
    other = entry[:pointer] + b"Else" + entry[pointer + 4 :]
    unused = bytes(len(entry))
    found = read_big_pages(big_kernel(build, [unused, entry, free, other], machine), (PIPO,))
    assert [(block.size_bytes, block.pool, block.is_big) for block in found.allocations] == [(0x3000, pool, True)]
    assert found.allocations[0].address == int.from_bytes(entry[:pointer], "little")
    assert (found.rows_read, found.rows_expected) == (4, 4)


@pytest.mark.parametrize(("build", "machine", "entry", "pool"), GENERATIONS)
@pytest.mark.parametrize("claimed", [None, 30000])
def test_the_rows_tell_their_layout_where_the_build_does_not(build, machine, entry, pool, claimed):
    pointer = 4 if machine is Machine.X86 else 8
    rows = []
    for number in range(40):
        address = int.from_bytes(entry[:pointer], "little") + 0x10000 * number
        rows.append(
            address.to_bytes(pointer, "little") + (b"%4d" % number if number else b"Pipo") + entry[pointer + 4 :]
        )
    kernel = big_kernel(build, [bytes(len(entry)), *rows], machine)
    kernel.target._facts = TargetFacts("segments", machine, build=claimed)
    found = read_big_pages(kernel, (PIPO,))
    assert [block.address for block in found.allocations] == [int.from_bytes(entry[:pointer], "little")]
    assert found.rows_read == 41


def test_rows_like_none_that_is_known_are_one_line():
    kernel = big_kernel(30000, [bytes(range(1, 33))] * 200)
    with pytest.raises(LayoutNotFoundError, match="POOL_TRACKER_BIG_PAGES of build 30000"):
        read_big_pages(kernel, (PIPO,))


def test_missing_pages_of_the_big_page_table_are_counted():
    rows = [struct.pack("<QIIQ", POOL + 0x10000 * i, KEY, 1, 0x2000) for i in range(1024)]
    found = read_big_pages(big_kernel(19041, rows, holes={2}), (PIPO,))
    assert found.rows_expected == 1024
    assert 1024 - 0x1000 // 0x18 - 2 <= found.rows_read < 1024 - 0x1000 // 0x18 + 1
    assert len(found.allocations) == found.rows_read


def test_an_absurd_or_absent_big_page_table_is_one_line():
    with pytest.raises(TargetError, match="at most"):
        read_big_pages(big_kernel(19041, [bytes(0x18)], count=1 << 60), (PIPO,))
    with pytest.raises(TargetError, match="no page of it"):
        read_big_pages(big_kernel(19041, [bytes(0x18)], holes={0}), (PIPO,))
    with pytest.raises(TargetError, match="--symbols"):
        read_big_pages(kernel_of({VARIABLES: bytes(16)}, {}, 19041), (PIPO,))


def header64(previous, units, pool_type, tag):
    return struct.pack("<BBBB4sQ", previous, 0, units, pool_type, tag, 0)


def page64(*blocks):
    """A page of the classic pool: blocks of (units, pool type, tag), the rest one free block."""
    page, previous = b"", 0
    rest = 256 - sum(units for units, _, _ in blocks)
    for units, pool_type, tag in (*blocks, (rest, 0, b"Free")):
        page += header64(previous, units, pool_type, tag) + bytes(units * 16 - 16)
        previous = units
    assert len(page) == 0x1000
    return page


def test_blocks_of_a_classic_page_are_certain():
    page = page64((4, 2, b"Pipo"), (8, 3, b"Pipo"), (2, 2, b"Else"), (6, 0, b"Pipo"))
    found = find_small_blocks(kernel_of({POOL: page}, {}, 9600).target, PIPO)
    assert [(block.address - POOL, block.size_bytes, block.pool, block.is_certain) for block in found.allocations] == [
        (0, 0x40, PoolKind.NONPAGED, True),
        (0x40, 0x80, PoolKind.PAGED, True),
    ]
    assert found.freed == 1
    assert found.complete


class TwiceMapped(SegmentsTarget):
    """Two virtual pages show one physical page."""

    def find_physical(self, address):
        return address % 0x10000 if address < POOL + 0x20000 else None


def test_blocks_of_a_page_that_is_mapped_twice_count_once():
    page = page64((4, 2, b"Pipo"), (8, 3, b"Pipo"), (6, 0, b"Pipo"))
    segments = {POOL: page, POOL + 0x10000: page, POOL + 0x20000: page}
    facts = TargetFacts("segments", Machine.X64, build=9600)
    found = find_small_blocks(TwiceMapped(segments, machine=Machine.X64, facts=facts), PIPO)
    assert [block.address - POOL for block in found.allocations] == [0, 0x40, 0x20000, 0x20040]
    assert found.freed == 2


def test_the_tag_inside_a_block_is_no_block():
    page = bytearray(page64((16, 2, b"Else"), (4, 2, b"Pipo")))
    page[0x20:0x30] = header64(4, 4, 2, b"Pipo")
    found = find_small_blocks(kernel_of({POOL: bytes(page)}, {}, 9600).target, PIPO)
    assert [block.address - POOL for block in found.allocations] == [0x100]


def test_a_header_without_a_chain_is_not_certain():
    page = bytearray(0x1000)
    page[0x330:0x340] = header64(99, 5, 2, b"Pipo")
    page[0xFF0:0x1000] = header64(0, 5, 2, b"Pipo")  # would cross the page
    page[0x444:0x448] = b"Pipo"  # not where a header has it
    found = find_small_blocks(kernel_of({POOL: bytes(page)}, {}, 19041).target, PIPO)
    assert [(block.address - POOL, block.is_certain) for block in found.allocations] == [(0x330, False)]


def test_blocks_of_32_bit_kernels():
    def header(previous, units, pool_type, tag):
        return struct.pack("<HH4s", previous, units | pool_type << 9, tag)

    for build, nonpaged, paged in ((3790, 1, 2), (7601, 2, 3)):
        page = header(0, 8, nonpaged, b"Pipo") + bytes(56) + header(8, 4, paged, b"Pip\xef") + bytes(24)
        page += header(4, 512 - 12, 0, b"Pipo") + bytes(8 * (512 - 12) - 8)
        found = find_small_blocks(kernel_of({POOL32: page}, {}, build, Machine.X86).target, PIPO)
        assert [(block.size_bytes, block.pool) for block in found.allocations] == [
            (64, PoolKind.NONPAGED),
            (32, PoolKind.PAGED),
        ]
        assert found.freed == 1


MB, GB = 1 << 20, 1 << 30
TAGGED = (300 * MB, 100 * MB)


def totals_of(build, values, base_symbol="MiState", size=0x5000):
    data = bytearray(size)
    for offset, value in values.items():
        data[offset : offset + 8] = value.to_bytes(8, "little")
    return read_system_memory(kernel_of({VARIABLES: bytes(data)}, {base_symbol: VARIABLES}, build), *TAGGED)


@pytest.mark.parametrize(
    ("build", "used", "limit"),
    [
        (14393, 0x18, 0x1420),
        (17763, 0x18, 0x2550),
        (18362, 0x8, 0x24B0),
        (19041, 0x8, 0x2630),
        (19041, 0x8, 0x25F0),
        (20348, 0x8, 0x4230),
        (22000, 0x8, 0x4430),
    ],
)
def test_limits_are_members_of_mistate(build, used, limit):
    pages = {used: 320 * 256, limit: 16 * GB >> 12, limit - 8: 110 * 256, limit + 8: 64 * GB >> 12}
    assert totals_of(build, pages) == SystemMemory(320 * MB, 16 * GB, 110 * MB, 64 * GB)


def test_implausible_limits_are_not_believed():
    assert totals_of(22000, {0x8: 5, 0x4430: 7}) == SystemMemory()
    assert totals_of(22000, {0x8: 320 * 256, 0x4430: 1 << 50, 0x4428: 110 * 256, 0x4438: 1 << 20}) == SystemMemory()
    assert totals_of(26100, {0x8: 320 * 256}) == SystemMemory()
    assert totals_of(22000, {}, "SomethingElse") == SystemMemory()


def totals_of_variables(nonpaged, nonpaged_limit, paged, paged_limit, without=()):
    names = ("MmAllocatedNonPagedPool", "MmMaximumNonPagedPoolInBytes", "MmSizeOfPagedPoolInBytes", "MmPagedPoolInfo")
    data = struct.pack("<3Q", nonpaged, nonpaged_limit, paged_limit).ljust(0x100, b"\0")
    data = data[:0x78] + struct.pack("<Q", paged) + data[0x80:]
    places = {name: VARIABLES + 8 * i for i, name in enumerate(names) if name not in without}
    return read_system_memory(kernel_of({VARIABLES: data}, places, 7601), *TAGGED)


def test_limits_of_older_kernels_are_variables():
    found = totals_of_variables(320 * 256, 3 * GB, 110 * 256, 128 * GB)
    assert found == SystemMemory(320 * MB, 3 * GB, 110 * MB, 128 * GB)


@pytest.mark.parametrize(("nonpaged", "paged"), [(0, 110), (320, 0), (0, 0), (0, 5)])
def test_a_limit_is_told_though_its_counter_is_zero_or_wrong(nonpaged, paged):
    found = totals_of_variables(nonpaged * 256, 3 * GB, paged * 256, 128 * GB)
    counted = {0: None, 5: None, 110: 110 * MB, 320: 320 * MB}
    assert found == SystemMemory(counted[nonpaged], 3 * GB, counted[paged], 128 * GB)


def test_a_limit_is_told_where_its_counter_has_no_symbol():
    found = totals_of_variables(0, 3 * GB, 0, 128 * GB, without=("MmAllocatedNonPagedPool", "MmPagedPoolInfo"))
    assert found == SystemMemory(None, 3 * GB, None, 128 * GB)


@pytest.mark.parametrize("limit", [0, 200 * MB, 17 << 40])
def test_a_limit_that_cannot_be_hides_no_other(limit):
    assert totals_of_variables(320 * 256, limit, 0, 128 * GB) == SystemMemory(320 * MB, None, None, 128 * GB)


@pytest.mark.parametrize("build", [20348, 22000])
def test_a_member_of_mistate_that_is_zero_hides_no_limit(build):
    limit = {20348: 0x4230, 22000: 0x4430}[build]
    pages = {0x8: 320 * 256, limit: 16 * GB >> 12, limit + 8: 64 * GB >> 12}
    assert totals_of(build, pages) == SystemMemory(320 * MB, 16 * GB, None, 64 * GB)
    del pages[0x8]
    assert totals_of(build, pages) == SystemMemory(None, 16 * GB, None, 64 * GB)


@pytest.mark.parametrize("limit", [0x2630, 0x25F0])
def test_of_several_layouts_with_a_zero_one_is_proven_by_the_count_that_is_left(limit):
    pages = {limit: 16 * GB >> 12, limit - 8: 110 * 256, limit + 8: 64 * GB >> 12}
    assert totals_of(19041, pages) == SystemMemory(None, 16 * GB, 110 * MB, 64 * GB)
    del pages[limit - 8]
    assert totals_of(19041, pages) == SystemMemory()


def commit_of(**pages):
    values = dict(zip(pages, range(VARIABLES, VARIABLES + 8 * len(pages), 8)))
    return read_commit(kernel_of({VARIABLES: struct.pack(f"<{len(pages)}Q", *pages.values())}, values, 7601))


def test_a_commit_limit_is_told_though_the_charge_is_zero():
    pages = {"MmTotalCommittedPages": 0, "MmTotalCommitLimit": 9 << 18, "MmNumberOfPhysicalPages": 8 << 18}
    assert commit_of(**pages) == SystemMemory(commit_limit_bytes=9 * GB, physical_bytes=8 * GB)
    assert commit_of(**{**pages, "MmTotalCommittedPages": 10 << 18}) == SystemMemory()
    del pages["MmNumberOfPhysicalPages"]
    assert commit_of(**pages) == SystemMemory(commit_limit_bytes=9 * GB)
    del pages["MmTotalCommittedPages"]
    assert commit_of(**pages) == SystemMemory(commit_limit_bytes=9 * GB)


def test_a_commit_limit_in_a_structure_needs_another_number_beside_a_charge_of_zero():
    def found(**pages):
        places = {"physical": 0x4140 + 0x10, "committed": 0x4140 + 0x228, "limit": 0x4140 + 0x318}
        data = bytearray(0x5000)
        for name, count in pages.items():
            struct.pack_into("<Q", data, places[name], count)
        return read_commit(kernel_of({VARIABLES: bytes(data)}, {"MiSystemPartition": VARIABLES}, 22000))

    told = SystemMemory(commit_limit_bytes=9 * GB, physical_bytes=8 * GB, available_bytes=0)
    assert found(physical=8 << 18, limit=9 << 18) == told
    assert found(physical=8 << 18, limit=3 << 18) == found(limit=9 << 18) == SystemMemory()
