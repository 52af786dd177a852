"""Physical memory by use, from the page frame database.

Each record of nt!MmPfnDatabase tells which list its frame is on and where the page table entry that maps it stands;
from that follows the virtual address, and from the address the use (public symbols of _MMPFN, _MI_VISIBLE_STATE and
_MI_ASSIGNED_REGION_TYPES). Records are counted by strided slices, which run at C speed: what two records have in
common is counted once.

A use is told to 32 MB of address space: where two regions of system space meet within less, the first one counts.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import Counter
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.memory.regions import Region, read_regions
from pykdext.model.layouts import Struct
from pykdext.model.memory import FrameUse, PageFrames, UseCount
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.work import UNWATCHED, Work

MOST_FRAMES = 1 << 34
"""64 TB of memory: more frames than any Windows manages."""

CHUNK_RECORDS = 0x1000
_MOST_TABLE_ENTRIES = 1 << 16
_MOST_KEYS = 1 << 18
_USER_END = 0x0000800000000000
_CANONICAL = 0xFFFF000000000000
_PTE_SPACE_BYTES = 1 << 39
_LARGE = 0x80
_FIELDS = ("PteAddress", "u3.e1.PageLocation", "u4.PrototypePte")

_BY_LIST = {
    0: FrameUse.ZEROED,
    1: FrameUse.FREE,
    2: FrameUse.STANDBY,
    3: FrameUse.MODIFIED,
    4: FrameUse.MODIFIED,
    5: FrameUse.BAD,
}
"""By PageLocation; 6 (active) and 7 (in transition) are in use (enum _MMLISTS of public symbols)."""


_Key = Tuple[int, int, int]
"""What records of one use have in common: bits 16 to 47 of PteAddress, the list, and whether a prototype entry maps the
frame. The bits above follow from bit 47 in every address that a processor takes."""


class _Columns:
    """Where the members stand in a record of ``size`` bytes."""

    def __init__(self, size: int, pte_address: int, location: int, prototype: int, prototype_bit: int) -> None:
        self.size = size
        self._pte_address = pte_address
        self._location = location
        self._prototype = prototype
        self._lists = bytes(value & 7 for value in range(256))
        self._is_prototype = bytes(value >> prototype_bit & 1 for value in range(256))

    def iter_keys(self, data: bytes) -> Iterator[_Key]:
        """What each record has in common with others."""
        words = array("I")
        words.frombytes(data[2:-2])
        return zip(
            words[self._pte_address // 4 :: self.size // 4],
            data[self._location :: self.size].translate(self._lists),
            data[self._prototype :: self.size].translate(self._is_prototype),
        )

    def pte_addresses(self, data: bytes) -> Sequence[int]:
        """The PteAddress of every record."""
        numbers = array("Q")
        numbers.frombytes(data)
        return numbers[self._pte_address // 8 :: self.size // 8]


class _Classifier:
    """From what records have in common to their use."""

    def __init__(self, pte_base: int, regions: Sequence[Region]) -> None:
        self._pte_base = pte_base
        self._starts = [region.start for region in regions]
        self._regions = regions

    def add_up(self, keys: Counter[_Key]) -> Dict[FrameUse, int]:
        """How many frames have which use."""
        uses = dict.fromkeys(FrameUse, 0)
        for key, frames in keys.items():
            uses[self._decide(*key)] += frames
        return uses

    def _decide(self, address: int, location: int, is_prototype: int) -> FrameUse:
        listed = _BY_LIST.get(location)
        if listed is not None:
            return listed
        if is_prototype:
            return FrameUse.SHAREABLE
        entry = address << 16 | (_CANONICAL if address >> 31 else 0)
        if not self._pte_base <= entry < self._pte_base + _PTE_SPACE_BYTES:
            return FrameUse.NO_PTE
        mapped = (entry - self._pte_base) << 9
        if mapped < _USER_END:
            return FrameUse.PRIVATE
        mapped |= _CANONICAL
        if self._pte_base <= mapped < self._pte_base + _PTE_SPACE_BYTES:
            return FrameUse.PAGE_TABLES
        return self.region_of(mapped)

    def region_of(self, address: int) -> FrameUse:
        """The use of what is mapped at an address of system space."""
        number = bisect_right(self._starts, address) - 1
        if number < 0 or address >= self._regions[number].end:
            return FrameUse.OTHER
        return self._regions[number].use


def read_page_frames(kernel: Kernel, work: Work = UNWATCHED, chunks: Optional[int] = None) -> Optional[PageFrames]:
    """Physical memory by use; None where this kernel's page frame database is not known or not in the dump.

    ``chunks``: so many pieces of the database are read, evenly spread, and the counts are estimates; None: all of it.
    """
    database, highest = kernel.find_variable("MmPfnDatabase"), _highest_frame(kernel)
    columns = _find_columns(kernel)
    pte_base = _find_pte_base(kernel)
    if not database or not highest or columns is None or pte_base is None:
        return None
    expected = min(highest + 1, MOST_FRAMES)
    regions = read_regions(kernel)
    tally = _Tally(_Classifier(pte_base, regions), _TableEntries(kernel, pte_base))
    whole = -(-expected // CHUNK_RECORDS)
    stride = max(1, whole // chunks) if chunks else 1
    for number in range(0, whole, stride):
        first = number * CHUNK_RECORDS
        work.report(min(first, expected), expected, "page frames")
        count = min(CHUNK_RECORDS, expected - first)
        for data in _iter_records(kernel, database + first * columns.size, count, columns.size):
            tally.add(columns, data)
        if stride > 1:
            tally.end_piece()
    if stride == 1:
        tally.end_piece()
    work.report(expected, expected, "page frames")
    read = sum(sum(uses.values()) for uses in tally.pieces)
    if not read:
        return None
    counts = _estimate(tally.pieces, whole, stride)
    return PageFrames(
        uses=tuple(sorted(counts, key=lambda count: (-count.frames, count.use.value))),
        expected=_physical_frames(kernel) or expected,
        read=read,
        is_sampled=stride > 1,
        has_regions=any(region.is_exact for region in regions),
    )


class _Tally:
    """Counts records; ``pieces`` are the uses of each piece that was ended."""

    def __init__(self, classifier: _Classifier, tables: _TableEntries) -> None:
        self.pieces: List[Dict[FrameUse, int]] = []
        self._classifier = classifier
        self._tables = tables
        self._keys: Counter[_Key] = Counter()
        self._table_entries: Counter[int] = Counter()

    def add(self, columns: _Columns, data: bytes) -> None:
        """Count the records."""
        self._keys.update(columns.iter_keys(data))
        self._table_entries.update(self._tables.choose(columns.pte_addresses(data)))
        if len(self._keys) > _MOST_KEYS or len(self._table_entries) > _MOST_KEYS:
            self.end_piece()

    def end_piece(self) -> None:
        """Add up what was counted since the last end; a piece without records (no memory there) counts, too."""
        uses = self._classifier.add_up(self._keys)
        large = min(self._tables.count_large(self._table_entries), uses[FrameUse.PAGE_TABLES])
        uses[FrameUse.PAGE_TABLES] -= large
        uses[FrameUse.LARGE_PAGES] += large
        self.pieces.append(uses)
        self._keys.clear()
        self._table_entries.clear()


def _iter_records(kernel: Kernel, address: int, count: int, size: int) -> Iterator[bytes]:
    """The whole records of a piece that are in memory."""
    for start, data in kernel.target.read_present(address, count * size):
        skipped = -(start - address) % size
        whole = (len(data) - skipped) // size * size
        if whole > 0:
            yield bytes(data[skipped : skipped + whole])


class _TableEntries:
    """Tells large pages from page tables: both are mapped by entries that stand in the page tables themselves."""

    def __init__(self, kernel: Kernel, pte_base: int) -> None:
        self._kernel = kernel
        self._low = pte_base + ((pte_base & ~_CANONICAL) >> 9)
        self._high = self._low + (1 << 30)
        self._is_large: Dict[int, bool] = {}

    def choose(self, entries: Sequence[int]) -> List[int]:
        """Those of the entries that map page tables or large pages."""
        low, high = self._low, self._high
        return [entry for entry in entries if low <= entry < high]

    def count_large(self, entries: Counter[int]) -> int:
        """How many of the frames belong to large pages; those of entries that cannot be read do not."""
        return sum(frames for entry, frames in entries.items() if self._maps_large_page(entry & -8))

    def _maps_large_page(self, entry: int) -> bool:
        known = self._is_large.get(entry)
        if known is None:
            if len(self._is_large) >= _MOST_TABLE_ENTRIES:
                return False
            try:
                known = bool(self._kernel.target.read_virtual(entry, 1)[0] & _LARGE)
            except MemoryReadError:
                known = False
            self._is_large[entry] = known
        return known


def _estimate(pieces: Sequence[Dict[FrameUse, int]], chunks: int, stride: int) -> List[UseCount]:
    """Counts of all frames from those of the pieces: their sum, or the mean of a sample with its 95 % interval."""
    found = []
    for use in FrameUse:
        counts = [uses[use] for uses in pieces]
        frames = sum(counts)
        if not frames:
            continue
        if stride == 1:
            found.append(UseCount(use, frames))
            continue
        mean = frames / len(counts)
        variance = sum((count - mean) ** 2 for count in counts) / max(1, len(counts) - 1)
        error = 1.96 * chunks * math.sqrt(variance / len(counts) * (1 - len(counts) / chunks))
        found.append(UseCount(use, round(mean * chunks), math.ceil(error)))
    return found


def _find_columns(kernel: Kernel) -> Optional[_Columns]:
    layout = kernel.struct("_MMPFN", *_FIELDS)
    if layout is None or layout.size is None or layout.size % 8 or not layout.has(*_FIELDS):
        return None
    return _columns_of(layout, layout.size)


def _columns_of(layout: Struct, size: int) -> Optional[_Columns]:
    entry, location, prototype = (layout.fields[name] for name in _FIELDS)
    if entry is None or location is None or prototype is None or prototype.bits is None or entry.offset % 8:
        return None
    first_bit = prototype.bits[0]
    return _Columns(size, entry.offset, location.offset, prototype.offset + first_bit // 8, first_bit % 8)


def _find_pte_base(kernel: Kernel) -> Optional[int]:
    """Where the page tables appear as memory: a variable since Windows 10 1607, fixed on x64 before."""
    base = kernel.find_variable("MmPteBase")
    if base:
        return base
    return _FIXED_PTE_BASE if (kernel.target.facts.build or 0) < _FIRST_WITH_PTE_BASE else None


_FIXED_PTE_BASE, _FIRST_WITH_PTE_BASE = 0xFFFFF68000000000, 14393


def _highest_frame(kernel: Kernel) -> Optional[int]:
    """The number of the last page frame, by the partition, by the old variable, or as many as there are pages."""
    partition = kernel.find_symbol("MiSystemPartition")
    layout = kernel.struct("_MI_PARTITION", "Vp.HighestPhysicalPage") if partition else None
    if partition is not None and layout is not None and (offset := layout.offset("Vp.HighestPhysicalPage")) is not None:
        try:
            return kernel.read_pointer(partition.address + offset) or _highest_by_runs(kernel)
        except MemoryReadError:
            return _highest_by_runs(kernel)
    return kernel.find_variable("MmHighestPhysicalPage") or _highest_by_runs(kernel)


def _highest_by_runs(kernel: Kernel) -> Optional[int]:
    """The end of the last run of MmPhysicalMemoryBlock (PHYSICAL_MEMORY_DESCRIPTOR of public headers)."""
    block = kernel.find_variable("MmPhysicalMemoryBlock")
    if not block:
        return None
    try:
        runs = int.from_bytes(kernel.target.read_virtual(block, 4), "little")
        if not 0 < runs <= PAGE_BYTES // 16:
            return None
        data = kernel.target.read_virtual(block + 16 + 16 * (runs - 1), 16)
    except MemoryReadError:
        return None
    return int.from_bytes(data[:8], "little") + int.from_bytes(data[8:], "little") - 1


def _physical_frames(kernel: Kernel) -> Optional[int]:
    """How many pages of memory the machine has."""
    block = kernel.find_variable("MmPhysicalMemoryBlock")
    try:
        return int.from_bytes(kernel.target.read_virtual(block + 8, 8), "little") or None if block else None
    except MemoryReadError:
        return None
