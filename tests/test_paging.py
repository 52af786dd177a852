"""x64 translation over page tables written by hand, entry by entry."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.errors import MemoryReadError
from pykdext.targets.paging import DEMAND_ZERO, X64AddressSpace
from pykdext.targets.virtual import VirtualMemory

PAGE = 0x1000
KERNEL = 0xFFFFF800_00000000
NX = 1 << 63


class Pages:
    """Physical memory of whole pages: {page number: bytes}."""

    def __init__(self):
        self.pages = {}
        self.reads = 0

    @property
    def present_pages(self):
        return len(self.pages)

    def read_physical(self, address, size):
        self.reads += 1
        data = b""
        while len(data) < size:
            at = address + len(data)
            page = self.pages.get(at // PAGE)
            if page is None:
                raise MemoryReadError(address, size)
            data += bytes(page[at % PAGE : at % PAGE + size - len(data)])
        return data

    def read_present_physical(self, address, size):
        for number in range(address // PAGE, (address + size + PAGE - 1) // PAGE):
            start, end = max(address, number * PAGE), min(address + size, number * PAGE + PAGE)
            if number in self.pages and start < end:
                yield start, bytes(self.pages[number][start % PAGE : start % PAGE + end - start])

    def fill(self, number, seed=None):
        self.pages[number] = bytearray(struct.pack("<Q", number if seed is None else seed) * 512)
        return bytes(self.pages[number])

    def set_entry(self, table, index, value):
        struct.pack_into("<Q", self.pages.setdefault(table, bytearray(PAGE)), index * 8, value)


class Tables:
    """Page tables of one address space; the root is page 0x1AD, new tables come from 0x200 on."""

    def __init__(self):
        self.memory = Pages()
        self.memory.pages[0x1AD] = bytearray(PAGE)
        self.next_table = 0x200
        self.virtual = VirtualMemory(self.memory, X64AddressSpace(self.memory, 0x1AD002))

    def table_below(self, table, index):
        entry = struct.unpack_from("<Q", self.memory.pages[table], index * 8)[0]
        if not entry & 1:
            self.memory.pages[self.next_table] = bytearray(PAGE)
            entry = self.next_table << 12 | 0x63
            self.memory.set_entry(table, index, entry)
            self.next_table += 1
        return entry >> 12 & 0xFFFFFFFFFF

    def set_pml4e(self, address, entry):
        self.memory.set_entry(0x1AD, address >> 39 & 511, entry)

    def set_pdpte(self, address, entry):
        self.memory.set_entry(self.table_below(0x1AD, address >> 39 & 511), address >> 30 & 511, entry)

    def set_pde(self, address, entry):
        table = self.table_below(self.table_below(0x1AD, address >> 39 & 511), address >> 30 & 511)
        self.memory.set_entry(table, address >> 21 & 511, entry)

    def set_pte(self, address, entry):
        table = self.table_below(0x1AD, address >> 39 & 511)
        table = self.table_below(self.table_below(table, address >> 30 & 511), address >> 21 & 511)
        self.memory.set_entry(table, address >> 12 & 511, entry)


@pytest.fixture
def tables():
    return Tables()


def test_four_kilobyte_pages(tables):
    page = tables.memory.fill(0x55555)
    tables.set_pte(KERNEL + 0x7000, NX | 0x55555063)
    assert tables.virtual.read(KERNEL + 0x7000, PAGE) == page
    assert tables.virtual.read(KERNEL + 0x7FFB, 5) == page[-5:]
    for address, size in ((KERNEL + 0x6FFF, 1), (KERNEL + 0x8000, 1), (KERNEL + 0x7FFF, 2), (KERNEL + 0x6FFF, 2)):
        with pytest.raises(MemoryReadError) as caught:
            tables.virtual.read(address, size)
        assert (caught.value.address, caught.value.size) == (address, size)


def test_two_megabyte_pages(tables):
    # Bit 12 is PAT in a large entry, not part of the address.
    tables.set_pde(KERNEL + 0x600000, 0x40000000 | 1 << 12 | 0xE3)
    first, last = tables.memory.fill(0x40000), tables.memory.fill(0x401FF)
    assert tables.virtual.read(KERNEL + 0x600010, 0x20) == first[0x10:0x30]
    assert tables.virtual.read(KERNEL + 0x7FF000, PAGE) == last
    assert [a for a, _ in tables.virtual.read_present(KERNEL, 1 << 30)] == [KERNEL + 0x600000, KERNEL + 0x7FF000]


def test_one_gigabyte_pages(tables):
    tables.set_pdpte(KERNEL + (3 << 30), 0x1_80000000 | 1 << 12 | 0xE3)
    page = tables.memory.fill(0x180000 + 0x12345)
    assert tables.virtual.read(KERNEL + (3 << 30) + 0x12345008, 16) == page[8:24]


def test_the_large_bit_means_nothing_in_the_top_table(tables):
    page = tables.memory.fill(0x777)
    tables.set_pte(KERNEL, 0x777063)
    top = struct.unpack_from("<Q", tables.memory.pages[0x1AD], (KERNEL >> 39 & 511) * 8)[0]
    tables.set_pml4e(KERNEL, top | 0x80)
    assert tables.virtual.read(KERNEL, PAGE) == page


def test_frames_above_four_gigabytes_and_high_bits(tables):
    page = tables.memory.fill(0xFF_FFFFFFFF)
    tables.set_pte(KERNEL, 0x7FF << 52 | 0xFF_FFFFFFFF << 12 | 0x63)
    assert tables.virtual.read(KERNEL, PAGE) == page


def test_transition_pages_still_hold_their_data(tables):
    page = tables.memory.fill(0x888)
    tables.set_pte(KERNEL, 0x888 << 12 | 0x800 | 0x80)
    assert tables.virtual.read(KERNEL, PAGE) == page


def test_a_transition_entry_above_the_page_tables_is_no_large_page(tables):
    tables.memory.fill(0x888)
    tables.set_pde(KERNEL, 0x888 << 12 | 0x800 | 0x80)
    with pytest.raises(MemoryReadError):
        tables.virtual.read(KERNEL, 1)


@pytest.mark.parametrize("shared", [0x999063, 0x999880], ids=["valid", "transition"])
def test_prototype_entries_are_decoded_once(tables, shared):
    page = tables.memory.fill(0x999)
    prototype = 0xFFFFA001_03456CC8
    tables.memory.pages[0x321] = bytearray(PAGE)
    struct.pack_into("<Q", tables.memory.pages[0x321], 0xCC8, shared)
    tables.set_pte(prototype, 0x321063)
    tables.set_pte(KERNEL, (prototype & 0xFFFFFFFFFFFF) << 16 | 0x400)
    assert tables.virtual.read(KERNEL + 5, 9) == page[5:14]


def test_a_prototype_entry_in_a_large_page(tables):
    page = tables.memory.fill(0x999)
    prototype = 0xFFFFA001_03456CC8
    tables.set_pde(prototype, 0x40000000 | 0xE3)
    number = 0x40000 + (prototype >> 12 & 511)
    tables.memory.pages[number] = bytearray(PAGE)
    struct.pack_into("<Q", tables.memory.pages[number], 0xCC8, 0x999063)
    tables.set_pte(KERNEL, (prototype & 0xFFFFFFFFFFFF) << 16 | 0x400)
    assert tables.virtual.read(KERNEL, PAGE) == page


@pytest.mark.parametrize("shared", [0, 0x400, 0x1234_00000420, None], ids=["zero", "again", "file", "absent"])
def test_prototype_entries_that_lead_nowhere(tables, shared):
    prototype = 0xFFFFA001_03456CC8
    if shared is not None:
        tables.memory.pages[0x321] = bytearray(PAGE)
        struct.pack_into("<Q", tables.memory.pages[0x321], 0xCC8, shared)
    tables.set_pte(prototype, 0x321063)
    tables.set_pte(KERNEL, (prototype & 0xFFFFFFFFFFFF) << 16 | 0x400)
    with pytest.raises(MemoryReadError):
        tables.virtual.read(KERNEL, 1)


def test_a_prototype_entry_that_holds_itself(tables):
    tables.set_pte(KERNEL, (KERNEL & 0xFFFFFFFFFFFF) << 16 | 0x400)
    with pytest.raises(MemoryReadError):
        tables.virtual.read(KERNEL, 1)
    tables.set_pte(KERNEL + PAGE, 0xFFFFFFFF0000 << 16 | 0x400)  # the kernel's "look into the VAD"
    with pytest.raises(MemoryReadError):
        tables.virtual.read(KERNEL + PAGE, 1)


def test_a_prototype_address_that_may_be_masked_is_not_guessed(tables):
    """Bit 45 may be the address's own or the guard against L1TF: here both addresses hold an entry."""
    for prototype, frame in ((0xFFFFA001_23456CC8, 0x321), (0xFFFFA001_03456CC8, 0x322)):
        tables.memory.fill(0x999)
        tables.memory.pages[frame] = bytearray(PAGE)
        struct.pack_into("<Q", tables.memory.pages[frame], 0xCC8, 0x999063)
        tables.set_pte(prototype, frame << 12 | 0x63)
    tables.set_pte(KERNEL, (0xA001_23456CC8 << 16) | 0x400)
    tables.set_pte(KERNEL + PAGE, (0xA001_23456CC8 << 16) | 0x410)  # bit 4: stored as it is
    with pytest.raises(MemoryReadError):
        tables.virtual.read(KERNEL, 1)
    assert len(tables.virtual.read(KERNEL + PAGE, PAGE)) == PAGE


