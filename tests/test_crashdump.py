"""Crash dumps from file to modules, on forged machines, damaged ones and real headers."""

from __future__ import annotations

import gzip
import random
import struct
import time
from datetime import datetime, timezone

import pytest

from dumps.forge import BUILDS, SCENARIOS, forge
from pykdext.errors import (
    DumpFormatError,
    MemoryReadError,
    PykdextError,
    SymbolNotFoundError,
    UnsupportedDumpError,
)
from pykdext.model import BugCheck
from pykdext.targets.crashdump import open_crashdump

PAGE = 0x1000
SELF_MAP = 0x1ED
PTE_BASE = 0xFFFFF68000000000


def mapped_pages(machine):
    """Every kernel page that the machine's own tables map, the tables themselves left out."""
    pages = machine.memory.pages

    def entries(table):
        return enumerate(struct.unpack("<512Q", bytes(pages[table])))

    for i4, e4 in entries(machine.space.root_pfn):
        if not e4 & 1 or i4 == SELF_MAP:
            continue
        for i3, e3 in entries(e4 >> 12 & 0xFFFFFFFFFF):
            base = (0xFFFF << 48 if i4 > 255 else 0) | i4 << 39 | i3 << 30
            if e3 & 1 and e3 & 0x80:
                frame = e3 >> 12 & 0xFFFFFC0000
                yield from (base + ((p - frame) << 12) for p in sorted(pages) if frame <= p < frame + (1 << 18))
                continue
            for i2, e2 in entries(e3 >> 12 & 0xFFFFFFFFFF) if e3 & 1 else ():
                if e2 & 1 and e2 & 0x80:
                    frame = e2 >> 12 & 0xFFFFFFFE00
                    start = base | i2 << 21
                    yield from (start + ((p - frame) << 12) for p in sorted(pages) if frame <= p < frame + 512)
                    continue
                for i1, e1 in entries(e2 >> 12 & 0xFFFFFFFFFF) if e2 & 1 else ():
                    if e1:
                        yield base | i2 << 21 | i1 << 12


@pytest.fixture
def open_machine(tmp_path):
    opened = []

    def open_(machine, kind=6, edit=None):
        path = tmp_path / f"{len(opened)}.dmp"
        machine.save(path, kind=kind)
        if edit is not None:
            data = bytearray(path.read_bytes())
            edit(data)
            path.write_bytes(data)
        dump = open_crashdump(str(path))
        opened.append(dump)
        return dump

    yield open_
    for dump in opened:
        dump.close()


def names(dump, *, unloaded=False):
    return [module.name for module in dump.modules() if module.unloaded == unloaded]


# --- truth ----------------------------------------------------------------------------------------------------

CASES = [(SCENARIOS[i % len(SCENARIOS)], build, kind) for i, build in enumerate(BUILDS) for kind in (1, 5, 6)]
CASES += [(scenario, 19041, kind) for scenario in SCENARIOS for kind in (1, 5, 6)]


@pytest.mark.parametrize(("scenario", "build", "kind"), sorted(set(CASES)))
def test_a_dump_is_the_machine(open_machine, scenario, build, kind):
    machine = forge(scenario, build=build, processors=4, seed=build)
    dump = open_machine(machine, kind)
    assert dump.facts.warnings == ()
    present = machine.memory.present_frames()
    held = set(present)
    for number in present:
        assert dump._container.read_physical(number * PAGE, PAGE) == bytes(machine.memory.pages[number])
    if kind != 1:  # a complete dump holds whole runs: pages of zeros fill their holes
        assert dump.facts.pages_present == dump.facts.pages_expected == len(present)
    read = 0
    for address in mapped_pages(machine):
        try:
            frame = machine.space.frame_of(address)
            expected = bytes(machine.read_virtual(address, PAGE)) if frame in held else None
        except ValueError:
            expected = bytes(PAGE) if address == machine.addresses.get("page:demand-zero") else None
        if expected is not None:
            assert dump.read_virtual(address, PAGE) == expected, hex(address)
            read += 1
        elif kind != 1:
            with pytest.raises(MemoryReadError):
                dump.read_virtual(address, PAGE)
    assert read > 100
    loaded = [module for module in dump.modules() if not module.unloaded]
    assert [(m.name, m.base, m.size, m.timestamp) for m in loaded] == list(machine.truth.modules)
    assert all(module.path.endswith(module.name) for module in loaded)
    assert {(m.name, m.base, m.base + m.size) for m in dump.modules() if m.unloaded} == set(machine.truth.unloaded)
    assert dump.facts.warnings == ()
    for name in ("PoolTrackTable", "PsLoadedModuleList"):
        assert dump.symbol(name) == machine.addresses[name]
    assert dump.kernel_base == machine.addresses["nt"]


