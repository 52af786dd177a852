"""The commit sheet: the lines of WinDbg's ``!vm``, read by the names of the memory manager's members.

Up to Windows 8.1 each number is a global variable of nt, since Windows 10 a member of MiState or MiSystemPartition
(public symbols of 213 x64 kernels, JPCERTCC/Windows-Symbol-Tables). On a real Windows 10 the lines add up to the
committed pages exactly; what no public counter tells (kernel stacks, session space) stays unexplained here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, List, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.limitinference import PARTITION_TYPE, locate_partition
from pykdext.model import SystemMemory
from pykdext.model.layouts import FieldLayout
from pykdext.model.memory import CommitLine, CommitPart, CommitSheet, MemoryFailure, SessionMemory
from pykdext.targets.protocol import PAGE_BYTES

LARGEST_COUNT_PAGES = 1 << 40
"""More pages than any Windows can address: a larger number was not read from the right place."""

_STATE, _PARTITION = ("MiState", "_MI_SYSTEM_INFORMATION"), ("MiSystemPartition", PARTITION_TYPE)


@dataclass(frozen=True)
class _Place:
    """Where a number stands: the global variable of old kernels, and the member of MiState or MiSystemPartition.

    ``width`` is in bytes, of the global variable; None: that of a pointer.
    """

    variable: Optional[str] = None
    state: Optional[str] = None
    partition: Optional[str] = None
    width: Optional[int] = None


_LINES: Tuple[Tuple[str, CommitPart, _Place], ...] = (
    ("NonPagedPool Commit", CommitPart.POOL, _Place("MmAllocatedNonPagedPool", "Vs.NonPagedPoolCommit")),
    ("PagedPool Commit", CommitPart.POOL, _Place("MmPagedPoolCommit", "Vs.PagedPoolInfo.AllocatedPagedPool")),
    ("Special Pool", CommitPart.POOL, _Place("MmSpecialPagesInUse", "Vs.SpecialPagesInUse")),
    ("Pages For MDLs", CommitPart.DRIVERS, _Place("MmMdlPagesAllocated", "Vs.MdlPagesAllocated")),
    ("ContigMem Pages", CommitPart.DRIVERS, _Place(state="Vs.ContiguousPagesAllocated")),
    ("Pages For AWE", CommitPart.DRIVERS, _Place("MmVadPhysicalPages", partition="Vp.VadPhysicalPages")),
    ("Driver Commit", CommitPart.SYSTEM, _Place("MmDriverCommit", "Vs.DriverCommit", width=4)),
    ("Boot Commit", CommitPart.SYSTEM, _Place(state="Vs.BootCommit")),
    ("PFN Array Commit", CommitPart.SYSTEM, _Place(state="Vs.PfnDatabaseCommit")),
    ("SmallNonPagedPtesCommit", CommitPart.SYSTEM, _Place(state="Vs.SmallNonPagedPtesCommit")),
    ("SlabAllocatorPages", CommitPart.SYSTEM, _Place(partition="Vp.SlabAllocatorPages")),
    ("System PageTables", CommitPart.SYSTEM, _Place(state="Vs.SystemPageTableCommit")),
    ("VAD/PageTable Bitmaps", CommitPart.SYSTEM, _Place(partition="Vp.PageTableBitmapPages")),
    ("Pagefile Hash Pages", CommitPart.SYSTEM, _Place(state="Vs.PagefileHashPages")),
    ("ProcessLockedFilePages", CommitPart.PROCESSES, _Place(partition="Vp.ProcessLockedFilePages")),
    ("Process Commit", CommitPart.PROCESSES, _Place("MmProcessCommit", "Vs.ProcessCommit")),
    ("Shared Commit", CommitPart.SHARED, _Place("MmSharedCommit", "Vs.SharedCommit", "Vp.SharedCommit")),
)
"""WinDbg's words, what the line counts, and where. All of them count pages."""

