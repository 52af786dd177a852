"""EPROCESS: what a process is, when it began and ended, what it has and what is charged to it."""

from __future__ import annotations

import struct
from typing import List, Tuple

from dumps.forge.architectures import X64
from dumps.forge.objects.layouts import ObjectLayouts
from dumps.forge.objects.truth import ProcessTruth
from dumps.forge.parts import Parts

_ALIVE = 0x103
_EXITING, _DELETED = 4, 8
_PROCESS_TYPE = 3
_WORKING_SET_AT = {
    7601: 0x3E0, 9600: 0x550, 14393: 0x580, 17763: 0x588, 19041: 0x708, 20348: 0x710, 22000: 0x710,
}  # fmt: skip
_LOCKED_PAGES_AT = {
    7601: 0x250, 9600: 0x390, 14393: 0x3A0, 17763: 0x3A0, 19041: 0x500, 20348: 0x500, 22000: 0x500,
}  # fmt: skip


def pack_process(parts: Parts, layouts: ObjectLayouts, truth: ProcessTruth, table_va: int) -> bytes:
    """Return the EPROCESS of a process, its link in the list of processes left zero."""
    layout, sizes = layouts.process, parts.kernel.sizes
    data = bytearray(sizes.eprocess)
    data[0] = _PROCESS_TYPE
    pack, zombie = parts.kernel.architecture.pack_pointers, bool(truth.exited_at)
    root = pack(parts.space.root_address)
    if parts.frame_owners is not None and truth.parent:
        root = pack(parts.frame_owners.claim_root(truth.pid))
    if parts.sessions is not None and truth.session is not None:
        root = pack(parts.sessions.claim_root(parts, truth.session) << 12)
    threads_va = truth.va + layout["ThreadListHead"]
    members: List[Tuple[int, bytes]] = [
        (sizes.process_root, root),
        (layout["UniqueProcessId"], pack(truth.pid)),
        (layout["CreateTime"], struct.pack("<Q", truth.created_at)),
        (layout["ExitTime"], struct.pack("<Q", truth.exited_at)),
        (layout["ExitStatus"], struct.pack("<i", 1 if zombie else _ALIVE)),
        (layout["Flags"], struct.pack("<I", 0x144D0C00 | (_EXITING | _DELETED) * zombie)),
        (layout["QuotaUsage"], pack(truth.nonpaged_charge, truth.paged_charge)),
        (layout["Parent"], pack(truth.parent)),
        (layout["Session"], pack(truth.session_va)),
        (layout["ObjectTable"], pack(table_va)),
        (layout["ImageFileName"], truth.image.encode("ascii")[:14].ljust(15, b"\0")),
        (layout["ThreadListHead"], pack(threads_va, threads_va)),
        (layout["ActiveThreads"], struct.pack("<I", truth.threads)),
        (layout["CommitCharge"], pack(truth.commit_pages)),
    ]
    if parts.kernel.build < 6003:  # XP to Vista count three quotas, paged pool second
        usage = pack(truth.nonpaged_charge, truth.paged_charge, 0)
        members.append((layout["QuotaUsage"], usage))
    if parts.kernel.architecture.name == X64.name and parts.kernel.build in _WORKING_SET_AT:
        members.append((_WORKING_SET_AT[parts.kernel.build], struct.pack("<I", truth.working_set_pages)))
        members.append((_LOCKED_PAGES_AT[parts.kernel.build], struct.pack("<Q", truth.threads)))
    for offset, piece in members:
        data[offset : offset + len(piece)] = piece
    return bytes(data)
