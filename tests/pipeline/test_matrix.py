"""Architecture x container x generation: whatever Windows wrote is read, and the answer equals the forge's truth."""

from __future__ import annotations

import json

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.targets.dump.crashdump import open_crashdump
from tests.helpers.forgedumps import unchanged_machine

GENERATIONS = {
    "x86": (2600, 3790, 6002, 7601, 9600, 15063, 17763, 19041),
    "x86pae": (2600, 3790, 6002, 7601, 9600, 15063, 17763, 19041),
    "x64": (3790, 6002, 7601, 9600, 14393, 17763, 19041, 20348, 22000),
    "arm64": (19041, 22000),
}
FULL, SUMMARY, BITMAP_FULL, BITMAP_KERNEL, AUTOMATIC, KERNEL_RANGES, USER_RANGES, ALL_RANGES = 1, 2, 5, 6, 7, 8, 9, 10
KINDS = {
    "x86": (FULL, SUMMARY, BITMAP_FULL, BITMAP_KERNEL, AUTOMATIC),
    "x86pae": (FULL, SUMMARY, BITMAP_FULL, BITMAP_KERNEL, AUTOMATIC),
    "x64": (FULL, SUMMARY, BITMAP_FULL, BITMAP_KERNEL, AUTOMATIC, KERNEL_RANGES, USER_RANGES, ALL_RANGES),
    "arm64": (FULL, BITMAP_FULL, BITMAP_KERNEL, KERNEL_RANGES, ALL_RANGES),
}
MATRIX = [(arch, build, kind) for arch, builds in GENERATIONS.items() for build in builds for kind in KINDS[arch]]


