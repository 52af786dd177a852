"""Address translation: from the kernel's virtual addresses through its page tables to physical memory.

One walk for every processor; what differs between them is a PagingMode. Sources of the entries' bits: the processor
manuals for valid entries; the kernels' symbols (``_MMPTE_TRANSITION``, ``_MMPTE_PROTOTYPE``, ``_MMPTE_SOFTWARE``) for
those that only Windows reads. That an address translates does not mean that the dump holds its page.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.protocol import PAGE_BYTES, PhysicalMemory

MAX_CACHED_REGIONS = 2048
"""Regions whose tables are kept (4 KiB each): with 8-byte entries they describe 4 GiB of virtual memory."""

DEMAND_ZERO = -1
"""Instead of a physical address: the page was never touched, the kernel would find zeros.

All its bits are set: an offset put in by ``|`` leaves it as it is.
"""

Mapping = Tuple[int, int, int]
"""A virtual range on a contiguous physical one: virtual and physical address (or DEMAND_ZERO), size in bytes."""

USUAL_INVALID_PTE_MASK = 1 << 45
"""What kernels guarded against L1TF usually have in MiInvalidPteMask: no machine has memory there."""

_GUARD_BITS = 0x000FE000_00000000
"""Bit 45 and all higher ones that a frame number could have."""

_VALID = 0x001
_STORED_AS_IS = 0x010
_PROTOTYPE = 0x400
_TRANSITION = 0x800

_PAGE_SHIFT = 12
_OFFSET = PAGE_BYTES - 1


class TableLevel(NamedTuple):
    """A level of tables above the page tables.

    Attributes:
        shift: lowest bit of the part of an address that selects an entry. index_mask: that part, shifted down.
        valid: the bits that all are set in an entry that leads on.
        large_mask, large: an entry with ``entry & large_mask == large`` is itself a page of ``1 << shift`` bytes.
    """

    shift: int
    index_mask: int
    valid: int
    large_mask: int
    large: int


@dataclass(frozen=True)
class PagingMode:
    """How page tables look on a kind of processor, and what Windows writes into entries that are not valid.

    Attributes:
        address_ranges: what can be mapped at all, as ``(first address, end)``, the kernel's range first.
        root_mask: the bits of DirectoryTableBase that are the address of the top table.
        levels: the levels above the page tables, the top first.
        entry: an entry. page_table: the entries of a page table.
        frame_mask: the bits of an entry that are a physical address.
        valid: the bits that all are set in a page table's entry that maps a page.
        page_file_shift: from this bit on an entry of a page in a page file holds the page's number there.
        prototype_address: the address in a prototype entry; its low bits if a base is to be added.
        prototypes_need_base: prototype entries hold an offset into paged pool.
        guarded: newer kernels disguise entries that are not valid, against L1TF.
    """

    address_ranges: Tuple[Tuple[int, int], ...]
    root_mask: int
    levels: Tuple[TableLevel, ...]
    entry: Struct
    page_table: Struct
    frame_mask: int
    valid: int
    page_file_shift: int
    prototype_address: Callable[[int], int]
    prototypes_need_base: bool = False
    guarded: bool = True


class _Region(NamedTuple):
    """What the tables above the page tables say of an address: a page table, a large page, or nothing at all.

    Attributes:
        page_table: the table's bytes. large_page: the page's physical address. Both None: nothing translates here.
        span_bytes: how far this holds around the address; a power of two.
        absent_until: where the run of entries that are 0 ends, in the table that has one for the address; 0: no such.
    """

    page_table: Optional[bytes]
    large_page: Optional[int]
    span_bytes: int
    absent_until: int = 0

    def end(self, address: int) -> int:
        """Where what is said of an address ends."""
        return self.absent_until or (address | (self.span_bytes - 1)) + 1


class AddressSpace:
    """The kernel's virtual addresses over physical memory. Follows a table a level: no cycle can hold it up.

    Reads valid entries, transition entries (the page still holds its data), prototype entries (decoded once) and those
    of pages that were never touched. Entries that point into a page file do not translate.
    """

    def __init__(self, mode: PagingMode, memory: PhysicalMemory, directory_table_base: int) -> None:
        """``directory_table_base``: CR3 or TTBR1, with whatever flags it carries."""
        self._mode = mode
        self._memory = memory
        self._root = directory_table_base & mode.root_mask
        self._levels = tuple(map(tuple, mode.levels))
        self._region_shift = mode.levels[-1].shift
        self._index_mask = PAGE_BYTES // mode.entry.size - 1
        self._entry_bytes = mode.entry.size
        self._unpack_entry = mode.entry.unpack_from
        self._frame_mask = mode.frame_mask
        self._transition_frame_mask = mode.frame_mask & ~USUAL_INVALID_PTE_MASK
        self._valid = mode.valid
        self._invalid_pte_mask: Optional[int] = None if mode.guarded else 0
        self._shown_mask: Optional[int] = None
        self._prototype_base: Optional[int] = None if mode.prototypes_need_base else 0
        self._tables: Dict[int, Optional[bytes]] = {}
        self._regions: Dict[int, _Region] = {}

    @property
    def has_root(self) -> bool:
        """Whether the top table can be read: without it no address translates."""
        return self._table(self._root) is not None

    def with_root(self, directory_table_base: int) -> AddressSpace:
        """The address space of other page tables of the same kernel."""
        other = AddressSpace(self._mode, self._memory, directory_table_base)
        other._invalid_pte_mask = self._invalid_pte_mask
        other._shown_mask = self._shown_mask
        other._prototype_base = self._prototype_base
        return other

    def forget_tables(self) -> None:
        """Read every table anew: more memory is there than before."""
        self._tables.clear()
        self._regions.clear()

    def set_invalid_pte_mask(self, mask: int) -> None:
        """Take the value of MiInvalidPteMask; 0: the kernel does not disguise its entries.

        While it is not known, entries are read as far as the usual mask and no mask lead to the same answer. A value
        that entries contradict (``learn_invalid_pte_mask``) is not the mask, wherever it was read: it is left out.
        """
        shown = self._shown_mask
        contradicted = mask & _GUARD_BITS if shown == 0 else shown is not None and mask & shown != shown
        if not contradicted:
            self._invalid_pte_mask = mask

    def learn_invalid_pte_mask(self, address: int, size: int) -> bool:
        """Look for an entry of a virtual range that shows the mask; whether the mask is known now.

        A page in transition has a frame number that some machine can have: the bits above it are the mask. And a
        prototype entry is stored as it is only where its address has a bit of the mask.
        """
        if self._invalid_pte_mask is None:
            shown = (_shown_mask(entry) for entry in self._iter_entries(address, address + size))
            self._shown_mask = next((mask for mask in shown if mask is not None), None)
            self._invalid_pte_mask = self._shown_mask
        return self._invalid_pte_mask is not None

    def _iter_entries(self, address: int, end: int) -> Iterator[int]:
        """The entries of a range's page tables, valid or not."""
        while address < end:
            region = self._region(address)
            stop = min(end, region.end(address))
            if region.page_table is not None:
                yield from self._entries(region.page_table, address, stop)
            address = stop

    def set_prototype_base(self, address: int) -> None:
        """Tell what the offsets in prototype entries are relative to; until then such pages do not translate."""
        self._prototype_base = address

    def translate(self, address: int) -> Optional[int]:
        """The physical address of a virtual one, DEMAND_ZERO, or None if it does not translate."""
        for start, end in self._mode.address_ranges:
            if start <= address < end:
                return self._translate(address, self._resolve_invalid)
        return None

    def iter_mappings(self, address: int, size: int) -> Iterator[Mapping]:
        """The parts of a virtual range that translate, ascending and disjoint; neighbours are joined."""
        end = address + size
        if size <= 0 or not self._is_in_one_range(address, end):
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

    def _is_in_one_range(self, first: int, end: int) -> bool:
        """All addresses can be mapped, and the hole between two ranges is not among them."""
        return any(range_first <= first and end <= range_end for range_first, range_end in self._mode.address_ranges)

    def _iter_leaves(self, address: int, end: int) -> Iterator[Mapping]:
        """Page by page what translates; what a missing table leaves out is skipped at once."""
        while address < end:
            region = self._region(address)
            stop = min(end, region.end(address))
            if region.page_table is not None:
                yield from self._iter_page_table(region.page_table, address, stop)
            elif region.large_page is not None:
                yield address, region.large_page | (address & (region.span_bytes - 1)), stop - address
            address = stop

    def _iter_page_table(self, table: bytes, address: int, stop: int) -> Iterator[Mapping]:
        """The pages of a page table from ``address`` up to ``stop``."""
        frame_mask, valid = self._frame_mask, self._valid
        for entry in self._entries(table, address, stop):
            page_end = min((address | _OFFSET) + 1, stop)
            if entry & valid == valid:
                physical: Optional[int] = entry & frame_mask
            else:
                physical = self._resolve_invalid(entry) if entry else None
            if physical is not None:
                yield address, physical | (address & _OFFSET), page_end - address
            address = page_end

    def _entries(self, table: bytes, address: int, stop: int) -> Tuple[int, ...]:
        """The entries of a page table from ``address`` up to ``stop``."""
        first, last = address >> _PAGE_SHIFT & self._index_mask, (stop - 1) >> _PAGE_SHIFT & self._index_mask
        return self._mode.page_table.unpack(table)[first : last + 1]

    def _translate(self, address: int, resolve: Callable[[int], Optional[int]]) -> Optional[int]:
        """Translate an address of which only the bits count that select entries.

        ``resolve`` gives the frame of an entry that is not valid.
        """
        page_table, large_page, span_bytes, _ = self._region(address)
        if page_table is not None:
            at = (address >> _PAGE_SHIFT & self._index_mask) * self._entry_bytes
            entry: int = self._unpack_entry(page_table, at)[0]
            frame = entry & self._frame_mask if entry & self._valid == self._valid else resolve(entry)
            return None if frame is None else frame | (address & _OFFSET)
        return None if large_page is None else large_page | (address & (span_bytes - 1))

    def _region(self, address: int) -> _Region:
        """The region of an address; the tables above it are walked once."""
        try:
            return self._regions[address >> self._region_shift]
        except KeyError:
            pass
        region = self._walk(address)
        if len(self._regions) >= MAX_CACHED_REGIONS:
            self._regions.clear()
        self._regions[address >> self._region_shift] = region
        return region

    def _walk(self, address: int) -> _Region:
        """Follow the tables above the page tables."""
        table, span_bytes = self._root, 0
        for shift, index_mask, valid, large_mask, large in self._levels:
            span_bytes = 1 << shift
            data = self._table(table)
            if data is None:
                return _Region(None, None, span_bytes)
            at = (address >> shift & index_mask) * self._entry_bytes
            entry: int = self._unpack_entry(data, at)[0]
            if not entry:
                zeros = len(data) - at - len(data[at:].lstrip(b"\0"))
                return _Region(None, None, span_bytes, (address >> shift) + zeros // self._entry_bytes << shift)
            if entry & valid != valid:
                return _Region(None, None, span_bytes)
            table = entry & self._frame_mask
            if entry & large_mask == large:
                return _Region(None, table & -span_bytes, span_bytes)
        return _Region(self._read_table(table), None, span_bytes)

    def _resolve_invalid(self, entry: int) -> Optional[int]:
        """The frame of a page whose entry the processor refuses, DEMAND_ZERO, or None: not in memory."""
        is_prototype = entry & (_VALID | _PROTOTYPE) == _PROTOTYPE
        return self._resolve_prototype(entry) if is_prototype else self._resolve_software(entry)

    def _resolve_prototype(self, entry: int) -> Optional[int]:
        """The frame of a shared page: a prototype entry holds the address of the entry that has it."""
        plain = self._undisguised(entry)
        if plain is None or self._prototype_base is None:
            return None
        address = self._prototype_base + self._mode.prototype_address(plain)
        physical = self._translate(address, self._resolve_software)
        if physical is None or physical == DEMAND_ZERO:
            return None
        try:
            shared: int = self._mode.entry.unpack(self._memory.read_physical(physical, self._entry_bytes))[0]
        except MemoryReadError:
            return None
        return shared & self._frame_mask if shared & self._valid == self._valid else self._resolve_software(shared)

    def _resolve_software(self, entry: int) -> Optional[int]:
        """The frame of an entry that names no other entry."""
        if not entry or entry & (_VALID | _PROTOTYPE):
            return None
        plain = self._undisguised(entry)
        if entry & _TRANSITION:
            return (entry if plain is None else plain) & self._transition_frame_mask
        # Not in a page file either, if the file's page number is 0: only the protection is there yet.
        return DEMAND_ZERO if plain is not None and not plain >> self._mode.page_file_shift else None

    def _undisguised(self, entry: int) -> Optional[int]:
        """An entry without the bits that guard it against L1TF.

        Guarded kernels set the bits of MiInvalidPteMask in entries that are not valid, unless bit 4 says that the
        entry is stored as it is. None: only with the kernel's mask could the entry's own bits be told from those.
        """
        if entry & _STORED_AS_IS:
            return entry
        if self._invalid_pte_mask is None:
            return None if entry & USUAL_INVALID_PTE_MASK else entry
        return entry & ~self._invalid_pte_mask

    def _table(self, address: int) -> Optional[bytes]:
        """A table above the page tables, or None if the dump does not hold it."""
        try:
            return self._tables[address]
        except KeyError:
            pass
        if len(self._tables) >= MAX_CACHED_REGIONS:
            self._tables.clear()
        self._tables[address] = data = self._read_table(address)
        return data

    def _read_table(self, address: int) -> Optional[bytes]:
        """The bytes from a table's address to the end of its page, or None if the dump does not hold them."""
        try:
            return self._memory.read_physical(address, PAGE_BYTES - (address & _OFFSET))
        except MemoryReadError:
            return None


def _shown_mask(entry: int) -> Optional[int]:
    """The mask against L1TF, if the entry shows it."""
    if entry & (_VALID | _PROTOTYPE | _TRANSITION | _STORED_AS_IS) == _TRANSITION:
        return entry & _GUARD_BITS
    stored = _PROTOTYPE | _STORED_AS_IS | USUAL_INVALID_PTE_MASK
    if entry & (_VALID | stored) == stored:
        return USUAL_INVALID_PTE_MASK
    return None


def _following(physical: int, length: int) -> int:
    """The physical address after a part; demand-zero parts follow each other."""
    return DEMAND_ZERO if physical == DEMAND_ZERO else physical + length
