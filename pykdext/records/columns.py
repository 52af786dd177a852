"""What the titles of a table's columns mean: those of poolmon, of its clones, and of people who paste tables."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import PoolKind, PoolTag, PoolUsage
from pykdext.records.quantities import parse_count, parse_size
from pykdext.records.tagtable import tag_of_bytes, tag_of_text, unwrap_counts

MEMORY_FIELDS = {
    "systemnonpagedbytes": "nonpaged_bytes",
    "systempagedbytes": "paged_bytes",
    "systemcommitbytes": "commit_bytes",
    "systemcommitlimitbytes": "commit_limit_bytes",
    "systemphysicalbytes": "physical_bytes",
    "systemavailablebytes": "available_bytes",
}
"""Titles of the capture recipe for the memory manager's totals."""

POOL_UNNAMED = "the table does not say which pool it counts; its numbers are shown as nonpaged"

_FACTS = {
    "tag": "tag",
    "pooltag": "tag",
    "tagname": "tag",
    "hex": "hex",
    "type": "pool",
    "pool": "pool",
    "pooltype": "pool",
    "datetimeutc": "utc",
    "timeutc": "utc",
    "utc": "utc",
    "datetime": "time",
    "timestamp": "time",
    "time": "time",
    "date": "date",
    "host": "host",
    "hostname": "host",
    "computer": "host",
    "computername": "host",
    "pscomputername": "host",
    "machine": "host",
    "machinename": "host",
    "server": "host",
    "uptimeseconds": "uptime",
}
_COUNTERS = (
    ("outstanding", re.compile(r"outstanding|\bdiff|\blive\b|leaked|current alloc|in ?use|\bcount\b|blocks")),
    ("frees", re.compile(r"free")),
    ("bytes", re.compile(r"byte|used|usage|size")),
    ("allocs", re.compile(r"alloc")),
)
_NO_COUNTER = re.compile(
    r"\b(?:per|each|avg|average|mean|share|percent|total|peak|max|rate|growth|grew|change|delta|before|after|limit)\b|[/%]"
)
_NONPAGED = re.compile(r"non ?paged|\bnonp\b|\bnp\b|\bnpp\b")
_PAGED = re.compile(r"\bpaged|\bpp\b")
_BINARY_PREFIX = re.compile(r"(?<=[KMGT])i(?=B)")
_UNIT = re.compile(r"\b([kmgt])b(?:ytes?)?\b|\bbytes\b")
_PARENTHESES = re.compile(r"\([^)]{0,80}\)")
_HEX_TAG = re.compile(r"(?:[0-9a-fA-F]{2}){4}")
_DIGITS = 20
_NOTHING = frozenset(("", "-", "n/a", "N/A"))
_WORD_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\W]+")


class _Counter(NamedTuple):
    """A column of numbers: which cell, a field of ``PoolUsage``, the pool if the title names it, the unit of sizes."""

    cell: int
    field: str
    pool: Optional[PoolKind]
    unit: str


class TaggedUsage(NamedTuple):
    """One tag in one pool; ``pool`` is None where neither titles nor row say which."""

    tag: PoolTag
    pool: Optional[PoolKind]
    usage: PoolUsage


