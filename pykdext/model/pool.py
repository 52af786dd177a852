"""Pools, tags and what the tag tables count: a snapshot of one machine at one moment."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Optional, Tuple

from pykdext.model.target import BugCheck, Machine, MemoryImage

if TYPE_CHECKING:
    from pykdext.model.memory import CommitSheet, PageFrames

PROTECTED_POOL = 0x80000000
"""Bit 31 of a tag: the driver asked for a protected allocation (WDK: PROTECTED_POOL); never part of the tag's name."""


POOL_OF_SESSION = "!poolused showed a session pool, not the system's pools"
"""The warning of a table of ``!poolused 8``: what it counts is neither of the system's pools."""

MAY_BE_CUT = "the table of !poolused has no line TOTAL; it may be cut"
POOL_UNNAMED = "the table does not say which pool it counts; its numbers are counted as nonpaged"
"""The warning of a snapshot whose rows name no pool."""


class PoolKind(enum.Enum):
    """The two kernel pools that the tag tables count apart."""

    NONPAGED = "nonpaged"
    PAGED = "paged"

    @property
    def label(self) -> str:
        """Poolmon's word in the Type column: ``Nonp`` or ``Paged``."""
        return "Nonp" if self is PoolKind.NONPAGED else "Paged"


@dataclass(frozen=True, order=True)
class PoolTag:
    """A pool tag: its four bytes in memory order, PROTECTED_POOL cleared."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 4:
            raise ValueError(f"a pool tag has 4 bytes, not {len(self.raw)}")

    @classmethod
    def from_key(cls, key: int) -> PoolTag:
        """The tag of a ULONG as the kernel stores it (little-endian); bit 31 is cleared."""
        return cls((key & ~PROTECTED_POOL & 0xFFFFFFFF).to_bytes(4, "little"))

    @classmethod
    def from_text(cls, text: str) -> PoolTag:
        r"""The tag that ``text`` names: 1 to 4 characters, padded with blanks; ``\xNN`` is a byte. ValueError else."""
        raw = bytearray()
        rest = text
        while rest:
            if rest.startswith("\\x") and len(rest) >= 4 and all(c in "0123456789abcdefABCDEF" for c in rest[2:4]):
                raw.append(int(rest[2:4], 16))
                rest = rest[4:]
            else:
                raw += rest[0].encode("latin-1", "strict") if ord(rest[0]) < 256 else b"?????"
                rest = rest[1:]
        if not 1 <= len(raw) <= 4:
            raise ValueError(f"tag {text!r}: a pool tag has 1 to 4 characters")
        return cls(bytes(raw).ljust(4, b" "))

    @property
    def key(self) -> int:
        """The ULONG that a driver passes to the allocator."""
        return int.from_bytes(self.raw, "little")

    @property
    def hex(self) -> str:
        """The four bytes in memory order, lower-case hexadecimal."""
        return self.raw.hex()

    @property
    def text(self) -> str:
        r"""Printable ASCII, blanks kept; any other byte and the backslash as ``\xNN``: no two tags read alike."""
        return "".join(chr(b) if 0x20 <= b < 0x7F and b != 0x5C else f"\\x{b:02x}" for b in self.raw)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class PoolUsage:
    """What one tag did in one pool since boot. None: the source does not say.

    ``outstanding`` is poolmon's Diff. ``clamped``: the tables gave frees above allocs or negative bytes (they were
    read while they changed); shown as 0 like the kernel does.
    """

    allocs: Optional[int]
    frees: Optional[int]
    outstanding: Optional[int]
    bytes: Optional[int]
    clamped: bool = False

    def __add__(self, other: PoolUsage) -> PoolUsage:
        """What both did together; what one of them does not tell is not told of both."""

        def add(one: Optional[int], another: Optional[int]) -> Optional[int]:
            return None if one is None or another is None else one + another

        return PoolUsage(
            add(self.allocs, other.allocs),
            add(self.frees, other.frees),
            add(self.outstanding, other.outstanding),
            add(self.bytes, other.bytes),
            self.clamped or other.clamped,
        )

    @property
    def freed_share(self) -> Optional[float]:
        """Frees per allocation, 0.0 to 1.0; None without allocations, or where a 32-bit counter wrapped."""
        if not self.allocs or self.frees is None or self.frees > self.allocs:
            return None
        return self.frees / self.allocs

    @property
    def bytes_each(self) -> Optional[int]:
        """Poolmon's Per Alloc: bytes by outstanding block, rounded down; None without blocks."""
        if not self.outstanding or self.bytes is None:
            return None
        return self.bytes // self.outstanding

    @property
    def is_idle(self) -> bool:
        """No counter differs from zero: the tag was never used in this pool."""
        return not (self.allocs or self.frees or self.outstanding or self.bytes)


