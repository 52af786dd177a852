"""What the titles of a table's columns mean: those of poolmon, of its clones, and of people who paste tables."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from pykdext.model import UNSAID, PoolKind, PoolTag, PoolUsage, StatedDriver
from pykdext.records.quantities import find_decimal_mark, parse_count, parse_size
from pykdext.records.stateddrivers import find_drivers
from pykdext.records.tagtable import tag_of_bytes, tag_of_text, unwrap_counts
from pykdext.records.titlewords import english_words

MEMORY_FIELDS = {
    "systemnonpagedbytes": "nonpaged_bytes",
    "systempagedbytes": "paged_bytes",
    "systemcommitbytes": "commit_bytes",
    "systemcommitlimitbytes": "commit_limit_bytes",
    "systemphysicalbytes": "physical_bytes",
    "systemavailablebytes": "available_bytes",
}
"""Titles of the capture recipe for the memory manager's totals."""

SESSION_POOL = "the table is of a session pool, not of the system's pools"

_TAG_FACTS = {
    "tag": "tag",
    "pooltag": "tag",
    "tagname": "tag",
    "pooltagname": "tag",
    "hex": "hex",
    "taghex": "hex",
}
_FACTS = {
    **_TAG_FACTS,
    "type": "pool",
    "pool": "pool",
    "pooltype": "pool",
    "typepool": "pool",
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
    "driver": "driver",
    "drivername": "driver",
    "mappeddriver": "driver",
    "source": "driver",
    "image": "driver",
    "imagename": "driver",
    "module": "driver",
    "binary": "driver",
    "description": "text",
    "sourcedescription": "text",
}
_FEWEST_TITLES = 2
_MOST_TITLE_CHARACTERS = 200
"""A cell that is longer is no title, but a line of text."""

_SIZE = re.compile(r"\bbytes?\b|\bsize\b|\bused\b|\busage\b")
_SAYS_SIZE = re.compile(r"\bbytes?\b|\bsize\b")
_OUTSTANDING = re.compile(
    r"outstanding|\bdiff|\blive\b|\bleaked\b|\bcurrent\b|\bin ?use\b|\bcount\b|\bblocks\b|\bobjects\b|\bout\b"
)
_CALLS = re.compile(r"alloc|free")
_FREED = re.compile(r"free|\bdealloc")
_NO_COUNTER = re.compile(
    r"\b(?:per|each|avg|average|mean|share|percent|peak|max|rate|growth|grew|change|delta|before|after|limit)\b|[/%]"
)
_NONPAGED = re.compile(r"\b(?:non|un|n) ?paged\w*|\bnonp\b|\bnp\b|\bnpp\b|\bnpaged\w*")
_PAGED = re.compile(r"\bpaged\w*|\bpp\b|\bpg\b|\bpgd\b")
_BINARY_PREFIX = re.compile(r"(?<=[KMGT])i(?=B)")
_UNIT = re.compile(r"\b([kmgtкмгт])[bб](?:ytes?)?\b")
_FRENCH_UNIT = re.compile(r"[(\[]\s*([KMGTkmgt])o\s*[)\]]")
_CYRILLIC_UNITS = {"к": "k", "м": "m", "г": "g", "т": "t"}
_PARENTHESES = re.compile(r"\([^)]{0,80}\)")
_HEX_TAG = re.compile(r"(?:0x)?([0-9a-fA-F]{8})")
_DIGITS = 20
_MOST_SHARED_USAGES = 1 << 15
_NOTHING = frozenset(("", "-", "n/a", "N/A", "--"))


