"""CSV files with a tag a row: exports of poolmon's clones, scripts around ``Export-Csv``, and the capture recipe.

The delimiter and the meaning of the columns are found in the line of titles. Each line is read by itself, so that a
stray quotation mark spoils one row only. Rows of one time and host are one snapshot.
"""

from __future__ import annotations

import csv
import re
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import PoolSnapshot
from pykdext.records.columns import Columns, find_columns, find_pool
from pykdext.records.longlogs import MOST_ROWS, choose_states, note_passed_over
from pykdext.records.samples import SampleCollector
from pykdext.records.tagtable import NUL_PICTURE
from pykdext.records.textfile import TextFile

_DELIMITERS = ",;\t"
_MAX_PREFACE_LINES = 20
"""``#TYPE ...``, ``sep=;`` and what a script prints may stand above the titles."""

_STUDIED_ROWS = 500
_MARKED_CELL = re.compile(r'\d\.\d|"[^",\n]{0,40}\d,\d')
"""A mark in a number where the comma parts the cells."""

_MARKED_NUMBER = re.compile(r"\d[.,]\d")


class _Titles(NamedTuple):
    """The line of titles: its index, the delimiter, and what the columns mean."""

    line: int
    delimiter: str
    cells: Tuple[str, ...]
    columns: Columns


def parse_csv(file: TextFile, newest_only: bool = False) -> Tuple[PoolSnapshot, ...]:
    """Every snapshot of a CSV, in the file's order, of a long one some; empty if it is no CSV with a column of tags.

    With ``newest_only`` it is the last one alone, which takes no memory for the others.
    """
    text = file.text.replace("\0", NUL_PICTURE)
    titles = _find_titles(text)
    if titles is None:
        return ()
    titles.columns.study(_iter_studied_rows(text, titles), "," if titles.delimiter == ";" else None)
    collector = SampleCollector(titles.columns, "CSV of tags", file.path)
    rows = text.count("\n")
    if newest_only or rows > MOST_ROWS:
        keys = _find_keys(text, titles, collector)
        places = (len(keys) - 1,) if newest_only else choose_states(len(keys), rows)
        wanted = {keys[place] for place in places if keys}
        for number, line, cells, part in _iter_rows(text, titles):
            if collector.find_key(cells, part) in wanted:
                collector.add(number, line, cells, part)
        snapshots = collector.snapshots()
        return snapshots if newest_only or len(places) == len(keys) else note_passed_over(snapshots, places, len(keys))
    for number, line, cells, part in _iter_rows(text, titles):
        collector.add(number, line, cells, part)
    return collector.snapshots()


def _find_keys(text: str, titles: _Titles, collector: SampleCollector) -> List[Tuple[str, ...]]:
    """What the rows of each sample have in common, in the order in which the samples begin."""
    keys: Dict[Tuple[str, ...], None] = {}
    for _, _, cells, part in _iter_rows(text, titles):
        if len(cells) >= titles.columns.count:
            key = collector.find_key(cells, part)
            if key not in keys and titles.columns.read_row(cells):
                keys[key] = None
    return list(keys)


def _iter_rows(text: str, titles: _Titles) -> Iterator[Tuple[int, str, List[str], str]]:
    """The lines below the titles: number, text, cells, and how often the titles were repeated above."""
    repeats = 0
    for number, line in enumerate(_iter_lines(text), start=1):
        if number <= titles.line + 1 or not line:
            continue
        cells = _split_cells(line, titles.delimiter)
        if cells[:1] == [titles.cells[0]] and tuple(cells) == titles.cells:
            repeats += 1
        elif any(cells):
            yield number, line, cells, str(repeats)


def _iter_lines(text: str) -> Iterator[str]:
    """The lines one by one: a list of them would take several times the text's memory."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _find_titles(text: str) -> Optional[_Titles]:
    """The first line that names a tag and a counter in two or more columns; it must be one of the first lines.

    There is none where a line above names a pool and the titles do not: such tables come in several sections.
    """
    names_pool = False
    for index, line in zip(range(_MAX_PREFACE_LINES), _iter_lines(text)):
        for delimiter in _DELIMITERS:
            cells = _split_cells(line, delimiter)
            columns = find_columns(cells) if len(cells) > 1 else None
            if columns:
                is_section = names_pool and not columns.names_pool
                return None if is_section else _Titles(index, delimiter, tuple(cells), columns)
        names_pool = names_pool or find_pool(line) is not None
    return None


def _iter_studied_rows(text: str, titles: _Titles) -> Iterator[Sequence[str]]:
    """The first rows, and all those with a mark in a number, of which the column's decimal mark follows."""
    marked = _MARKED_CELL if titles.delimiter == "," else _MARKED_NUMBER
    has_marks = ("." in text or '"' in text or titles.delimiter != ",") and bool(marked.search(text))
    for number, line in enumerate(_iter_lines(text)):
        if number > titles.line + _STUDIED_ROWS and not has_marks:
            return
        if number > titles.line and (number <= titles.line + _STUDIED_ROWS or marked.search(line)):
            yield _split_cells(line, titles.delimiter)


def _split_cells(line: str, delimiter: str) -> List[str]:
    if '"' not in line and "\r" not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line.rstrip("\r")], delimiter=delimiter), [])
    except csv.Error:  # a carriage return within the line, a field of more than 128 KiB
        return [line]
