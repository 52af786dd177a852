"""Traces of references and of handles that Windows recorded: who kept references, where open handles were opened."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import forge
from pykdext.kernel.objects import referencetraces
from pykdext.model import PoolTag
from pykdext.pipeline.holders import find_holders
from pykdext.pipeline.sources import open_source
from tests.helpers.objectmachines import open_space

FLAGS, OBJECTS, STACKS = 0xCFB010, 0xC25BA8, 0xC25BA0  # nt of 19041


def traced(scenario, build=19041, leaked=3_000_000):
    return forge(scenario, build=build, leaked=leaked, healthy_share=64, traced=True)


def report_of(machine, tag, folder):
    machine.save(folder / "traced.dmp")
    with open_source(str(folder / "traced.dmp")) as source:
        return find_holders(source, PoolTag.from_text(tag))


def variable(machine, rva):
    return int.from_bytes(machine.read_virtual(machine.addresses["nt"] + rva, 8), "little")


def set_variable(machine, rva, value, code="Q"):
    machine.write_virtual(machine.addresses["nt"] + rva, struct.pack(f"<{code}", value))


@pytest.mark.parametrize("build", [7601, 14393, 22000])
def test_who_kept_references(build, tmp_path):
    machine = traced("references", build)
    report = report_of(machine, "Toke", tmp_path)
    told = machine.truth.objects.traced
    (trace,) = report.traced
    assert (trace.module, trace.rva) == (told.driver, told.rva)
    assert (trace.kept, trace.objects, trace.alone, trace.of) == (told.kept, told.objects, told.objects, told.objects)
    assert report.grade == "proven"
    assert "holder.sys did not give back 750, most taken at holder.sys+0x1041: a leak of that driver" in report.sentence


@pytest.mark.parametrize("build", [7601, 19041])
def test_where_open_handles_were_opened(build, tmp_path):
    report = report_of(traced("handles", build, leaked=4_000), "Even", tmp_path)
    assert [(place.module, place.address, place.handles, place.of) for place in report.opened] == [
        (None, 0x7FF6A1B2C3D4, 224, 256),
        (None, 0x7FF6A1B2CB4B, 32, 256),
    ]
    assert report.sentence.endswith(
        "a handle leak of that process; of 256 open handles that its handle trace has 224 were opened at "
        "0x7ff6a1b2c3d4 in the process."
    )


def test_nobody_asked_for_traces(tmp_path):
    machine = traced("references")
    set_variable(machine, FLAGS, 0x8C, "I")
    report = report_of(machine, "Toke", tmp_path)
    assert (report.traced, report.grade, report.opened) == ((), "likely", ())


def test_another_driver_that_also_keeps_references_is_no_proof(tmp_path):
    """Every dereference of the other driver is turned into a reference: both keep the objects."""
    machine = traced("references")
    table = variable(machine, OBJECTS)
    for number in range(0x191):
        info = int.from_bytes(machine.read_virtual(table + 8 * number, 8), "little")
        while info:
            place = info + 0x24 + 2 * 0xC + 4  # the third entry's index
            index = int.from_bytes(machine.read_virtual(place, 2), "little")
            machine.write_virtual(place, struct.pack("<H", index | 0x8000))
            info = int.from_bytes(machine.read_virtual(info + 8, 8), "little")
    report = report_of(machine, "Toke", tmp_path)
    assert {trace.module for trace in report.traced} == {"holder.sys", "afd.sys"}
    assert all(trace.alone == 0 for trace in report.traced)
    assert report.grade == "likely"


@pytest.mark.parametrize("damage", ["ring", "stray", "stacks", "gone"])
def test_damaged_traces_end_and_are_told(damage, tmp_path):
    machine = traced("references")
    table, stacks = variable(machine, OBJECTS), variable(machine, STACKS)
    first = next(
        info
        for number in range(0x191)
        if (info := int.from_bytes(machine.read_virtual(table + 8 * number, 8), "little"))
    )
    if damage == "ring":
        machine.write_virtual(first + 8, struct.pack("<Q", first))
    elif damage == "stray":
        machine.write_virtual(first + 8, struct.pack("<Q", 0xFFFF900012345670))
    elif damage == "stacks":
        machine.write_virtual(stacks, struct.pack("<HH", 5, 3))
    else:
        machine.omit(table, 0x1000)
    with open_space(machine, tmp_path) as space:
        traces = space.reference_traces
        keepers = traces.find_keepers(traces.headers)
        warnings = traces.warnings
    told = machine.truth.objects.traced
    if damage == "stacks":
        assert keepers == ()
        assert warnings == ["references are traced, but the table of stacks is not one that is known"]
    elif damage == "gone":
        assert (keepers, warnings) == ((), ["references are traced: 401 of 401 lists of objects are torn"])
    else:
        assert told.objects - 4 < keepers[0].objects <= told.objects
        assert warnings == ["references are traced: 1 of 401 lists of objects is torn"]


def test_a_trace_of_handles_with_an_absurd_size(tmp_path):
    machine = traced("handles", leaked=4_000)
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        trace = int.from_bytes(machine.read_virtual(process.handle_table + 0x60, 8), "little")
    machine.write_virtual(trace + 4, struct.pack("<I", 0xFFFFFFF0))
    assert report_of(machine, "Even", tmp_path).opened == ()


def test_a_handle_whose_stack_tells_nothing_counts_among_the_open_ones(tmp_path):
    machine = traced("handles", leaked=4_000)
    with open_space(machine, tmp_path) as space:
        process = next(process for process in space.processes.processes if process.pid == 4312)
        trace = int.from_bytes(machine.read_virtual(process.handle_table + 0x60, 8), "little")
    at = trace + machine.read_virtual(trace, 0x8000).index(struct.pack("<Q", 0x7FF6A1B2CB4B))
    machine.write_virtual(at, bytes(8))
    report = report_of(machine, "Even", tmp_path)
    assert [(place.handles, place.of) for place in report.opened] == [(224, 256), (31, 256)]


def test_references_that_are_not_in_memory_and_objects_beyond_the_limit_are_told(tmp_path, monkeypatch):
    machine = traced("references")
    with open_space(machine, tmp_path) as space:
        traces = space.reference_traces
        headers = list(traces.headers)
        monkeypatch.setattr(traces, "_read_events", lambda _info: None)
        assert traces.find_keepers(headers) == ()
        assert traces.warnings == [f"references are traced: those to {len(headers)} objects are not in memory"]
    monkeypatch.setattr(referencetraces, "MAX_OBJECTS", 5)
    with open_space(machine, tmp_path) as space:
        assert 0 < len(space.reference_traces.headers) <= 5
        assert "references are traced: of more than 5 objects the rest is left out" in space.reference_traces.warnings


def test_very_long_traces_are_looked_at_in_part_and_this_is_told(tmp_path, monkeypatch):
    machine = traced("references")
    with open_space(machine, tmp_path) as space:
        whole = space.reference_traces.find_keepers(space.reference_traces.headers)
        monkeypatch.setattr(referencetraces, "MAX_EVENTS", 30)
        part = space.reference_traces.find_keepers(space.reference_traces.headers)
        (warning,) = space.reference_traces.warnings
    assert 0 < part[0].of < whole[0].of
    assert warning == f"references are traced: {part[0].of} objects looked at, the rest left out for their length"