class _Counter(NamedTuple):
    """A column of numbers: which cell, a field of ``PoolUsage``, the pool if the title names it, the unit of sizes.

    ``is_weak``: another column of this field and pool says it better (``Alloc KB`` beside ``Out Alloc KB``).
    """

    cell: int
    field: str
    pool: Optional[PoolKind]
    unit: str
    is_weak: bool = False


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
        is_session_pool: a row that was read is of a session pool.
    """

    def __init__(self, facts: Dict[str, int], counters: Sequence[_Counter]) -> None:
        self._facts = facts
        self._counters = tuple(counters)
        self._sides: Dict[Optional[PoolKind], List[_Counter]] = {}
        for counter in counters:
            self._sides.setdefault(counter.pool, []).append(counter)
        self._marks: Dict[int, str] = {}
        self._last: Dict[Tuple[bytes, Optional[PoolKind]], Tuple[List[str], PoolUsage]] = {}
        """What was read of each tag: most do not change from one sample to the next, and share the value then."""
        self.count = 1 + max(*(counter.cell for counter in counters), self._facts.get("tag", 0))
        self.has_rounded_sizes = any(counter.unit != "bytes" for counter in counters)
        self.is_session_pool = False

    @property
    def names_pool(self) -> bool:
        """Whether a title names a pool, or a column does row by row."""
        return "pool" in self._facts or any(self._sides)

    @property
    def has_unnamed_sides_only(self) -> bool:
        """No title names a pool."""
        return set(self._sides) == {None}

    def study(self, rows: Iterable[Sequence[str]], usual_mark: Optional[str] = None) -> None:
        """Look at rows before they are read: which decimal mark a column has, and whether ``Type`` is of pools.

        What counts tell of thousands (``1.234.567``) goes for sizes that do not tell it; where nothing does, sizes in
        a larger unit than the byte have the decimal mark that is usual in such a file.
        """
        self._last.clear()
        places = [self._facts[fact] for fact in ("pool", "paged") if fact in self._facts]
        naming: Set[int] = set()
        texts: Dict[int, Set[str]] = {counter.cell: set() for counter in self._counters}
        seen_rows = False
        for cells in rows:
            seen_rows = True
            naming.update(place for place in places if place < len(cells) and find_pool(cells[place]))
            for cell, seen in texts.items():
                if cell < len(cells) and ("." in cells[cell] or "," in cells[cell]):
                    seen.add(cells[cell])
        if seen_rows:
            self._facts.pop("pool", None)
            named = next((place for place in places if place in naming), None)
            if named is not None:
                self._facts["pool"] = named
        marks = {cell: find_decimal_mark(seen) for cell, seen in texts.items()}
        told = {mark for mark in marks.values() if mark}
        for counter in self._counters:
            spare = usual_mark if not told and counter.unit != "bytes" else None
            chosen = marks[counter.cell] or (next(iter(told)) if len(told) == 1 else spare)
            if chosen and counter.field == "bytes":
                self._marks[counter.cell] = chosen

    def read_fact(self, fact: str, cells: Sequence[str]) -> str:
        """The text of a column that is no counter (``time``, ``host`` ...); empty if there is none."""
        place = self._facts.get(fact)
        return cells[place].strip() if place is not None and place < len(cells) else ""

    def read_key(self, cells: Sequence[str]) -> Tuple[str, ...]:
        """The texts of time (UTC, date, time) and host, which part one sample from the next; empty without a column."""
        facts = self._facts
        return tuple([self.read_fact(fact, cells) if fact in facts else "" for fact in ("utc", "date", "time", "host")])

    def read_row(self, cells: Sequence[str]) -> Tuple[TaggedUsage, ...]:
        """The tag's usage in each pool that the row tells about; empty if a cell is missing or cannot be read.

        A cell of the column for the pool that names none is such a cell: a damaged row never becomes the other pool.
        """
        if len(cells) < self.count:
            return ()
        tag = self._read_tag(cells)
        if tag is None:
            return ()
        said = self.read_fact("pool", cells) if "pool" in self._facts else ""
        named = find_pool(said) if said else None
        if said and named is None:
            return ()
        self.is_session_pool = self.is_session_pool or ("ession" in said)
        try:
            sides = {pool: self._find_usage(tag, pool, cells, counters) for pool, counters in self._sides.items()}
        except ValueError:
            return ()
        if None in sides:
            sides = _place_unnamed(sides, named)
        return tuple(TaggedUsage(tag, pool, usage) for pool, usage in sides.items())

    def read_drivers(self, cells: Sequence[str]) -> Tuple[StatedDriver, ...]:
        """The drivers that the row names for its tag."""
        said = self.read_fact("driver", cells) if "driver" in self._facts else ""
        tag = self._read_tag(cells) if said else None
        if tag is None:
            return ()
        text = self.read_fact("text", cells)
        return find_drivers(tag, said, "a column of the table", f"{said}: {text}" if text else said)

    def _read_tag(self, cells: Sequence[str]) -> Optional[PoolTag]:
        digits = _HEX_TAG.fullmatch(self.read_fact("hex", cells)) if "hex" in self._facts else None
        if digits:
            return tag_of_bytes(bytes.fromhex(digits[1]))
        place = self._facts.get("tag")
        shown = cells[place] if place is not None and place < len(cells) else ""
        return tag_of_text(shown) or tag_of_text(_plain(shown)) or tag_of_text(shown.strip())

    def _find_usage(
        self, tag: PoolTag, pool: Optional[PoolKind], cells: Sequence[str], counters: Sequence[_Counter]
    ) -> PoolUsage:
        texts = [cells[counter.cell] for counter in counters]
        last = self._last.get((tag.raw, pool))
        if last is not None and last[0] == texts:
            return last[1]
        usage = self._read_usage(texts, counters)
        if len(self._last) < _MOST_SHARED_USAGES:
            self._last[tag.raw, pool] = (texts, usage)
        return usage

    def _read_usage(self, texts: Sequence[str], counters: Sequence[_Counter]) -> PoolUsage:
        numbers: Dict[str, Optional[int]] = {}
        for text, counter in zip(texts, counters):
            is_plain = counter.unit == "bytes" and len(text) <= _DIGITS and text.isdecimal()
            numbers[counter.field] = int(text) if is_plain else self._read_number(text, counter)
        return _make_usage(
            numbers.get("allocs"), numbers.get("frees"), numbers.get("outstanding"), numbers.get("bytes")
        )

    def _read_number(self, text: str, counter: _Counter) -> Optional[int]:
        """The number in a cell; None if it is empty, ValueError if it is something else."""
        text = _plain(text)
        if text in _NOTHING:
            return None
        mark = self._marks.get(counter.cell)
        number = parse_count(text) if counter.unit == "bytes" and not (mark and mark in text) else None
        if number is None and counter.field == "bytes":
            number = parse_size(text, counter.unit, mark)
            self.has_rounded_sizes = True
        if number is None:
            raise ValueError(text)
        return number


def find_columns(titles: Sequence[str]) -> Optional[Columns]:
    """The columns that a line of titles announces; None unless there is a tag and something counted."""
    if len(titles) < _FEWEST_TITLES:
        return None
    cells = [(index, title) for index, title in enumerate(titles) if len(title) <= _MOST_TITLE_CHARACTERS]
    facts: Dict[str, int] = {}
    for index, title in cells:
        fact = find_fact(title)
        if fact:
            facts.setdefault(fact, index)
    if facts.keys().isdisjoint(_TAG_FACTS.values()):
        return None
    found = [
        counter._replace(cell=index)
        for index, title in cells
        if not title.isdecimal() and not find_fact(title) and (counter := _find_counter(title))
    ]
    if not found:
        return None
    bare = [index for index, title in enumerate(titles) if english_words(title).strip() == "paged"]
    if len(bare) == 1 and not any(counter.pool for counter in found):
        facts["paged"] = bare[0]  # WPA says of each row there which pool it is
    counters: Dict[Tuple[str, Optional[PoolKind]], _Counter] = {}
    for counter in sorted(found, key=lambda counter: counter.is_weak):
        counters.setdefault((counter.field, counter.pool), counter)
    return Columns(facts, sorted(counters.values()))


@lru_cache(maxsize=1 << 12)
def find_fact(title: str) -> Optional[str]:
    """What a title other than a counter's announces: ``tag``, ``pool``, ``time``, ``driver`` ...; None: nothing."""
    name = re.sub(r"[\W_]", "", title).lower()
    return _FACTS.get(name) or MEMORY_FIELDS.get(name) or _FACTS.get(english_words(title).replace(" ", ""))


