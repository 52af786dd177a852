"""Address translation over page tables written by hand: what holds for every kind of processor."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.errors import MemoryReadError
from pykdext.targets.paging.addressspace import DEMAND_ZERO
from tests.helpers.pagetables import KINDS, PAGE, Tables
from tests.helpers.patience import ends_soon

DEMAND_ZERO_ENTRY = 0x80
LARGE_PAGES = [(name, shift) for name, kind in KINDS.items() for shift in kind.large]


@pytest.fixture(params=list(KINDS))
def tables(request):
    return Tables(KINDS[request.param])


def test_small_pages(tables):
    kernel = tables.kind.kernel
    page = tables.memory.fill(0x55555)
    tables.map_page(kernel + 0x7000, 0x55555)
    assert tables.virtual.read(kernel + 0x7000, PAGE) == page
    assert tables.virtual.read(kernel + 0x7FFB, 5) == page[-5:]
    for address, size in ((kernel + 0x6FFF, 1), (kernel + 0x8000, 1), (kernel + 0x7FFF, 2), (kernel + 0x6FFF, 2)):
        with pytest.raises(MemoryReadError) as caught:
            tables.virtual.read(address, size)
        assert (caught.value.address, caught.value.size) == (address, size)


@pytest.mark.parametrize(("name", "shift"), LARGE_PAGES)
def test_large_pages(name, shift):
    tables = Tables(KINDS[name])
    size = 1 << shift
    start = (tables.kind.kernel | (1 << 30)) & -size
    tables.map_large(start, 0x40000, shift)
    first, last = tables.memory.fill(0x40000), tables.memory.fill(0x40000 + size // PAGE - 1)
    assert tables.virtual.read(start + 0x10, 0x20) == first[0x10:0x30]
    assert tables.virtual.read(start + size - PAGE, PAGE) == last
    assert tables.virtual.read(start + size - 5, 5) == last[-5:]
    assert [a for a, _ in tables.virtual.read_present(start, size)] == [start, start + size - PAGE]
    assert list(tables.space.iter_mappings(start + 8, size - 8)) == [(start + 8, 0x40000008, size - 8)]
    for address in (start - 1, start + size):
        assert tables.space.translate(address) is None


def test_the_last_page_of_all(tables):
    top = (1 << (64 if tables.kind.kernel >> 32 else 32)) - PAGE
    page = tables.memory.fill(0x777)
    tables.map_page(top, 0x777)
    assert tables.virtual.read(top, PAGE) == page
    assert list(tables.virtual.read_present(top + 5, PAGE - 5)) == [(top + 5, page[5:])]
    with pytest.raises(MemoryReadError):
        tables.virtual.read(top + PAGE - 8, 16)


def test_transition_pages_still_hold_their_data(tables):
    page = tables.memory.fill(0x888)
    tables.set_pte(tables.kind.kernel, 0x888 << 12 | 0x800 | 0x80)
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


def test_a_transition_entry_above_the_page_tables_is_no_large_page(tables):
    tables.memory.fill(0x888)
    for shift, _ in tables.kind.levels[:-1]:
        tables.put_entry(tables.entry_address(tables.kind.kernel, shift), 0x888 << 12 | 0x880)
        assert tables.new_space().translate(tables.kind.kernel) is None
        tables.put_entry(tables.entry_address(tables.kind.kernel, shift), 0)


@pytest.mark.parametrize("state", ["valid", "transition", "demand-zero"])
def test_prototype_entries_are_decoded_once(tables, state):
    page = bytes(PAGE) if state == "demand-zero" else tables.memory.fill(0x999)
    shared = {"valid": 0x999000 | tables.kind.page, "transition": 0x999880, "demand-zero": DEMAND_ZERO_ENTRY}[state]
    tables.store_prototype(shared)
    tables.set_pte(tables.kind.kernel, tables.prototype_entry())
    assert tables.virtual.read(tables.kind.kernel + 5, 9) == page[5:14]


def test_a_prototype_entry_in_a_large_page(tables):
    page = tables.memory.fill(0x999)
    shift = min(tables.kind.large)
    prototype = tables.kind.prototype
    number = 0x40000 + (prototype % (1 << shift)) // PAGE
    tables.map_large(prototype & -(1 << shift), 0x40000, shift)
    tables.put_entry(number * PAGE + prototype % PAGE, 0x999000 | tables.kind.page)
    tables.set_pte(tables.kind.kernel, tables.prototype_entry())
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


@pytest.mark.parametrize("shared", ["zero", "again", "again-in-transition", "nothing-but-again", "paged-out", "absent"])
def test_prototype_entries_that_lead_nowhere(tables, shared):
    if shared == "absent":
        tables.map_page(tables.kind.prototype, 0x321)
    else:
        entries = {
            "zero": 0,
            "again": tables.prototype_entry(),
            "again-in-transition": 0x999C80,
            "nothing-but-again": 0x480,
            "paged-out": tables.kind.paged_out,
        }
        tables.store_prototype(entries[shared])
    tables.set_pte(tables.kind.kernel, tables.prototype_entry())
    with pytest.raises(MemoryReadError):
        tables.virtual.read(tables.kind.kernel, 1)


def test_a_prototype_entry_on_a_page_of_zeros(tables):
    tables.set_pte(tables.kind.prototype, DEMAND_ZERO_ENTRY)
    tables.set_pte(tables.kind.kernel, tables.prototype_entry())
    for number in (-1, 0):  # what the page's physical address would be, taken for a number
        tables.memory.fill(number, seed=0x999063)
    assert tables.space.translate(tables.kind.kernel) is None


def test_a_prototype_entry_that_holds_itself(tables):
    tables.set_pte(tables.kind.prototype, tables.prototype_entry())
    assert tables.space.translate(tables.kind.prototype) is None


def test_demand_zero_and_paged_out(tables):
    kernel = tables.kind.kernel
    tables.set_pte(kernel, DEMAND_ZERO_ENTRY)
    tables.set_pte(kernel + PAGE, tables.kind.paged_out)
    assert tables.virtual.read(kernel, PAGE) == bytes(PAGE)
    with pytest.raises(MemoryReadError):
        tables.virtual.read(kernel, PAGE + 1)
    assert list(tables.virtual.read_present(kernel, 2 * PAGE)) == [(kernel, bytes(PAGE))]


def test_translation_is_not_presence(tables):
    kernel = tables.kind.kernel
    tables.map_page(kernel, 0x555)
    assert tables.space.translate(kernel + 0x123) == 0x555123
    with pytest.raises(MemoryReadError):
        tables.virtual.read(kernel + 0x123, 1)
    assert list(tables.virtual.read_present(kernel, PAGE)) == []


def test_addresses_that_cannot_be(tables):
    entries = 4 if tables.kind is KINDS["pae"] else PAGE // (4 if tables.kind.entry == "<I" else 8)
    for index in range(entries):
        tables.put_entry(tables.kind.root + index * (PAGE // entries if entries > 4 else 8), 0x1AD000 | 0x3)
    wide = tables.kind.kernel >> 32
    addresses = [(-1, 1), (-PAGE, 2 * PAGE), (tables.kind.kernel, -5), (tables.kind.kernel, 1 << 63)]
    if wide:
        addresses += [(0x00008000_00000000, 1), (0xFFFF7FFF_FFFFFFFF, 1), (0x00007FFF_FFFFFFFF, 2)]
        addresses += [(0xFFFFFFFF_FFFFFFFF, 2), (1 << 64, 1)]
    else:
        addresses += [(1 << 32, 1), (0xFFFFFFFF, 2), (0xFFFFFFFF_81000000, 1)]
    for address, size in addresses:
        with pytest.raises(MemoryReadError):
            tables.virtual.read(address, size)
        if size < 1 << 40:
            assert list(tables.virtual.read_present(address, size)) == []


def test_no_bytes_need_no_memory(tables):
    assert tables.virtual.read(tables.kind.kernel, 0) == b""
    assert list(tables.virtual.read_present(tables.kind.kernel, 0)) == []


def test_a_missing_root(tables):
    assert tables.space.has_root
    lost = tables.new_space(0x7777000)
    assert not lost.has_root
    assert lost.translate(tables.kind.kernel) is None
    assert list(lost.iter_mappings(tables.kind.kernel, 1 << 24)) == []


def test_tables_that_are_not_in_the_dump(tables):
    for shift, _ in tables.kind.levels[:-1]:
        tables.put_entry(tables.entry_address(tables.kind.kernel, shift), 0x66666000 | tables.kind.table)
        space = tables.new_space()
        assert space.translate(tables.kind.kernel) is None
        assert list(space.iter_mappings(tables.kind.kernel, 1 << 24)) == []
        tables.put_entry(tables.entry_address(tables.kind.kernel, shift), 0)


@ends_soon
def test_self_referencing_tables_do_not_hang(tables):
    """Every entry of the root leads to the root again: each address means the root's own page."""
    root = tables.kind.root & -PAGE
    size = 4 if tables.kind.entry == "<I" else 8
    for at in range(root, root + PAGE, size):
        tables.put_entry(at, root | 0x3)
    page = bytes(tables.memory.pages[root // PAGE])
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page
    assert sum(len(data) for _, data in tables.virtual.read_present(tables.kind.kernel, 64 << 20)) == 64 << 20
    with pytest.raises(MemoryReadError):
        tables.virtual.read(tables.kind.kernel, 2 << 30)


def test_contiguous_pages_are_read_at_once(tables):
    kernel = tables.kind.kernel
    for i in range(512):
        tables.memory.fill(0x5000 + i)
        tables.map_page(kernel + i * PAGE, 0x5000 + i)
    assert list(tables.space.iter_mappings(kernel + 8, 512 * PAGE)) == [(kernel + 8, 0x5000008, 512 * PAGE - 8)]


def test_demand_zero_pages_are_joined_only_with_their_like(tables):
    kernel = tables.kind.kernel
    tables.set_pte(kernel, DEMAND_ZERO_ENTRY)
    tables.set_pte(kernel + PAGE, DEMAND_ZERO_ENTRY)
    tables.map_page(kernel + 2 * PAGE, 0)
    assert list(tables.space.iter_mappings(kernel, 3 * PAGE)) == [
        (kernel, DEMAND_ZERO, 2 * PAGE),
        (kernel + 2 * PAGE, 0, PAGE),
    ]


STATES = ["valid", "transition", "prototype", "zero", "paged", "none", "missing"]


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.sampled_from(STATES), min_size=1, max_size=40),
    st.integers(0, 5 * PAGE),
    st.integers(1, 45 * PAGE),
)
def test_read_present_and_read_agree_with_the_pages(name, states, start, size):
    tables = Tables(KINDS[name])
    base = tables.kind.kernel + (4 << 20) - 8 * PAGE  # the pages straddle two page tables
    truth = {}
    for i, state in enumerate(states):
        frame = 0x9000 + (i * 7919) % 1000
        address = base + i * PAGE
        if state in ("valid", "transition", "prototype"):
            truth[address] = tables.memory.fill(frame, seed=i)
        if state == "valid":
            tables.map_page(address, frame)
        elif state == "transition":
            tables.set_pte(address, frame << 12 | 0x880)
        elif state == "prototype":
            prototype = (tables.kind.prototype & -PAGE) + 8 * i
            tables.put_entry(0x321 * PAGE + 8 * i, frame << 12 | tables.kind.page)
            tables.map_page(prototype, 0x321)
            tables.set_pte(address, tables.prototype_entry(prototype))
        elif state == "zero":
            tables.set_pte(address, DEMAND_ZERO_ENTRY)
            truth[address] = bytes(PAGE)
        elif state == "paged":
            tables.set_pte(address, tables.kind.paged_out)
        elif state == "missing":
            tables.map_page(address, 0x99999)
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


