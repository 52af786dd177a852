"""The headers of a PE image, as they begin its file and, unchanged, its memory.

Layouts are those of Microsoft's "PE Format" page. The headers are told as they are; who uses them judges them.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional, Tuple

from construct import (
    Array,
    Bytes,
    ConstructError,
    GreedyRange,
    IfThenElse,
    Int16ul,
    Int32ul,
    Int64ul,
    Padding,
    Struct,
    this,
)

from pykdext.model import Machine
from pykdext.units import count_things

MAX_SECTIONS = 96
"""The loader's own limit for the section table (NumberOfSections)."""

MAX_HEADER_OFFSET = 0x10000
MAX_DIRECTORIES = 16

MACHINES = {0x014C: Machine.X86, 0x8664: Machine.X64, 0xAA64: Machine.ARM64}

_PE32_PLUS = 0x20B

_DOS_HEADER = Struct("magic" / Bytes(2), Padding(58), "new_header_offset" / Int32ul)

_FILE_HEADER = Struct(
    "signature" / Bytes(4),
    "machine" / Int16ul,
    "section_count" / Int16ul,
    "timestamp" / Int32ul,
    Padding(8),
    "optional_header_bytes" / Int16ul,
    Padding(2),
)

_OPTIONAL_HEADER = Struct(
    "magic" / Int16ul,
    Padding(14),
    "entry_rva" / Int32ul,
    Padding(4),
    "base" / IfThenElse(this.magic == _PE32_PLUS, Int64ul, Padding(4) >> Int32ul),  # PE32 has BaseOfData before it
    Padding(24),  # alignments and versions
    "image_bytes" / Int32ul,
    "header_bytes" / Int32ul,
    "checksum" / Int32ul,
    "subsystem" / Int16ul,
    Padding(2),
    IfThenElse(this.magic == _PE32_PLUS, Padding(36), Padding(20)),  # reserves of stack and heap, loader flags
    "directory_count" / Int32ul,
    "directories" / GreedyRange(Struct("rva" / Int32ul, "size" / Int32ul)),
)

_SECTION_HEADER = Struct(
    "name" / Bytes(8),
    "virtual_bytes" / Int32ul,
    "rva" / Int32ul,
    "raw_bytes" / Int32ul,
    "raw_offset" / Int32ul,
    Padding(12),
    "characteristics" / Int32ul,
)

ReadRange = Callable[[int, int], Optional[bytes]]
"""Reads ``(offset, size)``: all the bytes, or None."""


class PeHeaderError(Exception):
    """The headers cannot be used: ``found`` stood at ``offset`` where ``expected`` was wanted."""

    def __init__(self, offset: int, found: str, expected: str) -> None:
        super().__init__(f"found {found} at 0x{offset:x}, expected {expected}")
        self.offset = offset
        self.found = found
        self.expected = expected


class SectionHeader(NamedTuple):
    """An entry of the section table: where the section is in memory (RVA) and in the file, in bytes."""

    name: str
    rva: int
    virtual_bytes: int
    raw_offset: int
    raw_bytes: int
    characteristics: int


class PeHeaders(NamedTuple):
    """The fields that are of use here, in the table's order; names are the format's words in short.

    ``offset`` is that of the signature. ``machine`` is None for one that is not known, ``machine_code`` its number.
    ``subsystem``: what the image needs to run, 1 for nothing but the kernel. ``directories`` are ``(rva, size)``.
    ``sections`` are at most ``MAX_SECTIONS`` of the ``section_count`` that the header announces.
    """

    offset: int
    machine_code: int
    machine: Optional[Machine]
    timestamp: int
    entry_rva: int
    base: int
    image_bytes: int
    header_bytes: int
    checksum: int
    subsystem: int
    directories: Tuple[Tuple[int, int], ...]
    section_count: int
    sections: Tuple[SectionHeader, ...]


def read_pe_headers(read: ReadRange) -> PeHeaders:
    """The headers, or PeHeaderError if they are not there or are not those of a PE image."""
    dos = _DOS_HEADER.parse(_read(read, 0, _DOS_HEADER.sizeof()))
    offset = dos.new_header_offset
    if dos.magic != b"MZ":
        raise PeHeaderError(0, repr(dos.magic), "b'MZ'")
    if offset > MAX_HEADER_OFFSET:
        raise PeHeaderError(0x3C, f"offset 0x{offset:x}", f"at most 0x{MAX_HEADER_OFFSET:x}")
    file_header = _FILE_HEADER.parse(_read(read, offset, _FILE_HEADER.sizeof()))
    if file_header.signature != b"PE\0\0":
        raise PeHeaderError(offset, repr(file_header.signature), "b'PE\\0\\0'")
    offset += _FILE_HEADER.sizeof()
    try:
        optional = _OPTIONAL_HEADER.parse(_read(read, offset, file_header.optional_header_bytes))
    except ConstructError:
        found = f"an optional header of {count_things(file_header.optional_header_bytes, 'byte')}"
        raise PeHeaderError(offset, found, "a whole one") from None
    offset += file_header.optional_header_bytes

    count = min(file_header.section_count, MAX_SECTIONS)
    table = Array(count, _SECTION_HEADER).parse(_read(read, offset, count * _SECTION_HEADER.sizeof()))
    return PeHeaders(
        offset=dos.new_header_offset,
        machine_code=file_header.machine,
        machine=MACHINES.get(file_header.machine),
        timestamp=file_header.timestamp,
        entry_rva=optional.entry_rva,
        base=optional.base if optional.magic == _PE32_PLUS else optional.base[1],
        image_bytes=optional.image_bytes,
        header_bytes=optional.header_bytes,
        checksum=optional.checksum,
        subsystem=optional.subsystem,
        directories=tuple(
            (entry.rva, entry.size) for entry in optional.directories[: min(optional.directory_count, MAX_DIRECTORIES)]
        ),
        section_count=file_header.section_count,
        sections=tuple(map(_section_header, table)),
    )


def _section_header(header: Any) -> SectionHeader:
    return SectionHeader(
        name=header.name.rstrip(b"\0").decode("latin-1"),
        rva=header.rva,
        virtual_bytes=header.virtual_bytes,
        raw_offset=header.raw_offset,
        raw_bytes=header.raw_bytes,
        characteristics=header.characteristics,
    )


def _read(read: ReadRange, offset: int, size: int) -> bytes:
    data = read(offset, size) if size else b""
    if data is None:
        raise PeHeaderError(offset, "nothing", f"0x{size:x} bytes of headers")
    return data