def find_pools(text: str) -> Tuple[PoolKind, ...]:
    """Every pool that a text names, in its order."""
    words = english_words(text)
    if "p" not in words:
        return ()
    found = [(match.start(), PoolKind.NONPAGED) for match in _NONPAGED.finditer(words)]
    rest = _NONPAGED.sub(lambda match: " " * len(match[0]), words)
    found += [(match.start(), PoolKind.PAGED) for match in _PAGED.finditer(rest)]
    return tuple(pool for _, pool in sorted(found, key=lambda entry: entry[0]))


def find_pool(text: str) -> Optional[PoolKind]:
    """The pool that a title or cell names: ``Nonp``, ``Non Paged``, ``NP_MB``, ``PagedAllocs``; None: none, or both."""
    words = english_words(text)
    if "p" not in words:
        return None
    rest, count = _NONPAGED.subn(" ", words)
    is_paged = _PAGED.search(rest)
    if count:
        return None if is_paged else PoolKind.NONPAGED
    return PoolKind.PAGED if is_paged else None


@lru_cache(maxsize=1 << 12)
def _find_counter(title: str) -> Optional[_Counter]:
    """The counter that a title announces, as if it stood in the first cell."""
    unit = find_unit(title)
    bare = _PARENTHESES.sub("", title)
    words = english_words(bare)
    pool = find_pool(words)
    if _NO_COUNTER.search(bare) or _NO_COUNTER.search(words) or (pool is None and _NONPAGED.search(words)):
        return None
    if re.search(r"\btotal\b", words) and pool is None:
        return None
    field = _find_field(words, unit is not None)
    if field is None:
        return None
    is_outstanding = bool(_OUTSTANDING.search(words) or re.search(r"\bused\b|\busage\b", words))
    is_use_alone = unit is None and not _SAYS_SIZE.search(words)  # "Used" beside "Used (KB)" counts blocks
    is_weak = field == "bytes" and (is_use_alone or ("alloc" in words and not is_outstanding))
    return _Counter(0, field, pool, unit or "bytes", is_weak)


