"""Where a machine's memory is: the memory manager's own counts, and its page frames by use. Sizes are in bytes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional, Tuple

from pykdext.model.pool import PoolSnapshot
from pykdext.model.report import NextStep
from pykdext.model.untagged import UntaggedKind, UntaggedMemory


class CommitPart(enum.Enum):
    """What a line of the commit sheet counts."""

    POOL = "pool"
    """Counted by tags, too."""
    DRIVERS = "drivers"
    """Pages that drivers took from the memory manager, past the pools: no tag counts them."""
    SYSTEM = "system"
    """What Windows itself needs: page tables, the page frame database, images."""
    SHARED = "shared"
    """Memory that processes share by sections."""
    PROCESSES = "processes"
    """What processes were charged for themselves."""


@dataclass(frozen=True)
class CommitLine:
    """A line of WinDbg's ``!vm``: its words there, and the committed bytes that it counts."""

    name: str
    part: CommitPart
    bytes: int


@dataclass(frozen=True)
class MemoryFailure:
    """Requests that the memory manager refused since boot: of what, and how many."""

    name: str
    count: int


@dataclass(frozen=True)
class SessionMemory:
    """What a session was charged, and what its paged pool holds; None: its structure is not in memory or not known.

    ``processes``: how many of the list belong to it. ``number`` is None where the structure cannot be read.
    """

    number: Optional[int]
    processes: int
    committed_bytes: Optional[int] = None
    paged_pool_bytes: Optional[int] = None


@dataclass(frozen=True)
class CommitSheet:
    """Committed memory line by line, as far as this kernel tells.

    Attributes:
        committed_bytes, limit_bytes, peak_bytes: of the whole system.
        physical_bytes, available_bytes, resident_available_bytes: of physical memory; the last one is what may still be
            made nonpaged.
        system_pte_bytes, system_pte_free_bytes: address space for mappings, in all and free.
        sessions: each session, as far as its structure is known.
        doubtful: lines whose number is larger than what is committed in all; they are not among ``lines``.
    """

    lines: Tuple[CommitLine, ...]
    committed_bytes: Optional[int] = None
    limit_bytes: Optional[int] = None
    peak_bytes: Optional[int] = None
    physical_bytes: Optional[int] = None
    available_bytes: Optional[int] = None
    resident_available_bytes: Optional[int] = None
    system_pte_bytes: Optional[int] = None
    system_pte_free_bytes: Optional[int] = None
    failures: Tuple[MemoryFailure, ...] = ()
    doubtful: Tuple[str, ...] = ()
    sessions: Tuple[SessionMemory, ...] = ()

    @property
    def unexplained_bytes(self) -> Optional[int]:
        """What is committed and in no line; negative where the lines were read while they changed."""
        if self.committed_bytes is None:
            return None
        return self.committed_bytes - sum(line.bytes for line in self.lines)

    def part_bytes(self, part: CommitPart) -> int:
        """What the lines of one part add up to."""
        return sum(line.bytes for line in self.lines if line.part is part)


class FrameUse(enum.Enum):
    """What a page frame is used for."""

    ZEROED = "zeroed"
    FREE = "free"
    STANDBY = "standby"
    MODIFIED = "modified"
    BAD = "bad"
    PRIVATE = "process private"
    SHAREABLE = "shareable"
    PAGE_TABLES = "page tables"
    LARGE_PAGES = "large pages"
    NONPAGED_POOL = "nonpaged pool"
    PAGED_POOL = "paged pool"
    FILE_CACHE = "file cache"
    SYSTEM_PTES = "system PTEs"
    KERNEL_STACKS = "kernel stacks"
    DRIVER_IMAGES = "driver images"
    HYPERSPACE = "hyperspace"
    SESSION = "session"
    PAGE_FRAMES = "page frame database"
    NO_PTE = "no PTE"
    """No page table entry of the system maps it: locked by a driver, pages of an MDL, AWE."""
    MAPPED_FILES = "mapped files"
    METAFILE = "metafile"
    """The file systems' own data in the cache, as RAMMap calls it."""
    AWE = "AWE"
    DRIVER_LOCKED = "driver locked"
    NOT_TOLD = "in use, not told apart"
    OTHER = "other system space"

    @property
    def is_available(self) -> bool:
        """Whether the frame can be given to whoever asks next."""
        return self in (FrameUse.ZEROED, FrameUse.FREE, FrameUse.STANDBY)

    @property
    def is_untagged(self) -> bool:
        """Whether the kernel or a driver holds it, but no tag counts it."""
        return self in (FrameUse.SYSTEM_PTES, FrameUse.NO_PTE, FrameUse.PAGE_TABLES, FrameUse.KERNEL_STACKS)


