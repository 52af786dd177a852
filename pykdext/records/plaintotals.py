"""Totals of the pools as programs and people show them: Task Manager's lines, objects of WMI in columns.

A line holds a label that names one pool, and its size with a unit (``Non-paged pool  11.8 GB``); sentences are none.
Of columns the titles are names of counters (``PoolNonpagedBytes``), and numbers stand below them.
"""

from __future__ import annotations

import re
from typing import Dict, Sequence, Tuple

from pykdext.model import PoolSnapshot, SnapshotSource, SystemMemory
from pykdext.records.columns import find_pool
from pykdext.records.perfcounters import find_total
from pykdext.records.quantities import parse_size
from pykdext.records.tagtable import check_memory
from pykdext.records.textfile import TextFile
from pykdext.records.titlewords import english_words
from pykdext.records.vmtotals import TOTALS_ONLY

_SIZE = r"(?P<size>\d[\d.,' \xa0]{0,20}\s?[KMGTКМГТ]?i?[BБo](?:ytes)?)"
_ABOUT = r"(?:about|approx\.?|roughly|ca\.?|circa|~|≈)?"
_LABEL = r"^[ *•|>-]{0,12}(?P<label>[^ *•|>\-\d:=][^\d:=|]{3,49}?) ?[:=|]? ?"
_LINE = re.compile(rf"{_LABEL}{_ABOUT} ?{_SIZE}[ .,;|]*$")
_PAIR = re.compile(rf"{_LABEL}(?P<used>\d[\d.,]{{0,15}}) ?/ ?{_SIZE}")
_NOT_CURRENT = re.compile(r"\b(?:limit|max\w*|peak|process|free)\b", re.IGNORECASE)
_LINE_CHARACTERS = 200
_MOST_LINES = 20_000


def parse_plain_totals(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """One snapshot of totals; empty where no line tells that of a pool."""
    lines = [line for line in file.text.split("\n", _MOST_LINES)[:_MOST_LINES] if line.strip()]
    found: Dict[str, int] = {}
    for place, line in enumerate(lines):
        if len(line) <= _LINE_CHARACTERS:
            below = lines[place + 1 : place + 4]
            joined = f"{line} {below[0]}" if below else ""
            for field, size in (*_read_line(line), *_read_line(joined), *_read_columns(line, below)):
                found.setdefault(field, size)
    if not found.keys() & {"nonpaged_bytes", "paged_bytes"}:
        return ()
    memory = SystemMemory(**found)
    return (
        PoolSnapshot(
            source=SnapshotSource("totals", file.path),
            tags=(),
            memory=memory,
            warnings=(TOTALS_ONLY, *check_memory(memory)),
        ),
    )


def _read_line(line: str) -> Sequence[Tuple[str, int]]:
    """``Paged pool  612 MB``; ``Committed  30.1/36.0 GB`` is the commit charge and its limit."""
    line = " ".join(line.split())
    match = _PAIR.match(line)
    if match and "commit" in english_words(match["label"]):
        limit = parse_size(match["size"].strip())
        used = parse_size(f"{match['used']} {match['size'].strip().lstrip('0123456789., ')}")
        return [("commit_bytes", used), ("commit_limit_bytes", limit)] if used and limit else []
    match = _LINE.match(line)
    if match is None or _NOT_CURRENT.search(match["label"]):
        return []
    words = english_words(match["label"])
    pool = find_pool(words)
    size = parse_size(match["size"].strip())
    return [(f"{pool.value}_bytes", size)] if pool and "pool" in words and size and len(words.split()) <= 5 else []


def _read_columns(titles: str, below: Sequence[str]) -> Sequence[Tuple[str, int]]:
    """The numbers in the lines ``below`` titles that are names of counters, the first row of them."""
    names = titles.split()
    known = [(place, total) for place, name in enumerate(names) if (total := find_total(name))]
    if len(names) < 2 or not known:
        return []
    for line in below:
        cells = line.split()
        if len(cells) == len(names) and all(cells[place].isdecimal() for place, _ in known):
            return [(field, int(cells[place])) for place, (field, unit, _) in known if unit == "bytes"]
    return []
