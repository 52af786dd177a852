"""Every file that is taken for memory and holds none says what it is, and what helps."""

from __future__ import annotations

import struct

import pytest

from dumps.forge.vmfiles import savedstates, vmware
from pykdext.errors import DumpFormatError
from pykdext.targets.dump.crashdump import open_crashdump

MIB = 1 << 20

HEADS = [
    (b"QEVM" + struct.pack(">I", 3), "QEMU migration stream", "virsh dump --memory-only"),
    (b"LibvirtQemudSave" + bytes(0x40), "libvirt save file", "virsh restore"),
    (b"LibvirtQemudPart" + bytes(0x40), "libvirt save file", "virsh restore"),
    (b"HIBR", "hibernation file", "NMI"),
    (b"hibr", "hibernation file", "NMI"),
    (b"RSTR", "resumed from", "NMI"),
    (b"WAKE", "resumed from", "NMI"),
    (b"\x81\x81xpress", "hibernation file", "NMI"),
    (b"EVF\x09\x0d\x0a\xff\x00", "EnCase image", "ewfexport"),
    (b"EVF2\x0d\x0a\x81\x00", "EnCase image", "ewfexport"),
    (b"\x7fVirtualBox SavedState V2.0\n", "saved state of VirtualBox", "debugvm VM dumpvmcore"),
    (b"AVML", "AVML image", "raw image"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy stream", "snzip -d"),
    (b"vhdxfile", "virtual disk (VHDX)", ".vmrs"),
    (b"conectix", "virtual disk (VHD)", "holds no memory"),
    (b"KDMV", "virtual disk (VMDK)", ".vmem"),
    (b"# Disk DescriptorFile\n", "virtual disk", "holds no memory"),
    (b"QFI\xfb", "virtual disk (qcow2)", "pmemsave"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip archive", "7z x"),
    (b"MZ", "program file", "crash dump"),
]


def refusal(path, **options):
    with pytest.raises(DumpFormatError) as caught:
        open_crashdump(str(path), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("head", "found", "hint"), HEADS, ids=[found for _, found, _ in HEADS])
@pytest.mark.parametrize("size", [64 << 10, 32 * MIB], ids=["small", "large"])
def test_a_head_says_what_the_file_is(tmp_path, head, found, hint, size):
    path = tmp_path / "server.bin"
    path.write_bytes(head)
    with open(path, "r+b") as file:
        file.truncate(size)
    text = refusal(path)
    assert found in text
    assert hint in text


def test_the_first_advice_is_an_nmi(tmp_path):
    path = tmp_path / "save"
    path.write_bytes(b"QEVM" + bytes(0x1000))
    hint = refusal(path).partition("Hint:")[2]
    assert hint.index("virsh inject-nmi") < hint.index("--memory-only")
    assert "Debug-VM" in hint
    assert "qm monitor" in hint


def test_an_image_that_begins_with_zeros_is_not_called_never_written(tmp_path):
    path = tmp_path / "memory.raw"
    with open(path, "wb") as file:
        file.seek(20 * MIB)
        file.write(b"\x53\xff\x00\xf0" * 0x400)
        file.truncate(24 * MIB)
    text = refusal(path)
    assert "never written" not in text
    assert "raw memory image without a Windows kernel" in text


@pytest.mark.parametrize("is_sparse", [True, False])
def test_zeros_alone_are_called_so(tmp_path, is_sparse):
    path = tmp_path / "memory.raw"
    with open(path, "wb") as file:
        file.truncate(24 * MIB) if is_sparse else file.write(bytes(24 * MIB))
    text = refusal(path)
    assert "zeros" in text
    assert "never written" in text


def test_snapshots_without_memory_say_which_box_to_tick(machine, tmp_path):
    path = tmp_path / "server-Snapshot1.vmsn"
    vmware.save_without_memory(machine, path)
    text = refusal(path)
    assert "VMware state file without memory" in text
    assert "Snapshot the virtual machine's memory" in text


def test_a_state_file_leads_to_its_memory_file(machine, tmp_path):
    path = tmp_path / "server-Snapshot1.vmsn"
    vmware.save_state(machine, path)
    assert "server-Snapshot1.vmem: fetch that, too" in refusal(path)
    path.with_suffix(".vmem").write_bytes(b"")
    assert "server-Snapshot1.vmem: give that file" in refusal(path)


def test_a_production_checkpoint_says_how_to_take_another(machine, tmp_path):
    path = tmp_path / "server.vmrs"
    savedstates.save_state(machine, path, without_memory=True)
    text = refusal(path)
    assert "Hyper-V without memory" in text
    assert "CheckpointType Standard" in text


def test_old_files_of_vmware_and_hyper_v_are_refused_kindly(tmp_path):
    path = tmp_path / "old.vmss"
    path.write_bytes(b"\xd0\xbe\xd2\xbe" + bytes(0x100))
    assert "old VMware product" in refusal(path)
    path.write_bytes(savedstates.pack_storage({"/savedVM/x": (savedstates.UINT, bytes(8))}))
    assert "2012 R2" in refusal(path)
    path.write_bytes(savedstates.pack_storage({"/a": (savedstates.UINT, bytes(8))}, version=0x100))
    assert "format version 0x100" in refusal(path)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_other_elf_files_are_no_cores(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", kind, 0x3E, 1) + bytes(0x100))
    assert "a core of a virtual machine" in refusal(path)
