"""What the pools hold and may hold, by the memory manager's own variables.

Sources: the symbols and types of 213 kernels (JPCERTCC/Windows-Symbol-Tables) and volatility's overlays. Since Windows
10 the variables are members of MiState, whose layout moves even between updates of one build: each candidate is
checked against the tag tables before it is believed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, Optional

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.plausible import LARGEST_POOL_BYTES
from pykdext.model import PoolKind, Struct, SystemMemory
from pykdext.model.layouts import make_struct
from pykdext.model.structtables import SOURCE, list_layouts
from pykdext.targets.protocol import PAGE_BYTES

LARGEST_COMMIT_BYTES = 1 << 50
"""More than any Windows can commit or use."""


_STATE_TYPE = "_MI_SYSTEM_INFORMATION"
_STATE_FIELDS = (
    "Pools.AllocatedNonPagedPool",
    "Vs.MaximumNonPagedPoolInPages",
    "Vs.PagedPoolInfo.AllocatedPagedPool",
    "Vs.SizeOfPagedPoolInPages",
)
"""What the pools hold and may hold, in pages: nonpaged, then paged."""

_PARTITION_TYPE = "_MI_PARTITION"
_PARTITION_FIELDS = (
    "Vp.TotalCommittedPages",
    "Vp.TotalCommitLimit",
    "Vp.NumberOfPhysicalPages",
    "Vp.AvailablePages",
)


def read_system_memory(kernel: Kernel, tagged_nonpaged: Optional[int], tagged_paged: Optional[int]) -> SystemMemory:
    """What the pools hold and may hold, as far as this build tells; all None where nothing plausible was found.

    ``tagged_nonpaged`` and ``tagged_paged`` are the sums of the tags, in bytes.
    """
    commit = read_commit(kernel)
    for memory in _iter_readings(kernel):
        if _is_plausible(memory, PoolKind.NONPAGED, tagged_nonpaged) and _is_plausible(
            memory, PoolKind.PAGED, tagged_paged
        ):
            return replace(
                commit,
                nonpaged_bytes=memory.nonpaged_bytes,
                nonpaged_limit_bytes=memory.nonpaged_limit_bytes,
                paged_bytes=memory.paged_bytes,
                paged_limit_bytes=memory.paged_limit_bytes,
            )
    return commit


def read_commit(kernel: Kernel) -> SystemMemory:
    """Commit charge and physical memory, and no more; all None if they contradict each other."""
    partition = kernel.find_symbol("MiSystemPartition")
    form = kernel.struct(_PARTITION_TYPE, *_PARTITION_FIELDS) if partition is not None else None
    if partition is not None and form is not None:
        pages = [_read_member(kernel, partition.address, form, path) for path in _PARTITION_FIELDS]
    else:
        names = ("MmTotalCommittedPages", "MmTotalCommitLimit", "MmNumberOfPhysicalPages", "MmAvailablePages")
        located = map(kernel.find_symbol, names)
        pages = [_read_pages(kernel, symbol.address) if symbol else None for symbol in located]
    committed, limit, physical, available = pages
    if not committed or not limit or committed > limit or limit > LARGEST_COMMIT_BYTES:
        return SystemMemory()
    found = SystemMemory(commit_bytes=committed, commit_limit_bytes=limit)
    if physical and (available or 0) <= physical <= LARGEST_COMMIT_BYTES:
        return replace(found, physical_bytes=physical, available_bytes=available)
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
        for form in _iter_state_forms(kernel):
            yield SystemMemory(*(_read_member(kernel, state.address, form, path) for path in _STATE_FIELDS))
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
    form = kernel.struct("_MM_PAGED_POOL_INFO", "AllocatedPagedPool")
    return None if info is None or form is None else _read_member(kernel, info.address, form, "AllocatedPagedPool")


def _iter_state_forms(kernel: Kernel) -> Iterator[Struct]:
    """The layouts of MiState: the one that is known, or every one that kernels of this build have."""
    form = kernel.struct(_STATE_TYPE, *_STATE_FIELDS)
    if form is None or form.has(*_STATE_FIELDS):
        yield from () if form is None else (form,)
        return
    facts = kernel.target.facts
    for shipped in list_layouts(_STATE_TYPE):
        if any(kernels.covers(facts.machine, facts.build or 0) for kernels in shipped.kernels):
            yield make_struct(_STATE_TYPE, SOURCE, shipped.layout, _STATE_FIELDS, lambda _: None)


def _read_member(kernel: Kernel, address: int, form: Struct, path: str) -> Optional[int]:
    """A count of pages in a structure, in bytes."""
    offset = form.offset(path)
    return None if offset is None else _read_pages(kernel, address + offset)


def _read_pages(kernel: Kernel, address: int) -> Optional[int]:
    """A count of pages, in bytes."""
    try:
        return kernel.read_pointer(address) * PAGE_BYTES
    except MemoryReadError:
        return None
