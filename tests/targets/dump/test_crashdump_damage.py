"""Damaged kernels and damaged files: what can be read is read, what is wrong is said, nothing hangs."""

from __future__ import annotations

import functools
import random
import struct

import pytest

from dumps.forge import forge
from pykdext.errors import DumpFormatError, PykdextError, SymbolNotFoundError
from pykdext.targets.dump.crashdump import open_crashdump
from tests.helpers.forgedumps import DumpFolder, loaded_names, loader_entry, memory_kinds, names, set_string
from tests.helpers.pagetables import PAGE
from tests.helpers.patience import ends_soon


@pytest.fixture
def open_machine(tmp_path):
    folder = DumpFolder(tmp_path)
    yield folder.open
    folder.close()


@pytest.fixture
def machine():
    return forge("pipo", build=19041, processors=2, seed=5)


@pytest.mark.parametrize("stray", ["self", "earlier", "nowhere", "zeros", "garbage"])
def test_a_broken_module_list_is_read_from_its_end(open_machine, machine, stray):
    at = loader_entry(machine, "tcpip.sys")
    target = {
        "self": at,
        "earlier": loader_entry(machine, "hal.dll"),
        "nowhere": 0xFFFF900000000000,
        "zeros": 0,
        "garbage": machine.addresses["nt"] + 0x10,
    }[stray]
    machine.write_virtual(at, struct.pack("<Q", target))
    dump = open_machine(machine)
    assert names(dump) == loaded_names(machine)
    assert any("broken" in warning and "missing" not in warning for warning in dump.facts.warnings)


def test_a_stray_pointer_to_a_good_looking_entry_leads_to_no_module(open_machine, machine):
    room = machine.addresses["module:tcpip.sys"] + 0x800
    fake = bytearray(machine.read_virtual(loader_entry(machine, "hal.dll"), 0xA0))
    struct.pack_into("<Q", fake, 0x30, 0xFFFFF80111110000)
    machine.write_virtual(room, bytes(fake))
    machine.write_virtual(loader_entry(machine, "Ntfs.sys"), struct.pack("<Q", room))
    dump = open_machine(machine)
    assert names(dump) == loaded_names(machine)
    assert all(module.base != 0xFFFFF80111110000 for module in dump.modules())


def test_a_list_broken_twice_loses_only_the_middle(open_machine, machine):
    expected = loaded_names(machine)
    first, last = expected[5], expected[9]
    machine.write_virtual(loader_entry(machine, first), struct.pack("<Q", 0))
    machine.write_virtual(loader_entry(machine, last) + 8, struct.pack("<Q", 0))
    dump = open_machine(machine)
    assert names(dump) == expected[:6] + expected[9:]
    assert any("may be missing" in warning for warning in dump.facts.warnings)


def test_a_module_list_that_never_comes_home(open_machine, machine):
    """A cycle that leaves the head out, with all back links right: only the visited set can end it."""
    expected = loaded_names(machine)
    one, other = loader_entry(machine, expected[3]), loader_entry(machine, expected[-1])
    machine.write_virtual(other, struct.pack("<Q", one))
    machine.write_virtual(machine.addresses["PsLoadedModuleList"] + 8, struct.pack("<Q", 0))
    dump = open_machine(machine)
    assert names(dump) == expected
    assert any("may be missing" in warning for warning in dump.facts.warnings)


def test_a_module_list_that_is_not_in_the_dump(open_machine, machine):
    machine.omit(machine.addresses["PsLoadedModuleList"], 16)
    dump = open_machine(machine)
    nt = machine.truth.modules[0]
    assert [(m.name, m.base, m.size, m.timestamp) for m in dump.modules() if not m.unloaded] == [nt]
    assert any("list of loaded modules is not in the dump" in warning for warning in dump.facts.warnings)


def test_a_kernel_that_the_list_lost_is_found_by_the_debugger_data(open_machine, machine):
    machine.write_virtual(loader_entry(machine, "ntoskrnl.exe") + 0x30, struct.pack("<Q", 0))
    dump = open_machine(machine)
    assert names(dump) == loaded_names(machine)
    assert any("nt is not in the list" in warning for warning in dump.facts.warnings)


