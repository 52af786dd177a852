"""Physical memory by use, from the page frame database.

Each record of nt!MmPfnDatabase tells which list its frame is on and where the page table entry that maps it stands;
from that follows the virtual address, and from the address the use (public symbols of _MMPFN, _MI_VISIBLE_STATE and
_MI_ASSIGNED_REGION_TYPES). Records are counted by strided slices, which run at C speed: what two records have in
common is counted once. A record tells the page table above its frame, too, and so on up to the top table, whose frame
is KPROCESS.DirectoryTableBase: so private pages are told by process where all records were read.

A use is told to 32 MB of address space: where two regions of system space meet within less, the first one counts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.memory.database import CHUNK_RECORDS, Columns, FrameDatabase, PteSpace, find_database
from pykdext.kernel.memory.regions import Region, read_regions
from pykdext.model import Machine
from pykdext.model.memory import FrameUse, PageFrames, PrivateMemory, UseCount
from pykdext.model.objects import Process
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.work import UNWATCHED, Work

NOT_IN_MEMORY = "no record of the page frame database that was looked at is in the dump"
"""Why nothing is told of a database that is known."""

FIRST_LOOK = 8
"""Pieces of a sample. Where all of them are missing no more is asked for: in a debugger that takes time."""

_USES = tuple(FrameUse)
_MOST_TABLE_ENTRIES = 1 << 16
_MOST_KEYS = 1 << 18
_MOST_TABLES = 1 << 24
"""Page tables of 16 million frames: 32 TB of mapped memory."""

_LARGE = 0x80
_ARM64_TABLE, _ARM64_BLOCK = 0x03, 0x01

_BY_LIST = {
    0: FrameUse.ZEROED,
    1: FrameUse.FREE,
    2: FrameUse.STANDBY,
    3: FrameUse.MODIFIED,
    4: FrameUse.MODIFIED,
    5: FrameUse.BAD,
}
"""By PageLocation; 6 (active) and 7 (in transition) are in use (enum _MMLISTS of public symbols)."""


class Classifier:
    """From what records have in common to their use."""

    def __init__(self, space: PteSpace, regions: Sequence[Region], columns: Columns) -> None:
        self._space = space
        self._columns = columns
        self._starts = [region.start for region in regions]
        self._regions = regions
        self._known: Dict[int, int] = {}

    def add_up(self, keys: Counter[int]) -> Dict[FrameUse, int]:
        """How many frames have which use."""
        counts, known = [0] * len(_USES), self._known
        if len(known) > _MOST_KEYS:
            known.clear()
        for key, frames in keys.items():
            number = known.get(key)
            if number is None:
                number = known[key] = _USES.index(self.decide(*self._columns.split_key(key)))
            counts[number] += frames
        return dict(zip(_USES, counts))

    def decide(self, entry: int, location: int, is_prototype: bool) -> FrameUse:
        """The use of a frame on the list ``location`` that the entry at ``entry`` maps."""
        listed = _BY_LIST.get(location)
        if listed is not None:
            return listed
        if is_prototype:
            return FrameUse.SHAREABLE
        if not self._space.holds(entry):
            return FrameUse.NO_PTE
        mapped = self._space.mapped_by(entry)
        if mapped < self._space.user_end:
            return FrameUse.PRIVATE
        return FrameUse.PAGE_TABLES if self._space.holds(mapped) else self.region_of(mapped)

    def region_of(self, address: int) -> FrameUse:
        """The use of what is mapped at an address of system space."""
        number = bisect_right(self._starts, address) - 1
        if number < 0 or address >= self._regions[number].end:
            return FrameUse.OTHER
        return self._regions[number].use


def read_page_frames(
    kernel: Kernel,
    work: Work = UNWATCHED,
    chunks: Optional[int] = None,
    roots: Optional[Mapping[int, Process]] = None,
) -> Optional[PageFrames]:
    """Physical memory by use; None where it cannot be read (``explain_missing_frames`` says why).

    ``chunks``: so many pieces of the database are read, evenly spread, and the counts are estimates; None: all of it.
    ``roots``: processes by the frames of their top page tables; their private pages are told where all is read.
    """
    database = find_database(kernel)
    if isinstance(database, str):
        return None
    regions = read_regions(kernel)
    whole = -(-database.frames // CHUNK_RECORDS)
    stride = max(1, whole // chunks) if chunks else 1
    is_whole = stride == 1
    owners = _Owners(database, roots) if roots and is_whole and database.columns.pte_frame is not None else None
    tally = _Tally(kernel, database, Classifier(database.space, regions, database.columns), owners)
    numbers = range(whole) if is_whole else _spread_first(range(0, whole, stride))
    for done, number in enumerate(numbers):
        if work.is_ended:
            break
        if not is_whole and done == FIRST_LOOK and not tally.has_records:
            return None
        work.report(done * stride, whole, "page frames")
        first = number * CHUNK_RECORDS
        for start, data in database.iter_records(kernel, first, min(CHUNK_RECORDS, database.frames - first)):
            tally.add(start, data)
        if not is_whole:
            tally.end_piece()
    else:
        work.report(whole, whole, "page frames")
    if is_whole:
        tally.end_piece()
    if not tally.has_records:
        return None
    read = sum(sum(uses.values()) for uses in tally.pieces)
    counts = _estimate(tally.pieces, whole, stride)
    return PageFrames(
        uses=tuple(sorted(counts, key=lambda count: (-count.frames, count.use.value))),
        expected=database.physical or database.frames,
        read=read,
        is_sampled=not is_whole,
        has_regions=any(region.is_exact for region in regions),
        private=() if owners is None else owners.rank(),
    )


class FrameReader:
    """Tells the use of single page frames."""

    def __init__(self, kernel: Kernel, database: FrameDatabase) -> None:
        self._kernel = kernel
        self._database = database
        self._classifier = Classifier(database.space, (), database.columns)

    @classmethod
    def open(cls, kernel: Kernel) -> Optional[FrameReader]:
        """A reader of this kernel's frames; None where ``find_database`` says why there is none."""
        database = find_database(kernel)
        return None if isinstance(database, str) else cls(kernel, database)

    def is_unmapped(self, frame: int) -> bool:
        """Whether a frame is in use and no page table maps it; false where its record cannot be read."""
        if not 0 < frame < self._database.frames:
            return False
        for _, data in self._database.iter_records(self._kernel, frame, 1):
            (key,) = self._database.columns.keys(data)
            return self._classifier.decide(*self._database.columns.split_key(key)) is FrameUse.NO_PTE
        return False


