"""The verdict on one state."""

from __future__ import annotations

from typing import Optional, Tuple

from pykdext import growth
from pykdext.attribution.taglists import TagLists
from pykdext.model import LeakReport, PoolKind, PoolSnapshot, PoolTotal, Role, Suspect
from pykdext.pipeline.advice import next_steps
from pykdext.pipeline.imagesearch import search_kernel
from pykdext.pipeline.ownership import FoundOwners, weigh_owners
from pykdext.pipeline.pointers import NO_CONTENTS, search_contents
from pykdext.pipeline.sources import Source
from pykdext.report.sentences.states import verdict_on
from pykdext.work import UNWATCHED, Work


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
    found = weigh_owners(searches, NO_CONTENTS, tags, lists)
    suspects = _rank(snapshot, found, top)
    if kernel:
        sampled = dict.fromkeys(suspect.tag for suspect in suspects if suspect.role is not Role.OBJECT)
        contents = search_contents(kernel, tuple(sampled), work)
        found = weigh_owners(searches, contents, tags, lists)
        suspects = _rank(snapshot, found, top)
    images = found.coverage if kernel else None
    return LeakReport(
        snapshot=snapshot,
        verdict=verdict_on(suspects, images, snapshot),
        pools=tuple(PoolTotal.of(snapshot, pool) for pool in PoolKind),
        suspects=suspects,
        next_steps=next_steps(snapshot, suspects),
        image_coverage=images,
        warnings=(*snapshot.warnings, *found.warnings),
    )


def _rank(snapshot: PoolSnapshot, found: FoundOwners, top: Optional[int]) -> Tuple[Suspect, ...]:
    return growth.rank_suspects(snapshot, {owners.tag: owners for owners in found.tags})[:top]
