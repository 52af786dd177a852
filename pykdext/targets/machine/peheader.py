"""The header of an x64 image in memory, as far as the search for nt needs it. Layout: Microsoft's "PE Format"."""

from __future__ import annotations

import struct
from typing import Callable, NamedTuple, Optional, Tuple

MAX_HEADER_OFFSET = 0x1000
MAX_SECTIONS = 96
"""The loader's own limit."""

_X64 = 0x8664
_PE32_PLUS = 0x20B
_FILE_HEADER = struct.Struct("<4sHH12xH2x")
_OPTIONAL_HEADER_BYTES = 0x70
_MAX_DIRECTORIES = 16
_SECTION = struct.Struct("<8xII8x12xI")

Read = Callable[[int, int], Optional[bytes]]
"""Reads ``(rva, size)``: all the bytes, or None."""


class Section(NamedTuple):
    """Where a section stands in memory (RVA and bytes), and its flags."""

    rva: int
    size: int
    characteristics: int


class ImageHeader(NamedTuple):
    """The size of an x64 image, its data directories as ``(rva, size)``, and its sections, as far as they are there."""

    image_bytes: int
    directories: Tuple[Tuple[int, int], ...]
    sections: Tuple[Section, ...]

    def directory(self, number: int) -> Tuple[int, int]:
        """A data directory; ``(0, 0)`` if there is none."""
        return self.directories[number] if number < len(self.directories) else (0, 0)


def read_image_header(read: Read) -> Optional[ImageHeader]:
    """The header, or None: there is no x64 image."""
    dos = read(0, 0x40)
    if dos is None or not dos.startswith(b"MZ"):
        return None
    offset = int.from_bytes(dos[0x3C:0x40], "little")
    data = read(offset, _FILE_HEADER.size + _OPTIONAL_HEADER_BYTES) if offset <= MAX_HEADER_OFFSET else None
    if data is None:
        return None
    signature, machine, section_count, optional_bytes = _FILE_HEADER.unpack_from(data)
    start = _FILE_HEADER.size
    if (signature, machine) != (b"PE\0\0", _X64) or int.from_bytes(data[start : start + 2], "little") != _PE32_PLUS:
        return None
    image_bytes = int.from_bytes(data[start + 0x38 : start + 0x3C], "little")
    count = min(int.from_bytes(data[start + 0x6C : start + 0x70], "little"), _MAX_DIRECTORIES)
    listed = read(offset + len(data), count * 8) or b""
    table_at, sections = offset + start + optional_bytes, min(section_count, MAX_SECTIONS)
    table = read(table_at, sections * _SECTION.size) if sections else None
    return ImageHeader(
        image_bytes,
        tuple(struct.iter_unpack("<II", listed)),
        tuple(Section(rva, size, flags) for size, rva, flags in _SECTION.iter_unpack(table or b"")),
    )
