"""Performance counters of the pools: totals without tags, as ``typeperf``, ``relog``, ``logman`` and PowerShell write.

The counters are those of the object Memory (``Pool Nonpaged Bytes``, ``Pool Paged Bytes``, ``Available MBytes``,
``Committed Bytes``, ``Commit Limit``), in the languages of Windows. The log files' first title names the zone and its
bias in minutes, UTC less local time, and their dates are month/day/year in every language (PDH: "PDH-CSV 4.0").
A table that people write, with a time a row and totals or tags as titles, is read alike.
"""

from __future__ import annotations

import csv
import itertools
import re
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.errors import RecordFormatError
from pykdext.model import POOL_UNNAMED, PoolKind, PoolSnapshot, PoolUsage, SnapshotSource, SystemMemory, TimeOrigin
from pykdext.records.columns import find_fact, find_pool, find_unit
from pykdext.records.moments import MONTH_FIRST, ZONE_UNKNOWN, Moment, find_moment, find_time_of_day
from pykdext.records.quantities import find_decimal_mark, find_program_mark, parse_size
from pykdext.records.samples import ROUNDED
from pykdext.records.tagtable import LineFaults, TagTable, check_memory, count_rows, tag_of_text
from pykdext.records.textfile import TextFile
from pykdext.records.titlewords import english_words
from pykdext.records.vmtotals import TOTALS_ONLY

_MEMORY_OBJECT = "4"
_NUMBERED = {
    "24": "Available Bytes",
    "26": "Committed Bytes",
    "30": "Commit Limit",
    "56": "Pool Paged Bytes",
    "58": "Pool Nonpaged Bytes",
}
"""The numbers of the counters of Memory, the same on every Windows (the registry's ``Perflib\\009``)."""

_PDH = re.compile(r'^[ \t]{0,8}"?\(PDH-[CT]SV [\d.]{1,9}\)[^"\n]*', re.MULTILINE)
_BIAS = re.compile(r"\((-?\d{1,4})\)\"?$")
_PATH = re.compile(r"^(?:\\\\(?P<host>[^\\]{1,255}))?\\(?P<object>[^\\]{1,255})\\(?P<counter>[^\\]{1,255})$")
_LISTED_PATH = re.compile(r"(\\\\[^\n]{1,600}?\\[^\\\n]{1,255}?)\s*:\s*$")
_VALUE = re.compile(r"^\s*([\d.,' \xa0]{1,40})\s*$")
_PAIR = re.compile(r"^\s{0,8}(\w[\w ]{0,60}?)\s*:\s(.*)$")
_NOT_CURRENT = re.compile(r"alloc|free|fail|peak|max|resident|резидент|[驻駐]留|常驻|常駐|상주|cache|per\b|%|/")
_KEYED = ("poolnonpagedbytes", "poolpagedbytes", "committedbytes", "commitlimit", "availablebytes")
_MOST_COLUMNS = 500_000
_LINE_CHARACTERS = 200_000
_MOST_LINES_ABOVE = 2000
_SHOWN_CHARACTERS = 60
_HEAD_CHARACTERS = 20_000
"""The prompt and the command may stand above the titles."""

_PATH_AND_VALUE = re.compile(r"(\\\\[^\n]{1,600}?\\[^\\\n]{1,255}?)\s{2,80}(\d[\d.,]{0,30})\s*$")
_MOST_RULES = 3
"""Lines between the titles of a table and its first row."""


_Key = Tuple[Optional[str], str]
"""The host, and the field of ``SystemMemory``."""


class _Total(NamedTuple):
    """A column: which field of ``SystemMemory`` it is, in which unit, and of which host."""

    cell: int
    field: str
    unit: str
    host: Optional[str]