def _spread_first(numbers: Sequence[int]) -> Sequence[int]:
    """The same, but ``FIRST_LOOK`` of them, evenly spread, stand first: where these are missing, all is."""
    spread = numbers[:: max(1, -(-len(numbers) // FIRST_LOOK))]
    return (*spread, *(number for number in numbers if number not in spread))


def explain_missing_frames(kernel: Kernel) -> str:
    """Why ``read_page_frames`` found nothing, in words."""
    database = find_database(kernel)
    return database if isinstance(database, str) else NOT_IN_MEMORY


class _Owners:
    """Whose private pages are: counts the page tables above them, and follows these up to a process."""

    def __init__(self, database: FrameDatabase, roots: Mapping[int, Process]) -> None:
        self._space = database.space
        self._roots = roots
        self._pages: Counter[int] = Counter()
        self._tables: Dict[int, Tuple[int, int]] = {}

    def add(self, columns: Columns, data: bytes, tables: Sequence[Tuple[int, int, int]]) -> None:
        """Count the frames of records, and remember which of them hold page tables."""
        if len(self._pages) <= _MOST_TABLES:
            self._pages.update(columns.parents_in_use(data))
        if len(self._tables) + len(tables) <= _MOST_TABLES:
            self._tables.update((frame, (entry, parent)) for frame, entry, parent in tables)

    def rank(self) -> Tuple[PrivateMemory, ...]:
        """The processes with private pages or page tables of their own, the largest first."""
        pages: Counter[int] = Counter()
        tables: Counter[int] = Counter()
        for frame in self._tables:
            level, root = self._climb(frame)
            if root is None:
                continue
            tables[root] += 1
            if level == 1:
                pages[root] += self._pages[frame]
        found = [
            PrivateMemory(
                process.pid, process.image, pages[root] * PAGE_BYTES, tables[root] * PAGE_BYTES, process.has_exited
            )
            for root, process in self._roots.items()
            if pages[root] or tables[root]
        ]
        return tuple(sorted(found, key=lambda process: (-process.bytes, process.pid or 0)))

    def _climb(self, frame: int) -> Tuple[int, Optional[int]]:
        """The level of a table of user space (1: it maps pages), and the frame of its process's top table."""
        space, level = self._space, 1
        entry, parent = self._tables[frame]
        mapped = space.mapped_by(entry)
        while space.holds(mapped) and level <= space.levels:
            mapped = space.mapped_by(mapped)
            if space.holds(mapped):
                level += 1
        if frame in self._roots:
            return space.levels, frame
        if mapped >= space.user_end:
            return level, None
        for _ in range(space.levels):
            if parent in self._roots:
                return level, parent
            above = self._tables.get(parent)
            if above is None:
                return level, None
            parent = above[1]
        return level, None


class _Tally:
    """Counts records; ``pieces`` are the uses of each piece that was ended."""

    def __init__(
        self, kernel: Kernel, database: FrameDatabase, classifier: Classifier, owners: Optional[_Owners]
    ) -> None:
        self.pieces: List[Dict[FrameUse, int]] = []
        self._columns = database.columns
        self._space = database.space
        self._classifier = classifier
        self._large = _LargePages(kernel)
        self._owners = owners
        self._keys: Counter[int] = Counter()
        self._table_entries: Counter[int] = Counter()

    @property
    def has_records(self) -> bool:
        """Whether any was counted."""
        return any(sum(uses.values()) for uses in self.pieces)

    def add(self, first: int, data: bytes) -> None:
        """Count the records, the first of which is that of frame ``first``."""
        columns = self._columns
        self._keys.update(columns.keys(data))
        tables = columns.find_tables(data, self._space, first)
        self._table_entries.update(entry for _, entry, _ in tables)
        if self._owners is not None:
            self._owners.add(columns, data, tables)
        if len(self._keys) > _MOST_KEYS or len(self._table_entries) > _MOST_KEYS:
            self.end_piece()

    def end_piece(self) -> None:
        """Add up what was counted since the last end; a piece without records (no memory there) counts, too."""
        uses = self._classifier.add_up(self._keys)
        large = min(self._large.count(self._table_entries), uses[FrameUse.PAGE_TABLES])
        uses[FrameUse.PAGE_TABLES] -= large
        uses[FrameUse.LARGE_PAGES] += large
        self.pieces.append(uses)
        self._keys.clear()
        self._table_entries.clear()


class _LargePages:
    """Tells large pages from page tables: both are mapped by entries that stand in the page tables themselves."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._is_arm64 = kernel.target.facts.machine is Machine.ARM64
        self._is_large: Dict[int, bool] = {}

    def count(self, entries: Counter[int]) -> int:
        """How many of the frames belong to large pages; those of entries that cannot be read do not."""
        return sum(frames for entry, frames in entries.items() if self._maps_large_page(entry))

    def _maps_large_page(self, entry: int) -> bool:
        known = self._is_large.get(entry)
        if known is None:
            if len(self._is_large) >= _MOST_TABLE_ENTRIES:
                return False
            try:
                first = self._kernel.target.read_virtual(entry, 1)[0]
                known = first & _ARM64_TABLE == _ARM64_BLOCK if self._is_arm64 else bool(first & _LARGE)
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
