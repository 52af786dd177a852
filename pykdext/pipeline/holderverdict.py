"""Why the objects of a tag are still there: the rules, one by one, on what was counted and read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Callable, Optional, Sequence, Tuple

from pykdext.model import PoolSnapshot, TagUsage
from pykdext.model.objects import (
    Finding,
    HandleCensus,
    HolderReport,
    LookasideList,
    NumberCensus,
    ObjectSample,
    ObjectType,
    Process,
    ProcessList,
    ReferencingDriver,
)
from pykdext.model.traces import OpenedAt, ReferenceTrace, VerifiedDriver
from pykdext.report.sentences import holders as say

LEAKING_HANDLES = 3_000
"""Healthy processes have fewer handles to objects of one type, lsass and services among them."""

LEAKING_SHARE = 0.5
SHARED_HANDLES = 4 * LEAKING_HANDLES
"""Processes that share a leak have at least so many together, each of them ``LEAKING_HANDLES``."""

NOTABLE_SHARE = 0.1
"""Of several processes that hold something those are named that hold so much of it."""

MANY_ZOMBIES = 100
UNHELD_EXCESS, UNHELD_FILES = 20_000, 60_000
"""Objects without a handle are normal for system threads, and for files and sections by the ten thousand."""

UNHELD_SEEN = 10_000
"""So many are too many where data or blocks of a driver point at most of those that were looked at."""

_USUALLY_UNHELD = frozenset(("File", "Section"))

NOT_THE_OBJECTS = 2.0
"""Blocks of a tag for each object of its types: with more, the tag is used for something else."""

FEW_BLOCKS = 1_000
LIST_SHARE = 0.5
VERIFIED_SHARE = 0.5
FEW_CONTENTS = 16
CONTENTS_SHARE = 0.5
MOST_UNHELD = 0.9
_TABLE_TAG = b"Obtb"


@dataclass(frozen=True)
class HolderFacts:
    """What is known of one tag. ``zombies``: the exited processes, for the tag of processes only.

    ``types_read`` of the kernel's object types were read, which were all if ``types_complete``.
    """

    snapshot: PoolSnapshot
    row: TagUsage
    types: Tuple[ObjectType, ...]
    processes: ProcessList
    zombies: Tuple[Process, ...]
    censuses: Tuple[HandleCensus, ...]
    sample: Optional[ObjectSample]
    referencing: Tuple[ReferencingDriver, ...]
    lookasides: Tuple[LookasideList, ...]
    verified: Tuple[VerifiedDriver, ...]
    traced: Tuple[ReferenceTrace, ...] = ()
    opened: Tuple[OpenedAt, ...] = ()
    numbers: Optional[NumberCensus] = None
    types_read: int = 0
    types_complete: bool = False

    @property
    def outstanding(self) -> Optional[int]:
        """Blocks of the tag in both pools; None: not counted."""
        counts = [pool.outstanding for pool in (self.row.nonpaged, self.row.paged) if pool.outstanding is not None]
        return sum(counts) if counts else None

    @property
    def bytes(self) -> Optional[int]:
        """Bytes of the tag in both pools."""
        sizes = [pool.bytes for pool in (self.row.nonpaged, self.row.paged) if pool.bytes is not None]
        return sum(sizes) if sizes else None

    def openers_of(self, census: HandleCensus) -> Tuple[OpenedAt, ...]:
        """Where the handles of a process were opened: known of the one with most handles to these objects."""
        return self.opened if self.censuses and census is self.censuses[0] else ()

    @property
    def names(self) -> Tuple[str, ...]:
        """The types' names."""
        return tuple(kind.label for kind in self.types)

    @property
    def objects(self) -> int:
        """Objects of all these types."""
        return sum(kind.objects for kind in self.types)

    @property
    def handles(self) -> int:
        """Handles to them."""
        return sum(kind.handles for kind in self.types)


