"""CSV files with a tag a row: exports of poolmon's clones, scripts around ``Export-Csv``, and the capture recipe.

The delimiter and the meaning of the columns are found in the line of titles. Each line is read by itself, so that a
stray quotation mark spoils one row only. Rows of one time and host are one snapshot.
"""

from __future__ import annotations

import csv
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import PoolKind, PoolSnapshot, SnapshotSource, SystemMemory
from pykdext.records.columns import MEMORY_FIELDS, POOL_UNNAMED, Columns, TaggedUsage, find_columns
from pykdext.records.moments import ZONE_UNKNOWN, Moment, find_moment
from pykdext.records.quantities import parse_count, parse_size
from pykdext.records.tagtable import NUL_PICTURE, LineFaults, TagTable, check_against_memory
from pykdext.records.textfile import TextFile

_DELIMITERS = ",;\t"
_MAX_PREFACE_LINES = 20
"""``#TYPE ...``, ``sep=;`` and what a script prints may stand above the titles."""


class _Titles(NamedTuple):
    """The line of titles: its index, the delimiter, and what the columns mean."""

    line: int
    delimiter: str
    cells: Tuple[str, ...]
    columns: Columns


class _Sample:
    """The rows of one snapshot; the facts about it stand in its first row, perhaps in the others too."""

    def __init__(self, columns: Columns, first: Sequence[str]) -> None:
        self.table = TagTable()
        self.moment = _read_moment(columns, first)
        self.host = columns.read_fact("host", first) or None
        self.uptime_seconds = _read_seconds(columns.read_fact("uptime", first))
        sizes = {field: parse_size(columns.read_fact(field, first)) for field in MEMORY_FIELDS.values()}
        self.memory = SystemMemory(**sizes)
        self.pool_is_named = True

    def add(self, usages: Sequence[TaggedUsage]) -> None:
        """Take in what a row tells."""
        for tag, pool, usage in usages:
            self.pool_is_named = self.pool_is_named and pool is not None
            self.table.add(tag, pool or PoolKind.NONPAGED, usage)


def parse_csv(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """Every snapshot of a CSV, in the file's order; empty if the file is no CSV with a column of tags."""
    lines = file.text.replace("\0", NUL_PICTURE).split("\n")
    titles = _find_titles(lines)
    if titles is None:
        return ()
    samples: Dict[Tuple[str, ...], _Sample] = {}
    unreadable = LineFaults("cannot be read and is left out")
    repeats = 0
    for number, line in enumerate(lines[titles.line + 1 :], start=titles.line + 2):
        cells = _split_cells(line, titles.delimiter)
        if not any(cells):
            continue
        if tuple(cells) == titles.cells:
            repeats += 1
            continue
        usages = titles.columns.read_row(cells)
        if not usages:
            unreadable.add(number, line)
            continue
        key = _sample_key(titles.columns, cells, repeats)
        if key not in samples:
            samples[key] = _Sample(titles.columns, cells)
        samples[key].add(usages)
    return tuple(_make_snapshot(file.path, sample, unreadable.warnings) for sample in samples.values())


def _find_titles(lines: Sequence[str]) -> Optional[_Titles]:
    """The first line that names a tag and a counter in two or more columns; it must be one of the first lines."""
    for index, line in enumerate(lines[:_MAX_PREFACE_LINES]):
        for delimiter in _DELIMITERS:
            cells = _split_cells(line, delimiter)
            columns = find_columns(cells) if len(cells) > 1 else None
            if columns:
                return _Titles(index, delimiter, tuple(cells), columns)
    return None


def _split_cells(line: str, delimiter: str) -> List[str]:
    try:
        return next(csv.reader([line.rstrip("\r")], delimiter=delimiter), [])
    except csv.Error:  # a carriage return within the line, a field of more than 128 KiB
        return [line]


def _sample_key(columns: Columns, cells: Sequence[str], repeats: int) -> Tuple[str, ...]:
    """What tells two snapshots apart: time and host; where there is no time, the titles that stand between them."""
    times = tuple(columns.read_fact(fact, cells) for fact in ("utc", "date", "time"))
    return (*times, columns.read_fact("host", cells), "" if any(times) else str(repeats))


def _read_moment(columns: Columns, cells: Sequence[str]) -> Optional[Moment]:
    utc = find_moment(columns.read_fact("utc", cells))
    if utc:
        return Moment(utc.at, tuple(doubt for doubt in utc.doubts if doubt != ZONE_UNKNOWN))
    return find_moment(f"{columns.read_fact('date', cells)} {columns.read_fact('time', cells)}")


def _read_seconds(text: str) -> Optional[float]:
    whole, _, fraction = text.partition(".")
    seconds = parse_count(whole)
    if seconds is None or seconds < 0 or not (fraction.isdecimal() or not fraction):
        return None
    return float(f"{seconds}.{fraction or 0}")


def _make_snapshot(path: str, sample: _Sample, faults: Tuple[str, ...]) -> PoolSnapshot:
    tags = sample.table.usages
    moment = sample.moment
    doubts = (*(moment.doubts if moment else ()), *(() if sample.pool_is_named else (POOL_UNNAMED,)))
    return PoolSnapshot(
        source=SnapshotSource("CSV of tags", path),
        tags=tags,
        taken_at=moment.at if moment else None,
        host=sample.host,
        uptime_seconds=sample.uptime_seconds,
        memory=sample.memory,
        time_from="header" if moment else None,
        warnings=(*doubts, *faults, *sample.table.warnings, *check_against_memory(tags, sample.memory)),
    )
