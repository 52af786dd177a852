"""Handle tables of one, two and three levels, and how each Windows writes an entry."""

from __future__ import annotations

import struct
from typing import Dict, List, Sequence, Tuple

from dumps.forge.kernels import KernelBuild
from dumps.forge.objects.layouts import Members
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES

_FIRST_WITH_FREE_LISTS = 9200
_FREE_EVERY = 17  # of the entries of a table so many-th is free
_ACCESS = 0x1F0003
_LISTS = ((17763, 4), (9200, 2), (0, 0))  # first build, free lists of a table


def uses_free_lists(kernel: KernelBuild) -> bool:
    """Return whether a table counts its handles list by list."""
    return kernel.build >= _FIRST_WITH_FREE_LISTS


def free_list_count(kernel: KernelBuild) -> int:
    """Return how many lists each table has."""
    if kernel.architecture.narrow and kernel.build < 15063:
        return 1 if uses_free_lists(kernel) else 0
    return next(count for first, count in _LISTS if kernel.build >= first)


def table_bytes(kernel: KernelBuild) -> int:
    """Return the size of a HANDLE_TABLE with its lists."""
    return 0x40 + 0x40 * max(1, free_list_count(kernel))


class EntryPages:
    """The pages of one table: handles are numbered in order, a free one after every few.

    ``numbers`` says which numbers the entries have instead; those that none can have get the next that is free.
    """

    def __init__(self, kernel: KernelBuild, headers: Sequence[int], numbers: Sequence[int] = ()) -> None:
        self._kernel = kernel
        self._narrow = kernel.architecture.narrow
        self.entries_per_page = PAGE_BYTES // (8 if self._narrow else 16)
        self.low_pages: List[bytes] = []
        self.live_by_page: List[int] = []
        if numbers:
            self._fill_at(headers, numbers)
        else:
            self._fill(headers)

    @property
    def next_handle(self) -> int:
        """The first handle that the table has no memory for."""
        return 4 * self.entries_per_page * len(self.low_pages)

    def _fill(self, headers: Sequence[int]) -> None:
        per_page, position = self.entries_per_page, 0
        while position < len(headers) or not self.low_pages:
            words: List[int] = [0, 0]
            live = 0
            for number in range(1, per_page):
                if number % _FREE_EVERY and position < len(headers):
                    words += self._entry(headers[position], position)
                    position += 1
                    live += 1
                else:
                    words += (0, 0)
            self.low_pages.append(struct.pack(f"<{len(words)}{'I' if self._narrow else 'Q'}", *words))
            self.live_by_page.append(live)

    def _fill_at(self, headers: Sequence[int], numbers: Sequence[int]) -> None:
        per_page = self.entries_per_page
        taken: Dict[int, int] = {}
        free = 1
        for header, number in zip(headers, numbers):
            index = number // 4
            if index in taken or index % per_page == 0:
                while free in taken or free % per_page == 0:
                    free += 1
                index = free
            taken[index] = header
        for first in range(0, max(taken) + 1, per_page):
            words: List[int] = []
            for index in range(first, first + per_page):
                words += self._entry(taken[index], index) if index in taken else (0, 0)
            self.low_pages.append(struct.pack(f"<{len(words)}{'I' if self._narrow else 'Q'}", *words))
            self.live_by_page.append(sum(index in taken for index in range(first, first + per_page)))

    def _entry(self, header: int, number: int) -> Tuple[int, int]:
        build = self._kernel.build
        if self._narrow or build < _FIRST_WITH_FREE_LISTS:
            return header | 1, _ACCESS
        if self._kernel.architecture.has_five_levels:  # addresses of 57 bits leave ten for the references
            references = 0x3FF - number % 5 if number % 3 else 0
            return (header & 0x01FFFFFFFFFFFFF0) << 7 | references << 1 | 1, _ACCESS
        references = 0x7FFF - number % 5 if number % 3 else 0
        return (header & 0xFFFFFFFFFFF0) << 16 & 0xFFFFFFFFFFFFFFFF | references << 1 | 1, _ACCESS


def write_table(parts: Parts, layout: Members, va: int, entries: EntryPages, pid: int, process_va: int) -> bytes:
    """Write the pages of a table and return the HANDLE_TABLE that will lie at ``va``, its list links left zero."""
    kernel, pack = parts.kernel, parts.kernel.architecture.pack_pointers
    level, pages = 0, [_store_page(parts, page) for page in entries.low_pages]
    per_upper_page = PAGE_BYTES // kernel.architecture.pointer_bytes
    parts.addresses.update({f"handles:{pid}:{number}": page for number, page in enumerate(pages)})
    while len(pages) > 1:
        level += 1
        pages = [
            _store_page(parts, pack(*pages[first : first + per_upper_page]))
            for first in range(0, len(pages), per_upper_page)
        ]
    data = bytearray(table_bytes(kernel))
    live = sum(entries.live_by_page)
    _put(data, layout["TableCode"], pack(pages[0] | level))
    _put(data, layout["QuotaProcess"], pack(0 if pid == 4 else process_va))
    by_number = uses_free_lists(kernel)
    _put(data, layout["UniqueProcessId"], struct.pack("<I", pid) if by_number else pack(pid))
    _put(data, layout["NextHandle"], struct.pack("<I", entries.next_handle))
    if not by_number:
        _put(data, layout["HandleCount"], struct.pack("<I", live))
        return bytes(data)
    counts = [-3 * number for number in range(free_list_count(kernel))]
    counts[0] = live - sum(counts)
    narrow = kernel.architecture.narrow
    for number, count in enumerate(counts):
        start = layout["FreeLists"] + 0x40 * number
        _put(data, start + (0xC if narrow else 0x18), struct.pack("<iI", count, max(0, count)))
        if number:
            _put(data, start + (4 if narrow else 8), pack(pages[0], pages[0]))
    return bytes(data)


def _store_page(parts: Parts, data: bytes) -> int:
    va = parts.regions.paged.take(PAGE_BYTES)
    parts.space.store(va, data.ljust(PAGE_BYTES, b"\0"))
    return va


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    data[offset : offset + len(piece)] = piece
