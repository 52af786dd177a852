"""Pages that are in the dump and are not the table's: never counted as read, never a tag that nobody used."""

from __future__ import annotations

import json
import random

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.pool.believed import hash_before_vista, hash_of_vista
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.session.session import open_session
from tests.helpers.fakepykd import FakePykd

PAGE = 0x1000
MACHINES = [
    ("x86", 2600),
    ("x86", 3790),
    ("x86", 6002),
    ("x86", 7601),
    ("x86pae", 9600),
    ("x86pae", 15063),
    ("x86pae", 17763),
    ("x86pae", 19041),
    ("x64", 3790),
    ("x64", 6002),
    ("x64", 7601),
    ("x64", 9600),
    ("x64", 14393),
    ("x64", 17763),
    ("x64", 19041),
    ("x64", 20348),
    ("x64", 22000),
    ("arm64", 22000),
]


@pytest.fixture(scope="module")
def machines():
    made = {}

    def give(arch, build):
        if (arch, build) not in made:
            made.clear()  # one at a time: they are large
            made[arch, build] = forge("pipo", build=build, arch=arch)
        return made[arch, build]

    return give


def tables_of(machine):
    names = sorted((name for name in machine.addresses if name.startswith("table:")), key=lambda name: int(name[6:]))
    return [machine.addresses[name] for name in names]


def damaged(machine, kind, number):
    """The bytes to write over one table, and where; None where this machine has no such damage."""
    tables = tables_of(machine)
    table, size, at = tables[number], machine.table_bytes, PAGE
    if kind == "zeroed table":
        return (table, bytes(size)) if len(tables) > 1 else None
    if kind == "zeroed page":
        return table + at, bytes(PAGE)
    if kind == "page of another table":
        return (table + at, machine.read_virtual(tables[number - 1] + at, PAGE)) if len(tables) > 1 else None
    if kind == "page of another place":
        return table + at, machine.read_virtual(tables[0] + 3 * PAGE, PAGE)
    return table + at, random.Random(7).randbytes(PAGE)


KINDS = ["zeroed table", "zeroed page", "page of another table", "page of another place", "random bytes"]


def read(machine, folder):
    machine.save(folder / "a.dmp", kind=1)
    dump = open_crashdump(str(folder / "a.dmp"))
    try:
        return read_pool_snapshot(open_kernel(dump))
    finally:
        dump.close()


def counted(snapshot):
    return {row.tag.raw: (row.nonpaged, row.paged) for row in snapshot.tags}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_no_damaged_page_counts_as_read(machines, tmp_path, arch, build, kind):
    machine = machines(arch, build)
    for number in {0, len(tables_of(machine)) - 1}:
        damage = damaged(machine, kind, number)
        if damage is None:
            pytest.skip("all processors count in one table")
        address, data = damage
        intact = machine.read_virtual(address, len(data))
        machine.write_virtual(address, data)
        try:
            snapshot = read(machine, tmp_path)
        finally:
            machine.write_virtual(address, intact)
        assert set(counted(snapshot)) <= set(machine.truth.tags), "an invented tag"
        assert not snapshot.coverage.is_complete
        assert any("not believed" in warning for warning in snapshot.warnings)
        for tag, row in machine.truth.tags.items():
            usage = counted(snapshot).get(tag)
            if usage is not None:  # counts of a part may be doubtful: more was freed there than allocated
                assert (usage[0].allocs or 0) <= row.nonpaged_allocs
                assert (usage[1].allocs or 0) <= row.paged_allocs
        if kind == "zeroed table":
            coverage = snapshot.coverage
            assert coverage.processor_tables_read == coverage.processor_tables_expected - 1


@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_undamaged_tables_are_believed_whole(machines, tmp_path, arch, build):
    snapshot = read(machines(arch, build), tmp_path)
    assert snapshot.coverage.is_complete
    assert not any("believed" in warning for warning in snapshot.warnings)


@pytest.mark.parametrize("arch", ["x86pae", "x64"])
def test_a_damaged_tag_of_one_row_is_not_believed(machines, tmp_path, arch):
    machine = machines(arch, 19041)
    table = tables_of(machine)[1]
    row_bytes = {"x86pae": 0x30, "x64": 0x38}[arch]
    data = machine.read_virtual(table, machine.table_bytes)
    at = table + next(at for at in range(200 * row_bytes, len(data), row_bytes) if any(data[at : at + 4]))
    key = machine.read_virtual(at, 4)
    machine.write_virtual(at, bytes([key[0] ^ 0x10]) + key[1:])
    try:
        snapshot = read(machine, tmp_path)
    finally:
        machine.write_virtual(at, key)
    assert set(counted(snapshot)) <= set(machine.truth.tags)
    assert snapshot.coverage.rows_expected - snapshot.coverage.rows_read == 1


def test_the_answer_is_partial(tmp_path, capsys):
    machine = forge("pipo", build=19041)
    machine.write_virtual(tables_of(machine)[2], bytes(machine.table_bytes))
    dump = tmp_path / "a.dmp"
    machine.save(dump)
    assert main(["used", str(dump), "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["coverage"]["processor_tables"]["read"] == 3
    assert any("zeros" in warning for warning in document["warnings"])
    assert main(["used", str(dump)]) == 1
    assert "not believed" in " ".join(capsys.readouterr().out.split())


def test_the_session_believes_for_the_same_reasons(monkeypatch):
    machine = forge("pipo", build=19041)
    machine.write_virtual(tables_of(machine)[1] + PAGE, bytes(PAGE))
    FakePykd.of_machine(machine).install(monkeypatch)
    snapshot = read_pool_snapshot(open_kernel(open_session()))
    assert not snapshot.coverage.is_complete
    assert any("zeros" in warning for warning in snapshot.warnings)


def test_the_hashes():
    """Values worked out by hand: of ``Pool`` in every kernel since Vista."""
    assert hash_of_vista(int.from_bytes(b"Pool", "little")) == 0x40DEDA5
    assert hash_before_vista(int.from_bytes(b"\1\0\0\0", "little")) == (64 * 40543 & 0xFFFFFFFF) >> 2
