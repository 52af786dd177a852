"""Images that miss the hole below 4 GiB: memory above it stands lower in the file than its address.

Machines with more than some 2 to 3.5 GiB have a hole for devices that ends at 4 GiB. Some tools write the ranges of
memory one behind the other, without a list. Two witnesses say so: the top page tables of other processes, each of
which names its own page, and the headers of the loaded drivers.
"""

from __future__ import annotations

import math
import time
from typing import Iterator, NamedTuple, Optional, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.memory import FileRanges, MachineMemory, MemoryRange
from pykdext.targets.machine.ntimage import AddressSpaceView
from pykdext.targets.machine.pagetables import find_self_entry
from pykdext.targets.paging.addressspace import DEMAND_ZERO, PagingMode
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import format_bytes

HOLE_END = 1 << 32
"""Where every hole for devices ends."""

_USUAL_HOLES = (0xC0000000, 0x80000000, 0xE0000000, 0xB0000000)
"""Where it begins in VMware and in QEMU's i440fx, in QEMU's q35 (with little and much memory)."""

_MIN_HOLE, _MAX_HOLE = 1 << 20, 2 << 30
_SEARCH_SECONDS = 30.0
_MAX_MODULES = 512
_ENTRY_BYTES = 8
_SHARED_ADDRESS = 0xFFFFF780_00000000
"""Its entry of the top table is the same in all processes of a boot."""

_TABLE_MASK = 0x000FFFFF_FFFFF000


class Vote(NamedTuple):
    """Drivers whose header lies above 2 GiB: how many are where the page tables say, and how many are not."""

    right: int
    wrong: int

    @property
    def is_good(self) -> bool:
        """Nothing speaks against the layout."""
        return self.wrong * 4 <= self.right or not self.wrong

    def is_better_than(self, other: Vote) -> bool:
        """More drivers are where they should be."""
        return self.right > other.right and self.wrong < other.wrong


def vote_on_layout(view: AddressSpaceView, memory: MachineMemory, module_list: int) -> Vote:
    """Whether the headers of drivers that lie high in memory are there."""
    right = wrong = 0
    entry = view.read_pointer(module_list)
    seen: Set[int] = {module_list}
    while entry and entry not in seen and len(seen) < _MAX_MODULES:
        seen.add(entry)
        base = view.read_pointer(entry + 0x30)
        physical = view.space.translate(base) if base else None
        if physical is not None and physical != DEMAND_ZERO and physical >= _MAX_HOLE:
            try:
                is_right = memory.read_physical(physical, 2) == b"MZ"
            except MemoryReadError:
                is_right = False
            right, wrong = right + is_right, wrong + (not is_right)
        entry = view.read_pointer(entry)
    if entry is None:
        wrong += 1  # a loader entry itself is not where it should be
    return Vote(right, wrong)


def iter_layouts(
    file: FileBytes, memory: MachineMemory, table: int, mode: PagingMode, ends_at: float = math.inf
) -> Iterator[Tuple[FileRanges, str, bool]]:
    """The file with a hole put in, in the order of likelihood, each with a note that says so.

    The last value: whether the tables of other processes prove the hole's size; they are looked for until the time
    ``ends_at`` (of ``time.monotonic``) at most.
    """
    if not isinstance(memory, FileRanges):
        return
    tried: Set[int] = set()
    shift = _find_shift(memory, table, mode, ends_at)
    proven = None if shift is None else HOLE_END - shift
    for start in (*(() if proven is None else (proven,)), *_USUAL_HOLES):
        if start in tried or start >= file.size:
            continue
        tried.add(start)
        ranges = (MemoryRange(0, 0, start), MemoryRange(HOLE_END, start, file.size - start))
        note = (
            f"the hole of {format_bytes(HOLE_END - start)} below 4 GiB is cut out of the file: "
            f"what stands at 0x{start:x} is memory from 0x{HOLE_END:x} on"
        )
        yield FileRanges(file, ranges, memory.warnings, is_padded=memory.is_padded), note, start == proven


def _find_shift(memory: FileRanges, table: int, mode: PagingMode, ends_at: float) -> Optional[int]:
    """By how many bytes the top tables of other processes stand too low in the file; None if none does."""
    try:
        own = memory.read_physical(table, PAGE_BYTES)
    except MemoryReadError:
        return None
    slot = find_self_entry(own, table)
    top = mode.levels[0]
    at = (_SHARED_ADDRESS >> top.shift & top.index_mask) * _ENTRY_BYTES
    needle = own[at : at + _ENTRY_BYTES]
    if slot is None or not needle.strip(b"\0"):
        return None
    ends_at = min(ends_at, time.monotonic() + _SEARCH_SECONDS)
    for address, data in memory.iter_pieces(_MAX_HOLE, memory.end_address):
        found = data.find(needle)
        while found >= 0:
            start = found - at
            if start >= 0 and (address + start) % PAGE_BYTES == 0 and start + PAGE_BYTES <= len(data):
                entry = int.from_bytes(data[start + slot * 8 : start + slot * 8 + 8], "little")
                shift = (entry & _TABLE_MASK) - (address + start)
                if entry & 1 and _MIN_HOLE <= shift <= _MAX_HOLE:
                    return shift
            found = data.find(needle, found + 1)
        if time.monotonic() > ends_at:
            break
    return None
