"""x64 page tables: four levels over sparse physical memory (Intel SDM volume 3; the software PTE forms of Windows).

A page table entry that is not valid still tells where the page is: in transition it keeps the frame number, as a
prototype it names another entry. Kernels patched against L1TF set a high bit in such entries ("swizzle").
"""

from __future__ import annotations

import struct
from typing import Iterator, Optional, Tuple

from dumps.forge.physical import PAGE_BYTES, FrameAllocator, PhysicalMemory

LARGE_BYTES = 0x200000
HUGE_BYTES = 0x40000000
INVALID_PTE_MASK = 1 << 45
PTE_BASE = 0xFFFFF68000000000  # where the tables appear in themselves, through slot 1EDh of the root

_FRAME_MASK = 0x000FFFFFFFFFF000
_VALID = 0x63  # present, writable, accessed, dirty
_LARGE = 0x80
_SELF_MAP_INDEX = 0x1ED
_NO_EXECUTE = 1 << 63
_SWIZZLED_RAW = 0x10  # the entry's upper bits are stored as they are
_PROTOTYPE = 0x400
_TRANSITION = 0x800
_READ_WRITE = 4 << 5  # MM_READWRITE in the protection bits 5-9
_PAGE_FILE = 2 << 12  # page file number 2, in bits 12-15


