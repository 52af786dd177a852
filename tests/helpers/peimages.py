"""PE images made by tests: as they lie in memory, and as files."""

from __future__ import annotations

import struct
from typing import Mapping, NamedTuple, Sequence, Tuple

PAGE = 0x1000
CODE, CONSTANTS, VARIABLES = 0x68000020, 0x48000040, 0xC8000040
X86, X64, ARM64 = 0x14C, 0x8664, 0xAA64
EXPORT, IMPORT, EXCEPTION, DEBUG, DELAY_IMPORT = 0, 1, 3, 6, 13


class Part(NamedTuple):
    """A section: its bytes at ``rva``; in memory it has ``virtual_bytes`` (0: as many as the bytes)."""

    name: bytes
    rva: int
    data: bytes
    characteristics: int
    virtual_bytes: int = 0


def build_headers(
    parts: Sequence[Part],
    offsets: Sequence[int],
    *,
    machine: int = X64,
    base: int = 0x140000000,
    directories: Mapping[int, Tuple[int, int]] = {},
    timestamp: int = 0x5F000000,
    subsystem: int = 0,
) -> bytes:
    table = b"".join(
        struct.pack(
            "<8s6I4xI",
            part.name,
            part.virtual_bytes or len(part.data),
            part.rva,
            len(part.data),
            offset,
            0,
            0,
            part.characteristics,
        )
        for part, offset in zip(parts, offsets)
    )
    entries = b"".join(struct.pack("<II", *directories.get(index, (0, 0))) for index in range(16))
    size = max(part.rva + (part.virtual_bytes or len(part.data)) for part in parts)
    bases = struct.pack("<4xI", base) if machine == X86 else struct.pack("<Q", base)
    optional = struct.pack("<H14xI4x", 0x10B if machine == X86 else 0x20B, parts[0].rva) + bases
    optional += struct.pack("<24xIIIH2x", -(-size // PAGE) * PAGE, PAGE, 0x1234, subsystem)
    optional += bytes(20 if machine == X86 else 36) + struct.pack("<I", 16) + entries
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    header = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, len(parts), timestamp, 0, 0, len(optional), 0x22)
    return (dos + header + optional + table).ljust(PAGE, b"\0")


def build_memory(*parts: Part, **options) -> bytes:
    """The image mapped, at least one page a section."""
    memory = bytearray(build_headers(parts, [0x400] * len(parts), **options))
    for part in sorted(parts, key=lambda part: part.rva):
        memory += bytes(part.rva - len(memory)) + part.data
    end = max(part.rva + (part.virtual_bytes or len(part.data)) for part in parts)
    return bytes(memory).ljust(-(-end // PAGE) * PAGE, b"\0")


def build_file(*parts: Part, **options) -> bytes:
    """The image as a file: the raw data of the sections one behind another."""
    offsets, offset = [], PAGE
    for part in parts:
        offsets.append(offset)
        offset += -(-len(part.data) // 0x200) * 0x200
    file = bytearray(build_headers(parts, offsets, **options))
    for part, offset in zip(parts, offsets):
        file += bytes(offset - len(file)) + part.data
    return bytes(file)
