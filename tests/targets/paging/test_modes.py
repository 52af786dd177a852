"""What is special in the page tables of one kind of processor, and of one generation of Windows."""

from __future__ import annotations

import struct

import pytest

from pykdext.errors import MemoryReadError
from pykdext.model import Machine
from pykdext.targets.paging.addressspace import DEMAND_ZERO, AddressSpace
from pykdext.targets.paging.modes import ARM64, X64, X86, X86_BEFORE_VISTA, X86_PAE, find_paging_mode
from tests.helpers.pagetables import KINDS, PAGE, PAGED_POOL, Tables
from tests.helpers.patience import ends_soon

BIT_45 = 1 << 45


def tables_of(name):
    return Tables(KINDS[name])


@pytest.mark.parametrize(
    ("machine", "build", "pae", "mode"),
    [
        (Machine.X64, 19041, False, X64),
        (Machine.ARM64, 22000, False, ARM64),
        (Machine.X86, 2600, True, X86_PAE),
        (Machine.X86, 19041, True, X86_PAE),
        (Machine.X86, 2600, False, X86_BEFORE_VISTA),
        (Machine.X86, 3790, False, X86_BEFORE_VISTA),
        (Machine.X86, 6000, False, X86),
        (Machine.X86, 7601, False, X86),
        (Machine.X86, None, False, X86),
    ],
)
def test_the_mode_of_a_kernel(machine, build, pae, mode):
    assert find_paging_mode(machine, build, pae_enabled=pae) is mode


# --- x64 ------------------------------------------------------------------------------------------------------


def test_x64_the_large_bit_means_nothing_in_the_top_table():
    tables = tables_of("x64")
    page = tables.memory.fill(0x777)
    tables.map_page(tables.kind.kernel, 0x777)
    top = tables.entry_address(tables.kind.kernel, 39)
    tables.put_entry(top, tables.get_entry(top) | 0x80)
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


def test_x64_frames_above_four_gigabytes_and_high_bits():
    tables = tables_of("x64")
    page = tables.memory.fill(0xFF_FFFFFFFF)
    tables.set_pte(tables.kind.kernel, 0x7FF << 52 | 0xFF_FFFFFFFF << 12 | 0x63)
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


def test_x64_both_halves_are_mapped_by_one_root():
    tables = tables_of("x64")
    page = tables.memory.fill(0x777)
    tables.map_page(0x7FFF_FFFFF000, 0x777)
    assert tables.virtual.read(0x7FFF_FFFFF000, PAGE) == page


def test_x64_a_prototype_that_asks_for_the_address_descriptors():
    tables = tables_of("x64")
    tables.set_pte(tables.kind.kernel, 0xFFFFFFFF0000 << 16 | 0x400)
    assert tables.space.translate(tables.kind.kernel) is None


@ends_soon
def test_x64_an_absurd_range_over_nothing_ends():
    tables = tables_of("x64")
    kernel = tables.kind.kernel
    tables.memory.fill(0x555)
    tables.map_page(kernel + (2 << 30), 0x555)
    tables.map_large(kernel + (5 << 30), 0x100_00000, 30)  # a 1 GiB page that is not in memory
    found = [address for address, _ in tables.virtual.read_present(kernel, 4 << 30)]
    assert found == [kernel + (2 << 30)]
    assert list(tables.virtual.read_present(0xFFFF8000_00000000, 1 << 46)) == []
    with pytest.raises(MemoryReadError):
        tables.virtual.read(kernel, 1 << 40)


# --- ARM64 ----------------------------------------------------------------------------------------------------


def test_arm64_a_block_entry_maps_nothing_where_no_blocks_are():
    """Bits 1:0 = 01: a block at the two middle levels, reserved in the top table."""
    tables = tables_of("arm64")
    tables.memory.fill(0x777)
    tables.map_page(tables.kind.kernel, 0x777)
    top = tables.entry_address(tables.kind.kernel, 39)
    tables.put_entry(top, tables.get_entry(top) & ~2)
    assert tables.space.translate(tables.kind.kernel) is None


