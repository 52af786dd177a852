"""x64 address translation: four levels of tables, pages of 4 KiB, 2 MiB and 1 GiB.

Sources of the entries' bits: the processor manuals for valid entries; the kernel's symbols
(``_MMPTE_TRANSITION``, ``_MMPTE_PROTOTYPE``, ``_MMPTE_SOFTWARE``) for those that only Windows reads. That an
address translates does not mean that the dump holds its page.
"""

from __future__ import annotations

from struct import Struct
from typing import Callable, Dict, Iterator, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.protocol import PAGE_BYTES, PhysicalMemory

MAX_CACHED_TABLES = 2048
"""Tables kept (4 KiB each): those of the lowest level describe 4 GiB of virtual memory."""

DEMAND_ZERO = -1
"""Instead of a physical address: the page was never touched, the kernel would find zeros."""

Mapping = Tuple[int, int, int]
"""A virtual range on a contiguous physical one: virtual and physical address (or DEMAND_ZERO), size in bytes."""

_FRAME = 0x000FFFFFFFFFF000

_VALID = 0x001
_LARGE = 0x080
_PROTOTYPE = 0x400
_TRANSITION = 0x800
_STORED_AS_IS = 0x010
_INVALID_PTE_MASK = 1 << 45
_PAGE_FILE_HIGH_SHIFT = 32
_PROTOTYPE_ADDRESS_SHIFT = 16
_CANONICAL_SHIFT = 47
_ADDRESS_END = 1 << 64

_ENTRY = Struct("<Q")
_TABLE = Struct("<512Q")
_TABLE_SHIFTS = (39, 30, 21)
_TOP_SHIFT = 39
_PAGE_TABLE_SPAN = 1 << 21


