"""Who lives on a machine: the object types of a healthy one with their counts, its processes, and what leaks there.

The counts of File, Section, Event, Thread, ALPC Port, Job and Driver are those of a real Windows 11; the others are
invented numbers of a usual size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Tuple

from dumps.forge.architectures import Architecture
from dumps.forge.trackertables import TagTruth

_NARROW_SHARE = 32  # a 32-bit system has one of so many objects

# type | P(aged) or N | objects | handles | most objects | most handles | bytes of a block | frees for each object now
_TYPES = """
Type|N|69|0|69|0|400|0.0
Directory|P|204|310|211|390|384|7.0
SymbolicLink|P|402|11|455|61|160|2.0
Token|P|2204|911|2610|1404|1984|1811.0
Job|N|215|309|231|335|1408|12.0
Process|N|189|1104|204|1377|2944|274.0
Thread|N|1945|2415|3006|3841|2560|311.0
UserApcReserve|N|0|0|0|0|208|0.0
IoCompletionReserve|N|102|102|140|140|176|1.0
DebugObject|N|0|0|0|0|160|0.0
Event|N|14261|15099|17793|18962|128|1420.0
Mutant|N|1188|1203|1410|1502|112|377.0
Callback|N|44|0|44|2|144|0.0
Semaphore|N|1902|1911|2204|2260|128|402.0
Timer|N|1009|1009|1250|1250|240|88.0
Profile|N|0|0|0|0|160|0.0
KeyedEvent|P|31|62|33|70|80|0.1
WindowStation|N|6|104|8|131|320|0.2
Desktop|N|9|121|12|160|512|2.0
TpWorkerFactory|N|391|391|450|450|448|3.0
Adapter|N|0|0|0|0|160|0.0
Controller|N|0|0|0|0|160|0.0
Device|N|904|0|911|4|592|0.1
Driver|N|213|0|213|1|512|0.1
IoCompletion|N|903|904|1020|1020|144|4.0
File|N|11107|3843|16424|4555|400|4211.0
TmTm|N|9|9|12|12|960|0.3
Section|P|4478|1898|5045|2124|160|71.0
Session|N|2|3|3|6|96|0.2
Key|P|5204|4911|6220|6011|208|722.0
ALPC Port|N|3063|3040|3968|3952|592|290.0
PowerRequest|N|41|37|60|60|192|2.0
EtwRegistration|N|14617|13804|15001|14120|224|2.6
EtwConsumer|N|14|14|16|16|160|0.5
FilterConnectionPort|N|9|9|11|11|192|0.1
FilterCommunicationPort|N|11|11|14|14|192|0.1
WaitCompletionPacket|N|4403|4403|5100|5100|144|11.0
"""

# image | share of all handles | threads | session, None for processes that belong to none
_PROCESSES = """
smss.exe|1|2|-
csrss.exe|9|12|0
wininit.exe|3|1|0
csrss.exe|8|13|1
winlogon.exe|5|3|1
services.exe|14|7|0
lsass.exe|26|10|0
svchost.exe|18|12|0
svchost.exe|31|19|0
svchost.exe|44|41|0
svchost.exe|62|58|0
svchost.exe|22|16|0
svchost.exe|17|9|0
svchost.exe|25|22|0
svchost.exe|11|8|0
spoolsv.exe|12|9|0
MsMpEng.exe|38|29|0
SearchIndexer.exe|20|15|0
fontdrvhost.exe|2|5|1
dwm.exe|19|14|1
sihost.exe|15|11|1
taskhostw.exe|10|8|1
explorer.exe|71|64|1
ctfmon.exe|9|9|1
RuntimeBroker.exe|13|5|1
SecurityHealthService.exe|11|7|0
sqlservr.exe|55|61|0
dllhost.exe|6|7|0
conhost.exe|3|4|1
cmd.exe|2|1|1
"""

HANDLE_COUNT_KEPT, TYPE_LIST_KEPT = 0x10, 0x20
TYPE_FLAGS: Dict[str, int] = {"File": 0x11, "ALPC Port": HANDLE_COUNT_KEPT, "Type": 0x24, "Thread": 0xCA, "Job": 8}


@dataclass(frozen=True)
class TypePlan:
    """One object type with its counts; ``key`` is the pool tag of its objects."""

    name: str
    paged: bool
    objects: int
    handles: int
    most_objects: int
    most_handles: int
    block_bytes: int
    churn: float

    @property
    def key(self) -> bytes:
        """The first four letters of the name, and of the type of types ``ObjT``."""
        return b"ObjT" if self.name == "Type" else self.name[:4].ljust(4).encode("ascii")

    def shrink(self, share: int) -> TypePlan:
        """Return the counts of a machine with one of ``share`` objects."""
        counts = (self.objects, self.handles, self.most_objects, self.most_handles)
        objects, handles, most_objects, most_handles = (-(-count // share) for count in counts)
        return replace(self, objects=objects, handles=handles, most_objects=most_objects, most_handles=most_handles)


@dataclass(frozen=True)
class ProcessPlan:
    """One process of the background: its share of all handles, its threads and its session."""

    image: str
    share: int
    threads: int
    session: Optional[int]


@dataclass(frozen=True)
class HeldObjects:
    """Objects of one type that a process has handles to: the leak of ``handles``, ``zombies`` and ``keys``.

    Of exited processes one in ``odd_share`` has another image. ``session`` is that of the holder.
    """

    image: str
    pid: int
    type_name: str
    count: int
    zombie_image: Optional[str] = None
    odd_image: Optional[str] = None
    odd_share: int = 1003
    key_path: Tuple[str, ...] = ()
    session: int = 0
    threads: int = 9


@dataclass(frozen=True)
class ReferencedObjects:
    """Objects that nobody has a handle to: blocks of ``holder_tag``, the driver's, point at them."""

    driver: str
    holder_tag: bytes
    holder_bytes: int
    type_name: str
    count: int
    written: int
    source: bytes = b"NtLmSsp"


