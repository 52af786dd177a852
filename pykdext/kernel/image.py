"""Executable images as they lie in kernel memory: mapped by RVA, with holes where pages are discarded or paged out.

Layouts are those of the PE format specification (WDK and Microsoft's "PE Format" page). A dump cannot be trusted and a
driver may lie in its headers, so nothing here raises for what the image says: what cannot be used is left out and said
in ``Image.warnings``.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Iterator, List, Optional, Tuple

from construct import Array, Bytes, ConstructError, IfThenElse, Int16ul, Int32ul, Padding, Struct, this

from pykdext.kernel.versioninfo import read_version
from pykdext.model import ImageVersion, Machine, Module
from pykdext.targets.protocol import PAGE_BYTES, Target

MAX_IMAGE_BYTES = 256 << 20
"""No more of one image is looked at; the largest drivers (display) have about 110 MB."""

MAX_SECTIONS = 96
"""The loader's own limit for the section table (PE Format: NumberOfSections)."""

MAX_HEADER_OFFSET = 0x10000
MAX_DEBUG_ENTRIES = 32
MAX_PDB_PATH_BYTES = 1024

_MACHINES = {0x014C: Machine.X86, 0x8664: Machine.X64, 0xAA64: Machine.ARM64}
_PE32_PLUS = 0x20B
_RESOURCE_DIRECTORY, _DEBUG_DIRECTORY = 2, 6
_CODEVIEW = 2

_CODE, _UNINITIALISED, _DISCARDABLE, _EXECUTE, _WRITE = 0x20, 0x80, 0x02000000, 0x20000000, 0x80000000

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
    Padding(54),
    "image_bytes" / Int32ul,
    Padding(12),
    IfThenElse(this.magic == _PE32_PLUS, Padding(36), Padding(20)),  # reserves of stack and heap, loader flags
    "directory_count" / Int32ul,
    "directories" / Array(lambda header: min(header.directory_count, 16), Struct("rva" / Int32ul, "size" / Int32ul)),
)

_SECTION_HEADER = Struct(
    "name" / Bytes(8),
    "virtual_bytes" / Int32ul,
    "rva" / Int32ul,
    "raw_bytes" / Int32ul,
    Padding(16),
    "characteristics" / Int32ul,
)

_DEBUG_ENTRY = Struct(Padding(12), "type" / Int32ul, "size" / Int32ul, "rva" / Int32ul, Padding(4))

_RSDS = Struct("signature" / Bytes(4), "guid" / Bytes(16), "age" / Int32ul)


@dataclass(frozen=True)
class Section:
    """A part of an image: ``size`` in bytes from ``rva``, clipped so that no two sections share a byte.

    ``known`` is false for the one section that stands for an image whose headers cannot be read: its bytes may be
    code or data.
    """

    name: str
    rva: int
    size: int
    executable: bool
    writable: bool
    initialised: bool
    discardable: bool
    known: bool = True

    @property
    def holds_data(self) -> bool:
        """Not code, as far as is known."""
        return not (self.executable and self.known)


@dataclass(frozen=True)
class PdbIdentity:
    """What a symbol server files an image's PDB under: file name, GUID as 32 upper-case hex digits, age."""

    name: str
    guid: str
    age: int

    @property
    def key(self) -> str:
        """The folder on a symbol server: GUID and age without separator."""
        return f"{self.guid}{self.age:X}"


