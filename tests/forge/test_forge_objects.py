"""Objects of forged machines agree with each other: lists close, counters add up, lost pages are those told."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import BUILDS_BY_ARCH, forge

OBJECT_SCENARIOS = ("handles", "zombies", "keys", "references", "lookaside", "verifier")
EVERY_KERNEL = [(arch, build) for arch, builds in BUILDS_BY_ARCH.items() for build in builds]


def small(scenario, build=19041, arch="x64", **wishes):
    return forge(scenario, build=build, arch=arch, healthy_share=32, leaked=200, **wishes)


def pointer(machine, va):
    width = machine.kernel.architecture.pointer_bytes
    return int.from_bytes(machine.read_virtual(va, width), "little")


@pytest.mark.parametrize(("arch", "build"), EVERY_KERNEL, ids=str)
def test_the_process_list_closes(arch, build):
    machine = small("zombies", build, arch)
    head = machine.addresses["nt"] + machine.kernel.variables["PsActiveProcessHead"]
    entry, count = pointer(machine, head), 0
    while entry != head:
        entry, count = pointer(machine, entry), count + 1
    assert count == len(machine.truth.objects.processes)
    assert sum(bool(process.exited_at) for process in machine.truth.objects.processes) == 200


@pytest.mark.parametrize("scenario", OBJECT_SCENARIOS)
def test_handles_of_processes_and_types_add_up(scenario):
    truth = small(scenario).truth.objects
    by_type = {}
    for process in truth.processes:
        assert process.handles == sum(process.handle_types.values())
        for name, count in process.handle_types.items():
            by_type[name] = by_type.get(name, 0) + count
    assert by_type == {kind.name: kind.handles for kind in truth.types if kind.handles}


@pytest.mark.parametrize("scenario", OBJECT_SCENARIOS)
def test_the_tag_counts_the_objects(scenario):
    truth = small(scenario).truth
    for kind in truth.objects.types:
        same_key = sum(other.objects for other in truth.objects.types if other.key == kind.key)
        if same_key:
            row = truth.tags[kind.key]
            outstanding = row.nonpaged_allocs - row.nonpaged_frees + row.paged_allocs - row.paged_frees
            assert outstanding == same_key


def test_a_real_handle_is_written_as_windows_writes_it():
    """Handle 4 of a real 19041 points at System: 0xffffc08bdce94150 with 0x7fe1 references is 0xc08bdce94150ffc3."""
    from dumps.forge.kernels import find_kernel
    from dumps.forge.objects.handles import EntryPages

    page = EntryPages(find_kernel(19041), [0xFFFFC08BDCE94150]).low_pages[0]
    low, access = struct.unpack_from("<QQ", page, 0x10)
    assert low & ~0x1FFFE == 0xC08BDCE94150FFC3 & ~0x1FFFE
    assert access & 0x1FFFFFF
    assert page[:0x10] == bytes(0x10)


@pytest.mark.parametrize("scenario", OBJECT_SCENARIOS)
def test_pages_can_be_missing(scenario):
    whole, torn = (forge(scenario, healthy_share=32, leaked=2_000, pages_lost=lost) for lost in (False, True))
    assert torn.memory.omitted > whole.memory.omitted
    if scenario in ("handles", "keys"):
        assert 0 < torn.truth.objects.lost_handles < 1_000
    if scenario == "zombies":
        assert torn.truth.objects.lost_processes
