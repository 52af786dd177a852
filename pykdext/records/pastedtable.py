"""Tables of tags that people paste into issues and mails: Markdown, or text in columns, with titles above.

The titles must name the tag and something counted: bytes (in KB, MB or GB, also in the title: ``NP_MB``), blocks
outstanding, allocations, frees. Where neither a title nor the line above names the pool, nonpaged is taken, and said.
"""

from __future__ import annotations

import re
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import PoolKind, PoolSnapshot, SnapshotSource
from pykdext.records.columns import POOL_UNNAMED, Columns, TaggedUsage, find_columns
from pykdext.records.tagtable import LineFaults, TagTable
from pykdext.records.textfile import TextFile

ROUNDED = "sizes are only as exact as the table shows them"

_COLUMN_BORDER = re.compile(r"\s{2,}|\t")
_RULE = re.compile(r"^[\s|:=+-]*$")
_POOL_WORD = re.compile(r"(non[ -]?)?paged", re.IGNORECASE)
_LINE_CHARACTERS = 1000

_Split = Callable[[str], List[str]]
"""Parts a line into cells."""


class _Table(NamedTuple):
    """A table: the index of its titles and that of the line after its last row; the rows; lines that are none."""

    titles: int
    end: int
    columns: Columns
    rows: Tuple[TaggedUsage, ...]
    unreadable: LineFaults


def parse_pasted_tables(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """A snapshot of each table of tags in ``file``, in its order; empty if there is none."""
    lines = [line[:_LINE_CHARACTERS] for line in file.text.split("\n")]
    snapshots = []
    before = 0
    for table in _iter_tables(lines):
        caption = next(filter(str.strip, reversed(lines[before : table.titles])), "")
        snapshots.append(_make_snapshot(file.path, table, _find_captioned_pool(caption)))
        before = table.end
    return tuple(snapshots)


def _iter_tables(lines: Sequence[str]) -> Iterator[_Table]:
    titles = 0
    while titles < len(lines):
        table = _read_table(lines, titles)
        if table:
            yield table
        titles = table.end if table else titles + 1


def _read_table(lines: Sequence[str], titles: int) -> Optional[_Table]:
    """The table whose titles stand in a line; None if they are no titles, or no row follows."""
    if "tag" not in lines[titles].lower():
        return None
    first = next((line for line in lines[titles + 1 : titles + 4] if not _RULE.match(line)), "")
    split = _choose_split(lines[titles], first)
    columns = find_columns(split(lines[titles]))
    if columns is None or not columns.read_row(split(first)):
        return None
    rows: List[TaggedUsage] = []
    unreadable = LineFaults("cannot be read and is left out")
    odd: List[int] = []  # lines since the last row: what stands after the table is none of its rows
    end = titles + 1
    for number in range(titles + 1, len(lines)):
        usages = columns.read_row(split(lines[number]))
        if usages:
            for place in odd:
                unreadable.add(place + 1, lines[place])
            rows += usages
            odd, end = [], number + 1
        elif not _RULE.match(lines[number]):
            odd.append(number)
        if len(odd) > 1 or (rows and not lines[number].strip()):
            break
    return _Table(titles, end, columns, tuple(rows), unreadable)


def _choose_split(titles: str, row: str) -> _Split:
    """How the cells of a table part: by bars; by single blanks if titles and row then have as many; by wider gaps."""
    if titles.count("|") > 1:
        return _split_markdown
    return str.split if len(titles.split()) == len(row.split()) else _split_wide


def _split_markdown(line: str) -> List[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _split_wide(line: str) -> List[str]:
    return _COLUMN_BORDER.split(line.strip())


def _find_captioned_pool(caption: str) -> Optional[PoolKind]:
    """The pool that the line above a table names; None if it names none, or both."""
    pools = {PoolKind.NONPAGED if word[1] else PoolKind.PAGED for word in _POOL_WORD.finditer(caption)}
    return pools.pop() if len(pools) == 1 else None


def _make_snapshot(path: str, table: _Table, captioned: Optional[PoolKind]) -> PoolSnapshot:
    collected = TagTable()
    for tag, pool, usage in table.rows:
        collected.add(tag, pool or captioned or PoolKind.NONPAGED, usage)
    warnings = [*table.unreadable.warnings, *collected.warnings]
    if captioned is None and any(row.pool is None for row in table.rows):
        warnings.append(POOL_UNNAMED)
    if table.columns.has_rounded_sizes:
        warnings.append(ROUNDED)
    return PoolSnapshot(source=SnapshotSource("table of tags", path), tags=collected.usages, warnings=tuple(warnings))