UNUSED = PoolUsage(0, 0, 0, 0)
"""The usage of a pool that a tag never allocated from."""

UNSAID = PoolUsage(None, None, None, None)
"""The usage of a tag in a pool of which the source says nothing, or nothing that can be known."""


@dataclass(frozen=True)
class TagUsage:
    """One tag's row: both pools."""

    tag: PoolTag
    nonpaged: PoolUsage
    paged: PoolUsage

    def usage(self, pool: PoolKind) -> PoolUsage:
        """The side of ``pool``."""
        return self.nonpaged if pool is PoolKind.NONPAGED else self.paged


@dataclass(frozen=True)
class UsageRow:
    """One tag in one pool: a line of poolmon's table."""

    tag: PoolTag
    pool: PoolKind
    usage: PoolUsage


class TimeOrigin(enum.Enum):
    """Where the moment of a state is from; the value is the word in JSON and in text."""

    HEADER = "header"
    """The source itself says it."""
    CLOCK_TICK = "last clock tick"
    """The system's own clock in an image of its memory: a machine that hangs may have stopped it before."""
    FILE_NAME = "file name"
    FILE_TIME = "file time"
    """The file's last change, which may be that of a copy."""
    INTERVAL = "interval"
    """The place in the series, and the interval that the user gave."""


WHOLE_ROWS = 100
"""A list with so many tags of a pool was not chosen by hand: what it adds up to is the pool."""

_UNLISTED_SHARE = 0.2

SPOILED_ROWS = 32
"""Up to so many missing rows are single ones that damage spoiled, each of one tag; a lost page of a table has more."""


class ExpansionState(enum.Enum):
    """What became of the expansion table of the tag tables; the value is the word in JSON."""

    READ = "read"
    ABSENT = "absent"
    """The kernel has none: it makes one only when the tables are full."""
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown"
    """It was not found, or the source has no tables."""


@dataclass(frozen=True)
class TableCoverage:
    """How much of the kernel's pool tag tables was read. None: unknown, or the source has no such part.

    Of a text that has rows which could not be read it is how many could (``rows_read``); otherwise nothing is said.
    """

    processor_tables_read: Optional[int] = None
    processor_tables_expected: Optional[int] = None
    rows_read: Optional[int] = None
    rows_expected: Optional[int] = None
    expansion_table: ExpansionState = ExpansionState.UNKNOWN

    @property
    def is_complete(self) -> bool:
        """Nothing that counts allocations is known to be missing; a text misses none but rows that are spoilt."""
        has_all = self.processor_tables_read == self.processor_tables_expected and self.rows_read == self.rows_expected
        return has_all and (
            self.processor_tables_read is None or self.expansion_table in (ExpansionState.READ, ExpansionState.ABSENT)
        )

    @property
    def lacks_counts(self) -> bool:
        """So much is missing that what tags hold is not known: a processor's table, pages of one, or where it ends.

        A block that is allocated on one processor may be freed on another: a sum without one of them may be far too
        high or too low. A text has each tag whole, or not at all.
        """
        if self.processor_tables_read is None:
            return False
        read, expected = self.processor_tables_read, self.processor_tables_expected
        if read is not None and expected is not None and read < expected:
            return True
        if self.rows_read is None or self.rows_expected is None:
            return self.rows_read is not None
        return self.rows_expected - self.rows_read > SPOILED_ROWS


