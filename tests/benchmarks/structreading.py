"""Reading arrays of records by field names, against ``struct.iter_unpack`` with offsets written by hand."""

from __future__ import annotations

import os
import struct
from collections import deque
from functools import partial
from pathlib import Path
from typing import Callable, Iterable

from pykdext.model import Machine
from pykdext.model.structtables import StructTable
from tests.benchmarks.results import MILLISECONDS, OURS, Report, Work
from tests.benchmarks.rounds import run_in_turns, time_seconds

_RECORDS = 100_000
_RATIO_LIMIT = 2.0

_COUNTERS = ("NonPagedBytes", "NonPagedAllocs", "NonPagedFrees", "PagedBytes", "PagedAllocs", "PagedFrees")
_FIELDS = {
    "8 fields as they lie in memory": ("Key", *_COUNTERS, "LimitInfo"),
    "8 fields in another order": ("LimitInfo", *reversed(_COUNTERS), "Key"),
    "7 fields and one that this kernel does not have": ("Key", *_COUNTERS, "NoSuchField"),
}
_BY_HAND = struct.Struct("<I4xQQQQQQ16xQ")


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """No option has a meaning here, nor has the folder."""
    table = StructTable(Machine.X64, 20348, 2529)
    rows = os.urandom(_RECORDS * _BY_HAND.size)
    works = []
    for name, fields in _FIELDS.items():
        form = table.make("_POOL_TRACKER_TABLE", *fields)
        assert form is not None and form.stride == _BY_HAND.size
        work = Work(f"{_RECORDS:,} records: {name}", MILLISECONDS, ratio_limits={"by hand": _RATIO_LIMIT})
        contestants = {
            OURS: partial(_time, lambda form=form: form.iter_unpack(rows)),
            "by hand": partial(_time, lambda: _BY_HAND.iter_unpack(rows)),
        }
        for tool, seconds in run_in_turns(contestants, rounds):
            work.add(tool, seconds)
        works.append(work)
    return Report(works)


def _time(unpack: Callable[[], Iterable[object]]) -> float:
    return time_seconds(lambda: deque(unpack(), maxlen=0))
