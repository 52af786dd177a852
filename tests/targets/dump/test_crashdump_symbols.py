"""What a dump can only tell once its page tables' form or its symbols are known: five levels, guards, encoded data."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import forge
from pykdext.errors import MemoryReadError, SymbolNotFoundError
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.targets.protocol import SymbolTaker
from tests.helpers.forgedumps import DumpFolder, loaded_names, loader_entry, names, read_entry, set_string, write_entry
from tests.helpers.pagetables import PAGE


@pytest.fixture
def open_machine(tmp_path):
    folder = DumpFolder(tmp_path)
    yield folder.open
    folder.close()


@pytest.fixture
def machine():
    return forge("pipo", build=19041, processors=2, seed=5)


def hang_below_a_fifth_level(machine, slot):
    """The machine's tables, reached through one entry of a fifth level."""
    top = machine.space.frames.take()
    machine.memory.page(top)
    struct.pack_into("<Q", machine.memory.pages[top], slot * 8, machine.space.root_pfn << 12 | 0x63)
    machine.header.directory_table_base = top << 12
    return top


def test_five_levels_of_tables_are_read(open_machine, machine):
    intact = open_machine(machine)
    expected, tables = names(intact), read_pool_snapshot(open_kernel(intact)).tags
    hang_below_a_fifth_level(machine, 511)
    dump = open_machine(machine)
    assert names(dump) == expected == loaded_names(machine)
    assert not dump.facts.warnings
    snapshot = read_pool_snapshot(open_kernel(dump))
    assert snapshot.tags == tables and snapshot.coverage.is_complete


def test_memory_that_only_five_levels_reach_is_read(open_machine, machine):
    """The same tables hang below another entry of the top, too: all is there twice, at addresses of 57 bits."""
    top = hang_below_a_fifth_level(machine, 511)
    struct.pack_into("<Q", machine.memory.pages[top], 300 * 8, machine.space.root_pfn << 12 | 0x63)
    dump = open_machine(machine)
    address = machine.addresses["PsLoadedModuleList"]
    low = 0xFE00 << 48 | 300 << 48 | address & (1 << 48) - 1
    assert low < 0xFFFF << 48
    assert dump.read_virtual(low, 16) == dump.read_virtual(address, 16)


def test_an_address_of_57_bits_alone_makes_no_fifth_level(open_machine, machine):
    """A damaged header: the debugger data says where the list is."""
    machine.header.loaded_module_list = 0xFF11_2233_4455_6000
    assert names(open_machine(machine)) == loaded_names(machine)


def test_a_table_that_is_not_there_is_not_taken_for_a_fifth_level(open_machine, machine):
    top = machine.space.frames.take()
    machine.memory.page(top)
    struct.pack_into("<Q", machine.memory.pages[top], 511 * 8, machine.space.root_pfn << 12 | 0x62)
    machine.header.directory_table_base = top << 12
    assert open_machine(machine).modules() == ()


def test_a_root_that_maps_itself_in_its_last_entry_is_no_fifth_level(open_machine, machine):
    root = machine.space.root_pfn
    struct.pack_into("<Q", machine.memory.pages[root], 511 * 8, root << 12 | 0x63)
    assert names(open_machine(machine)) == loaded_names(machine)


@pytest.mark.parametrize("target", ["itself", "nowhere", "list"])
def test_a_damaged_table_is_not_taken_for_five_levels(open_machine, machine, target):
    root = machine.space.root_pfn
    machine.write_virtual(machine.addresses["PsLoadedModuleList"], struct.pack("<Q", 0))
    frame = {"itself": root, "nowhere": 0x7FFFFFF, "list": machine.space.frame_of(machine.addresses["KDBG"])}[target]
    struct.pack_into("<Q", machine.memory.pages[root], 511 * 8, frame << 12 | 0x63)
    assert names(open_machine(machine))[0] == "ntoskrnl.exe"


def encoded(data, never, always, flag_address):
    """A debugger data block as it is while the machine runs."""
    turn, out = never & 63, b""
    for (word,) in struct.iter_unpack("<Q", data):
        mixed = struct.unpack(">Q", struct.pack("<Q", word ^ always))[0] ^ (flag_address | 0xFFFF << 48)
        out += struct.pack("<Q", ((mixed >> turn | mixed << (64 - turn)) & (1 << 64) - 1) ^ never)
    return out