def parse_perf_counters(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """A snapshot of totals for each sample that a listing or a table of times tells, in its order; empty without."""
    return _parse_listing(file) or _parse_timeline(file)


def parse_counter_log(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The samples in the CSV or TSV of ``typeperf``, ``relog``, ``logman`` and ``Export-Counter``; empty for others.

    Raises:
        RecordFormatError: it is such a log, but has no counter of a pool.
    """
    text = file.text.lstrip("\ufeff\n ")
    header = _PDH.search(text, 0, _HEAD_CHARACTERS)
    if header is None:
        return ()
    lines = text[header.start() :].split("\n")
    above = text.count("\n", 0, header.start())
    delimiter = "\t" if "\t" in lines[0] else ";" if lines[0].count(";") > lines[0].count(",") else ","
    titles = _split(lines[0], delimiter)
    bias = _BIAS.search(titles[0].strip())
    totals = list(_find_totals(titles))
    if not any(total.field in ("nonpaged_bytes", "paged_bytes") for total in totals):
        first = next((title for title in titles[1:] if title.strip()), "none")
        found = f"performance counters, but none of the pools (first: {first[:_SHOWN_CHARACTERS]})"
        raise RecordFormatError(file.path, 1, found, r"\Memory\Pool Nonpaged Bytes or \Memory\Pool Paged Bytes")
    unreadable = LineFaults("cannot be read and is left out")
    samples = []
    for number, line in enumerate(lines[1:], start=above + 2):
        cells = _split(line, delimiter)
        if '"' not in line and '"' in lines[0]:
            continue  # what typeperf says when it ends
        if not any(cell.strip() for cell in cells):
            continue
        moment = find_moment(cells[0])
        if moment is None:
            unreadable.add(number, line)
            continue
        samples.append((_settle_zone(moment, bias), cells))
    return _make_snapshots(file.path, totals, samples, unreadable)


def _settle_zone(moment: Moment, bias: Optional[re.Match[str]]) -> Moment:
    """The moment in UTC; such logs write the month first, and name their zone's bias."""
    doubts = tuple(doubt for doubt in moment.doubts if doubt != MONTH_FIRST)
    if bias is None:
        return Moment(moment.at, doubts)
    known = tuple(doubt for doubt in doubts if doubt != ZONE_UNKNOWN)
    return Moment(moment.at + timedelta(minutes=int(bias[1])), known)


def _find_totals(titles: Sequence[str]) -> Iterator[_Total]:
    for cell, title in enumerate(titles[:_MOST_COLUMNS]):
        found = find_total(title)
        if found:
            yield _Total(cell, *found)


@lru_cache(maxsize=1 << 12)
def find_total(title: str) -> Optional[Tuple[str, str, Optional[str]]]:
    r"""The field of ``SystemMemory``, the unit and the host of a counter's path or name; None if it is another one.

    ``\\SRV\Memory\Pool Nonpaged Bytes``; counters of single processes have the same names, but an instance.
    """
    path = _PATH.match(title.strip().strip('"'))
    number = _NUMBERED.get(path["counter"].strip()) if path and path["object"].strip() == _MEMORY_OBJECT else None
    if path and number is None and ("(" in path["object"] or "memory" not in english_words(path["object"])):
        return None
    name = number or (path["counter"] if path else title)
    words = english_words(name)
    field = _find_field(words)
    if field is None or _NOT_CURRENT.search(words) or "%" in name or "/" in name:
        return None
    return field, find_unit(name) or "bytes", path["host"] if path else None


def _find_field(words: str) -> Optional[str]:
    pool = find_pool(words)
    if pool and "pagefile" not in words:
        return f"{pool.value}_bytes" if re.search(r"byte|pool|memory|\b[kmg]b\b", words) else None
    if "limit" in words:
        return "commit_limit_bytes" if re.search(r"commit|^limit$", words) else None
    if re.search(r"\bcommit", words):
        return "commit_bytes"
    return "available_bytes" if re.search(r"\bavailable\b", words) else None


def _make_snapshots(
    path: str,
    totals: Sequence[_Total],
    samples: Sequence[Tuple[Moment, Sequence[str]]],
    unreadable: LineFaults,
) -> Tuple[PoolSnapshot, ...]:
    """A snapshot for each row and host in which a pool's total stands."""
    if not any(total.field in ("nonpaged_bytes", "paged_bytes") for total in totals):
        return ()
    marks = {
        total.cell: find_program_mark(cells[total.cell] for _, cells in samples if total.cell < len(cells))
        for total in totals
    }
    hosts = dict.fromkeys(total.host for total in totals)
    snapshots = []
    for moment, cells in samples:
        for host in hosts:
            memory = SystemMemory(**_read_totals(totals, cells, host, marks))
            if memory != SystemMemory():
                snapshot = _make_snapshot(path, moment, host, memory, unreadable.warnings)
                snapshots.append(replace(snapshot, coverage=count_rows(len(samples), unreadable.rows)))
    return tuple(snapshots)


def _read_totals(
    totals: Sequence[_Total], cells: Sequence[str], host: Optional[str], marks: Dict[int, Optional[str]]
) -> Dict[str, Optional[int]]:
    return {
        total.field: parse_size(cells[total.cell], total.unit, marks[total.cell])
        for total in reversed(totals)
        if total.host == host and total.cell < len(cells)
    }


def _make_snapshot(
    path: str, moment: Optional[Moment], host: Optional[str], memory: SystemMemory, warnings: Tuple[str, ...]
) -> PoolSnapshot:
    return PoolSnapshot(
        source=SnapshotSource("performance counters", path),
        tags=(),
        taken_at=moment.at if moment else None,
        host=host,
        memory=memory,
        time_from=TimeOrigin.HEADER if moment else None,
        warnings=(*(moment.doubts if moment else ()), TOTALS_ONLY, *warnings, *check_memory(memory)),
    )


def _parse_listing(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The text of ``Get-Counter``, with a path and its value in lines of their own, and lists of objects of CIM."""
    if "\\" not in file.text and "ool" not in file.text:
        return ()
    samples: List[Tuple[Optional[Moment], Dict[_Key, Tuple[str, str]]]] = []
    moment: Optional[Moment] = None
    pending: Optional[Tuple[str, str, Optional[str]]] = None
    values: Dict[_Key, Tuple[str, str]] = {}
    for line in file.text.split("\n"):
        found = find_moment(line)
        path = _LISTED_PATH.search(line)
        pair = _PAIR.match(line)
        beside = _PATH_AND_VALUE.search(line)
        if found and not (path and path.start() < 12):
            if moment is None or found.at != moment.at:
                samples.append((moment, values))
                values = {}
            moment = found
        if beside:
            total = find_total(beside[1])
            if total:
                values[total[2], total[0]] = beside[2], total[1]
        elif path:
            pending = find_total(path[1])
        elif pending and _VALUE.match(line):
            values[pending[2], pending[0]] = line.strip(), pending[1]
            pending = None
        elif pair and pair[1].replace(" ", "").lower() in _KEYED:
            key = find_total(" ".join(re.findall(r"[A-Z][a-z]+", pair[1])) or pair[1])
            if key and parse_size(pair[2].strip(), key[1], ".") is not None:
                if (None, key[0]) in values:
                    samples.append((moment, values))
                    values = {}
                values[None, key[0]] = pair[2].strip(), key[1]
    return _settle_listing(file.path, [*samples, (moment, values)])


def _settle_listing(
    path: str, samples: Sequence[Tuple[Optional[Moment], Dict[_Key, Tuple[str, str]]]]
) -> Tuple[PoolSnapshot, ...]:
    """A snapshot for each sample and host; all numbers together tell the decimal mark of the console."""
    mark = find_program_mark(text for _, values in samples for text, _ in values.values())
    snapshots = []
    for moment, values in samples:
        for host in dict.fromkeys(host for host, _ in values):
            sizes = {field: parse_size(*value, mark) for (owner, field), value in values.items() if owner == host}
            memory = SystemMemory(**sizes)
            if any(memory.used_bytes(pool) is not None for pool in PoolKind):
                snapshots.append(_make_snapshot(path, moment, host, memory, ()))
    return tuple(snapshots)


def _parse_timeline(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """A table with a time a row: totals of the pools, and tags as titles of columns."""
    lines = file.text.split("\n")
    for index, line in enumerate(lines[:_MOST_LINES_ABOVE]):
        if len(line) > _LINE_CHARACTERS:
            continue
        for delimiter in ("|", "\t", ";", ","):
            titles = _split(line, delimiter)
            if len(titles) > 1 and _is_time_title(titles[0]):
                snapshots = _read_timeline(file, itertools.islice(lines, index + 1, None), titles, delimiter)
                if snapshots:
                    return snapshots
    return ()


def _is_time_title(title: str) -> bool:
    return find_fact(title) in ("time", "utc", "date") or english_words(title).split()[-1:] == ["time"]


def _read_timeline(
    file: TextFile, lines: Iterable[str], titles: Sequence[str], delimiter: str
) -> Tuple[PoolSnapshot, ...]:
    totals = list(_find_totals(titles))
    if not any(total.field in ("nonpaged_bytes", "paged_bytes") for total in totals):
        return ()
    known = {0, *(total.cell for total in totals)}
    tags = {
        cell: tag
        for cell, title in enumerate(titles)
        if cell not in known and (tag := tag_of_text(title.strip().strip("`*"))) is not None
    }
    texts: Dict[int, List[str]] = {cell: [] for cell in (*known, *tags)}
    rows: List[Tuple[Moment, List[str]]] = []
    misses = 0
    for line in lines:
        cells = _split(line, delimiter)
        moment = find_moment(cells[0]) or find_time_of_day(cells[0], file.written_at) if cells else None
        if moment is None or len(cells) < len(titles):
            misses += 1
            if rows or misses > _MOST_RULES:
                break
            continue
        rows.append((moment, cells))
        for cell, seen in texts.items():
            seen.append(cells[cell])
    marks = {cell: find_decimal_mark(seen) for cell, seen in texts.items()}
    pools = [pool for pool in PoolKind if any(total.field == f"{pool.value}_bytes" for total in totals)]
    unnamed = [] if len(pools) == 1 else [POOL_UNNAMED]  # beside one pool's total stand tags of that pool
    snapshots = []
    for moment, cells in rows:
        table = TagTable()
        for cell, tag in tags.items():
            size = parse_size(cells[cell], find_unit(titles[cell]) or "bytes", marks[cell])
            table.add(tag, pools[0], PoolUsage(None, None, None, size))
        memory = SystemMemory(**_read_totals(totals, cells, None, marks))
        snapshot = _make_snapshot(file.path, moment, None, memory, (ROUNDED,))
        if tags:
            warnings = (*(warning for warning in snapshot.warnings if warning != TOTALS_ONLY), *unnamed)
            source = SnapshotSource("table of times", file.path)
            snapshot = replace(snapshot, source=source, tags=table.usages, warnings=warnings)
        snapshots.append(snapshot)
    return tuple(snapshots)


def _split(line: str, delimiter: str) -> List[str]:
    if delimiter == "|":
        return [cell.strip() for cell in line.strip().strip("|").split("|")] if "|" in line else []
    try:
        return next(csv.reader([line.rstrip("\r")], delimiter=delimiter), [])
    except csv.Error:
        return [line]
