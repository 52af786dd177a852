"""Handle tables: how many handles a process has, and the objects that they lead to.

A table has one to three levels of pages. Since Windows 8 it counts its handles list by list, some below zero. An entry
holds the address of an object's header: up to Windows 7 and on 32-bit systems as it is, later shifted. Sources: public
symbols, ReactOS, MemProcFS, volatility3, System Informer (the shifts of 2,891 kernels), and two real dumps.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.forms import find_form
from pykdext.kernel.objects.pages import PageReader
from pykdext.targets.protocol import PAGE_BYTES, Target
from pykdext.units import count_things
from pykdext.work import UNWATCHED, Work

MAX_HANDLES = 1 << 24
"""Windows gives a process at most 16,777,216 handles."""

_HANDLE_STEP = 4
_LEVEL_MASK = 3
_MAX_LEVEL = 2
_FIRST_WITH_LISTS = 9200
_FIRST_WITH_SHIFT_16 = 9600
_LIST_BYTES = 0x40
_MAX_LISTS = 128
_MAX_COUNTED, MAX_COUNTED_IN_ALL = 1 << 17, 1 << 20
_FEW_HANDLES, _NEARLY_ALL = 64, 0.9
_MAX_LIST_COUNT = 1 << 24
_PATHS = ("TableCode", "UniqueProcessId", "NextHandleNeedingPool", "HandleCount", "FreeLists", "QuotaProcess")


@dataclass(frozen=True)
class CountedHandles:
    """What a table says of itself: its handles (None: it does not), and handles that it has memory for."""

    handles: Optional[int]
    slots: Optional[int]


@dataclass
class ReadHandles:
    """The headers that the live entries of a table lead to, in the table's order."""

    headers: array[int]
    pages_read: int = 0
    pages_expected: int = 0
    warnings: List[str] = field(default_factory=list)