@pytest.mark.parametrize("length", [0, 7, 0xFFFE])
def test_a_damaged_name_is_taken_from_the_path(open_machine, machine, length):
    set_string(machine, loader_entry(machine, "tcpip.sys") + 0x58, length)
    assert names(open_machine(machine)) == loaded_names(machine)


@pytest.mark.parametrize("buffer", [0, 0xFFFF900000000000, 0x1234567890ABCDEF])
def test_a_module_without_any_name(open_machine, machine, buffer):
    for offset in (0x48, 0x58):
        set_string(machine, loader_entry(machine, "tcpip.sys") + offset, 20, buffer)
    dump = open_machine(machine)
    base = machine.addresses["module:tcpip.sys"]
    module = next(module for module in dump.modules() if module.base == base)
    assert (module.name, module.path) == (f"module_{base:x}", "")
    assert any("names are not in the dump: 1" in warning for warning in dump.facts.warnings)


def test_a_name_of_control_characters_is_not_shown(open_machine, machine):
    text = "\x1b[31mred".encode("utf-16-le")
    room = machine.addresses["module:tcpip.sys"] + 0x800
    machine.write_virtual(room, text)
    for offset in (0x48, 0x58):
        set_string(machine, loader_entry(machine, "tcpip.sys") + offset, len(text), room)
    assert not any("\x1b" in name for name in names(open_machine(machine)))


def test_an_absurd_image_size_is_replaced_by_the_image_s_own(open_machine, machine):
    truth = next(module for module in machine.truth.modules if module[0] == "tcpip.sys")
    machine.write_virtual(loader_entry(machine, "tcpip.sys") + 0x40, struct.pack("<I", 0xFFFFFFFF))
    module = next(m for m in open_machine(machine).modules() if m.name == "tcpip.sys")
    assert (module.base, module.size) == truth[1:3]


def test_entries_without_an_image_are_counted(open_machine, machine):
    for name, base in (("tcpip.sys", 0), ("Ntfs.sys", 0x4141414141414141)):
        machine.write_virtual(loader_entry(machine, name) + 0x30, struct.pack("<Q", base))
    dump = open_machine(machine)
    assert len(names(dump)) == len(machine.truth.modules) - 2
    assert any("loaded modules: 2" in warning for warning in dump.facts.warnings)


def test_an_image_without_its_header_keeps_what_the_list_says(open_machine, machine):
    machine.omit(machine.addresses["module:tcpip.sys"], PAGE)
    truth = next(module for module in machine.truth.modules if module[0] == "tcpip.sys")
    module = next(m for m in open_machine(machine).modules() if m.name == "tcpip.sys")
    assert (module.name, module.base, module.size, module.timestamp) == truth


def test_damaged_unloaded_drivers(open_machine, machine):
    first = machine.addresses["unloaded"]
    machine.write_virtual(first + 0x18, struct.pack("<Q", 1))
    dump = open_machine(machine)
    assert len(names(dump, unloaded=True)) == len(machine.truth.unloaded) - 1
    assert any("unloaded drivers: 1" in warning for warning in dump.facts.warnings)
    machine.omit(first, PAGE)
    dump = open_machine(machine)
    assert names(dump, unloaded=True) == []
    assert any("unloaded drivers is not in the dump" in warning for warning in dump.facts.warnings)


@pytest.mark.parametrize("damage", ["encoded", "absent", "size", "nowhere", "unset"])
def test_without_debugger_data_the_header_still_finds_the_modules(open_machine, machine, damage):
    address = machine.addresses["KDBG"]
    if damage == "encoded":
        machine.write_virtual(address + 0x10, b"\x8a\x11\x22\x33")
    elif damage == "absent":
        machine.header.debugger_data_block = 0xFFFFF80000000000
    elif damage == "size":
        machine.write_virtual(address + 0x14, struct.pack("<I", 0xFFFFFFFF))
    elif damage == "nowhere":
        machine.header.debugger_data_block = 0x1234567890ABCDEF
    else:
        machine.header.debugger_data_block = 0x4547415045474150
    dump = open_machine(machine)
    assert "debugger data" in dump.facts.warnings[0]
    assert dump.kernel_base is None
    assert names(dump) == loaded_names(machine)
    with pytest.raises(SymbolNotFoundError):
        dump.symbol("PoolTrackTable")


