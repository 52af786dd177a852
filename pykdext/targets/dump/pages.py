"""Physical pages that stand packed in a dump file: told by runs of pages, or by one bit for each page.

The answers come from what the file really holds: a file that was cut is read as far as it goes.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from itertools import accumulate, islice
from typing import Iterator, Sequence, Tuple

from pykdext.errors import DumpFormatError
from pykdext.targets.dump.pageindex import PageIndex
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.parts import join_whole
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import choose_form, count_things

PHYSICAL_ADDRESS_BITS = 52
"""The limit of the x64 architecture, and of ARM64's."""

PIECE_BYTES = 1 << 20
"""The largest piece that ``read_present_physical`` yields."""

_SECONDARY_DATA = b"DumpBlob"
"""How data begin that drivers add to a dump (DUMP_BLOB_FILE_HEADER of the Windows SDK)."""

_PAGE_SHIFT = 12
_END_PAGE = 1 << (PHYSICAL_ADDRESS_BITS - _PAGE_SHIFT)
_OFFSET_MASK = PAGE_BYTES - 1

Extent = Tuple[int, int, int]
"""A physical range that is contiguous in the file: address, file offset, size in bytes."""


class PagesInFile(ABC):
    """Physical pages stored in a file, one behind the other. Subclasses know which page stands where."""

    def __init__(self, file: FileBytes, data_offset: int) -> None:
        """``data_offset``: where in the file the first page begins."""
        self._file = file
        self._data_offset = data_offset
        self._held_pages = max(file.size - data_offset, 0) // PAGE_BYTES

    @property
    @abstractmethod
    def pages_expected(self) -> int:
        """Pages that the headers announce."""

    @property
    def present_pages(self) -> int:
        """Pages that the file holds."""
        return min(self.pages_expected, self._held_pages)

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What is wrong with the container."""
        if self._held_pages < self.pages_expected:
            return (
                f"the dump is truncated: {self._held_pages:,} of its {count_things(self.pages_expected, 'page')} "
                f"{choose_form(self._held_pages, 'is', 'are')} in the file",
            )
        return self._describe_excess()

    def _describe_excess(self) -> Tuple[str, ...]:
        """What stands behind the last page: nothing, zeros, the data that drivers add, or a sign of a wrong copy."""
        end = self._data_offset + self.pages_expected * PAGE_BYTES
        excess = self._file.size - end
        if excess < PAGE_BYTES:
            return ()
        tail = self._file.read_at(end, PAGE_BYTES)
        if tail.startswith(_SECONDARY_DATA) or not any(tail):
            return ()
        return (
            f"the file holds {count_things(excess, 'byte')} behind the last page that its header tells of: "
            f"if the copy is not exact, "
            "pages may be others than they seem",
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

    def _clip_run(self, page: int, index: int, count: int, address: int, end: int) -> Iterator[Extent]:
        """The one extent, or none, of a run of pages between two addresses.

        ``index``: where the run's first page stands among the pages of the file.
        """
        run_address = page << _PAGE_SHIFT
        start = max(address, run_address)
        length = min(end, run_address + (count << _PAGE_SHIFT)) - start
        if length > 0:
            yield start, self._data_offset + (index << _PAGE_SHIFT) + start - run_address, length

    def _read_extents(self, address: int, size: int) -> bytes:
        """``read_physical`` for a range that is not contiguous in the file."""
        extents = self.iter_extents(address, size)
        parts = ((start, self._file.read_at(offset, length)) for start, offset, length in extents)
        return join_whole(parts, address, size, "is physical memory that is not in the dump")


def check_runs(path: str, offset: int, pages: Sequence[int], counts: Sequence[int]) -> None:
    """DumpFormatError if runs of pages overlap or exceed physical memory. ``offset``: where the file lists them."""
    if _ascend(pages, counts) and pages[-1] + counts[-1] <= _END_PAGE:
        return
    reached = 0
    for page, count in sorted(zip(pages, counts)):
        if page < reached or page + count > _END_PAGE:
            raise DumpFormatError(
                path,
                offset,
                f"a run of {count_things(count, 'page')} from page 0x{page:x}",
                "runs that do not overlap, within the processor's physical memory",
                "the file is damaged where it tells which page is which; copy it again",
            )
        reached = page + count


def _ascend(pages: Sequence[int], counts: Sequence[int]) -> bool:
    """Whether each run ends before the next one begins: the usual case, and there may be many runs."""
    return all(map(operator.le, map(operator.add, pages, counts), islice(pages, 1, None)))


class PageRuns(PagesInFile):
    """Pages told by runs, packed in the order in which the runs are listed."""

    def __init__(
        self,
        file: FileBytes,
        data_offset: int,
        pages: Sequence[int],
        counts: Sequence[int],
        notes: Tuple[str, ...] = (),
    ) -> None:
        """``pages``: the number of each run's first page; ``counts``: how many pages it has.

        There is at least one run, and ``check_runs`` has nothing against them. ``notes`` join the warnings.
        """
        super().__init__(file, data_offset)
        indexes: Sequence[int] = array("Q", accumulate(counts[:-1], initial=0))
        self._pages_expected = indexes[-1] + counts[-1]
        self._notes = notes
        if not _ascend(pages, counts):
            pages, counts, indexes = zip(*sorted(zip(pages, counts, indexes)))
        if self._held_pages < self._pages_expected:
            held = self._held_pages
            counts = [max(min(count, held - index), 0) for count, index in zip(counts, indexes)]
        self._pages = array("Q", pages)
        self._counts = array("Q", counts)
        self._indexes = array("Q", indexes)

    @property
    def pages_expected(self) -> int:
        """Pages of all runs."""
        return self._pages_expected

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What is wrong with the container."""
        return (*super().warnings, *self._notes)

    def iter_extents(self, address: int, size: int) -> Iterator[Extent]:
        """The parts of a physical range that the file holds, ascending."""
        end = address + size
        first = max(bisect_right(self._pages, address >> _PAGE_SHIFT) - 1, 0)
        stop = bisect_right(self._pages, (end - 1) >> _PAGE_SHIFT)
        for at in range(first, stop):
            yield from self._clip_run(self._pages[at], self._indexes[at], self._counts[at], address, end)

    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""
        at = bisect_right(self._pages, address >> _PAGE_SHIFT) - 1
        if at >= 0:
            offset = address - (self._pages[at] << _PAGE_SHIFT)
            if offset + size <= self._counts[at] << _PAGE_SHIFT:
                data = self._file.read_at(self._data_offset + (self._indexes[at] << _PAGE_SHIFT) + offset, size)
                if len(data) == size:
                    return data
        return self._read_extents(address, size)


