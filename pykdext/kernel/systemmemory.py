"""What the pools hold and may hold, by the memory manager's own variables.

Sources: the symbols and types of 213 kernels (JPCERTCC/Windows-Symbol-Tables) and volatility's overlays. Since Windows
10 the variables are members of MiState, whose layout moves even between updates of one build: each candidate is
checked against the tag tables before it is believed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterator, NamedTuple, Optional

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.model import PoolKind, SystemMemory
from pykdext.targets.protocol import PAGE_BYTES

LARGEST_POOL_BYTES = 16 << 40
"""No Windows lets a pool grow beyond 16 TB (Microsoft: Memory Limits for Windows Releases)."""

LARGEST_COMMIT_BYTES = 1 << 50
"""More than any Windows can commit or use."""


class _StateOffsets(NamedTuple):
    """Members of MiState, in bytes from its start; all count pages."""

    nonpaged_used: int
    nonpaged_limit: int
    paged_used: int
    paged_limit: int


_MI_STATE = {
    14393: (_StateOffsets(0x18, 0x1420, 0x1418, 0x1428),),
    17763: (_StateOffsets(0x18, 0x2550, 0x2548, 0x2558),),
    18362: (_StateOffsets(0x8, 0x24B0, 0x24A8, 0x24B8),),
    # 19041.508 and later, then up to 19041.450
    19041: (_StateOffsets(0x8, 0x2630, 0x2628, 0x2638), _StateOffsets(0x8, 0x25F0, 0x25E8, 0x25F8)),
    20348: (_StateOffsets(0x8, 0x4230, 0x4228, 0x4238),),
    22000: (_StateOffsets(0x8, 0x4430, 0x4428, 0x4438),),
}

_ALLOCATED_PAGED_POOL = (
    # first build, offset of AllocatedPagedPool in MM_PAGED_POOL_INFO: 64-bit, 32-bit
    (9600, 0x60, 0x34),
    (9200, 0x58, 0x30),
    (6000, 0x60, 0x34),
    (3790, 0x38, 0x1C),
    (2600, None, 0x20),
)


class _PartitionOffsets(NamedTuple):
    """Members of MiSystemPartition, in bytes from its start; all count pages."""

    committed: int
    commit_limit: int
    physical: int
    available: int


def _partition(virtual_part: int, committed: int, commit_limit: int) -> _PartitionOffsets:
    """``virtual_part``: where the member Vp stands; the others count from there."""
    return _PartitionOffsets(
        virtual_part + committed, virtual_part + commit_limit, virtual_part + 0x10, virtual_part + 0xC0
    )


_MI_SYSTEM_PARTITION = {
    14393: _partition(0x1880, 0x3A8, 0x428),
    17763: _partition(0x1BC0, 0x228, 0x2A8),
    18362: _partition(0x1EC0, 0x228, 0x2A8),
    19041: _partition(0x1B00, 0x228, 0x2A8),
    20348: _partition(0x4140, 0x228, 0x318),
    22000: _partition(0x4140, 0x228, 0x318),
}


def read_system_memory(kernel: Kernel, tagged_nonpaged: Optional[int], tagged_paged: Optional[int]) -> SystemMemory:
    """What the pools hold and may hold, as far as this build tells; all None where nothing plausible was found.

    ``tagged_nonpaged`` and ``tagged_paged`` are the sums of the tags, in bytes.
    """
    for memory in _iter_readings(kernel):
        if _is_plausible(memory, PoolKind.NONPAGED, tagged_nonpaged) and _is_plausible(
            memory, PoolKind.PAGED, tagged_paged
        ):
            return replace(memory, **_read_commit(kernel))
    return SystemMemory(**_read_commit(kernel))


def _read_commit(kernel: Kernel) -> Dict[str, Optional[int]]:
    """Commit charge and physical memory, as fields of SystemMemory; nothing if they contradict each other."""
    partition = kernel.find_symbol("MiSystemPartition")
    offsets = _MI_SYSTEM_PARTITION.get(kernel.target.facts.build or 0)
    if partition is not None and offsets is not None:
        pages = [_read_pages(kernel, partition.address + offset) for offset in offsets]
    else:
        names = ("MmTotalCommittedPages", "MmTotalCommitLimit", "MmNumberOfPhysicalPages", "MmAvailablePages")
        located = map(kernel.find_symbol, names)
        pages = [_read_pages(kernel, symbol.address) if symbol else None for symbol in located]
    committed, limit, physical, available = pages
    if not committed or not limit or committed > limit or limit > LARGEST_COMMIT_BYTES:
        return {}
    found: Dict[str, Optional[int]] = {"commit_bytes": committed, "commit_limit_bytes": limit}
    if physical and (available or 0) <= physical <= LARGEST_COMMIT_BYTES:
        found.update(physical_bytes=physical, available_bytes=available)
    return found


def _is_plausible(memory: SystemMemory, pool: PoolKind, tagged: Optional[int]) -> bool:
    """The pool holds about what its tags count (plus headers and free space), and no more than it may."""
    used, limit = memory.used_bytes(pool), memory.limit_bytes(pool)
    if limit is not None and not (used or tagged or 0) <= limit <= LARGEST_POOL_BYTES:
        return False
    return used is None or tagged is None or tagged // 2 <= used <= 4 * tagged + (1 << 30)


def _iter_readings(kernel: Kernel) -> Iterator[SystemMemory]:
    """What each way of reading gives; the first plausible one is right."""
    state = kernel.find_symbol("MiState")
    if state is not None:
        for offsets in _MI_STATE.get(kernel.target.facts.build or 0, ()):
            yield SystemMemory(
                nonpaged_bytes=_read_pages(kernel, state.address + offsets.nonpaged_used),
                nonpaged_limit_bytes=_read_pages(kernel, state.address + offsets.nonpaged_limit),
                paged_bytes=_read_pages(kernel, state.address + offsets.paged_used),
                paged_limit_bytes=_read_pages(kernel, state.address + offsets.paged_limit),
            )
        return
    nonpaged = kernel.find_symbol("MmAllocatedNonPagedPool")
    yield SystemMemory(
        nonpaged_bytes=_read_pages(kernel, nonpaged.address) if nonpaged else None,
        nonpaged_limit_bytes=kernel.find_variable("MmMaximumNonPagedPoolInBytes"),
        paged_bytes=_allocated_paged_pool(kernel),
        paged_limit_bytes=kernel.find_variable("MmSizeOfPagedPoolInBytes"),
    )


def _allocated_paged_pool(kernel: Kernel) -> Optional[int]:
    info = kernel.find_symbol("MmPagedPoolInfo") or kernel.find_symbol("MmPagedPoolInformation")
    build = kernel.target.facts.build
    if info is None or build is None:
        return None
    for first_build, offset64, offset32 in _ALLOCATED_PAGED_POOL:
        if build >= first_build:
            offset = offset64 if kernel.target.pointer_size == 8 else offset32
            return None if offset is None else _read_pages(kernel, info.address + offset)
    return None


def _read_pages(kernel: Kernel, address: int) -> Optional[int]:
    """A count of pages, in bytes."""
    try:
        return kernel.read_pointer(address) * PAGE_BYTES
    except MemoryReadError:
        return None