def judge_holders(facts: HolderFacts, warnings: Tuple[str, ...]) -> HolderReport:
    """The report on one tag: the first rule that applies gives the verdict."""
    finding = next(found for found in (rule(facts) for rule in _RULES) if found is not None)
    images = Counter(zombie.image for zombie in facts.zombies)
    return HolderReport(
        snapshot=facts.snapshot,
        tag=facts.row.tag,
        outstanding=facts.outstanding,
        bytes=facts.bytes,
        kind=finding.kind,
        sentence=finding.sentence,
        grade=finding.grade,
        next_step=finding.next_step,
        holder=finding.holder,
        held=finding.held,
        types=facts.types,
        holders=facts.censuses,
        zombies=len(facts.zombies),
        zombie_images=tuple(images.most_common()),
        sample=facts.sample,
        referencing=facts.referencing,
        lookasides=facts.lookasides,
        verified=facts.verified,
        traced=facts.traced,
        opened=facts.opened,
        processes_read=len(facts.processes.processes),
        warnings=warnings,
        numbers=facts.numbers,
        unlisted=facts.processes.unlisted,
    )


def _judge_verified(facts: HolderFacts) -> Optional[Finding]:
    """Driver Verifier's own records stand above all else, where its driver has so many allocations at all."""
    outstanding = facts.outstanding
    for driver in facts.verified:
        tracked = sum(caller.blocks for caller in driver.callers)
        counted = max(driver.nonpaged_allocations + driver.paged_allocations, tracked)
        if not outstanding or counted >= VERIFIED_SHARE * outstanding:
            return say.name_verified(facts.row.tag, driver)
    return None


def _judge_lookasides(facts: HolderFacts) -> Optional[Finding]:
    """A list of a known driver took about as many blocks as are outstanding."""
    owned = [item for item in facts.lookasides if item.is_proven]
    outstanding = facts.outstanding
    if not owned or not outstanding:
        return None
    first = max(owned, key=lambda item: item.taken)
    if first.taken < LIST_SHARE * outstanding or first.taken < 1:
        return None
    return say.name_list_owner(facts.row.tag, first, outstanding)


def _judge_tables(facts: HolderFacts) -> Optional[Finding]:
    """The handle tables themselves: the process with the largest one."""
    if facts.row.tag.raw != _TABLE_TAG or not facts.censuses:
        return None
    first = max(facts.censuses, key=lambda census: census.process.handle_slots or 0)
    return say.name_table_owner(facts.row.tag, first)


def _judge_foreign_use(facts: HolderFacts) -> Optional[Finding]:
    """The tag of no type, or of far more blocks than its types have objects."""
    outstanding = facts.outstanding
    if not facts.types:
        return None
    if outstanding is not None and outstanding > NOT_THE_OBJECTS * facts.objects + FEW_BLOCKS:
        return say.tell_other_use(facts.row.tag, facts.names, facts.objects, outstanding)
    return None


def _judge_contents(facts: HolderFacts) -> Optional[Finding]:
    """Requests or descriptor lists, most of which one driver or process has."""
    sample = facts.sample
    if facts.types or sample is None or sample.objects < FEW_CONTENTS or not sample.creators:
        return None
    if sample.creators[0][1] < CONTENTS_SHARE * sample.objects:
        return None
    return say.name_contents(facts.row.tag, sample)