class Columns:
    """The columns of a table by their meaning.

    Attributes:
        count: how many cells a row has at least.
        has_rounded_sizes: a size was given in KB, MB or GB, by the titles or by a row that was read.
    """

    def __init__(self, facts: Dict[str, int], counters: Sequence[_Counter]) -> None:
        self._facts = facts
        self._sides: Dict[Optional[PoolKind], List[_Counter]] = {}
        for counter in counters:
            self._sides.setdefault(counter.pool, []).append(counter)
        self.count = 1 + max([*facts.values(), *(counter.cell for counter in counters)])
        self.has_rounded_sizes = any(counter.unit != "bytes" for counter in counters)

    def read_fact(self, fact: str, cells: Sequence[str]) -> str:
        """The text of a column that is no counter (``time``, ``host`` ...); empty if there is none."""
        place = self._facts.get(fact)
        return cells[place].strip() if place is not None and place < len(cells) else ""

    def read_row(self, cells: Sequence[str]) -> Tuple[TaggedUsage, ...]:
        """The tag's usage in each pool that the row tells about; empty if a cell is missing or cannot be read."""
        tag = self._read_tag(cells)
        if tag is None or len(cells) < self.count:
            return ()
        usages = []
        for pool, counters in self._sides.items():
            try:
                numbers = {counter.field: self._read_number(cells[counter.cell], counter) for counter in counters}
            except ValueError:
                return ()
            named = pool or find_pool(self.read_fact("pool", cells))
            usages.append(TaggedUsage(tag, named, _make_usage(**numbers)))
        return tuple(usages)

    def _read_tag(self, cells: Sequence[str]) -> Optional[PoolTag]:
        digits = self.read_fact("hex", cells)
        if _HEX_TAG.fullmatch(digits):
            return tag_of_bytes(bytes.fromhex(digits))
        place = self._facts.get("tag")
        shown = cells[place] if place is not None and place < len(cells) else ""
        return tag_of_text(shown) or tag_of_text(_plain(shown)) or tag_of_text(shown.strip())

    def _read_number(self, text: str, counter: _Counter) -> Optional[int]:
        """The number in a cell; None if it is empty, ValueError if it is something else."""
        if text.isdecimal() and len(text) <= _DIGITS and counter.unit == "bytes":
            return int(text)
        text = _plain(text)
        if text in _NOTHING:
            return None
        number = parse_count(text) if counter.unit == "bytes" else None
        if number is None and counter.field == "bytes":
            number = parse_size(text, counter.unit)
            self.has_rounded_sizes = True
        if number is None:
            raise ValueError(text)
        return number


def find_columns(titles: Sequence[str]) -> Optional[Columns]:
    """The columns that a line of titles announces; None unless there is a tag and something counted."""
    facts: Dict[str, int] = {}
    counters: List[_Counter] = []
    for index, title in enumerate(titles):
        name = re.sub(r"[\W_]", "", title).lower()
        fact = _FACTS.get(name) or MEMORY_FIELDS.get(name)
        counter = None if fact else _find_counter(index, title)
        if fact:
            facts.setdefault(fact, index)
        elif counter and not any((counter.field, counter.pool) == (other.field, other.pool) for other in counters):
            counters.append(counter)
    return Columns(facts, counters) if counters and not facts.keys().isdisjoint(("tag", "hex")) else None


def find_pool(text: str) -> Optional[PoolKind]:
    """The pool that a title or cell names: ``Nonp``, ``Non Paged``, ``NP_MB``, ``PagedAllocs``."""
    words = _split_words(text)
    if _NONPAGED.search(words):
        return PoolKind.NONPAGED
    return PoolKind.PAGED if _PAGED.search(words) else None


def _find_counter(index: int, title: str) -> Optional[_Counter]:
    unit = _UNIT.search(_split_words(_BINARY_PREFIX.sub("", title)))
    title = _PARENTHESES.sub("", title)
    words = _split_words(title)
    if _NO_COUNTER.search(title) or _NO_COUNTER.search(words):
        return None
    field = next((field for field, pattern in _COUNTERS if pattern.search(words)), "bytes" if unit else None)
    if field is None:
        return None
    return _Counter(index, field, find_pool(title), f"{unit[1]}b" if unit and unit[1] else "bytes")


def _split_words(title: str) -> str:
    """Lower-case words with one blank between them: ``NonPagedUsedBytes`` is ``non paged used bytes``."""
    return _WORD_BORDER.sub(" ", title).lower().strip()


def _plain(cell: str) -> str:
    """A cell without the marks of Markdown."""
    text = cell.strip().strip("*~_").strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "`" else text


def _make_usage(
    allocs: Optional[int] = None,
    frees: Optional[int] = None,
    outstanding: Optional[int] = None,
    bytes: Optional[int] = None,  # noqa: A002 - the field's name in PoolUsage
) -> PoolUsage:
    """The usage of the numbers that are known; blocks outstanding follow from allocations and frees."""
    if allocs is not None and frees is not None:
        outstanding = allocs - frees
    blocks, clamped = (None, False) if outstanding is None else unwrap_counts(outstanding)
    below_zero = bytes is not None and bytes < 0
    return PoolUsage(allocs, frees, blocks, 0 if below_zero else bytes, clamped or below_zero)
