"""Objects in two real small dumps: what is read equals what was read out of them by hand."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.objects.lookasides import read_list
from pykdext.kernel.objects.objecttypes import TypeReader
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.targets.dump.crashdump import open_crashdump

GOLDEN = json.loads(Path(__file__).with_name("realdumps.json").read_text("utf-8"))
X64, ARM64 = GOLDEN["triage_x64.dmp"], GOLDEN["triage_arm64.dmp"]


def number(text):
    return int(text, 16)


@contextmanager
def open_real(evidence, name):
    target = open_crashdump(str(evidence / "dumps" / name))
    try:
        yield ObjectSpace(open_kernel(target))
    finally:
        target.close()


def system_of(space):
    (process,) = space.processes.processes
    return process


def test_the_system_process_of_an_x64_dump(evidence):
    with open_real(evidence, "triage_x64.dmp") as space:
        process = system_of(space)
        counts = [
            space.tables.list_count(process.handle_table, number)
            for number in range(len(X64["system_handle_table"]["FreeLists_handle_counts"]))
        ]
    assert process.address == number("0xffffc08bdce94180")
    assert (process.pid, process.image, process.active_threads) == (4, "System", 147)
    assert process.handle_table == number(X64["system_handle_table"]["address"])
    assert counts == X64["system_handle_table"]["FreeLists_handle_counts"]
    assert process.handles == sum(counts) == 225
    assert process.handle_slots == X64["system_handle_table"]["NextHandleNeedingPool"] // 4


def test_the_system_process_of_an_arm64_dump(evidence):
    golden = ARM64["EPROCESS_System"]
    with open_real(evidence, "triage_arm64.dmp") as space:
        process = system_of(space)
    assert process.pid == golden["UniqueProcessId@3f8"]
    assert process.image == golden["ImageFileName@560"]
    assert process.active_threads == golden["ActiveThreads@5a8"]
    assert process.handle_table == number(golden["ObjectTable@528"])
    assert process.commit_pages == golden["CommitCharge@600"]
    assert process.address == number(ARM64["ETHREAD"]["Process@240"])
    assert process.handles == sum(ARM64["system_handle_table"]["FreeLists_handle_counts"])
    assert process.handle_slots == ARM64["system_handle_table"]["NextHandleNeedingPool"] // 4
    assert not process.is_zombie


def test_the_handles_of_the_system_process(evidence):
    """Of 84 entries that the dump holds 56 are live."""
    with open_real(evidence, "triage_x64.dmp") as space:
        headers = list(space.tables.read(system_of(space).handle_table).headers)
    assert len(headers) == 56
    for entry in X64["system_handle_table"]["entries"]:
        assert number(entry["object_header"]) in headers
    assert headers[:2] == [number(entry["object_header"]) for entry in X64["system_handle_table"]["entries"][:2]]


def test_the_headers_of_objects(evidence):
    with open_real(evidence, "triage_x64.dmp") as space:
        space.headers.cookie = number(X64["ObHeaderCookie_low_byte"].split()[0])
        for golden in X64["object_headers"]:
            header = space.headers.read(number(golden["body"]) - space.headers.body_offset)
            assert header.type_index == golden["type_index"]
            assert header.parts_bytes == golden["parts_bytes"]
            assert header.pointer_count == golden["pointer_count"]
            assert header.handle_count == golden["handle_count"]
            assert header.is_plausible
            assert space.headers.references(header) <= 3


def test_the_types_of_an_arm64_dump(evidence):
    with open_real(evidence, "triage_arm64.dmp") as space:
        assert space.types.types[0].address == number(ARM64["ObpTypeObjectType_value"])
        reader = TypeReader(space.kernel, space.pages, space.headers)
        reader.read()
        table = reader.read_all([number(golden["address"]) for golden in ARM64["object_types"]], "addresses", True)
    assert table.cookie == number(ARM64["type_objects_cookie_low_byte"].split()[0])
    assert len(table.types) == 9
    for kind, golden in zip(table.types, ARM64["object_types"]):
        assert kind.name == golden["name"]
        assert (kind.index, kind.tag.raw.decode()) == (golden["index"], golden["key"])
        assert (kind.objects, kind.handles) == (golden["objects"], golden["handles"])
        assert (kind.most_objects, kind.most_handles) == (golden["peak_objects"], golden["peak_handles"])
        assert (kind.pool.value == "paged") == bool(golden["pool_type"] & 1)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_lookaside_lists(evidence, name):
    with open_real(evidence, name) as space:
        modules = {module.name.lower(): module.base for module in space.kernel.target.modules()}
        for golden in GOLDEN[name]["lookasides"]:
            module, _, rva = golden["address"].rpartition("+")
            address = modules[module.lower()] + number(rva) if module else number(rva)
            found = read_list(space.kernel, space.pages, address)
            assert found.tag.raw.decode() == golden["tag"]
            assert found.size_bytes == golden["size"]
            if "allocs" in golden:
                assert found.in_use == golden["allocs"] - golden["frees"]
            if "misses" in golden:
                assert found.taken == golden["misses"] - golden.get("free_misses", 0)
            if module:
                assert (found.module.lower(), found.is_proven) == (module.lower(), True)
            elif "allocate" in golden:  # NDIS made it for the driver whose tag it bears
                assert (found.module.lower(), found.is_proven) == ("ndis.sys", False)
                assert found.rva == number(golden["allocate"].rpartition("+")[2])
            else:
                assert not found.is_proven


def test_driver_verifier_is_off(evidence):
    with open_real(evidence, "triage_x64.dmp") as space:
        assert space.verifier.level == 0
