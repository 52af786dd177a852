"""Where the kernel's top page table may be: by registers, by the code that starts processors, by its entry for itself.

Every x64 kernel maps its page tables through one entry of the top table (PML4; PML5 where there are five levels) that
names the table's own page. The
code that Windows leaves below 1 MiB to start processors (low stub) holds the table's address. Sources: the published
work on MemProcFS, memflow and volatility; offsets of KPCR and KPRCB from Microsoft's public symbols.
"""

from __future__ import annotations

import struct
import time
from typing import Callable, Iterator, NamedTuple, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.machine.cpustate import LA57, CpuState
from pykdext.targets.machine.memory import MachineMemory
from pykdext.targets.machine.ntimage import AddressSpaceView
from pykdext.targets.protocol import PAGE_BYTES

SEARCH_SECONDS = 45.0
"""A search of all memory ends after this time: Windows makes its table within the first megabytes."""

_TABLE_MASK = 0x000FFFFF_FFFFF000
_KERNEL_BIT = 1 << 63
_PRESENT, _WRITABLE, _LARGE = 1, 2, 0x80
_UPPER_HALF = 0x800
_FIVE_BYTES = (1 << 40) - 1

_LOW_STUB_PAGES = range(1, 0x100)
_STUB_JUMP, _STUB_JUMP_MASK = 0x00000001_000600E9, 0xFFFFFFFF_FFFF00FF
_STUB_ENTRY_OFFSET, _STUB_ENTRY, _STUB_ENTRY_MASK = 0x70, 0xFFFFF800_00000000, 0xFFFFF800_00000003
_STUB_TABLE_OFFSET, _STUB_TABLE_MASK = 0xA0, 0xFFFFFF00_00000FFF
_STUB_CR4_OFFSET = 0xA8

_PRCB_OFFSET = 0x180
_KERNEL_TABLE_OFFSETS = (0x7000, 0x9000, 0xA000, 0x6000)
"""KPRCB.KernelDirectoryTableBase, counted from the KPCR: builds 9600-17763, 19041, 20348 and later, 7601."""

_STATE_CR3_OFFSETS = (_PRCB_OFFSET + 0x100 + 0x10, _PRCB_OFFSET + 0x40 + 0x10)
"""KPRCB.ProcessorState's Cr3, counted from the KPCR: builds from 17763 on, and before."""

Progress = Callable[[int, int], None]


class Candidate(NamedTuple):
    """What may be the kernel's top page table.

    ``method``: how it was found, in words. ``hints``: addresses that lie in nt, if this is the right table.
    ``has_five_levels``: the processor's own registers say so.
    """

    table: int
    method: str
    hints: Tuple[int, ...] = ()
    has_five_levels: bool = False
    module_list: Optional[int] = None
    debugger_data: Optional[int] = None


def clean_table(cr3: int) -> int:
    """The address in a CR3, without its flags (PCID, no flush)."""
    return cr3 & _TABLE_MASK


def find_by_registers(
    processors: Tuple[CpuState, ...], make_view: Callable[[int, bool], AddressSpaceView]
) -> Iterator[Candidate]:
    """What the processors' registers lead to: their tables, and those that their control regions name.

    A processor that was caught in user mode on a machine guarded against Meltdown has a table of little more than the
    way into the kernel; its KPCR names the whole one.
    """
    for cpu in processors:
        table = clean_table(cpu.cr3)
        five = _has_five_levels(cpu)
        view = make_view(table, five)
        hints = tuple(hint for hint in (cpu.entry, cpu.rip, _first_handler(view, cpu)) if hint and hint & _KERNEL_BIT)
        yield Candidate(table, "the processors' registers", hints, five)
    for cpu in processors:
        five = _has_five_levels(cpu)
        view = make_view(clean_table(cpu.cr3), five)
        hints = tuple(hint for hint in (cpu.entry, _first_handler(view, cpu)) if hint and hint & _KERNEL_BIT)
        for base in (cpu.gs_base, cpu.kernel_gs_base):
            if base is not None and base & _KERNEL_BIT and _is_control_region(view, base):
                for offset in (*_KERNEL_TABLE_OFFSETS, *_STATE_CR3_OFFSETS):
                    value = view.read_pointer(base + offset)
                    if value and clean_table(value):
                        yield Candidate(clean_table(value), "the processors' control regions", hints, five)


