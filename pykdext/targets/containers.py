"""The physical pages inside a dump file: complete dumps (type 1) and bitmap dumps (types 5 and 6).

A container answers from what the file really holds: every count of its headers is checked against the file's
size, and a file that was cut is read as far as it goes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import Iterator, List, Tuple

from construct import ConstError

from pykdext.errors import DumpFormatError, MemoryReadError
from pykdext.targets.dumpformat import (
    BITMAP_HEADER64,
    BITMAP_HEADER64_BYTES,
    HEADER64_BYTES,
    MAX_HEADER_RUNS,
)
from pykdext.targets.dumpheader import FULL_DUMP, DumpHeader
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.pageindex import PageIndex
from pykdext.targets.protocol import PAGE_BYTES

PHYSICAL_ADDRESS_BITS = 52
"""The limit of the x64 architecture."""

PIECE_BYTES = 1 << 20
"""The largest piece that ``read_present_physical`` yields."""

_PAGE_SHIFT = 12
_OFFSET_MASK = PAGE_BYTES - 1
_END_PAGE = 1 << (PHYSICAL_ADDRESS_BITS - _PAGE_SHIFT)
_BITMAP_OFFSET = HEADER64_BYTES + BITMAP_HEADER64_BYTES

Extent = Tuple[int, int, int]
"""A physical range that is contiguous in the file: address, file offset, size in bytes."""


class PagesInFile(ABC):
    """Physical pages stored in a file. Subclasses know where each page stands.

    Attributes:
        pages_expected: pages that the headers announce. present_pages: those that the file holds.
        warnings: what is wrong with the container.
    """

    def __init__(self, file: FileBytes, pages_expected: int, pages_held: int) -> None:
        self._file = file
        self.pages_expected = pages_expected
        self.present_pages = min(pages_expected, max(pages_held, 0))
        self.warnings: Tuple[str, ...] = ()
        if self.present_pages < pages_expected:
            self.warnings = (
                f"the dump is truncated: {self.present_pages:,} of its {pages_expected:,} pages are in the file",
            )

    @abstractmethod
    def iter_extents(self, address: int, size: int) -> Iterator[Extent]:
        """The parts of a physical range that the file holds, ascending."""

    @abstractmethod
    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""

    def read_present_physical(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a physical range that the file holds; none is longer than PIECE_BYTES."""
        for start, offset, length in self.iter_extents(address, size):
            for done in range(0, length, PIECE_BYTES):
                data = self._file.read_at(offset + done, min(PIECE_BYTES, length - done))
                if data:
                    yield start + done, data

    def _read_extents(self, address: int, size: int) -> bytes:
        """``read_physical`` for a range that is not contiguous in the file."""
        pieces: List[bytes] = []
        reached = address
        for start, offset, length in self.iter_extents(address, size):
            if start != reached:
                break
            pieces.append(self._file.read_at(offset, length))
            reached += len(pieces[-1])
        if reached != address + size:
            raise MemoryReadError(address, size, "physical memory that is not in the dump")
        return b"".join(pieces)


class FullDump(PagesInFile):
    """A complete dump: runs of pages, stored one after the other behind the header."""

    def __init__(self, file: FileBytes, header: DumpHeader) -> None:
        _check_runs(file.path, header)
        held = (file.size - HEADER64_BYTES) // PAGE_BYTES
        index = 0
        runs: List[Tuple[int, int, int]] = []  # first page, index in the page data, pages that the file holds
        for page, count in header.runs:
            runs.append((page, index, min(count, max(held - index, 0))))
            index += count
        runs.sort()
        super().__init__(file, pages_expected=index, pages_held=held)
        self._runs = runs
        self._first_pages = [page for page, _, _ in runs]
        if header.page_count not in (None, index):
            self.warnings += (f"the header counts {header.page_count:,} pages, its memory runs {index:,}",)

    def iter_extents(self, address: int, size: int) -> Iterator[Extent]:
        """The parts of a physical range that the file holds, ascending."""
        end = address + size
        first = max(bisect_right(self._first_pages, address >> _PAGE_SHIFT) - 1, 0)
        for page, index, count in self._runs[first:]:
            run_address = page << _PAGE_SHIFT
            start = max(address, run_address)
            length = min(end, run_address + (count << _PAGE_SHIFT)) - start
            if length > 0:
                yield start, HEADER64_BYTES + (index << _PAGE_SHIFT) + start - run_address, length

    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""
        at = bisect_right(self._first_pages, address >> _PAGE_SHIFT) - 1
        if at >= 0:
            page, index, count = self._runs[at]
            offset = address - (page << _PAGE_SHIFT)
            if offset + size <= count << _PAGE_SHIFT:
                data = self._file.read_at(HEADER64_BYTES + (index << _PAGE_SHIFT) + offset, size)
                if len(data) == size:
                    return data
        return self._read_extents(address, size)


