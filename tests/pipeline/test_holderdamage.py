"""Who holds objects on damaged machines: what could be read is told, what could not is said, nothing is made up."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import forge
from pykdext.kernel.objects import handletables
from pykdext.model import PoolTag
from pykdext.model.objects import HolderKind
from pykdext.pipeline.holders import find_holders, list_processes
from pykdext.pipeline.sources import open_source

OBJECT_TABLE = 0x570  # EPROCESS of 19041
LINKS = 0x448
SLOTS, CODE, COUNT = 0, 8, 0x58  # HANDLE_TABLE of 19041; the count of its first free list
HOLDER = 4312


def make(scenario="handles", leaked=6_000):
    return forge(scenario, leaked=leaked, healthy_share=64)


def number(machine, va, size=8):
    return int.from_bytes(machine.read_virtual(va, size), "little")


def table_of(machine, pid=HOLDER):
    return number(machine, machine.truth.objects.process(pid).va + OBJECT_TABLE)


def reports(machine, folder, tag="Even"):
    machine.save(folder / "damaged.dmp")
    with open_source(str(folder / "damaged.dmp")) as source:
        return find_holders(source, PoolTag.from_text(tag)), list_processes(source, "handles", None)


@pytest.mark.parametrize("level", [0, 2, 3])
def test_a_wrong_level_is_seen_by_the_count(level, tmp_path):
    machine = make()
    table = table_of(machine)
    code = number(machine, table + CODE)
    assert code & 3 == 1
    machine.write_virtual(table + CODE, struct.pack("<Q", code & ~3 | level))
    holders, _ = reports(machine, tmp_path)
    assert (holders.kind, holders.grade) == (HolderKind.HANDLES, "proven")
    assert holders.holders[0].read == machine.truth.objects.process(HOLDER).handles
    assert any("its level is wrong, read as level 1" in warning for warning in holders.warnings)


def test_pages_that_lead_nowhere_leave_the_holder_open(tmp_path):
    machine = make()
    top = number(machine, table_of(machine) + CODE) & ~7
    machine.write_virtual(top, bytes(0x1000))
    holders, processes = reports(machine, tmp_path)
    told = machine.truth.objects.process(HOLDER).handles
    assert (holders.kind, holders.holder) == (HolderKind.UNKNOWN, None)
    assert (
        f"{told:,} handles of printmon.exe (pid 4312) could not: who has the others is not known." in holders.sentence
    )
    assert processes.processes[0].handles == told


@pytest.mark.parametrize("count", [-6_000, 0x7FFFFFF0])
def test_counts_that_cannot_be_are_counted_anew(count, tmp_path):
    machine = make()
    machine.write_virtual(table_of(machine) + COUNT, struct.pack("<i", count))
    _, processes = reports(machine, tmp_path)
    first = processes.processes[0]
    assert (first.pid, first.handles) == (HOLDER, machine.truth.objects.process(HOLDER).handles)


def test_where_all_counts_are_damaged_not_all_tables_are_walked(tmp_path, monkeypatch):
    machine = make()
    machine.write_virtual(table_of(machine) + COUNT, struct.pack("<i", -6_000))
    monkeypatch.setattr(handletables, "MAX_COUNTED_IN_ALL", 1_024)
    _, processes = reports(machine, tmp_path)
    assert {process.pid: process.handles for process in processes.processes}[HOLDER] is None
    assert processes.warnings == (f"processes: the handles of 1 of {len(processes.processes)} cannot be counted",)


def test_ten_million_claimed_handles_are_not_believed_in(tmp_path):
    machine = make()
    table = table_of(machine)
    machine.write_virtual(table + SLOTS, struct.pack("<I", 40_000_000))
    machine.write_virtual(table + COUNT, struct.pack("<i", 10_000_000))
    holders, _ = reports(machine, tmp_path)
    read = machine.truth.objects.process(HOLDER).handles
    assert holders.holders[0].read == read
    assert f"({read:,} of 9,999,982 handles read)." in holders.sentence


def test_without_any_handle_table_no_number_is_told(tmp_path):
    machine = make()
    for block in machine.truth.blocks[b"Obtb"]:
        machine.omit(block.va, block.size)
    holders, processes = reports(machine, tmp_path)
    assert "None of them was found in the handle tables that could be read" in holders.sentence
    assert f"{len(processes.processes)} processes whose handles cannot be counted" in processes.sentence
    assert processes.warnings[-1].endswith("cannot be counted")


def test_the_head_of_the_list_may_be_torn(tmp_path):
    machine = make()
    head = machine.addresses["nt"] + machine.kernel.variables["PsActiveProcessHead"]
    machine.write_virtual(head, struct.pack("<Q", 0x1234))
    _, processes = reports(machine, tmp_path)
    assert len(processes.processes) == len(machine.truth.objects.processes)
    assert "torn at 0x1234" in processes.warnings[0]
    machine.write_virtual(head + 8, struct.pack("<Q", 0x5678))
    holders, processes = reports(machine, tmp_path)
    assert processes.processes == ()
    assert processes.warnings == (
        f"processes: the head of their list at 0x{head:x} leads to 0x1234, which is not in memory",
    )
    assert holders.kind is HolderKind.UNKNOWN
