"""One wrong bit in a counter is told, and makes no share, no total and no suspect."""

from __future__ import annotations

import json

import pytest

from dumps.forge import forge
from pykdext.cli.main import main
from pykdext.kernel.pool.plausible import doubt_counters
from pykdext.model import Machine, PoolTag, PoolUsage, SystemMemory, TagUsage

GB = 1 << 30
IDLE = PoolUsage(0, 0, 0, 0)


def weigh(nonpaged=IDLE, paged=IDLE, machine=Machine.X64, **memory):
    return doubt_counters((TagUsage(PoolTag(b"Pipo"), nonpaged, paged),), machine, SystemMemory(**memory))


@pytest.mark.parametrize(
    ("size", "machine", "memory", "kept"),
    [
        (15 << 40, Machine.X64, {}, True),
        (17 << 40, Machine.X64, {}, False),
        (GB, Machine.X86, {}, True),
        (2 * GB + 1, Machine.X86, {}, False),
        (8 * GB, Machine.X64, {"physical_bytes": 8 * GB}, True),
        (8 * GB + 1, Machine.X64, {"physical_bytes": 8 * GB}, False),
        (GB, Machine.X64, {"physical_bytes": 8 * GB, "nonpaged_bytes": GB}, True),
        (2 * GB, Machine.X64, {"physical_bytes": 8 * GB, "nonpaged_bytes": GB}, False),
    ],
)
def test_bytes_are_bounded_by_what_the_machine_has(size, machine, memory, kept):
    weighed = weigh(PoolUsage(7, 2, 5, size), machine=machine, **memory)
    usage = weighed.tags[0].nonpaged
    assert (usage.bytes, usage.outstanding) == (size if kept else None, 5)
    assert bool(weighed.warnings) is not kept
    assert weighed.doubtful == (() if kept else (PoolTag(b"Pipo"),))


def test_paged_pool_is_bounded_by_what_can_be_committed():
    memory = {"physical_bytes": 4 * GB, "commit_limit_bytes": 9 * GB}
    assert weigh(paged=PoolUsage(7, 2, 5, 8 * GB), **memory).tags[0].paged.bytes == 8 * GB
    weighed = weigh(paged=PoolUsage(7, 2, 5, 10 * GB), **memory)
    assert weighed.tags[0].paged.bytes is None
    assert (
        "10,737,418,240 bytes, more than this machine can commit (9.00 GB), of the paged pool is doubtful"
        in (weighed.warnings[0])
    )


def test_more_blocks_than_fit_are_doubtful_and_their_bytes_are_not():
    weighed = weigh(PoolUsage(1 << 40, 2, (1 << 40) - 2, 4096), physical_bytes=8 * GB)
    usage = weighed.tags[0].nonpaged
    assert (usage.allocs, usage.frees, usage.outstanding, usage.bytes) == (None, None, None, 4096)


PLACES = {9600: ("x64", 0x28, 0x10, 0x4), 19041: ("x64", 0x38, 0x8, 0x10), 22000: ("x64", 0x50, 0x8, 0x10)}


@pytest.mark.parametrize("build", PLACES)
@pytest.mark.parametrize("bit", [41, 50, 63])
def test_a_flipped_bit_of_a_dump_is_told(tmp_path, capsys, build, bit):
    arch, row_bytes, bytes_at, _ = PLACES[build]
    machine = forge("quiet", build=build, arch=arch, pool_totals=True)
    dump = tmp_path / "a.dmp"
    machine.save(dump)
    assert main(["used", str(dump), "--format", "json"]) == 0
    intact = json.loads(capsys.readouterr().out)
    table = machine.read_virtual(machine.addresses["table:0"], machine.table_bytes)
    row = next(
        at
        for at in range(0, len(table), row_bytes)
        if machine.truth.tags.get(table[at : at + 4]) and machine.truth.tags[table[at : at + 4]].nonpaged_bytes
    )
    tag = table[row : row + 4]
    at = machine.addresses["table:0"] + row + bytes_at
    flipped = int.from_bytes(machine.read_virtual(at, 8), "little") ^ 1 << bit
    machine.write_virtual(at, flipped.to_bytes(8, "little"))
    machine.save(dump)
    assert main(["used", str(dump), "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    found = {entry["hex"]: entry for entry in document["tags"]}
    expected = {entry["hex"]: entry for entry in intact["tags"]}
    assert found[tag.hex()]["nonpaged"]["bytes"] is None
    assert any("doubtful" in warning for warning in document["warnings"])
    for other in set(expected) - {tag.hex()}:
        assert found[other] == expected[other]
    lost = expected[tag.hex()]["nonpaged"]["bytes"]
    assert document["totals"]["nonpaged_bytes"] == intact["totals"]["nonpaged_bytes"] - lost
    assert main([str(dump)]) == 1
    assert "PB" not in capsys.readouterr().out
