"""Growth: what changed between two snapshots, how a series of them goes on, and which tags grow together."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Optional, Tuple

from pykdext.model.owners import Role
from pykdext.model.pool import PoolKind, PoolSnapshot, PoolTag, PoolUsage


class Change(enum.Enum):
    """What a difference alone does not tell about a tag between two snapshots."""

    NEW = "new"
    """The tag is missing in the first snapshot."""
    UNLISTED = "unlisted"
    """It is missing there, but that list may be cut or chosen by hand: the tag may have been in use all the same."""
    GONE = "gone"
    """The tag is missing in the second one."""
    WRAPPED = "wrapped"
    """A 32-bit counter went through zero; the difference takes that into account."""
    WENT_BACK = "went back"
    """A counter went back without a restart of the machine: kernel counters never do."""


def say_restart(seconds: Optional[float]) -> str:
    """What counters or boots that do not go on tell of two states that were taken ``seconds`` apart; None: unknown."""
    restarted = "the machine was restarted in between"
    return restarted if seconds else f"{restarted}, or the states are given in the wrong order"


@dataclass(frozen=True)
class TagDelta:
    """What one tag in one pool did between two snapshots: second minus first, None where either does not say.

    ``bytes_per_hour`` is None too where the time between them is not known or the machine was restarted in it.
    """

    tag: PoolTag
    pool: PoolKind
    before: PoolUsage
    after: PoolUsage
    allocs: Optional[int]
    frees: Optional[int]
    outstanding: Optional[int]
    bytes: Optional[int]
    bytes_per_hour: Optional[float]
    changes: Tuple[Change, ...] = ()


@dataclass(frozen=True)
class Diff:
    """All tags that differ between two snapshots. ``interval_seconds`` is negative if ``after`` was taken first.

    ``restart`` says in words how a restart in between was recognised; None if there is no sign of one.
    """

    before: PoolSnapshot
    after: PoolSnapshot
    interval_seconds: Optional[float]
    deltas: Tuple[TagDelta, ...]
    restart: Optional[str]
    warnings: Tuple[str, ...]

    @property
    def lacks_counts(self) -> bool:
        """Processors' tables of a state are missing, so that what grew may be what is not counted in one of them."""
        return self.before.coverage.lacks_counts or self.after.coverage.lacks_counts

    def total_bytes(self, pool: PoolKind) -> Optional[int]:
        """By how many bytes the tags of ``pool`` grew together; None where a state does not tell them.

        Those that an incomplete first list does not have are not counted.
        """
        if self.lacks_counts:
            return None
        known = [
            delta.bytes
            for delta in self.deltas
            if delta.pool is pool and delta.bytes is not None and Change.UNLISTED not in delta.changes
        ]
        if known:
            return sum(known)
        told = self.before.total_bytes(pool) is not None and self.after.total_bytes(pool) is not None
        return 0 if told else None


class Verdict(enum.Enum):
    """What the bytes of a tag do over a series of samples, the most alarming first."""

    LEAK = "leak"
    """They rise beyond their noise, and do so to the end of the series."""
    GROWTH = "growth"
    """They rise beyond their noise, but ever slower."""
    TOO_FEW_SAMPLES = "too-few-samples"
    SAWTOOTH = "sawtooth"
    """They climb and fall back to where they came from: a cache, or a driver that is restarted."""
    SHRINKING = "shrinking"
    STEADY = "steady"

    @property
    def rank(self) -> int:
        """0 for the most alarming."""
        return list(Verdict).index(self)


@dataclass(frozen=True)
class Slope:
    """Bytes an hour by Theil-Sen, with Sen's confidence interval of 95 %."""

    bytes_per_hour: float
    low: float
    high: float


@dataclass(frozen=True)
class Trend:
    """One tag in one pool over the judged samples.

    Attributes:
        bytes: what the tag held at each judged sample; None where it is not listed. Not empty.
        slope: None where the bytes differ too little, or no more than noise does.
        monotonic_p: two-sided p of the Mann-Kendall test, its variance enlarged for autocorrelation; None if the bytes
            differ too little to be tested.
        hours_to_limit, limit: when ``limit`` (in words) is reached at this rate; None where unknown or not growing.
        group: number of the lockstep group that the tag belongs to.
        note: one line about what the verdict alone does not tell; may be empty.
    """

    tag: PoolTag
    pool: PoolKind
    verdict: Verdict
    bytes: Tuple[Optional[int], ...]
    slope: Optional[Slope] = None
    monotonic_p: Optional[float] = None
    hours_to_limit: Optional[float] = None
    limit: Optional[str] = None
    group: Optional[int] = None
    role: Role = Role.UNKNOWN
    note: str = ""

    @property
    def first_bytes(self) -> Optional[int]:
        """What the tag held when it was listed first."""
        return next((held for held in self.bytes if held is not None), None)

    @property
    def last_bytes(self) -> Optional[int]:
        """What the tag held when it was listed last."""
        return next((held for held in reversed(self.bytes) if held is not None), None)


@dataclass(frozen=True)
class TotalTrend:
    """A whole pool over the judged samples, by the memory manager's count; the attributes are those of ``Trend``."""

    pool: PoolKind
    verdict: Verdict
    bytes: Tuple[Optional[int], ...]
    slope: Optional[Slope] = None
    monotonic_p: Optional[float] = None
    hours_to_limit: Optional[float] = None
    limit: Optional[str] = None
    note: str = ""


@dataclass(frozen=True)
class LockstepMember:
    """A tag of a lockstep group.

    ``blocks`` is by how many blocks it grew (or how many are outstanding), ``ratio`` that to the group's first member;
    ``freed_share`` is of all allocations since boot; ``reason`` one line for the role.
    """

    tag: PoolTag
    pool: PoolKind
    blocks: int
    ratio: float
    freed_share: Optional[float]
    role: Role
    reason: str


@dataclass(frozen=True)
class LockstepGroup:
    """Tags whose blocks grow in equal or whole-number proportion, the likeliest cause first. Numbers begin at 1."""

    number: int
    members: Tuple[LockstepMember, ...]


@dataclass(frozen=True)
class Segment:
    """Samples of one boot without a gap. ``cut`` says in words why it does not go on after its last sample.

    ``first`` and ``last`` are None where the samples have an order, but no times.
    """

    first: Optional[datetime]
    last: Optional[datetime]
    samples: int
    cut: Optional[str] = None


@dataclass(frozen=True)
class TrendReport:
    """The trends of a series, the most alarming first.

    ``samples`` and ``span_seconds`` are those of the ``judged`` segment, which is one of ``segments``; it is None if no
    sample could be used. ``newest`` is its last sample, ``moments`` when each of its samples was taken. Where nothing
    tells when that was, ``span_seconds`` is None and ``moments`` is empty: only the order is known, and no trend has a
    slope. ``totals`` are those of the pools as a whole, where the samples tell them. ``uncounted`` samples were
    left out, as they lack processors' tables.
    """

    samples: int
    span_seconds: Optional[float]
    segments: Tuple[Segment, ...]
    judged: Optional[Segment]
    newest: Optional[PoolSnapshot]
    moments: Tuple[datetime, ...]
    trends: Tuple[Trend, ...]
    groups: Tuple[LockstepGroup, ...]
    warnings: Tuple[str, ...]
    totals: Tuple[TotalTrend, ...] = ()
    uncounted: int = 0

    @property
    def has_times(self) -> bool:
        """Whether it is known how far apart the samples are."""
        return self.span_seconds is not None
