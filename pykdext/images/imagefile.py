"""A driver file on disk (``.sys``, ``.dll``, ``.exe``) as a target: one module, mapped by its section table.

The mapping is that of Microsoft's "PE Format" page: each section's raw data at its RVA, zeros up to its virtual size.
It lies at the base that its headers prefer, so no address in it needs relocation.
"""

from __future__ import annotations

import itertools
import os
from typing import Iterator, List, NamedTuple, Optional, Protocol, Tuple

from pykdext.errors import ImageFormatError, MemoryReadError, SymbolNotFoundError, TargetError
from pykdext.images.headers import PeHeaderError, PeHeaders, SectionHeader, read_pe_headers
from pykdext.model import Machine, Module, TargetFacts, TypeLayout
from pykdext.targets.filebytes import Closing, FileBytes
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

MAX_IMAGE_BYTES = 512 << 20
"""Of memory: a larger SizeOfImage is damaged."""

MAX_ZERO_BYTES = 64 << 20
"""Zeros in all sections that the file does not hold; the rest of them is as if it were not there."""


_HINT = "give a driver's file: .sys, .dll or .exe"
_NO_TAG_TABLES = "a driver file holds no pool tag tables. Hint: look in it for the owner of a tag with find --images"


class _Extent(NamedTuple):
    """Memory from ``address`` that is in the file at ``file_offset``, or zeros (None)."""

    address: int
    size: int
    file_offset: Optional[int]


def open_image_file(path: str) -> ImageFile:
    """Open a driver file, recognised by its content.

    Raises:
        ImageFormatError: it is no PE image of x86, x64 or ARM64, or ends before the last section does.
        TargetError: it cannot be opened or read.
    """
    try:
        file = FileBytes(open(path, "rb", buffering=0), path)  # noqa: SIM115 - FileBytes owns it
    except OSError as error:
        raise TargetError(f"{path}: cannot be opened: {error.strerror or error}") from error
    try:
        return ImageFile(file)
    except BaseException:
        file.close()
        raise


class ByteSource(Protocol):
    """What an image is read from; ``path`` as messages name it, ``size`` in bytes."""

    @property
    def path(self) -> str:
        """Of the file."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end."""

    def close(self) -> None:
        """Give back what is open."""


