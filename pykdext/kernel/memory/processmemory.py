"""What each process has of physical memory by its own numbers: working set, locked pages, top page table.

Members of EPROCESS by public symbols: Vm.WorkingSetSize (Vm.Instance.WorkingSetSize since Windows 10) counts shared
pages, too; NumberOfLockedPages those that requests of input and output hold; Pcb.DirectoryTableBase the top table.
"""

from __future__ import annotations

from typing import Dict, Iterable, Optional

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.structs import read_record
from pykdext.model.memory import ProcessMemory
from pykdext.model.objects import Process
from pykdext.targets.protocol import PAGE_BYTES

MOST_PAGES = 1 << 35
"""A larger count went below zero, or is none: no process has an address space of 128 TiB in use."""

_TABLE_BASE = "DirectoryTableBase"
_ROOT, _LOCKED = f"Pcb.{_TABLE_BASE}", "NumberOfLockedPages"
_WORKING_SETS = ("Vm.Instance.WorkingSetSize", "Vm.WorkingSetSize")
_FRAME_MASK = (1 << 52) - 1


class ProcessMemoryReader:
    """Reads the numbers of processes that are known; what this kernel does not tell is None."""

    def __init__(self, kernel: Kernel) -> None:
        self._target = kernel.target
        self._form = kernel.struct("_EPROCESS", _ROOT, _LOCKED, *_WORKING_SETS)
        self._first = None  # EPROCESS begins with its KPROCESS in every Windows
        if self._form is not None and not self._form.has(_ROOT):
            self._first = kernel.struct("_KPROCESS", _TABLE_BASE)

    def find_roots(self, processes: Iterable[Process]) -> Dict[int, Process]:
        """The processes by the frames of their top page tables; one that two of them claim is nobody's."""
        found: Dict[int, Optional[Process]] = {}
        for process in processes:
            root = (self.read_root(process) or 0) & _FRAME_MASK
            if root >> 12:
                found[root >> 12] = process if root >> 12 not in found else None
        return {frame: process for frame, process in found.items() if process is not None}

    def read(self, process: Process) -> Optional[ProcessMemory]:
        """What the process was charged and has in memory; None where no number of it is known."""
        record = self._read(process)
        working_set = next((held for name in _WORKING_SETS if (held := record.get(name)) is not None), None)
        pages = (process.commit_pages, working_set, record.get(_LOCKED))
        committed, resident, locked = (
            count * PAGE_BYTES if count is not None and count < MOST_PAGES else None for count in pages
        )
        if committed is None:
            return None
        return ProcessMemory(process.pid, process.image, committed, process.has_exited, resident, locked)

    def read_root(self, process: Process) -> Optional[int]:
        """KPROCESS.DirectoryTableBase with its flags; None: not known, or not in memory."""
        if self._first is None or not self._first.has(_TABLE_BASE):
            return self._read(process).get(_ROOT)
        try:
            root: Optional[int] = read_record(self._target, self._first, process.address)[_TABLE_BASE]
        except MemoryReadError:
            return None
        return root

    def _read(self, process: Process) -> Dict[str, Optional[int]]:
        if self._form is None or not any(self._form.fields.values()):
            return {}
        try:
            record = read_record(self._target, self._form, process.address)
        except MemoryReadError:
            return {}
        return {name: record[name] for name in self._form.fields}
