"""Processes that cannot exit: a thread of theirs waits until a driver completes a request.

Such a process is marked as exiting, but threads of it still run. Each thread links its pending requests
(ETHREAD.IrpList); the list of a process's threads and that one are in the public symbols of every kernel.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.contents import count_descriptions
from pykdext.kernel.objects.pages import PageReader
from pykdext.kernel.objects.requests import RequestReader
from pykdext.model.objects import Process, StuckProcess
from pykdext.targets.linkedlists import walk_list

MAX_STUCK = 64
MAX_THREADS = 1_024
MAX_REQUESTS = 256
_REQUEST_LINK = {4: 0x10, 8: 0x20}


def find_stuck_exits(
    kernel: Kernel, pages: PageReader, requests: RequestReader, processes: Sequence[Process]
) -> Tuple[StuckProcess, ...]:
    """The processes that are exiting while threads of them run, and in which drivers their requests are."""
    stuck = [process for process in processes if process.is_exiting and process.active_threads][:MAX_STUCK]
    if not stuck:
        return ()
    reader = _ThreadReader(kernel, pages, requests)
    return tuple(StuckProcess(process, *reader.read(process)) for process in stuck)


class _ThreadReader:
    """Reads the pending requests of the threads of a process."""

    def __init__(self, kernel: Kernel, pages: PageReader, requests: RequestReader) -> None:
        self._pages = pages
        self._requests = requests
        self._width = kernel.target.pointer_size
        process = kernel.struct("_EPROCESS", "ThreadListHead")
        thread = kernel.struct("_ETHREAD", "ThreadListEntry", "IrpList")
        self._head = None if process is None else process.offset("ThreadListHead")
        self._entry = None if thread is None else thread.offset("ThreadListEntry")
        self._requests_head = None if thread is None else thread.offset("IrpList")

    def read(self, process: Process) -> Tuple[Optional[int], Tuple[Tuple[str, int], ...]]:
        """Pending requests of all threads, and what the drivers do with them; None: this kernel does not tell."""
        if self._head is None or self._entry is None or self._requests_head is None:
            return None, ()
        threads = self._walk(process.address + self._head, MAX_THREADS)
        if threads is None:
            return None, ()
        described: List[Optional[str]] = []
        for link in threads:
            for request in self._walk(link - self._entry + self._requests_head, MAX_REQUESTS) or ():
                described.append(self._requests.describe_request(request - _REQUEST_LINK[self._width]))
        return len(described), count_descriptions(described)

    def _walk(self, head: int, limit: int) -> Optional[Tuple[int, ...]]:
        try:
            return walk_list(self._pages.read, self._width, head, limit).entries
        except MemoryReadError:
            return None