@pytest.mark.parametrize("entry", [0x888 << 12 | 0x880 | 1 << 45, 0x888 << 12 | 0x890], ids=["masked", "as it is"])
def test_transition_entries_guarded_against_l1tf(tables, entry):
    page = tables.memory.fill(0x888)
    tables.set_pte(KERNEL, entry)
    assert tables.virtual.read(KERNEL, PAGE) == page


def test_demand_zero_and_paged_out(tables):
    tables.set_pte(KERNEL, 0x80)
    tables.set_pte(KERNEL + PAGE, 0x1234_00000080)
    assert tables.virtual.read(KERNEL, PAGE) == bytes(PAGE)
    with pytest.raises(MemoryReadError):
        tables.virtual.read(KERNEL, PAGE + 1)
    assert list(tables.virtual.read_present(KERNEL, 2 * PAGE)) == [(KERNEL, bytes(PAGE))]


def test_translation_is_not_presence(tables):
    tables.set_pte(KERNEL, 0x555063)
    space = X64AddressSpace(tables.memory, 0x1AD000)
    assert space.translate(KERNEL + 0x123) == 0x555123
    with pytest.raises(MemoryReadError):
        tables.virtual.read(KERNEL + 0x123, 1)
    assert list(tables.virtual.read_present(KERNEL, PAGE)) == []