_TOTALS: Dict[str, _Place] = {
    "committed_bytes": _Place("MmTotalCommittedPages", partition="Vp.TotalCommittedPages"),
    "limit_bytes": _Place("MmTotalCommitLimit", partition="Vp.TotalCommitLimit"),
    "peak_bytes": _Place("MmPeakCommitment", partition="Commit.PeakCommitment"),
    "physical_bytes": _Place("MmNumberOfPhysicalPages", partition="Vp.NumberOfPhysicalPages"),
    "available_bytes": _Place("MmAvailablePages", partition="Vp.AvailablePages"),
    "resident_available_bytes": _Place("MmResidentAvailablePages", partition="Vp.ResidentAvailablePages"),
    "system_pte_bytes": _Place(state="Vs.SystemPteInfo.TotalSystemPtes"),
    "system_pte_free_bytes": _Place(state="Vs.SystemPteInfo.TotalFreeSystemPtes"),
}

_NEVER_ZERO = ("committed_bytes", "limit_bytes", "peak_bytes", "physical_bytes", "system_pte_bytes")

_FAILURES: Tuple[Tuple[str, _Place], ...] = (
    ("pool allocations", _Place("ExPoolFailures", width=4)),
    ("system PTE allocations", _Place(state="Vs.SystemPteInfo.PteFailures")),
    ("kernel stack allocations", _Place(state="SystemPtes.KernelStackPteInfo.PteFailures")),
    ("kernel stack growths", _Place(state="SystemPtes.StackGrowthFailures")),
)

_COMMIT_FAILURES = _Place(partition="Vp.ChargeCommitmentFailures")
_POOL_REASONS = _Place("MmPoolFailureReasons", "Pools.PoolFailureReasons")
_REASONS = (
    "nonpaged pool requests for want of address space (PTEs)",
    "pool requests of too low a priority",
    "nonpaged pool requests for want of pages",
    "paged pool requests for want of address space (PTEs)",
    "session paged pool requests for want of address space (PTEs)",
    "paged pool requests for want of pages",
    "session pool requests for want of pages",
    "paged pool requests for want of commit",
    "session pool requests for want of commit",
    "nonpaged pool requests for want of resident available pages",
    "nonpaged pool requests for want of commit",
)
"""_MI_POOL_FAILURE_REASONS of public symbols (14393, 17763), a 32-bit count each; 7601 and 9600 have the same array."""

_OLD_SYSTEM_PTES = ("MiSystemPteInfo", "_MI_SYSTEM_PTE_TYPE")


