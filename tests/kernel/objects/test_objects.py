"""Objects of every kernel: what is read equals what the forge wrote, with pages missing too."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import forge
from pykdext.kernel.objects import lookasides
from pykdext.model import PoolTag
from tests.helpers.objectmachines import EVERY_KERNEL, SYMBOL_BUILDS, make_machine, open_space


@pytest.mark.parametrize(("arch", "build"), EVERY_KERNEL, ids=str)
def test_types(arch, build, tmp_path):
    machine = make_machine("zombies", build, arch)
    with open_space(machine, tmp_path) as space:
        table = space.types
    truth = machine.truth.objects
    assert {
        (kind.address, kind.name, kind.tag.raw, kind.index, kind.objects, kind.handles, kind.most_objects)
        for kind in table.types
    } == {
        (kind.va, kind.name, kind.key, kind.index, kind.objects, kind.handles, kind.most_objects)
        for kind in truth.types
    }
    assert table.complete
    assert table.warnings == ()
    assert table.cookie == (None if truth.cookie is None else truth.cookie & 0xFF)


@pytest.mark.parametrize("pages_lost", [False, True])
@pytest.mark.parametrize(("arch", "build"), EVERY_KERNEL, ids=str)
def test_processes_and_zombies(arch, build, pages_lost, tmp_path):
    machine = make_machine("zombies", build, arch, pages_lost=pages_lost)
    with open_space(machine, tmp_path) as space:
        found = space.processes
        watchman = next(process for process in found.processes if process.pid == 2428)
        census = space.take_census(watchman)
        zombies = len(space.zombies)
    truth = machine.truth.objects
    expected = {process.va: process for process in truth.processes if process.pid not in truth.lost_processes}
    assert {process.address for process in found.processes} == set(expected)
    for process in found.processes:
        told = expected[process.address]
        assert (process.pid, process.parent_pid, process.image) == (told.pid, told.parent, told.image[:14])
        assert (process.session_address, process.session) == (told.session_va or None, told.session)
        assert process.is_zombie == bool(told.exited_at)
        assert process.active_threads == told.threads
        assert process.handles == (None if told.exited_at else told.handles)
        assert process.nonpaged_charge_bytes in (told.nonpaged_charge, None)
        assert process.paged_charge_bytes in (told.paged_charge, None)
        assert process.commit_pages in (told.commit_pages, None)
    assert sum(process.commit_pages is None for process in found.processes) in (0, len(found.processes))
    assert bool(found.warnings) == pages_lost
    if pages_lost:
        assert "torn" in found.warnings[0]
        assert found.lost in (None, len(truth.lost_processes))
    exited = [process for process in expected.values() if process.exited_at]
    assert zombies == len(exited)
    holder = truth.process(2428)
    assert census.counted == holder.handles
    assert census.read == holder.handles - truth.lost_handles
    assert census.is_whole != bool(truth.lost_handles)
    if not pages_lost:
        assert census.zombies == 400
        assert {share.name: share.handles for share in census.types} == holder.handle_types


@pytest.mark.parametrize("scenario", ["handles", "keys"])
@pytest.mark.parametrize(("arch", "build"), EVERY_KERNEL, ids=str)
def test_handles_by_type(arch, build, scenario, tmp_path):
    machine = make_machine(scenario, build, arch)
    truth = machine.truth.objects
    with open_space(machine, tmp_path) as space:
        for process in space.processes.processes:
            census = space.take_census(process)
            told = truth.process(process.pid)
            assert {share.name: share.handles for share in census.types} == told.handle_types
            assert (census.read, census.unknown, census.sampled) == (told.handles, 0, told.handles)
            if process.pid == 5120:
                target = census.common_target
                assert target is not None
                assert (target.type_name, target.name) == ("Key", truth.key_path)
                assert target.handles >= 400


def test_a_table_of_three_levels_is_sampled(tmp_path):
    """140,000 handles need a third level; the objects of a sample tell their types."""
    machine = forge("handles", leaked=140_000, healthy_share=64)
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        census = space.take_census(process)
    told = machine.truth.objects.process(4312)
    assert census.read == told.handles == census.counted
    assert census.sampled == 8_192
    assert census.types[0].name == "Event"
    assert census.types[0].handles == pytest.approx(told.handle_types["Event"], rel=0.01)


def test_lost_handle_pages_are_counted(tmp_path):
    machine = make_machine("handles", leaked=3_000, pages_lost=True)
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        census = space.take_census(process)
    truth = machine.truth.objects
    assert census.counted == truth.process(4312).handles
    assert census.read == census.counted - truth.lost_handles
    assert census.pages_expected - census.pages_read == 3


@pytest.mark.parametrize("pages_lost", [False, True])
@pytest.mark.parametrize("build", SYMBOL_BUILDS)
def test_lookaside_lists(build, pages_lost, tmp_path):
    machine = make_machine("lookaside", build, pages_lost=pages_lost)
    with open_space(machine, tmp_path) as space:
        found = space.lookasides
    truth = machine.truth.objects.lookasides
    lost = 1 if pages_lost else 0
    assert len(found.lists) == len(truth) - lost
    assert bool(found.warnings) == pages_lost
    by_address = {item.va: item for item in truth}
    for item in found.lists:
        told = by_address[item.address]
        assert (item.tag.raw, item.size_bytes, item.in_use) == (told.tag, told.size, told.in_use)
        if item.tag.raw == b"KETR":
            assert (item.module, item.is_proven) == ("NDIS.SYS", False)
        else:
            assert item.module == told.driver
            assert item.is_proven == (told.driver is not None)


@pytest.mark.parametrize("pages_lost", [False, True])
@pytest.mark.parametrize("build", SYMBOL_BUILDS)
def test_driver_verifier(build, pages_lost, tmp_path):
    machine = make_machine("verifier", build, pages_lost=pages_lost)
    with open_space(machine, tmp_path) as space:
        report = space.verifier
        log = space.pool_traces
        logged = log.find_callers([PoolTag.from_text("VfLk"), PoolTag.from_text("VfGl")])
    truth = machine.truth.objects
    assert report.level == truth.verifier_level
    told = {driver.driver: driver for driver in truth.verified}
    assert {driver.name for driver in report.drivers} == set(told)
    for driver in report.drivers:
        expected = told[driver.name]
        assert driver.nonpaged_allocations == expected.allocations
        assert driver.nonpaged_bytes == expected.nonpaged_bytes
        read = sum(caller.blocks for caller in driver.callers)
        if build >= 20348:
            assert driver.callers == ()
        elif not pages_lost:
            assert read == expected.tracked
            assert {caller.rva for caller in driver.callers} == set(expected.callers)
            assert all(caller.tag.raw == expected.tag for caller in driver.callers)
        else:
            assert read <= expected.tracked
    if pages_lost and build < 20348:
        assert any("torn" in warning for warning in report.warnings)
    assert bool(log.warnings) == pages_lost
    for caller in logged:
        expected = told[caller.module]
        assert (caller.rva, caller.tag.raw, caller.is_logged) == (expected.logged_rva, expected.tag, True)
        assert caller.blocks == expected.logged or (pages_lost and 0 < caller.blocks < expected.logged)
    assert {caller.module for caller in logged} == set(told)


@pytest.mark.parametrize(
    ("arch", "build"), [("x64", 6002), ("arm64", 22000), ("x86", 2600), ("x86pae", 19041)], ids=str
)
def test_without_symbols_lists_are_found_in_data(arch, build, tmp_path):
    """Nothing tells the heads: what a driver's data hold is found by its tag, and proven by the ring that it is in."""
    machine = make_machine("lookaside", build, arch)
    tags = [PoolTag(item.tag) for item in machine.truth.objects.lookasides]
    with open_space(machine, tmp_path) as space:
        assert not space.lookasides.found
        found = space.find_lookasides(tags)
        assert space.find_lookasides([PoolTag.from_text("NtFs")]) == ()
    told = {item.va: item for item in machine.truth.objects.lookasides if item.driver is not None}
    assert {(item.address, item.tag.raw, item.module, item.in_use, item.is_proven) for item in found} == {
        (va, item.tag, item.driver, item.in_use, True) for va, item in told.items()
    }