@dataclass(frozen=True)
class LookasidePlan:
    """A lookaside list of a driver; ``place`` is 'data' (of its image), 'pool' or 'routines' (both in the driver)."""

    driver: str
    tag: bytes
    block_bytes: int
    paged: bool
    place: str
    allocates: int
    allocate_misses: int
    frees: int
    free_misses: int


@dataclass(frozen=True)
class VerifiedDriver:
    """A driver that Driver Verifier watches; ``tracked`` of its nonpaged allocations are in its pages."""

    driver: str
    tag: bytes
    allocations: int
    block_bytes: int
    tracked: int


@dataclass(frozen=True)
class PendingRequests:
    """Requests (tag Irp) that a driver never completes, and lists (tag Mdl) of pages of the process ``pid``.

    ``written`` of ``count`` are really there.
    """

    driver: str
    pid: int
    count: int
    written: int
    request_bytes: int = 0x200
    list_bytes: int = 0x70


@dataclass(frozen=True)
class Population:
    """What lives on the machine of a scenario besides the healthy background."""

    held: Tuple[HeldObjects, ...] = ()
    referenced: Optional[ReferencedObjects] = None
    lookasides: Tuple[LookasidePlan, ...] = ()
    verified: Tuple[VerifiedDriver, ...] = ()
    pending: Optional[PendingRequests] = None


HEALTHY_LOOKASIDES: Tuple[LookasidePlan, ...] = (
    LookasidePlan("FLTMGR.SYS", b"FMfc", 0xA8, False, "data", 57_051, 4_546, 54_772, 2_286),
    LookasidePlan("FLTMGR.SYS", b"FMdh", 0x60, True, "data", 7_596, 6, 7_596, 2),
    LookasidePlan("afd.sys", b"AfdL", 0x120, False, "data", 91_204, 311, 91_102, 290),
    LookasidePlan("NDIS.SYS", b"KETR", 0x230, False, "routines", 4_096, 4_096, 0, 0),
    LookasidePlan("srv2.sys", b"BTHP", 0x150, False, "pool", 2_514, 4, 2_513, 0),
)


def plan_types(architecture: Architecture, population: Population, share: int) -> List[TypePlan]:
    """Return the types in the order of their indexes, what leaks among their objects.

    The background has one of ``share`` objects of a healthy machine; those of 32-bit systems are smaller anyway.
    """
    share = max(share, _NARROW_SHARE) if architecture.narrow else share
    plans = []
    for line in _TYPES.strip().splitlines():
        name, pool, *numbers = line.split("|")
        counts = [int(number) for number in numbers[:5]]
        plan = TypePlan(name, pool == "P", counts[0], counts[1], counts[2], counts[3], counts[4], float(numbers[5]))
        plan = plan.shrink(share)
        objects, handles = _leaked(population, name)
        if objects:
            total, held = plan.objects + objects, plan.handles + handles
            plan = TypePlan(
                name, plan.paged, total, held, total, max(held, plan.most_handles), plan.block_bytes, plan.churn
            )
        plans.append(plan)
    return plans


def _leaked(population: Population, type_name: str) -> Tuple[int, int]:
    held = sum(item.count for item in population.held if item.type_name == type_name)
    referenced = population.referenced
    loose = referenced.count if referenced is not None and referenced.type_name == type_name else 0
    return held + loose, held


def plan_processes() -> List[ProcessPlan]:
    """Return the processes of a healthy machine, System left out."""
    plans = []
    for line in _PROCESSES.strip().splitlines():
        image, share, threads, session = line.split("|")
        plans.append(ProcessPlan(image, int(share), int(threads), None if session == "-" else int(session)))
    return plans


def count_tags(types: List[TypePlan], population: Population, architecture: Architecture) -> Dict[bytes, TagTruth]:
    """Return the counters of the tags of all objects; what leaks was hardly ever freed."""
    found: Dict[bytes, TagTruth] = {}
    for plan in types:
        leaked, _ = _leaked(population, plan.name)
        frees = int((plan.objects - leaked) * plan.churn)
        size = plan.objects * (plan.block_bytes // (2 if architecture.narrow else 1))
        counts = (plan.objects + frees, frees, size)
        added = TagTruth(0, 0, 0, *counts) if plan.paged else TagTruth(*counts)
        before = found.get(plan.key, TagTruth())
        found[plan.key] = TagTruth(*(a + b for a, b in zip(before, added)))
    referenced = population.referenced
    if referenced is not None:
        found[referenced.holder_tag] = TagTruth(referenced.count, 0, referenced.count * referenced.holder_bytes)
    pending = population.pending
    if pending is not None:
        found[b"Irp "] = TagTruth(pending.count, 0, pending.count * pending.request_bytes)
        found[b"Mdl "] = TagTruth(pending.count, 0, pending.count * pending.list_bytes)
    for plan_of_list in population.lookasides:
        allocs, frees = plan_of_list.allocate_misses, plan_of_list.free_misses
        counts = (allocs, frees, (allocs - frees) * plan_of_list.block_bytes)
        found[plan_of_list.tag] = TagTruth(0, 0, 0, *counts) if plan_of_list.paged else TagTruth(*counts)
    for driver in population.verified:
        size = driver.allocations * driver.block_bytes
        found[driver.tag] = TagTruth(driver.allocations, 0, size)
    return {tag: counters for tag, counters in found.items() if any(counters)}
