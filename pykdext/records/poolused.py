"""Text of WinDbg's ``!poolused``, with whatever the debugger printed around it.

The forms are those of the WDK documentation ("!poolused"): four numbers a tag (blocks outstanding and bytes in each
pool), with flag 1 eight (allocations, frees, blocks, bytes); then a description, which old versions print without a
blank before it. A line ``TOTAL`` ends the table.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import (
    MAY_BE_CUT,
    POOL_OF_SESSION,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    SnapshotSource,
    StatedDriver,
    SystemMemory,
)
from pykdext.records.joining import join_sorted_tables
from pykdext.records.stateddrivers import find_binary
from pykdext.records.tagtable import LineFaults, TagTable, check_against_memory, count_rows, tag_of_text
from pykdext.records.textfile import TextFile
from pykdext.records.vmtotals import parse_vm_totals
from pykdext.records.windbgtext import parse_session_facts
from pykdext.units import count_things, format_count

_SIDE = r"\s{1,60}Allocs(?:\s{1,60}(Frees)\s{1,60}Diff)?\s{1,60}Used"
_TITLES = re.compile(rf"^([\s#>*]{{0,40}})Tag{_SIDE}{_SIDE}\s*$")
_TITLE = re.compile(r"Allocs|Frees|Diff|Used")
_TABLE_END = re.compile(r"^\s{0,40}(?:\d{0,4}:? ?l?kd(?::\w{1,8})?>|```|Sorting by\b)")
_TOTAL = re.compile(r"^\s{0,40}TOTAL(?=\s)", re.IGNORECASE)
_NO_ROW = re.compile(r"^[\s.=-]*$")
_SORT = re.compile(r"[\s.]{0,200}Sorting by\s{1,9}([^\n]{1,40}?)\s*$", re.IGNORECASE)
_COMMAND = re.compile(r"!poolused(?:[ \t]{1,8}/\S{1,20})*[ \t]{1,8}(?:0x)?([0-9a-f]{1,2})(?=\s|$)", re.IGNORECASE)
_SORTS = {2: "nonpaged pool consumed", 4: "paged pool consumed"}
"""Flags of the command, and the debugger's words for them."""

_SESSION_POOL = re.compile(r"Sorting by[^\n]{0,40}\bSession\b|!poolused[ \t]{1,8}(?:0x)?[89a-f](?=\s|$)", re.IGNORECASE)
"""What is printed above such a table, and the command's flag 8 ("!poolused" in the documentation of the debugger)."""


# A number with a zero before it is the number 0 and the first digits of the description.
_NUMBER = r"\s{1,60}(0|[1-9]\d{0,19})"
_NUMBERS = {count: re.compile(_NUMBER * count) for count in (4, 8)}
_NUMBERED_DESCRIPTION = re.compile(r"\d{1,9}[ .]")
_SHORT_TAG = re.compile(r"\s{0,40}(\S(?:.{0,2}?\S)?)(?=\s)")
_TAG_CHARACTERS = 4
_MAX_COUNT = (1 << 63) - 1
"""A larger number is a difference that was below zero when the debugger read it."""


class _Row(NamedTuple):
    tag: PoolTag
    numbers: Tuple[int, ...]
    description: str


class _Layout:
    """Where the columns stand, told by the line of the titles."""

    def __init__(self, titles: re.Match[str]) -> None:
        self.tag_start = len(titles[1])
        self.ends = [title.end() for title in _TITLE.finditer(titles.string)]
        self.numbers = _NUMBERS[len(self.ends)]
        self._is_spaced = "  " in titles.string.strip()  # else blanks were collapsed, and nothing is aligned

    def read_row(self, line: str) -> Optional[_Row]:
        """The tag and numbers of a line; None if it is no row."""
        line = self._part_description(line)
        tag_end = self.tag_start + _TAG_CHARACTERS
        shown = line[self.tag_start : tag_end]
        numbers = self.numbers.match(line, tag_end) if not line[: self.tag_start].strip() else None
        if numbers is None:  # blanks were collapsed, or the line is indented otherwise
            short = _SHORT_TAG.match(line)
            shown = short[1] if short else ""
            numbers = self.numbers.match(line, short.end()) if short else None
        tag = tag_of_text(shown)
        return _Row(tag, tuple(map(int, numbers.groups())), line[numbers.end() :]) if tag and numbers else None

    def read_total(self, line: str) -> Optional[Tuple[int, ...]]:
        """The numbers of the line ``TOTAL``."""
        word = _TOTAL.match(line)
        numbers = self.numbers.match(line, word.end()) if word else None
        return tuple(map(int, numbers.groups())) if numbers else None

    def _part_description(self, line: str) -> str:
        """The line with a blank after its last column, if a description is glued to it that begins with a number.

        Such a number is followed by a blank or a point (``1394 OHCI``); a number that is only too wide for its column
        is followed by a tab or a letter.
        """
        *ends, last = self.ends
        is_aligned = self._is_spaced and all(
            line[end - 1 : end].isdigit() and line[end : end + 1] == " " for end in ends
        )
        is_glued = is_aligned and line[last - 1 : last].isdigit() and _NUMBERED_DESCRIPTION.match(line, last)
        return f"{line[:last]} {line[last:]}" if is_glued else line


class _Table(NamedTuple):
    """One table: the lines from its titles to its last row or ``TOTAL``, and what it holds."""

    titles: int
    end: int
    rows: TagTable
    sums: Tuple[int, ...]
    total: Optional[Tuple[int, ...]]
    unreadable: LineFaults
    drivers: Tuple[StatedDriver, ...]


