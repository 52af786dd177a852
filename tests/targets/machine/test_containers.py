"""The same machine from every container: the same pages, the same facts, the same modules."""

from __future__ import annotations

import pytest

from dumps.forge.vmfiles import vmware
from pykdext.errors import MemoryReadError
from tests.targets.machine.conftest import WRITERS

PAGE = 0x1000
HOLE = range(0xC0000, 0x100000)
SPARSE = {"xen", "kdump", "kdump-plain"}
"""Containers that hold the pages that exist only."""


@pytest.mark.parametrize("name", WRITERS)
def test_facts_and_modules_are_those_of_the_dump(container, dump_path, opened, name, machine):
    dump, image = opened(dump_path), opened(container(name))
    assert image.modules() == dump.modules()
    for fact in ("build", "processors", "machine", "taken_at", "uptime_seconds"):
        assert getattr(image.facts, fact) == getattr(dump.facts, fact)
    assert image.facts.bugcheck is None
    assert image.facts.boot_id == 42
    assert image.kernel_base == machine.kernel.base
    assert image.symbol("PsLoadedModuleList") == dump.symbol("PsLoadedModuleList")


@pytest.mark.parametrize("name", WRITERS)
def test_every_page_is_the_machines(container, opened, name, machine):
    memory = opened(container(name))._container
    for number, data in machine.memory.pages.items():
        assert memory.read_physical(number * PAGE, PAGE) == data, hex(number)
    assert max(machine.memory.pages) > 0x100000
    number = max(machine.memory.pages)
    assert (
        b"".join(part for _, part in memory.read_present_physical(number * PAGE, PAGE)) == machine.memory.pages[number]
    )


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "raw"])
def test_the_hole_is_no_memory(container, opened, name):
    memory = opened(container(name))._container
    for number in (HOLE.start, HOLE.start + 77, HOLE.stop - 1):
        with pytest.raises(MemoryReadError):
            memory.read_physical(number * PAGE, 8)
        assert not list(memory.read_present_physical(number * PAGE, PAGE))
    with pytest.raises(MemoryReadError):
        memory.read_physical(HOLE.start * PAGE - 8, 16)


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in SPARSE | {"raw"}])
def test_pages_of_zeros_are_memory(container, opened, name, machine):
    memory = opened(container(name))._container
    number = next(number for number in range(0x400, HOLE.start) if number not in machine.memory.pages)
    assert memory.read_physical(number * PAGE, PAGE) == bytes(PAGE)
    assert memory.present_pages == 5 << 18
    assert memory.end_address == 6 << 30


@pytest.mark.parametrize("name", WRITERS)
def test_reads_across_pages(container, opened, name, machine):
    memory = opened(container(name))._container
    pages = machine.memory.pages
    first = next(number for number in sorted(pages) if number + 1 in pages)
    both = bytes(pages[first] + pages[first + 1])
    assert memory.read_physical(first * PAGE + 0x123, PAGE) == both[0x123 : 0x123 + PAGE]
    parts = list(memory.read_present_physical(first * PAGE + 0x123, PAGE))
    assert b"".join(data for _, data in parts) == both[0x123 : 0x123 + PAGE]
    assert parts[0][0] == first * PAGE + 0x123


@pytest.mark.parametrize("name", ["vmem", "inline", "elf", "elf-note", "vbox", "kdump", "vmrs"])
def test_registers_and_notes_come_first(container, opened, name):
    found = opened(container(name)).facts.image.found_by
    assert found == ("a dump's header in the file" if name == "elf-note" else "the processors' registers")


def test_regions_may_be_in_any_order_in_the_file(machine, tmp_path, opened):
    regions = [(0x100000, 0, 0x80000), (0, 0x80000, 0x60000), (0x60000, 0xE0000, 0x60000)]
    vmware.save_vmem(machine, tmp_path / "a.vmem", regions)
    vmware.save_state(machine, tmp_path / "a.vmss", list(reversed(regions)))
    memory = opened(tmp_path / "a.vmem")._container
    for number, data in machine.memory.pages.items():
        assert memory.read_physical(number * PAGE, PAGE) == data


@pytest.mark.parametrize("padding", [0, 0x5, 0xFFF])
def test_memory_inside_the_state_file_is_padded(machine, tmp_path, opened, padding):
    vmware.save_inline(machine, tmp_path / "a.vmsn", padding)
    memory = opened(tmp_path / "a.vmsn")._container
    number = max(machine.memory.pages)
    assert memory.read_physical(number * PAGE, PAGE) == machine.memory.pages[number]
