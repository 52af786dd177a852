"""Tags that grow together, and which of them holds the others.

When a driver keeps a reference to a file, everything that Windows made for that file stays too: file object, name,
file system's control block. Their tags grow by equal or whole-number counts of blocks. The counts do not tell who keeps
whom, but the frees do: a victim was freed normally all the other times, the cause seldom or never was.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import Callable, Iterable, Iterator, List, Optional, Sequence, Tuple

from pykdext.model import (
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
        if delta.outstanding is not None and delta.outstanding >= MIN_GROWN_BLOCKS:
            yield BlockCount(delta.tag, delta.pool, delta.outstanding, delta.after)


def find_lockstep(counts: Iterable[BlockCount], is_object: IsObject = no_objects) -> Tuple[LockstepGroup, ...]:
    """Groups of two tags or more with equal or whole-number counts of blocks, the largest group first.

    A tag is in one group at most: that of the reference which the most tags go with.
    """
    left = sorted(
        (count for count in counts if count.blocks > 0), key=lambda count: (count.blocks, count.tag, count.pool.value)
    )
    groups: List[LockstepGroup] = []
    while left:
        members = _largest_group(left)
        if len(members) < 2:
            break
        groups.append(LockstepGroup(len(groups) + 1, _rank_members(members, is_object)))
        taken = {(member.tag, member.pool) for member in members}
        left = [count for count in left if (count.tag, count.pool) not in taken]
    return tuple(groups)


def _largest_group(counts: Sequence[BlockCount]) -> List[BlockCount]:
    """The counts that go with the reference that has the most followers; ``counts`` ascend."""
    blocks = [count.blocks for count in counts]
    return max((_followers(counts, blocks, reference) for reference in blocks), key=len)


def _followers(counts: Sequence[BlockCount], blocks: Sequence[int], reference: int) -> List[BlockCount]:
    found: List[BlockCount] = []
    for ratio in range(1, MAX_RATIO + 1):
        tolerance = EQUAL_TOLERANCE if ratio == 1 else MULTIPLE_TOLERANCE
        first = bisect_left(blocks, reference * ratio * (1 - tolerance))
        found += counts[first : bisect_right(blocks, reference * ratio * (1 + tolerance))]
    return found


def _rank_members(counts: Sequence[BlockCount], is_object: IsObject) -> Tuple[LockstepMember, ...]:
    """The members with their roles, the likeliest cause first."""
    shares = [share for count in counts if not is_object(count.tag) and (share := count.usage.freed_share) is not None]
    members = [_judge_member(count, is_object(count.tag), shares) for count in counts]
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


def _judge_member(count: BlockCount, is_object: bool, shares: Sequence[float]) -> LockstepMember:
    """The role by the share ever freed, compared with ``shares``, those of all members that are no objects."""
    share = count.usage.freed_share
    role, reason = _find_role(share, is_object, shares)
    return LockstepMember(count.tag, count.pool, count.blocks, 1.0, share, role, reason)


def _find_role(share: Optional[float], is_object: bool, shares: Sequence[float]) -> Tuple[Role, str]:
    if is_object:
        return Role.OBJECT, "made for somebody: ask for whom"
    if share is None:
        return Role.UNKNOWN, "its frees are not known"
    least, most = min(shares), max(shares)
    if share > least + ALIKE_SHARE:
        return Role.VICTIM, "freed when the cause lets go"
    if least > SELDOM_FREED and most <= least + ALIKE_SHARE:
        return Role.UNKNOWN, "all are freed alike"
    return Role.CAUSE, ("never freed" if share == 0 else "least freed") + ", holds the others"
