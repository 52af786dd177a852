"""The page frame database: what each page of the machine's memory is used for.

Layouts: _MMPFN and the regions of _MI_VISIBLE_STATE by the public symbols of x64 kernels. Chunks of 4,096 records
repeat, so that the database of a large machine takes few pages of the dump.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Counter, Dict, List, Optional, Tuple

from dumps.forge.architectures import X64
from dumps.forge.kernels import KernelBuild
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES

RECORD_BYTES = 0x30
CHUNK_RECORDS = 0x1000
_CHUNK_PAGES = CHUNK_RECORDS * RECORD_BYTES // PAGE_BYTES
_CHUNKS = 8
_SLOT_BYTES = 1 << 39
_HEAPS = [0x1_0000_0000 * (3 + 977 * number) for number in range(24)]  # where processes have most of their pages
_HEAP_PAGES = 0x30000

_VARIABLES = {
    "MmPteBase": {14393: 0x3A6328, 17763: 0x540370, 19041: 0xCFB358, 20348: 0xD0F398, 22000: 0xD05410},
    "MiVisibleState": {14393: 0x3A6338, 17763: 0x540390, 19041: 0xCFB390, 20348: 0xD0F3D0, 22000: 0xD05450},
}
_HIGHEST_PAGE_AT = {14393: 0x1888, 17763: 0x1BC8, 19041: 0x1B08, 20348: 0x4148, 22000: 0x4148}  # MiSystemPartition
_REGIONS_AT = {14393: 0x760, 17763: 0xB50, 19041: 0xBC8, 20348: 0xBD0, 22000: 0xBD0}
_VISIBLE_STATE_AT = {14393: 0x1380, 17763: 0x24C0, 19041: 0x2600, 20348: 0x4200, 22000: 0x4400}  # MiState.Vs
_OLD_REGIONS = ["nonpaged", "paged", "cache", "PTEs", "ultra-zero", "PFN", "CFG", "hyperspace"]
_NEW_REGIONS = ["PFN", "nonpaged", "paged", "cache", "PTEs", "ultra-zero", "CFG", "hyperspace", "stacks", "tables"]
_REGION_ORDER = {
    14393: [*_OLD_REGIONS, "tables", "special", "session", "set 1", "set 2", "images"],
    17763: [*_OLD_REGIONS, "stacks", "tables", "special 1", "special 2", "session", "images"],
    19041: [*_OLD_REGIONS, "stacks", "tables", "session", "secure", "images"],
    20348: [*_NEW_REGIONS, "session", "secure", "shadow", "images"],
    26200: [
        *("PFN", "nonpaged", "paged", "cache", "PTEs", "sanitizer", "ultra-zero", "CFG", "hyperspace", "stacks"),
        *("PTEs not cached", "working sets", "tables", "unused", "secure", "shadow", "views", "images"),
    ],
    22000: [*_NEW_REGIONS, "session", "secure", "shadow", "images"],
}
_ZEROED, _FREE, _STANDBY, _MODIFIED, _NO_WRITE, _ACTIVE, _TRANSITION = 0, 1, 2, 3, 4, 6, 7

USUAL_SHARES: Dict[str, int] = {
    "zeroed": 200, "free": 30, "standby": 900, "modified": 120, "modified no write": 6, "transition": 8,
    "private": 1400, "shareable": 500, "tables": 90, "large": 60, "nonpaged": 300, "paged": 180, "cache": 120,
    "PTEs": 90, "stacks": 30, "images": 50, "hyperspace": 4, "no PTE": 8,
}  # fmt: skip
"""How many of 4,096 frames have a use on a healthy machine."""


@dataclass(frozen=True)
class FramePlan:
    """How many frames have records, beginning with frame 0, and what shares of them (of a sum) have a use."""

    frames: int
    shares: Dict[str, int]


def page_frame_variables(kernel: KernelBuild) -> Dict[str, int]:
    """Return the further variables of this kernel by which the database is read."""
    if kernel.architecture is not X64:
        return {}
    return {name: places[kernel.build] for name, places in _VARIABLES.items() if kernel.build in places}


def write_page_frames(parts: Parts, database_va: int, plan: FramePlan) -> Tuple[Dict[str, int], Dict[int, int]]:
    """Write the database and the regions of system space; return the frames by use, and private ones by PID.

    Where processes have page tables of their own, these stand in the first chunk, which nothing repeats.
    """
    regions = _write_regions(parts, database_va)
    highest_at = _HIGHEST_PAGE_AT.get(parts.kernel.memory_build)
    if highest_at is not None:
        place = parts.variable("MiSystemPartition") + highest_at
        parts.space.store(place, struct.pack("<Q", plan.frames - 1))
    chunks = [_Chunk(parts, regions, plan.shares, number) for number in range(_CHUNKS)]
    total: Counter[str] = Counter()
    private: Counter[int] = Counter()
    for first in range(0, plan.frames, CHUNK_RECORDS):
        chunk = parts.chance.choice(chunks)
        if not first and parts.frame_owners is not None:
            chunk = _Chunk(parts, regions, plan.shares, _CHUNKS, parts.frame_owners.list_tables())
        for number, frame in enumerate(chunk.frames):
            parts.space.map_page(database_va + first * RECORD_BYTES + number * PAGE_BYTES, frame)
        total.update(chunk.uses)
        private.update(chunk.private)
    return dict(total), dict(private)


class _Chunk:
    """4,096 records in 48 pages; ``tables`` are page tables of processes, by the numbers of their records."""

    def __init__(
        self,
        parts: Parts,
        regions: Dict[str, int],
        shares: Dict[str, int],
        number: int,
        tables: Optional[Dict[int, Tuple[int, int]]] = None,
    ) -> None:
        chance = random.Random(f"frames {parts.kernel.build} {number}")
        uses = chance.choices(list(shares), list(shares.values()), k=CHUNK_RECORDS)
        self.private: Counter[int] = Counter()
        records = []
        for place, use in enumerate(uses):
            if tables and place in tables:
                uses[place] = "tables"
                records.append(_pack_record(parts, "tables", regions, chance, *tables[place]))
            elif use in ("private", "transition") and parts.frame_owners is not None:
                pid, parent = parts.frame_owners.choose_parent(chance)
                self.private[pid] += 1
                records.append(_pack_record(parts, use, regions, chance, None, parent))
            else:
                records.append(_pack_record(parts, use, regions, chance))
        data = b"".join(records)
        self.uses = {use: uses.count(use) for use in shares}
        self.frames: List[int] = []
        for offset in range(0, len(data), PAGE_BYTES):
            frame = parts.space.frames.take()
            parts.space.memory.page(frame)[:] = data[offset : offset + PAGE_BYTES]
            self.frames.append(frame)


def _write_regions(parts: Parts, database_va: int) -> Dict[str, int]:
    """Return where each kind of page is mapped; later kernels keep that in a table."""
    kernel, slot = parts.kernel, -_SLOT_BYTES
    taken = {start & slot for start in (parts.regions.nonpaged.start, parts.regions.paged.start, kernel.base)}
    entries = kernel.architecture.entries
    taken |= {
        database_va & slot,
        entries.pte_base,
        parts.regions.tables.start & slot,
        parts.regions.processors.start & slot,
    }
    free = (va for va in range(0xFFFF880000000000, 0xFFFFF00000000000, _SLOT_BYTES) if va not in taken)
    starts = {
        "nonpaged": parts.regions.nonpaged.start & slot,
        "paged": parts.regions.paged.start & slot,
        "PFN": database_va & slot,
        "tables": entries.pte_base,
        "images": kernel.base & slot,
    }
    order = _REGION_ORDER.get(kernel.build) or _REGION_ORDER.get(kernel.memory_build, [])
    for name in [*order, "cache", "PTEs", "stacks", "hyperspace"]:
        if name not in starts:
            starts[name] = next(free)
    parts.addresses.update((f"region:{name}", start) for name, start in starts.items())
    if order:
        state = parts.variable("MiState") + _VISIBLE_STATE_AT[kernel.memory_build]
        table = b"".join(struct.pack("<QQ", starts[name], _SLOT_BYTES) for name in order)
        parts.space.store(state + _REGIONS_AT[kernel.memory_build], table)
        parts.set_variable("MiVisibleState", state)
        parts.set_variable("MmPteBase", entries.pte_base)
    return starts


def _pack_record(
    parts: Parts,
    use: str,
    regions: Dict[str, int],
    chance: random.Random,
    entry: Optional[int] = None,
    parent: Optional[int] = None,
) -> bytes:
    lists = {
        "zeroed": _ZEROED,
        "free": _FREE,
        "standby": _STANDBY,
        "modified": _MODIFIED,
        "modified no write": _NO_WRITE,
        "transition": _TRANSITION,
    }
    location, prototype = lists.get(use, _ACTIVE), use in ("shareable", "standby")
    late = parts.kernel.build >= 19041
    flags = (chance.getrandbits(36) if parent is None else parent) | (1 << (63 if late else 57) if prototype else 0)
    entry = _entry_va(parts, use, regions, chance) if entry is None else entry
    record = bytearray(RECORD_BYTES)
    old = parts.kernel.build < 14393
    struct.pack_into("<Q", record, 0x10 if old else 0x8, entry)
    struct.pack_into("<H", record, 0x18 if old else 0x20, 1 if location == _ACTIVE else 0)
    record[0x1A if old else 0x22] = location | 0x40 | (0x10 if chance.random() < 0.3 else 0)
    struct.pack_into("<Q", record, 0x28, flags)
    return bytes(record)


def _entry_va(parts: Parts, use: str, regions: Dict[str, int], chance: random.Random) -> int:
    """Return the address of the page table entry that maps the frame."""
    pte_va = parts.kernel.architecture.entries.pte_va
    if use in ("zeroed", "free"):
        return 0
    if use in ("shareable", "standby"):
        return regions["paged"] + chance.getrandbits(30) * 8  # a prototype entry, in paged pool
    if use == "no PTE":
        return regions["nonpaged"] + chance.getrandbits(24) * 8
    if use == "tables":
        return pte_va(pte_va(parts.regions.nonpaged.start))
    if use == "large":
        return pte_va(pte_va(parts.addresses["page:large"]))
    if use in ("private", "modified", "modified no write", "transition"):
        heap = chance.choice(_HEAPS)
        return pte_va(heap + (chance.randrange(_HEAP_PAGES) << 12))
    return pte_va(regions[use] + (chance.randrange(1 << 24) << 12))


def plan_frames(frames: int, **changes: int) -> FramePlan:
    """Return a healthy machine's plan, with other shares for some uses."""
    return FramePlan(frames, {**USUAL_SHARES, **changes})