@dataclass(frozen=True)
class SnapshotSource:
    """Where a snapshot comes from: ``kind`` in words, ``path`` as the user gave it (empty for a session).

    ``symbols`` names what located the tables (``target``, ``profile``, ``inference``, ``inference+code`` where nt's own
    code agrees, ``code`` where that alone decided); None for logs and dumps without tables, empty for such a session.
    """

    kind: str
    path: str = ""
    symbols: Optional[str] = None

    @property
    def is_session(self) -> bool:
        """The kernel in the debugger's session: it has tables, but no path."""
        return not self.path and self.symbols is not None


@dataclass(frozen=True)
class SystemMemory:
    """The memory of a machine in bytes, by the memory manager's own count. None: the source does not say.

    The pools' bytes include headers and free space, so they are a little above the sum of the tags.
    """

    nonpaged_bytes: Optional[int] = None
    nonpaged_limit_bytes: Optional[int] = None
    paged_bytes: Optional[int] = None
    paged_limit_bytes: Optional[int] = None
    commit_bytes: Optional[int] = None
    commit_limit_bytes: Optional[int] = None
    physical_bytes: Optional[int] = None
    available_bytes: Optional[int] = None

    def used_bytes(self, pool: PoolKind) -> Optional[int]:
        """What ``pool`` holds."""
        return self.nonpaged_bytes if pool is PoolKind.NONPAGED else self.paged_bytes

    def limit_bytes(self, pool: PoolKind) -> Optional[int]:
        """What ``pool`` may hold."""
        return self.nonpaged_limit_bytes if pool is PoolKind.NONPAGED else self.paged_limit_bytes


@dataclass(frozen=True)
class StatedDriver:
    """Which driver a source itself names for a tag; no more than a hint, for such lists may be old or wrong.

    Attributes:
        module: the file's name as it stands there (``netio.sys``), or the part before the exclamation mark (``nt``).
        told_by: where it stands, in words (``Binary in !poolused``, ``column Mapped_Driver``).
        text: the words of the source, cut to a line: ``WFP filter engine callout context , Binary: netio.sys``.
    """

    tag: PoolTag
    module: str
    told_by: str
    text: str