@pytest.mark.parametrize("bits", [0x777081, 0x777781, 0x777881, 0x81, None])
def test_arm64_a_block_entry_in_a_page_table_is_nothing(bits):
    """Neither a page, nor in transition, shared or demand zero: those entries are not valid."""
    tables = tables_of("arm64")
    tables.memory.fill(0x777)
    tables.store_prototype(0x777783)
    entry = tables.prototype_entry() | 1 if bits is None else bits
    tables.set_pte(tables.kind.kernel, entry)
    assert tables.space.translate(tables.kind.kernel) is None
    assert list(tables.space.iter_mappings(tables.kind.kernel, PAGE)) == []


def test_arm64_a_shared_entry_that_is_a_block():
    tables = tables_of("arm64")
    tables.memory.fill(0x777)
    tables.store_prototype(0x777781)
    tables.set_pte(tables.kind.kernel, tables.prototype_entry())
    assert tables.space.translate(tables.kind.kernel) is None


def test_arm64_frames_up_to_bit_49_and_no_further():
    tables = tables_of("arm64")
    page = tables.memory.fill(0x3F_FFFFFFFF)
    tables.set_pte(tables.kind.kernel, 0xFFFC << 48 | 0x3F_FFFFFFFF << 12 | 0x783)
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


def test_arm64_the_user_half_has_another_root():
    tables = tables_of("arm64")
    tables.memory.fill(0x777)
    tables.map_page(0x7FF6_00000000, 0x777)
    assert tables.space.translate(0x7FF6_00000000) is None


# --- x86 with PAE ---------------------------------------------------------------------------------------------


def test_pae_frames_above_four_gigabytes():
    tables = tables_of("pae")
    page = tables.memory.fill(0x3FFFFFF)
    tables.set_pte(tables.kind.kernel, 0x3FFFFFF << 38 | 0x3FFFFFF << 12 | 0x63)
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


def test_pae_the_top_table_needs_only_its_own_page():
    tables = Tables(KINDS["pae"])
    page = tables.memory.fill(0x777)
    moved = 0x1ADFE0
    for index in range(4):
        tables.put_entry(moved + 8 * index, 0)
    tables.map_page(tables.kind.kernel, 0x777)
    top = tables.get_entry(tables.entry_address(tables.kind.kernel, 30))
    tables.put_entry(moved + 8 * (tables.kind.kernel >> 30), top)
    assert tables.new_space(moved | 0x18).has_root
    assert tables.new_space(moved | 0x18).translate(tables.kind.kernel) == 0x777000
    assert page == tables.virtual.read(tables.kind.kernel, PAGE)


# --- x86 without PAE ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        (0x0000_0400, 0x80000000),
        (0x0000_0402, 0x80000004),
        (0x0000_05FE, 0x800003FC),
        (0x0000_0C00, 0x80000400),
        (0xFFFF_FDFE, 0xFFFFFFFC),
        (0x4000_0400, 0xA0000000),
    ],
)
def test_prototype_addresses_of_vista_and_7(entry, address):
    assert X86.prototype_address(entry) == address


@pytest.mark.parametrize(
    ("entry", "offset"),
    [
        (0x0000_0400, 0),
        (0x0000_0402, 4),
        (0x0000_04FE, 0x1FC),
        (0x0000_05FE, 0x1FC),  # bit 8 is ReadOnly
        (0x0000_0C00, 0x200),
        (0xFFFF_FCFE, 0x3FFFFFFC),
    ],
)
def test_prototype_offsets_of_xp_and_2003(entry, offset):
    assert X86_BEFORE_VISTA.prototype_address(entry) == offset


def test_prototypes_of_xp_wait_for_the_start_of_paged_pool():
    tables = tables_of("xp")
    page = tables.memory.fill(0x999)
    tables.store_prototype(0x999063)
    tables.set_pte(tables.kind.kernel, tables.prototype_entry())
    space = AddressSpace(X86_BEFORE_VISTA, tables.memory, tables.kind.directory_table_base)
    assert space.translate(tables.kind.kernel) is None
    space.set_prototype_base(PAGED_POOL)
    assert space.translate(tables.kind.kernel) == 0x999000
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


def test_bit_4_is_no_mark_in_small_entries():
    """There it is the lowest bit but one of a page file's number, or CacheDisable."""
    tables = tables_of("x86")
    tables.set_pte(tables.kind.kernel, 0x80 | 0x10)
    tables.set_pte(tables.kind.kernel + PAGE, 0x888 << 12 | 0x880 | 0x10)
    tables.memory.fill(0x888)
    assert tables.virtual.read(tables.kind.kernel, PAGE) == bytes(PAGE)
    assert tables.space.translate(tables.kind.kernel + PAGE) == 0x888000


