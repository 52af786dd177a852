"""What growth comes to: the owners of the tags that grew, by the memory of the later side and by the tag lists."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Sequence, Tuple

from pykdext import growth
from pykdext.attribution.taglists import TagLists
from pykdext.errors import PykdextError
from pykdext.growth.ranking import find_role
from pykdext.model import (
    Change,
    Conclusion,
    Diff,
    GrownTag,
    LockstepGroup,
    NextStep,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolTotal,
    Role,
    TagDelta,
    TagOwners,
    TrendReport,
)
from pykdext.model.names import find_engine_name
from pykdext.pipeline.advice import name_program
from pykdext.pipeline.evidence import NO_CONTENTS, SearchedImages
from pykdext.pipeline.sources import has_memory, open_source
from pykdext.pipeline.weighing import FoundOwners, weigh_owners
from pykdext.printable import quote_word
from pykdext.report.sentences.diffs import verdict_on_diff
from pykdext.report.sentences.series import is_growing, verdict_on_series
from pykdext.work import UNWATCHED, Work

if TYPE_CHECKING:  # what searches memory is imported where there is memory
    from pykdext.kernel.kernel import Kernel

MAX_GROWN = 5
"""Tags whose owners are looked for, and the members of their groups."""


def conclude_diff(
    diff: Diff,
    deltas: Sequence[TagDelta],
    lists: TagLists,
    work: Work = UNWATCHED,
    symbol_path: Optional[str] = None,
) -> Conclusion:
    """What ``deltas``, those rows of ``diff`` that were asked for, come to.

    Where the later side has memory, its images and blocks are searched for the owners; where both have, the process
    whose handles grew most is named.
    """
    counts = list(growth.iter_delta_blocks(replace(diff, deltas=tuple(deltas))))
    grown = [
        GrownTag(delta.tag, delta.pool, delta.bytes, delta.outstanding, delta.bytes_per_hour)
        for delta in sorted(growth.rank_deltas(deltas), key=lambda delta: Change.UNLISTED in delta.changes)
        if delta.bytes is not None and delta.bytes > 0
    ]
    groups = _choose_groups(growth.find_lockstep(counts, lists.is_object), grown[:MAX_GROWN])
    chosen = _add_members(grown, groups)
    found, has_images, warnings = _find_owners(diff.after, [item.tag for item in chosen], lists, work, symbol_path)
    known = tuple(_know(item, found) for item in chosen)
    if diff.lacks_counts:
        groups, known = (), tuple(item for item in known if _is_told_by_a_part(diff, item))
    conclusion = Conclusion(
        verdict="",
        grown=known,
        groups=groups,
        before=_totals(diff.before),
        after=_totals(diff.after),
        next_steps=tuple(_iter_steps(diff.after, known)),
        image_coverage=found.coverage if has_images else None,
        warnings=warnings,
    )
    handles = ""
    if has_memory(diff.before) and has_memory(diff.after):
        from pykdext.pipeline.handlegrowth import say_handle_growth

        handles = say_handle_growth(diff.before, diff.after, work, symbol_path)
    return replace(conclusion, verdict=" ".join(filter(None, (verdict_on_diff(diff, deltas, conclusion), handles))))


def conclude_series(
    report: TrendReport, lists: TagLists, work: Work = UNWATCHED, symbol_path: Optional[str] = None
) -> Conclusion:
    """What a series comes to; where its newest sample is a dump, that is searched for the owners."""
    grown = [
        GrownTag(
            trend.tag,
            trend.pool,
            (trend.last_bytes or 0) - (trend.first_bytes or 0),
            None,
            trend.slope.bytes_per_hour if trend.slope else None,
        )
        for trend in report.trends
        if is_growing(trend)
    ]
    groups = _choose_groups(report.groups, grown[:MAX_GROWN])
    chosen = _add_members(grown, groups)
    newest = report.newest
    if newest is None:
        return Conclusion(verdict_on_series(report), (), (), (), (), ())
    found, has_images, warnings = _find_owners(newest, [item.tag for item in chosen], lists, work, symbol_path)
    known = tuple(_know(item, found) for item in chosen)
    conclusion = Conclusion(
        verdict="",
        grown=known,
        groups=groups,
        before=(),
        after=_totals(newest),
        next_steps=tuple(_iter_steps(newest, known)) if known else (),
        image_coverage=found.coverage if has_images else None,
        warnings=warnings,
    )
    return replace(conclusion, verdict=verdict_on_series(report, conclusion))


def _choose_groups(groups: Sequence[LockstepGroup], grown: Sequence[GrownTag]) -> Tuple[LockstepGroup, ...]:
    """Those with a tag among the ones that grew most."""
    wanted = {(item.tag, item.pool) for item in grown}
    return tuple(group for group in groups if any((member.tag, member.pool) in wanted for member in group.members))


def _add_members(grown: Sequence[GrownTag], groups: Sequence[LockstepGroup]) -> List[GrownTag]:
    """The tags that grew most, and those that grew with them, however little."""
    members = {(member.tag, member.pool) for group in groups for member in group.members}
    return [item for number, item in enumerate(grown) if number < MAX_GROWN or (item.tag, item.pool) in members]


def _find_owners(
    snapshot: PoolSnapshot, tags: Sequence[PoolTag], lists: TagLists, work: Work, symbol_path: Optional[str]
) -> Tuple[FoundOwners, bool, Tuple[str, ...]]:
    """The owners by all that the later side has, whether that has driver images, and what could not be searched."""
    unique = tuple(dict.fromkeys(tags))
    failed: Tuple[str, ...] = ()
    with ExitStack() as opened:
        kernel: Optional[Kernel] = None
        if unique and has_memory(snapshot):
            try:
                source = opened.enter_context(open_source(snapshot.source.path or None, work, symbol_path))
                if snapshot.source.is_session or _is_same_state(snapshot, source.snapshot):
                    kernel = source.kernel
                else:
                    failed = (f"owners were not searched: {snapshot.source.path} holds another state by now",)
            except (PykdextError, OSError) as error:
                failed = (f"owners were not searched: {error}",)
        searches: Tuple[SearchedImages, ...] = ()
        contents = NO_CONTENTS
        if kernel is not None:
            from pykdext.pipeline.imagesearch import search_kernel
            from pykdext.pipeline.pointers import search_contents

            searches = (search_kernel(kernel, unique, work),)
            contents = search_contents(kernel, unique, work)
        found = weigh_owners(searches, contents, unique, lists, snapshot)
        return found, kernel is not None, (*failed, *found.warnings)


def _is_told_by_a_part(diff: Diff, grown: GrownTag) -> bool:
    """Whether the growth of a tag is more than a table that one of the states lacks can explain.

    A table that the earlier state lacks explains any growth: what it counted is new in the later one.
    """
    if diff.before.coverage.lacks_counts:
        return False
    usage = next((row.usage(grown.pool) for row in diff.after.tags if row.tag == grown.tag), None)
    return usage is not None and not growth.may_be_missing_frees(diff.after.coverage, usage, grown.role)


def _is_same_state(kept: PoolSnapshot, found: PoolSnapshot) -> bool:
    """Whether a file still holds the dump that a state was read from: dumps are overwritten by later ones."""
    return (kept.taken_at, kept.build, kept.tags) == (found.taken_at, found.build, found.tags)


def _know(item: GrownTag, found: FoundOwners) -> GrownTag:
    by_tag: Dict[PoolTag, TagOwners] = {owners.tag: owners for owners in found.tags}
    known = by_tag.get(item.tag)
    if known is None:
        return item
    return replace(item, role=find_role(known), owners=known.owners, descriptions=known.descriptions, notes=known.notes)


def _totals(snapshot: PoolSnapshot) -> Tuple[PoolTotal, ...]:
    return tuple(PoolTotal.of(snapshot, pool) for pool in PoolKind)


def _iter_steps(snapshot: PoolSnapshot, grown: Sequence[GrownTag]) -> Iterator[NextStep]:
    """What leads on from the tags that grew most."""
    if not grown:
        return
    leading = next((item for item in grown if not item.role.tells_no_caller), grown[0])
    question = next((entry.next_question for entry in grown[0].descriptions if entry.next_question), None)
    if question and grown[0].role is Role.OBJECT:
        yield NextStep(None, f"{grown[0].tag}: {question}")
    for owner in leading.owners[:1]:
        if not leading.role.tells_no_caller:
            yield NextStep(f"lmvm {find_engine_name(owner.module)}", f"version and vendor of {owner.module}")
    tag = quote_word(str(leading.tag).strip())
    if has_memory(snapshot):
        program, source = name_program(snapshot)
        if grown[0].role is Role.OBJECT:
            yield NextStep(
                f"{program} holders {quote_word(str(grown[0].tag).strip())}{source}", "who holds its objects"
            )
        yield NextStep(f"{program} blocks {tag}{source}", "where its blocks are, and what they point at")
    else:
        yield NextStep(f"poolleak find {tag} --images DIR", "who owns it, by the machine's driver files")
        yield NextStep(None, "A kernel dump taken before the machine is restarted names the driver")