def _has_five_levels(cpu: CpuState) -> bool:
    return bool(cpu.cr4 is not None and cpu.cr4 & LA57)


def _first_handler(view: AddressSpaceView, cpu: CpuState) -> Optional[int]:
    """The address that the first entry of the interrupt table leads to: a place in nt."""
    entry = view.read(cpu.idt_base, 0x10) if cpu.idt_base else None
    if entry is None:
        return None
    low, middle, high = struct.unpack("<H4xHI4x", entry)
    return int(high << 32 | middle << 16 | low)


def _is_control_region(view: AddressSpaceView, base: int) -> bool:
    """A KPCR names itself and its KPRCB."""
    return view.read_pointer(base + 0x18) == base and view.read_pointer(base + 0x20) == base + _PRCB_OFFSET


def find_by_low_stub(memory: MachineMemory) -> Iterator[Candidate]:
    """What the code below 1 MiB that starts processors says."""
    for number in _LOW_STUB_PAGES:
        try:
            page = memory.read_physical(number * PAGE_BYTES, 0x200)
        except MemoryReadError:
            continue
        jump, entry, table = (
            int.from_bytes(page[at : at + 8], "little") for at in (0, _STUB_ENTRY_OFFSET, _STUB_TABLE_OFFSET)
        )
        if jump & _STUB_JUMP_MASK != _STUB_JUMP or entry & _STUB_ENTRY_MASK != _STUB_ENTRY:
            continue
        if table and not table & _STUB_TABLE_MASK:
            cr4 = int.from_bytes(page[_STUB_CR4_OFFSET : _STUB_CR4_OFFSET + 8], "little")
            yield Candidate(table, "the code that starts processors", (entry,), bool(cr4 & LA57))


class Search:
    """The search for pages that name themselves in one entry of their upper half.

    Attributes:
        searched_bytes: how far it went. complete: whether that was all memory. is_zero: nothing but zeros was seen.
    """

    def __init__(self, memory: MachineMemory, progress: Optional[Progress] = None) -> None:
        self._memory = memory
        self._progress = progress
        self.searched_bytes = 0
        self.complete = True
        self.is_zero = True

    def end(self) -> None:
        """Report that the search needs no more."""
        if self.searched_bytes:
            self._report(self.searched_bytes)

    def _report(self, total_bytes: int) -> None:
        if self._progress is not None:
            self._progress(self.searched_bytes, total_bytes)

    def find(self) -> Iterator[Candidate]:
        """The candidates, the lowest first."""
        ends_at = time.monotonic() + SEARCH_SECONDS
        end = self._memory.end_address
        limit = min(end, self._memory.searchable_bytes)
        for address, data in self._memory.iter_pieces(0, limit):
            self.is_zero = self.is_zero and not data.strip(b"\0")
            yield from (Candidate(table, "a search for its page tables") for table in _find_self_maps(address, data))
            self.searched_bytes = address + len(data)
            self._report(limit)
            if time.monotonic() > ends_at:
                self.complete = False
                return
        self.complete = limit == end


def _find_self_maps(address: int, data: bytes) -> Iterator[int]:
    """The pages of a piece of memory that exactly one entry of their upper half names."""
    find = data.find
    for at in range(-address % PAGE_BYTES, len(data) - PAGE_BYTES + 1, PAGE_BYTES):
        page = address + at
        # An entry's second to sixth byte: the low four bits are flags, of which Windows uses the highest.
        low = page >> 8 & _FIVE_BYTES
        for needle in (low.to_bytes(5, "little"), (low | 8).to_bytes(5, "little")):
            if find(needle, at + _UPPER_HALF, at + PAGE_BYTES) >= 0:
                if find_self_entry(data[at : at + PAGE_BYTES], page) is not None:
                    yield page
                break


def find_self_entry(page: bytes, address: int) -> Optional[int]:
    """The number of the one entry of a table's upper half that names ``address``, or None."""
    entries = struct.unpack_from("<256Q", page, _UPPER_HALF)
    found = [
        number
        for number, entry in enumerate(entries, 0x100)
        if entry & _TABLE_MASK == address and entry & _PRESENT and entry & _WRITABLE and not entry & _LARGE
    ]
    return found[0] if len(found) == 1 else None
