"""What sessions were charged: MM_SESSION_SPACE, which EPROCESS.Session leads to (public symbols of x64 kernels).

Session space is mapped by the page tables of its own processes. Where the kernel's do not lead there those of a process
of the session are followed, if the target can; else the numbers are not told. Of newer Windows (22000) the structure
is in system space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.memory.processmemory import ProcessMemoryReader
from pykdext.kernel.structs import read_record
from pykdext.model.memory import SessionMemory
from pykdext.model.objects import Process
from pykdext.targets.protocol import PAGE_BYTES, ProcessViewer, Target

MOST_SESSIONS = 4096
_MOST_ROOTS_TRIED = 8
"""Processes of one session whose page tables are tried: those of exited ones are gone."""

_MOST_PAGES = 1 << 35
_MOST_ID = 1 << 16
_COMMITTED, _ID, _PAGED = "CommittedPages", "SessionId", "PagedPoolInfo.AllocatedPagedPool"


@dataclass(frozen=True)
class SessionView:
    """A session: where its structure is, its number if a process tells it, and its memory as its processes see it.

    ``target`` is None where none of their page tables is in memory, or the target follows none but the kernel's.
    """

    address: int
    number: Optional[int]
    processes: int
    target: Optional[Target]

    @property
    def name(self) -> str:
        """``session 1``."""
        return "a session" if self.number is None else f"session {self.number}"


def iter_session_views(kernel: Kernel, memory: Optional[Target], processes: Iterable[Process]) -> Iterator[SessionView]:
    """The sessions that processes belong to, each once, through the page tables of one of its processes."""
    members: Dict[int, List[Process]] = {}
    for process in processes:
        address = process.session_address
        if address and (address in members or len(members) < MOST_SESSIONS):
            members.setdefault(address, []).append(process)
    reader = ProcessMemoryReader(kernel)
    for address, found in members.items():
        number = next((each.session for each in found if each.session is not None), None)
        yield SessionView(address, number, len(found), _view_one_of(found, reader, memory))


def _view_one_of(members: List[Process], reader: ProcessMemoryReader, memory: Optional[Target]) -> Optional[Target]:
    if not isinstance(memory, ProcessViewer):
        return None
    for process in sorted(members, key=lambda each: each.has_exited)[:_MOST_ROOTS_TRIED]:
        root = reader.read_root(process)
        view = memory.view_process(root) if root else None
        if view is not None:
            return view
    return None


def read_sessions(
    kernel: Kernel, processes: Iterable[Process], memory: Optional[Target] = None
) -> Tuple[SessionMemory, ...]:
    """The sessions that processes belong to, each once; empty where this kernel's structure is not known.

    ``memory``: where page tables of processes can be followed, if anywhere.
    """
    form = kernel.struct("_MM_SESSION_SPACE", _ID, _COMMITTED, _PAGED)
    if form is None or form.offset(_COMMITTED) is None:
        return ()
    found = []
    for view in iter_session_views(kernel, memory, processes):
        record: Optional[Dict[str, Optional[int]]] = None
        for target in (view.target, kernel.target):  # two sessions may have the same address
            try:
                if target is not None and record is None:
                    record = dict(read_record(target, form, view.address))
            except MemoryReadError:
                continue
        number = None if record is None else record[_ID]
        if record is None or (number is not None and number > _MOST_ID):
            found.append(SessionMemory(None, view.processes))
            continue
        charged = (_as_bytes(record[_COMMITTED]), _as_bytes(record[_PAGED]))
        found.append(SessionMemory(number, view.processes, *charged))
    return tuple(found)


def _as_bytes(pages: Optional[int]) -> Optional[int]:
    return None if pages is None or pages > _MOST_PAGES else pages * PAGE_BYTES
