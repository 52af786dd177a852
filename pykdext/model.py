"""The values that flow through pykdext: frozen, without I/O. Absent is None, never 0.

Counts are exact integers; sizes are in bytes, times in seconds, moments are aware datetimes in UTC.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import Mapping, Optional, Tuple

PROTECTED_POOL = 0x80000000
"""Bit 31 of a tag: the driver asked for a protected allocation (WDK: PROTECTED_POOL); never part of the tag's name."""


class PoolKind(enum.Enum):
    """The two kernel pools that the tag tables count apart."""

    NONPAGED = "nonpaged"
    PAGED = "paged"

    @property
    def label(self) -> str:
        """Poolmon's word in the Type column: ``Nonp`` or ``Paged``."""
        return "Nonp" if self is PoolKind.NONPAGED else "Paged"


class Machine(enum.Enum):
    """Processor architecture, by WinDbg's words."""

    X86 = "x86"
    X64 = "x64"
    ARM64 = "arm64"

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer in the kernel."""
        return 4 if self is Machine.X86 else 8


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


@dataclass(frozen=True)
class BugCheck:
    """The stop code of a crash and its four parameters."""

    code: int
    parameters: Tuple[int, ...]


@dataclass(frozen=True)
class TargetFacts:
    """What a target says of itself. None: it does not say (a header field that was never filled).

    ``kind`` is in words a user knows, e.g. ``kernel bitmap dump (type 6)``. ``pages_present`` counts 4 KiB pages that
    can be read; ``pages_expected`` those that the file announces.
    """

    kind: str
    machine: Machine
    build: Optional[int] = None
    processors: Optional[int] = None
    bugcheck: Optional[BugCheck] = None
    taken_at: Optional[datetime] = None
    uptime_seconds: Optional[float] = None
    pages_present: Optional[int] = None
    pages_expected: Optional[int] = None
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Module:
    """A kernel image: ``name`` as the loader has it (``pippo.sys``), ``path`` its full name, addresses in bytes.

    ``timestamp`` and ``checksum`` identify the file (symbol server key: timestamp and size). ``unloaded``: it was
    there once; its addresses may still be found in memory.
    """

    name: str
    base: int
    size: int
    path: str = ""
    timestamp: Optional[int] = None
    checksum: Optional[int] = None
    unloaded: bool = False

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.base + self.size


@dataclass(frozen=True)
class FieldLayout:
    """Where a field stands in its structure, in bytes."""

    offset: int
    size: Optional[int] = None


@dataclass(frozen=True)
class TypeLayout:
    """A structure: its size in bytes and its fields, in Microsoft's spelling."""

    size: int
    fields: Mapping[str, FieldLayout]


@dataclass(frozen=True)
class TableCoverage:
    """How much of the kernel's pool tag tables was read. None: unknown, or the source has no such part.

    ``expansion_table`` is ``read``, ``absent`` (the kernel has none), ``unreadable`` or ``unknown`` (not found).
    """

    processor_tables_read: Optional[int] = None
    processor_tables_expected: Optional[int] = None
    rows_read: Optional[int] = None
    rows_expected: Optional[int] = None
    expansion_table: str = "unknown"

    @property
    def is_complete(self) -> bool:
        """Nothing that counts allocations is known to be missing."""
        return (
            self.processor_tables_read == self.processor_tables_expected
            and self.rows_read == self.rows_expected
            and self.expansion_table in ("read", "absent")
        )


@dataclass(frozen=True)
class ImageCoverage:
    """How much of the driver images could be searched. ``resident_fraction``: bytes read of bytes searched for."""

    modules_scanned: int
    modules_total: int
    resident_fraction: Optional[float]


@dataclass(frozen=True)
class SnapshotSource:
    """Where a snapshot comes from: ``kind`` in words, ``path`` as the user gave it (empty for a session).

    ``symbols`` names what located the tables (``target``, ``profile``, ``inference``); None for logs.
    """

    kind: str
    path: str = ""
    symbols: Optional[str] = None