def _judge_zombies(facts: HolderFacts) -> Optional[Finding]:
    """Exited processes: by whom they are held, else that nobody has a handle."""
    zombies = len(facts.zombies)
    if zombies < MANY_ZOMBIES or 2 * zombies < facts.objects:
        return None
    image = Counter(zombie.image for zombie in facts.zombies).most_common(1)[0]
    ranked = sorted(facts.censuses, key=lambda census: -census.zombies)
    holders = [census for census in ranked if census.zombies >= NOTABLE_SHARE * zombies]
    found = sum(census.zombies for census in ranked)
    if holders and 2 * sum(census.zombies for census in holders) >= zombies:
        if len(holders) > 1:
            return say.name_zombie_holders(facts.row.tag, facts.bytes, zombies, image, holders)
        opened = facts.openers_of(holders[0])
        return say.name_zombie_holder(facts.row.tag, facts.bytes, zombies, image, holders[0], opened)
    without = sum(zombie.object_handles == 0 for zombie in facts.zombies)
    if without > MOST_UNHELD * zombies:
        return say.tell_referenced_zombies(facts.row.tag, zombies, image, facts.referencing)
    first = ranked[0] if ranked else None
    if first is not None and first.zombies >= max(FEW_CONTENTS, MOST_UNHELD * found, zombies / 2 - _unread(first)):
        return say.tell_unread_holder(facts.row.tag, zombies, image, first)
    is_whole = not facts.processes.warnings and all(census.is_whole for census in facts.censuses)
    return say.tell_zombies(facts.row.tag, zombies, image, first, is_whole=is_whole)


def _unread(census: HandleCensus) -> int:
    """Handles that a table counts, but that are not in the dump."""
    return max(0, (census.counted or 0) - census.read)


def _judge_handles(facts: HolderFacts) -> Optional[Finding]:
    """One process has most of the handles to these objects, and more than any healthy one; or several have."""
    if not facts.censuses or not facts.types:
        return None
    names = facts.names
    wanted = LEAKING_SHARE * min(facts.handles, max(facts.objects, 1))
    ranked = sorted(facts.censuses, key=lambda census: -census.handles_of(names))
    many = [census for census in ranked if census.handles_of(names) >= LEAKING_HANDLES]
    notable = [census for census in many if census.handles_of(names) >= NOTABLE_SHARE * facts.handles]
    if many and many[0].handles_of(names) >= wanted:
        first, held = many[0], many[0].handles_of(names)
        opened = facts.openers_of(first)
        made = facts.sample if first is facts.censuses[0] else None
        others = [census for census in notable if census is not first]
        return say.name_handle_holder(facts.row.tag, names, held, facts.handles, first, opened, made, others)
    programs = Counter(census.process.image for census in many).most_common(1)
    same = [census for census in many if census.process.image == programs[0][0]] if programs else []
    for together, image in ((same, programs[0][0] if programs else None), (notable, None)):
        held = sum(census.handles_of(names) for census in together)
        if len(together) > 1 and held >= max(wanted, SHARED_HANDLES):
            return say.name_handle_holders(facts.row.tag, names, facts.handles, together, image)
    return None


def _judge_references(facts: HolderFacts) -> Optional[Finding]:
    """Far more objects than handles: the others have none, whatever the objects are that could be looked at."""
    unheld = facts.objects - facts.handles
    seen = facts.sample if facts.sample is not None and facts.sample.without_handles else None
    enough = UNHELD_FILES if _USUALLY_UNHELD.intersection(facts.names) else UNHELD_EXCESS
    pointing = facts.referencing[0] if facts.referencing else None
    if pointing is not None and pointing.of >= FEW_CONTENTS and pointing.objects >= LEAKING_SHARE * pointing.of:
        enough = min(enough, UNHELD_SEEN)
    if unheld < max(enough, facts.handles):
        return None
    return say.tell_references(facts.row.tag, facts.names, unheld, seen, facts.referencing, facts.traced)


def _judge_nothing(facts: HolderFacts) -> Finding:
    if not facts.types:
        read, complete = facts.types_read, facts.types_complete
        return say.tell_no_objects(facts.row.tag, facts.lookasides, types_read=read, types_complete=complete)
    return say.tell_usual(facts.row.tag, facts.names, facts.objects, facts.handles, facts.censuses)


_RULES: Sequence[Callable[[HolderFacts], Optional[Finding]]] = (
    _judge_verified,
    _judge_lookasides,
    _judge_tables,
    _judge_contents,
    _judge_foreign_use,
    _judge_zombies,
    _judge_handles,
    _judge_references,
    _judge_nothing,
)
