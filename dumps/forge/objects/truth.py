"""What a perfect reader finds of the objects of a machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple


@dataclass(frozen=True)
class TypeTruth:
    """One object type; ``va`` is its body."""

    va: int
    name: str
    key: bytes
    index: int
    objects: int
    handles: int
    most_objects: int
    most_handles: int
    paged: bool


@dataclass(frozen=True)
class ProcessTruth:
    """One process; times are FILETIMEs, ``exited_at`` is 0 while it lives."""

    va: int
    image: str
    pid: int
    parent: int
    session_va: int
    session: Optional[int]
    created_at: int
    exited_at: int
    threads: int
    handles: int
    nonpaged_charge: int
    paged_charge: int
    commit_pages: int
    handle_types: Dict[str, int]

    @property
    def working_set_pages(self) -> int:
        """Pages in memory."""
        return 0 if self.exited_at else 45 + self.threads * 31


@dataclass(frozen=True)
class LookasideTruth:
    """One lookaside list; ``driver`` is None where the list alone proves nobody."""

    va: int
    tag: bytes
    size: int
    in_use: int
    taken: int
    driver: Optional[str]


@dataclass(frozen=True)
class VerifiedTruth:
    """What Driver Verifier counts of a driver; ``callers`` are the RVAs behind its tracked allocations.

    ``va`` is where it counts; ``logged`` of its blocks were allocated by the last calls of the log, at ``logged_rva``.
    """

    va: int
    driver: str
    allocations: int
    nonpaged_bytes: int
    tag: bytes
    callers: Tuple[int, ...]
    tracked: int
    logged: int
    logged_rva: int


@dataclass(frozen=True)
class TracedTruth:
    """References that a driver keeps to ``objects`` traced objects, most of them taken at ``rva``."""

    driver: str
    rva: int
    kept: int
    objects: int


@dataclass
class ObjectTruth:
    """Everything that the forge wrote of objects; ``lost`` names what a variant with pages missing lacks."""

    cookie: Optional[int] = None
    types: List[TypeTruth] = field(default_factory=list)
    processes: List[ProcessTruth] = field(default_factory=list)
    lookasides: List[LookasideTruth] = field(default_factory=list)
    verified: List[VerifiedTruth] = field(default_factory=list)
    verifier_level: int = 0
    key_path: str = ""
    referenced: Tuple[int, ...] = ()
    traced: Optional[TracedTruth] = None
    lost_processes: Tuple[int, ...] = ()
    lost_handles: int = 0
    numbered_threads: int = 0
    table_pages: Dict[int, Tuple[int, ...]] = field(default_factory=dict)

    def owners(self) -> Dict[bytes, Tuple[str, ...]]:
        """Return the drivers that lookaside lists and Driver Verifier's records and log prove, by tag."""
        lists = {item.tag: (item.driver,) for item in self.lookasides if item.driver is not None}
        return {
            **lists,
            **{driver.tag: (driver.driver,) for driver in self.verified if driver.tracked or driver.logged},
        }

    def process(self, pid: int) -> ProcessTruth:
        """Return the process of a PID."""
        return next(process for process in self.processes if process.pid == pid)