class HandleTableReader:
    """Reads the handle tables of one kernel."""

    def __init__(self, kernel: Kernel, pages: PageReader) -> None:
        self._kernel = kernel
        self._target: Target = kernel.target
        self._pages = pages
        self._width = kernel.target.pointer_size
        self._build = kernel.build
        self._form = find_form(
            kernel,
            "_HANDLE_TABLE",
            _PATHS,
            lambda form: form.has("TableCode", "NextHandleNeedingPool"),
            {"NextHandleNeedingPool": 4},
        )
        self.entry_bytes = 2 * self._width
        self.entries_per_page = PAGE_BYTES // self.entry_bytes
        self._decode = _choose_decoder(kernel, self._build)
        self._list_count = self._read_list_count()
        self._counted: Dict[int, Optional[int]] = {}
        self._left_to_count = MAX_COUNTED_IN_ALL

    def owner(self, table: int) -> Optional[int]:
        """The number of the process that a table belongs to; None: not in memory."""
        offset = self._offset("UniqueProcessId")
        return None if offset is None else self._pages.number(table + offset, 4)

    def count(self, table: int) -> Optional[CountedHandles]:
        """What a table counts; None: it is not in memory."""
        code = self._number(table, "TableCode", self._width)
        if code is None:
            return None
        slots = self._number(table, "NextHandleNeedingPool", 4)
        counted = self._number(table, "HandleCount", 4)
        if counted is None and self._build >= _FIRST_WITH_LISTS:
            counted = self._sum_lists(table)
        if counted is not None and not 0 <= counted <= MAX_HANDLES:
            counted = self._count_entries(table, slots or 0)
        return CountedHandles(counted, None if slots is None else min(slots // _HANDLE_STEP, MAX_HANDLES))

    def _count_entries(self, table: int, slots: int) -> Optional[int]:
        """The handles of a table whose own counts are damaged; None: too many, or not all in memory.

        Of all such tables ``MAX_COUNTED_IN_ALL`` slots are looked at: counts that are damaged everywhere must not cost
        a walk through all tables.
        """
        room = max(slots // _HANDLE_STEP, self.entries_per_page)
        if table not in self._counted and room <= min(_MAX_COUNTED, self._left_to_count):
            self._left_to_count -= room
            found = self.read(table)
            is_whole = found.pages_read == found.pages_expected and not found.warnings
            self._counted[table] = len(found.headers) if is_whole else None
        return self._counted.get(table)

    def list_count(self, table: int, number: int) -> Optional[int]:
        """The handles that one free list of a table counts, less than zero too; None: not in memory, or no lists."""
        start = self._offset("FreeLists")
        return None if start is None else self._list_number(table + start, number)

    def read(self, table: int, work: Work = UNWATCHED, level: Optional[int] = None) -> ReadHandles:
        """Every handle of a table whose page is in memory; ``level``: what to believe instead of the table's own."""
        found = ReadHandles(array("Q"))
        code = self._number(table, "TableCode", self._width)
        if code is None:
            found.warnings.append(f"handle table at 0x{table:x} is not in memory")
            return found
        if level is not None:
            code = code & ~7 | level
        if code & _LEVEL_MASK > _MAX_LEVEL:
            found.warnings.append(f"handle table at 0x{table:x}: found level {code & _LEVEL_MASK}, expected 0 to 2")
            return found
        slots = self._number(table, "NextHandleNeedingPool", 4) or 0
        claimed = -(-(slots // _HANDLE_STEP) // self.entries_per_page)
        most = MAX_HANDLES // self.entries_per_page
        if claimed > most:
            claim = f"found {count_things(slots // _HANDLE_STEP, 'handle')}, expected at most {MAX_HANDLES:,}"
            found.warnings.append(f"handle table at 0x{table:x}: {claim}")
        found.pages_expected = max(1, min(claimed, most))
        seen: Set[int] = set()
        torn = 0
        for page in self._iter_low_pages(code & ~7, code & _LEVEL_MASK, found, seen):
            if work.is_ended:
                found.warnings.append("interrupted before all handles were read")
                break
            try:
                data = self._target.read_virtual(page, PAGE_BYTES)
                found.pages_read += 1
            except MemoryReadError:
                data = self._read_parts(page)
                torn += bool(data)
            found.headers.extend(self._decode(data))
        if torn:
            found.warnings.append(f"pages of the handle table that are only partly in memory: {torn:,}")
        found.pages_expected = max(found.pages_expected, found.pages_read)
        return found

    def read_whole(self, table: int, counted: Optional[int], work: Work = UNWATCHED) -> ReadHandles:
        """The same; where the table's level does not lead to the handles that it counts, by the level that does."""
        found = self.read(table, work)
        if counted is None or work.is_ended or not _is_short(len(found.headers), counted):
            return found
        for level in range(_MAX_LEVEL + 1):
            other = self.read(table, work, level)
            if not _is_short(len(other.headers), counted) and len(other.headers) <= counted + _FEW_HANDLES:
                other.warnings.insert(0, f"handle table at 0x{table:x}: its level is wrong, read as level {level}")
                return other
        if found.pages_read < found.pages_expected and not found.warnings:
            return found  # pages are missing, and that is told
        found.warnings.append(
            f"handle table at 0x{table:x}: pages lead to {len(found.headers):,} of {count_things(counted, 'handle')}"
        )
        return found

    def _read_parts(self, page: int) -> bytes:
        """A page with zeros for what is not in memory: small dumps hold parts of pages; empty if nothing is there."""
        whole = bytearray(PAGE_BYTES)
        parts = list(self._target.read_present(page, PAGE_BYTES))
        for address, data in parts:
            whole[address - page : address - page + len(data)] = data
        return bytes(whole) if parts else b""

    def _iter_low_pages(self, address: int, level: int, found: ReadHandles, seen: Set[int]) -> Iterator[int]:
        """The pages with entries; a page that leads back to one that was seen ends there."""
        pending: List[Tuple[int, int]] = [(address, level)]
        given = 0
        while pending and given < found.pages_expected:
            page, depth = pending.pop()
            if page in seen:
                found.warnings.append(f"handle table: page 0x{page:x} is in it twice")
                continue
            seen.add(page)
            if depth == 0:
                given += 1
                yield page
                continue
            try:
                data = self._target.read_virtual(page, PAGE_BYTES)
            except MemoryReadError:
                lost = (PAGE_BYTES // self._width) ** depth
                given += min(lost, found.pages_expected - given)
                continue
            pointers = struct.unpack(f"<{PAGE_BYTES // self._width}{'I' if self._width == 4 else 'Q'}", data)
            below = []
            for pointer in pointers:
                if not pointer or pointer % PAGE_BYTES:
                    break
                below.append((pointer, depth - 1))
            pending.extend(reversed(below))

    def _sum_lists(self, table: int) -> Optional[int]:
        """The signed sum of all free lists' counts.

        Where no symbol tells how many there are, lists are read as long as they look like one.
        """
        start = self._offset("FreeLists")
        if start is None:
            return None
        if self._list_count is not None:
            counts = [self._list_number(table + start, number) for number in range(self._list_count)]
            return None if None in counts else sum(count for count in counts if count is not None)
        total: Optional[int] = None
        for number in range(_MAX_LISTS):
            if not self._looks_like_list(table + start + number * _LIST_BYTES, number):
                break
            count = self._list_number(table + start, number)
            if count is None:
                break
            total = (total or 0) + count
        return total

    def _list_number(self, lists: int, number: int) -> Optional[int]:
        at = lists + number * _LIST_BYTES + (0xC if self._width == 4 else 0x18)
        value = self._pages.number(at, 4)
        return None if value is None else value - (1 << 32) * (value >> 31)

    def _looks_like_list(self, address: int, number: int) -> bool:
        """An unlocked list with no or two pointers of the kernel and small counts; the first one always is."""
        words = [self._pages.pointer(address + n * self._width) for n in range(3)]
        count = self._list_number(address - number * _LIST_BYTES, number)
        if None in words or count is None or abs(count) > _MAX_LIST_COUNT:
            return False
        if number == 0:
            return True
        lock, first, last = words
        return lock == 0 and bool(first) == bool(last) and (not first or _is_kernel(first, self._width))

    def _read_list_count(self) -> Optional[int]:
        symbol = self._kernel.find_symbol("ExpFreeListCount")
        value = None if symbol is None else self._pages.number(symbol.address, 4)
        return value if value is not None and 0 < value <= _MAX_LISTS else None

    def _offset(self, name: str) -> Optional[int]:
        return None if self._form is None else self._form.offset(name)

    def _number(self, table: int, name: str, size: int) -> Optional[int]:
        offset = self._offset(name)
        return None if offset is None else self._pages.number(table + offset, size)


def _is_short(read: int, counted: int) -> bool:
    """Far fewer handles than were counted; a few may be opened and closed while a dump is written."""
    return read + _FEW_HANDLES < _NEARLY_ALL * counted


def _is_kernel(address: int, width: int) -> bool:
    return address >= (0x80000000 if width == 4 else 0xFFFF800000000000)


def _choose_decoder(kernel: Kernel, build: int) -> Callable[[bytes], Sequence[int]]:
    """How the entries of a page become the headers of its live ones; entry 0 of a page is no handle."""
    if kernel.target.pointer_size == 4:
        return lambda data: [word & ~7 for word in array("I", data)[2::2] if word & ~7]
    if build < _FIRST_WITH_LISTS:
        return lambda data: [word & ~7 for word in array("Q", data)[2::2] if word & ~7]
    if build < _FIRST_WITH_SHIFT_16:
        return lambda data: [0xFFFFF80000000000 | word >> 19 & ~0xF for word in array("Q", data)[2::2] if word >> 23]
    if kernel.has_five_levels:
        return lambda data: [_extend57(word >> 11 << 4) for word in array("Q", data)[2::2] if word >> 11]
    return lambda data: [0xFFFF000000000000 | word >> 16 & ~0xF for word in array("Q", data)[2::2] if word >> 20]


def _extend57(address: int) -> int:
    return address | 0xFE00000000000000 if address >> 56 & 1 else address
