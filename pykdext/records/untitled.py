"""Rows without titles, that tell by themselves what their numbers are: a paste that begins in the middle of a table.

Rows of ``!poolused`` tell by their descriptions; rows of poolmon without the column for the pool by their arithmetic:
Diff is Allocs - Frees, Per Alloc is Bytes / Diff. Which pool those count only a heading above them can say.
"""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import POOL_UNNAMED, PoolKind, PoolSnapshot, PoolTag, PoolUsage, SnapshotSource, StatedDriver
from pykdext.records.joining import join_states
from pykdext.records.pastedtable import find_captioned_pool
from pykdext.records.stateddrivers import find_binary
from pykdext.records.tagtable import TagTable, tag_of_text
from pykdext.records.textfile import TextFile

NO_TITLES = "the table has no titles; what its columns are was told by the rows themselves"

_ROW = re.compile(r"^[\s|]{0,20}(\S(?:.{0,2}\S)?)[\s|]+((?:\d{1,20}[\s|]+){3,7}\d{1,20})(?=\s|\||$)(.*)$")
_TWO_NUMBERS = re.compile(r"\d(?:[^\S\n]|\|)+\d")
_SIGNATURE = re.compile(r"UNKNOWN pooltag|update pooltag\.txt|\bBinary\s?:", re.IGNORECASE)
_FEWEST_ROWS = 2


class _Row(NamedTuple):
    tag: PoolTag
    numbers: Tuple[int, ...]
    description: str


def parse_untitled_rows(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The snapshots of rows without titles; empty unless the rows tell what they count."""
    if not _TWO_NUMBERS.search(file.text):
        return ()
    snapshots: List[PoolSnapshot] = []
    rows: List[_Row] = []
    heading = ""
    for line in [*file.text.split("\n"), "", "."]:
        row = _read_row(line)
        if row:
            rows.append(row)
        elif line.strip().strip("`|-=:+ "):
            if rows:
                snapshots += _read_block(rows, heading, file.path)
            rows, heading = [], line
    return join_states(snapshots)


def _read_row(line: str) -> Optional[_Row]:
    match = _ROW.match(line) if len(line) < 1000 else None
    tag = tag_of_text(match[1].strip("`")) if match else None
    if match is None or tag is None:
        return None
    return _Row(tag, tuple(map(int, match[2].replace("|", " ").split())), match[3])


def _read_block(rows: Sequence[_Row], heading: str, path: str) -> List[PoolSnapshot]:
    """The snapshot of neighbouring rows, if they have one meaning."""
    width = min(len(row.numbers) for row in rows)
    table = TagTable()
    drivers: List[StatedDriver] = []
    warnings = [NO_TITLES]
    if width in (4, 8) and any(_SIGNATURE.search(row.description) for row in rows):
        for row in rows:
            table.add(row.tag, PoolKind.NONPAGED, _read_side(row.numbers[: width // 2]))
            table.add(row.tag, PoolKind.PAGED, _read_side(row.numbers[width // 2 : width]))
            drivers += find_binary(row.tag, row.description)
    elif all(map(_is_whole_row, rows)) and (len(rows) >= _FEWEST_ROWS or width >= 5):
        pool = find_captioned_pool(heading)
        warnings += [] if pool else [POOL_UNNAMED]
        for row in rows:
            allocs, frees, diff, used = row.numbers[:4]
            table.add(row.tag, pool or PoolKind.NONPAGED, PoolUsage(allocs, frees, diff, used))
    if not len(table):
        return []
    source = SnapshotSource("rows without titles", path)
    warnings += table.warnings
    return [PoolSnapshot(source, table.usages, warnings=tuple(warnings), stated_drivers=tuple(dict.fromkeys(drivers)))]


def _read_side(numbers: Tuple[int, ...]) -> PoolUsage:
    """One pool of a row of ``!poolused``: blocks and bytes, or allocations, frees, blocks, bytes."""
    allocs, frees = numbers[:2] if len(numbers) == 4 else (None, None)
    return PoolUsage(allocs, frees, numbers[-2], numbers[-1])


def _is_whole_row(row: _Row) -> bool:
    """Whether a row obeys the arithmetic of poolmon."""
    allocs, frees, diff, used = row.numbers[:4]
    each = row.numbers[4] if len(row.numbers) > 4 else None
    return allocs - frees == diff and allocs > 0 and (each is None or each == (used // diff if diff else 0))
