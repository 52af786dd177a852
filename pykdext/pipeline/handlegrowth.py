"""Whose handles grew between two dumps of one machine."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from pykdext.errors import PykdextError
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.model import PoolSnapshot
from pykdext.model.objects import Process
from pykdext.pipeline.sources import has_memory, open_source
from pykdext.report.sentences.processes import describe_handle_growth
from pykdext.work import Work

NOTABLE_HANDLES = 1_000
"""Processes come and go with less."""


def say_handle_growth(before: PoolSnapshot, after: PoolSnapshot, work: Work, symbol_path: Optional[str]) -> str:
    """A sentence on the process whose handles grew most, and on exited processes; empty: nothing notable is known.

    A process is the same where its number, image and start are; one that was not there before began with none.
    """
    if work.is_ended or before.source.path == after.source.path:
        return ""
    sides = [_read_processes(side, work, symbol_path) for side in (before, after)]
    if not all(sides):
        return ""
    earlier = {_identity(process): process.handles or 0 for process in sides[0]}
    grown: Dict[int, int] = {}
    for number, process in enumerate(sides[1]):
        if process.handles is not None and not process.is_zombie:
            grown[number] = process.handles - earlier.get(_identity(process), 0)
    most = max(grown, key=lambda number: grown[number], default=None)
    exited = sum(process.is_zombie for process in sides[1]) - sum(process.is_zombie for process in sides[0])
    first = sides[1][most] if most is not None and grown[most] >= NOTABLE_HANDLES else None
    return describe_handle_growth(first, 0 if most is None else grown[most], exited)


def _identity(process: Process) -> Tuple[int, str, Optional[object]]:
    return process.pid, process.image, process.started_at


def _read_processes(snapshot: PoolSnapshot, work: Work, symbol_path: Optional[str]) -> Tuple[Process, ...]:
    """The processes of a side that is a dump on this machine's disks, or the session; none of any other."""
    if not has_memory(snapshot):
        return ()
    try:
        with open_source(snapshot.source.path or None, work, symbol_path) as opened:
            return () if opened.kernel is None else ObjectSpace(opened.kernel, work).processes.processes
    except (PykdextError, OSError):
        return ()
