"""Objects of the executive and who holds them: types, processes, handles, lookaside lists."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Optional, Tuple

from pykdext.model.pool import PoolKind, PoolSnapshot, PoolTag
from pykdext.model.traces import OpenedAt, ReferenceTrace, VerifiedDriver

_NAMES_BY_TAG = {
    b"Proc": "Process",
    b"Thre": "Thread",
    b"Toke": "Token",
    b"Even": "Event",
    b"File": "File",
    b"Key ": "Key",
    b"Sect": "Section",
    b"EtwR": "EtwRegistration",
    b"ALPC": "ALPC Port",
}
"""Names that are told by their first letters, a type's tag, where they are paged out themselves."""


@dataclass(frozen=True)
class ObjectType:
    """One type of objects with its counters; None: not in memory.

    Attributes:
        address: of the OBJECT_TYPE.
        name: ``Token``.
        index: what headers of such objects name it by.
        tag: the pool tag of such objects; two types may share it.
        pool: where they are allocated.
        objects: how many there are; handles: how many handles lead to them; and the most there were of each.
    """

    address: int
    name: Optional[str]
    index: int
    tag: PoolTag
    pool: PoolKind
    objects: int
    handles: int
    most_objects: int
    most_handles: int

    @property
    def label(self) -> str:
        """The name; where that is not in memory the one that the tag begins, or ``type 21``."""
        return self.name or _NAMES_BY_TAG.get(self.tag.raw) or f"type {self.index}"


@dataclass(frozen=True)
class Process:
    """One process of the kernel's list; None: this kernel does not tell it, or it is not in memory.

    Attributes:
        address: of the EPROCESS.
        image: name of its program, at most 15 letters.
        session_address: of the session's structure: equal for processes of one session; session: its number.
        started_at, exited_at: times; ``exited_at`` is None while it lives.
        has_exited: it has come to its end, although the object is still there.
        is_exiting: it was told to end.
        active_threads: threads that have not ended.
        handles: what its handle table counts; None for a process without one.
        handle_slots: handles that its table has memory for: the most it ever had.
        nonpaged_charge_bytes, paged_charge_bytes: pool charged to it.
        object_handles: handles that other processes have on it. object_references: further references of the kernel.
    """

    address: int
    pid: int
    parent_pid: Optional[int]
    image: str
    session_address: Optional[int] = None
    session: Optional[int] = None
    started_at: Optional[datetime] = None
    exited_at: Optional[datetime] = None
    has_exited: bool = False
    is_exiting: bool = False
    active_threads: Optional[int] = None
    handle_table: Optional[int] = None
    handles: Optional[int] = None
    handle_slots: Optional[int] = None
    nonpaged_charge_bytes: Optional[int] = None
    paged_charge_bytes: Optional[int] = None
    commit_pages: Optional[int] = None
    object_handles: Optional[int] = None
    object_references: Optional[int] = None

    @property
    def is_zombie(self) -> bool:
        """It has exited, no thread of it runs, and its object is still there."""
        return self.has_exited and not self.active_threads

    @property
    def label(self) -> str:
        """``watchman.exe (pid 2428)``."""
        return f"{self.image or 'a process'} (pid {self.pid})"


@dataclass(frozen=True)
class StuckProcess:
    """A process that cannot exit: threads of it still run.

    ``pending``: their requests that no driver has completed, None: this kernel does not tell. ``drivers``: which driver
    has how many of them, most first.
    """

    process: Process
    pending: Optional[int]
    drivers: Tuple[Tuple[str, int], ...]


@dataclass(frozen=True)
class ProcessList:
    """The processes of the kernel's list. ``lost``: how many are surely missing, None: any number may be.

    ``unlisted`` are those among them that are not on the list, but in the kernel's table of process numbers.
    """

    processes: Tuple[Process, ...] = ()
    lost: Optional[int] = 0
    layout: str = ""
    warnings: Tuple[str, ...] = ()
    unlisted: Tuple[Process, ...] = ()


@dataclass(frozen=True)
class NumberCensus:
    """Who is in the kernel's table of process and thread numbers.

    Attributes:
        processes, threads: how many of each bear a number.
        exited_threads: threads that have ended and whose object is still there; None: this kernel does not tell.
        unlisted: addresses of processes that the list of processes lacks.
        unnumbered: processes of the list that the whole table lacks.
        unknown: entries that lead to neither, or to what is not in memory.
        pages_read, pages_expected: of the table.
        is_sampled: the numbers were estimated from a sample of the table.
    """

    processes: int
    threads: int
    exited_threads: Optional[int]
    unlisted: Tuple[int, ...] = ()
    unnumbered: int = 0
    unknown: int = 0
    pages_read: int = 0
    pages_expected: int = 0
    is_sampled: bool = False

    @property
    def is_whole(self) -> bool:
        """Every page of the table was read, and every entry looked at."""
        return self.pages_read == self.pages_expected and not self.is_sampled


@dataclass(frozen=True)
class TypeShare:
    """How many of a process's handles lead to objects of one type; of a sample, what that comes to in all."""

    name: str
    handles: int


@dataclass(frozen=True)
class CommonTarget:
    """The key or file that most handles of a process lead to: its name, and how many of how many were seen."""

    type_name: str
    name: str
    handles: int
    of: int