@pytest.mark.parametrize(
    ("address", "size"),
    [
        (0x00008000_00000000, 1),
        (0xFFFF7FFF_FFFFFFFF, 1),
        (0x00007FFF_FFFFFFFF, 2),
        (0xFFFFFFFF_FFFFFFFF, 2),
        (1 << 64, 1),
        (-1, 1),
        (KERNEL, -5),
        (KERNEL, 1 << 63),
    ],
)
def test_addresses_that_cannot_be(tables, address, size):
    for index in range(512):
        tables.memory.set_entry(0x1AD, index, 0x1AD063)
    with pytest.raises(MemoryReadError):
        tables.virtual.read(address, size)
    if size < 1 << 40:
        assert list(tables.virtual.read_present(address, size)) == []


def test_no_bytes_need_no_memory(tables):
    assert tables.virtual.read(KERNEL, 0) == b""
    assert list(tables.virtual.read_present(KERNEL, 0)) == []


def test_a_missing_root(tables):
    assert not X64AddressSpace(tables.memory, 0x7777000).has_root
    assert X64AddressSpace(tables.memory, 0x1ADFFF).has_root


def test_self_referencing_tables_do_not_hang(tables):
    for index in range(512):
        tables.memory.set_entry(0x1AD, index, 0x1AD063)
    root = bytes(tables.memory.pages[0x1AD])
    assert tables.virtual.read(KERNEL, PAGE) == root
    started = time.monotonic()
    total = sum(len(data) for _, data in tables.virtual.read_present(KERNEL, 64 << 20))
    assert total == 64 << 20
    with pytest.raises(MemoryReadError):
        tables.virtual.read(KERNEL, 2 << 30)
    assert time.monotonic() - started < 5


