"""The table of process and thread numbers: it agrees with the list, and has those whom the list lacks."""

from __future__ import annotations

import struct
from contextlib import contextmanager

import pytest

from dumps.forge import forge
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.pipeline.holders import list_processes
from pykdext.pipeline.sources import open_source
from pykdext.targets.dump.crashdump import open_crashdump
from tests.helpers.objectmachines import make_machine

LINKS = 0x448
FLAGS = 0x510


@contextmanager
def open_counting(machine, folder):
    path = folder / "numbers.dmp"
    machine.save(path)
    target = open_crashdump(str(path))
    try:
        yield ObjectSpace(open_kernel(target), counts_twice=True)
    finally:
        target.close()


def neighbours(machine, process):
    return struct.unpack("<2Q", machine.read_virtual(process.va + LINKS, 16))


def unlink(machine, process):
    """Take a process off the list, as rootkits do: its neighbours know each other only."""
    after, before = neighbours(machine, process)
    machine.write_virtual(before, struct.pack("<Q", after))
    machine.write_virtual(after + 8, struct.pack("<Q", before))


@pytest.mark.parametrize(("arch", "build"), [("x64", 7601), ("x64", 9600), ("arm64", 22000), ("x86pae", 2600)], ids=str)
def test_both_agree_on_every_generation(arch, build, tmp_path):
    machine = make_machine("zombies", build, arch)
    with open_counting(machine, tmp_path) as space:
        numbers, found = space.numbers, space.processes
    truth = machine.truth.objects
    assert numbers.processes == len(truth.processes) == len(found.processes)
    assert numbers.threads == truth.numbered_threads
    assert (numbers.unlisted, numbers.unnumbered, numbers.unknown, numbers.is_whole) == ((), 0, 0, True)
    assert found.unlisted == ()
    assert found.warnings == ()


def test_a_process_that_was_taken_off_the_list_is_named(tmp_path):
    machine = forge("zombies", leaked=100, healthy_share=32)
    hidden = machine.truth.objects.process(2428)
    unlink(machine, hidden)
    path = tmp_path / "hidden.dmp"
    machine.save(path)
    with open_source(str(path)) as source:
        report = list_processes(source, "handles", None)
    assert report.sentence.endswith(
        "Not on the kernel's list of processes, but numbered as one: watchman.exe (pid 2428)."
    )
    assert hidden.va in {process.address for process in report.processes}
    assert report.numbers.processes == report.found
    assert report.warnings == ()


def test_what_lies_between_two_tears_is_found_by_number(tmp_path):
    machine = forge("zombies", leaked=100, healthy_share=32)
    processes = machine.truth.objects.processes
    first, last = processes[40], processes[90]
    machine.write_virtual(neighbours(machine, first)[1], struct.pack("<Q", 0xDEAD0000))
    machine.write_virtual(neighbours(machine, last)[0] + 8, struct.pack("<Q", 0xDEAD0000))
    with open_counting(machine, tmp_path) as space:
        found = space.processes
    assert {process.address for process in found.processes} == {process.va for process in processes}
    assert any("torn" in warning for warning in found.warnings)
    assert any("found by the table of numbers" in warning for warning in found.warnings)


def test_threads_that_have_exited_are_counted(tmp_path):
    machine = forge("zombies", leaked=100, healthy_share=32)
    with open_counting(machine, tmp_path) as space:
        table = space.kernel.find_variable("PspCidTable")
        bodies = [body for body in space.tables.read(table).headers if machine.read_virtual(body, 1) == b"\x06"]
    for body in bodies[::3]:
        machine.write_virtual(body + FLAGS, struct.pack("<I", 1))
    with open_counting(machine, tmp_path) as space:
        assert space.numbers.exited_threads == len(bodies[::3])


def test_a_table_that_is_not_in_memory_or_leads_nowhere(tmp_path):
    machine = forge("zombies", leaked=100, healthy_share=32)
    page = machine.addresses["handles:0:0"]
    machine.write_virtual(page, struct.pack("<Q", 0xDEADBEEF0001 << 16 | 1) * 512)
    with open_counting(machine, tmp_path) as space:
        numbers, found = space.numbers, space.processes
    assert numbers.unknown == 255
    assert numbers.unnumbered > 0
    assert found.unlisted == ()
    assert len(found.processes) == len(machine.truth.objects.processes)
    variable = machine.kernel.base + machine.kernel.variables["PspCidTable"]
    for value in (0, 0xFFFFDEAD00000000):
        machine.write_virtual(variable, struct.pack("<Q", value))
        with open_counting(machine, tmp_path) as space:
            assert space.numbers is None
            assert len(space.processes.processes) == len(machine.truth.objects.processes)