class HeldBytes:
    """The bytes of a file within a file, as a :class:`ByteSource`."""

    def __init__(self, data: bytes, path: str) -> None:
        self.path = path
        self.size = len(data)
        self._data = data

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end."""
        return self._data[offset : offset + size]

    def close(self) -> None:
        """Nothing is open."""


class ImageFile(Closing):
    """The driver in a file: a Target, and a context manager that closes the file. Nothing is copied on opening."""

    def __init__(self, file: ByteSource) -> None:
        headers = _read_headers(file)
        if headers.machine is None:
            found = f"machine 0x{headers.machine_code:04x}"
            expected = "x86 (0x014c), x64 (0x8664) or ARM64 (0xaa64)"
            raise ImageFormatError(file.path, headers.offset + 4, found, expected)
        self._file = file
        self._machine = headers.machine
        self._extents = _map_sections(file, headers)
        self._mapped_end = max(
            (one.raw_offset + one.raw_bytes for one in headers.sections if one.raw_offset), default=0
        )
        self._module = Module(
            name=os.path.basename(file.path),
            base=headers.base,
            size=headers.image_bytes,
            path=os.path.abspath(file.path),
            timestamp=headers.timestamp,
            checksum=headers.checksum,
        )

    @property
    def machine(self) -> Machine:
        """The architecture that the driver is built for."""
        return self._machine

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer of that architecture."""
        return self._machine.pointer_size

    @property
    def facts(self) -> TargetFacts:
        """The kind and the machine: a file knows nothing of a running system."""
        return TargetFacts("driver file", self._machine, no_tag_tables=_NO_TAG_TABLES)

    def read_virtual(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at an address of the mapped driver, or MemoryReadError."""
        parts = list(self._iter_parts(address, size))
        if sum(part.size for part in parts) != size:  # parts are disjoint: all of the range is there, or some is not
            raise MemoryReadError(address, size, "not in the driver file")
        return b"".join(map(self._read, parts))

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that the driver has, a section at a time."""
        for part in self._iter_parts(address, size):
            yield part.address, self._read(part)

    def read_appended(self, max_bytes: int) -> bytes:
        """What the file has behind the last section, which is not mapped: a signature, or what an installer carries."""
        return self._file.read_at(self._mapped_end, max_bytes) if self._mapped_end else b""

    def modules(self) -> Tuple[Module, ...]:
        """The driver, named as its file."""
        return (self._module,)

    def symbol(self, name: str) -> int:
        """SymbolNotFoundError always: these are the kernel's variables, and here is no kernel."""
        raise SymbolNotFoundError(name, "a driver file has no kernel variables")

    def field_layout(self, type_name: str) -> TypeLayout:
        """SymbolNotFoundError always."""
        raise SymbolNotFoundError(type_name, "a driver file does not describe structures")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _iter_parts(self, address: int, size: int) -> Iterator[_Extent]:
        """The extents' parts within a range."""
        for extent in self._extents:
            start = max(address, extent.address)
            end = min(address + size, extent.address + extent.size)
            if start < end:
                offset = None if extent.file_offset is None else extent.file_offset + start - extent.address
                yield _Extent(start, end - start, offset)

    def _read(self, part: _Extent) -> bytes:
        if part.file_offset is None:
            return bytes(part.size)
        data = self._file.read_at(part.file_offset, part.size)
        if len(data) < part.size:
            raise TargetError(f"{self._file.path}: became shorter while it was read")
        return data


def _read_headers(file: ByteSource) -> PeHeaders:
    def read(offset: int, size: int) -> Optional[bytes]:
        data = file.read_at(offset, size)
        return data if len(data) == size else None

    try:
        headers = read_pe_headers(read)
    except PeHeaderError as error:
        raise ImageFormatError(file.path, error.offset, error.found, error.expected, _HINT) from None
    if not 0 < headers.image_bytes <= MAX_IMAGE_BYTES:
        found, expected = f"SizeOfImage 0x{headers.image_bytes:x}", f"up to 0x{MAX_IMAGE_BYTES:x}"
        raise ImageFormatError(file.path, headers.offset, found, expected)
    return headers


def _map_sections(file: ByteSource, headers: PeHeaders) -> Tuple[_Extent, ...]:
    """The headers and the sections by ascending address; where two overlap, the first keeps the bytes."""
    extents: List[_Extent] = []
    end = min(headers.header_bytes, headers.image_bytes, file.size)
    zeros_left = MAX_ZERO_BYTES
    if end:
        extents.append(_Extent(headers.base, end, 0))
    ordered = sorted(headers.sections, key=lambda section: section.rva)
    for section, following in itertools.zip_longest(ordered, ordered[1:]):
        end_rva = following.rva if following is not None else headers.image_bytes
        start, held, stop = _section_bounds(section, end_rva, headers.image_bytes)
        left = file.size - section.raw_offset
        if held - start > max(left, 0):
            expected = f"{held - start:,} of section {section.name!r}"
            raise ImageFormatError(
                file.path, section.raw_offset, count_things(max(left, 0), "byte"), expected, "the file is cut short"
            )
        start = max(start, end)
        if start < held:
            extents.append(_Extent(headers.base + start, held - start, section.raw_offset + start - section.rva))
        start = max(start, held)
        stop = min(stop, start + zeros_left)
        if start < stop:
            extents.append(_Extent(headers.base + start, stop - start, None))
            zeros_left -= stop - start
        end = max(end, held, stop)
    return tuple(extents)


def _section_bounds(section: SectionHeader, following_rva: int, image_bytes: int) -> Tuple[int, int, int]:
    """RVAs within the image: where the section begins, where its bytes of the file end, where it ends.

    It is rounded up to pages, but not over the section that follows: with a SectionAlignment below a page, as old kits
    have it on x86, sections begin inside of pages.
    """
    needed = section.virtual_bytes or section.raw_bytes
    size = min(_page_up(needed), max(needed, following_rva - section.rva))
    held = min(section.raw_bytes, size) if section.raw_offset else 0
    start, held, stop = (min(section.rva + length, image_bytes) for length in (0, held, size))
    return start, held, stop


def _page_up(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES
