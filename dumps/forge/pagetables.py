"""Page tables over sparse physical memory, in the format of any processor that the forge knows."""

from __future__ import annotations

from typing import Iterator, Optional, Tuple

from dumps.forge.entryformats import VALID, EntryFormat, SoftwareEntries
from dumps.forge.physical import PAGE_BYTES, FrameAllocator, PhysicalMemory


class AddressSpace:
    """The kernel's address space: maps, reads and writes virtual memory of a forged machine."""

    def __init__(
        self, memory: PhysicalMemory, frames: FrameAllocator, entries: EntryFormat, software: SoftwareEntries
    ) -> None:
        self.memory = memory
        self.frames = frames
        self._entries = entries
        self._software = software
        self._upper_levels = entries.upper_levels()
        self.root_pfn = frames.take_root()
        self._map_tables()

    @property
    def root_address(self) -> int:
        """The physical address of the top table."""
        return self.root_pfn << 12 | self._entries.root_offset

    def map_page(self, va: int, pfn: int, *, executable: bool = False) -> None:
        """Map one 4 KB page by a valid entry."""
        flags = self._entries.page_flags | (0 if executable else self._entries.no_execute)
        self._write_entry(self._leaf(va), pfn << 12 | flags)

    def map_large(self, va: int, pfn: int) -> None:
        """Map an aligned 2 MB or 4 MB range to frames from ``pfn`` on; their pages appear when they are written."""
        level = self._entries.large_levels[-1]
        self._write_entry(self._entry_address(va, level), pfn << 12 | self._entries.large_flags)

    def map_huge(self, va: int, pfn: int) -> None:
        """Map an aligned 1 GB range to the frames from ``pfn`` on."""
        flags = self._entries.large_flags | self._entries.no_execute
        self._write_entry(self._entry_address(va, self._entries.large_levels[0]), pfn << 12 | flags)

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
        entries, address = self._entries, self.root_address
        entry_bytes, frame_mask = entries.entry_bytes, entries.frame_mask
        for shift, index_mask, large_bits in self._upper_levels:
            address += (va >> shift & index_mask) * entry_bytes
            page, offset = self.memory.page(address >> 12), address & 0xFFF
            entry = int.from_bytes(page[offset : offset + entry_bytes], "little")
            if not entry & VALID:
                return None
            if large_bits is not None and entry & large_bits[0] == large_bits[1]:
                span = 1 << shift
                return entry & frame_mask & -span | va & (span - 1)
            address = entry & frame_mask
        frame = self._decode_leaf(self._read_entry(address + entries.entry_offset(va, entries.last_level)))
        return None if frame is None else frame << 12 | va & 0xFFF

    def frame_of(self, va: int) -> int:
        """Return the page frame number behind an address; ValueError where no page is."""
        address = self.translate(va)
        if address is None:
            raise ValueError(f"{va:#x}: not mapped")
        return address >> 12

    def turn_into_transition(self, va: int, *, swizzled: bool = False) -> None:
        """Take the page out of the working set: the entry is not valid, the page is still in memory."""
        self._write_entry(self._leaf(va), self._software.pack_transition(self.frame_of(va), swizzled=swizzled))

    def turn_into_prototype(self, va: int, prototype_va: int, *, transition: bool = False) -> None:
        """Let the entry name the prototype entry at ``prototype_va``, which is valid or in transition."""
        frame, entries = self.frame_of(va), self._entries
        if transition:
            prototype = self._software.pack_transition(frame)
        else:
            prototype = frame << 12 | entries.page_flags | entries.no_execute
        self.store(prototype_va, prototype.to_bytes(entries.entry_bytes, "little"))
        self._write_entry(self._leaf(va), self._software.pack_prototype(prototype_va))

    def turn_into_pagefile(self, va: int, page_index: int) -> None:
        """Let the page be in a page file: its contents are nowhere in the machine."""
        address = self.translate(va)
        if address is not None:
            self.memory.pages.pop(address >> 12, None)
        self._write_entry(self._leaf(va), self._software.pack_pagefile(page_index))

    def make_demand_zero(self, va: int) -> None:
        """Promise a page that nobody touched yet: it reads as zeros and has no frame."""
        self._write_entry(self._leaf(va), self._software.pack_demand_zero())

    def unmap(self, va: int, size: int) -> None:
        """Clear the entries of every page of the range; larger pages are split first."""
        for page_va in range(va & -PAGE_BYTES, va + size, PAGE_BYTES):
            self._write_entry(self._leaf(page_va), 0)

    def _map_tables(self) -> None:
        """Let the tables appear in themselves, as Windows does to change them."""
        entries, level = self._entries, self._entries.self_mapped_level
        if level:
            starts = range(0, 1 << entries.shifts[0] + entries.index_bits[0], 1 << entries.shifts[0])
            frames = [self._entry_address(start, level) >> 12 for start in starts]
        else:
            frames = [self.root_pfn]
        for number, frame in enumerate(frames):
            va = entries.pte_base + (number << entries.shifts[level])
            self._write_entry(self._entry_address(va, level), frame << 12 | entries.page_flags | entries.no_execute)

    def _decode_leaf(self, entry: int) -> Optional[int]:
        if not entry & VALID and self._software.is_prototype(entry):
            prototype_va = self._software.prototype_va(entry)
            entry = int.from_bytes(self.read(prototype_va, self._entries.entry_bytes), "little")
        if entry & VALID:
            return (entry & self._entries.frame_mask) >> 12
        if self._software.is_transition(entry):
            return (self._software.unswizzle(entry) & self._entries.frame_mask) >> 12
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
        return self._entry_address(va, self._entries.last_level)

    def _entry_address(self, va: int, wanted_level: int) -> int:
        """Return the physical address of the entry at a level (0 = top), making or splitting tables above it."""
        entries, table_address = self._entries, self.root_address
        for level in range(wanted_level):
            address = table_address + entries.entry_offset(va, level)
            entry = self._read_entry(address)
            large = bool(entry & VALID) and entries.is_large(entry, level)
            if large or not entry & VALID:
                table_address = self.frames.take() << 12
                self.memory.page(table_address >> 12)
                if large:
                    self._split(entry, level, table_address)
                flags = entries.table_flags if level else entries.top_flags
                self._write_entry(address, table_address | flags)
            else:
                table_address = entry & entries.frame_mask
        return table_address + entries.entry_offset(va, wanted_level)

    def _split(self, entry: int, level: int, table_address: int) -> None:
        """Fill a new table with the smaller pages of a large one."""
        entries, below = self._entries, level + 1
        flags = entries.large_flags if below in entries.large_levels else entries.page_flags
        first = entry & entries.frame_mask | entry & entries.no_execute | flags
        for number in range(1 << entries.index_bits[below]):
            self._write_entry(table_address + number * entries.entry_bytes, first + (number << entries.shifts[below]))

    def _read_entry(self, address: int) -> int:
        page, offset = self.memory.page(address >> 12), address & 0xFFF
        return int.from_bytes(page[offset : offset + self._entries.entry_bytes], "little")

    def _write_entry(self, address: int, entry: int) -> None:
        page, offset, entry_bytes = self.memory.page(address >> 12), address & 0xFFF, self._entries.entry_bytes
        page[offset : offset + entry_bytes] = entry.to_bytes(entry_bytes, "little")
