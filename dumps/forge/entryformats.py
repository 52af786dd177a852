"""Page table entries as processors read them (Intel SDM volume 3, Arm ARM D8) and as Windows fills the others.

A page table entry that is not valid still tells where the page is: in transition it keeps the frame number, as a
prototype it names another entry. Kernels patched against L1TF set a high bit in such entries ("swizzle"), and keep
them raw, marked by bit 4, where that bit is already in use (_MMPTE_TRANSITION, _MMPTE_PROTOTYPE and _MMPTE_SOFTWARE of
the public symbols, volatility's overlays for older and 32-bit kernels).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Tuple

VALID = 1
INVALID_PTE_MASK = 1 << 45

_KIND_BITS = 0x82  # bit 7 says large page on Intel's processors, bit 1 says table on Arm's
_SWIZZLED_RAW = 0x10  # the entry's upper bits are stored as they are
_PROTOTYPE = 0x400
_TRANSITION = 0x800
_READ_WRITE = 4 << 5  # MM_READWRITE in the protection bits 5-9
_PAGE_FILE = 2  # page file number 2


@dataclass(frozen=True)
class EntryFormat:
    """The page tables of one kind of processor.

    ``shifts`` and ``index_bits`` say, from the top level down, which bits of an address index a table.
    ``root_offset`` is where in its page the top table starts; ``top_flags`` are those of its entries. The tables of
    level ``self_mapped_level`` appear as memory from ``pte_base`` on.
    """

    entry_bytes: int
    shifts: Tuple[int, ...]
    index_bits: Tuple[int, ...]
    frame_mask: int
    page_flags: int
    large_flags: int
    table_flags: int
    top_flags: int
    no_execute: int
    large_levels: Tuple[int, ...]
    pte_base: int
    self_mapped_level: int = 0
    root_offset: int = 0

    @property
    def last_level(self) -> int:
        """The level whose entries map 4 KB pages."""
        return len(self.shifts) - 1

    @property
    def address_bits(self) -> int:
        """How many bits of an address the tables translate."""
        return self.shifts[0] + self.index_bits[0]

    def pte_va(self, va: int) -> int:
        """Return where the entry of the last level that maps an address appears as memory."""
        return self.pte_base + ((va & (1 << self.address_bits) - 1) >> 12) * self.entry_bytes

    @property
    def large_bytes(self) -> int:
        """The size of the smallest large page."""
        return 1 << self.shifts[self.large_levels[-1]]

    def entry_offset(self, va: int, level: int) -> int:
        """Return where in its table the entry of an address stands."""
        return (va >> self.shifts[level] & (1 << self.index_bits[level]) - 1) * self.entry_bytes

    def is_large(self, entry: int, level: int) -> bool:
        """Return whether a valid entry above the last level maps memory itself."""
        kind_bits = (self.large_flags ^ self.table_flags) & _KIND_BITS
        return level in self.large_levels and entry & kind_bits == self.large_flags & kind_bits

    def upper_levels(self) -> Tuple[Tuple[int, int, Optional[Tuple[int, int]]], ...]:
        """Return shift, mask of an index and the bits that tell large pages, of each level above the last."""
        kind_bits = (self.large_flags ^ self.table_flags) & _KIND_BITS
        large = (kind_bits, self.large_flags & kind_bits)
        return tuple(
            (self.shifts[level], (1 << self.index_bits[level]) - 1, large if level in self.large_levels else None)
            for level in range(self.last_level)
        )


X64 = EntryFormat(
    entry_bytes=8,
    shifts=(39, 30, 21, 12),
    index_bits=(9, 9, 9, 9),
    frame_mask=0x000FFFFFFFFFF000,
    page_flags=0x63,  # present, writable, accessed, dirty
    large_flags=0xE3,
    table_flags=0x63,
    top_flags=0x63,
    no_execute=1 << 63,
    large_levels=(1, 2),
    pte_base=0xFFFFF68000000000,
)
X64_FIVE_LEVELS = replace(
    X64, shifts=(48, *X64.shifts), index_bits=(9, *X64.index_bits), large_levels=(2, 3), pte_base=0xFF4A000000000000
)
X86 = EntryFormat(
    entry_bytes=4,
    shifts=(22, 12),
    index_bits=(10, 10),
    frame_mask=0xFFFFF000,
    page_flags=0x63,
    large_flags=0xE3,
    table_flags=0x63,
    top_flags=0x63,
    no_execute=0,
    large_levels=(0,),
    pte_base=0xC0000000,
)
X86_PAE = EntryFormat(
    entry_bytes=8,
    shifts=(30, 21, 12),
    index_bits=(2, 9, 9),
    frame_mask=0x0000003FFFFFF000,
    page_flags=0x63,
    large_flags=0xE3,
    table_flags=0x63,
    top_flags=0x1,  # the other low bits of these four entries are reserved
    no_execute=1 << 63,
    large_levels=(1,),
    pte_base=0xC0000000,
    self_mapped_level=1,
    root_offset=0x320,
)
ARM64 = EntryFormat(
    entry_bytes=8,
    shifts=(39, 30, 21, 12),
    index_bits=(9, 9, 9, 9),
    frame_mask=0x0003FFFFFFFFF000,
    page_flags=0x703,  # page, inner shareable, accessed
    large_flags=0x701,  # block
    table_flags=0x3,
    top_flags=0x3,
    no_execute=3 << 53,
    large_levels=(1, 2),
    pte_base=0xFFFFF68000000000,
)


@dataclass(frozen=True)
class SoftwareEntries:
    """The forms of entries that are not valid, in kernels with entries of eight bytes.

    ``prototype_shift`` is the lowest bit of a prototype's address: 16, or 32 with PAE. ``pagefile_shift`` is where the
    page file's number starts: at bit 1, or 12 in kernels that know the raw mark. ``invalid_mask`` is the kernel's mask
    against L1TF, zero where there is none; ``swizzle`` lets every entry that can have it carry it.
    """

    prototype_shift: int
    pagefile_shift: int
    invalid_mask: int = 0
    swizzle: bool = False

    def pack_transition(self, frame: int, *, swizzled: bool = False) -> int:
        """Return the entry of a page that left the working set and is still in memory."""
        return self._mark(frame << 12 | _TRANSITION | _READ_WRITE, swizzled=swizzled)

    def pack_prototype(self, prototype_va: int) -> int:
        """Return an entry that names the prototype entry at an address."""
        address = prototype_va << self.prototype_shift & 0xFFFFFFFFFFFFFFFF
        return self._mark(address | _PROTOTYPE)

    def pack_pagefile(self, page_index: int) -> int:
        """Return the entry of a page that is in a page file."""
        return self._mark(page_index << 32 | _PAGE_FILE << self.pagefile_shift | _READ_WRITE)

    def pack_demand_zero(self) -> int:
        """Return the entry of a page that nobody touched yet."""
        return self._mark(_READ_WRITE)

    @staticmethod
    def is_prototype(entry: int) -> bool:
        """Return whether an entry that is not valid names a prototype."""
        return bool(entry & _PROTOTYPE)

    @staticmethod
    def is_transition(entry: int) -> bool:
        """Return whether the page of an entry that is not valid is still in memory."""
        return entry & (_TRANSITION | _PROTOTYPE) == _TRANSITION

    def prototype_va(self, entry: int) -> int:
        """Return the address of the prototype entry."""
        address = self.unswizzle(entry) >> self.prototype_shift
        return address if self.prototype_shift == 32 else address | 0xFFFF000000000000

    def unswizzle(self, entry: int) -> int:
        """Return the entry with its upper bits as they were meant."""
        return entry if entry & _SWIZZLED_RAW else entry & ~self.invalid_mask

    def _mark(self, entry: int, *, swizzled: bool = False) -> int:
        if not self.invalid_mask:
            return entry
        if (swizzled or self.swizzle) and not entry & self.invalid_mask:
            return entry | self.invalid_mask
        return entry | _SWIZZLED_RAW


@dataclass(frozen=True)
class NarrowSoftwareEntries(SoftwareEntries):
    """The forms in kernels with entries of four bytes, where a prototype's address is cut in two.

    XP and 2003 count from the start of paged pool, and have 7 bits in the lower part; later kernels have 8, and count
    from 80000000h.
    """

    prototype_base: int = 0x80000000
    low_bits: int = 8

    def pack_prototype(self, prototype_va: int) -> int:
        """Return an entry that names the prototype entry at an address."""
        high, low = divmod(prototype_va - self.prototype_base >> 2, 1 << self.low_bits)
        return high << 11 | _PROTOTYPE | low << 1

    def pack_pagefile(self, page_index: int) -> int:
        """Return the entry of a page that is in a page file."""
        return page_index << 12 | _PAGE_FILE << self.pagefile_shift | _READ_WRITE

    def prototype_va(self, entry: int) -> int:
        """Return the address of the prototype entry."""
        low = entry >> 1 & (1 << self.low_bits) - 1
        return self.prototype_base + ((entry >> 11 << self.low_bits | low) << 2)
