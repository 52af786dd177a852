"""Counters that cannot be: more than the machine has memory, or than the memory manager itself counts.

One flipped bit makes petabytes of a counter. Such a value is left out, as if it had not been read, and told.
"""

from __future__ import annotations

from dataclasses import replace
from typing import List, NamedTuple, Optional, Tuple

from pykdext.model import Machine, PoolKind, PoolTag, PoolUsage, SystemMemory, TagUsage
from pykdext.units import count_things, format_bytes

LARGEST_POOL_BYTES = 16 << 40
"""No Windows lets a pool grow beyond 16 TB (Microsoft: Memory Limits for Windows Releases)."""

_SMALLEST_BLOCK_BYTES = 8

_OVERHEAD = 1.25
_SLACK_BYTES = 16 << 20
"""The memory manager counts pages, with headers and free space: no tag holds so much more than it counts."""


class _Bound(NamedTuple):
    """So many bytes a pool may have at most, and whose bound that is, in words."""

    size_bytes: int
    reason: str


class Weighed(NamedTuple):
    """The rows with doubtful counters left out, the tags that have such, and what is said of them."""

    tags: Tuple[TagUsage, ...]
    doubtful: Tuple[PoolTag, ...]
    warnings: Tuple[str, ...]


def doubt_counters(tags: Tuple[TagUsage, ...], machine: Machine, memory: SystemMemory) -> Weighed:
    """Leave out what is beyond the address space, the physical memory (nonpaged pool) or the commit limit (paged).

    ``memory`` is what is known so far; where it has the pools' own counts no tag may hold more than those.
    """
    weighed: List[TagUsage] = []
    doubtful: List[PoolTag] = []
    warnings: List[str] = []
    bounds = {pool: _find_bound(pool, machine, memory) for pool in PoolKind}
    for row in tags:
        sides = []
        for pool in PoolKind:
            usage, complaint = _weigh(row.usage(pool), bounds[pool])
            sides.append(usage)
            if complaint:
                warnings.append(f"tag {row.tag.text}: {complaint} of the {pool.value} pool is doubtful and left out")
                doubtful.append(row.tag)
        weighed.append(TagUsage(row.tag, *sides))
    return Weighed(tuple(weighed), tuple(dict.fromkeys(doubtful)), tuple(warnings))


def _find_bound(pool: PoolKind, machine: Machine, memory: SystemMemory) -> _Bound:
    room = machine.address_end - machine.kernel_start
    bounds = [_Bound(min(room, LARGEST_POOL_BYTES), "Windows lets a pool have")]
    if pool is PoolKind.NONPAGED and memory.physical_bytes:
        bounds.append(_Bound(memory.physical_bytes, "this machine has memory"))
    if pool is PoolKind.PAGED and memory.commit_limit_bytes:
        bounds.append(_Bound(memory.commit_limit_bytes, "this machine can commit"))
    used = memory.used_bytes(pool)
    if used:
        bounds.append(_Bound(int(used * _OVERHEAD) + _SLACK_BYTES, "the memory manager counts in the pool"))
    return min(bounds)


def _weigh(usage: PoolUsage, bound: _Bound) -> Tuple[PoolUsage, Optional[str]]:
    """The usage without what is beyond the bound, and what that was in words."""
    complaints = []
    if usage.bytes is not None and usage.bytes > bound.size_bytes:
        complaints.append(
            f"{count_things(usage.bytes, 'byte')}, more than {bound.reason} ({format_bytes(bound.size_bytes)}),"
        )
        usage = replace(usage, bytes=None)
    if usage.outstanding is not None and usage.outstanding * _SMALLEST_BLOCK_BYTES > bound.size_bytes:
        complaints.append(
            f"{count_things(usage.outstanding, 'block')}, more than fit into {format_bytes(bound.size_bytes)},"
        )
        usage = replace(usage, allocs=None, frees=None, outstanding=None)
    return usage, " and ".join(complaints) or None