@dataclass(frozen=True)
class UseCount:
    """Frames of one use. ``error_frames``: half the width of the 95 % interval if they were sampled; else 0."""

    use: FrameUse
    frames: int
    error_frames: int = 0


@dataclass(frozen=True)
class PrivateMemory:
    """Physical pages of one process that it shares with nobody, and its page tables; None: not told.

    ``pid`` is None where the source names the image only. ``has_exited``: it ended, and its object is kept.
    """

    pid: Optional[int]
    image: str
    bytes: int
    table_bytes: Optional[int] = None
    has_exited: bool = False


@dataclass(frozen=True)
class PageFrames:
    """Physical memory by use.

    Attributes:
        uses: the largest first.
        expected: frames of the machine's memory. read: frames whose records were read.
        is_sampled: only ``read`` of the records were looked at; ``uses`` are estimates for all.
        has_regions: the parts of system space are known; else everything in it is OTHER unless the pools' own ranges
            tell.
        frame_bytes: the size of a page.
        source: who counted. private: the processes that have private pages, the largest first; empty: not told.
    """

    uses: Tuple[UseCount, ...]
    expected: int
    read: int
    is_sampled: bool
    has_regions: bool
    frame_bytes: int = 0x1000
    source: str = "page frame database"
    private: Tuple[PrivateMemory, ...] = ()

    def bytes_of(self, use: FrameUse) -> int:
        """What frames of ``use`` hold; 0 where none was seen."""
        return sum(count.frames for count in self.uses if count.use is use) * self.frame_bytes


@dataclass(frozen=True)
class ProcessMemory:
    """What a process was charged of committed memory for itself; ``has_exited``: it ended, and its object is kept.

    ``working_set_bytes``: its pages in memory, shared ones among them; ``locked_bytes``: pages that requests of input
    and output hold. None: this kernel does not tell.
    """

    pid: int
    image: str
    bytes: int
    has_exited: bool = False
    working_set_bytes: Optional[int] = None
    locked_bytes: Optional[int] = None


@dataclass(frozen=True)
class MemoryByProcess:
    """Committed memory by process, the largest first.

    Attributes:
        processes: all whose charge is known. unknown: those whose charge is not, or that the list has lost.
    """

    processes: Tuple[ProcessMemory, ...]
    unknown: Optional[int] = 0

    @property
    def bytes(self) -> int:
        """The sum of all."""
        return sum(process.bytes for process in self.processes)


@dataclass(frozen=True)
class MappingHolder:
    """A driver, or the blocks of a pool tag (``is_tag``), whose data point at valid mappings in system PTE space.

    ``ranges`` are those that its pointers lead to, ``most_bytes`` what they map at most: neighbours may be counted in.
    Where pages without a page table entry fill the machine, they are lists of such pages, and what these name.
    That it points there is no proof that it mapped or took them: possible, no more.
    """

    name: str
    is_tag: bool
    ranges: int
    most_bytes: int


@dataclass(frozen=True)
class MemoryReport:
    """Where the memory of a machine is. What could not be read is None, with the reason in ``warnings``.

    Attributes:
        snapshot: the machine, and its tag tables. untagged: what no tag counts, the largest first.
        dominant: that of it which fills the machine, None where nothing does.
        balloons: drivers of hypervisors that are loaded and take memory away by design.
        by_process: what processes were charged for themselves.
        mappers: who points at system PTE mappings, or at lists of other pages of drivers, whichever fill the machine;
            None: it was not looked for, as neither does.
    """

    snapshot: PoolSnapshot
    verdict: str
    sheet: Optional[CommitSheet]
    frames: Optional[PageFrames]
    untagged: Tuple[UntaggedMemory, ...]
    dominant: Optional[UntaggedMemory]
    balloons: Tuple[str, ...]
    next_steps: Tuple[NextStep, ...]
    warnings: Tuple[str, ...]
    by_process: Optional[MemoryByProcess] = None
    mappers: Optional[Tuple[MappingHolder, ...]] = None

    @property
    def pointed_at(self) -> str:
        """What the data of ``mappers`` point at: system PTEs, or lists of pages that no page table maps."""
        is_mapped = self.dominant is not None and self.dominant.kind is UntaggedKind.SYSTEM_PTES
        return "system PTEs" if is_mapped else "lists of pages"