def parse_poolused(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """A snapshot of every table of ``!poolused`` in ``file``, in its order; empty if there is none."""
    if "Allocs" not in file.text:
        return ()
    lines = file.text.split("\n")
    tables = [table for table in _iter_tables(lines) if len(table.rows)]
    starts = [0, *(table.end for table in tables[:-1])]
    ends = [*(table.titles for table in tables[1:]), len(lines)]
    snapshots = []
    sorts = []
    for table, start, end in zip(tables, starts, ends):
        is_last = end == len(lines)
        around = [*lines[start : table.titles], *(lines[table.end : end] if is_last else ())]
        snapshots.append(_make_snapshot(file.path, table, "\n".join(around)))
        sorts.append(_find_sort(lines[start : table.titles], table.rows))
    return join_sorted_tables(snapshots, sorts)


def _find_sort(above: Sequence[str], rows: TagTable) -> str:
    """By what a table is sorted, as the line above it says, the command, or the rows; empty if nothing does."""
    said = [sort[1].lower() for line in above if (sort := _SORT.match(line))]
    if said:
        return said[-1]
    commands = [int(command[1], 16) for line in above if (command := _COMMAND.search(line))]
    sorts = [kind for flag, kind in _SORTS.items() if commands and commands[-1] & flag]
    return sorts[0] if sorts else _tell_sort(rows)


def _tell_sort(rows: TagTable) -> str:
    """The pool whose bytes descend from row to row, if those of the other do not, or are none."""
    descending = [
        kind
        for kind, pool in zip(_SORTS.values(), (PoolKind.NONPAGED, PoolKind.PAGED))
        if _descends([row.usage(pool).bytes or 0 for row in rows.usages])
    ]
    return descending[0] if len(descending) == 1 else ""


def _descends(numbers: Sequence[int]) -> bool:
    return any(numbers) and all(one >= other for one, other in zip(numbers, numbers[1:]))


def _iter_tables(lines: Sequence[str]) -> Iterator[_Table]:
    number = 0
    while number < len(lines):
        titles = _TITLES.match(lines[number])
        if titles:
            table = _read_table(lines, number, _Layout(titles))
            yield table
            number = table.end
        else:
            number += 1


def _read_table(lines: Sequence[str], titles: int, layout: _Layout) -> _Table:
    rows = TagTable()
    drivers: List[StatedDriver] = []
    sums = [0] * len(layout.ends)
    total = None
    end = titles + 1
    unreadable = LineFaults("cannot be read and is left out")
    odd: List[int] = []  # lines since the last row: what stands after the table is none of its rows
    for number in range(titles + 1, len(lines)):
        line = lines[number]
        total = layout.read_total(line)
        row = None if total else layout.read_row(line)
        if not total and not row:
            if _TABLE_END.match(line) or _TITLES.match(line):
                break
            odd += [] if _NO_ROW.match(line) else [number]
            continue
        for place in odd if end > titles + 1 else ():
            unreadable.add(place + 1, lines[place])
        odd = []
        end = number + 1
        if row is None:
            break
        sums = [left + right for left, right in zip(sums, row.numbers)]
        drivers += find_binary(row.tag, row.description)
        half = len(row.numbers) // 2
        rows.add(row.tag, PoolKind.NONPAGED, _read_usage(row.numbers[:half]))
        rows.add(row.tag, PoolKind.PAGED, _read_usage(row.numbers[half:]))
    return _Table(titles, end, rows, tuple(sums), total, unreadable, tuple(drivers))


def _read_usage(numbers: Tuple[int, ...]) -> PoolUsage:
    """The usage of four or two numbers; what went below zero is shown as 0, as the kernel does."""
    allocs, frees = numbers[:2] if len(numbers) == 4 else (None, None)
    outstanding, used = (0 if number > _MAX_COUNT else number for number in numbers[-2:])
    return PoolUsage(allocs, frees, outstanding, used, clamped=max(numbers[-2:]) > _MAX_COUNT)


def _make_snapshot(path: str, table: _Table, around: str) -> PoolSnapshot:
    """The snapshot of a table; ``around`` is the text above it, for the last one also the text below."""
    facts = parse_session_facts(around)
    half = len(table.sums) // 2
    totals = parse_vm_totals(around)
    memory, alarms, commit = totals[-1] if totals else (SystemMemory(), (), None)
    warnings = [*table.unreadable.warnings, *table.rows.warnings, *_check_total(table), *alarms]
    if _SESSION_POOL.search(around):
        warnings.append(POOL_OF_SESSION)
    else:
        warnings += check_against_memory(table.rows.usages, memory)
    source = SnapshotSource("!poolused text", path)
    return replace(
        facts.make_snapshot(source, memory, table.rows.usages, tuple(warnings)),
        stated_nonpaged=_read_usage(table.total[:half]) if table.total else None,
        stated_paged=_read_usage(table.total[half:]) if table.total else None,
        stated_drivers=table.drivers,
        commit=commit,
        coverage=count_rows(len(table.rows.usages), table.unreadable.rows),
    )


def _check_total(table: _Table) -> Iterator[str]:
    """Compare the bytes of the rows with the line TOTAL."""
    if table.total is None:
        yield MAY_BE_CUT
        return
    half = len(table.sums) // 2
    for pool, column in ((PoolKind.NONPAGED, half - 1), (PoolKind.PAGED, 2 * half - 1)):
        found, said = table.sums[column], table.total[column]
        if found != said:
            yield (
                f"the {pool.value} rows hold {count_things(found, 'byte')}, TOTAL says {format_count(said)}: "
                f"{format_count(abs(said - found))} {'are missing' if found < said else 'too many'}"
            )