def read_json(capsys, *arguments):
    status = main([*map(str, arguments), "--format", "json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, json.loads(captured.out)


@pytest.mark.parametrize(("arch", "build", "kind"), MATRIX, ids=str)
def test_the_tag_tables_of_every_dump(arch, build, kind, tmp_path, capsys):
    machine = unchanged_machine("pipo", build=build, arch=arch)
    dump = tmp_path / "MEMORY.DMP"
    machine.save(dump, kind=kind)
    status, document = read_json(capsys, "used", dump)
    truth = machine.truth
    counted = {
        bytes.fromhex(row["hex"]): tuple(
            row[pool][counter] for pool in ("nonpaged", "paged") for counter in ("allocs", "frees", "bytes")
        )
        for row in document["tags"]
    }
    assert counted == {
        tag: (
            row.nonpaged_allocs,
            row.nonpaged_frees,
            row.nonpaged_bytes,
            row.paged_allocs,
            row.paged_frees,
            row.paged_bytes,
        )
        for tag, row in truth.tags.items()
    }
    assert document["os"]["build"] == build
    assert document["os"]["arch"] == ("x86" if arch == "x86pae" else arch)
    assert document["warnings"] == []
    assert status == 0


@pytest.mark.parametrize(
    ("arch", "build"), [(arch, build) for arch, builds in GENERATIONS.items() for build in builds], ids=str
)
def test_the_modules_of_every_dump(arch, build, tmp_path, capsys):
    machine = forge("quiet", build=build, arch=arch)
    dump = tmp_path / "MEMORY.DMP"
    machine.save(dump)
    _, document = read_json(capsys, "find", "Look", dump)
    coverage = document["tags"][0]["coverage"]
    assert coverage["modules_total"] == coverage["modules_scanned"] == len(machine.truth.modules)
    if arch == "x64":
        assert document["tags"][0]["owners"][0]["module"] == "lookas.sys"


@pytest.mark.parametrize(("arch", "build", "kind"), MATRIX, ids=str)
def test_the_blocks_of_a_tag(arch, build, kind, tmp_path, capsys):
    if kind not in (FULL, BITMAP_KERNEL):
        pytest.skip("blocks are read through virtual memory: one container of each way of packing is enough")
    machine = unchanged_machine("pipo", build=build, arch=arch)
    dump = tmp_path / "MEMORY.DMP"
    machine.save(dump, kind=kind)
    _, document = read_json(capsys, "blocks", "Pipo", dump)
    found = {(block["address"], block["is_big"]): block for block in document["blocks"]}
    expected = {(block.va, block.is_big): block for block in machine.truth.blocks[b"Pipo"]}
    big = {key for key in expected if key[1]}
    assert {key for key in expected if not key[1]} == {key for key in found if not key[1]}
    if document["warnings"]:
        assert any("big-page table" in warning for warning in document["warnings"])
        assert arch != "x64" or build < 7601
    else:
        assert big <= set(found)
    for key in set(found) & set(expected):
        assert found[key]["size_bytes"] == expected[key].size
        assert found[key]["pool"] in ("nonpaged", None)


@pytest.mark.parametrize("build", [9600, 14393, 17763, 19041, 20348, 22000])
def test_encoded_debugger_data_is_decoded_where_symbols_allow(build, tmp_path, capsys):
    machine = forge("pipo", build=build, encoded_kdbg=True)
    dump = tmp_path / "MEMORY.DMP"
    machine.save(dump)
    status, document = read_json(capsys, "used", dump)
    assert status == 0
    assert document["warnings"] == []
    assert document["tags"][0]["nonpaged"]["bytes"] == machine.truth.tags[b"Pipo"].nonpaged_bytes


@pytest.mark.parametrize("arch", ["x86", "x86pae"])
def test_tagging_switched_off_is_said(arch, tmp_path, capsys):
    machine = forge("quiet", build=2600, arch=arch, untagged=True)
    dump = tmp_path / "MEMORY.DMP"
    machine.save(dump)
    assert main(["used", str(dump)]) == 3
    assert "pool tagging was off" in capsys.readouterr().err


@pytest.mark.parametrize(("arch", "build"), [("x86", 7601), ("x64", 19041), ("arm64", 22000)])
def test_a_forged_small_memory_dump_tells_its_modules(arch, build, tmp_path, capsys):
    machine = unchanged_machine("pipo", build=build, arch=arch)
    dump = tmp_path / "mini.dmp"
    machine.save(dump, kind=4)
    status, document = read_json(capsys, dump)
    assert status == 3
    assert "small memory dump holds no pool tag tables" in document["reason"]
    loaded = [(module["name"], module["base"]) for module in document["modules"] if not module["unloaded"]]
    assert loaded == [(name, base) for name, base, *_ in machine.truth.modules]
    unloaded = {module["name"] for module in document["modules"] if module["unloaded"]}
    assert unloaded == {name[:12] for name, *_ in machine.truth.unloaded}  # a triage dump has room for 12 characters
    with open_crashdump(str(dump)) as target:
        for name in ("KDBG", "processor:0", "processor:3", "stack:0"):
            assert target.read_virtual(machine.addresses[name], 64) == machine.read_virtual(machine.addresses[name], 64)


@pytest.mark.parametrize(
    ("arch", "build"), [(arch, build) for arch, builds in GENERATIONS.items() for build in builds], ids=str
)
def test_pool_limits(arch, build, tmp_path, capsys):
    machine = forge("pipo", build=build, arch=arch, pool_totals=True)
    dump = tmp_path / "MEMORY.DMP"
    machine.save(dump)
    _, report = read_json(capsys, dump)
    for pool in ("nonpaged", "paged"):
        used, limit = machine.truth.limits[pool]
        found = report["pools"][pool]
        assert found["limit_bytes"] in (limit, None)
        if found["by_tags"]:
            assert found["used_bytes"] == sum(getattr(row, f"{pool}_bytes") for row in machine.truth.tags.values())
        else:
            assert found["used_bytes"] == used
    memory = report["subject"]["memory"]
    assert (memory["commit_bytes"], memory["commit_limit_bytes"]) in (machine.truth.limits["commit"], (None, None))
    if arch == "x64" and build >= 7601:
        for pool in ("nonpaged", "paged"):
            assert report["pools"][pool]["limit_bytes"] == machine.truth.limits[pool][1]
            assert not report["pools"][pool]["by_tags"]
        assert memory["commit_bytes"] is not None or build < 14393