class AddressSpace:
    """The kernel's address space: maps, reads and writes virtual memory of a forged machine."""

    def __init__(self, memory: PhysicalMemory, frames: FrameAllocator) -> None:
        self.memory = memory
        self.frames = frames
        self.root_pfn = frames.take_root()
        slot = self.root_pfn << 12 | _SELF_MAP_INDEX * 8
        self._write_entry(slot, self.root_pfn << 12 | _VALID | _NO_EXECUTE)

    def map_page(self, va: int, pfn: int, *, executable: bool = False) -> None:
        """Map one 4 KB page by a valid entry."""
        self._write_entry(self._leaf(va), pfn << 12 | _VALID | (0 if executable else _NO_EXECUTE))

    def map_large(self, va: int, pfn: int) -> None:
        """Map an aligned 2 MB range to 512 frames from ``pfn`` on; their pages appear when they are written."""
        self._write_entry(self._entry_address(va, 2), pfn << 12 | _VALID | _LARGE)

    def map_huge(self, va: int, pfn: int) -> None:
        """Map an aligned 1 GB range to the frames from ``pfn`` on."""
        self._write_entry(self._entry_address(va, 1), pfn << 12 | _VALID | _LARGE | _NO_EXECUTE)

    def store(self, va: int, data: bytes, *, executable: bool = False) -> None:
        """Write bytes and map what is not mapped yet to new frames."""
        for page_va in range(va & -PAGE_BYTES, va + len(data), PAGE_BYTES):
            if self.translate(page_va) is None:
                self.map_page(page_va, self.frames.take(), executable=executable)
        self.write(va, data)

    def write(self, va: int, data: bytes) -> None:
        """Write into mapped memory; ValueError at the first address that is not mapped."""
        done = 0
        for page, offset, size in self._pieces(va, len(data), create=True):
            page[offset : offset + size] = data[done : done + size]
            done += size

    def read(self, va: int, size: int) -> bytes:
        """Read mapped memory; ValueError at the first address whose page does not exist."""
        return b"".join(page[offset : offset + n] for page, offset, n in self._pieces(va, size, create=False))

    def translate(self, va: int) -> Optional[int]:
        """Return the physical address, or None where no page is."""
        table_pfn = self.root_pfn
        for level in range(4):
            entry = self._read_entry((table_pfn << 12) + _index(va, level) * 8)
            if level == 3:
                frame = self._decode_leaf(entry)
                return None if frame is None else frame << 12 | va & 0xFFF
            if not entry & 1:
                return None
            if level in (1, 2) and entry & _LARGE:
                span = HUGE_BYTES if level == 1 else LARGE_BYTES
                return entry & _FRAME_MASK & -span | va & (span - 1)
            table_pfn = (entry & _FRAME_MASK) >> 12
        raise AssertionError("the loop returns at the last level")

    def frame_of(self, va: int) -> int:
        """Return the page frame number behind an address; ValueError where no page is."""
        address = self.translate(va)
        if address is None:
            raise ValueError(f"{va:#x}: not mapped")
        return address >> 12

    def turn_into_transition(self, va: int, *, swizzled: bool = False) -> None:
        """Take the page out of the working set: the entry is not valid, the page is still in memory."""
        frame = self.frame_of(va)
        mark = INVALID_PTE_MASK if swizzled else _SWIZZLED_RAW
        self._write_entry(self._leaf(va), frame << 12 | _TRANSITION | _READ_WRITE | mark)

    def turn_into_prototype(self, va: int, prototype_va: int, *, transition: bool = False) -> None:
        """Let the entry name the prototype entry at ``prototype_va``, which is valid or in transition."""
        frame = self.frame_of(va)
        state = _TRANSITION | _READ_WRITE | _SWIZZLED_RAW if transition else _VALID | _NO_EXECUTE
        self.store(prototype_va, struct.pack("<Q", frame << 12 | state))
        prototype_bits = (prototype_va & 0xFFFFFFFFFFFF) << 16
        self._write_entry(self._leaf(va), prototype_bits | _PROTOTYPE | _SWIZZLED_RAW)

    def turn_into_pagefile(self, va: int, page_index: int) -> None:
        """Let the page be in a page file: its contents are nowhere in the machine."""
        address = self.translate(va)
        if address is not None:
            self.memory.pages.pop(address >> 12, None)
        self._write_entry(self._leaf(va), page_index << 32 | _PAGE_FILE | _READ_WRITE | _SWIZZLED_RAW)

    def make_demand_zero(self, va: int) -> None:
        """Promise a page that nobody touched yet: it reads as zeros and has no frame."""
        self._write_entry(self._leaf(va), _READ_WRITE | _SWIZZLED_RAW)

    def unmap(self, va: int, size: int) -> None:
        """Clear the entries of every page of the range; 2 MB pages are split first."""
        for page_va in range(va & -PAGE_BYTES, va + size, PAGE_BYTES):
            self._write_entry(self._leaf(page_va), 0)

    def _decode_leaf(self, entry: int) -> Optional[int]:
        if not entry & 1 and entry & _PROTOTYPE:
            prototype_va = (entry >> 16) | 0xFFFF000000000000
            entry = struct.unpack("<Q", self.read(prototype_va, 8))[0]
        if entry & 1:
            return (entry & _FRAME_MASK) >> 12
        if entry & (_TRANSITION | _PROTOTYPE) == _TRANSITION:
            raw = entry if entry & _SWIZZLED_RAW else entry ^ INVALID_PTE_MASK
            return (raw & _FRAME_MASK) >> 12
        return None

    def _pieces(self, va: int, size: int, *, create: bool) -> Iterator[Tuple[bytearray, int, int]]:
        while size > 0:
            frame, offset = self.frame_of(va), va & 0xFFF
            if not create and frame not in self.memory.pages:
                raise ValueError(f"{va:#x}: frame {frame:#x} holds nothing")
            piece = min(size, PAGE_BYTES - offset)
            yield self.memory.page(frame), offset, piece
            va += piece
            size -= piece

    def _leaf(self, va: int) -> int:
        return self._entry_address(va, 3)

    def _entry_address(self, va: int, wanted_level: int) -> int:
        """Return the physical address of the entry at a level (0 = PML4), making or splitting tables above it."""
        table_pfn = self.root_pfn
        for level in range(wanted_level):
            address = (table_pfn << 12) + _index(va, level) * 8
            entry = self._read_entry(address)
            if not entry & 1 or entry & _LARGE:
                table_pfn = self.frames.take()
                self.memory.page(table_pfn)
                if entry & _LARGE:
                    self._split(entry, level, table_pfn)
                self._write_entry(address, table_pfn << 12 | _VALID)
            else:
                table_pfn = (entry & _FRAME_MASK) >> 12
        return (table_pfn << 12) + _index(va, wanted_level) * 8

    def _split(self, entry: int, level: int, table_pfn: int) -> None:
        """Fill a new table with the 512 smaller pages of a large one."""
        step, large = (LARGE_BYTES, _LARGE) if level == 1 else (PAGE_BYTES, 0)
        for n in range(512):
            self._write_entry((table_pfn << 12) + n * 8, (entry & ~_LARGE) + n * step | large)

    def _read_entry(self, address: int) -> int:
        value: int = struct.unpack_from("<Q", self.memory.page(address >> 12), address & 0xFFF)[0]
        return value

    def _write_entry(self, address: int, entry: int) -> None:
        struct.pack_into("<Q", self.memory.page(address >> 12), address & 0xFFF, entry)


def _index(va: int, level: int) -> int:
    return va >> (39 - 9 * level) & 0x1FF
