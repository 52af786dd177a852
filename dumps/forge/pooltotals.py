"""What the memory manager counts: how much of each pool and of commit is in use, and how much may be.

Places: global variables up to Windows 8.1 (public symbols, volatility's overlays for members of MmPagedPoolInfo),
members of nt!MiState and nt!MiSystemPartition later (public symbols of x64 kernels).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Dict, Iterable, Optional, Tuple

from dumps.forge.kernels import KernelBuild
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES, SPAN_PAGES
from dumps.forge.trackertables import TagTruth

Limits = Dict[str, Tuple[Optional[int], Optional[int]]]

_MIB = 1 << 20
_FIRST_VISTA, _WINDOWS_7 = 6000, 7601
_COMMIT_LIMIT_PAGES = SPAN_PAGES * 9 // 8
# Pages are never filled to the last byte, and some of the pools carry no tag.
_UNTAGGED_NONPAGED_PAGES, _UNTAGGED_PAGED_PAGES = 977, 1211
_OTHER_COMMIT_PAGES = 0x2A318

# (32-bit, build) -> offset of AllocatedPagedPool in MmPagedPoolInfo.
_ALLOCATED_PAGED_POOL = {
    (True, 2600): 0x20,
    (True, 3790): 0x1C,
    (True, 6002): 0x34,
    (True, 7601): 0x34,
    (True, 9600): 0x34,
    (False, 3790): 0x38,
    (False, 6002): 0x60,
    (False, 7601): 0x60,
    (False, 9600): 0x60,
}


@dataclass(frozen=True)
class _PartitionOffsets:
    """Where nt!MiSystemPartition (x64) keeps numbers of pages."""

    physical: int
    committed: int
    commit_limit: int


_PARTITIONS = {
    14393: _PartitionOffsets(0x1880 + 0x10, 0x1880 + 0x3A8, 0x1880 + 0x428),
    17763: _PartitionOffsets(0x1BC0 + 0x10, 0x1BC0 + 0x228, 0x1BC0 + 0x2A8),
    19041: _PartitionOffsets(0x1B00 + 0x10, 0x1B00 + 0x228, 0x1B00 + 0x2A8),
    20348: _PartitionOffsets(0x4140 + 0x10, 0x4140 + 0x228, 0x4140 + 0x318),
    22000: _PartitionOffsets(0x4140 + 0x10, 0x4140 + 0x228, 0x4140 + 0x318),
}


@dataclass(frozen=True)
class PoolTotals:
    """Pages in use of both pools, and their limits in bytes."""

    nonpaged_pages: int
    paged_pages: int
    nonpaged_limit_bytes: int
    paged_limit_bytes: int

    @property
    def committed_pages(self) -> int:
        """Committed pages of the whole system."""
        return self.nonpaged_pages + self.paged_pages + _OTHER_COMMIT_PAGES


def count_totals(kernel: KernelBuild, tags: Iterable[TagTruth]) -> PoolTotals:
    """Return the totals of a machine: a little more than its tags add up to."""
    counters = list(tags)
    return PoolTotals(
        nonpaged_pages=sum(tag.nonpaged_bytes for tag in counters) // PAGE_BYTES + _UNTAGGED_NONPAGED_PAGES,
        paged_pages=sum(tag.paged_bytes for tag in counters) // PAGE_BYTES + _UNTAGGED_PAGED_PAGES,
        nonpaged_limit_bytes=nonpaged_limit_bytes(kernel),
        paged_limit_bytes=paged_limit_bytes(kernel),
    )


def nonpaged_limit_bytes(kernel: KernelBuild) -> int:
    """Return the limit of nonpaged pool: three quarters of the memory up to Windows 7, 16 TB later.

    On 32-bit systems the addresses are the limit: 256 MB before Vista, then most of what paged pool leaves.
    """
    if kernel.architecture.narrow:
        return (256 if kernel.build < _FIRST_VISTA else 760) * _MIB
    return SPAN_PAGES * PAGE_BYTES * 3 // 4 if kernel.build <= _WINDOWS_7 else 16 << 40


def paged_limit_bytes(kernel: KernelBuild) -> int:
    """Return the limit of paged pool: 128 GB up to Windows 7, 15.5 TB later; 490, 530 or 1024 MB on 32-bit systems."""
    if kernel.architecture.narrow:
        return {2600: 490, 3790: 530}.get(kernel.build, 1024) * _MIB
    return 128 << 30 if kernel.build <= _WINDOWS_7 else 31 << 39


def write_totals(parts: Parts, totals: PoolTotals, physical_pages: int) -> Limits:
    """Write the totals where this kernel keeps them, and return (used, limit) in bytes of what can be found."""
    kernel = parts.kernel
    nonpaged_used = nonpaged_limit = paged_used = committed = None
    variables = {
        "MmSizeOfPagedPoolInBytes": totals.paged_limit_bytes,
        "MmMaximumNonPagedPoolInBytes": totals.nonpaged_limit_bytes,
        "MmAllocatedNonPagedPool": totals.nonpaged_pages,
        "MmNumberOfPhysicalPages": physical_pages,
        "MmTotalCommittedPages": totals.committed_pages,
        "MmTotalCommitLimit": _COMMIT_LIMIT_PAGES,
    }
    for name, value in variables.items():
        if name in kernel.variables:
            parts.set_variable(name, value)
    if "MmAllocatedNonPagedPool" in kernel.variables or "MiState" in kernel.variables:
        nonpaged_used, nonpaged_limit = totals.nonpaged_pages, totals.nonpaged_limit_bytes
    if "MmPagedPoolInfo" in kernel.variables:
        offset = _ALLOCATED_PAGED_POOL[kernel.architecture.narrow, kernel.build]
        allocated = kernel.architecture.pack_pointers(totals.paged_pages)
        parts.space.store(parts.variable("MmPagedPoolInfo") + offset, allocated)
        paged_used = totals.paged_pages
    if "MiState" in kernel.variables:
        _write_state(parts, totals)
        paged_used = totals.paged_pages if kernel.sizes.allocated_paged_pages else None
    if "MiSystemPartition" in kernel.variables:
        _write_partition(parts, totals, physical_pages)
    if "MmTotalCommittedPages" in kernel.variables or "MiSystemPartition" in kernel.variables:
        committed = totals.committed_pages
    return {
        "nonpaged": (_as_bytes(nonpaged_used), nonpaged_limit),
        "paged": (_as_bytes(paged_used), totals.paged_limit_bytes),
        "commit": (_as_bytes(committed), _as_bytes(None if committed is None else _COMMIT_LIMIT_PAGES)),
    }


def _write_state(parts: Parts, totals: PoolTotals) -> None:
    """Write the members of nt!MiState that replaced the pools' global variables."""
    sizes = parts.kernel.sizes
    members = [
        (sizes.allocated_nonpaged_pages, totals.nonpaged_pages),
        (sizes.maximum_nonpaged_pages, totals.nonpaged_limit_bytes // PAGE_BYTES),
        (sizes.maximum_nonpaged_pages + 8, totals.paged_limit_bytes // PAGE_BYTES),
    ]
    if sizes.allocated_paged_pages:
        members.append((sizes.allocated_paged_pages, totals.paged_pages))
        members.append((sizes.nonpaged_commit_pages, totals.nonpaged_pages))
    _write_numbers(parts, parts.variable("MiState"), members)


def _write_partition(parts: Parts, totals: PoolTotals, physical_pages: int) -> None:
    offsets = _PARTITIONS[parts.kernel.memory_build]
    members = [
        (offsets.physical, physical_pages),
        (offsets.committed, totals.committed_pages),
        (offsets.commit_limit, _COMMIT_LIMIT_PAGES),
    ]
    _write_numbers(parts, parts.variable("MiSystemPartition"), members)


def _write_numbers(parts: Parts, va: int, members: Iterable[Tuple[int, int]]) -> None:
    for offset, value in members:
        parts.space.store(va + offset, struct.pack("<Q", value))


def _as_bytes(page_count: Optional[int]) -> Optional[int]:
    return None if page_count is None else page_count * PAGE_BYTES