class PageBitmap(PagesInFile):
    """Pages told by one bit each, packed in the order of their numbers.

    Only where ``is_true``: a bitmap that contradicts both the header and the file would give wrong bytes.
    """

    def __init__(
        self, file: FileBytes, data_offset: int, index: PageIndex, announced: int, notes: Tuple[str, ...] = ()
    ) -> None:
        """``announced``: pages that the header counts. ``notes`` join the warnings."""
        super().__init__(file, data_offset)
        self._notes = notes
        self._index = index
        self._announced = announced

    @property
    def is_true(self) -> bool:
        """Whether header or file confirm how many pages the bitmap marks."""
        marked = self._index.present
        return marked == self._announced or self._data_offset + marked * PAGE_BYTES == self._file.size

    @property
    def pages_expected(self) -> int:
        """Pages that the bitmap marks."""
        return self._index.present

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What is wrong with the container."""
        marked = self._index.present
        if marked == self._announced:
            return (*super().warnings, *self._notes)
        return (
            *super().warnings,
            *self._notes,
            f"the header counts {count_things(self._announced, 'page')}, its bitmap and the file {marked:,}",
        )

    def iter_extents(self, address: int, size: int) -> Iterator[Extent]:
        """The parts of a physical range that the file holds, ascending."""
        end = address + size
        first = address >> _PAGE_SHIFT
        for page, index, count in self._index.iter_runs(first, ((end + _OFFSET_MASK) >> _PAGE_SHIFT) - first):
            yield from self._clip_run(page, index, min(count, self._held_pages - index), address, end)

    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""
        offset = address & _OFFSET_MASK
        if offset + size <= PAGE_BYTES:
            index = self._index.find(address >> _PAGE_SHIFT)
            if 0 <= index < self._held_pages:
                data = self._file.read_at(self._data_offset + (index << _PAGE_SHIFT) + offset, size)
                if len(data) == size:
                    return data
        return self._read_extents(address, size)
