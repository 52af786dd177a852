"""Finds the Windows kernel in the memory of a machine, the same way for every container.

The cheapest ways come first: a dump's header that Windows left in a note, the processors' registers, the code that
starts processors; a search of all memory is the last. Whatever is found counts only once it is verified: the page of
shared data says that this is Windows, nt's image is where the tables lead, and the list of modules begins with nt.
"""

from __future__ import annotations

import time
from itertools import chain
from typing import Iterator, List, NamedTuple, Optional, Set, Tuple

from pykdext.errors import DumpFormatError
from pykdext.model import Machine, MemoryImage
from pykdext.targets.dump.facts import KernelFacts
from pykdext.targets.dump.header import DumpHeader, parse_header_bytes
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.foreignfiles import NMI, describe_zeros
from pykdext.targets.machine.image import MachineImage
from pykdext.targets.machine.layouts import iter_layouts, vote_on_layout
from pykdext.targets.machine.memory import MachineMemory
from pykdext.targets.machine.ntimage import (
    KERNEL_RANGE,
    AddressSpaceView,
    NtImage,
    find_debugger_data,
    find_export,
    find_module_list,
    find_nt,
    is_module_list,
)
from pykdext.targets.machine.pagetables import (
    SEARCH_SECONDS,
    Candidate,
    Progress,
    Search,
    clean_table,
    find_by_low_stub,
    find_by_registers,
)
from pykdext.targets.machine.pdbrecords import PdbRecord, find_nt_by_record, iter_pdb_records
from pykdext.targets.machine.shareddata import SharedData, read_shared_data
from pykdext.targets.paging.addressspace import AddressSpace, PagingMode
from pykdext.targets.paging.modes import X64, X64_FIVE_LEVELS
from pykdext.targets.paging.virtual import VirtualMemory
from pykdext.units import count_things, format_bytes

MAX_WITHOUT_NT = 16
"""So many tables without nt are looked at again: the processors' own, and those of a few processes."""

RECORD_SECONDS = 10.0
"""The search for records of PDBs gets at least so long, whatever was searched before."""

MAX_CANDIDATES = 256
"""So many tables are tried: stale and foreign ones are a handful, those of other processes are good, too."""

_MIN_SHIFTED_BYTES = 2 << 30
"""No machine has its hole lower."""

_KDBG_TAG_OFFSET = 0x10


class FoundKernel(NamedTuple):
    """The facts, and the memory as it must be read: other than the container's where a hole was cut out of it."""

    facts: KernelFacts
    memory: MachineMemory


class _Verified(NamedTuple):
    """A candidate that passed, and what was found through it."""

    candidate: Candidate
    mode: PagingMode
    memory: MachineMemory
    view: AddressSpaceView
    shared: SharedData
    nt: NtImage
    module_list: int


def find_kernel(file: FileBytes, image: MachineImage, progress: Optional[Progress] = None) -> FoundKernel:
    """The kernel of an x64 Windows in ``image``.

    Its page tables may have four levels or five (LA57). DumpFormatError if there is none.
    """
    return _Discovery(file, image, progress).find()