# --- the guard against L1TF -----------------------------------------------------------------------------------

GUARDED = ["x64", "pae"]


@pytest.fixture(params=GUARDED)
def tables(request):
    return tables_of(request.param)


@pytest.mark.parametrize("entry", [0x888880 | BIT_45, 0x888890], ids=["masked", "as it is"])
@pytest.mark.parametrize("name", ["x64", "pae", "arm64"])
def test_guarded_transition_entries(name, entry):
    tables = tables_of(name)
    page = tables.memory.fill(0x888)
    tables.set_pte(tables.kind.kernel, entry)
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


def two_prototypes(tables):
    """Two prototype addresses that differ in what bit 45 of the entry is, each with an entry of its own."""
    bit = BIT_45 >> (16 if tables.kind is KINDS["x64"] else 32)
    found = {}
    for address, number in ((tables.kind.prototype & ~bit, 0x321), (tables.kind.prototype | bit, 0x322)):
        tables.memory.fill(0x990 + number % 16)
        tables.put_entry(number * PAGE + address % PAGE, (0x990 + number % 16) << 12 | tables.kind.page)
        tables.map_page(address, number)
        found[address] = (0x990 + number % 16) * PAGE
    return found


def test_a_prototype_address_that_may_be_masked_is_not_guessed(tables):
    (low, low_page), (high, high_page) = two_prototypes(tables).items()
    kernel = tables.kind.kernel
    tables.set_pte(kernel, tables.prototype_entry(high))  # low and masked, or high in a kernel without the guard
    tables.set_pte(kernel + PAGE, tables.prototype_entry(high) | 0x10)
    tables.set_pte(kernel + 2 * PAGE, tables.prototype_entry(low))
    translate = tables.space.translate
    assert [translate(kernel + i * PAGE) for i in range(3)] == [None, high_page, low_page]
    tables.space.set_invalid_pte_mask(BIT_45)
    assert [translate(kernel + i * PAGE) for i in range(3)] == [low_page, high_page, low_page]
    tables.space.set_invalid_pte_mask(0)
    assert [translate(kernel + i * PAGE) for i in range(3)] == [high_page, high_page, low_page]


def test_demand_zero_that_may_be_masked_is_not_guessed(tables):
    kernel = tables.kind.kernel
    tables.set_pte(kernel, BIT_45 | 0x80)  # masked demand zero, or page 2000h of a page file
    tables.set_pte(kernel + PAGE, BIT_45 | 0x90)
    read = tables.virtual.read
    for _ in range(2):
        for address in (kernel, kernel + PAGE):
            with pytest.raises(MemoryReadError):
                read(address, 1)
        tables.space.set_invalid_pte_mask(0)
    tables.space.set_invalid_pte_mask(BIT_45)
    assert read(kernel, PAGE) == bytes(PAGE)
    with pytest.raises(MemoryReadError):
        read(kernel + PAGE, 1)


def test_an_unusual_mask(tables):
    """The mask of a machine with fewer physical address bits."""
    mask = 1 << 35 | BIT_45
    page = tables.memory.fill(0x888)
    tables.set_pte(tables.kind.kernel, 0x888880 | mask)
    with pytest.raises(MemoryReadError):
        tables.virtual.read(tables.kind.kernel, 1)
    tables.space.set_invalid_pte_mask(mask)
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


def test_a_shared_entry_is_guarded_like_any_other(tables):
    page = tables.memory.fill(0x999)
    tables.store_prototype(0x999880 | BIT_45)
    tables.set_pte(tables.kind.kernel, tables.prototype_entry() | 0x10)
    assert tables.virtual.read(tables.kind.kernel, PAGE) == page


MASKED_TRANSITION, PLAIN_TRANSITION = 0x888880 | BIT_45, 0x888880


