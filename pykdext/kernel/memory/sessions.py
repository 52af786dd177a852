"""What sessions were charged: MM_SESSION_SPACE, which EPROCESS.Session leads to (public symbols of x64 kernels).

Session space is mapped by the page tables of its own processes; where the kernel's do not lead there the numbers are
not told. Of newer Windows (22000) the structure is in system space.
"""

from __future__ import annotations

from typing import Dict, Iterable, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.structs import read_record
from pykdext.model.memory import SessionMemory
from pykdext.model.objects import Process
from pykdext.targets.protocol import PAGE_BYTES

MOST_SESSIONS = 4096
_MOST_PAGES = 1 << 35
_MOST_ID = 1 << 16
_COMMITTED, _ID, _PAGED = "CommittedPages", "SessionId", "PagedPoolInfo.AllocatedPagedPool"


def read_sessions(kernel: Kernel, processes: Iterable[Process]) -> Tuple[SessionMemory, ...]:
    """The sessions that processes belong to, each once; empty where this kernel's structure is not known."""
    form = kernel.struct("_MM_SESSION_SPACE", _ID, _COMMITTED, _PAGED)
    if form is None or form.offset(_COMMITTED) is None:
        return ()
    members: Dict[int, int] = {}
    for process in processes:
        address = process.session_address
        if address and (address in members or len(members) < MOST_SESSIONS):
            members[address] = members.get(address, 0) + 1
    found = []
    for address, count in members.items():
        try:
            record = read_record(kernel.target, form, address)
        except MemoryReadError:
            found.append(SessionMemory(None, count))
            continue
        number = record[_ID]
        if number is not None and number > _MOST_ID:
            found.append(SessionMemory(None, count))
            continue
        found.append(SessionMemory(number, count, _as_bytes(record[_COMMITTED]), _as_bytes(record[_PAGED])))
    return tuple(found)


def _as_bytes(pages: Optional[int]) -> Optional[int]:
    return None if pages is None or pages > _MOST_PAGES else pages * PAGE_BYTES
