"""A kernel of a build that no table has, with its PDB: the PDB answers everything that the pools need."""

from __future__ import annotations

import pytest

from dumps.forge import forge
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.model import structtables
from pykdext.targets.dump.crashdump import open_crashdump
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
