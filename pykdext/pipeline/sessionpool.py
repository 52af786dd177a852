"""The tags of session pool as a state of their own: what ``!poolused 8`` shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional, Tuple

from pykdext.errors import TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.kernel.pool.sessiontables import read_session_pool
from pykdext.model import POOL_OF_SESSION, NextStep, PoolKind, PoolSnapshot, SystemMemory
from pykdext.model.objects import ProcessList
from pykdext.pipeline.advice import name_program
from pykdext.pipeline.sources import Source
from pykdext.records.columns import SESSION_POOL
from pykdext.targets.protocol import Target
from pykdext.targets.session.wholememory import open_whole_memory
from pykdext.units import count_things, format_bytes
from pykdext.work import UNWATCHED, Work


def describe_session_pool(
    kernel: Kernel,
    memory: Optional[Target],
    processes: ProcessList,
    snapshot: PoolSnapshot,
    work: Work = UNWATCHED,
) -> Tuple[str, Tuple[NextStep, ...]]:
    """What session pool holds beside the system's pools, in a sentence with its step; nothing where it is not told.

    ``memory``: where page tables of processes can be followed, if anywhere.
    """
    pool = read_session_pool(kernel, memory, processes.processes, work)
    held = {row.tag: sum(row.usage(kind).bytes or 0 for kind in PoolKind) for row in pool.tags or ()}
    if not sum(held.values()):
        return "", ()
    largest = max(held, key=lambda tag: held[tag])
    partial = "" if pool.coverage is not None and pool.coverage.is_complete else "at least "
    share = "" if pool.sessions_read == pool.sessions else f"{pool.sessions_read:,} of "
    sessions, total = f"{share}{count_things(pool.sessions, 'session')}", format_bytes(sum(held.values()))
    words = (
        f"Session pool of {sessions}, which these tags do not count, holds {partial}{total}; "
        f"its largest tag is {largest} ({format_bytes(held[largest])})."
    )
    program, source = name_program(snapshot)
    return words, (NextStep(f"{program} used --pool session{source}", "session pool by its own tags"),)


def read_session_state(source: Source, work: Work = UNWATCHED) -> PoolSnapshot:
    """The session pool of all sessions of a kernel, added up; the totals of the system's pools are not its own.

    Raises:
        TargetError: the source has no kernel, or its sessions' tables cannot be read; it says why.
    """
    snapshot, kernel = source.snapshot, source.kernel
    path = snapshot.source.path or "session"
    if kernel is None:
        if {POOL_OF_SESSION, SESSION_POOL} & set(snapshot.warnings):
            return snapshot
        raise TargetError(f"{path}: session pool is read in a dump's memory; found {snapshot.source.kind}")
    processes = ObjectSpace(kernel, work).processes.processes
    with open_whole_memory(kernel.target) as memory:
        pool = read_session_pool(kernel, memory, processes, work)
    if pool.tags is None or pool.coverage is None:
        raise TargetError(f"{path}: no tags of session pool: {pool.reason}")
    note = f"{SESSION_POOL}: the sum of {count_things(pool.sessions_read, 'session')}"
    kept = tuple(text for text in snapshot.warnings if not text.startswith("tag table"))
    return replace(
        snapshot,
        tags=pool.tags,
        memory=SystemMemory(),
        coverage=pool.coverage,
        warnings=(*kept, note, *pool.warnings),
    )