@pytest.mark.parametrize("kind", [1, 5, 6])
def test_facts(open_machine, kind):
    machine = forge("quiet", build=17763, processors=3, seed=9)
    facts = open_machine(machine, kind).facts
    words = {1: "complete dump (type 1)", 5: "full bitmap dump (type 5)", 6: "kernel bitmap dump (type 6)"}
    assert facts.kind == words[kind]
    assert (facts.build, facts.processors) == (17763, 3)
    assert facts.bugcheck == BugCheck(machine.truth.bugcheck[0], tuple(machine.truth.bugcheck[1:]))
    assert facts.taken_at == machine.truth.taken_at
    assert facts.uptime_seconds == machine.truth.uptime_seconds


def test_page_states(open_machine):
    machine = forge("quiet", build=19041, seed=2)
    dump = open_machine(machine)
    for state in ("prototype", "transition", "prototype-transition", "swizzled"):
        address = machine.addresses[f"page:{state}"]
        entry = machine.read_virtual(PTE_BASE + (address >> 9 & 0x7FFFFFFFF8), 8)
        assert not entry[0] & 1
        assert dump.read_virtual(address, PAGE) == machine.read_virtual(address, PAGE)
    for state in ("pagefile", "unmapped"):
        with pytest.raises(MemoryReadError):
            dump.read_virtual(machine.addresses[f"page:{state}"], 1)
    assert dump.read_virtual(machine.addresses["page:demand-zero"], PAGE) == bytes(PAGE)


def test_kinds_of_kernel_dumps_are_told(open_machine):
    machine = forge("quiet", build=19041)
    machine.header.attributes = 0x10
    assert open_machine(machine).facts.kind == "kernel bitmap dump (type 6, taken live)"
    machine.header.attributes = 0x40
    assert open_machine(machine).facts.kind == "kernel bitmap dump (type 6, active memory only)"
    machine.header.attributes = 0x4
    assert any("too little room" in warning for warning in open_machine(machine).facts.warnings)


def test_compressed_dumps(tmp_path):
    machine = forge("pipo", build=19041, seed=4)
    for suffix in ("gz", "xz"):
        path = tmp_path / f"memory.dmp.{suffix}"
        machine.save(path, kind=6)
        seen = []
        with open_crashdump(str(path), lambda done, total: seen.append((done, total))) as dump:
            assert names(dump) == [name for name, *_ in machine.truth.modules]
            assert dump.facts.warnings == ()
        assert seen


