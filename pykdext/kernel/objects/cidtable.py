"""The table of process and thread numbers (nt!PspCidTable): a second census of both, beside the list of processes.

It is a handle table whose entries lead to the objects' bodies. An object leaves it as it leaves the list: when it is
deleted, not when it exits. So a process in the table alone was taken off the list, or stands behind a tear in it. The
table is the only place that has the threads that have exited and are still held. Sources: ReactOS, and volatility's
psxview.
"""

from __future__ import annotations

from typing import List, Optional, Set

from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.forms import find_form
from pykdext.kernel.objects.handletables import HandleTableReader
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import Struct
from pykdext.model.objects import NumberCensus, ProcessList
from pykdext.work import UNWATCHED, Work

MAX_OBJECTS = 65_536
"""Objects of the table that are looked at, processes of the list left out; of more, a sample over the whole table."""

MAX_OBJECTS_ASKED = 512
"""The same in a debugger's session, where each may cost a page over the wire."""

MAX_UNLISTED = 4_096
_PROCESS, _THREAD = 3, 6  # DISPATCHER_HEADER.Type
_TERMINATED = 1


def read_numbers(
    kernel: Kernel, pages: PageReader, tables: HandleTableReader, listed: ProcessList, work: Work = UNWATCHED
) -> Optional[NumberCensus]:
    """Who bears a number; None: nothing in this source tells where the table is, or it is not in memory."""
    table = kernel.find_variable("PspCidTable")
    if not table or tables.count(table) is None:
        return None
    found = tables.read(table, work)
    known = {process.address for process in listed.processes}
    bodies = found.headers
    others = [body for body in bodies if body not in known]
    is_session = kernel.target.facts.pages_present is None
    step = max(1, -(-len(others) // (MAX_OBJECTS_ASKED if is_session else MAX_OBJECTS)))
    flags = find_form(kernel, "_ETHREAD", ("CrossThreadFlags",), lambda form: form.has("CrossThreadFlags"))
    threads = exited = unknown = 0
    unlisted: List[int] = []
    for body in others[::step]:
        kind = pages.number(body, 1)
        if kind == _THREAD:
            threads += 1
            exited += _has_exited(pages, flags, body)
        elif kind == _PROCESS:
            unlisted.append(body)
        else:
            unknown += 1
    present: Set[int] = known.intersection(bodies)
    return NumberCensus(
        processes=len(present) + step * len(unlisted),
        threads=step * threads,
        exited_threads=None if flags is None else step * exited,
        unlisted=tuple(unlisted[:MAX_UNLISTED]),
        unnumbered=len(known) - len(present) if found.pages_read == found.pages_expected else 0,
        unknown=step * unknown,
        pages_read=found.pages_read,
        pages_expected=found.pages_expected,
        is_sampled=step > 1,
    )


def _has_exited(pages: PageReader, form: Optional[Struct], body: int) -> bool:
    offset = None if form is None else form.offset("CrossThreadFlags")
    flags = None if offset is None else pages.number(body + offset, 4)
    return bool(flags is not None and flags & _TERMINATED)