@dataclass(frozen=True)
class PoolSnapshot:
    """The state of both pools, tag by tag, at one moment of one machine's life since boot."""

    source: SnapshotSource
    tags: Tuple[TagUsage, ...]
    taken_at: Optional[datetime] = None
    host: Optional[str] = None
    build: Optional[int] = None
    machine: Optional[Machine] = None
    processors: Optional[int] = None
    uptime_seconds: Optional[float] = None
    bugcheck: Optional[BugCheck] = None
    coverage: TableCoverage = field(default_factory=TableCoverage)
    warnings: Tuple[str, ...] = ()

    def total_bytes(self, pool: PoolKind) -> Optional[int]:
        """Bytes outstanding of all tags in ``pool``; None where no tag says."""
        known = [used for row in self.tags if (used := row.usage(pool).bytes) is not None]
        return sum(known) if known else None


class Confidence(enum.Enum):
    """How sure an owner is: what was seen, not a probability."""

    PROVEN = "proven"
    LIKELY = "likely"
    POSSIBLE = "possible"

    @property
    def rank(self) -> int:
        """0 for the strongest."""
        return list(Confidence).index(self)


@dataclass(frozen=True)
class Evidence:
    """One reason to name ``module`` as an owner of ``tag``.

    ``kind`` is a stable word (``immediate``, ``data``, ``bytes``, ``pooltag.txt``, ``builtin``); ``rva`` the place in
    the image, ``function`` its name where symbols allow; ``detail`` one line for a reader.
    """

    tag: PoolTag
    module: str
    kind: str
    confidence: Confidence
    detail: str
    rva: Optional[int] = None
    function: Optional[str] = None


@dataclass(frozen=True)
class ImageVersion:
    """The version resource of an image, as far as it could be read."""

    company: Optional[str] = None
    product: Optional[str] = None
    description: Optional[str] = None
    file_version: Optional[str] = None


@dataclass(frozen=True)
class Owner:
    """A module that allocates with a tag, with all evidence, the strongest first.

    ``part_of_windows`` is None where the image's company could not be read.
    """

    module: str
    confidence: Confidence
    evidence: Tuple[Evidence, ...]
    version: Optional[ImageVersion] = None
    part_of_windows: Optional[bool] = None
    base: Optional[int] = None


@dataclass(frozen=True)
class TagDescription:
    """What a tag list says: the entry's own pattern, the module, the words, and where it stands.

    ``tag_class`` is ``object``, ``cache``, ``component``, ``generic`` or None (pooltag.txt has no classes);
    ``next_question`` tells what to ask next.
    """

    pattern: str
    module: str
    text: str
    source: str
    tag_class: Optional[str] = None
    next_question: Optional[str] = None


@dataclass(frozen=True)
class TagOwners:
    """The owners of one tag, the likeliest first, and what the tag lists say."""

    tag: PoolTag
    owners: Tuple[Owner, ...]
    coverage: ImageCoverage
    descriptions: Tuple[TagDescription, ...] = ()


class Role(enum.Enum):
    """What a suspect is in the leak."""

    CAUSE = "cause"
    VICTIM = "victim"
    OBJECT = "object"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Suspect:
    """A tag that looks like a leak in one pool, with the reasons in words.

    ``share`` is of the pool's bytes, 0.0 to 1.0; ``bytes_per_hour`` the average since boot (not growth).
    """

    tag: PoolTag
    pool: PoolKind
    usage: PoolUsage
    share: float
    score: int
    reasons: Tuple[str, ...]
    role: Role = Role.UNKNOWN
    bytes_per_hour: Optional[float] = None
    owners: Tuple[Owner, ...] = ()
    descriptions: Tuple[TagDescription, ...] = ()


@dataclass(frozen=True)
class PoolTotal:
    """What a pool holds and may hold, in bytes; ``limit_bytes`` None where it is not known."""

    pool: PoolKind
    used_bytes: Optional[int]
    limit_bytes: Optional[int] = None


@dataclass(frozen=True)
class NextStep:
    """What to do next: a command to type (WinDbg's or a shell's) and why; ``command`` None: a question to ask."""

    command: Optional[str]
    why: str


@dataclass(frozen=True)
class LeakReport:
    """The verdict on one snapshot."""

    snapshot: PoolSnapshot
    verdict: str
    pools: Tuple[PoolTotal, ...]
    suspects: Tuple[Suspect, ...]
    next_steps: Tuple[NextStep, ...]
    image_coverage: Optional[ImageCoverage]
    warnings: Tuple[str, ...]