class Image:
    """A mapped image. Memory is read once, when first asked for, and kept until :meth:`release`.

    Attributes:
        module: the loader's entry. size: bytes that are looked at. machine, timestamp: from the headers; where these
        cannot be read, the target's machine and None. sections: by ascending RVA. warnings: what was wrong or missing,
        one line each.
    """

    def __init__(self, target: Target, module: Module) -> None:
        self.module = module
        self.warnings: List[str] = []
        self.machine: Machine = target.machine
        self.timestamp: Optional[int] = None
        self.size = min(module.size, MAX_IMAGE_BYTES)
        self._target = target
        self._asked: List[Tuple[int, int]] = []
        self._pieces: List[Tuple[int, bytes]] = []
        self._directories: List[Any] = []
        self.sections = self._read_headers()

    def read(self, rva: int, size: int) -> Optional[bytes]:
        """All ``size`` bytes at ``rva``, or None where one of them is not in memory or not of the image."""
        pieces = list(self._iter_pieces(rva, size))
        return pieces[0][1] if len(pieces) == 1 and len(pieces[0][1]) == size else None

    def iter_present(self, section: Section) -> Iterator[Tuple[int, bytes]]:
        """The parts of ``section`` that are in memory as ``(rva, bytes)``, ascending, each as long as it can be."""
        return self._iter_pieces(section.rva, section.size)

    def release(self) -> None:
        """Forget the memory that was read; what was parsed from it stays."""
        self._asked.clear()
        self._pieces.clear()

    @cached_property
    def pdb(self) -> Optional[PdbIdentity]:
        """Identity of the PDB from the debug directory (CodeView record ``RSDS``), or None."""
        rva, size = self._directory(_DEBUG_DIRECTORY)
        entry_bytes = _DEBUG_ENTRY.sizeof()
        for index in range(min(size // entry_bytes, MAX_DEBUG_ENTRIES)):
            raw = self.read(rva + index * entry_bytes, entry_bytes)
            entry = _DEBUG_ENTRY.parse(raw) if raw else None
            if entry and entry.type == _CODEVIEW and entry.size > _RSDS.sizeof():
                identity = self._read_rsds(entry.rva, min(entry.size, MAX_PDB_PATH_BYTES))
                if identity:
                    return identity
        return None

    @cached_property
    def version(self) -> ImageVersion:
        """The version resource, as far as it is in memory."""
        rva, size = self._directory(_RESOURCE_DIRECTORY)
        return read_version(self.read, rva) if size else ImageVersion()

    @property
    def has_headers(self) -> bool:
        """Whether the sections are known from the headers."""
        return all(section.known for section in self.sections)

    def is_resource(self, section: Section) -> bool:
        """Whether ``section`` holds the image's resources: texts and pictures, never variables."""
        rva, size = self._directory(_RESOURCE_DIRECTORY)
        return size > 0 and section.rva <= rva < section.rva + section.size

    def _read_headers(self) -> Tuple[Section, ...]:
        """The sections by the headers; on failure one unknown section for the whole image."""
        try:
            return self._parse_headers()
        except _HeaderError as error:
            self.warnings.append(f"{self.module.name}: headers not usable ({error}): sections unknown")
            return (Section("", 0, self.size, True, True, True, False, known=False),)

    def _parse_headers(self) -> Tuple[Section, ...]:
        if self.size == 0:
            self.size = PAGE_BYTES  # the loader entry's size is missing: enough to read what the headers say
        dos = _DOS_HEADER.parse(self._header_bytes(0, _DOS_HEADER.sizeof()))
        if dos.magic != b"MZ" or dos.new_header_offset > MAX_HEADER_OFFSET:
            raise _HeaderError(f"found {dos.magic!r} and offset 0x{dos.new_header_offset:x}, expected b'MZ'")
        offset = dos.new_header_offset
        file_header = _FILE_HEADER.parse(self._header_bytes(offset, _FILE_HEADER.sizeof()))
        if file_header.signature != b"PE\0\0":
            raise _HeaderError(f"found {file_header.signature!r}, expected b'PE\\0\\0'")
        offset += _FILE_HEADER.sizeof()
        try:
            optional = _OPTIONAL_HEADER.parse(self._header_bytes(offset, file_header.optional_header_bytes))
        except ConstructError:
            raise _HeaderError(f"optional header of {file_header.optional_header_bytes} bytes") from None
        offset += file_header.optional_header_bytes

        self.timestamp = file_header.timestamp
        if file_header.machine in _MACHINES:
            self.machine = _MACHINES[file_header.machine]
        else:
            self.warnings.append(f"{self.module.name}: unknown machine 0x{file_header.machine:04x}")
        self._directories = list(optional.directories)
        self._settle_size(optional.image_bytes)

        count = min(file_header.section_count, MAX_SECTIONS)
        if count < file_header.section_count:
            self.warnings.append(f"{self.module.name}: {file_header.section_count} sections announced, {count} read")
        table = self._header_bytes(offset, count * _SECTION_HEADER.sizeof())
        sections = self._clip_sections(list(Array(count, _SECTION_HEADER).parse(table)))
        if not sections:
            raise _HeaderError("no usable section")
        return sections

    def _settle_size(self, header_image_bytes: int) -> None:
        """The loader's size rules; the header's is a fallback and a cross-check."""
        if self.module.size == 0:
            self.size = min(header_image_bytes, MAX_IMAGE_BYTES)
        elif _page_up(header_image_bytes) != _page_up(self.module.size):
            self.warnings.append(
                f"{self.module.name}: SizeOfImage 0x{header_image_bytes:x} in the headers,"
                f" 0x{self.module.size:x} in the module list"
            )

    def _clip_sections(self, headers: List[Any]) -> Tuple[Section, ...]:
        """Sections by ascending RVA, within the image, each clipped to begin where the one before ends."""
        sections: List[Section] = []
        end = 0
        for header in sorted(headers, key=lambda header: header.rva):
            size = header.virtual_bytes or header.raw_bytes
            start, stop = max(header.rva, end), min(header.rva + size, self.size)
            name = header.name.rstrip(b"\0").decode("latin-1")
            if start != header.rva or stop != header.rva + size:
                self.warnings.append(
                    f"{self.module.name}: section {name!r} at 0x{header.rva:x}, 0x{size:x} bytes:"
                    " overlaps another or leaves the image"
                )
            if start >= stop:
                continue
            flags = header.characteristics
            executable = bool(flags & (_EXECUTE | _CODE))
            sections.append(
                Section(
                    name,
                    start,
                    stop - start,
                    executable=executable,
                    writable=bool(flags & _WRITE),
                    initialised=not flags & _UNINITIALISED,
                    discardable=bool(flags & _DISCARDABLE),
                )
            )
            end = stop
        return tuple(sections)

    def _header_bytes(self, rva: int, size: int) -> bytes:
        data = self.read(rva, size) if size else b""
        if data is None:
            raise _HeaderError(f"0x{size:x} bytes at 0x{rva:x} are not in memory")
        return data

    def _directory(self, index: int) -> Tuple[int, int]:
        """RVA and size of a data directory; ``(0, 0)`` where the image has none."""
        if index >= len(self._directories):
            return 0, 0
        entry = self._directories[index]
        return entry.rva, entry.size

    def _read_rsds(self, rva: int, size: int) -> Optional[PdbIdentity]:
        raw = self.read(rva, size)
        if raw is None or raw[:4] != b"RSDS":
            return None
        record = _RSDS.parse(raw)
        path = raw[_RSDS.sizeof() :].split(b"\0")[0].decode("utf-8", "replace")
        groups = (record.guid[3::-1], record.guid[5:3:-1], record.guid[7:5:-1], record.guid[8:])
        return PdbIdentity(path.replace("/", "\\").rpartition("\\")[2], b"".join(groups).hex().upper(), record.age)

    def _iter_pieces(self, rva: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """What is present of a range, contiguous pieces joined."""
        stop = min(rva + size, self.size)
        self._fetch(rva, stop)
        joined: List[bytes] = []
        joined_rva = joined_end = -1
        index = max(bisect.bisect_left(self._pieces, (rva, b"")) - 1, 0)  # the piece before may reach into the range
        for piece_rva, piece in self._pieces[index:]:
            if piece_rva >= stop:
                break
            start, end = max(piece_rva, rva), min(piece_rva + len(piece), stop)
            if start >= end:
                continue
            if start != joined_end and joined:
                yield joined_rva, b"".join(joined)
                joined = []
            if not joined:
                joined_rva = start
            joined.append(piece[start - piece_rva : end - piece_rva])
            joined_end = end
        if joined:
            yield joined_rva, b"".join(joined)

    def _fetch(self, rva: int, stop: int) -> None:
        """Read the pages of ``[rva, stop)`` that were never asked for."""
        start, stop = rva - rva % PAGE_BYTES, min(_page_up(stop), _page_up(self.size))
        gaps: List[Tuple[int, int]] = []
        for asked_start, asked_stop in self._asked:
            if start < min(asked_start, stop):
                gaps.append((start, min(asked_start, stop)))
            start = max(start, asked_stop)
        if start < stop:
            gaps.append((start, stop))
        base = self.module.base
        for gap_start, gap_stop in gaps:
            present = self._target.read_present(base + gap_start, gap_stop - gap_start)
            self._pieces += ((address - base, data) for address, data in present)
        if gaps:
            self._asked = sorted(self._asked + gaps)
            self._pieces.sort()


class _HeaderError(Exception):
    """The headers cannot be used; caught where they are read."""


def _page_up(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def read_image(target: Target, module: Module) -> Image:
    """The image of a loaded module: its headers now, all else when asked for. Never fails for what is in memory."""
    return Image(target, module)
