"""The trace of a process's handles (``!htrace``): where those that are still open were opened.

A table whose DebugInfo is not zero keeps the last events of its handles in a ring, each with the thread, the handle,
what happened (1 opened, 2 closed, 3 a handle that is none) and the stack. Sources: the types in Microsoft's public
PDBs (JPCERTCC); winternl's documentation of process handle tracing.
"""

from __future__ import annotations

from collections import Counter
from typing import Dict, Optional, Sequence, Set, Tuple

from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.pages import PageReader
from pykdext.kernel.objects.stacks import StackReader
from pykdext.kernel.structs import iter_row_runs
from pykdext.model.traces import OpenedAt

MAX_EVENTS = 1 << 17
_OPENED, _CLOSED = 1, 2
_EVENT_FIELDS = ("Handle", "Type", "StackTrace")
_PLACES_TOLD = 8


def read_handle_trace(kernel: Kernel, pages: PageReader, table: int) -> Tuple[OpenedAt, ...]:
    """Where the handles of a table that the trace has, and that are still open, were opened; most first.

    Empty: nobody traces them, or the layouts are not known.
    """
    table_form = kernel.struct("_HANDLE_TABLE", "DebugInfo")
    form = kernel.struct("_HANDLE_TRACE_DEBUG_INFO", "TableSize", "CurrentStackIndex", "TraceDb")
    event = kernel.struct("_HANDLE_TRACE_DB_ENTRY", *_EVENT_FIELDS)
    place = None if table_form is None else table_form.offset("DebugInfo")
    if place is None or form is None or event is None or not event.size or not event.has(*_EVENT_FIELDS):
        return ()
    trace = pages.pointer(table + place)
    size_at, newest_at, events_at = (form.offset(name) for name in ("TableSize", "CurrentStackIndex", "TraceDb"))
    if not trace or size_at is None or newest_at is None or events_at is None:
        return ()
    size, newest = pages.number(trace + size_at, 4), pages.number(trace + newest_at, 4)
    if not size or size > MAX_EVENTS or newest is None:
        return ()
    events: Dict[int, Tuple[int, int, bytes]] = {}
    at = trace + events_at
    for number, run in iter_row_runs(kernel.target.read_present(at, size * event.stride), at, event.stride, size):
        events.update(enumerate(event.iter_unpack(run), number))
    return _count_places(kernel, [events.get((newest - back) % size) for back in range(size)])


def _count_places(kernel: Kernel, events: Sequence[Optional[Tuple[int, int, bytes]]]) -> Tuple[OpenedAt, ...]:
    """Of events, the newest first, the places of those that opened a handle that was not closed after."""
    reader = StackReader(kernel)
    decided: Set[int] = set()
    places: Counter[Tuple[Optional[str], int]] = Counter()
    total = 0
    for event in events:
        if event is None:
            continue
        handle, kind, stack = event
        if kind not in (_OPENED, _CLOSED) or not handle or handle in decided:
            continue
        decided.add(handle)
        if kind != _OPENED:
            continue
        total += 1
        place = reader.find_caller(stack)
        if place is not None:
            places[place] += 1
    return tuple(OpenedAt(*place, count, total) for place, count in places.most_common(_PLACES_TOLD))
