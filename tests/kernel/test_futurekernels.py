"""A kernel of a build that no table has, with its PDB: the PDB answers everything that the pools need."""

from __future__ import annotations

import json

import pytest

from dumps.forge import forge
from dumps.forge.pageframes import plan_frames
from pykdext.cli.main import main
from pykdext.kernel import kernel as kernel_module
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.model import structtables
from pykdext.symbols.profiles import load_profile
from pykdext.targets.dump.crashdump import open_crashdump
from tests.helpers.kernelpdbs import kernel_pdb
from tests.pdbs import read_pdb, restamp
from tests.symbols.test_pdb import table_of_kernels

FUTURE = 29999
VERSIONS = {
    7601: "6.1.7601.24540",
    9600: "6.3.9600.20237",
    14393: "10.0.14393.4583",
    17763: "10.0.17763.5933",
    19041: "10.0.19041.804",
    20348: "10.0.20348.2529",
    22000: "10.0.22000.2538",
}


def refuse_tables(monkeypatch):
    """The shipped tables answer for what a PDB is found by, lists and loader entries, and for nothing of the pools."""
    find, rows = structtables._find, structtables._list_rows

    def find_only(type_name, *kernel):
        assert not type_name.startswith("_POOL"), f"{type_name} was asked of the tables"
        return find(type_name, *kernel)

    def list_only(type_name):
        assert not type_name.startswith("_POOL"), f"{type_name} was asked of the tables"
        return rows(type_name)

    monkeypatch.setattr(structtables, "_find", find_only)
    monkeypatch.setattr(structtables, "_list_rows", list_only)


@pytest.mark.parametrize("build", VERSIONS)
def test_the_pdb_answers_everything(tmp_path, monkeypatch, build):
    machine = forge("pipo", build=build)
    versions = {key[:32]: row[0] for key, row in table_of_kernels().items()}
    if versions.get(machine.truth.kernel_guid) != VERSIONS[build]:
        pytest.skip(f"the forged kernel is {versions.get(machine.truth.kernel_guid)}, of which there is no PDB here")
    machine.header.build = FUTURE
    dump = tmp_path / "future.dmp"
    machine.save(dump)
    (tmp_path / "ntkrnlmp.pdb").write_bytes(restamp(read_pdb(VERSIONS[build]), machine.truth.kernel_guid))
    structtables.list_layouts.cache_clear()
    refuse_tables(monkeypatch)
    target = open_crashdump(str(dump))
    try:
        kernel = open_kernel(target, str(tmp_path))
        assert kernel.struct("_POOL_TRACKER_TABLE", "Key").source == "pdb"
        snapshot = read_pool_snapshot(kernel, str(dump))
        assert snapshot.build == FUTURE and snapshot.coverage.is_complete
        assert {row.tag.raw: row.nonpaged.bytes for row in snapshot.tags} == {
            tag: row.nonpaged_bytes for tag, row in machine.truth.tags.items()
        }
        found = read_big_pages(kernel, [row.tag for row in snapshot.tags])
        assert found.rows_read == found.rows_expected
        assert len(found.allocations) > 0
    finally:
        target.close()


MATRIX = {
    7601: ("zombies", "Proc"),
    9600: ("handles", "Even"),
    14393: ("verifier", "Irp "),
    17763: ("lookaside", "Irp "),
    19041: ("keys", "Key "),
    20348: ("references", "Toke"),
    22000: ("requests", "Irp "),
}
FINDS_THE_PDB = {"_KLDR_DATA_TABLE_ENTRY", "_LDR_DATA_TABLE_ENTRY", "_LIST_ENTRY", "_UNICODE_STRING"}
NOT_IN_THE_PDB = {"_MI_SYSTEM_INFORMATION", "_MI_VISIBLE_STATE"}
"""Structures that Windows has since version 10, which are asked for in vain in older kernels."""


@pytest.mark.parametrize("build", MATRIX)
def test_every_analysis_says_the_same_by_the_pdb_alone(tmp_path, monkeypatch, capsys, build):
    """One dump read by the tables of its build, and again with a number of the future, by its PDB and no table."""
    scenario, tag = MATRIX[build]
    kernels = []
    machine = forge(
        scenario,
        build=build,
        leaked=12,
        healthy_share=32,
        page_frames=plan_frames(0x800),
        change_kernel=lambda kernel: kernels.append(kernel) or kernel,
    )
    dump = tmp_path / "future.dmp"
    commands = (["used", str(dump)], ["holders", tag, str(dump)], ["processes", str(dump)], ["memory", str(dump)])
    machine.save(dump)
    known = [read_document(capsys, command) for command in commands]
    machine.header.build = FUTURE
    machine.save(dump)
    guid = machine.truth.kernel_guid
    addresses = {**load_profile(guid, 1).rvas, **kernels[0].variables}
    (tmp_path / "ntkrnlmp.pdb").write_bytes(kernel_pdb(build, guid, addresses, int(VERSIONS[build].split(".")[3])))
    asked = set()
    find, rows = structtables._find, structtables._list_rows

    def find_no_more(type_name, *kernel):
        asked.add(type_name)
        return find(type_name, *kernel) if type_name in FINDS_THE_PDB else None

    def list_no_more(type_name):
        asked.add(type_name)
        return rows(type_name) if type_name in FINDS_THE_PDB else ()

    monkeypatch.setattr(structtables, "_find", find_no_more)
    monkeypatch.setattr(structtables, "_list_rows", list_no_more)
    monkeypatch.setattr(kernel_module, "load_profile", lambda *_: None)
    structtables.list_layouts.cache_clear()
    try:
        by_pdb = [read_document(capsys, [*command, "--symbols", str(tmp_path)]) for command in commands]
    finally:
        structtables.list_layouts.cache_clear()
    assert asked - FINDS_THE_PDB <= (NOT_IN_THE_PDB if build < 10240 else set())
    assert by_pdb[:3] == known[:3]
    memory, by_number = by_pdb[3][1], known[3][1]
    for part in ("commit", "frames"):  # of processes a PDB may tell more than the table of its build
        assert memory[part] == by_number[part]
    assert memory["frames"]["has_regions"] is (build >= 14393)


def read_document(capsys, command):
    """What a command says as JSON, without the number of the build and who knew the layouts."""
    status = main([*command, "--format", "json"])
    return status, without_origin(json.loads(capsys.readouterr().out))


def without_origin(value):
    if isinstance(value, dict):
        left_out = {"build", "symbols", "layout"}
        return {name: without_origin(each) for name, each in value.items() if name not in left_out}
    return [without_origin(each) for each in value] if isinstance(value, list) else value
