"""What speaks for a leak in the numbers of one tag, and what against it: each trait in points and in words.

One state holds no growth, so that a tag is judged by what leaks have in common, as a reader of the table does it: how
large it is on this machine, how far it stands above the next tags and above what is usual of it, how many blocks are
outstanding, how few were ever freed, and who owns it. The points were chosen by the states of
``python -m tests.benchmarks verdicts``; no trait alone makes or unmakes a suspect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.growth.usual import MachineSize, estimate_usual_bytes
from pykdext.model import Confidence, PoolKind, PoolSnapshot, PoolUsage, TagClass, TagOwners, TagUsage, Usual
from pykdext.units import choose_form, count_things, format_bytes, format_share

SUSPICIOUS_SCORE = 6
"""Fewer points are common on healthy machines."""

NOTED_SHARE, LARGE_SHARE, OVERWHELMING_SHARE = 0.08, 0.30, 0.60
"""Of a pool; not even the caches of Windows hold the last of these while all is well."""

NOTED_BYTES, LARGE_BYTES, HUGE_BYTES = 256 << 20, 1 << 30, 4 << 30
NOTED_MEMORY_SHARE = 0.10
PROMINENT_TIMES, TOWERING_TIMES = 2.5, 5.0
COMPARED_TAGS = 3
"""With fewer other tags of the pool in the list, the next one is no measure."""

LITTLE_MEMORY_SHARE = 0.01
"""Of the machine's memory: less hangs it in no near future."""

NEARLY_FULL, FULL = 0.80, 0.90
"""Of a pool's limit: in such a pool even a tag that is small on this machine hangs it."""

EXCUSED_SHARE = 0.90
"""A pool that is one tag to this extent is not excused by what is usual."""

MANY_BLOCKS, VERY_MANY_BLOCKS = 20_000, 500_000
FEW_BLOCKS = 1_000
"""With fewer allocations the share that was freed says nothing: buffers that live as long as the system."""

NEVER_FREED, SELDOM_FREED, OFTEN_KEPT = 0.01, 0.10, 0.50
USUAL_TIMES, UNUSUAL_TIMES = 3.0, 10.0
COMPANION_TOLERANCE = 0.025
"""Tags whose counts agree as well as that are one leak: the one is not what the other is compared with."""


class Trait(NamedTuple):
    """A reason for the suspicion (points above 0), against it (below 0), or a remark (0)."""

    points: int
    words: str


@dataclass(frozen=True)
class PoolView:
    """One pool of a state, as its tags are compared in it.

    ``is_counted`` is false where processors' tables are missing: ``bytes`` and what tags hold is then what the others
    count, and no share means anything.
    ``bytes`` is what it holds. ``is_whole``: that is the whole pool, not the rows that somebody chose to list.
    ``rows`` are its tags, the largest first. ``backing_bytes``: the memory of the machine or, where that is less or
    alone known, its commit limit; ``backing`` says which. ``filled`` is how much of the pool's limit it
    holds, 0.0 to 1.0; 0.0 where that is not known or cannot be.
    ``name`` is the pool in words.
    """

    pool: PoolKind
    bytes: int
    is_whole: bool
    rows: Tuple[TagUsage, ...]
    size: MachineSize
    backing_bytes: Optional[int]
    backing: str
    filled: float
    name: str
    is_counted: bool = True

    @classmethod
    def of(cls, snapshot: PoolSnapshot, pool: PoolKind) -> Optional[PoolView]:
        """The pool in ``snapshot``; None where nothing of it is known."""
        is_counted = not snapshot.coverage.lacks_counts
        total = snapshot.pool_bytes(pool) or snapshot.counted_bytes(pool)
        if not total:
            return None
        rows = sorted(
            (row for row in snapshot.tags if row.usage(pool).bytes), key=lambda row: -(row.usage(pool).bytes or 0)
        )
        bounds = (
            (snapshot.memory.physical_bytes, "the machine's memory"),
            (snapshot.memory.commit_limit_bytes, "the commit limit"),
        )
        known = [(size, words) for size, words in bounds if size]
        backing_bytes, backing = min(known) if known else (None, "")
        limit = snapshot.memory.limit_bytes(pool)
        filled = total / limit if limit and total <= limit else 0.0
        return cls(
            pool,
            total,
            snapshot.is_whole(pool),
            tuple(rows),
            MachineSize.of(snapshot),
            backing_bytes,
            backing,
            filled,
            snapshot.name_pool(pool),
            is_counted,
        )

    def find_others(self, row: TagUsage) -> List[int]:
        """What the other tags hold that do not go along with ``row``, the largest first."""
        counted = row.usage(self.pool).outstanding
        return [
            held.bytes or 0
            for other in self.rows
            if other is not row and (held := other.usage(self.pool)) and not _goes_along(held.outstanding, counted)
        ]


def iter_traits(row: TagUsage, view: PoolView, known: Optional[TagOwners]) -> Iterator[Trait]:
    """All that the numbers of a tag in a pool, and what is known of the tag, say for or against a leak."""
    usage = row.usage(view.pool)
    share = (usage.bytes or 0) / view.bytes if view.is_counted else 0.0
    if not view.is_counted:
        yield Trait(0, "counted in the tables that were read alone")
    yield from _share_traits(view, share)
    if view.filled >= NEARLY_FULL and share >= LARGE_SHARE:
        yield Trait(3 if view.filled >= FULL else 2, f"the pool is filled to {format_share(view.filled)} of its limit")
    yield from _size_traits(view, usage)
    if view.is_counted:
        yield from _prominence_traits(view, row)
    yield from _count_traits(usage)
    yield from _lifetime_traits(usage)
    yield from _owner_traits(known)
    yield from _habit_traits(known, view, usage, share)


