"""What the pools hold and may hold, by the memory manager's own variables.

Sources: the symbols and types of 213 kernels (JPCERTCC/Windows-Symbol-Tables) and volatility's overlays. Since Windows
10 the variables are members of MiState, whose layout moves even between updates of one build: each candidate is
checked against the tag tables before it is believed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterator, List, Mapping, Optional

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.limitinference import (
    PARTITION_FIELDS,
    PARTITION_TYPE,
    infer_pool_limits,
    locate_partition,
)
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

_COMMIT_SYMBOLS = ("MiSystemPartition", "MmTotalCommitLimit")


def read_system_memory(kernel: Kernel, tagged_nonpaged: Optional[int], tagged_paged: Optional[int]) -> SystemMemory:
    """What the pools hold and may hold, as far as this build tells; all None where nothing plausible was found.

    ``tagged_nonpaged`` and ``tagged_paged`` are the sums of the tags, in bytes.
    """
    commit = read_commit(kernel)
    tagged = {PoolKind.NONPAGED: tagged_nonpaged, PoolKind.PAGED: tagged_paged}
    pools = _read_pools(kernel, tagged)
    if pools.nonpaged_limit_bytes is None and _lacks_limits(kernel):
        inferred = infer_pool_limits(kernel, tagged_nonpaged or 0, tagged_paged or 0)
        if inferred.nonpaged_limit_bytes is not None:
            pools = replace(inferred, nonpaged_bytes=pools.nonpaged_bytes)
    return _join(commit, pools)


def list_inferred(kernel: Kernel, memory: SystemMemory) -> List[str]:
    """Which limits of ``memory`` no symbol tells, one line each."""
    found = []
    if memory.nonpaged_limit_bytes is not None and _lacks_limits(kernel):
        found.append("the pools' limits were inferred: just one place in nt's data agrees with the tags and the memory")
    if memory.commit_limit_bytes is not None and not any(map(kernel.find_symbol, _COMMIT_SYMBOLS)):
        found.append("the commit limit was inferred: just one place in nt's data agrees with the machine's memory")
    return found


def _lacks_limits(kernel: Kernel) -> bool:
    """Whether neither symbols nor layouts tell the limit of the nonpaged pool."""
    if kernel.find_symbol("MmMaximumNonPagedPoolInBytes") is not None:
        return False
    return kernel.find_symbol("MiState") is None or not any(True for _ in _iter_state_forms(kernel))


def _read_pools(kernel: Kernel, tagged: Mapping[PoolKind, Optional[int]]) -> SystemMemory:
    """By symbols: what the tags and the other numbers do not contradict."""
    readings = list(_iter_readings(kernel))
    if kernel.find_symbol("MiState") is None:  # each number has a variable of its own
        return _keep_plausible(readings[0], tagged)
    for memory in readings:
        if _is_plausible(memory, tagged):
            return _without_zeros(memory)
    partial = {memory for memory in map(_without_zeros, readings) if _is_plausible(memory, tagged)}
    if len(readings) > 1:  # a layout that is guessed needs a count that proves it
        partial = {memory for memory in partial if memory.nonpaged_bytes or memory.paged_bytes}
    return partial.pop() if len(partial) == 1 else SystemMemory()


def read_commit(kernel: Kernel) -> SystemMemory:
    """Commit charge and physical memory, and no more; what is contradicted by another number is left out.

    A limit is told without the charge, too, which may be zero or not in memory.
    """
    partition = locate_partition(kernel)
    form = kernel.struct(PARTITION_TYPE, *PARTITION_FIELDS) if partition is not None else None
    if partition is not None and form is not None:
        pages = [_read_member(kernel, partition, form, path) for path in PARTITION_FIELDS]
    else:
        names = ("MmTotalCommittedPages", "MmTotalCommitLimit", "MmNumberOfPhysicalPages", "MmAvailablePages")
        located = map(kernel.find_symbol, names)
        pages = [_read_pages(kernel, symbol.address) if symbol else None for symbol in located]
    committed, limit, physical, available = pages
    if not limit or (committed or 0) > limit or limit > LARGEST_COMMIT_BYTES:
        return SystemMemory()
    is_told = bool(physical) and (available or 0) <= (physical or 0) <= LARGEST_COMMIT_BYTES
    if not committed and form is not None and not (is_told and limit >= (physical or 0) // 2):
        return SystemMemory()  # a member of a layout that moves, which no other number confirms
    found = SystemMemory(commit_bytes=committed or None, commit_limit_bytes=limit)
    return replace(found, physical_bytes=physical, available_bytes=available) if is_told else found


def _join(commit: SystemMemory, pools: SystemMemory) -> SystemMemory:
    return replace(
        commit,
        nonpaged_bytes=pools.nonpaged_bytes,
        nonpaged_limit_bytes=pools.nonpaged_limit_bytes,
        paged_bytes=pools.paged_bytes,
        paged_limit_bytes=pools.paged_limit_bytes,
    )


def _without_zeros(memory: SystemMemory) -> SystemMemory:
    """No pool of a running kernel holds nothing or may hold nothing: a zero is a number that is not kept there."""
    return SystemMemory(
        nonpaged_bytes=memory.nonpaged_bytes or None,
        nonpaged_limit_bytes=memory.nonpaged_limit_bytes or None,
        paged_bytes=memory.paged_bytes or None,
        paged_limit_bytes=memory.paged_limit_bytes or None,
    )


def _keep_plausible(memory: SystemMemory, tagged: Mapping[PoolKind, Optional[int]]) -> SystemMemory:
    """Without the counters that the tags contradict, as one that is zero, and without limits that are exceeded."""
    kept: Dict[str, Optional[int]] = {}
    for pool in PoolKind:
        used, limit = memory.used_bytes(pool), memory.limit_bytes(pool)
        if not used or not _agrees(used, tagged[pool]):
            used = None
        if not limit or not (used or tagged[pool] or 0) <= limit <= LARGEST_POOL_BYTES:
            limit = None
        kept[f"{pool.value}_bytes"], kept[f"{pool.value}_limit_bytes"] = used, limit
    return SystemMemory(**kept)


def _is_plausible(memory: SystemMemory, tagged: Mapping[PoolKind, Optional[int]]) -> bool:
    """Each pool holds about what its tags count (plus headers and free space), and no more than it may."""
    for pool in PoolKind:
        used, limit = memory.used_bytes(pool), memory.limit_bytes(pool)
        if limit is not None and not (used or tagged[pool] or 0) <= limit <= LARGEST_POOL_BYTES:
            return False
        if not _agrees(used, tagged[pool]):
            return False
    return True


def _agrees(used: Optional[int], tagged: Optional[int]) -> bool:
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
