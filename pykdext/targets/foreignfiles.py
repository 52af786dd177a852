"""Files that are taken for dumps and hold no memory, or hold it in a way that is not read: what they are, what helps.

Magic numbers: QEMU's migration stream, libvirt's ``qemu_saveimage.h``, Microsoft's PO_MEMORY_IMAGE, VirtualBox's SSM,
libewf, the AFF4 standard, and the published forms of disk images.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from pykdext.errors import DumpFormatError


class ForeignFile(NamedTuple):
    """What a file is, in words, and what to do instead."""

    found: str
    hint: str


NMI = (
    "an NMI makes Windows write a dump itself (virsh inject-nmi VM; Proxmox: qm monitor ID, nmi; "
    "Hyper-V: Debug-VM -InjectNonMaskableInterrupt; az serial-console send nmi; aws ec2 send-diagnostic-interrupt)"
)
"""The first thing to try while the machine still hangs."""

_QEMU_MEMORY = (
    "else take its memory: virsh dump --memory-only VM FILE, or in QEMU's monitor dump-guest-memory FILE "
    "or pmemsave 0 SIZE FILE"
)
_STREAM = ForeignFile(
    "a QEMU migration stream (savevm, virsh save, a Proxmox snapshot with RAM)",
    f"restore the machine; {NMI}; {_QEMU_MEMORY}",
)
_LIBVIRT = ForeignFile(
    "a libvirt save file (virsh save, or virsh dump without --memory-only)",
    f"restore the machine with virsh restore; {NMI}; {_QEMU_MEMORY}",
)
_HIBERNATION = ForeignFile(
    "a hibernation file", f"it is compressed by Windows and is not read: resume the machine; {NMI}"
)
_EXPERT_WITNESS = ForeignFile(
    "an EnCase image (E01)", "export its content as raw first: ewfexport -f raw -t FILE IMAGE.E01"
)
_DISK = "a disk holds no memory: take a snapshot with memory, or a dump"

_FOREIGN_FILES = (
    (0, b"QEVM", _STREAM),
    (0, b"LibvirtQemudSave", _LIBVIRT),
    (0, b"LibvirtQemudPart", _LIBVIRT),
    (0, b"HIBR", _HIBERNATION),
    (0, b"hibr", _HIBERNATION),
    (0, b"RSTR", ForeignFile("a hibernation file that was resumed from", f"its content is used up: {NMI}")),
    (0, b"WAKE", ForeignFile("a hibernation file that was resumed from", f"its content is used up: {NMI}")),
    (0, b"wake", ForeignFile("a hibernation file that was resumed from", f"its content is used up: {NMI}")),
    (0, b"\x81\x81xpress", _HIBERNATION),
    (0, b"EVF\x09\x0d\x0a\xff\x00", _EXPERT_WITNESS),
    (0, b"EVF2\x0d\x0a\x81\x00", _EXPERT_WITNESS),
    (
        0,
        b"\x7fVirtualBox SavedState",
        ForeignFile(
            "a saved state of VirtualBox",
            "start the machine again and type: VBoxManage debugvm VM dumpvmcore --filename FILE (its core is read)",
        ),
    ),
    (0, b"AVML", ForeignFile("an AVML image", "AVML images Linux; of Windows take a raw image or a dump")),
    (
        0,
        b"\xff\x06\x00\x00sNaPpY",
        ForeignFile("a snappy stream", "unpack it first: snzip -d FILE; a raw image of memory is read"),
    ),
    (0, b"vhdxfile", ForeignFile("a virtual disk (VHDX)", f"{_DISK}; Hyper-V keeps memory in the .vmrs file")),
    (0, b"conectix", ForeignFile("a virtual disk (VHD)", _DISK)),
    (0, b"KDMV", ForeignFile("a virtual disk (VMDK)", f"{_DISK}; VMware keeps memory in .vmem or .vmsn")),
    (0, b"# Disk DescriptorFile", ForeignFile("a virtual disk's description (VMDK)", _DISK)),
    (0, b"PK\x05\x06", ForeignFile("an empty ZIP archive", "the dump did not get into it")),
    (
        0,
        b"MSCF",
        ForeignFile("a cabinet archive", "unpack it first: 'expand -F:* FILE FOLDER' on Windows, cabextract elsewhere"),
    ),
    (0, b"7z\xbc\xaf\x27\x1c", ForeignFile("a 7-Zip archive", "unpack it first: 7z x FILE")),
    (0, b"Rar!\x1a\x07", ForeignFile("a RAR archive", "unpack it first: unrar x FILE")),
    (0, b"BZh", ForeignFile("a bzip2 file", "unpack it first: bunzip2 FILE")),
    (0, b"\x28\xb5\x2f\xfd", ForeignFile("a Zstandard file", "unpack it first: unzstd FILE")),
    (0x101, b"ustar", ForeignFile("a tar archive", "unpack it first: tar xf FILE")),
    (0, b"MZ", ForeignFile("a program file", "give a crash dump")),
    (0, b"QFI\xfb", ForeignFile("a virtual disk (qcow2)", f"{_DISK}; {_QEMU_MEMORY}")),
)
"""Offset and bytes by which a file is known, and what it is."""

AFF4_MEMBER = "information.turtle"
"""The member that every AFF4 volume, a ZIP archive, has."""

AFF4 = ForeignFile(
    "an AFF4 image", "export its memory as a raw image with the tool that made it (winpmem --export, or aff4imager)"
)


def describe_zeros(path: str) -> DumpFormatError:
    """The error for a file in which nothing but zeros stands."""
    found, expected = "nothing but zeros", "a kernel dump, or the memory of a machine"
    hint = f"the dump was allocated, but never written, or the image was never filled; {NMI}"
    return DumpFormatError(path, 0, found, expected, hint)


def recognise_foreign(head: bytes) -> Optional[ForeignFile]:
    """What a file that begins with ``head`` is, if it is one of those that are not read."""
    return next((file for offset, magic, file in _FOREIGN_FILES if head.startswith(magic, offset)), None)
