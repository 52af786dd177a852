"""Collects the rows of one snapshot, and says what was wrong with some of them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from pykdext.model import UNSAID, UNUSED, PoolKind, PoolTag, PoolUsage, SystemMemory, TableCoverage, TagUsage
from pykdext.units import count_things, format_bytes

NUL_PICTURE = "\u2400"
"""Stands for the character NUL in a tag's text where NUL itself cannot stand."""

_LINE_CHARACTERS = 60
_MISSING_SHARE = 0.2
"""The memory manager counts headers and free space of the pool too: so much more than the tags' sum is no wonder."""
_EXCESS_SHARE = 0.02

_COUNTER_RANGE = 1 << 32

_LOOKS_LIKE_ROW = re.compile(r"[\s,;|\"'][-+]?\d")
"""A tag and then a number; what debuggers print among the rows has none in this place."""


@lru_cache(maxsize=1 << 14)
def tag_of_bytes(raw: bytes) -> PoolTag:
    """The tag of four bytes in memory order; PROTECTED_POOL, which old systems show, is cleared."""
    return PoolTag.from_key(int.from_bytes(raw, "little"))


@lru_cache(maxsize=1 << 14)
def tag_of_text(text: str) -> Optional[PoolTag]:
    """The tag that a text of 1 to 4 characters shows; short ones are padded with blanks. None if it is none."""
    if not 1 <= len(text) <= 4:
        return None
    raw = b"".join(map(_encode_character, text))
    return tag_of_bytes(raw.ljust(4))


def _encode_character(character: str) -> bytes:
    if character == NUL_PICTURE:
        return b"\0"
    return character.encode("latin-1" if ord(character) < 0x100 else "cp1252", "replace")


def unwrap_counts(difference: int) -> Tuple[int, bool]:
    """Blocks outstanding, of allocations less frees, and whether they are clamped.

    The 32-bit counters of a tag wrap one after the other; they are read while they change, so that a few frees too
    many are seen, which count as 0.
    """
    if difference < -(_COUNTER_RANGE // 2):
        difference += _COUNTER_RANGE
    return (difference, False) if difference >= 0 else (0, True)


class TagTable:
    """The rows of one snapshot. A pool without any row counts as not said, e.g. in a log of one pool only."""

    def __init__(self) -> None:
        self._sides: Dict[PoolKind, Dict[bytes, PoolUsage]] = {pool: {} for pool in PoolKind}
        self._repeated: List[PoolTag] = []

    def add(self, tag: PoolTag, pool: PoolKind, usage: PoolUsage) -> None:
        """Add a row; one that stands twice (two tags that look alike on a console) is added up."""
        side = self._sides[pool]
        if tag.raw in side:
            self._repeated.append(tag)
            usage = side[tag.raw] + usage
        side[tag.raw] = usage

    def __len__(self) -> int:
        return sum(map(len, self._sides.values()))

    @property
    def usages(self) -> Tuple[TagUsage, ...]:
        """The rows of both pools, tag by tag."""
        return join_sides(self._sides[PoolKind.NONPAGED], self._sides[PoolKind.PAGED])

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What was odd."""
        if not self._repeated:
            return ()
        return (
            f"{count_things(len(self._repeated), 'row')} repeated a tag and were added up, first {self._repeated[0]}",
        )


def join_sides(nonpaged: Mapping[bytes, PoolUsage], paged: Mapping[bytes, PoolUsage]) -> Tuple[TagUsage, ...]:
    """One row for each tag (its four bytes). A tag without a row in a pool is unused there.

    A pool without any row is one that the log does not show: nothing is said of it.
    """
    no_nonpaged = UNUSED if nonpaged else UNSAID
    no_paged = UNUSED if paged else UNSAID
    return tuple(
        TagUsage(tag_of_bytes(raw), nonpaged.get(raw, no_nonpaged), paged.get(raw, no_paged))
        for raw in {**nonpaged, **paged}
    )


class LineFaults:
    """Lines that have one fault in common: they are counted, and the first one is shown."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._count = 0
        self._first = ""
        self.rows = 0
        """So many of the lines are rows, by their looks."""

    def add(self, number: int, line: str, *, is_row: bool = False) -> None:
        """Count a line; ``number`` is its 1-based number in the file. ``is_row``: it is one whatever it looks like."""
        if not self._count:
            shown = line.strip()
            shown = shown if len(shown) <= _LINE_CHARACTERS else f"{shown[:_LINE_CHARACTERS]}..."
            self._first = f"line {number} {self._fault}: {shown!r}"
        self._count += 1
        self.rows += is_row or bool(_LOOKS_LIKE_ROW.search(line))

    @property
    def warnings(self) -> Tuple[str, ...]:
        """One sentence, or nothing."""
        more = f"; {self._count - 1} more such" if self._count > 1 else ""
        return (self._first + more,) if self._count else ()


def count_rows(read: int, lost: int) -> TableCoverage:
    """How much of a text's table was read, where a row is lost; nothing is said of a table without a fault."""
    return TableCoverage(rows_read=read, rows_expected=read + lost) if lost else TableCoverage()


def check_memory(memory: SystemMemory) -> Iterator[str]:
    """A sentence for each total that cannot be: more nonpaged pool than memory, more in use than there may be."""
    nonpaged, physical = memory.nonpaged_bytes, memory.physical_bytes
    if nonpaged is not None and physical and nonpaged > physical:
        yield (
            f"a nonpaged pool of {format_bytes(nonpaged)} exceeds the {format_bytes(physical)} of physical memory: "
            "the number cannot be right"
        )
    for pool in PoolKind:
        used, limit = memory.used_bytes(pool), memory.limit_bytes(pool)
        if (
            used is not None
            and limit
            and used > limit
            and not (pool is PoolKind.NONPAGED and used > (physical or used))
        ):
            yield (
                f"a {pool.value} pool of {format_bytes(used)} exceeds its limit of {format_bytes(limit)}: "
                "one of the numbers cannot be right"
            )
    if physical and memory.available_bytes is not None and memory.available_bytes > physical:
        yield (
            f"{format_bytes(memory.available_bytes)} of memory available exceed the {format_bytes(physical)} that "
            "there are: the number cannot be right"
        )


def check_against_memory(tags: Sequence[TagUsage], memory: SystemMemory) -> Iterator[str]:
    """Compare the sum of the rows with what the memory manager says a pool holds; a sentence where they differ.

    Another one for each total of the memory manager that cannot be.
    """
    yield from check_memory(memory)
    sides = {PoolKind.NONPAGED: [row.nonpaged for row in tags], PoolKind.PAGED: [row.paged for row in tags]}
    for pool, usages in sides.items():
        said = memory.used_bytes(pool)
        known = [usage.bytes for usage in usages if usage.bytes is not None]
        if said is None or not known:
            continue
        missing = said - sum(known)
        if missing > _MISSING_SHARE * said or missing < -_EXCESS_SHARE * said:
            word = "less" if missing > 0 else "more"
            yield (
                f"the {pool.value} rows hold {format_bytes(sum(known))}, {format_bytes(abs(missing))} {word} than "
                "the pool by the system's own total" + ("; the log may be filtered or cut" if missing > 0 else "")
            )