@dataclass(frozen=True)
class PoolSnapshot:
    """The state of both pools, tag by tag, at one moment of one machine's life since boot.

    ``time_from``: where ``taken_at`` is from; None: there is no time.
    ``stated_nonpaged`` and ``stated_paged`` are the sums over all tags that the source prints (a row
    ``TOTAL``); they count tags that are not listed, too. ``stated_drivers``: what the source says of who allocates.
    ``blocks``: single blocks that it lists (``!poolfind``, ``!verifier 3``). ``image``: the source is no dump, but the
    memory of a system that ran or hung; ``taken_at`` is then its last clock tick, and ``time_from`` says so.
    ``boot_id``: the same in all memory of one boot, and counted up by each. ``commit``: who was charged for committed
    memory, ``frames``: physical memory by use, where a text says so; neither is kept in snapshot files.
    ``passed_over``: so many states of a long series stand before this one and were left out.
    """

    source: SnapshotSource
    tags: Tuple[TagUsage, ...]
    taken_at: Optional[datetime] = None
    host: Optional[str] = None
    build: Optional[int] = None
    machine: Optional[Machine] = None
    processors: Optional[int] = None
    uptime_seconds: Optional[float] = None
    bugcheck: Optional[BugCheck] = None
    memory: SystemMemory = field(default_factory=SystemMemory)
    time_from: Optional[TimeOrigin] = None
    coverage: TableCoverage = field(default_factory=TableCoverage)
    warnings: Tuple[str, ...] = ()
    stated_nonpaged: Optional[PoolUsage] = None
    stated_paged: Optional[PoolUsage] = None
    stated_drivers: Tuple[StatedDriver, ...] = ()
    blocks: Tuple[Allocation, ...] = ()
    image: Optional[MemoryImage] = None
    boot_id: Optional[int] = None
    commit: Optional[CommitSheet] = None
    frames: Optional[PageFrames] = None
    passed_over: int = 0

    def name_pool(self, pool: PoolKind) -> str:
        """``nonpaged pool``; where the source's rows name no pool, or are of a session's pool, that."""
        if POOL_OF_SESSION in self.warnings:
            return f"session {pool.value} pool"
        return "pool (which one is not said)" if POOL_UNNAMED in self.warnings else f"{pool.value} pool"

    def stated_total(self, pool: PoolKind) -> Optional[PoolUsage]:
        """The sum over all tags of ``pool`` that the source itself prints."""
        return self.stated_nonpaged if pool is PoolKind.NONPAGED else self.stated_paged

    def is_whole(self, pool: PoolKind) -> bool:
        """Whether a share of what is known of ``pool`` is one of the pool, not of rows that somebody chose."""
        stated = self.stated_total(pool)
        return (
            self.memory.used_bytes(pool) is not None
            or (stated is not None and stated.bytes is not None)
            or self.source.symbols is not None
            or sum(1 for row in self.tags if row.usage(pool).bytes) >= WHOLE_ROWS
        )

    def unlisted_bytes(self, pool: PoolKind) -> Optional[int]:
        """So much of ``pool`` may be of tags that are not listed; None: unknown, the list may be cut or chosen by hand.

        0 where the list is whole. The memory manager counts headers and free space, too, so that a fifth is no sign.
        """
        if self.source.symbols is not None:
            return 0
        stated, listed = self.stated_total(pool), self.counted_bytes(pool)
        if stated is not None and stated.bytes is not None and listed is not None:
            return max(0, stated.bytes - listed)
        if MAY_BE_CUT in self.warnings:
            return None
        if sum(1 for row in self.tags if row.usage(pool).bytes) >= WHOLE_ROWS:
            return 0
        held = self.memory.used_bytes(pool)
        if held is None or listed is None:
            return None
        return held - listed if held - listed > _UNLISTED_SHARE * held else 0

    def total_bytes(self, pool: PoolKind) -> Optional[int]:
        """Bytes outstanding of all tags in ``pool``; None where no tag says, or where tables are missing."""
        return None if self.coverage.lacks_counts else self.counted_bytes(pool)

    def counted_bytes(self, pool: PoolKind) -> Optional[int]:
        """The sum of what was read of the tags in ``pool``, which is no total where tables are missing."""
        known = [used for row in self.tags if (used := row.usage(pool).bytes) is not None]
        return sum(known) if known else None

    def pool_bytes(self, pool: PoolKind) -> Optional[int]:
        """What ``pool`` holds: the memory manager's count, or the sum of the tags or TOTAL where that says more."""
        stated = self.stated_total(pool)
        counts = (self.memory.used_bytes(pool), self.total_bytes(pool), stated.bytes if stated else None)
        known = [used for used in counts if used is not None]
        return max(known) if known else None


@dataclass(frozen=True)
class Allocation:
    """A live block of pool memory: where it begins, its size and tag; a small one with its header.

    ``pool`` is None where the kernel's record does not tell. ``is_big``: it stands in the big-page table; the others
    were found by their header. ``is_certain`` is false for a header that neither a neighbour nor the heap's own records
    confirm; ``is_likely`` is true for such a one if it stands in a row of equal blocks.
    """

    address: int
    size_bytes: int
    tag: PoolTag
    pool: Optional[PoolKind]
    is_big: bool
    is_certain: bool = True
    is_likely: bool = False
