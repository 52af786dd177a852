"""ELF cores in all their forms."""

from __future__ import annotations

import struct

import pytest

from dumps.forge.vmfiles import elfcores, plain
from pykdext.errors import DumpFormatError, UnsupportedDumpError
from pykdext.targets.dump.crashdump import open_crashdump

PAGE = 0x1000


@pytest.fixture
def core(machine, tmp_path, opened):
    def open_core(**options):
        path = tmp_path / "core.elf"
        elfcores.save_core(machine, path, **options)
        return opened(path)

    return open_core


def check(dump, machine):
    for number, data in machine.memory.pages.items():
        assert dump._container.read_physical(number * PAGE, PAGE) == data
    assert dump.kernel_base == machine.kernel.base


def test_a_core_of_a_processor_that_was_not_in_long_mode(core, machine):
    check(core(machine_type=3), machine)


def test_more_segments_than_the_header_can_count(core, machine):
    check(core(many_headers=True), machine)


def test_segments_of_devices_are_no_harm(core, machine):
    ranges = [(0xFFFC0, 0x40), (0xFD000, 0x1000), (0, 0xC0000), (0x100000, 0x80000)]
    check(core(ranges=ranges), machine)


def test_where_segments_overlap_the_first_counts(core, machine):
    dump = core(ranges=[(0, 0xC0000), (0x400, 0x100), (0x100000, 0x80000), (0x100010, 0x20)])
    assert dump.facts.pages_present == 5 << 18
    check(dump, machine)


def test_a_32_bit_file_holds_memory_below_4_gib(machine, tmp_path, opened):
    path = tmp_path / "core.elf"
    elfcores.save_core(machine, path, narrow=True, ranges=[(0, 0x40000), (0x40000, 0x20000)])
    from pykdext.targets.dump.compressed import open_file
    from pykdext.targets.machine.containers import open_machine_image

    with open_file(str(path)) as file:
        memory = open_machine_image(file).memory
        for number, data in machine.memory.pages.items():
            if number < 0x60000:
                assert memory.read_physical(number * PAGE, PAGE) == data


def test_a_cut_core_is_read_as_far_as_it_goes(machine, tmp_path, opened):
    path = tmp_path / "core.elf"
    elfcores.save_core(machine, path)
    with open(path, "r+b") as file:
        file.truncate(0x13FF00000)
    dump = opened(path)
    assert dump.facts.pages_expected == 5 << 18
    assert dump.facts.pages_present < 5 << 18
    assert any("truncated" in text for text in dump.facts.warnings)


def test_text_of_a_linux_guest_is_no_header(core, machine):
    note = elfcores.pack_note(b"VMCOREINFO", 0, b"OSRELEASE=6.1.0\nPAGESIZE=4096\n".ljust(0x2000, b"\n"))
    assert core(note=note).facts.image.found_by == "the processors' registers"


def test_notes_that_are_cut_or_lie_do_no_harm(core, machine):
    check(core(note=elfcores.pack_note(b"QEMU", 0, b"\x01\0\0\0" + bytes(0x20))), machine)


def test_registers_of_a_user_process_are_one_candidate_among_others(core, machine):
    from dataclasses import replace

    from dumps.forge.vmfiles.pages import registers

    first, *others = registers(machine)
    dump = core(processors=[replace(first, cr3=0x77000, gs=0x1000, rip=0x401000), *others])
    assert dump.facts.image.found_by == "the processors' registers; 1 other refused"


@pytest.mark.parametrize(
    ("offset", "value", "word"),
    [
        (0x38, struct.pack("<H", 0), "segments"),
        (0x36, struct.pack("<H", 8), "segments"),
        (0x12, struct.pack("<H", 8), "machine 0x8"),
        (0x05, b"\2", "little-endian"),
        (0x20, struct.pack("<Q", 1 << 62), "without memory"),
        (0x28, struct.pack("<QIHHH", (1 << 64) - 1, 0, 0x40, 0x38, 0xFFFF), "segments"),
    ],
)
def test_headers_that_cannot_be_true(machine, tmp_path, offset, value, word):
    path = tmp_path / "core.elf"
    elfcores.save_core(machine, path)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(value)
    with pytest.raises((DumpFormatError, UnsupportedDumpError), match=word):
        open_crashdump(str(path))


def test_pages_beyond_what_processors_have_are_no_harm(machine, tmp_path):
    path = tmp_path / "core.xen"
    plain.save_xen(machine, path)
    with open(path, "r+b") as file:
        for place, number in ((3, 1 << 37), (5, 1 << 60)):
            file.seek(0x100 + 8 * place)
            file.write(struct.pack("<Q", number))
    with pytest.raises(DumpFormatError, match="without a Windows kernel"):  # two of its pages are gone
        open_crashdump(str(path))
