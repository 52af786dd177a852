"""The verdict on one state."""

from __future__ import annotations

from typing import Optional

from pykdext import growth
from pykdext.advice import next_steps, verdict_on
from pykdext.interruption import Interruption
from pykdext.model import LeakReport, PoolKind, PoolTotal
from pykdext.pipeline.ownership import find_owners
from pykdext.pipeline.sources import Source
from pykdext.pipeline.taglists import TagLists
from pykdext.progress import ReportProgress, ignore_progress


def analyze(
    source: Source,
    lists: TagLists,
    progress: ReportProgress = ignore_progress,
    top: Optional[int] = None,
    interruption: Optional[Interruption] = None,
) -> LeakReport:
    """The verdict on one state: the ``top`` suspects, who owns them, and what to do next."""
    snapshot = source.snapshot
    found = find_owners(
        source.kernel, (), growth.find_notable(snapshot), lists, progress=progress, interruption=interruption
    )
    suspects = growth.rank_suspects(snapshot, {owners.tag: owners for owners in found.tags})[:top]
    images = found.coverage if source.kernel else None
    return LeakReport(
        snapshot=snapshot,
        verdict=verdict_on(suspects, images),
        pools=tuple(PoolTotal.of(snapshot, pool) for pool in PoolKind),
        suspects=suspects,
        next_steps=next_steps(snapshot, suspects),
        image_coverage=images,
        warnings=(*snapshot.warnings, *found.warnings),
    )
