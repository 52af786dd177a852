"""Executable images as they lie in kernel memory: mapped by RVA, with holes where pages are discarded or paged out.

Layouts are those of the PE format specification (WDK and Microsoft's "PE Format" page). A dump cannot be trusted and a
driver may lie in its headers, so nothing here raises for what the image says: what cannot be used is left out and said
in ``Image.warnings``.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Iterator, List, Optional, Protocol, Sequence, Tuple

from pykdext.images.debugdirectory import DebugDirectory, link_time, read_debug_directory
from pykdext.images.headers import PeHeaderError, SectionHeader, read_pe_headers
from pykdext.images.versioninfo import read_version
from pykdext.model import ImageVersion, Machine, Module
from pykdext.symbols.identity import PdbName
from pykdext.targets.parts import join_parts
from pykdext.targets.protocol import PAGE_BYTES, Target
from pykdext.units import count_things

MAX_IMAGE_BYTES = 256 << 20
"""No more of one image is looked at; the largest drivers (display) have about 110 MB."""

_RESOURCE_DIRECTORY, _DEBUG_DIRECTORY = 2, 6
_LEAST_CODE_BYTES = 0x40
"""The end of a section of code may be filled with fewer zeros."""

_ZERO_PAGE = bytes(PAGE_BYTES)

_NO_KERNEL_SUBSYSTEMS = frozenset((2, 3, 7, *range(9, 17)))  # windows, console, POSIX, Windows CE, EFI, game console

_CODE, _UNINITIALISED, _DISCARDABLE, _EXECUTE, _WRITE = 0x20, 0x80, 0x02000000, 0x20000000, 0x80000000


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


class ImageMemory(Protocol):
    """The part of a target that images are read with."""

    @property
    def machine(self) -> Machine:
        """The architecture of the kernel."""

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The readable parts of a range, as ``(address, bytes)``, ascending and disjoint; never raises."""