def _find_field(words: str, has_unit: bool) -> Optional[str]:
    is_call = _CALLS.search(words)
    if has_unit or _SIZE.search(words):
        return None if _FREED.search(words) else "bytes"
    if is_call and not re.search(r"outstanding|\bdiff|\blive\b|\bcurrent\b|\bleaked\b|\bout\b|\bin ?use\b", words):
        return "frees" if _FREED.search(words) else "allocs"
    return "outstanding" if _OUTSTANDING.search(words) else None


def find_unit(title: str) -> Optional[str]:
    """``kb``, ``mb``, ``gb``, ``tb`` or ``bytes``; None if the title names no unit."""
    french = _FRENCH_UNIT.search(title)
    if french:
        return f"{french[1].lower()}b"
    words = english_words(_BINARY_PREFIX.sub("", title))
    unit = _UNIT.search(words)
    if unit:
        return f"{_CYRILLIC_UNITS.get(unit[1], unit[1])}b"
    return "bytes" if re.search(r"\bbytes\b", words) else None


def _place_unnamed(
    sides: Dict[Optional[PoolKind], PoolUsage], named: Optional[PoolKind]
) -> Dict[Optional[PoolKind], PoolUsage]:
    """The sides of a row with the numbers of no named pool put to a pool, where the row tells to which.

    It is the pool of the row's own column, or the only one in which the tag holds bytes; the others hold no blocks
    then. Numbers that may be of both pools are of neither.
    """
    unnamed = sides.pop(None)
    if not sides:
        return {named: unnamed}
    holders = [pool for pool, usage in sides.items() if usage.bytes]
    owner = named if named in sides else holders[0] if len(holders) == 1 else None
    if owner is None:
        return sides
    placed = dict(sides)
    for pool, usage in sides.items():
        added = unnamed if pool is owner else _UNUSED_BLOCKS
        placed[pool] = _merge(usage, added if pool is owner or usage.bytes == 0 else UNSAID)
    return placed


_UNUSED_BLOCKS = PoolUsage(None, None, 0, None)


def _merge(one: PoolUsage, other: PoolUsage) -> PoolUsage:
    """The numbers of ``one``, those that it does not say from ``other``."""

    def first(left: Optional[int], right: Optional[int]) -> Optional[int]:
        return right if left is None else left

    return PoolUsage(
        first(one.allocs, other.allocs),
        first(one.frees, other.frees),
        first(one.outstanding, other.outstanding),
        first(one.bytes, other.bytes),
        one.clamped or other.clamped,
    )


def _plain(cell: str) -> str:
    """A cell without the marks of Markdown."""
    text = cell.strip().strip("*~_").strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "`" else text


def _make_usage(
    allocs: Optional[int], frees: Optional[int], outstanding: Optional[int], used_bytes: Optional[int]
) -> PoolUsage:
    """The usage of the numbers that are known; blocks outstanding follow from allocations and frees."""
    if allocs is not None and frees is not None:
        if allocs >= frees and used_bytes is not None and used_bytes >= 0:
            return PoolUsage(allocs, frees, allocs - frees, used_bytes)
        outstanding = allocs - frees
    blocks, clamped = (None, False) if outstanding is None else unwrap_counts(outstanding)
    below_zero = used_bytes is not None and used_bytes < 0
    return PoolUsage(allocs, frees, blocks, 0 if below_zero else used_bytes, clamped or below_zero)