def _share_traits(view: PoolView, share: float) -> Iterator[Trait]:
    of_what = f"of the {view.name}" if view.is_whole else f"of what is listed of the {view.name}"
    words = f"holds {format_share(share)} {of_what}"
    if share >= OVERWHELMING_SHARE:
        yield Trait(3 if view.is_whole else 2, words)
    elif share >= LARGE_SHARE:
        yield Trait(2 if view.is_whole else 1, words)
    elif share >= NOTED_SHARE:
        yield Trait(1, words)


def _size_traits(view: PoolView, usage: PoolUsage) -> Iterator[Trait]:
    held = usage.bytes or 0
    points = 4 if held >= HUGE_BYTES else 2 if held >= LARGE_BYTES else 1 if held >= NOTED_BYTES else 0
    if points:
        yield Trait(points, f"holds {format_bytes(held)}")
    if view.backing_bytes and held <= view.backing_bytes:
        share = held / view.backing_bytes
        words = f"that is {format_share(share)} of {view.backing}"
        if share >= NOTED_MEMORY_SHARE:
            yield Trait(1, words)
        elif share < LITTLE_MEMORY_SHARE and view.filled < NEARLY_FULL:
            yield Trait(-2, f"but {words}")


def _prominence_traits(view: PoolView, row: TagUsage) -> Iterator[Trait]:
    others = view.find_others(row)
    if not others:
        return
    times = (row.usage(view.pool).bytes or 0) / others[0]
    words = f"holds {times:,.{1 if times < 1000 else 0}f} times as much as the next tag"
    if times >= TOWERING_TIMES:
        yield Trait(2 if len(others) >= COMPARED_TAGS else 1, words)
    elif times >= PROMINENT_TIMES and len(others) >= COMPARED_TAGS:
        yield Trait(1, words)


def _count_traits(usage: PoolUsage) -> Iterator[Trait]:
    blocks = usage.outstanding
    if blocks is None:
        return
    if blocks >= MANY_BLOCKS:
        yield Trait(
            2 if blocks >= VERY_MANY_BLOCKS else 1,
            f"{count_things(blocks, 'block')} {choose_form(blocks, 'is', 'are')} outstanding",
        )
    elif blocks < FEW_BLOCKS and (usage.allocs is None or usage.allocs < FEW_BLOCKS):
        yield Trait(-3, f"but in {count_things(blocks, 'block')} only: buffers for life look like that")


def _lifetime_traits(usage: PoolUsage) -> Iterator[Trait]:
    freed = usage.freed_share
    if freed is None or (usage.allocs or 0) < FEW_BLOCKS:
        return
    if freed > OFTEN_KEPT:
        if (usage.bytes or 0) < NOTED_BYTES:
            yield Trait(-1, f"but {format_share(freed)} of its allocations were freed")
        return
    points = 3 if freed <= NEVER_FREED else 2 if freed <= SELDOM_FREED else 1
    words = "nothing" if freed == 0 else f"only {format_share(freed)}"
    yield Trait(points, f"{words} of {count_things(usage.allocs, 'allocation')} was ever freed")


def _owner_traits(known: Optional[TagOwners]) -> Iterator[Trait]:
    if known is None:
        return
    foreign = [owner for owner in known.owners if owner.part_of_windows is False]
    if foreign and foreign[0].confidence is not Confidence.POSSIBLE:
        yield Trait(2, f"{foreign[0].module} is not part of Windows")
    elif not known.owners and not known.descriptions:
        yield Trait(0, "no tag list and no image knows the tag")


def _habit_traits(known: Optional[TagOwners], view: PoolView, usage: PoolUsage, share: float) -> Iterator[Trait]:
    """What healthy machines hold of the tag; where a pool is one tag, nothing excuses that."""
    descriptions = known.descriptions if known else ()
    measured = _compare_with_usual(known, view, usage)
    if measured is not None:
        times, expected, usual = measured
        seen = f"are no wonder on such a machine (an estimate, not seen: {usual.source})"
        if not usual.is_analogy:
            seen = f"are usual on such a machine ({usual.source})"
        words = f"up to {format_bytes(expected)} {seen}"
        if times <= 1 and not (view.is_whole and share >= EXCUSED_SHARE):
            yield Trait(-3 if usual.is_analogy else -4, f"but {words}")
        elif times <= USUAL_TIMES:
            yield Trait(-1 if usual.is_analogy else -2, f"but {words}")
        else:
            yield Trait(2 if times >= UNUSUAL_TIMES and not usual.is_analogy else 1, words)
    elif any(item.tag_class is TagClass.CACHE for item in descriptions) and not (
        view.is_whole and share >= OVERWHELMING_SHARE
    ):
        yield Trait(-2, "but this tag is large on healthy systems too")


def _compare_with_usual(
    known: Optional[TagOwners], view: PoolView, usage: PoolUsage
) -> Optional[Tuple[float, int, Usual]]:
    usual = next((item.usual for item in known.descriptions if item.usual), None) if known else None
    if usual is None:
        return None
    expected = estimate_usual_bytes(usual, usage, view.size)
    return ((usage.bytes or 0) / expected, expected, usual) if expected else None


def _goes_along(blocks: Optional[int], other: Optional[int]) -> bool:
    if not blocks or not other or min(blocks, other) < FEW_BLOCKS:
        return False
    return abs(blocks - other) <= COMPANION_TOLERANCE * max(blocks, other)


def add_up(traits: Sequence[Trait]) -> int:
    """The score of a tag."""
    return sum(trait.points for trait in traits)