class X64AddressSpace:
    """The kernel's virtual addresses over physical memory. Follows at most four tables: no cycle can hold it up.

    Reads valid entries, transition entries (the page still holds its data) and prototype entries (decoded
    once). Entries that point into a page file do not translate.
    """

    def __init__(self, memory: PhysicalMemory, directory_table_base: int) -> None:
        """``directory_table_base``: CR3; its low 12 bits (flags, PCID) are ignored."""
        self._memory = memory
        self._root = directory_table_base & _FRAME
        self._tables: Dict[int, Optional[bytes]] = {}

    @property
    def has_root(self) -> bool:
        """Whether the top table can be read: without it no address translates."""
        return self._table(self._root) is not None

    def translate(self, address: int) -> Optional[int]:
        """The physical address of a virtual one, DEMAND_ZERO, or None if it does not translate."""
        if not _is_one_canonical_range(address, address):
            return None
        return self._translate(address, self._resolve_invalid)

    def iter_mappings(self, address: int, size: int) -> Iterator[Mapping]:
        """The parts of a virtual range that translate, ascending and disjoint; neighbours are joined."""
        end = address + size
        if size <= 0 or not _is_one_canonical_range(address, end - 1):
            return
        start, physical, length = address, DEMAND_ZERO, 0
        for next_start, next_physical, next_length in self._iter_leaves(address, end):
            if next_start == start + length and next_physical == _following(physical, length):
                length += next_length
                continue
            if length:
                yield start, physical, length
            start, physical, length = next_start, next_physical, next_length
        if length:
            yield start, physical, length

    def _iter_leaves(self, address: int, end: int) -> Iterator[Mapping]:
        """Page by page what translates; what a missing table leaves out is skipped at once."""
        while address < end:
            entry, span = self._find_entry(address)
            stop = min(end, (address | (span - 1)) + 1)
            if entry & _LARGE:
                yield address, (entry & _FRAME & -span) | (address & (span - 1)), stop - address
            elif entry:
                yield from self._iter_page_table(entry & _FRAME, address, stop)
            address = stop

    def _find_entry(self, address: int) -> Tuple[int, int]:
        """The entry above the page tables that decides on an address (0: none), and the bytes it governs."""
        table = self._root
        entry = 0
        for shift in _TABLE_SHIFTS:
            data = self._table(table)
            entry = _ENTRY.unpack_from(data, (address >> shift & 0x1FF) * 8)[0] if data is not None else 0
            if not entry & _VALID:
                return 0, 1 << shift
            if shift == _TOP_SHIFT:
                entry &= ~_LARGE  # reserved at this level: there are no pages of 512 GiB
            if entry & _LARGE:
                return entry, 1 << shift
            table = entry & _FRAME
        return entry, _PAGE_TABLE_SPAN

    def _iter_page_table(self, table: int, address: int, stop: int) -> Iterator[Mapping]:
        """The pages of a page table from ``address`` up to ``stop``."""
        data = self._table(table)
        if data is None:
            return
        for entry in _TABLE.unpack(data)[address >> 12 & 0x1FF : (stop - 1 >> 12 & 0x1FF) + 1]:
            page_end = min((address | (PAGE_BYTES - 1)) + 1, stop)
            physical = entry & _FRAME if entry & _VALID else self._resolve_invalid(entry)
            if physical is not None:
                if physical != DEMAND_ZERO:
                    physical |= address & (PAGE_BYTES - 1)
                yield address, physical, page_end - address
            address = page_end

    def _resolve_invalid(self, entry: int) -> Optional[int]:
        """The frame of a page whose entry the processor refuses, DEMAND_ZERO, or None: not in memory."""
        if entry & _PROTOTYPE:
            return self._resolve_prototype(entry)
        if entry & _TRANSITION:
            return _transition_frame(entry)
        # Nor in a page file, if the file's page number is 0: only the protection is there yet.
        if entry and not entry >> _PAGE_FILE_HIGH_SHIFT:
            return DEMAND_ZERO
        return None

    def _resolve_prototype(self, entry: int) -> Optional[int]:
        """The frame of a shared page: a prototype entry holds the address of the entry that has it."""
        if not entry & _STORED_AS_IS and entry & _INVALID_PTE_MASK:
            return None  # only with the kernel's mask could an address with this bit be told from a masked one
        physical = self._translate(entry >> _PROTOTYPE_ADDRESS_SHIFT, _transition_frame)
        if physical is None:
            return None
        try:
            shared: int = _ENTRY.unpack(self._memory.read_physical(physical, _ENTRY.size))[0]
        except MemoryReadError:
            return None
        return shared & _FRAME if shared & _VALID else _transition_frame(shared)

    def _translate(self, address: int, resolve: Callable[[int], Optional[int]]) -> Optional[int]:
        """Translate the low 48 bits of an address; ``resolve`` gives the frame of an entry that is not valid."""
        upper, span = self._find_entry(address)
        if upper & _LARGE:
            return (upper & _FRAME & -span) | (address & (span - 1))
        table = self._table(upper & _FRAME) if upper else None
        if table is None:
            return None
        entry: int = _ENTRY.unpack_from(table, (address >> 12 & 0x1FF) * 8)[0]
        frame = entry & _FRAME if entry & _VALID else resolve(entry)
        if frame is None or frame == DEMAND_ZERO:
            return frame
        return frame | (address & (PAGE_BYTES - 1))

    def _table(self, address: int) -> Optional[bytes]:
        """The 4 KiB of a table, or None if the dump does not hold it."""
        try:
            return self._tables[address]
        except KeyError:
            pass
        try:
            data: Optional[bytes] = self._memory.read_physical(address, PAGE_BYTES)
        except MemoryReadError:
            data = None
        if len(self._tables) >= MAX_CACHED_TABLES:
            self._tables.clear()
        self._tables[address] = data
        return data


def _transition_frame(entry: int) -> Optional[int]:
    """The frame of an entry in transition, or None: it is in another state.

    Kernels guarded against L1TF set the bits of MiInvalidPteMask in entries that are not valid, unless bit 4 says
    that the entry is stored as it is. The mask is bit 45: no machine has memory there.
    """
    if entry & (_PROTOTYPE | _TRANSITION) != _TRANSITION:
        return None
    return entry & _FRAME & (~0 if entry & _STORED_AS_IS else ~_INVALID_PTE_MASK)


def _following(physical: int, length: int) -> int:
    """The physical address after a part; demand-zero parts follow each other."""
    return DEMAND_ZERO if physical == DEMAND_ZERO else physical + length


def _is_one_canonical_range(first: int, last: int) -> bool:
    """Bits 47 to 63 are equal in both addresses: the range does not touch the hole between the halves."""
    return first >> _CANONICAL_SHIFT == last >> _CANONICAL_SHIFT and first >> _CANONICAL_SHIFT in (0, 0x1FFFF)
