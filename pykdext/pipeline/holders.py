"""Who holds the objects of a tag, and what the processes of a machine hold: ``poolleak holders`` and ``processes``."""

from __future__ import annotations

from collections import Counter
from typing import Callable, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from pykdext.errors import TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.model import UNSAID, UNUSED, PoolTag, TagUsage
from pykdext.model.objects import (
    HandleCensus,
    HolderReport,
    ObjectSample,
    ObjectType,
    Process,
    ProcessReport,
    ReferencingDriver,
)
from pykdext.model.traces import OpenedAt, ReferenceTrace, VerifiedDriver
from pykdext.pipeline.holderverdict import LEAKING_HANDLES, HolderFacts, judge_holders
from pykdext.pipeline.objectsample import find_references, sample_contents, sample_held, sample_objects
from pykdext.pipeline.sources import Source
from pykdext.report.sentences.processes import describe_processes, describe_stuck
from pykdext.units import count_things
from pykdext.work import UNWATCHED, Work

MAX_CENSUSES = 4096
"""Processes whose handles are looked through at most, those with most of them first."""

CENSUS_HANDLES = 500_000
"""So many handles are looked through of all processes together; beyond, only those of processes with much of them."""

_CENSUS_SHARE = 0.01
_EQUAL_BYTES = 0.02
_STUCK_TOLD, _TABLES_TOLD = 4, 4
PROCESS_ORDERS = ("handles", "pool", "commit", "zombies")
_TABLE_TAG, _PROCESS_TAG = PoolTag.from_text("Obtb"), PoolTag.from_text("Proc")


def find_holders(source: Source, tag: PoolTag, work: Work = UNWATCHED) -> HolderReport:
    """Who holds the objects of ``tag``: processes, references of the kernel, lookaside lists.

    Raises:
        TargetError: the source is a log or snapshot, which holds no memory.
    """
    kernel = _kernel_of(source, "holders")
    usage = UNSAID if source.lacks else UNUSED
    row = next((row for row in source.snapshot.tags if row.tag == tag), TagUsage(tag, usage, usage))
    return weigh_holders(ObjectSpace(kernel, work, counts_twice=True), source, row, work)


def weigh_holders(space: ObjectSpace, source: Source, row: TagUsage, work: Work = UNWATCHED) -> HolderReport:
    """The same for one row of the tag table, with what was read of the kernel's objects before."""
    types = space.types.of_tag(row.tag)
    names = tuple(kind.label for kind in types)
    lookasides = space.find_lookasides((row.tag,))
    verified = find_verified(space, row)
    censuses: Tuple[HandleCensus, ...] = ()
    sample: Optional[ObjectSample] = None
    referencing: Tuple[ReferencingDriver, ...] = ()
    traced: Tuple[ReferenceTrace, ...] = ()
    opened: Tuple[OpenedAt, ...] = ()
    of_processes = "Process" in names or (row.tag == _PROCESS_TAG and not space.types.complete)
    if types or of_processes or row.tag == _TABLE_TAG:
        censuses = _take_censuses(space, names)
        opened = space.find_openers(censuses[0].process) if censuses else ()
    unheld = _unheld(types)
    if types and unheld > sum(kind.handles for kind in types):
        found = sample_objects(space, row.tag, work)
        sample = found.sample
        if found.without_handles:
            referencing = find_references(space, source, row, found.without_handles, work)
            traced = _find_keepers(space, found.without_handles)
    if sample is None and types and censuses and censuses[0].handles_of(names) >= LEAKING_HANDLES:
        sample = sample_held(space, censuses[0], types)
    if row.tag in space.requests.tags:
        sample = sample_contents(space, row.tag, work)
    facts = HolderFacts(
        snapshot=source.snapshot,
        row=row,
        types=types,
        types_read=len(space.types.types),
        types_complete=space.types.complete,
        processes=space.processes,
        zombies=tuple(space.zombies.values()) if of_processes else (),
        censuses=censuses,
        sample=sample,
        referencing=referencing,
        lookasides=lookasides,
        verified=verified,
        traced=traced,
        opened=opened,
        numbers=space.numbers if of_processes or "Thread" in names else None,
    )
    warnings = [*_tell_lack(source), *space.types.warnings, *space.processes.warnings]
    warnings += _gather_warnings(censuses)
    warnings += [*space.lookasides.warnings, *space.verifier.warnings]
    warnings += [] if space.pool_traces is None else space.pool_traces.warnings
    warnings += [] if space.reference_traces is None else space.reference_traces.warnings
    return judge_holders(facts, tuple(dict.fromkeys(warnings)))


def _find_keepers(space: ObjectSpace, bodies: Collection[int]) -> Tuple[ReferenceTrace, ...]:
    """The drivers that keep references to objects without a handle, where Windows recorded them."""
    traces = space.reference_traces
    return () if traces is None else traces.find_keepers([body - space.headers.body_offset for body in bodies])


