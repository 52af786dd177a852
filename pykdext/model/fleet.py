"""Many dumps: what became of each, what they have in common, and how tags went on over the weeks."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from pykdext.model.owners import Confidence, Role
from pykdext.model.pool import PoolKind, PoolTag, PoolUsage
from pykdext.printable import hide_secrets


class DumpStatus(enum.Enum):
    """What became of a dump of a batch."""

    DONE = "done"
    PARTIAL = "partial"
    """There is a verdict, but part of the tag tables is missing, or pages that the file announces."""
    UNUSABLE = "unusable"
    TIMED_OUT = "timed-out"
    CRASHED = "crashed"
    """The process that read it ended twice without an answer."""

    @property
    def has_report(self) -> bool:
        """Whether there is a verdict."""
        return self in (DumpStatus.DONE, DumpStatus.PARTIAL)


@dataclass(frozen=True)
class DumpInput:
    """A file that a batch is to read.

    Attributes:
        path: as the user gave it, without secrets. key: a text that names the file wherever the tool was started.
        identity: another one whenever the content is another; None where that cannot be known.
        url: what opens a remote file, secrets included; None for a local one.
    """

    path: str
    key: str
    identity: Optional[str]
    url: Optional[str] = None

    @property
    def location(self) -> str:
        """What opens the file from any folder."""
        return self.url or os.path.abspath(self.path)


@dataclass(frozen=True)
class Driver:
    """A loaded driver of a machine; ``version`` is that of its file, None where it cannot be read."""

    name: str
    version: Optional[str] = None


REPORT_SCHEMA = "poolleak.report/1"
"""The schema of the documents in which verdicts travel and are stored."""


class Task(NamedTuple):
    """What a process is asked that reads one dump: plain values, which JSON can carry to any machine.

    Attributes:
        path: file or URL, with its secrets. pooltags, symbols: as on the command line. top: at most so many suspects.
        timeout_seconds: after which its process is ended.
    """

    path: str
    timeout_seconds: float
    top: Optional[int] = None
    pooltags: Optional[str] = None
    symbols: Optional[str] = None

    @property
    def shown_path(self) -> str:
        """The path without its secrets, for messages."""
        return hide_secrets(self.path)


class Answer(NamedTuple):
    """What a process answers that read one dump: plain values, which JSON can carry back.

    Attributes:
        status: value of a ``DumpStatus``. seconds: it took. error: one line, where there is no report.
        report: ``poolleak.report/1``. state: ``poolleak.snapshot/1`` with all tags.
        drivers: ``name``, ``version`` and ``company`` of each loaded driver.
        fetched_bytes: what came over a network; None for a file of the machine that read it.
    """

    status: str
    seconds: float
    error: Optional[str] = None
    report: Optional[Dict[str, Any]] = None
    state: Optional[Dict[str, Any]] = None
    drivers: List[Dict[str, Any]] = []  # noqa: RUF012 - never changed
    fetched_bytes: Optional[int] = None


@dataclass(frozen=True)
class NamedOwner:
    """An owner that a verdict names."""

    module: str
    confidence: Confidence


@dataclass(frozen=True)
class DumpSuspect:
    """A tag that a verdict holds for a leak or its victim; ``owners`` with the likeliest first."""

    tag: PoolTag
    pool: PoolKind
    role: Role
    bytes: Optional[int]
    outstanding: Optional[int]
    owners: Tuple[NamedOwner, ...]


@dataclass(frozen=True)
class DumpHolder:
    """The process that a verdict names as the holder of objects of a tag: its program, and how many handles it has."""

    tag: PoolTag
    image: str
    held: int


@dataclass(frozen=True)
class GroupMember:
    """A tag of a group; ``blocks`` are outstanding, ``is_holder``: it is freed least, so that it holds the others."""

    tag: PoolTag
    pool: PoolKind
    blocks: int
    is_holder: bool


@dataclass(frozen=True)
class DumpVerdict:
    """The verdict on one dump.

    Attributes:
        sentence: the verdict in words. suspects: the strongest first. holders: of the objects among them.
        taken_at, uptime_seconds, build: of the machine; None where the dump does not hold them.
        warnings: what is missing or doubtful, one line each.
        document: ``poolleak.report/1``, from which all this was read, for those who are handed all of it.
        groups: tags whose blocks agree in number; companions: those of them that are no suspects themselves.
        lacks_counts: processors' tables are missing, so that what tags hold is not known.
    """

    sentence: str
    suspects: Tuple[DumpSuspect, ...]
    taken_at: Optional[datetime]
    uptime_seconds: Optional[float]
    build: Optional[int]
    warnings: Tuple[str, ...]
    document: Mapping[str, Any]
    holders: Tuple[DumpHolder, ...] = ()
    groups: Tuple[Tuple[GroupMember, ...], ...] = ()
    companions: Tuple[DumpSuspect, ...] = ()
    lacks_counts: bool = False

    @property
    def judged(self) -> Tuple[DumpSuspect, ...]:
        """The suspects and what goes along with them."""
        return self.suspects + self.companions

    def companions_of(self, suspect: DumpSuspect) -> Tuple[DumpSuspect, ...]:
        """What was judged and agrees in number with a suspect."""
        members = {
            (member.tag, member.pool)
            for group in self.groups
            if any((member.tag, member.pool) == (suspect.tag, suspect.pool) for member in group)
            for member in group
        }
        members.discard((suspect.tag, suspect.pool))
        return tuple(item for item in self.judged if (item.tag, item.pool) in members)


@dataclass(frozen=True)
class DumpRow:
    """What became of one dump of a batch.

    Attributes:
        path: as the user gave it. verdict: None where there is no report. error: why, in one line.
        drivers: those that are loaded. fetched_bytes: what reading it cost over a network; None for a local file.
    """

    path: str
    host: str
    status: DumpStatus
    error: Optional[str] = None
    verdict: Optional[DumpVerdict] = None
    drivers: Tuple[Driver, ...] = ()
    fetched_bytes: Optional[int] = None


@dataclass(frozen=True)
class OtherVersion:
    """Another version of a driver: the hosts that have it, and those of them where the tag leaks too."""

    version: Optional[str]
    hosts: Tuple[str, ...]
    leaking_hosts: Tuple[str, ...]


@dataclass(frozen=True)
class CommonHolder:
    """A program that holds objects of a tag: on which hosts, and how many handles (of each host the most)."""

    image: str
    hosts: Tuple[str, ...]
    held: int


@dataclass(frozen=True)
class CommonCompanion:
    """A tag whose blocks agree in number with those of a common cause.

    Attributes:
        modules: the drivers that are tied to it, if any.
        hosts: where it goes along with the cause. alone_hosts: where it stands out and does not.
        bytes: what it holds on ``hosts``, the largest dump of each.
        ratio: its blocks for each block of the cause, over the hosts where both are.
    """

    tag: PoolTag
    pool: PoolKind
    role: Role
    modules: Tuple[str, ...]
    hosts: Tuple[str, ...]
    alone_hosts: Tuple[str, ...]
    bytes: int
    ratio: float


@dataclass(frozen=True)
class CommonCause:
    """A tag that looks like a leak, with the driver that uses it, over all hosts.

    Attributes:
        role: whether the tag is that of the cause or of a victim.
        module, version: the driver, None where no owner of the tag is likely or proven.
        confidence: the best that any host gives. hosts: where it leaks. dumps: in how many dumps.
        bytes: what it holds, the largest dump of each host.
        quiet_hosts: hosts that have this driver in this version and do not leak.
        other_versions: of the same driver on any host.
        holders: the programs that hold its objects, those on most hosts first.
        confident_hosts: those of ``hosts`` whose dumps tie the driver to the tag with this confidence.
        unowned_hosts: those of them where no driver could be tied to it.
        companions: tags that go along with it, the largest first; they are no causes of their own.
    """

    tag: PoolTag
    pool: PoolKind
    role: Role
    module: Optional[str]
    version: Optional[str]
    confidence: Optional[Confidence]
    hosts: Tuple[str, ...]
    dumps: int
    bytes: int
    quiet_hosts: Tuple[str, ...]
    other_versions: Tuple[OtherVersion, ...]
    holders: Tuple[CommonHolder, ...] = ()
    confident_hosts: Tuple[str, ...] = ()
    unowned_hosts: Tuple[str, ...] = ()
    companions: Tuple[CommonCompanion, ...] = ()


@dataclass(frozen=True)
class BatchSummary:
    """What a batch came to.

    Attributes:
        dumps: all of them; ``reused``: those that were stored before and have not changed.
        by_status: how many became what. hosts: how many gave a verdict.
        seconds: how long it took. fetched_bytes: over a network, by this run.
        unfinished: dumps that were not begun or not ended. warnings: what ended it early, or could not be listed.
        uncounted: dumps that lack processors' tables, so that what their tags hold is not known.
    """

    dumps: int
    reused: int
    by_status: Mapping[DumpStatus, int]
    hosts: int
    seconds: float
    fetched_bytes: int
    unfinished: int
    common: Tuple[CommonCause, ...]
    warnings: Tuple[str, ...]
    uncounted: int = 0


@dataclass(frozen=True)
class HistorySample:
    """What a tag did in a pool until a moment; not ``is_counted``: the dump lacks tables, so that it is not known."""

    taken_at: Optional[datetime]
    uptime_seconds: Optional[float]
    usage: PoolUsage
    is_counted: bool = True

    @property
    def bytes_per_hour(self) -> Optional[float]:
        """The average since the machine was started; None where either is not known."""
        if self.usage.bytes is None or not self.uptime_seconds:
            return None
        return self.usage.bytes / (self.uptime_seconds / 3600)


@dataclass(frozen=True)
class HistoryLine:
    """One tag in one pool of one host over all stored snapshots, in the order of time. ``samples`` is not empty."""

    host: str
    tag: PoolTag
    pool: PoolKind
    samples: Tuple[HistorySample, ...]

    @property
    def ends(self) -> Tuple[HistorySample, HistorySample]:
        """The first and the last sample that tells bytes; of none the first and the last of all."""
        told = [sample for sample in self.samples if sample.usage.bytes is not None] or self.samples
        return told[0], told[-1]