def test_no_more_lists_are_taken_than_a_kernel_can_have(tmp_path, monkeypatch):
    machine = make_machine("lookaside", 22000, "arm64")
    tags = [PoolTag(item.tag) for item in machine.truth.objects.lookasides]
    monkeypatch.setattr(lookasides, "MAX_LISTS", 1)
    with open_space(machine, tmp_path) as space:
        assert len(space.find_lookasides(tags)) == 1
    monkeypatch.setattr(lookasides, "MAX_PLACES_TRIED", 0)
    with open_space(machine, tmp_path) as space:
        assert space.find_lookasides(tags) == ()


def test_what_only_looks_like_a_list_is_none(tmp_path):
    machine = make_machine("lookaside", 22000, "arm64")
    (item,) = [item for item in machine.truth.objects.lookasides if item.tag == b"Lkas"]
    kept = machine.read_virtual(item.va, 0x80)
    for place, damage in ((0x12, b"\0\0"), (0x30, bytes(8)), (0x40, bytes(8)), (0x40, struct.pack("<Q", item.va))):
        machine.write_virtual(item.va + place, damage)
        with open_space(machine, tmp_path) as space:
            assert space.find_lookasides([PoolTag(b"Lkas")]) == (), hex(place)
        machine.write_virtual(item.va, kept)


