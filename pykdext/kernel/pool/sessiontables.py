"""The tag tables of session pool (``!poolused 8``), as far as Windows keeps them: up to build 20348.

nt!ExpSessionPoolTrackTable is the address of a table in session space, which only the page tables of a session's own
processes map; nt!ExpSessionPoolTrackTableSize counts its rows, and _MM_SESSION_SPACE leads to the table that takes
what found no room (public symbols). Build 22000 has no such table any more: its session pool is paged pool.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, Iterable, List, Optional, Tuple

from pykdext.errors import PykdextError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.memory.sessions import SessionView, iter_session_views
from pykdext.kernel.pool.tablelocation import TableLocation
from pykdext.kernel.pool.tagtables import read_located_tables
from pykdext.kernel.structs import read_record
from pykdext.model import ExpansionState, PoolTag, TableCoverage, TagUsage
from pykdext.model.objects import Process
from pykdext.targets.protocol import ProcessViewer, Target
from pykdext.units import count_things
from pykdext.work import UNWATCHED, Work

FIRST_WITHOUT_TABLE = 22000
_TABLE, _ROWS = "ExpSessionPoolTrackTable", "ExpSessionPoolTrackTableSize"
_SPACE = "_MM_SESSION_SPACE"
_EXPANSION, _EXPANSION_ROWS = "PoolTrackTableExpansion", "PoolTrackTableExpansionSize"
_MOST_ROWS = 1 << 20
MOST_ROWS_READ = 1 << 22
"""Of the tables of all sessions together: a thousand sessions with the usual two thousand rows, twice."""

_MOST_TOLD = 4


@dataclass(frozen=True)
class SessionPool:
    """The tags of session pool, added up over the sessions whose table was read.

    ``tags`` is None where no table was read, and ``reason`` says why. ``sessions``: how many there are.
    """

    tags: Optional[Tuple[TagUsage, ...]]
    sessions: int = 0
    sessions_read: int = 0
    coverage: Optional[TableCoverage] = None
    reason: str = ""
    warnings: Tuple[str, ...] = ()


def read_session_pool(
    kernel: Kernel, memory: Optional[Target], processes: Iterable[Process], work: Work = UNWATCHED
) -> SessionPool:
    """The session pool of all sessions; ``memory`` is where page tables of processes can be followed, if anywhere."""
    located, rows = kernel.find_symbol(_TABLE), kernel.find_variable(_ROWS)
    if located is None:
        if (kernel.target.facts.build or 0) >= FIRST_WITHOUT_TABLE:
            return SessionPool(
                None, reason="this Windows counts session pool in paged pool, without a table of its own"
            )
        return SessionPool(None, reason=f"nothing tells where the table of session pool is ({_TABLE}): symbols do")
    table = kernel.read_word(located.address)
    if not table or rows is None or not 1 < rows <= _MOST_ROWS:
        return SessionPool(None, reason="the variables that lead to the table of session pool are not in memory")
    if not isinstance(memory, ProcessViewer):
        return SessionPool(None, reason="session space is mapped by page tables that only a dump's file has")
    sums: Dict[PoolTag, TagUsage] = {}
    parts: List[TableCoverage] = []
    unread: List[str] = []
    warnings: List[str] = []
    sessions, rows_left = 0, MOST_ROWS_READ
    for view in iter_session_views(kernel, memory, processes):
        sessions += 1
        if work.is_ended:
            unread.append(f"{view.name}: interrupted before it was read")
            break
        rows_left -= rows
        if rows_left < 0:
            unread.append(f"{view.name}: no more than {MOST_ROWS_READ:,} rows are read of all sessions")
            continue
        read = None if view.target is None else _read_one(kernel, view, table, rows, located.source, work)
        if isinstance(read, str) or read is None:
            unread.append(f"{view.name}: {read or 'the page tables of its processes are not in memory'}")
            continue
        tags, coverage, told = read
        parts.append(coverage)
        warnings += [f"{view.name}: {text}" for text in told]
        for row in tags:
            sums[row.tag] = _add(sums[row.tag], row) if row.tag in sums else row
    if not parts:
        reason = unread[0] if unread else "no process belongs to a session"
        return SessionPool(None, sessions, reason=reason)
    if unread:
        shown = "; ".join(unread[:_MOST_TOLD])
        warnings.append(f"session pool of {len(parts)} of {count_things(sessions, 'session')} was read ({shown})")
    return SessionPool(
        tuple(sums[tag] for tag in sorted(sums)), sessions, len(parts), _join(parts, sessions), "", tuple(warnings)
    )


def _read_one(
    kernel: Kernel, view: SessionView, table: int, rows: int, source: str, work: Work
) -> Tuple[Tuple[TagUsage, ...], TableCoverage, Tuple[str, ...]] | str:
    """One session's tags, or in words why there are none."""
    assert view.target is not None
    expansion, expansion_rows = _find_expansion(kernel, view)
    location = TableLocation((table,), 1, rows, True, expansion, expansion_rows, source, ())
    try:
        read = read_located_tables(replace(kernel, target=view.target), location, work)
    except PykdextError as error:
        return str(error)
    return read if read[1].rows_read else "its tag table is not in memory, or nothing of it is believed"


def _find_expansion(kernel: Kernel, view: SessionView) -> Tuple[Optional[int], Optional[int]]:
    form = kernel.struct(_SPACE, _EXPANSION, _EXPANSION_ROWS)
    if form is None or view.target is None or not form.has(_EXPANSION, _EXPANSION_ROWS):
        return None, None
    try:
        record = read_record(view.target, form, view.address)
    except PykdextError:
        return None, None
    return record[_EXPANSION], record[_EXPANSION_ROWS]


def _add(first: TagUsage, second: TagUsage) -> TagUsage:
    return TagUsage(first.tag, first.nonpaged + second.nonpaged, first.paged + second.paged)


def _join(parts: List[TableCoverage], sessions: int) -> TableCoverage:
    rows = max(part.rows_expected or 0 for part in parts)
    states = {part.expansion_table for part in parts}
    unclear = (ExpansionState.UNREADABLE, ExpansionState.UNKNOWN, ExpansionState.READ)
    return TableCoverage(
        processor_tables_read=sum(part.processor_tables_read or 0 for part in parts),
        processor_tables_expected=sum(part.processor_tables_expected or 0 for part in parts),
        rows_read=sum(part.rows_read or 0 for part in parts),
        rows_expected=rows * sessions,
        expansion_table=next((state for state in unclear if state in states), ExpansionState.ABSENT),
    )