def test_a_cut_compressed_dump_says_both(tmp_path):
    machine = forge("pipo", build=19041, seed=4)
    path = tmp_path / "memory.dmp"
    machine.save(path, kind=6)
    packed = gzip.compress(path.read_bytes())
    path.write_bytes(packed[: len(packed) * 3 // 4])
    with open_crashdump(str(path)) as dump:
        warnings = " ".join(dump.facts.warnings)
        assert "compressed" in warnings
        assert "truncated" in warnings
        assert dump.facts.pages_present < dump.facts.pages_expected


# --- damage ---------------------------------------------------------------------------------------------------


@pytest.fixture
def machine():
    return forge("pipo", build=19041, processors=2, seed=5)


def entry_of(machine, name):
    return machine.addresses[f"entry:{name}"]


def all_names(machine):
    return [name for name, *_ in machine.truth.modules]


@pytest.mark.parametrize("stray", ["self", "earlier", "nowhere", "zeros", "garbage"])
def test_a_broken_module_list_is_read_from_its_end(open_machine, machine, stray):
    at = entry_of(machine, "tcpip.sys")
    target = {
        "self": at,
        "earlier": entry_of(machine, "hal.dll"),
        "nowhere": 0xFFFF900000000000,
        "zeros": 0,
        "garbage": machine.addresses["nt"] + 0x10,
    }[stray]
    machine.write_virtual(at, struct.pack("<Q", target))
    dump = open_machine(machine)
    assert names(dump) == all_names(machine)
    assert any("broken" in warning and "missing" not in warning for warning in dump.facts.warnings)


def test_a_stray_pointer_to_a_good_looking_entry_leads_to_no_module(open_machine, machine):
    room = machine.addresses["module:tcpip.sys"] + 0x800
    fake = bytearray(machine.read_virtual(entry_of(machine, "hal.dll"), 0xA0))
    struct.pack_into("<Q", fake, 0x30, 0xFFFFF80111110000)
    machine.write_virtual(room, bytes(fake))
    machine.write_virtual(entry_of(machine, "Ntfs.sys"), struct.pack("<Q", room))
    dump = open_machine(machine)
    assert names(dump) == all_names(machine)
    assert all(module.base != 0xFFFFF80111110000 for module in dump.modules())


def test_a_list_broken_twice_loses_only_the_middle(open_machine, machine):
    expected = all_names(machine)
    first, last = expected[5], expected[9]
    machine.write_virtual(entry_of(machine, first), struct.pack("<Q", 0))
    machine.write_virtual(entry_of(machine, last) + 8, struct.pack("<Q", 0))
    dump = open_machine(machine)
    assert names(dump) == expected[:6] + expected[9:]
    assert any("may be missing" in warning for warning in dump.facts.warnings)


def test_a_module_list_that_never_comes_home(open_machine, machine):
    """A cycle that leaves the head out, with all back links right: only the visited set can end it."""
    expected = all_names(machine)
    one, other = entry_of(machine, expected[3]), entry_of(machine, expected[-1])
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
    machine.write_virtual(entry_of(machine, "ntoskrnl.exe") + 0x30, struct.pack("<Q", 0))
    dump = open_machine(machine)
    assert names(dump) == all_names(machine)
    assert any("nt is not in the list" in warning for warning in dump.facts.warnings)


def set_string(machine, at, length, buffer=None):
    machine.write_virtual(at, struct.pack("<HH", length, length))
    if buffer is not None:
        machine.write_virtual(at + 8, struct.pack("<Q", buffer))


@pytest.mark.parametrize("length", [0, 7, 0xFFFE])
def test_a_damaged_name_is_taken_from_the_path(open_machine, machine, length):
    set_string(machine, entry_of(machine, "tcpip.sys") + 0x58, length)
    assert names(open_machine(machine)) == all_names(machine)


@pytest.mark.parametrize("buffer", [0, 0xFFFF900000000000, 0x1234567890ABCDEF])
def test_a_module_without_any_name(open_machine, machine, buffer):
    for offset in (0x48, 0x58):
        set_string(machine, entry_of(machine, "tcpip.sys") + offset, 20, buffer)
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
        set_string(machine, entry_of(machine, "tcpip.sys") + offset, len(text), room)
    assert not any("\x1b" in name for name in names(open_machine(machine)))


def test_an_absurd_image_size_is_replaced_by_the_image_s_own(open_machine, machine):
    truth = next(module for module in machine.truth.modules if module[0] == "tcpip.sys")
    machine.write_virtual(entry_of(machine, "tcpip.sys") + 0x40, struct.pack("<I", 0xFFFFFFFF))
    module = next(m for m in open_machine(machine).modules() if m.name == "tcpip.sys")
    assert (module.base, module.size) == truth[1:3]


def test_entries_without_an_image_are_counted(open_machine, machine):
    for name, base in (("tcpip.sys", 0), ("Ntfs.sys", 0x4141414141414141)):
        machine.write_virtual(entry_of(machine, name) + 0x30, struct.pack("<Q", base))
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
    assert names(dump) == all_names(machine)
    with pytest.raises(SymbolNotFoundError):
        dump.symbol("PoolTrackTable")


def test_header_fields_that_were_never_set_are_absent(open_machine, machine):
    def blank(data):
        for offset, size in ((0xC, 4), (0x34, 4), (0x38, 4), (0xFA8, 8), (0x1030, 8), (0x20, 8)):
            data[offset : offset + size] = b"PAGEPAGE"[:size]

    dump = open_machine(machine, edit=blank)
    facts = dump.facts
    assert (facts.build, facts.processors, facts.bugcheck, facts.taken_at, facts.uptime_seconds) == (None,) * 5
    assert names(dump) == all_names(machine)


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


def test_five_level_paging_is_refused(open_machine, machine):
    machine.header.loaded_module_list = 0xFF11_2233_4455_6000
    with pytest.raises(UnsupportedDumpError) as caught:
        open_machine(machine)
    assert "LA57" in str(caught.value)


def test_a_cyclic_page_table_ends(open_machine, machine):
    root = machine.space.root_pfn
    machine.memory.pages[root][:] = struct.pack("<Q", root << 12 | 0x63) * 512
    started = time.monotonic()
    dump = open_machine(machine)
    assert dump.modules() == ()
    assert dump.facts.warnings
    assert time.monotonic() - started < 5


def test_truncation_anywhere(tmp_path, machine):
    path = tmp_path / "memory.dmp"
    for kind in (1, 6):
        machine.save(path, kind=kind)
        whole = path.read_bytes()
        page_data_starts = 0x2000 if kind == 1 else struct.unpack_from("<Q", whole, 0x2020)[0]
        for size in sorted({*range(0, len(whole), len(whole) // 25), 0x1000, 0x2000, 0x2038, len(whole) - 1}):
            path.write_bytes(whole[:size])
            try:
                with open_crashdump(str(path)) as dump:
                    assert dump.facts.pages_present < dump.facts.pages_expected
                    assert "truncated" in dump.facts.warnings[0]
                    for module in dump.modules():
                        if module.unloaded or module.name == "ntoskrnl.exe":
                            continue  # nt's large pages have frames that the machine itself never wrote
                        for address, data in dump.read_present(module.base, module.size):
                            assert data == machine.read_virtual(address, len(data))
            except DumpFormatError:
                assert size < page_data_starts


def test_random_damage_never_crashes_and_never_hangs(tmp_path, machine):
    chance = random.Random(77)
    path = tmp_path / "memory.dmp"
    machine.save(path, kind=6)
    whole = path.read_bytes()
    for _ in range(60):
        message = ""
        data = bytearray(whole)
        for _ in range(chance.choice((1, 5, 200, 5000))):
            at = chance.randrange(len(data)) & ~7
            data[at : at + 8] = struct.pack("<Q", chance.choice((0, 1, chance.getrandbits(64), (1 << 64) - 1)))
        path.write_bytes(data)
        started = time.monotonic()
        try:
            with open_crashdump(str(path)) as dump:
                for module in dump.modules():
                    sum(len(part) for _, part in dump.read_present(module.base, min(module.size, 1 << 24)))
                assert dump.facts.kind
        except PykdextError as error:
            message = str(error)
        assert "\n" not in message
        assert time.monotonic() - started < 5


# --- real headers ---------------------------------------------------------------------------------------------


def test_a_real_full_dump_cut_behind_its_header(evidence):
    with open_crashdump(str(evidence / "dumps" / "dmp64-full-truncated-16k.dmp")) as dump:
        facts = dump.facts
        assert (facts.build, facts.processors) == (19045, 4)
        assert facts.taken_at == datetime(2024, 10, 12, 12, 57, 59, 711078, tzinfo=timezone.utc)
        assert (facts.pages_present, facts.pages_expected) == (2, 523910)
        assert "truncated: 2 of its 523,910 pages" in facts.warnings[0]
        assert "no address can be read" in facts.warnings[1]
        assert dump.modules() == ()


@pytest.mark.parametrize("name", ["triage_x64.dmp", "triage_arm64.dmp"])
def test_real_triage_dumps_are_named(evidence, name):
    with pytest.raises(UnsupportedDumpError) as caught:
        open_crashdump(str(evidence / "dumps" / name))
    text = str(caught.value)
    assert "triage" in text
    assert "no pool tag tables" in text
    assert "CrashDumpEnabled" in text
