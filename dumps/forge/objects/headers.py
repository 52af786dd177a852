"""OBJECT_HEADER and its optional parts (public symbols; before Windows 7 from the profiles of volatility)."""

from __future__ import annotations

import struct
from typing import Dict, NamedTuple, Optional

from dumps.forge.architectures import Architecture

CREATOR, NAME, HANDLES, QUOTA = 1, 2, 4, 8
SINGLE_HANDLE_ENTRY = 0x40

_CREATOR_FLAG_BEFORE_7 = 4
_FIRST_WITH_INDEX = 7000
_FIRST_WITH_COOKIE = 10240
_FIRST_WITH_INFLATED_COUNTS = 9600
_REFERENCES_OF_A_HANDLE = {False: 0x7FFF, True: 0x1F}


class HeaderForm(NamedTuple):
    """Sizes of the header and its parts, by the bit of each part; a part's bit decides where it stands."""

    size: int
    parts: Dict[int, int]

    def parts_bytes(self, mask: int) -> int:
        """Return the bytes of all parts in front of a header."""
        return sum(size for bit, size in self.parts.items() if mask & bit)

    def part_offset(self, mask: int, bit: int) -> int:
        """Return how far in front of the header a part begins; the lowest bit is nearest."""
        return sum(size for other, size in self.parts.items() if other <= bit and mask & other)


_WIDE = HeaderForm(0x30, {CREATOR: 0x20, NAME: 0x20, HANDLES: 0x10, QUOTA: 0x20})
_NARROW = HeaderForm(0x18, {CREATOR: 0x10, NAME: 0x10, HANDLES: 8, QUOTA: 0x10})


def header_form(architecture: Architecture) -> HeaderForm:
    """Return how headers are laid out; their size is the distance to the body."""
    return _NARROW if architecture.narrow else _WIDE


def encodes_types(build: int) -> bool:
    """Return whether type indexes are hidden by a cookie."""
    return build >= _FIRST_WITH_COOKIE


def pack_header(
    architecture: Architecture,
    build: int,
    va: int,
    *,
    handles: int,
    references: int,
    type_index: int,
    type_va: int,
    cookie: Optional[int],
    mask: int = 0,
    flags: int = 0,
    quota_va: int = 1,
) -> bytes:
    """Return the header at ``va``; ``references`` are those of the kernel itself, handles left out."""
    narrow = architecture.narrow
    each = _REFERENCES_OF_A_HANDLE[narrow] if build >= _FIRST_WITH_INFLATED_COUNTS else 1
    counts = (references + handles * each, handles)
    start = struct.pack("<ii" if narrow else "<qq", *counts)
    form = header_form(architecture)
    if build < _FIRST_WITH_INDEX:
        distances = [form.part_offset(mask, bit) if mask & bit else 0 for bit in (NAME, HANDLES, QUOTA)]
        if mask & CREATOR:
            flags |= _CREATOR_FLAG_BEFORE_7
        middle = architecture.pack_pointers(type_va) + bytes((*distances, flags))
    else:
        index = type_index if cookie is None else type_index ^ va >> 8 & 0xFF ^ cookie & 0xFF
        middle = architecture.pack_pointers(0) + bytes((index, 0, mask, flags))
    header = start + middle
    return header.ljust(0x10 if narrow else 0x20, b"\0") + architecture.pack_pointers(quota_va, 0)