def test_encoded_debugger_data_waits_for_its_keys(open_machine, machine):
    plain = open_machine(machine)
    never, always = 0x1F2E3D4C5B6A7988, 0x0123456789ABCDEF
    room = machine.addresses["module:tcpip.sys"] + 0x800
    flag, never_at, always_at = room, room + 8, room + 16
    machine.write_virtual(room, struct.pack("<QQQ", 1, never, always))
    block = machine.read_virtual(machine.addresses["KDBG"], 0x380)
    machine.write_virtual(machine.addresses["KDBG"], encoded(block, never, always, flag))
    dump = open_machine(machine)
    assert isinstance(dump, SymbolTaker)
    assert dump.kernel_base is None
    assert names(dump) == loaded_names(machine)
    assert names(dump, unloaded=True) == []
    warnings = dump.facts.warnings
    assert "encoded" in warnings[0]
    assert not dump.decode_debugger_data(flag + 1, never_at, always_at)
    assert not dump.decode_debugger_data(flag, always_at, never_at)
    assert not dump.decode_debugger_data(flag, 0xFFFF900000000000, always_at)
    assert dump.facts.warnings == warnings
    assert dump.decode_debugger_data(flag, never_at, always_at)
    assert dump.modules() == plain.modules()
    assert (dump.kernel_base, dump.facts.warnings) == (plain.kernel_base, ())
    assert dump.symbol("PoolTrackTable") == machine.addresses["PoolTrackTable"]
    assert not dump.decode_debugger_data(flag, never_at, always_at)


@pytest.mark.parametrize("build", [9600, 14393, 17763, 19041, 20348, 22000])
def test_an_encoded_machine_reads_like_a_plain_one_once_its_symbols_are_known(open_machine, build):
    machine = forge("pipo", build=build, seed=5, encoded_kdbg=True)
    plain = open_machine(forge("pipo", build=build, seed=5))
    dump = open_machine(machine)
    assert "encoded" in dump.facts.warnings[0]
    assert names(dump) == loaded_names(machine)
    with pytest.raises(SymbolNotFoundError):
        dump.symbol("PoolTrackTable")
    open_kernel(dump)
    assert dump.facts.warnings == ()
    assert dump.modules() == plain.modules()
    for name in ("PoolTrackTable", "MmUnloadedDrivers", "KiProcessorBlock"):
        assert dump.symbol(name) == plain.symbol(name)


@pytest.mark.parametrize("build", [7601, 9600, 14393, 17763, 19041, 20348, 22000])
@pytest.mark.parametrize("with_symbols", [False, True])
def test_a_machine_that_guards_all_its_entries(open_machine, build, with_symbols):
    machine = forge("quiet", build=build, seed=3, swizzle=True)
    dump = open_machine(machine)
    if with_symbols:
        open_kernel(dump)
    for state in ("prototype", "transition", "prototype-transition", "swizzled"):
        address = machine.addresses[f"page:{state}"]
        assert dump.read_virtual(address, PAGE) == machine.read_virtual(address, PAGE)
    assert dump.read_virtual(machine.addresses["page:demand-zero"], PAGE) == bytes(PAGE)
    with pytest.raises(MemoryReadError):
        dump.read_virtual(machine.addresses["page:pagefile"], 1)


def test_the_mask_of_the_guarded_entries(open_machine, machine):
    """A shared page whose entry has a bit of the mask that pages in transition do not show."""
    address = machine.addresses["page:prototype"]
    entry = read_entry(machine, "x64", address)
    assert entry & 0x410 == 0x410
    assert not entry & (1 << 45 | 1 << 43)
    text = "shared.sys".encode("utf-16-le")
    machine.write_virtual(address, text)
    set_string(machine, loader_entry(machine, "tcpip.sys") + 0x58, len(text), address)
    expected = machine.read_virtual(address, PAGE)
    write_entry(machine, "x64", address, entry & ~0x10 | 1 << 45 | 1 << 43)
    dump = open_machine(machine)
    with pytest.raises(MemoryReadError):
        dump.read_virtual(address, PAGE)
    assert "shared.sys" not in names(dump)
    dump.set_invalid_pte_mask(1 << 45 | 1 << 43)
    assert dump.read_virtual(address, PAGE) == expected
    assert "shared.sys" in names(dump)


def test_old_kernels_do_not_guard_their_entries(open_machine, machine):
    """What may be masked in a newer kernel is plain in Windows Server 2003."""
    address = machine.addresses["page:transition"]
    expected = machine.read_virtual(address, PAGE)
    machine.space.turn_into_prototype(address, 0xFFFFA00123456CC8)
    entry = read_entry(machine, "x64", address)
    assert entry & 1 << 45
    write_entry(machine, "x64", address, entry & ~0x10)
    with pytest.raises(MemoryReadError):
        open_machine(machine).read_virtual(address, PAGE)
    old = open_machine(machine, edit=lambda data: struct.pack_into("<I", data, 0xC, 3790))
    assert old.read_virtual(address, PAGE) == expected


def test_whole_addresses_of_shared_entries_need_no_base(open_machine, machine):
    address = machine.addresses["page:prototype"]
    expected = machine.read_virtual(address, PAGE)
    machine.write_virtual(machine.addresses["KDBG"] + 0x120, struct.pack("<Q", machine.addresses["nt"]))
    assert open_machine(machine).read_virtual(address, PAGE) == expected
