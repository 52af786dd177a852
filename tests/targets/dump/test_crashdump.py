"""Crash dumps from file to modules, on forged machines of every architecture and generation, and real headers."""

from __future__ import annotations

import gzip
from datetime import datetime, timezone

import pytest

from dumps.forge import SCENARIOS, forge
from pykdext.errors import MemoryReadError
from pykdext.model import BugCheck
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.dump.triage import TriageDump
from tests.helpers.forgedumps import (
    BUILDS_OF_ARCH,
    MEMORY_KINDS,
    DumpFolder,
    mapped_pages,
    memory_kinds,
    names,
    read_entry,
    unchanged_machine,
)
from tests.helpers.pagetables import PAGE


@pytest.fixture
def open_machine(tmp_path):
    folder = DumpFolder(tmp_path)
    yield folder.open
    folder.close()


# --- truth ----------------------------------------------------------------------------------------------------

CASES = [
    (SCENARIOS[i % len(SCENARIOS)], arch, build, kind)
    for arch, builds in BUILDS_OF_ARCH.items()
    for i, build in enumerate(builds)
    for kind in memory_kinds(arch)
]
CASES += [(scenario, "x64", 19041, kind) for scenario in SCENARIOS for kind in MEMORY_KINDS]


@pytest.mark.parametrize(("scenario", "arch", "build", "kind"), sorted(set(CASES)))
def test_a_dump_is_the_machine(open_machine, scenario, arch, build, kind):
    machine = unchanged_machine(scenario, healthy_share=32, build=build, processors=4, seed=build, arch=arch)
    dump = open_machine(machine, kind)
    assert dump.facts.warnings == ()
    assert dump.machine.value == machine.truth.machine
    assert dump.pointer_size == (4 if arch.startswith("x86") else 8)
    present = machine.memory.present_frames()
    held = set(present)
    for number in present:
        assert dump._container.read_physical(number * PAGE, PAGE) == bytes(machine.memory.pages[number])
    if kind != 1:  # a complete dump holds whole runs: pages of zeros fill their holes
        assert dump.facts.pages_present == dump.facts.pages_expected == len(present)
    loaded = [module for module in dump.modules() if not module.unloaded]
    assert [(m.name, m.base, m.size, m.timestamp) for m in loaded] == list(machine.truth.modules)
    assert loaded[0].path.endswith(".exe")  # the file of nt may be another: ntkrnlpa.exe
    assert all(module.path.endswith(module.name) for module in loaded[1:])
    assert {(m.name, m.base, m.base + m.size) for m in dump.modules() if m.unloaded} == set(machine.truth.unloaded)
    read = 0
    for address in mapped_pages(machine, arch):
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


@pytest.mark.parametrize("arch", list(BUILDS_OF_ARCH))
def test_page_states(open_machine, arch):
    for build in BUILDS_OF_ARCH[arch]:
        machine = forge("quiet", build=build, seed=2, arch=arch)
        dump = open_machine(machine)
        assert dump.modules()
        for state in ("prototype", "transition", "prototype-transition", "swizzled"):
            address = machine.addresses.get(f"page:{state}")
            if address is not None:
                assert not read_entry(machine, arch, address) & 1
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


@pytest.mark.parametrize(
    ("name", "machine", "build"), [("triage_x64.dmp", "x64", 19041), ("triage_arm64.dmp", "arm64", 22000)]
)
def test_real_triage_dumps_are_opened_as_such(evidence, name, machine, build):
    with open_crashdump(str(evidence / "dumps" / name)) as dump:
        assert isinstance(dump, TriageDump)
        assert (dump.facts.kind, dump.machine.value, dump.facts.build) == ("small memory dump (type 4)", machine, build)
        assert dump.modules()[0].name == "ntoskrnl.exe"
