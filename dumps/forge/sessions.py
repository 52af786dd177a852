"""Session space: page tables of each session's own, its structure's members, and the tag table of its pool.

Addresses of nt's variables and members of _MM_SESSION_SPACE by the public symbols of x64 kernels; 22000 and later have
no such table. Every session sees the table at one address, through its own page tables.
"""

from __future__ import annotations

import copy
import struct
from dataclasses import dataclass, field, replace
from typing import Dict

from dumps.forge.architectures import X64
from dumps.forge.kernels import KernelBuild
from dumps.forge.objects.blocks import BlockWriter
from dumps.forge.pagetables import AddressSpace
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.trackertables import OVERFLOW_TAG, TagTruth, pack_row, pack_table, place_tags

_VARIABLES = {
    # ExpSessionPoolTrackTable, ExpSessionPoolTrackTableSize
    7601: (0x2117A8, 0x2117B0), 9600: (0x2A26F8, 0x2A26F0), 14393: (0x2F8598, 0x2F8590), 17763: (0x409810, 0x409808),
    19041: (0xC190D0, 0xC190E8), 20348: (0xC1D528, 0xC1D530),
}  # fmt: skip
_SESSION_PLACES = {
    # MM_SESSION_SPACE: CommittedPages, PagedPoolInfo.AllocatedPagedPool
    7601: (0x38, 0xB98 + 0x60), 9600: (0x30, 0xB98 + 0x60), 14393: (0x30, 0xB60 + 0x30), 17763: (0x30, 0xB8 + 0x30),
    19041: (0x30, 0xA8 + 0x10), 20348: (0x30, 0xA8 + 0x10), 22000: (0x28, 0xA0 + 0x10),
}  # fmt: skip
_EXPANSION_AT = {7601: 0x1F30, 9600: 0x1F98, 14393: 0x1F78, 17763: 0x2028, 19041: 0x3D0, 20348: 0x3D0}
_SPACE_BYTES = 0x5000
_TABLE_VA = 0xFFFFF900C1200000
_ROWS = 256 + 1
_TAGS = (
    b"Gh05",
    b"Ttfd",
    b"Uspi",
    b"Gla1",
    b"Usqu",
    b"Gtmp",
    b"Uswi",
    b"DcOb",
    *(b"Us%02x" % number for number in range(110)),
    b"Gfnt",
)


@dataclass
class SessionSpaces:
    """The sessions that have page tables of their own; ``tags`` is what each of them counts."""

    roots: Dict[int, int] = field(default_factory=dict)
    structures: Dict[int, int] = field(default_factory=dict)
    tags: Dict[int, Dict[bytes, TagTruth]] = field(default_factory=dict)

    def claim_root(self, parts: Parts, session: int) -> int:
        """Return the frame of a session's top table, which is written at the end."""
        if session not in self.roots:
            self.roots[session] = parts.space.frames.take()
        return self.roots[session]


def add_session_variables(kernel: KernelBuild) -> KernelBuild:
    """Return a kernel that also knows where session pool is counted; ValueError where nobody told."""
    if kernel.architecture is not X64 or kernel.build not in _VARIABLES:
        raise ValueError(f"build {kernel.build}: only x64 kernels from Windows 7 to 20348 count session pool here")
    table, rows = _VARIABLES[kernel.build]
    known = {"ExpSessionPoolTrackTable": table, "ExpSessionPoolTrackTableSize": rows}
    return replace(kernel, variables={**kernel.variables, **known})


def write_structure(parts: Parts, blocks: BlockWriter, session: int) -> int:
    """Write the MM_SESSION_SPACE of a session, in system space, and return its address."""
    own = parts.sessions
    told = own is not None or (parts.frame_owners is not None and parts.kernel.build in _SESSION_PLACES)
    body = bytearray(struct.pack("<III", 1, 0, session))
    if told:
        body += bytes((_SPACE_BYTES if own is not None else 0xC00) - len(body))
        for place, pages in zip(_SESSION_PLACES[parts.kernel.build], (700 + session, 300)):
            struct.pack_into("<Q", body, place, pages)
    if own is not None:
        va = own.structures[session] = parts.regions.tables.take(_SPACE_BYTES)
        parts.space.store(va, bytes(body))
        return va
    va = blocks.reserve(b"MmSe", 0xC00 if told else 0x40, paged=False)
    blocks.put(va, bytes(body))
    return va


def write_session_spaces(parts: Parts, spaces: SessionSpaces) -> None:
    """Write page tables, tag tables and expansion of every session; the kernel's own tables lead to none of them."""
    parts.set_variable("ExpSessionPoolTrackTable", _TABLE_VA)
    parts.set_variable("ExpSessionPoolTrackTableSize", _ROWS)
    kernel, memory = parts.kernel, parts.space.memory
    views = []
    for session, root in spaces.roots.items():
        view: AddressSpace = copy.copy(parts.space)
        view.root_pfn = root
        tags = spaces.tags[session] = {
            tag: TagTruth(
                *((900 + number, 400, 0x60 * (500 + session)) if number % 3 == 0 else (0, 0, 0)),
                *(70_000 * (session + 1) + number, 61_000 + number, 0x200 * (9_000 + 1_000 * number + session)),
            )
            for number, tag in enumerate(_TAGS)
        }
        late = _TAGS[-1] if session % 2 else b""
        hashed = {tag: counters for tag, counters in tags.items() if tag != late}
        row_bytes = kernel.sizes.tracker_row
        rows = place_tags(hashed, _ROWS, kernel.build)
        packed = {row: pack_row(tag, hashed.get(tag, TagTruth()), row_bytes) for tag, row in rows.items()}
        assert OVERFLOW_TAG in rows
        views.append((view, session, pack_table(packed, _ROWS, row_bytes), late))
        place = spaces.structures[session] + _EXPANSION_AT[kernel.build]
        expansion = (_TABLE_VA + 0x40000, PAGE_BYTES // row_bytes) if late else (0, 0)
        parts.space.store(place, struct.pack("<QQ", *expansion))
    for view, session, table, late in views:
        memory.page(view.root_pfn)[:] = memory.page(parts.space.root_pfn)
        view.store(_TABLE_VA, table)
        if late:
            row = pack_row(late, spaces.tags[session][late], kernel.sizes.tracker_row)
            view.store(_TABLE_VA + 0x40000, row.ljust(PAGE_BYTES, b"\0"))