def test_header_fields_that_were_never_set_are_absent(open_machine, machine):
    def blank(data):
        for offset, size in ((0xC, 4), (0x34, 4), (0x38, 4), (0xFA8, 8), (0x1030, 8), (0x20, 8)):
            data[offset : offset + size] = b"PAGEPAGE"[:size]

    dump = open_machine(machine, edit=blank)
    facts = dump.facts
    assert (facts.build, facts.processors, facts.bugcheck, facts.taken_at, facts.uptime_seconds) == (None,) * 5
    assert names(dump) == loaded_names(machine)


def test_absurd_header_facts_are_absent(open_machine, machine):
    def overdo(data):
        struct.pack_into("<I", data, 0x34, 0x7FFFFFFF)
        struct.pack_into("<Q", data, 0xFA8, (1 << 64) - 1)
        struct.pack_into("<Q", data, 0x1030, (1 << 64) - 1)

    facts = open_machine(machine, edit=overdo).facts
    assert (facts.processors, facts.taken_at, facts.uptime_seconds) == (None, None, None)


def test_a_root_that_is_not_in_the_dump(open_machine, machine):
    machine.header.directory_table_base = 0x7_0000_0000
    dump = open_machine(machine)
    assert "page tables" in dump.facts.warnings[0]
    assert dump.modules() == ()
    assert dump.facts.bugcheck is not None


def test_a_zero_root_is_refused(open_machine, machine):
    machine.header.directory_table_base = 0
    with pytest.raises(DumpFormatError):
        open_machine(machine)


@ends_soon
def test_a_cyclic_page_table_ends(open_machine, machine):
    root = machine.space.root_pfn
    machine.memory.pages[root][:] = struct.pack("<Q", root << 12 | 0x63) * 512
    dump = open_machine(machine)
    assert dump.modules() == ()
    assert dump.facts.warnings


BUILDS = {"x64": 19041, "x86": 7601, "x86pae": 7601, "arm64": 19041}


@functools.cache
def forged(arch):
    return forge("pipo", build=BUILDS[arch], seed=5, arch=arch)


ARCH_KINDS = [(arch, kind) for arch in BUILDS for kind in memory_kinds(arch)]


@pytest.mark.parametrize(("arch", "kind"), ARCH_KINDS)
def test_truncation_anywhere(tmp_path, arch, kind):
    path = tmp_path / "memory.dmp"
    forged(arch).save(path, kind=kind)
    whole = path.read_bytes()
    opened = 0
    for size in sorted({*range(0, len(whole), len(whole) // 12), 0x1000, 0x1038, 0x2000, 0x2038, len(whole) - 1}):
        path.write_bytes(whole[:size])
        try:
            with open_crashdump(str(path)) as dump:
                opened += 1
                assert dump.facts.pages_present < dump.facts.pages_expected
                assert any("truncated" in warning for warning in dump.facts.warnings)
                for module in dump.modules():
                    if module.unloaded or module.name == "ntoskrnl.exe":
                        continue  # nt's large pages have frames that the machine itself never wrote
                    for address, data in dump.read_present(module.base, module.size):
                        assert data == forged(arch).read_virtual(address, len(data))
        except DumpFormatError:
            continue
    assert opened > 5


@pytest.mark.parametrize(("arch", "kind"), ARCH_KINDS)
@ends_soon
def test_random_damage_never_crashes_and_never_hangs(tmp_path, arch, kind):
    chance = random.Random(77)
    path = tmp_path / "memory.dmp"
    forged(arch).save(path, kind=kind)
    whole = path.read_bytes()
    for _ in range(15):
        message = ""
        data = bytearray(whole)
        for _ in range(chance.choice((1, 5, 200, 5000))):
            at = chance.randrange(len(data)) & ~7
            data[at : at + 8] = struct.pack("<Q", chance.choice((0, 1, chance.getrandbits(64), (1 << 64) - 1)))
        path.write_bytes(data)
        try:
            with open_crashdump(str(path)) as dump:
                for module in dump.modules():
                    sum(len(part) for _, part in dump.read_present(module.base, min(module.size, 1 << 24)))
                assert dump.facts.kind
        except PykdextError as error:
            message = str(error)
        assert "\n" not in message