def test_an_absurd_range_over_nothing_is_quick(tables):
    tables.memory.fill(0x555)
    tables.set_pte(KERNEL + (2 << 30), 0x555063)
    tables.set_pdpte(KERNEL + (5 << 30), 0xE3 | 0x100_00000000)  # a 1 GiB page that is not in memory
    started = time.monotonic()
    found = [address for address, _ in tables.virtual.read_present(KERNEL, 4 << 30)]
    assert found == [KERNEL + (2 << 30)]
    assert list(tables.virtual.read_present(0xFFFF8000_00000000, 1 << 46)) == []
    with pytest.raises(MemoryReadError):
        tables.virtual.read(KERNEL, 1 << 40)
    assert time.monotonic() - started < 1


def test_contiguous_pages_are_read_at_once(tables):
    for i in range(512):
        tables.memory.fill(0x5000 + i)
        tables.set_pte(KERNEL + i * PAGE, (0x5000 + i) << 12 | 0x63)
    mappings = list(X64AddressSpace(tables.memory, 0x1AD000).iter_mappings(KERNEL + 8, 512 * PAGE))
    assert mappings == [(KERNEL + 8, 0x5000008, 512 * PAGE - 8)]


def test_demand_zero_pages_are_joined_only_with_their_like(tables):
    tables.set_pte(KERNEL, 0x80)
    tables.set_pte(KERNEL + PAGE, 0x80)
    tables.set_pte(KERNEL + 2 * PAGE, 0x0063)  # physical page 0
    space = X64AddressSpace(tables.memory, 0x1AD000)
    assert list(space.iter_mappings(KERNEL, 3 * PAGE)) == [
        (KERNEL, DEMAND_ZERO, 2 * PAGE),
        (KERNEL + 2 * PAGE, 0, PAGE),
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["valid", "transition", "zero", "paged", "none", "missing"]), min_size=1, max_size=40),
    st.integers(0, 5 * PAGE),
    st.integers(1, 45 * PAGE),
)
def test_read_present_and_read_agree_with_the_pages(kinds, start, size):
    tables = Tables()
    base = KERNEL + (2 << 20) - 8 * PAGE  # the pages straddle two page tables
    truth = {}
    for i, kind in enumerate(kinds):
        frame = 0x9000 + (i * 7919) % 1000
        address = base + i * PAGE
        if kind == "valid":
            tables.set_pte(address, frame << 12 | 0x63)
            truth[address] = tables.memory.fill(frame, seed=i)
        elif kind == "transition":
            tables.set_pte(address, frame << 12 | 0x880)
            truth[address] = tables.memory.fill(frame, seed=i)
        elif kind == "zero":
            tables.set_pte(address, 0x80)
            truth[address] = bytes(PAGE)
        elif kind == "paged":
            tables.set_pte(address, 0x1234_00000080)
        elif kind == "missing":
            tables.set_pte(address, 0x99999063)
    found = {}
    reached = 0
    for address, data in tables.virtual.read_present(base + start, size):
        assert data
        assert address >= reached
        reached = address + len(data)
        found.update({address + i: byte for i, byte in enumerate(data)})
    expected = {}
    for address, page in truth.items():
        for at in range(max(address, base + start), min(address + PAGE, base + start + size)):
            expected[at] = page[at - address]
    assert found == expected
    if len(expected) == size:
        assert tables.virtual.read(base + start, size) == bytes(expected[base + start + i] for i in range(size))
    else:
        with pytest.raises(MemoryReadError):
            tables.virtual.read(base + start, size)
