"""Whose handles grew between two dumps of one machine."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Optional, Sequence, Tuple

from pykdext.errors import PykdextError
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.model import PoolSnapshot
from pykdext.model.objects import Process
from pykdext.pipeline.sources import has_memory, open_source
from pykdext.report.sentences.processes import MANY_EXITED, describe_handle_growth
from pykdext.work import Work

NOTABLE_HANDLES = 1_000
"""Processes come and go with less."""

_CANDIDATES = 4


def say_handle_growth(before: PoolSnapshot, after: PoolSnapshot, work: Work, symbol_path: Optional[str]) -> str:
    """A sentence on the process whose handles grew most, and on exited processes; empty: nothing notable is known.

    A process is the same where its number, image and start are; one that was not there before began with none. Of
    those whose handles grew the one that holds most of the exited processes is named, too.
    """
    if work.is_ended or before.source.path == after.source.path:
        return ""
    with ExitStack() as opened:
        earlier = _open_objects(before, work, symbol_path, opened)
        known = () if earlier is None else earlier.processes.processes
        later = _open_objects(after, work, symbol_path, opened) if known else None
        if later is None or not later.processes.processes:
            return ""
        counts = {_identity(process): process.handles or 0 for process in known}
        grown = [
            ((process.handles or 0) - counts.get(_identity(process), 0), process)
            for process in later.processes.processes
            if process.handles is not None and not process.is_zombie
        ]
        grown.sort(key=lambda item: -item[0])
        exited = len(later.zombies) - sum(process.is_zombie for process in known)
        most, first = grown[0] if grown and grown[0][0] >= NOTABLE_HANDLES else (0, None)
        holder = _find_holder(later, [process for _, process in grown[:_CANDIDATES]], exited)
    return describe_handle_growth(first, most, exited, holder)


def _find_holder(space: ObjectSpace, candidates: Sequence[Process], exited: int) -> Optional[Process]:
    """The process that holds at least half as many exited processes as came to be held; None: none of these."""
    if exited < MANY_EXITED:
        return None
    censuses = [space.take_census(process) for process in candidates if process.handle_table is not None]
    first = max(censuses, key=lambda census: census.zombies, default=None)
    return None if first is None or 2 * first.zombies < exited else first.process


def _identity(process: Process) -> Tuple[int, str, Optional[object]]:
    return process.pid, process.image, process.started_at


def _open_objects(
    snapshot: PoolSnapshot, work: Work, symbol_path: Optional[str], opened: ExitStack
) -> Optional[ObjectSpace]:
    """The objects of a side that is a dump on this machine's disks, or the session; None: of any other."""
    if not has_memory(snapshot):
        return None
    try:
        source = opened.enter_context(open_source(snapshot.source.path or None, work, symbol_path))
    except (PykdextError, OSError):
        return None
    return None if source.kernel is None else ObjectSpace(source.kernel, work)
