"""Rows of a table with known columns, gathered into snapshots: rows of one time and host are one."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

from pykdext.model import POOL_UNNAMED, PoolKind, PoolSnapshot, SnapshotSource, StatedDriver, SystemMemory, TimeOrigin
from pykdext.records.columns import MEMORY_FIELDS, SESSION_POOL, Columns, TaggedUsage
from pykdext.records.moments import ZONE_UNKNOWN, Moment, find_moment
from pykdext.records.quantities import parse_count, parse_size
from pykdext.records.tagtable import LineFaults, TagTable, check_against_memory, count_rows

ROUNDED = "sizes are only as exact as the table shows them"

_MOST_DRIVERS = 20_000
"""More tags than any tag list names drivers for."""


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
        self.rows = 0
        self.lost_rows = 0
        self.drivers: Dict[StatedDriver, None] = {}

    def add(self, usages: Sequence[TaggedUsage], caption: Optional[PoolKind]) -> None:
        """Take in what a row tells; ``caption``: the pool that stands above the table."""
        self.rows += 1
        for tag, pool, usage in usages:
            self.pool_is_named = self.pool_is_named and (pool or caption) is not None
            self.table.add(tag, pool or caption or PoolKind.NONPAGED, usage)


class SampleCollector:
    """Makes snapshots of rows.

    Args:
        columns: what the cells mean.
        kind: of the source, in words.
        caption: the pool that the text above the table names.
    """

    def __init__(
        self,
        columns: Columns,
        kind: str,
        path: str,
        caption: Optional[PoolKind] = None,
    ) -> None:
        self.columns = columns
        self._source = SnapshotSource(kind, path)
        self._caption = caption
        self._samples: Dict[Tuple[str, ...], _Sample] = {}
        self._unreadable = LineFaults("cannot be read and is left out")
        self._key: Tuple[str, ...] = ()
        self._sample: Optional[_Sample] = None
        self._lost_above = 0

    def add(self, number: int, line: str, cells: Sequence[str], part: str = "") -> bool:
        """Take in a row, the line ``number`` of the file; ``part`` parts samples that have no time."""
        usages = self.columns.read_row(cells)
        if not usages:
            self.refuse(number, line, is_row=len(cells) > 1)
            return False
        key = self.find_key(cells, part)
        if key != self._key or self._sample is None:
            self._key = key
            sample = self._samples.get(key)
            if sample is None:
                sample = self._samples[key] = _Sample(self.columns, cells)
                sample.lost_rows, self._lost_above = self._lost_above, 0
            self._sample = sample
        sample = self._sample
        sample.add(usages, self._caption)
        if len(sample.drivers) < _MOST_DRIVERS:
            sample.drivers.update(dict.fromkeys(self.columns.read_drivers(cells)))
        return True

    def refuse(self, number: int, line: str, *, is_row: bool = False) -> None:
        """Count a line within the table that cannot be read."""
        before = self._unreadable.rows
        self._unreadable.add(number, line, is_row=is_row)
        if self._sample is None:
            self._lost_above += self._unreadable.rows - before
        else:
            self._sample.lost_rows += self._unreadable.rows - before

    def snapshots(self) -> Tuple[PoolSnapshot, ...]:
        """What was collected, in the order of first rows."""
        return tuple(map(self._make_snapshot, self._samples.values()))

    def find_key(self, cells: Sequence[str], part: str) -> Tuple[str, ...]:
        """What tells two snapshots apart: time and host; where there is no time, the part of the file."""
        texts = self.columns.read_key(cells)
        return texts if any(texts[:3]) else (*texts, part)

    def _make_snapshot(self, sample: _Sample) -> PoolSnapshot:
        tags = sample.table.usages
        moment = sample.moment
        warnings: List[str] = [*(moment.doubts if moment else ())]
        if not sample.pool_is_named:
            warnings.append(POOL_UNNAMED)
        warnings += self._unreadable.warnings
        warnings += sample.table.warnings
        if self.columns.is_session_pool:
            warnings.append(SESSION_POOL)
        else:
            warnings += check_against_memory(tags, sample.memory)
        if self.columns.has_rounded_sizes:
            warnings.append(ROUNDED)
        return PoolSnapshot(
            source=self._source,
            tags=tags,
            taken_at=moment.at if moment else None,
            host=sample.host,
            uptime_seconds=sample.uptime_seconds,
            memory=sample.memory,
            time_from=TimeOrigin.HEADER if moment else None,
            warnings=tuple(warnings),
            stated_drivers=tuple(sample.drivers),
            coverage=count_rows(sample.rows, sample.lost_rows),
        )


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
