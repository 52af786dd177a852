"""The physical memory of a machine, as containers of virtual machines and raw images hold it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections import OrderedDict
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.errors import DumpFormatError, MemoryReadError
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.parts import join_parts
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import choose_form, count_things

MAX_RANGES = 1 << 20
"""Memory falls into a few ranges, with Dynamic Memory into thousands: a longer list is damaged."""

PHYSICAL_ADDRESS_BITS = 52
PIECE_BYTES = 1 << 20
"""The largest piece that is read at once where much is read."""

_OFFSET_MASK = PAGE_BYTES - 1
_PAGE_SHIFT = 12
_CACHED_PAGES = 4096


class MachineMemory(ABC):
    """The pages of a container.

    Attributes:
        is_padded: pages that could not be read, and holes, stand in the file as zeros.
        searchable_bytes: how much of it a search can go through in time; pages that must be unpacked take long.
    """

    is_padded = False
    searchable_bytes = sys.maxsize

    def __init__(self, file: FileBytes, warnings: Tuple[str, ...] = ()) -> None:
        self._file = file
        self._warnings = warnings

    @property
    @abstractmethod
    def present_pages(self) -> int:
        """Pages that can be read."""

    @property
    @abstractmethod
    def pages_expected(self) -> int:
        """Pages that the container announces."""

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What is wrong with the container."""
        missing = self.pages_expected - self.present_pages
        if missing <= 0:
            return self._warnings
        cut = (
            f"the file is truncated: {self.present_pages:,} of its {count_things(self.pages_expected, 'page')} "
            f"{choose_form(self.present_pages, 'is', 'are')} in it"
        )
        return (*self._warnings, cut)

    @property
    @abstractmethod
    def end_address(self) -> int:
        """Where the last page ends."""

    @abstractmethod
    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""

    @abstractmethod
    def read_present_physical(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a physical range that are there, as ``(address, bytes)``, ascending and disjoint."""

    def iter_pieces(self, address: int, end: int) -> Iterator[Tuple[int, bytes]]:
        """All memory between two addresses in pieces; what is known to be zeros is left out."""
        return self.read_present_physical(address, end - address)


class MemoryRange(NamedTuple):
    """Physical memory that stands in one piece in the file: its address, its file offset, its size in bytes."""

    address: int
    offset: int
    size: int


class FileRanges(MachineMemory):
    """Memory that stands in the file as it is, in ranges; where ranges overlap, the one listed first counts."""

    def __init__(
        self,
        file: FileBytes,
        ranges: Iterable[MemoryRange],
        warnings: Tuple[str, ...] = (),
        *,
        is_padded: bool = False,
    ) -> None:
        """DumpFormatError if the ranges are too many, or exceed the processor's physical memory."""
        super().__init__(file, warnings)
        self.is_padded = is_padded
        placed = _place(file.path, ranges)
        self._pages_expected = sum(size for _, _, size in placed) >> _PAGE_SHIFT
        held = [(at, offset, min(size, file.size - offset) & -PAGE_BYTES) for at, offset, size in placed]
        kept = [item for item in held if item[2] > 0]
        self._starts = array("Q", (at for at, _, _ in kept))
        self._offsets = array("Q", (offset for _, offset, _ in kept))
        self._sizes = array("Q", (size for _, _, size in kept))

    @property
    def present_pages(self) -> int:
        """Pages that the file holds."""
        return sum(self._sizes) >> _PAGE_SHIFT

    @property
    def pages_expected(self) -> int:
        """Pages of all ranges."""
        return self._pages_expected

    @property
    def end_address(self) -> int:
        """Where the last page ends."""
        return self._starts[-1] + self._sizes[-1] if self._starts else 0

    @property
    def ranges(self) -> Tuple[MemoryRange, ...]:
        """What the file holds, ascending by address."""
        return tuple(map(MemoryRange, self._starts, self._offsets, self._sizes))

    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0:
            inside = address - self._starts[at]
            if inside + size <= self._sizes[at]:
                data = self._file.read_at(self._offsets[at] + inside, size)
                if len(data) == size:
                    return data
        return self._read_across(address, size)

    def _read_across(self, address: int, size: int) -> bytes:
        """``read_physical`` for memory of several ranges."""
        pieces: List[bytes] = []
        reached = address
        for start, offset, length in self._iter_extents(address, address + size):
            if start != reached:
                break
            pieces.append(self._file.read_at(offset, length))
            reached += len(pieces[-1])
        if reached != address + size:
            raise MemoryReadError(address, size, "physical memory that is not in the file")
        return b"".join(pieces)

    def _iter_extents(self, address: int, end: int) -> Iterator[MemoryRange]:
        """The parts of a physical range that the file holds, ascending."""
        for at in range(max(bisect_right(self._starts, address) - 1, 0), len(self._starts)):
            start = self._starts[at]
            if start >= end:
                return
            first = max(start, address)
            length = min(end, start + self._sizes[at]) - first
            if length > 0:
                yield MemoryRange(first, self._offsets[at] + first - start, length)

    def read_present_physical(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a physical range that the file holds, as ``(address, bytes)``, ascending and disjoint.

        Holes of a padded file count as absent: nothing was written there.
        """
        if self.is_padded:
            yield from self.iter_pieces(address, address + size)
            return
        for start, offset, length in self._iter_extents(address, address + size):
            for done in range(0, length, PIECE_BYTES):
                data = self._file.read_at(offset + done, min(PIECE_BYTES, length - done))
                if data:
                    yield start + done, data

    def iter_pieces(self, address: int, end: int) -> Iterator[Tuple[int, bytes]]:
        """All memory between two addresses in pieces; holes of a sparse file are left out."""
        for start, offset, length in self._iter_extents(address, end):
            done = 0
            while done < length:
                if length - done > PAGE_BYTES:
                    done = max(done, (self._file.skip_hole(offset + done) - offset) & -PAGE_BYTES)
                data = self._file.read_at(offset + done, min(PIECE_BYTES, length - done)) if done < length else b""
                if not data:
                    break
                yield start + done, data
                done += len(data)


def _place(path: str, ranges: Iterable[MemoryRange]) -> List[Tuple[int, int, int]]:
    """Ranges in ascending order, whole pages only, without what an earlier one of the list has already."""
    listed: List[MemoryRange] = []
    for item in ranges:
        if len(listed) >= MAX_RANGES:
            raise DumpFormatError(path, 0, f"more than {MAX_RANGES:,} ranges of memory", "fewer", "it is damaged")
        if item.address + item.size > 1 << PHYSICAL_ADDRESS_BITS:
            found = f"memory at 0x{item.address:x} of 0x{item.size:x} bytes"
            raise DumpFormatError(path, item.offset, found, "addresses that a processor has", "the file is damaged")
        start = (item.address + _OFFSET_MASK) & -PAGE_BYTES
        size = (item.address + item.size - start) & -PAGE_BYTES
        if size > 0:
            listed.append(MemoryRange(start, item.offset + start - item.address, size))
    order = sorted(range(len(listed)), key=lambda number: listed[number].address)
    if all(listed[a].address + listed[a].size <= listed[b].address for a, b in zip(order, order[1:])):
        return [(listed[number].address, listed[number].offset, listed[number].size) for number in order]
    return settle_ranges(listed)


def settle_ranges(listed: Sequence[MemoryRange]) -> List[Tuple[int, int, int]]:
    """Ranges that overlap, cut so that each address belongs to the one listed first."""
    import heapq

    edges = sorted({edge for item in listed for edge in (item.address, item.address + item.size)})
    waiting = sorted(range(len(listed)), key=lambda number: -listed[number].address)
    active: List[int] = []
    settled: List[List[int]] = []
    for start, end in zip(edges, edges[1:]):
        while waiting and listed[waiting[-1]].address <= start:
            heapq.heappush(active, waiting.pop())
        while active and listed[active[0]].address + listed[active[0]].size <= start:
            heapq.heappop(active)
        if not active:
            continue
        owner = listed[active[0]]
        offset = owner.offset + start - owner.address
        last = settled[-1] if settled else None
        if last and last[0] + last[2] == start and last[1] + last[2] == offset:
            last[2] += end - start
        else:
            settled.append([start, offset, end - start])
    return [(start, offset, size) for start, offset, size in settled]


class PackedPages(MachineMemory):
    """Memory whose pages are unpacked one by one; those used last are kept."""

    def __init__(self, file: FileBytes, warnings: Tuple[str, ...] = ()) -> None:
        super().__init__(file, warnings)
        self._kept: OrderedDict[int, Optional[bytes]] = OrderedDict()

    @abstractmethod
    def _load_page(self, number: int) -> Optional[bytes]:
        """The bytes of a page, or None if it is not there or cannot be unpacked."""

    @abstractmethod
    def _iter_numbers(self, first: int, stop: int) -> Iterator[int]:
        """The numbers of the pages of a range that are there, ascending."""

    def _page(self, number: int) -> Optional[bytes]:
        try:
            data = self._kept[number]
        except KeyError:
            data = self._kept[number] = self._load_page(number)
            if len(self._kept) > _CACHED_PAGES:
                self._kept.popitem(last=False)
        return data

    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""
        inside = address & _OFFSET_MASK
        if inside + size <= PAGE_BYTES:
            data = self._page(address >> _PAGE_SHIFT)
            if data is not None:
                return data[inside : inside + size]
            raise MemoryReadError(address, size, "physical memory that is not in the file")
        pieces: List[bytes] = []
        for number in range(address >> _PAGE_SHIFT, (address + size + _OFFSET_MASK) >> _PAGE_SHIFT):
            data = self._page(number)
            if data is None:
                raise MemoryReadError(address, size, "physical memory that is not in the file")
            pieces.append(data)
        return b"".join(pieces)[inside : inside + size]

    def read_present_physical(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a physical range that are there, as ``(address, bytes)``, ascending and disjoint."""
        return join_parts(self._iter_parts(address, address + size))

    def _iter_parts(self, address: int, end: int) -> Iterator[Tuple[int, bytes]]:
        for number in self._iter_numbers(address >> _PAGE_SHIFT, (end + _OFFSET_MASK) >> _PAGE_SHIFT):
            data = self._page(number)
            if data is not None:
                start = number << _PAGE_SHIFT
                first = max(start, address)
                yield first, data[first - start : max(end - start, 0)]