class _Discovery:
    def __init__(self, file: FileBytes, image: MachineImage, progress: Optional[Progress]) -> None:
        self._file = file
        self._image = image
        self._search = Search(image.memory, progress)
        self._header = _read_header(file.path, image)
        self._ends_at = time.monotonic() + SEARCH_SECONDS
        self._refused: List[str] = []
        self._refused_halves: Set[Tuple[bool, MachineMemory, int]] = set()
        self._without_nt: List[Tuple[Candidate, PagingMode, MachineMemory]] = []
        self._record: Optional[PdbRecord] = None

    def find(self) -> FoundKernel:
        tried: Set[Tuple[int, Optional[int]]] = set()
        for candidate in self._iter_candidates():
            if (candidate.table, candidate.module_list) in tried:
                continue
            tried.add((candidate.table, candidate.module_list))
            for mode in _order_modes(candidate):
                for memory, note in self._iter_memories(candidate, mode):
                    verified = self._verify(candidate, mode, memory)
                    if verified is None:
                        continue
                    chosen, notes = self._check_layout(verified, memory, note)
                    if chosen is not memory:
                        verified = self._verify(candidate, mode, chosen) or verified
                    self._search.end()
                    return FoundKernel(self._collect(verified, notes), verified.memory)
            self._refused.append(candidate.method)
            if len(tried) >= MAX_CANDIDATES or time.monotonic() > self._ends_at:
                self._search.complete = False
                break
        found = self._find_by_record()
        if found is None:
            raise self._not_found()
        return found

    def _find_by_record(self) -> Optional[FoundKernel]:
        """The kernel whose first page is not in memory: tables that lead to shared data, but to no header of nt."""
        if not self._without_nt:
            return None
        records = tuple(iter_pdb_records(self._image.memory, max(self._ends_at, time.monotonic() + RECORD_SECONDS)))
        for candidate, mode, memory in self._without_nt[:MAX_WITHOUT_NT]:
            verified = self._verify(candidate, mode, memory, records)
            if verified is not None:
                return FoundKernel(self._collect(verified, ()), memory)
        return None

    def _iter_candidates(self) -> Iterator[Candidate]:
        image = self._image
        noted: Tuple[Candidate, ...] = ()
        if self._header is not None:
            noted = (
                Candidate(
                    clean_table(self._header.directory_table_base),
                    "a dump's header in the file",
                    module_list=self._header.loaded_module_list,
                    debugger_data=self._header.debugger_data_block,
                ),
            )
        by_registers = find_by_registers(image.processors, self._view_tables)
        return chain(noted, by_registers, find_by_low_stub(image.memory), self._search.find())

    def _view_tables(self, table: int, has_five_levels: bool) -> AddressSpaceView:
        return _make_view(self._image.memory, table, X64_FIVE_LEVELS if has_five_levels else X64)

    def _iter_memories(self, candidate: Candidate, mode: PagingMode) -> Iterator[Tuple[MachineMemory, Optional[str]]]:
        """The container's memory, and where nothing tells what is where, what it is with a hole put in."""
        yield self._image.memory, None
        if self._is_in_doubt:
            plain, table = self._image.memory, candidate.table
            for memory, note, _ in iter_layouts(self._file, plain, table, mode, self._ends_at):
                yield memory, note

    @property
    def _is_in_doubt(self) -> bool:
        return self._image.may_be_shifted and self._image.memory.end_address > _MIN_SHIFTED_BYTES

    def _verify(
        self,
        candidate: Candidate,
        mode: PagingMode,
        memory: MachineMemory,
        records: Tuple[PdbRecord, ...] = (),
    ) -> Optional[_Verified]:
        view = _make_view(memory, candidate.table, mode)
        if not view.space.has_root:
            return None
        shared = read_shared_data(view.memory)
        if shared is None:
            return None
        hints = list(candidate.hints)
        first = view.read_pointer(candidate.module_list) if candidate.module_list else None
        base = view.read_pointer(first + 0x30) if first else None
        if base:
            hints.insert(0, base)
        if records:
            nt = self._take_record(find_nt_by_record(view, records))
        else:
            nt = self._find_nt(view, memory, candidate, mode, hints)
        if nt is None:
            self._without_nt.append((candidate, mode, memory))
            return None
        listed = candidate.module_list
        head = listed if listed and is_module_list(view, nt, listed) else find_module_list(view, nt)
        return None if head is None else _Verified(candidate, mode, memory, view, shared, nt, head)

    def _find_nt(
        self, view: AddressSpaceView, memory: MachineMemory, candidate: Candidate, mode: PagingMode, hints: List[int]
    ) -> Optional[NtImage]:
        """nt; what lies in the kernel's half is looked for once, for the tables of all processes share it."""
        top = mode.levels[0]
        address = candidate.table + 8 * (KERNEL_RANGE[0] >> top.shift & top.index_mask)
        half = (mode is X64, memory, int.from_bytes(memory.read_physical(address, 8), "little"))
        if half in self._refused_halves:
            return None
        nt = find_nt(view, hints, self._ends_at)
        if nt is None:
            self._refused_halves.add(half)
        return nt

    def _take_record(self, found: Optional[Tuple[NtImage, PdbRecord]]) -> Optional[NtImage]:
        if found is None:
            return None
        nt, self._record = found
        return nt

    def _check_layout(
        self, verified: _Verified, memory: MachineMemory, note: Optional[str]
    ) -> Tuple[MachineMemory, Tuple[str, ...]]:
        """The memory that the modules confirm, and what must be said of it."""
        if not self._is_in_doubt:
            return memory, ()
        table, mode = verified.candidate.table, verified.mode
        as_it_is = vote_on_layout(_make_view(memory, table, mode), memory, verified.module_list)
        if note is not None:
            return memory, (note,)
        if as_it_is.right and as_it_is.is_good:
            return memory, ()
        for other, other_note, is_proven in iter_layouts(self._file, self._image.memory, table, mode):
            vote = vote_on_layout(_make_view(other, table, mode), other, verified.module_list)
            if vote.is_better_than(as_it_is) or (is_proven and vote.is_good):
                return other, (other_note,)
        if as_it_is.is_good:
            return memory, ()
        return memory, ("some drivers are not where their page tables say: the image is damaged, or holes are cut out",)

    def _collect(self, verified: _Verified, notes: Tuple[str, ...]) -> KernelFacts:
        image, shared, view, header = self._image, verified.shared, verified.view, self._header
        is_noted = header is not None and verified.candidate.module_list is not None
        build = shared.build or (header.build if is_noted and header else None) or _read_build(view, verified.nt)
        build = build or shared.build_by_version
        found_by = verified.candidate.method
        if verified.mode is X64_FIVE_LEVELS:
            found_by += ", five levels of page tables"
        if self._record is not None:
            found_by += f", nt by the record of {self._record.name} (its first page is not in the file)"
        if self._refused:
            count = len(self._refused)
            found_by += f"; {count_things(count, 'other')} refused"
        return KernelFacts(
            kind=image.kind,
            machine=Machine.X64,
            directory_table_base=verified.candidate.table,
            build=build,
            processors=shared.processors or len(image.processors) or (header.processors if header else None),
            taken_at=shared.taken_at,
            uptime_seconds=shared.uptime_seconds,
            debugger_data_block=self._choose_debugger_data(verified),
            loaded_module_list=verified.module_list,
            active_process_head=header.active_process_head if is_noted and header else None,
            kernel_base=verified.nt.base,
            kernel_pdb=None if self._record is None else self._record.identity,
            boot_id=shared.boot_id,
            image=MemoryImage(found_by, image.windbg_hint),
            warnings=(*notes, *self._compare_with_ram(shared)),
        )

    def _choose_debugger_data(self, verified: _Verified) -> Optional[int]:
        """The block that the header names, its decoded copy if that one is encoded, or what a search of nt finds."""
        listed = verified.candidate.debugger_data
        if listed is None:
            return find_debugger_data(verified.view, verified.nt)
        copy = self._header.bugcheck.parameters[0] if self._header and self._header.bugcheck else 0
        for block in (listed, copy):
            if block and verified.view.read(block + _KDBG_TAG_OFFSET, 4) == b"KDBG":
                return block
        return listed

    def _compare_with_ram(self, shared: SharedData) -> Tuple[str, ...]:
        """A warning if the image is shorter than the machine's RAM."""
        present = self._image.memory.present_pages
        if shared.physical_pages is None or present >= shared.physical_pages:
            return ()
        return (
            f"the file holds {format_bytes(present << 12)} of memory, "
            f"the machine has {format_bytes(shared.physical_pages << 12)}",
        )

    def _not_found(self) -> DumpFormatError:
        path, image = self._file.path, self._image
        if self._search.is_zero and self._search.complete:
            return describe_zeros(path)
        searched = f"its first {format_bytes(self._search.searched_bytes)}"
        where = "all of it" if self._search.complete else searched
        tried = f"{count_things(len(self._refused), 'page table')} tried"
        found = f"{image.kind} without a Windows kernel ({where} searched, {tried})"
        hint = f"of x64 Windows only; another system, or memory cut, encrypted or packed look so. {NMI}"
        return DumpFormatError(path, 0, found, "the kernel of x64 Windows", hint)


def _order_modes(candidate: Candidate) -> Tuple[PagingMode, ...]:
    """Four levels of page tables and five; first what the registers say. They may be those of a hypervisor inside."""
    return (X64_FIVE_LEVELS, X64) if candidate.has_five_levels else (X64, X64_FIVE_LEVELS)


def _make_view(memory: MachineMemory, table: int, mode: PagingMode) -> AddressSpaceView:
    space = AddressSpace(mode, memory, table)
    return AddressSpaceView(VirtualMemory(memory, space), space)


def _read_build(view: AddressSpaceView, nt: NtImage) -> Optional[int]:
    """What nt exports as NtBuildNumber: older systems do not put it into their shared data."""
    address = find_export(view, nt, b"NtBuildNumber")
    data = None if address is None else view.read(address, 4)
    return None if data is None else (int.from_bytes(data, "little") & 0xFFFF) or None


def _read_header(path: str, image: MachineImage) -> Optional[DumpHeader]:
    """The dump's header that the container holds, if it is of an x64 kernel: other systems put other things there."""
    if image.header is None:
        return None
    try:
        header = parse_header_bytes(path, image.header)
    except DumpFormatError:
        return None
    return header if header.machine is Machine.X64 else None
