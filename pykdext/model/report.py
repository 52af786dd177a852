"""What is shown: suspects, verdicts, blocks, next steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Optional, Tuple

from pykdext.model.growth import LockstepGroup
from pykdext.model.owners import ContentsWitness, ImageCoverage, Owner, Role, TagDescription
from pykdext.model.pool import (
    Allocation,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    SnapshotSource,
    StatedDriver,
    TagUsage,
)
from pykdext.model.target import Module, TargetFacts
from pykdext.model.untagged import UntaggedMemory

if TYPE_CHECKING:
    from pykdext.model.objects import HolderReport


@dataclass(frozen=True)
class Suspect:
    """A tag that looks like a leak in one pool, with the reasons in words.

    ``share`` is of the pool's bytes, 0.0 to 1.0; ``bytes_per_hour`` the average since boot (not growth). Both are None
    where processors' tables are missing, so that what tags hold is not known.
    """

    tag: PoolTag
    pool: PoolKind
    usage: PoolUsage
    share: Optional[float]
    score: int
    reasons: Tuple[str, ...]
    role: Role = Role.UNKNOWN
    bytes_per_hour: Optional[float] = None
    owners: Tuple[Owner, ...] = ()
    descriptions: Tuple[TagDescription, ...] = ()
    owner_notes: Tuple[str, ...] = ()


@dataclass(frozen=True)
class PoolTotal:
    """What a pool holds and may hold, in bytes; ``limit_bytes`` None where it is not known.

    ``by_tags``: what it holds is the sum of its tags, not the memory manager's own count (which includes headers and
    free space).
    """

    pool: PoolKind
    used_bytes: Optional[int]
    limit_bytes: Optional[int]
    by_tags: bool

    @classmethod
    def of(cls, snapshot: PoolSnapshot, pool: PoolKind) -> PoolTotal:
        """The total of ``pool`` by the memory manager's count where the snapshot has it, else by the tags."""
        used = snapshot.memory.used_bytes(pool)
        stated = snapshot.stated_total(pool)
        by_tags = stated.bytes if stated and stated.bytes is not None else snapshot.total_bytes(pool)
        total = by_tags if used is None else used
        return cls(pool, total, snapshot.memory.limit_bytes(pool), by_tags=used is None)

    @property
    def source(self) -> str:
        """Who counts what it holds, in words."""
        if self.used_bytes is None:
            return "not known"
        return "the sum of the tags" if self.by_tags else "the memory manager's count"

    @property
    def filled_share(self) -> Optional[float]:
        """Used of the limit, 0.0 to 1.0; None where either is not known."""
        if self.used_bytes is None or not self.limit_bytes:
            return None
        return self.used_bytes / self.limit_bytes


@dataclass(frozen=True)
class BlockView:
    """A block and its first bytes; ``head`` is empty where they are not in memory."""

    block: Allocation
    head: bytes


@dataclass(frozen=True)
class BlockReport:
    """The blocks of one tag: what the tables count, what was found, a sample of it, and what could not be looked at.

    ``sizes`` counts blocks by size in bytes, the size that holds the most bytes first. ``freed`` counts small blocks
    that bear the tag but are not in use. ``witness``: what they point at, None if that was not looked at.
    ``is_complete``: neither the tables that count the blocks nor those that list them lack anything. ``stated``: the
    drivers that the source itself names for the tag, which are possible.
    """

    tag: PoolTag
    source: SnapshotSource
    counted: TagUsage
    found: Tuple[Allocation, ...]
    sizes: Tuple[Tuple[int, int], ...]
    sample: Tuple[BlockView, ...]
    freed: int
    warnings: Tuple[str, ...]
    witness: Optional[ContentsWitness] = None
    is_complete: bool = True
    stated: Tuple[StatedDriver, ...] = ()


@dataclass(frozen=True)
class DumpSummary:
    """What a dump without readable tag tables still tells, and why they cannot be read."""

    path: str
    facts: TargetFacts
    modules: Tuple[Module, ...]
    reason: str


@dataclass(frozen=True)
class NextStep:
    """What to do next: a command to type (WinDbg's or a shell's) and why; ``command`` None: a question to ask."""

    command: Optional[str]
    why: str


@dataclass(frozen=True)
class Origin:
    """How a report came about: the command as it was typed, poolleak's version, and when."""

    command: str
    version: str
    made_at: datetime


@dataclass(frozen=True)
class LeakReport:
    """The verdict on one snapshot.

    ``suspects`` look like a leak, the likeliest first. ``largest`` are the largest tags of each pool, judged in the
    same way, suspects or not. ``groups``: tags whose blocks agree in number with those of a suspect; ``companions``
    are their members that are no suspects themselves. ``untagged`` is what no tag counts, the largest first; ``fills``
    that of it which weighs more than the pools, None where nothing does. ``holders``: who holds the objects of
    suspects that are objects; ``unusual``: a sentence on processes with far more handles than usual, or that have
    exited and are held. ``doubts``: what contradicts itself in a pool's numbers.
    """

    snapshot: PoolSnapshot
    verdict: str
    pools: Tuple[PoolTotal, ...]
    suspects: Tuple[Suspect, ...]
    next_steps: Tuple[NextStep, ...]
    image_coverage: Optional[ImageCoverage]
    warnings: Tuple[str, ...]
    largest: Tuple[Suspect, ...] = ()
    groups: Tuple[LockstepGroup, ...] = ()
    companions: Tuple[Suspect, ...] = ()
    untagged: Tuple[UntaggedMemory, ...] = ()
    fills: Optional[UntaggedMemory] = None
    holders: Tuple[HolderReport, ...] = ()
    unusual: str = ""
    doubts: Tuple[Tuple[PoolKind, str], ...] = ()