def test_a_level_that_does_not_exist(tmp_path):
    machine = forge("handles", healthy_share=32, leaked=400)
    with open_space(machine, tmp_path) as space:
        table = next(process.handle_table for process in space.processes.processes if process.pid == 4312)
    code = int.from_bytes(machine.read_virtual(table + 8, 8), "little")
    machine.write_virtual(table + 8, struct.pack("<Q", code | 3))
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        census = space.take_census(process)
    assert census.read == census.counted == machine.truth.objects.process(4312).handles
    assert "its level is wrong, read as level 1" in census.warnings[0]
    machine.write_virtual(code & ~7, bytes(0x1000))
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        census = space.take_census(process)
    assert census.read == 0
    assert "found level 3" in census.warnings[0]


def test_ten_million_claimed_handles_and_a_looping_table(tmp_path):
    machine = forge("handles", healthy_share=32, leaked=400)
    with open_space(machine, tmp_path) as space:
        table = next(process.handle_table for process in space.processes.processes if process.pid == 4312)
    code = int.from_bytes(machine.read_virtual(table + 8, 8), "little")
    upper = code & ~7
    machine.write_virtual(upper, struct.pack("<512Q", *[upper] * 512))  # a page of a three-level table leads to itself
    machine.write_virtual(table + 8, struct.pack("<Q", upper | 2))
    machine.write_virtual(table, struct.pack("<I", 0xFFFFFFFC))
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        census = space.take_census(process)
    assert census.read == 0
    assert any("twice" in warning for warning in census.warnings)
    assert any("expected at most" in warning for warning in census.warnings)


def test_entries_to_freed_memory_are_unknown(tmp_path):
    machine = forge("handles", healthy_share=32, leaked=400)
    page = machine.addresses["handles:4312:0"]
    machine.write_virtual(page + 0x10, struct.pack("<Q", 0xDEADBEEF0001 << 16 | 1))
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        assert space.take_census(process).unknown == 1


def test_a_cookie_that_fits_nothing(tmp_path):
    machine = forge("handles", healthy_share=32, leaked=400)
    truth = machine.truth.objects
    for number, kind in enumerate(truth.types):
        machine.write_virtual(kind.va - 0x30 + 0x18, bytes((number * 37 & 0xFF,)))
    with open_space(machine, tmp_path) as space:
        table = space.types
        process = next(process for process in space.processes.processes if process.pid == 4312)
        census = space.take_census(process)
    assert any("no cookie fits" in warning for warning in table.warnings)
    assert census.types == ()
    assert census.unknown == census.read


def test_a_type_index_beyond_the_table(tmp_path):
    machine = forge("handles", healthy_share=32, leaked=400)
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        headers = space.tables.read(process.handle_table).headers
        cookie = space.types.cookie
    at = headers[5]
    machine.write_virtual(at + 0x18, bytes((250 ^ at >> 8 & 0xFF ^ cookie,)))
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        assert space.take_census(process).unknown == 1


def test_names_that_are_paged_out(tmp_path):
    machine = forge("handles", healthy_share=32, leaked=400)
    kind = next(kind for kind in machine.truth.objects.types if kind.name == "Event")
    buffer = int.from_bytes(machine.read_virtual(kind.va + 0x18, 8), "little")
    machine.omit(buffer, 1)
    with open_space(machine, tmp_path) as space:
        table = space.types
    assert any(found.name is None and found.tag.raw == b"Even" for found in table.types)
    assert any("paged out" in warning for warning in table.warnings)