class Image:
    """A mapped image. Memory is read once, when first asked for, and kept until :meth:`release`.

    A page of code that is all zeros is taken as not in memory: no compiler fills one so, and dumps are written so where
    a page could not be read. ``zeros_are_code`` says that the bytes are those of a file, of which nothing is missing.

    Attributes:
        module: the loader's entry. size: bytes that are looked at. machine, timestamp, checksum, entry_rva: from the
        headers; where these cannot be read, the target's machine, and None for the others. sections: by ascending RVA.
        is_file: the bytes are those of a file.
        warnings: what was wrong or missing, one line each.
    """

    def __init__(self, memory: ImageMemory, module: Module, *, zeros_are_code: bool = False) -> None:
        self.module = module
        self.warnings: List[str] = []
        self.machine: Machine = memory.machine
        self.timestamp: Optional[int] = None
        self.checksum: Optional[int] = None
        self.entry_rva: Optional[int] = None
        self._subsystem = 0
        self.size = min(module.size, MAX_IMAGE_BYTES)
        self._memory = memory
        self._asked: List[Tuple[int, int]] = []
        self._pieces: List[Tuple[int, bytes]] = []
        self._directories: Tuple[Tuple[int, int], ...] = ()
        self.is_file = zeros_are_code
        self.sections: Tuple[Section, ...] = ()
        self.sections = self._read_headers()

    def read(self, rva: int, size: int) -> Optional[bytes]:
        """All ``size`` bytes at ``rva``, or None where one of them is not in memory or not of the image."""
        piece, offset = self._find_piece(rva)
        data = piece[offset : offset + size]
        if len(data) == size and rva + size <= self.size:
            return data
        pieces = list(self.iter_range(rva, size))
        return pieces[0][1] if len(pieces) == 1 and len(pieces[0][1]) == size else None

    def read_text(self, rva: int, max_bytes: int) -> Optional[str]:
        """The text at ``rva`` up to its NUL; None where it is not in memory, empty, longer or not printable ASCII."""
        piece, offset = self._find_piece(rva)
        end = piece.find(b"\0", offset, offset + max_bytes + 1)
        if end < 0:
            piece_rva, piece = next(self.iter_range(rva, max_bytes + 1), (rva, b""))
            offset, end = 0, piece.find(b"\0") if piece_rva == rva else -1
        text = piece[offset : max(end, offset)].decode("latin-1")
        return text if text.isascii() and text.isprintable() and text else None

    def iter_present(self, section: Section) -> Iterator[Tuple[int, bytes]]:
        """The parts of ``section`` that are in memory as ``(rva, bytes)``, ascending, each as long as it can be."""
        return self.iter_range(section.rva, section.size)

    def iter_range(self, rva: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """What is in memory of a range, as ``iter_present`` gives it."""
        stop = min(rva + size, self.size)
        self._fetch(rva, stop)
        return join_parts(self._iter_pieces(rva, stop), self.size)

    def _iter_pieces(self, rva: int, stop: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that were read, as far as they are in memory."""
        index = max(bisect.bisect_left(self._pieces, (rva, b"")) - 1, 0)  # the piece before may reach into the range
        for piece_rva, piece in self._pieces[index:]:
            if piece_rva >= stop:
                break
            start, end = max(piece_rva, rva), min(piece_rva + len(piece), stop)
            if start < end:
                yield start, piece[start - piece_rva : end - piece_rva]

    def release(self) -> None:
        """Forget the memory that was read; what was parsed from it stays."""
        self._asked.clear()
        self._pieces.clear()

    @property
    def directories(self) -> Tuple[Tuple[int, int], ...]:
        """RVA and size of the data directories, in the order of the PE format."""
        return self._directories

    def directory(self, index: int) -> Tuple[int, int]:
        """RVA and size of a data directory by its number in the PE format; ``(0, 0)`` where the image has none."""
        return self._directories[index] if index < len(self._directories) else (0, 0)

    @cached_property
    def _debug_directory(self) -> DebugDirectory:
        return read_debug_directory(self.read, *self.directory(_DEBUG_DIRECTORY))

    @property
    def pdb(self) -> Optional[PdbName]:
        """Identity of the PDB from the debug directory (CodeView record ``RSDS``), or None."""
        return self._debug_directory.pdb

    @cached_property
    def version(self) -> ImageVersion:
        """The version resource, as far as it is in memory, and what the headers say of the image's identity."""
        rva, size = self.directory(_RESOURCE_DIRECTORY)
        version = read_version(self.read, rva) if size else ImageVersion()
        if self.timestamp is None:
            return version
        pdb = self.pdb
        return replace(
            version,
            built_at=None if self._debug_directory.is_reproducible else link_time(self.timestamp),
            timestamp=self.timestamp,
            image_bytes=self.module.size or None,
            checksum=self.checksum or None,
            pdb_file=pdb.file_name if pdb else None,
            pdb_guid=pdb.guid if pdb else None,
            pdb_age=pdb.age if pdb else None,
        )

    @property
    def is_user_mode(self) -> bool:
        """Whether the headers name a subsystem that the kernel has none of, and the image is not in the kernel's half.

        The file of a driver that was linked without a word on this says the same.
        """
        return self._subsystem in _NO_KERNEL_SUBSYSTEMS and self.module.base < self.machine.kernel_start

    @property
    def has_headers(self) -> bool:
        """Whether the sections are known from the headers."""
        return all(section.known for section in self.sections)

    def is_resource(self, section: Section) -> bool:
        """Whether ``section`` holds the image's resources: texts and pictures, never variables."""
        rva, size = self.directory(_RESOURCE_DIRECTORY)
        return size > 0 and section.rva <= rva < section.rva + section.size

    def _read_headers(self) -> Tuple[Section, ...]:
        """The sections by the headers; on failure one unknown section for the whole image."""
        if self.size == 0:
            self.size = PAGE_BYTES  # the loader entry's size is missing: enough to read what the headers say
        try:
            headers = read_pe_headers(self.read)
        except PeHeaderError as error:
            return self._refuse_headers(str(error))
        self.timestamp = headers.timestamp
        self.checksum = headers.checksum
        self.entry_rva = headers.entry_rva
        self._subsystem = headers.subsystem
        if headers.machine is not None:
            self.machine = headers.machine
        else:
            self.warnings.append(f"{self.module.name}: unknown machine 0x{headers.machine_code:04x}")
        self._directories = headers.directories
        self._settle_size(headers.image_bytes)
        if len(headers.sections) < headers.section_count:
            found = f"{count_things(headers.section_count, 'section')} announced, {len(headers.sections)} read"
            self.warnings.append(f"{self.module.name}: {found}")
        return self._clip_sections(headers.sections) or self._refuse_headers("no usable section")

    def _refuse_headers(self, reason: str) -> Tuple[Section, ...]:
        self.warnings.append(f"{self.module.name}: headers not usable ({reason}): sections unknown")
        return (Section("", 0, self.size, True, True, True, False, known=False),)

    def _settle_size(self, header_image_bytes: int) -> None:
        """The loader's size rules; the header's is a fallback and a cross-check."""
        if self.module.size == 0:
            self.size = min(header_image_bytes, MAX_IMAGE_BYTES)
        elif _page_up(header_image_bytes) != _page_up(self.module.size):
            self.warnings.append(
                f"{self.module.name}: SizeOfImage 0x{header_image_bytes:x} in the headers,"
                f" 0x{self.module.size:x} in the module list"
            )

    def _clip_sections(self, headers: Sequence[SectionHeader]) -> Tuple[Section, ...]:
        """Sections by ascending RVA, within the image, each clipped to begin where the one before ends."""
        sections: List[Section] = []
        end = 0
        for header in sorted(headers, key=lambda header: header.rva):
            size = header.virtual_bytes or header.raw_bytes
            start, stop = max(header.rva, end), min(header.rva + size, self.size)
            if start != header.rva or stop != header.rva + size:
                self.warnings.append(
                    f"{self.module.name}: section {header.name!r} at 0x{header.rva:x}, 0x{size:x} bytes:"
                    " overlaps another or leaves the image"
                )
            if start >= stop:
                continue
            flags = header.characteristics
            executable = bool(flags & (_EXECUTE | _CODE))
            sections.append(
                Section(
                    header.name,
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

    def _find_piece(self, rva: int) -> Tuple[bytes, int]:
        """What was read already around ``rva``, and the offset in it; no bytes if nothing was."""
        index = bisect.bisect_left(self._pieces, (rva + 1,)) - 1
        if index < 0:
            return b"", 0
        piece_rva, piece = self._pieces[index]
        return piece, rva - piece_rva

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
            present = self._memory.read_present(base + gap_start, gap_stop - gap_start)
            for address, data in present:
                self._pieces += self._leave_out_zeros(address - base, data)
        if gaps:
            self._asked = _merge(self._asked + gaps)
            self._pieces.sort()

    def _leave_out_zeros(self, rva: int, data: bytes) -> Iterator[Tuple[int, bytes]]:
        """``data`` without the pages in code that are nothing but zeros."""
        if self.is_file or _ZERO_PAGE not in data:
            yield rva, data
            return
        kept_rva, kept = rva, bytearray()
        for page_rva, page in _split_pages(rva, data):
            if page == _ZERO_PAGE and self._is_code(page_rva):
                if kept:
                    yield kept_rva, bytes(kept)
                kept_rva, kept = page_rva + PAGE_BYTES, bytearray()
            else:
                kept += page
        if kept:
            yield kept_rva, bytes(kept)

    def _is_code(self, rva: int) -> bool:
        """Whether so much of the page at ``rva`` is in a section of code that it cannot be nothing but zeros."""
        return any(
            section.known
            and section.executable
            and min(section.rva + section.size, rva + PAGE_BYTES) - max(section.rva, rva) >= _LEAST_CODE_BYTES
            for section in self.sections
        )


def _split_pages(rva: int, data: bytes) -> Iterator[Tuple[int, bytes]]:
    """``data`` by the pages of the image, at each RVA."""
    start = 0
    while start < len(data):
        stop = min(start + PAGE_BYTES - (rva + start) % PAGE_BYTES, len(data))
        yield rva + start, data[start:stop]
        start = stop


def _merge(spans: List[Tuple[int, int]]) -> List[Tuple[int, int]]:
    """Disjoint spans by ascending start, those that touch as one."""
    merged: List[Tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def _page_up(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def read_image(target: Target, module: Module, *, zeros_are_code: bool = False) -> Image:
    """The image of a loaded module: its headers now, all else when asked for. Never fails for what is in memory."""
    return Image(target, module, zeros_are_code=zeros_are_code)