@pytest.mark.parametrize(
    ("shown", "translated"),
    [
        ([MASKED_TRANSITION], "low"),
        ([PLAIN_TRANSITION], "high"),
        ([0x888880 | BIT_45 | 1 << 47], "low"),
        ([BIT_45 | 0x490], "low"),  # stored as it is because of the bit
        ([0, 0x80, 0x888890, 0x480, 0x490, MASKED_TRANSITION], "low"),
        ([0, 0x80, 0x888890, 0x480, 0x490, 0x888063, BIT_45 | 0x480, BIT_45 | 0xC80, BIT_45 | 0x90], None),
        ([PLAIN_TRANSITION, MASKED_TRANSITION], "high"),
    ],
)
def test_the_mask_is_learnt_from_entries_that_show_it(tables, shown, translated):
    pages = dict(zip((0x321, 0x322), two_prototypes(tables).values()))
    high = tables.kind.prototype | (BIT_45 >> (16 if tables.kind is KINDS["x64"] else 32))
    kernel = tables.kind.kernel
    tables.set_pte(kernel, tables.prototype_entry(high))
    start = kernel + 600 * PAGE  # the range goes on in another page table
    for number, entry in enumerate(shown):
        tables.set_pte(start + number * PAGE, entry)
    assert not tables.space.learn_invalid_pte_mask(kernel, 600 * PAGE)
    assert tables.space.translate(kernel) is None
    assert tables.space.learn_invalid_pte_mask(kernel, 600 * PAGE + len(shown) * PAGE) == (translated is not None)
    expected = {"low": pages[0x321], "high": pages[0x322], None: None}[translated]
    assert tables.space.translate(kernel) == expected


def test_a_mask_of_several_bits_is_learnt_whole(tables):
    tables.set_pte(tables.kind.kernel, MASKED_TRANSITION | 1 << 47)
    tables.set_pte(tables.kind.kernel + PAGE, BIT_45 | 1 << 47 | 0x80)
    assert tables.space.learn_invalid_pte_mask(tables.kind.kernel, PAGE)
    assert tables.virtual.read(tables.kind.kernel + PAGE, PAGE) == bytes(PAGE)


@pytest.mark.parametrize(
    ("shown", "told", "page"),
    [
        (MASKED_TRANSITION, 0, "low"),  # contradicted
        (MASKED_TRANSITION, 1 << 46, "low"),
        (MASKED_TRANSITION, BIT_45 | 1 << 44, "low"),
        (PLAIN_TRANSITION, BIT_45, "high"),
        (PLAIN_TRANSITION, 1 << 44, "high"),
    ],
)
def test_a_told_mask_that_entries_contradict_is_left_out(tables, shown, told, page):
    low, high = two_prototypes(tables).values()
    kernel = tables.kind.kernel
    address = tables.kind.prototype | (BIT_45 >> (16 if tables.kind is KINDS["x64"] else 32))
    tables.set_pte(kernel, shown)
    tables.set_pte(kernel + PAGE, tables.prototype_entry(address))
    tables.set_pte(kernel + 2 * PAGE, 1 << 44 | (shown & BIT_45) | 0x80)  # demand zero, if bit 44 is of the mask
    assert tables.space.learn_invalid_pte_mask(kernel, PAGE)
    tables.space.set_invalid_pte_mask(told)
    assert tables.space.translate(kernel + PAGE) == {"low": low, "high": high}[page]
    assert (tables.space.translate(kernel + 2 * PAGE) == DEMAND_ZERO) == bool(told & 1 << 44)


def test_a_mask_that_was_told_is_not_learnt_anew(tables):
    tables.set_pte(tables.kind.kernel, MASKED_TRANSITION)
    tables.set_pte(tables.kind.kernel + PAGE, BIT_45 | 0x80)
    tables.space.set_invalid_pte_mask(0)
    assert tables.space.learn_invalid_pte_mask(tables.kind.kernel, PAGE)
    assert tables.space.translate(tables.kind.kernel + PAGE) is None


# --- costs ----------------------------------------------------------------------------------------------------


def test_tables_are_read_once():
    tables = tables_of("x64")
    for i in range(64):
        tables.memory.fill(0x5000 + i)
        tables.map_page(tables.kind.kernel + i * PAGE, 0x5000 + i)
    reads = []
    read_physical = tables.memory.read_physical
    tables.memory.read_physical = lambda address, size: reads.append(address) or read_physical(address, size)
    for i in range(64):
        assert struct.unpack("<Q", tables.virtual.read(tables.kind.kernel + i * PAGE, 8))[0] == 0x5000 + i
    assert len(reads) == 4 + 64
