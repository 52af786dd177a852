"""Which rows of a snapshot to show, and in which order: pure functions on the model."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Optional, Sequence, Tuple

from pykdext.model import Allocation, PoolKind, PoolSnapshot, PoolTag, PoolUsage, TagUsage, Trend, UsageRow

SORT_KEYS = ("bytes", "outstanding", "allocs", "frees", "tag")


@dataclass(frozen=True)
class Selection:
    """What the user wants to see.

    Attributes:
        pools: the sides to show. patterns: WinDbg wildcards (``*``, ``?``), any of which must match; none: all tags.
        sort: one of ``SORT_KEYS``; numbers descend, tags ascend. top: at most so many rows; None: all.
    """

    pools: Tuple[PoolKind, ...] = tuple(PoolKind)
    patterns: Tuple[str, ...] = ()
    sort: str = "bytes"
    top: Optional[int] = None


def match_text(pattern: str, text: str) -> bool:
    """Whether a WinDbg wildcard (``*``, ``?``) matches all of a text; case counts, brackets are themselves."""
    expression = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def match_tag(pattern: str, tag: PoolTag) -> bool:
    """Whether a wildcard names the tag; blanks at the end of a tag need not be typed."""
    return any(match_text(pattern, text) for text in (tag.text, tag.text.rstrip(" ")))


def select_usages(snapshot: PoolSnapshot, selection: Selection) -> Tuple[UsageRow, ...]:
    """The sides of the matching tags that were ever used, sorted and cut to ``top``."""
    rows = [
        UsageRow(row.tag, pool, row.usage(pool))
        for row in _matching(snapshot, selection)
        for pool in selection.pools
        if not row.usage(pool).is_idle
    ]
    key = _sort_key(selection.sort)
    rows.sort(key=lambda row: (key(row.tag, (row.usage,)), row.tag, row.pool.value))
    return tuple(rows[: selection.top])


def select_tags(snapshot: PoolSnapshot, selection: Selection) -> Tuple[TagUsage, ...]:
    """The matching tags that were ever used in one of the pools, sorted by the sum of these and cut to ``top``."""
    rows = [
        row for row in _matching(snapshot, selection) if not all(row.usage(pool).is_idle for pool in selection.pools)
    ]
    key = _sort_key(selection.sort)
    rows.sort(key=lambda row: (key(row.tag, [row.usage(pool) for pool in selection.pools]), row.tag))
    return tuple(rows[: selection.top])


def select_trends(
    trends: Sequence[Trend], pool: Optional[str], patterns: Sequence[str], top: Optional[int]
) -> Tuple[Trend, ...]:
    """The trends of the matching tags in their order, cut to ``top``; ``pool`` None: of both pools."""
    wanted = [trend for trend in trends if pool in (None, trend.pool.value) and matches_any(patterns, trend.tag)]
    return tuple(wanted[:top])


def count_sizes(blocks: Iterable[Allocation]) -> Tuple[Tuple[int, int], ...]:
    """How many blocks there are of each size in bytes; the size that holds the most bytes first."""
    counts = Counter(block.size_bytes for block in blocks)
    return tuple(sorted(counts.items(), key=lambda entry: (-entry[0] * entry[1], entry[0])))


def matches_any(patterns: Sequence[str], tag: PoolTag) -> bool:
    """Whether one of the wildcards names the tag, or there are none."""
    return not patterns or any(match_tag(pattern, tag) for pattern in patterns)


def _matching(snapshot: PoolSnapshot, selection: Selection) -> Iterable[TagUsage]:
    return (row for row in snapshot.tags if matches_any(selection.patterns, row.tag))


_SortKey = Callable[[PoolTag, Sequence[PoolUsage]], int]


def _sort_key(sort: str) -> _SortKey:
    counters: Dict[str, Callable[[PoolUsage], Optional[int]]] = {
        "bytes": lambda usage: usage.bytes,
        "outstanding": lambda usage: usage.outstanding,
        "allocs": lambda usage: usage.allocs,
        "frees": lambda usage: usage.frees,
        "tag": lambda usage: 0,
    }
    counter = counters[sort]
    return lambda tag, usages: -sum(counter(usage) or 0 for usage in usages)


def describe_misspelt_tags(tags: Iterable[PoolTag], rows: Sequence[TagUsage]) -> Tuple[str, ...]:
    """A line for each tag that no row bears, though one does in other case, with other blanks, or backwards."""
    known = {row.tag for row in rows}
    alike: Dict[bytes, PoolTag] = {}
    for row in sorted(rows, key=lambda row: row.nonpaged.bytes or row.paged.bytes or 0):  # the largest is meant
        alike[_spell(row.tag.raw[::-1])] = row.tag
    alike.update({_spell(row.tag.raw): row.tag for row in rows})
    missing = [tag for tag in tags if tag not in known and _spell(tag.raw) in alike]
    return tuple(f"no block bears {tag.text}: did you mean {alike[_spell(tag.raw)].text}?" for tag in missing)


def describe_misspelt_patterns(patterns: Sequence[str], rows: Sequence[TagUsage]) -> Tuple[str, ...]:
    """A line for each wildcard that names no tag of the rows, with the tag that it names in other case, if any."""
    lines = []
    for pattern in patterns:
        if any(match_tag(pattern, row.tag) for row in rows):
            continue
        alike = [row for row in rows if match_text(pattern.strip().lower(), row.tag.text.strip().lower())]
        largest = max(alike, key=lambda row: row.nonpaged.bytes or row.paged.bytes or 0, default=None)
        guess = f": did you mean {largest.tag.text.strip()}?" if largest else ""
        lines.append(f"--tag {pattern} names no tag that is listed{guess}")
    return tuple(lines)


def _spell(raw: bytes) -> bytes:
    """The letters of a tag, whatever their case and the blanks around them."""
    return raw.strip(b" \0").lower()
