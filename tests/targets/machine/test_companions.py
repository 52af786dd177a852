"""A .vmem file and the .vmsn or .vmss that describes it."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace

import pytest

from dumps.forge.vmfiles import vmware
from dumps.forge.vmfiles.pages import registers
from pykdext.errors import DumpFormatError, TargetError, UnsupportedDumpError
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.machine.vmware import holds_memory

PAGE = 0x1000


@pytest.fixture(scope="module")
def folder_of(machine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vmware")
    vmware.save_vmem(machine, folder / "memory")

    def make(tmp_path):
        os.link(folder / "memory", tmp_path / "server.vmem")
        return tmp_path / "server.vmem"

    return make


@pytest.mark.parametrize("name", ["server.vmsn", "server.vmss", "Snapshot 7 of another name.vmsn"])
def test_the_one_that_fits_is_found(machine, folder_of, tmp_path, opened, name):
    path = folder_of(tmp_path)
    vmware.save_state(machine, tmp_path / name)
    assert opened(path).facts.kind == f"VMware memory image (with {name})"


@pytest.mark.parametrize("magic", [0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1, 0xBAD2BAD2])
def test_every_kind_of_state_describes(machine, folder_of, tmp_path, opened, magic):
    path = folder_of(tmp_path)
    vmware.save_state(machine, tmp_path / "server.vmss", magic=magic)
    assert "with server.vmss" in opened(path).facts.kind


def test_one_of_another_machine_is_not_used(machine, folder_of, tmp_path, opened):
    path = folder_of(tmp_path)
    vmware.save_state(machine, tmp_path / "server.vmsn", regions=[(0, 0, 0x40000)])
    dump = opened(path)
    assert dump.facts.kind == "VMware memory image"
    assert "server.vmsn does not describe this file's memory: it was not used" in dump.facts.warnings
    with pytest.raises(DumpFormatError, match="is of another machine or snapshot"):
        open_crashdump(str(path), metadata_path=str(tmp_path / "server.vmsn"))


def test_registers_of_another_machine_lead_nowhere_and_do_no_harm(machine, folder_of, tmp_path, opened):
    path = folder_of(tmp_path)
    foreign = [replace(cpu, cr3=0x123000, gs=0, rip=0xFFFFF80012345678) for cpu in registers(machine)]
    vmware.save_state(machine, tmp_path / "server.vmsn", processors=foreign)
    dump = opened(path)
    assert dump.kernel_base == machine.kernel.base
    assert "others refused" in dump.facts.image.found_by or "1 other refused" in dump.facts.image.found_by


def test_of_several_that_fit_the_user_must_choose(machine, folder_of, tmp_path, opened):
    path = folder_of(tmp_path)
    for name in ("a.vmsn", "b.vmsn"):
        vmware.save_state(machine, tmp_path / name)
    with pytest.raises(TargetError, match=r"2 state files that fit it .a\.vmsn, b\.vmsn.*--meta FILE"):
        open_crashdump(str(path))
    assert "with b.vmsn" in opened(path, metadata_path=str(tmp_path / "b.vmsn")).facts.kind


def test_without_one_the_hole_is_assumed_and_said(machine, folder_of, tmp_path, opened):
    dump = opened(folder_of(tmp_path))
    assert dump.modules()[0].name == "ntoskrnl.exe"
    assert any("memory from 3 GiB on is taken to lie above 4 GiB" in text for text in dump.facts.warnings)


def test_what_is_named_must_be_a_state_file(folder_of, tmp_path):
    path = folder_of(tmp_path)
    (tmp_path / "x.vmsn").write_bytes(b"something else")
    with pytest.raises(DumpFormatError, match="expected a VMware state file"):
        open_crashdump(str(path), metadata_path=str(tmp_path / "x.vmsn"))
    with pytest.raises(TargetError, match="cannot be opened"):
        open_crashdump(str(path), metadata_path=str(tmp_path / "none.vmsn"))


def test_only_states_with_memory_hold_memory(machine, tmp_path):
    vmware.save_state(machine, tmp_path / "a.vmsn")
    assert not holds_memory(str(tmp_path / "a.vmsn"))
    vmware.save_inline(machine, tmp_path / "b.vmsn")
    assert holds_memory(str(tmp_path / "b.vmsn"))
    (tmp_path / "c.vmsn").write_bytes(b"\xd2\xbe\xd2\xbe")
    assert not holds_memory(str(tmp_path / "c.vmsn"))


def test_memory_in_a_compressed_block_is_refused(machine, tmp_path):
    vmware.save_inline(machine, tmp_path / "a.vmsn")
    data = bytearray((tmp_path / "a.vmsn").open("rb").read(0x1000))
    at = data.index(b"\xbf\x06Memory")
    data[at] = 0xBE
    (tmp_path / "a.vmsn").write_bytes(data)
    with pytest.raises(UnsupportedDumpError, match="compressed block"):
        open_crashdump(str(tmp_path / "a.vmsn"))


def pack(path, *files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            archive.write(file, file.name)
    return path


def find_runs(machine):
    """The machine's pages as regions without holes between them, and zeros behind, so that little must be packed."""
    regions, at = [], 0
    for frame in sorted(machine.memory.pages):
        if regions and sum(regions[-1][::2]) == frame:
            regions[-1] = (*regions[-1][:2], regions[-1][2] + 1)
        else:
            regions.append((frame, at, 1))
        at += 1
    return [*regions, (0x200000, at, 0x1000)]


@pytest.fixture(scope="module")
def packed(machine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    vmware.save_vmem(machine, folder / "server.vmem", find_runs(machine))
    vmware.save_state(machine, folder / "right.vmsn", find_runs(machine))
    vmware.save_state(machine, folder / "wrong.vmsn", [(0, 0, 0x40000)])
    return folder


def test_an_archive_of_memory_and_state_is_read_as_the_two(machine, packed, tmp_path, opened):
    files = [packed / name for name in ("server.vmem", "right.vmsn", "wrong.vmsn")]
    dump = opened(pack(tmp_path / "server.zip", *files))
    assert dump.facts.kind == "VMware memory image (with right.vmsn)"
    assert dump.kernel_base == machine.kernel.base


def test_archives_with_several_that_fit_or_none(packed, tmp_path):
    (tmp_path / "twin.vmsn").write_bytes((packed / "right.vmsn").read_bytes())
    path = pack(tmp_path / "two.zip", packed / "server.vmem", packed / "right.vmsn", tmp_path / "twin.vmsn")
    with pytest.raises(TargetError, match=r"2 state files that fit it .right\.vmsn, twin\.vmsn"):
        open_crashdump(str(path))
    (tmp_path / "cut.vmsn").write_bytes(b"\xd2\xbe\xd2\xbe\xff")
    path = pack(tmp_path / "none.zip", packed / "server.vmem", packed / "wrong.vmsn", tmp_path / "cut.vmsn")
    with pytest.raises(DumpFormatError, match="without a Windows kernel"):  # memory is laid out otherwise
        open_crashdump(str(path))


def test_an_archive_of_a_state_with_its_memory(machine, tmp_path, opened, monkeypatch):
    monkeypatch.setattr(vmware, "plan_regions", find_runs)
    vmware.save_inline(machine, tmp_path / "server.vmsn")
    dump = opened(pack(tmp_path / "server.zip", tmp_path / "server.vmsn"))
    assert dump.facts.kind == "VMware snapshot with memory"
    assert dump.kernel_base == machine.kernel.base