class BitmapDump(PagesInFile):
    """A bitmap dump: one bit tells of each page whether it is stored; the stored ones are packed in order."""

    def __init__(self, file: FileBytes) -> None:
        self._data_offset, announced, bits = _parse_bitmap_header(file)
        self._index = PageIndex(file.read_at(_BITMAP_OFFSET, (bits + 7) // 8), bits)
        marked = self._index.present
        held = (file.size - self._data_offset) // PAGE_BYTES
        super().__init__(file, pages_expected=marked, pages_held=held)
        if marked != announced:
            if self._data_offset + marked * PAGE_BYTES != file.size:
                raise DumpFormatError(
                    file.path,
                    _BITMAP_OFFSET,
                    f"a bitmap that marks {marked:,} pages",
                    f"{announced:,} as the header counts",
                    "the file is damaged where it tells which page is which; copy it again",
                )
            self.warnings += (f"the header counts {announced:,} pages, its bitmap and the file {marked:,}",)

    def iter_extents(self, address: int, size: int) -> Iterator[Extent]:
        """The parts of a physical range that the file holds, ascending."""
        end = address + size
        first = address >> _PAGE_SHIFT
        for page, index, count in self._index.iter_runs(first, ((end + _OFFSET_MASK) >> _PAGE_SHIFT) - first):
            run_address = page << _PAGE_SHIFT
            held = min(count, self.present_pages - index)
            start = max(address, run_address)
            length = min(end, run_address + (held << _PAGE_SHIFT)) - start
            if length > 0:
                yield start, self._data_offset + (index << _PAGE_SHIFT) + start - run_address, length

    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""
        offset = address & _OFFSET_MASK
        if offset + size <= PAGE_BYTES:
            index = self._index.find(address >> _PAGE_SHIFT)
            if 0 <= index < self.present_pages:
                data = self._file.read_at(self._data_offset + (index << _PAGE_SHIFT) + offset, size)
                if len(data) == size:
                    return data
        return self._read_extents(address, size)


def open_container(file: FileBytes, header: DumpHeader) -> PagesInFile:
    """The physical memory of a dump with this header, or DumpFormatError: it is damaged beyond use."""
    return FullDump(file, header) if header.dump_type == FULL_DUMP else BitmapDump(file)


def _check_runs(path: str, header: DumpHeader) -> None:
    """Refuse memory runs that the header cannot hold, or that give one page twice."""
    if not header.run_count or header.run_count > MAX_HEADER_RUNS:
        found = "no memory runs" if not header.run_count else f"{header.run_count:,} memory runs"
        raise DumpFormatError(path, 0x88, found, f"1 to {MAX_HEADER_RUNS}", "the header is damaged or not finished")
    reached = 0
    for page, count in sorted(header.runs):
        if page < reached or page + count > _END_PAGE:
            raise DumpFormatError(
                path,
                0x98,
                f"a memory run of {count:,} pages from page 0x{page:x}",
                "runs that do not overlap, within the processor's physical memory",
                "the header is damaged",
            )
        reached = page + count


def _parse_bitmap_header(file: FileBytes) -> Tuple[int, int, int]:
    """File offset of the page data, pages announced, bits of the bitmap; all of it lies in the file."""
    data = file.read_at(HEADER64_BYTES, BITMAP_HEADER64_BYTES)
    if len(data) < BITMAP_HEADER64_BYTES:
        raise DumpFormatError(file.path, file.size, "the end of the file", "a bitmap header", "the copy is cut short")
    try:
        fields = BITMAP_HEADER64.parse(data)
    except ConstError as error:
        raise _not_a_bitmap(file.path, data) from error
    if fields.Signature not in (b"SDMP", b"FDMP"):
        raise _not_a_bitmap(file.path, data)
    bitmap_end = _BITMAP_OFFSET + (fields.Pages + 7) // 8
    if bitmap_end > file.size or fields.FirstPage > file.size:
        raise DumpFormatError(
            file.path,
            HEADER64_BYTES + 0x20,
            f"a bitmap of {fields.Pages:,} bits and page data at 0x{fields.FirstPage:x}",
            f"both within the file of {file.size:,} bytes",
            "the copy is cut short, or the header is damaged",
        )
    if fields.FirstPage < bitmap_end:
        raise DumpFormatError(
            file.path,
            HEADER64_BYTES + 0x20,
            f"page data at 0x{fields.FirstPage:x}",
            f"0x{bitmap_end:x} or more: behind the bitmap",
        )
    return fields.FirstPage, fields.TotalPresentPages, fields.Pages


def _not_a_bitmap(path: str, data: bytes) -> DumpFormatError:
    return DumpFormatError(path, HEADER64_BYTES, f"signature {data[:8]!r}", "SDMPDUMP or FDMPDUMP")
