"""Tags that grow together, and which of them holds the others.

When a driver keeps a reference to a file, everything that Windows made for that file stays too: file object, name,
file system's control block. Their tags grow by equal or whole-number counts of blocks. The counts do not tell who keeps
whom, but the frees do: a victim was freed normally all the other times, the cause seldom or never was.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Callable, Iterable, Iterator, List, Optional, Sequence, Tuple

from pykdext.model import (
    Change,
    Diff,
    LockstepGroup,
    LockstepMember,
    PoolKind,
    PoolTag,
    PoolUsage,
    Role,
)

IsObject = Callable[[PoolTag], bool]
"""Tells the tags of kernel objects, which Windows allocates on behalf of somebody else."""

MIN_GROWN_BLOCKS = 500
"""Smaller counts are equal by chance."""

EQUAL_TOLERANCE = 0.025
"""Measured leaks of one cause: 1.000, 1.002, 1.022 (the file objects, which others open and close as well)."""

MULTIPLE_TOLERANCE = 0.005
"""The same for 2 to ``MAX_RATIO`` blocks each time (measured: 1.999), narrower because there are more chances."""

MAX_RATIO = 4

ALIKE_SHARE = 0.05
"""Shares ever freed that differ by no more than this tell nothing apart."""

SELDOM_FREED = 0.10
"""If all members are freed more often than this, none of them is the cause."""


@dataclass(frozen=True)
class BlockCount:
    """A tag in one pool with its ``blocks``: those it grew by. ``usage`` is since boot."""

    tag: PoolTag
    pool: PoolKind
    blocks: int
    usage: PoolUsage


def no_objects(tag: PoolTag) -> bool:
    """Knows no tag of a kernel object."""
    del tag
    return False


def iter_delta_blocks(diff: Diff) -> Iterator[BlockCount]:
    """What grew between two snapshots, for ``find_lockstep``."""
    for delta in diff.deltas:
        if Change.UNLISTED in delta.changes:
            continue
        if delta.outstanding is not None and delta.outstanding >= MIN_GROWN_BLOCKS:
            yield BlockCount(delta.tag, delta.pool, delta.outstanding, delta.after)


def find_lockstep(counts: Iterable[BlockCount], is_object: IsObject = no_objects) -> Tuple[LockstepGroup, ...]:
    """Groups of two tags or more with equal or whole-number counts of blocks, the largest group first.

    A tag is in one group at most: that of the reference which the most tags go with.
    """
    left = sorted(
        (count for count in counts if count.blocks > 0), key=lambda count: (count.blocks, count.tag, count.pool.value)
    )
    return tuple(
        LockstepGroup(number, _rank_members(members, is_object)) for number, members in enumerate(_iter_groups(left), 1)
    )


def _iter_groups(left: List[BlockCount]) -> Iterator[List[BlockCount]]:
    """Takes group after group out of ``left``, which ascends, the largest first; of equal ones that of fewer blocks.

    A group only shrinks while others are taken, so its last known size bounds it, and only the one that is the largest
    by these bounds has to be counted anew. Else thousands of counts close to each other would cost their square.
    """
    blocks = [count.blocks for count in left]
    bounds = [(-_count_followers(blocks, reference), reference) for reference in dict.fromkeys(blocks)]
    heapify(bounds)
    while bounds and bounds[0][0] <= -2:
        bound, reference = heappop(bounds)
        place = bisect_left(blocks, reference)
        if place == len(blocks) or blocks[place] != reference:
            continue  # it went with another group
        size = -_count_followers(blocks, reference)
        if size > bound:
            heappush(bounds, (size, reference))
            continue
        ranges = list(_iter_ranges(blocks, reference))
        yield [count for first, end in ranges for count in left[first:end]]
        for first, end in reversed(ranges):
            del blocks[first:end], left[first:end]


def _count_followers(blocks: Sequence[int], reference: int) -> int:
    return sum(end - first for first, end in _iter_ranges(blocks, reference))


def _iter_ranges(blocks: Sequence[int], reference: int) -> Iterator[Tuple[int, int]]:
    """The indices, first and end, of the ``blocks`` that go with ``reference``, for each ratio; they ascend."""
    for ratio in range(1, MAX_RATIO + 1):
        tolerance = EQUAL_TOLERANCE if ratio == 1 else MULTIPLE_TOLERANCE
        first = bisect_left(blocks, reference * ratio * (1 - tolerance))
        yield first, bisect_right(blocks, reference * ratio * (1 + tolerance), first)


def _rank_members(counts: Sequence[BlockCount], is_object: IsObject) -> Tuple[LockstepMember, ...]:
    """The members with their roles, the likeliest cause first."""
    shares = [share for count in counts if not is_object(count.tag) and (share := count.usage.freed_share) is not None]
    extremes = (min(shares), max(shares)) if shares else (0.0, 0.0)
    members = [_judge_member(count, is_object(count.tag), extremes) for count in counts]
    order = [Role.CAUSE, Role.UNKNOWN, Role.VICTIM, Role.OBJECT]
    members.sort(
        key=lambda member: (
            order.index(member.role),
            1.0 if member.freed_share is None else member.freed_share,
            -member.blocks,
            member.tag,
            member.pool.value,
        )
    )
    return tuple(replace(member, ratio=member.blocks / members[0].blocks) for member in members)


def _judge_member(count: BlockCount, is_object: bool, extremes: Tuple[float, float]) -> LockstepMember:
    """The role by the share ever freed, compared with the least and the most of all members that are no objects."""
    share = count.usage.freed_share
    role, reason = _find_role(share, is_object, *extremes)
    return LockstepMember(count.tag, count.pool, count.blocks, 1.0, share, role, reason)


def _find_role(share: Optional[float], is_object: bool, least: float, most: float) -> Tuple[Role, str]:
    if is_object:
        return Role.OBJECT, "made for somebody: ask for whom"
    if share is None:
        return Role.UNKNOWN, "its frees are not known"
    if share > least + ALIKE_SHARE:
        return Role.VICTIM, "freed when the cause lets go"
    if least > SELDOM_FREED and most <= least + ALIKE_SHARE:
        return Role.UNKNOWN, "all are freed alike"
    return Role.CAUSE, ("never freed" if share == 0 else "least freed") + ", holds the others"