class _Counters:
    """The memory manager's numbers of one kernel, by their places."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        places = [place for _, _, place in _LINES] + list(_TOTALS.values()) + [place for _, place in _FAILURES]
        places += [_COMMIT_FAILURES, _POOL_REASONS]
        self._state = self._locate(_STATE, [place.state for place in places])
        self._partition = self._locate(_PARTITION, [place.partition for place in places])
        old = [f"{path.rpartition('.')[2]}" for place in places if (path := place.state) and "SystemPteInfo" in path]
        self._system_ptes = self._locate(_OLD_SYSTEM_PTES, list(old))

    def read(self, place: _Place) -> Optional[int]:
        """The number, None where this kernel has none, where it is, or that cannot be read or believed."""
        for found in self._iter_places(place):
            try:
                value = int.from_bytes(self._kernel.target.read_virtual(*found), "little")
            except MemoryReadError:
                continue
            return value if value < LARGEST_COUNT_PAGES else None
        return None

    def read_array(self, place: _Place, count: int) -> Tuple[int, ...]:
        """Counts of 32 bits; empty where this kernel has none, or where they cannot be read."""
        for address, _ in self._iter_places(place):
            try:
                data = self._kernel.target.read_virtual(address, 4 * count)
            except MemoryReadError:
                continue
            return tuple(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))
        return ()

    def _iter_places(self, place: _Place) -> Iterator[Tuple[int, int]]:
        pointer = self._kernel.target.pointer_size
        for members, path in (
            (self._state, place.state),
            (self._partition, place.partition),
            (self._system_ptes, (place.state or "").rpartition(".")[2]),
        ):
            if path and path in members:
                address, field = members[path]
                yield address, field.size or pointer
        located = self._kernel.find_symbol(place.variable) if place.variable else None
        if located is not None:
            yield located.address, place.width or pointer

    def _locate(self, where: Tuple[str, str], paths: List[Optional[str]]) -> Dict[str, Tuple[int, FieldLayout]]:
        """Address and field of the members that this kernel has."""
        variable, type_name = where
        located = self._kernel.find_symbol(variable)
        address = None if located is None else located.address
        if where == _PARTITION:
            address = locate_partition(self._kernel)
        wanted = [path for path in dict.fromkeys(paths) if path]
        layout = self._kernel.struct(type_name, *wanted) if address is not None and wanted else None
        if address is None or layout is None:
            return {}
        return {path: (address + field.offset, field) for path, field in layout.fields.items() if field is not None}


def read_commit_sheet(kernel: Kernel) -> Optional[CommitSheet]:
    """The commit sheet as far as this kernel tells; None where it tells neither a line nor a total.

    Zeros everywhere tell nothing: no running kernel has them. Nor has one a limit or a charge of zero: such a number
    is not kept there, and the others are told without it.
    """
    counters = _Counters(kernel)
    totals: Dict[str, Any] = {name: _as_bytes(counters.read(place)) for name, place in _TOTALS.items()}
    totals.update({name: totals[name] or None for name in _NEVER_ZERO})
    committed = totals["committed_bytes"]
    lines: List[CommitLine] = []
    doubtful: List[str] = []
    for name, part, place in _LINES:
        held = _as_bytes(counters.read(place))
        if held is None:
            continue
        if committed is not None and held > committed:
            doubtful.append(name)
        else:
            lines.append(CommitLine(name, part, held))
    failures = [MemoryFailure(name, count) for name, place in _FAILURES if (count := counters.read(place)) is not None]
    failures += [
        MemoryFailure(reason, count)
        for reason, count in zip(_REASONS, counters.read_array(_POOL_REASONS, len(_REASONS)))
        if count
    ]
    refused = sum(counters.read_array(_COMMIT_FAILURES, 4))
    failures += [MemoryFailure("charges of commit", refused)] if refused else []
    if not any(line.bytes for line in lines) and not any(totals.values()):
        return None
    return CommitSheet(tuple(lines), failures=tuple(failures), doubtful=tuple(doubtful), **totals)


def add_sessions(sheet: CommitSheet, sessions: Tuple[SessionMemory, ...]) -> CommitSheet:
    """The sheet with what sessions were charged, as a line of its own where all of them are told."""
    charged = [session.committed_bytes for session in sessions]
    told = [held for held in charged if held is not None]
    most = sheet.committed_bytes
    lines = sheet.lines
    if told and len(told) == len(charged) and (most is None or sum(told) <= most):
        lines = (*lines, CommitLine("Session Commit", CommitPart.SYSTEM, sum(told)))
    return replace(sheet, lines=lines, sessions=sessions)


def sheet_of_totals(memory: SystemMemory) -> Optional[CommitSheet]:
    """What the totals of a text tell of committed memory: both pools; None where they tell no commit charge."""
    if not memory.commit_bytes:
        return None
    pools = (("NonPagedPool", memory.nonpaged_bytes), ("PagedPool", memory.paged_bytes))
    lines = [CommitLine(name, CommitPart.POOL, held) for name, held in pools if held]
    return CommitSheet(
        tuple(line for line in lines if line.bytes <= memory.commit_bytes),
        committed_bytes=memory.commit_bytes,
        limit_bytes=memory.commit_limit_bytes,
        physical_bytes=memory.physical_bytes,
        available_bytes=memory.available_bytes,
        doubtful=tuple(line.name for line in lines if line.bytes > memory.commit_bytes),
    )


def _as_bytes(pages: Optional[int]) -> Optional[int]:
    return None if pages is None else pages * PAGE_BYTES
