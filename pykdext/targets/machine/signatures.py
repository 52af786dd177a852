"""How the files begin that hold the memory of a machine, and how raw images, which begin anyhow, are usually named."""

from __future__ import annotations

ELF = b"\x7fELF"
KDUMP = b"KDUMP   "
FLATTENED = b"makedumpfile"
LIME = b"EMiL"
HYPERV = b"\x14\x20\x28\x01"

VMWARE = (b"\xd2\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe", b"\xd1\xba\xd1\xba", b"\xd2\xba\xd2\xba")
"""States of VMware's machines (.vmsn, .vmss): a whole one, a partial one, a restored one, and one more."""

OLD_VMWARE = (b"\xd0\xbe\xd2\xbe", b"\xd0\xbe\xd0\xbe")
"""Those of products before 2008, whose lengths have 32 bits."""

_CERTAIN = (KDUMP, FLATTENED, LIME, HYPERV)
_ELF_TYPE_AT, _ELF_CORE = 0x10, b"\x04\x00"

STATE_SUFFIXES = (".vmsn", ".vmss")
"""VMware's state files: of a snapshot, of a suspended machine."""

HEAD_BYTES = 0x12
"""So many bytes of a file :func:`is_machine_head` needs."""

RAW_SUFFIXES = (".vmem", ".raw", ".mem")
"""In a folder of many files raw images are told by their names: nothing in them says what they are."""


def is_machine_head(head: bytes) -> bool:
    """Whether a file that begins so says by itself that it holds memory: an ELF program does not.

    Nor does a VMware state, which may only describe the memory of another file.
    """
    return head.startswith(_CERTAIN) or (head.startswith(ELF) and head.startswith(_ELF_CORE, _ELF_TYPE_AT))
