"""What Windows records when it is asked to: references to objects (gflags) and the handles of a process (!htrace).

Types of the public symbols of x64 kernels; the tables of references as public descriptions of the kernel have them.
"""

from __future__ import annotations

import struct
from typing import Dict, List, Mapping, Sequence, Tuple

from dumps.forge.modules import LoadedModules
from dumps.forge.objects.truth import ObjectTruth, TracedTruth
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES

_CHAINS = 0x191
_PIECE_STACKS = 0x400
_STACK_BYTES = 0x80
_INFO_START, _ENTRY_BYTES = 0x24, 0xC
_INFO_BYTES = 0x200
_REFERENCE = 0x8000
_TRACING = 0x11
_DEBUG_INFO = {7601: 0x38}
_EVENTS = 512
_EVENT_BYTES, _EVENTS_START = 0xA0, 0x50
_USER_VA = 0x7FF6A1B2C3D4
_TABLE_BYTES = (0x8088 + PAGE_BYTES - 1) & -PAGE_BYTES


class TraceWriter:
    """Writes the traces of one machine; ``variables`` are those of nt that public symbols tell."""

    def __init__(self, parts: Parts, modules: LoadedModules, variables: Mapping[str, int]) -> None:
        self._parts = parts
        self._modules = modules
        self._variables = variables
        nt = parts.kernel.base + parts.kernel.functions["ExAllocatePoolWithTag"]
        self._inside = (nt + 0x31, nt + 0x77)
        self._stacks: List[bytes] = []
        self._numbers: Dict[Tuple[int, ...], int] = {}

    def write_references(self, driver: str, headers: Sequence[int], truth: ObjectTruth) -> None:
        """Let every object be made and given back by nt, used by another driver, and be kept by this one."""
        if "ObpObjectTable" not in self._variables:
            return
        space = self._parts.space
        keeper_va, user_va = (self._modules.pointers_into(name)[0] for name in (driver, "afd.sys"))
        kept_at, rare_at = keeper_va + 0x41, keeper_va + 0x88
        chains = [0] * _CHAINS
        kept = 0
        for number, header in enumerate(headers):
            events: List[Tuple[int, Tuple[int, ...]]] = [
                (1, ()),
                (1, (user_va + 0x12,)),
                (-1, (user_va + 0x50,)),
                (1, (kept_at,)),
                (-1, ()),
            ]
            if number % 4 == 0:
                events += [(1, (rare_at,)), (1, (kept_at,)), (-1, (keeper_va + 0x99,))]
            kept += 2 if number % 4 == 0 else 1
            va = self._parts.regions.nonpaged.take(_INFO_BYTES, alignment=0x10)
            chain = (header + 0x30 >> 4 & 0xFFFFF) % _CHAINS
            info = struct.pack("<QQ16sHH", header, chains[chain], b"svchost.exe", len(events), 508 // _ENTRY_BYTES)
            for sequence, (step, callers) in enumerate(events):
                index = self._stack(callers) | (_REFERENCE if step > 0 else 0)
                info += struct.pack("<IHHI", number * 16 + sequence, index, 1, 0x6C666444)
            space.store(va, info.ljust(_INFO_BYTES, b"\0"))
            chains[chain] = va
        table_va = self._parts.regions.nonpaged.take(PAGE_BYTES)
        space.store(table_va, struct.pack(f"<{_CHAINS}Q", *chains).ljust(PAGE_BYTES, b"\0"))
        space.store(self._variables["ObpObjectTable"], struct.pack("<Q", table_va))
        space.store(self._variables["ObpStackTable"], struct.pack("<Q", self._write_stacks()))
        space.store(self._variables["ObpTraceFlags"], struct.pack("<I", _TRACING))
        truth.traced = TracedTruth(driver, kept_at - self._modules.base(driver), kept, len(headers))

    def pack_handles(self, pid: int, handles: int) -> int:
        """Write the trace of a process that opened so many handles at one place of its own, and return its address."""
        events: List[Tuple[int, int, Tuple[int, ...]]] = []
        for number in range(min(handles, _EVENTS // 2)):
            stack = (*self._inside, _USER_VA, _USER_VA + 0x1000)
            events.append((4 * number + 0x1000, 1, stack))
            if number % 8 == 7:  # one that it opened elsewhere, one that it closed
                events += [(4 * number + 0x9000, 1, (*self._inside, _USER_VA + 0x777)), (4 * number + 0x1000, 2, stack)]
        events = events[-_EVENTS:]
        newest = 3 * _EVENTS + 100
        ring = [bytes(_EVENT_BYTES)] * _EVENTS
        for back, (handle, kind, frames) in enumerate(reversed(events)):
            event = struct.pack(f"<QQQII{len(frames)}Q", pid, 0x44, handle, kind, 0, *frames)
            ring[(newest - back) % _EVENTS] = event.ljust(_EVENT_BYTES, b"\0")
        data = struct.pack("<II", 1, _EVENTS).ljust(0x48, b"\0") + struct.pack("<I", newest)
        data = data.ljust(_EVENTS_START, b"\0") + b"".join(ring)
        va = self._parts.regions.paged.take(-(-len(data) // PAGE_BYTES) * PAGE_BYTES)
        self._parts.space.store(va, data)
        return va

    def debug_info_offset(self) -> int:
        """Return where a table keeps the address of its trace."""
        return _DEBUG_INFO.get(self._parts.kernel.build, 0x60)

    def _stack(self, callers: Sequence[int]) -> int:
        stack = (self._inside[0], *callers, self._inside[1])
        if stack not in self._numbers:
            self._numbers[stack] = len(self._stacks)
            self._stacks.append(struct.pack(f"<{len(stack)}Q", *stack).ljust(_STACK_BYTES, b"\0"))
        return self._numbers[stack]

    def _write_stacks(self) -> int:
        piece_va = self._parts.regions.nonpaged.take(_PIECE_STACKS * _STACK_BYTES)
        pieces = b"".join(self._stacks).ljust(_PIECE_STACKS * _STACK_BYTES, b"\0")
        self._parts.space.store(piece_va, pieces)
        table_va = self._parts.regions.nonpaged.take(_TABLE_BYTES)
        head = struct.pack("<HHIQ", len(self._stacks), _PIECE_STACKS, 0, piece_va)
        self._parts.space.store(table_va, head.ljust(0x88, b"\0").ljust(_TABLE_BYTES, b"\xff"))
        return table_va