def list_processes(source: Source, order: str, top: Optional[int], work: Work = UNWATCHED) -> ProcessReport:
    """The processes of a machine, by one of ``PROCESS_ORDERS``; for ``zombies`` those that hold most of them first.

    Raises:
        TargetError: the source is a log or snapshot, which holds no memory.
    """
    space = ObjectSpace(_kernel_of(source, "processes"), work, counts_twice=True)
    found = space.processes
    zombies = list(space.zombies.values())
    images = Counter(zombie.image for zombie in zombies)
    alive = [process for process in found.processes if not process.is_zombie]
    held: Dict[int, int] = {}
    if order == "zombies" and zombies:
        held = {census.process.address: census.zombies for census in _take_censuses(space, ("Process",))}
    keys: Mapping[str, Callable[[Process], int]] = {
        "handles": lambda process: process.handles or 0,
        "pool": lambda process: (process.nonpaged_charge_bytes or 0) + (process.paged_charge_bytes or 0),
        "commit": lambda process: process.commit_pages or 0,
        "zombies": lambda process: held.get(process.address, 0),
    }
    shown = sorted(alive, key=lambda process: (-keys[order](process), process.pid))[:top]
    handles = sum(process.handles or 0 for process in alive)
    return ProcessReport(
        snapshot=source.snapshot,
        processes=tuple(shown),
        found=len(found.processes),
        zombies=len(zombies),
        zombie_images=tuple(images.most_common()),
        held_zombies=tuple((process.pid, held[process.address]) for process in shown if held.get(process.address)),
        handles=handles,
        sentence=" ".join(
            [describe_processes(found, alive, zombies, handles), *map(describe_stuck, space.stuck_exits[:_STUCK_TOLD])]
        ),
        numbers=space.numbers,
        unlisted=found.unlisted,
        stuck=space.stuck_exits,
        lost=found.lost,
        layout=found.layout,
        warnings=(*_tell_lack(source), *found.warnings, *_tell_uncounted(alive)),
    )


def _gather_warnings(censuses: Sequence[HandleCensus]) -> List[str]:
    """What could not be read of handle tables: of a few processes one by one, of the others how many they are."""
    lacking = [census for census in censuses if census.warnings]
    told = [warning for census in lacking[:_TABLES_TOLD] for warning in census.warnings]
    more = len(lacking) - _TABLES_TOLD
    if more > 0:
        told.append(f"handle tables of {count_things(more, 'more process', 'more processes')} could not be read whole")
    return told


def _tell_lack(source: Source) -> Tuple[str, ...]:
    """A warning where the tags of a dump cannot be read, but its objects may be."""
    return (f"tag tables: {source.lacks}",) if source.lacks else ()


def _tell_uncounted(processes: Sequence[Process]) -> Tuple[str, ...]:
    """A warning where handle tables that are there cannot be counted."""
    lost = sum(process.handles is None and process.handle_table is not None for process in processes)
    return (f"processes: the handles of {lost:,} of {len(processes):,} cannot be counted",) if lost else ()


def _kernel_of(source: Source, command: str) -> Kernel:
    if source.kernel is None:
        kind = source.snapshot.source.kind
        raise TargetError(
            f"{command}: found a source without memory ({kind}), expected a dump. Hint: only it holds objects"
        )
    return source.kernel


def _unheld(types: Sequence[ObjectType]) -> int:
    """Objects that cannot have a handle of their own."""
    return sum(max(0, kind.objects - kind.handles) for kind in types)


def _take_censuses(space: ObjectSpace, names: Tuple[str, ...]) -> Tuple[HandleCensus, ...]:
    """What the handles of the processes with most of them lead to; those with most to objects of ``names`` first."""
    holders = [process for process in space.processes.processes if process.handle_table is not None]
    total = sum(process.handles or 0 for process in holders)
    ranked = sorted(holders, key=lambda process: -(process.handles or process.handle_slots or 0))[:MAX_CENSUSES]
    censuses: List[HandleCensus] = []
    seen = 0
    for process in ranked:
        if seen > CENSUS_HANDLES and (process.handles or 0) < _CENSUS_SHARE * total:
            break
        censuses.append(space.take_census(process))
        seen += censuses[-1].read
    return tuple(sorted(censuses, key=lambda census: -census.handles_of(names)))


def find_verified(space: ObjectSpace, row: TagUsage) -> Tuple[VerifiedDriver, ...]:
    """The drivers that Driver Verifier saw allocate with a tag; without its records those of about as many bytes.

    Where it keeps no records of blocks, its log of the last calls has some of them.
    """
    drivers: List[VerifiedDriver] = []
    size = (row.nonpaged.bytes or 0) + (row.paged.bytes or 0)
    logged = () if space.pool_traces is None else space.pool_traces.find_callers((row.tag,))
    for driver in space.verifier.drivers:
        callers = tuple(caller for caller in driver.callers if caller.tag == row.tag)
        total = driver.nonpaged_bytes + driver.paged_bytes
        if not callers:
            callers = tuple(caller for caller in logged if caller.module == driver.name)
        if callers or (not driver.callers and size and abs(total - size) <= _EQUAL_BYTES * size):
            drivers.append(driver.with_callers(callers))
    return tuple(sorted(drivers, key=lambda driver: -sum(caller.blocks for caller in driver.callers)))