@settings(max_examples=150)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_tables_give_pages_or_nothing(name, data):
    """Tables of random entries: each answer is a whole page of memory, zeros, or an error."""
    tables = Tables(KINDS[name])
    pages = [tables.kind.root // PAGE, 0x200, 0x201, 0x202]
    for number in pages:
        tables.memory.pages.setdefault(number, bytearray(PAGE))
    size = 4 if tables.kind.entry == "<I" else 8
    limit = (1 << size * 8) - 1
    near = st.builds(lambda page, flags: page << 12 | flags, st.sampled_from(pages), st.integers(0, 0xFFF))
    entries = st.one_of(near, near, near, st.integers(0, limit))
    address = tables.kind.kernel & -(1 << tables.kind.levels[0][0])
    for number in pages:
        for slot in range(4):
            shifted = (address >> tables.kind.levels[0][0]) + slot if number == pages[0] else slot
            bits = tables.kind.levels[0][1] if number == pages[0] else 9
            table = tables.kind.root if number == pages[0] else number * PAGE
            tables.put_entry(table + (shifted & ((1 << bits) - 1)) * size, data.draw(entries))
    for offset in data.draw(st.lists(st.integers(0, 4 * PAGE - 1), min_size=1, max_size=5)):
        physical = tables.space.translate(address + offset)
        mapped = list(tables.space.iter_mappings(address + offset, 1))
        assert mapped == ([] if physical is None else [(address + offset, physical, 1)])
        if physical is not None and physical != DEMAND_ZERO:
            assert physical % PAGE == (address + offset) % PAGE
    total = 0
    for start, part in tables.virtual.read_present(address, 8 * PAGE):
        assert tables.virtual.read(start, len(part)) == part
        total += len(part)
    assert total <= 8 * PAGE
