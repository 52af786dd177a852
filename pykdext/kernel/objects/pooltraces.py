"""Driver Verifier's log: the last calls that allocate and free pool by the drivers that it watches, with their stacks.

nt!VfPoolTraces is a ring of address, size, thread and stack; a call that frees looks like one that allocates. So only
the newest entry of an address counts, and only where the block is still in use: the header before it, that of special
pool on its page, or the big-page table bears the tag and the size. ``!verifier 80`` prints the same ring.

Sources: the types in Microsoft's public PDBs since Vista; public descriptions of the kernel for the ring's order;
ReactOS for the headers of special pool.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from pykdext.errors import TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.pages import PageReader
from pykdext.kernel.objects.stacks import StackReader
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.kernel.structs import iter_row_runs
from pykdext.model import PROTECTED_POOL, Allocation, PoolTag
from pykdext.model.traces import TrackedCaller
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

MAX_TRACES = 1 << 17
"""Longer ones are damage: Windows keeps some ten thousand entries."""

_SLACK_UNITS = 4
_SPECIAL_SIZE = 0x1FFF


class PoolTrace(NamedTuple):
    """The newest entry of one address."""

    address: int
    size: int
    stack: bytes


class PoolTraceLog:
    """The log of one kernel, by address. ``warnings``: what of it could not be read."""

    def __init__(self, kernel: Kernel, pages: PageReader, traces: Sequence[PoolTrace], warnings: Sequence[str]) -> None:
        self._kernel = kernel
        self._pages = pages
        self._stacks = StackReader(kernel)
        self.traces = tuple(traces)
        self.warnings = tuple(warnings)

    def find_callers(self, tags: Collection[PoolTag]) -> Tuple[TrackedCaller, ...]:
        """The places in drivers that made the last logged call for blocks of ``tags`` in use, most blocks first."""
        keys = {key: tag for tag in tags for key in (tag.key, tag.key | PROTECTED_POOL)}
        big: Mapping[int, Allocation] = {}
        if tags and any(trace.address % PAGE_BYTES == 0 for trace in self.traces):
            with suppress(TargetError):
                found = read_big_pages(self._kernel, tags).allocations
                big = {block.address: block for block in found}
        blocks: Counter[Tuple[str, int, PoolTag]] = Counter()
        sizes: Counter[Tuple[str, int, PoolTag]] = Counter()
        for trace in self.traces:
            block = big.get(trace.address)
            is_big = block is not None and 0 <= block.size_bytes - trace.size <= PAGE_BYTES
            tag = block.tag if block is not None and is_big else keys.get(self._key_of(trace) or 0)
            place = None if tag is None else self._stacks.find_driver(trace.stack)
            if tag is not None and place is not None:
                blocks[(*place, tag)] += 1
                sizes[(*place, tag)] += trace.size
        return tuple(
            TrackedCaller(module, rva, tag, count, sizes[module, rva, tag], is_logged=True)
            for (module, rva, tag), count in blocks.most_common()
        )

    def _key_of(self, trace: PoolTrace) -> Optional[int]:
        """The tag's number in the header of a traced block; None: no block in use of this size is there."""
        width = self._kernel.target.pointer_size
        unit = 2 * width
        page, offset = trace.address & -PAGE_BYTES, trace.address % PAGE_BYTES
        if offset:
            head = self._number(trace.address - unit)
            units, in_use = (
                (head >> 16 & 0xFF, head >> 24 & 0xFF) if width == 8 else (head >> 16 & 0x1FF, head >> 25 & 0x7F)
            )
            room = (units - 1) * unit
            if in_use and trace.size <= room <= trace.size + _SLACK_UNITS * unit:
                return head >> 32
        special = self._number(page if offset else page + PAGE_BYTES - unit)
        return special >> 32 if trace.size and special & _SPECIAL_SIZE == trace.size else None

    def _number(self, address: int) -> int:
        return self._pages.number(address, 8) or 0


def read_pool_traces(kernel: Kernel, pages: PageReader) -> Optional[PoolTraceLog]:
    """The log of a kernel; None: Driver Verifier keeps none, or no symbols tell where it is."""
    ring = kernel.find_variable("VfPoolTraces")
    length_at, index_at = (kernel.find_symbol(name) for name in ("VfPoolTracesLength", "VfPoolTracesIndex"))
    form = kernel.struct("_VF_POOL_TRACE", "StackTrace")
    stack_at = None if form is None else form.offset("StackTrace")
    if not ring or length_at is None or index_at is None or form is None or stack_at is None or not form.size:
        return None
    length, newest = pages.number(length_at.address, 4), pages.number(index_at.address, 4)
    if length == 0:
        return None
    if length is None or newest is None or length > MAX_TRACES:
        lost = length is None or newest is None
        told = (
            "variables that are not in memory" if lost else f"a length of {length:,}, expected at most {MAX_TRACES:,}"
        )
        return PoolTraceLog(kernel, pages, (), (f"Driver Verifier's log: found {told}: not read",))
    width, step = kernel.target.pointer_size, form.size
    rows: Dict[int, bytes] = {}
    for number, run in iter_row_runs(kernel.target.read_present(ring, length * step), ring, step, length):
        rows.update((number + row, run[row * step : (row + 1) * step]) for row in range(len(run) // step))
    warnings: List[str] = []
    if len(rows) < length:
        warnings.append(f"Driver Verifier's log: {len(rows):,} of {count_things(length, 'entry', 'entries')} read")
    latest: Dict[int, PoolTrace] = {}
    for back in range(length):
        row = rows.get((newest - back) % length)
        address = int.from_bytes(row[:width], "little") if row else 0
        if row and address >= kernel.target.machine.kernel_start and address not in latest:
            latest[address] = PoolTrace(address, int.from_bytes(row[width : 2 * width], "little"), row[stack_at:])
    return PoolTraceLog(kernel, pages, tuple(latest.values()), warnings)
