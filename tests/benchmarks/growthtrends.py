"""A series of poolmon logs: read them and follow every tag, against pandas with pymannkendall."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

from pykdext.growth import follow_series
from pykdext.model import PoolKind, PoolSnapshot, Verdict
from pykdext.records.logs import load_log
from tests.benchmarks.results import MILLISECONDS, OURS, Report, Work
from tests.benchmarks.rounds import ContestantError, run_in_turns, time_seconds
from tests.helpers.poolseries import LEAK, troubled_series

LOG_COUNT, TAG_COUNT = 200, 2000
QUICK_TAG_COUNT = 200
SECONDS_LIMIT = 2.5

_PEER = "pandas + pymannkendall"
_HEADER = (
    " Memory:16468560K Avail:12072536K  PageFlts:468600648   InRam Krnl:56708K P:950888K\n"
    " Commit:4100436K Limit:17517136K Peak:11685564K            Pool N:{nonpaged}K P:{paged}K\n\n"
    " Tag  Type     Allocs         Frees    Diff   Bytes    Per Alloc\n\n"
)
_COLUMNS = {"tag": (1, 5), "type": (6, 11), "bytes": (59, 75)}


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure 200 logs of 2000 tags, with ``quick`` of 200; ``slow`` has no meaning here.

    No tag is steady without a test, which is the worst case. The peer takes so long that it runs once.
    """
    tag_count = QUICK_TAG_COUNT if quick else TAG_COUNT
    paths = _write_logs(folder / "logs", tag_count)
    name = f"{LOG_COUNT} logs of {tag_count} tags"
    parse = Work(f"{name}: parse", MILLISECONDS)
    follow = Work(f"{name}: trend of every tag", MILLISECONDS)
    both = Work(f"{name}: parse and trend", MILLISECONDS, limit=None if quick else SECONDS_LIMIT)
    report = Report([parse, follow, both])
    for number in range(rounds):
        entrants: Dict[str, Callable[[], Tuple[float, float]]] = {OURS: partial(_measure_ours, paths)}
        if number == 0:
            entrants[_PEER] = partial(_measure_peer, paths, report.notes)
        for tool, (parse_seconds, follow_seconds) in run_in_turns(entrants, 1):
            if parse_seconds:
                parse.add(tool, parse_seconds)
                follow.add(tool, follow_seconds)
                both.add(tool, parse_seconds + follow_seconds)
    return report


def _measure_ours(paths: Sequence[Path]) -> Tuple[float, float]:
    snapshots: List[PoolSnapshot] = []
    parse_seconds = time_seconds(lambda: snapshots.extend(state for path in paths for state in load_log(str(path))))
    leaks: List[str] = []

    def follow() -> None:
        trends = follow_series(snapshots).trends
        leaks.extend(trend.tag.text for trend in trends if trend.verdict is Verdict.LEAK)

    follow_seconds = time_seconds(follow)
    if leaks[:1] != [LEAK]:
        raise ContestantError(f"the leak is not first: {leaks}")
    return parse_seconds, follow_seconds


def _measure_peer(paths: Sequence[Path], notes: List[str]) -> Tuple[float, float]:
    """Seconds to read the logs into one table, and to test each of its columns; zeros if it is not installed."""
    try:
        import pandas
        import pymannkendall
    except ImportError as error:
        notes.append(f"{_PEER} is left out: {error}")
        return 0.0, 0.0
    tables: List[Any] = []
    parse_seconds = time_seconds(lambda: tables.append(_read_table(pandas, paths)))
    rising: List[Tuple[str, str]] = []

    def test_all() -> None:
        table = tables[0]
        for column in table.columns:
            if pymannkendall.original_test(table[column].to_numpy()).trend == "increasing":
                rising.append(column)

    follow_seconds = time_seconds(test_all)
    notes.append(f"{_PEER} calls {len(rising)} of {tables[0].shape[1]} tags increasing")
    return parse_seconds, follow_seconds


def _read_table(pandas: Any, paths: Sequence[Path]) -> Any:
    """A row for each log and a column for each tag and pool."""
    frames = [
        pandas.read_fwf(path, colspecs=list(_COLUMNS.values()), names=list(_COLUMNS), skiprows=5, delimiter="\n")
        for path in paths
    ]
    long = pandas.concat(frames, keys=range(len(paths)), names=["log"]).reset_index()
    return long.pivot(index="log", columns=["tag", "type"], values="bytes")


def _write_logs(folder: Path, tag_count: int) -> List[Path]:
    """Logs as poolmon -n writes them, the time in the file's name."""
    folder.mkdir()
    paths: List[Path] = []
    for snapshot in troubled_series(tag_count=tag_count):
        lines = [
            f" {row.tag.text} {pool.label:5} {usage.allocs:12} {usage.frees:12} {usage.outstanding:12} "
            f"{usage.bytes:15} {usage.bytes_each or 0:12}\n"
            for row in snapshot.tags
            for pool in PoolKind
            if not (usage := row.usage(pool)).is_idle
        ]
        totals = {pool.value: (snapshot.total_bytes(pool) or 0) // 1024 for pool in PoolKind}
        moment = re.sub(r"[-:T]", "", snapshot.taken_at.isoformat()[:16])
        path = folder / f"log-{moment[:8]}-{moment[8:]}.txt"
        path.write_text(_HEADER.format(**totals) + "".join(lines), encoding="ascii")
        paths.append(path)
    return paths
