"""The verdict on one state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Dict, Mapping, Optional, Sequence, Tuple

from pykdext import growth
from pykdext.attribution.taglists import TagLists
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.model import (
    ImageCoverage,
    LeakReport,
    NextStep,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolTotal,
    Role,
    TagOwners,
)
from pykdext.pipeline.advice import next_steps
from pykdext.pipeline.evidence import NO_CONTENTS, join_contents
from pykdext.pipeline.imagesearch import search_kernel
from pykdext.pipeline.memory import weigh_untagged
from pykdext.pipeline.objectevidence import find_object_evidence
from pykdext.pipeline.pointers import MAX_TAGS, search_contents
from pykdext.pipeline.sources import Source
from pykdext.pipeline.weighing import FoundOwners, weigh_owners
from pykdext.report.sentences.processes import describe_unusual
from pykdext.report.sentences.states import verdict_on
from pykdext.work import UNWATCHED, Work

if TYPE_CHECKING:
    from pykdext.model.objects import HolderReport


def analyze(
    source: Source,
    lists: TagLists,
    work: Work = UNWATCHED,
    top: Optional[int] = None,
) -> LeakReport:
    """The verdict on one state: the ``top`` suspects, who owns them, and what to do next.

    Blocks are looked into for suspects only, and not those of objects, which point at whoever uses them.
    """
    snapshot, kernel = source.snapshot, source.kernel
    tags = growth.find_notable(snapshot)
    searches = [search_kernel(kernel, tags, work)] if kernel else []
    found = weigh_owners(searches, NO_CONTENTS, tags, lists, snapshot)
    suspects = growth.rank_suspects(snapshot, _by_tag(found))[:top]
    space = None
    if kernel and not work.is_ended:
        space = ObjectSpace(kernel, work)
        sampled = dict.fromkeys(suspect.tag for suspect in suspects if suspect.role is not Role.OBJECT)
        contents = search_contents(kernel, tuple(sampled), work)
        if not work.is_ended:
            contents = join_contents(contents, find_object_evidence(space, tags))
        found = weigh_owners(searches, contents, tags, lists, snapshot)
    report = judge_state(snapshot, _by_tag(found), found.coverage if kernel else None, top, found.warnings)
    if kernel is None or space is None:
        return weigh_untagged(report, None, work)
    if work.is_ended:
        return report
    return weigh_untagged(_add_holders(report, space, source, work), kernel, work)


def _add_holders(report: LeakReport, space: ObjectSpace, source: Source, work: Work) -> LeakReport:
    """The report with who holds the objects of its suspects, where the source tells of objects."""
    unusual = describe_unusual(space.processes.processes)
    tags = [suspect.tag for suspect in report.suspects if suspect.role is Role.OBJECT or not suspect.owners]
    rows = {row.tag: row for row in source.snapshot.tags}
    told = space.requests.tags
    wanted = [tag for tag in dict.fromkeys(tags) if tag in rows and (tag in told or space.types.of_tag(tag))]
    holders: Tuple[HolderReport, ...] = ()
    if wanted:
        from pykdext.pipeline.holders import weigh_holders

        holders = tuple(weigh_holders(space, source, rows[tag], work) for tag in wanted[:MAX_TAGS])
    steps = [
        NextStep(holder.next_step, f"what holds {holder.tag}") for holder in holders if not holder.kind.tells_nothing
    ]
    report = replace(
        report,
        holders=holders,
        unusual=unusual,
        next_steps=(*steps, *report.next_steps),
        warnings=tuple(dict.fromkeys((*report.warnings, *(line for holder in holders for line in holder.warnings)))),
    )
    return replace(report, verdict=verdict_on(report))


def judge_state(
    snapshot: PoolSnapshot,
    owners: Mapping[PoolTag, TagOwners],
    images: Optional[ImageCoverage] = None,
    top: Optional[int] = None,
    warnings: Sequence[str] = (),
) -> LeakReport:
    """The verdict on a state by its numbers and what is known of its notable tags.

    ``images`` is how much of the driver images was searched; None if there are none. ``warnings`` are those of the
    search.
    """
    suspects = growth.rank_suspects(snapshot, owners)[:top]
    groups = growth.find_companions(snapshot, suspects, owners)
    doubts = tuple(growth.iter_doubts(snapshot))
    report = LeakReport(
        snapshot=snapshot,
        verdict="",
        pools=tuple(PoolTotal.of(snapshot, pool) for pool in PoolKind),
        suspects=suspects,
        next_steps=next_steps(snapshot, suspects),
        image_coverage=images,
        warnings=tuple(dict.fromkeys((*snapshot.warnings, *(words for _, words in doubts), *warnings))),
        doubts=doubts,
        largest=growth.find_largest(snapshot, owners),
        groups=groups,
        companions=growth.judge_companions(snapshot, groups, suspects, owners),
    )
    return replace(report, verdict=verdict_on(report))


def _by_tag(found: FoundOwners) -> Dict[PoolTag, TagOwners]:
    return {owners.tag: owners for owners in found.tags}
