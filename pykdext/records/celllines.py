"""Tables of which each cell stands in a line of its own, as forums and mail leave them: the titles first, then rows."""

from __future__ import annotations

import itertools
from typing import List, Optional, Sequence, Tuple

from pykdext.model import PoolSnapshot
from pykdext.records.columns import Columns, find_columns, find_fact
from pykdext.records.samples import SampleCollector
from pykdext.records.textfile import TextFile

_FEWEST_TITLES, _MOST_TITLES = 3, 16
_CELL_CHARACTERS = 80
_MOST_LINES = 2_000_000
_MOST_STARTS = 100
"""Lines that may be the first of the titles."""


def parse_cell_lines(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The snapshots of the first such table; empty unless the lines below the titles make a row."""
    lines = [line.strip() for line in file.text.split("\n", _MOST_LINES)[:_MOST_LINES] if line.strip()]
    starts = (place for place, line in enumerate(lines) if len(line) <= _CELL_CHARACTERS and find_fact(line) == "tag")
    for start in itertools.islice(starts, _MOST_STARTS):
        for count in range(_FEWEST_TITLES, _MOST_TITLES + 1):
            columns = _find_titles(lines[start : start + count], count)
            if columns is not None and columns.read_row(lines[start + count : start + 2 * count]):
                return _read_rows(columns, lines, start + count, count, file.path)
    return ()


def _find_titles(titles: Sequence[str], count: int) -> Optional[Columns]:
    """The columns of as many lines, if none of them is a number."""
    if len(titles) < count or any(len(title) > _CELL_CHARACTERS for title in titles):
        return None
    is_number = any(title.replace(",", "").replace(".", "").isdecimal() for title in titles)
    return None if is_number else find_columns(titles)


def _read_rows(columns: Columns, lines: Sequence[str], place: int, count: int, path: str) -> Tuple[PoolSnapshot, ...]:
    rows: List[Tuple[int, Sequence[str]]] = []
    while place + count <= len(lines) and columns.read_row(lines[place : place + count]):
        rows.append((place + 1, lines[place : place + count]))
        place += count
    columns.study([cells for _, cells in rows])
    collector = SampleCollector(columns, "cells in lines of their own", path)
    for number, cells in rows:
        collector.add(number, " ".join(cells), cells)
    return collector.snapshots()