@dataclass(frozen=True)
class HandleCensus:
    """The handles of one process.

    Attributes:
        counted: what the table itself counts; None: it does not say.
        read: handles that were read; pages_read and pages_expected tell how much of the table is in memory.
        sampled: handles whose objects were looked at; less than ``read`` for large tables.
        types: the handles by type, most first; unknown: handles of the sample whose object could not be read.
        common_target: the key or file that most of them lead to.
        zombies: handles that lead to exited processes, and zombie_images: these by image, most first.
    """

    process: Process
    counted: Optional[int]
    read: int
    pages_read: int
    pages_expected: int
    sampled: int
    types: Tuple[TypeShare, ...]
    unknown: int = 0
    common_target: Optional[CommonTarget] = None
    zombies: int = 0
    zombie_images: Tuple[Tuple[str, int], ...] = ()
    warnings: Tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Every page of the table was read."""
        return self.pages_read == self.pages_expected

    def handles_of(self, names: Tuple[str, ...]) -> int:
        """Handles to objects of any of these types."""
        return sum(share.handles for share in self.types if share.name in names)


@dataclass(frozen=True)
class LookasideList:
    """One lookaside list of a driver.

    Attributes:
        address: of the GENERAL_LOOKASIDE.
        size_bytes: of its entries.
        in_use: entries that were given out and not returned.
        taken: blocks that it took from pool and did not give back.
        module: the driver that owns it, by ``proof``: its data hold the list, or its code is the list's routine.
        is_proven: False where a framework allocates for its clients.
    """

    address: int
    tag: PoolTag
    pool: PoolKind
    size_bytes: int
    in_use: int
    taken: int
    module: Optional[str] = None
    rva: Optional[int] = None
    proof: str = ""
    is_proven: bool = False


@dataclass(frozen=True)
class LookasideLists:
    """All lists that were found; ``found`` is False where no symbols tell where they begin."""

    lists: Tuple[LookasideList, ...] = ()
    found: bool = False
    warnings: Tuple[str, ...] = ()


class HolderKind(enum.Enum):
    """Why objects are still there."""

    HANDLES = "handle-leak"
    ZOMBIES = "zombies"
    REFERENCES = "reference-leak"
    LOOKASIDE = "lookaside-list"
    VERIFIER = "verified-driver"
    CONTENTS = "contents"
    """What the blocks hold tells it: the driver that has requests, the process whose pages are locked."""
    NOT_OBJECTS = "not-objects"
    TABLES = "handle-tables"
    NORMAL = "normal"
    UNKNOWN = "unknown"

    @property
    def tells_nothing(self) -> bool:
        """Nobody stands out, or nothing could be read."""
        return self in (HolderKind.NORMAL, HolderKind.UNKNOWN)


@dataclass(frozen=True)
class Finding:
    """Why objects are still there: the sentence, how sure it is, and a command that shows it.

    ``holder`` is the process that the sentence names, if it names one, and ``held`` how many handles it has to them.
    """

    kind: HolderKind
    sentence: str
    grade: str
    next_step: str
    holder: Optional[Process] = None
    held: int = 0


@dataclass(frozen=True)
class ReferencingDriver:
    """A driver whose data or blocks point at sampled objects that no handle leads to."""

    module: str
    objects: int
    of: int
    place: str


@dataclass(frozen=True)
class ObjectSample:
    """Objects of a tag that were looked at, block by block.

    Attributes:
        blocks: blocks of the tag that were found; objects: those in which an object's header was found.
        without_handles: of these, objects that no handle leads to.
        creators: what the objects' own fields tell of who made them, most first: ``NtLmSsp``, ``pid 2428``, a driver.
        unheld_creators: the same of those without a handle.
        accounts: the people among them, as they are named there.
    """

    blocks: int = 0
    objects: int = 0
    without_handles: int = 0
    creators: Tuple[Tuple[str, int], ...] = ()
    unheld_creators: Tuple[Tuple[str, int], ...] = ()
    accounts: Tuple[str, ...] = ()


@dataclass(frozen=True)
class HolderReport:
    """Who holds the objects of one tag. ``kind`` is the verdict, ``sentence`` its words, ``grade`` how sure it is.

    ``holder`` is the process that the verdict names, if it names one, and ``held`` how many handles it has to them.
    ``traced`` and ``opened``: what Windows recorded of references and handles, where somebody had switched that on.
    """

    snapshot: PoolSnapshot
    tag: PoolTag
    outstanding: Optional[int]
    bytes: Optional[int]
    kind: HolderKind
    sentence: str
    grade: str
    next_step: str
    holder: Optional[Process] = None
    held: int = 0
    types: Tuple[ObjectType, ...] = ()
    holders: Tuple[HandleCensus, ...] = ()
    zombies: int = 0
    zombie_images: Tuple[Tuple[str, int], ...] = ()
    sample: Optional[ObjectSample] = None
    referencing: Tuple[ReferencingDriver, ...] = ()
    lookasides: Tuple[LookasideList, ...] = ()
    verified: Tuple[VerifiedDriver, ...] = ()
    traced: Tuple[ReferenceTrace, ...] = ()
    opened: Tuple[OpenedAt, ...] = ()
    processes_read: int = 0
    warnings: Tuple[str, ...] = ()
    numbers: Optional[NumberCensus] = None
    unlisted: Tuple[Process, ...] = ()


@dataclass(frozen=True)
class ProcessReport:
    """The processes of a machine that live, in the order asked for, with the sentence on them.

    ``held_zombies``: PIDs of those that hold exited processes, with how many, where that was asked for. ``numbers``:
    who is in the kernel's table of numbers, None where nothing tells where it is; ``unlisted``: the processes that only
    that table has. ``stuck``: those that cannot exit.
    """

    snapshot: PoolSnapshot
    processes: Tuple[Process, ...]
    found: int
    zombies: int
    zombie_images: Tuple[Tuple[str, int], ...]
    held_zombies: Tuple[Tuple[int, int], ...]
    handles: int
    sentence: str
    lost: Optional[int]
    layout: str
    warnings: Tuple[str, ...] = ()
    numbers: Optional[NumberCensus] = None
    unlisted: Tuple[Process, ...] = ()
    stuck: Tuple[StuckProcess, ...] = ()
