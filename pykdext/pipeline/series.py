"""Two states compared, and series of them followed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import List, Optional, Sequence, Tuple

from pykdext import growth
from pykdext.attribution.taglists import TagLists
from pykdext.errors import PykdextError, RecordFormatError
from pykdext.model import PoolSnapshot, TrendReport
from pykdext.pipeline.paths import FoundFiles, find_files, read_head
from pykdext.pipeline.sources import load_states
from pykdext.pipeline.thinning import EvenlySpread
from pykdext.records.logs import settle_day_order
from pykdext.records.recognition import is_log_head
from pykdext.store.source import is_store_head
from pykdext.targets.dump.compressed import is_dump_head
from pykdext.targets.dump.header import DUMP_SUFFIXES
from pykdext.units import count_things, name_some, say_rest
from pykdext.work import UNWATCHED, Work

_NAMED_FILES = 8
"""Files named in one warning."""


def find_logs(paths: Sequence[str]) -> FoundFiles:
    """The files of a series: of a folder all below it that are text, snapshots, stores or dumps by content or name."""
    return find_files(paths, _may_hold_states)


def load_sides(
    before: str,
    after: Optional[str],
    work: Work = UNWATCHED,
    symbol_path: Optional[str] = None,
) -> Tuple[PoolSnapshot, ...]:
    """The first snapshot of ``before`` and the last one of ``after`` (None: session or machine), to be compared.

    An end by the user leaves the side that was read wholly before it, if any.
    """
    sides: List[PoolSnapshot] = []
    with work.hold():
        sides.append(load_states(before, work.whole(), symbol_path)[0])
        sides.append(load_states(after, work.whole(), symbol_path)[-1])
    return tuple(sides)


@dataclass(frozen=True)
class FollowedSeries:
    """The trends of a series, the files of it that could not be used, one line each, and whether all else was read."""

    report: TrendReport
    unusable: Tuple[str, ...]
    is_complete: bool


def follow_files(
    paths: Sequence[str],
    lists: TagLists,
    every_seconds: Optional[float] = None,
    allow_mixed: bool = False,
    work: Work = UNWATCHED,
) -> FollowedSeries:
    """The trend of every tag over all snapshots in files, folders and globs.

    ``every_seconds`` dates the snapshots, in the order in which they were taken. A file that cannot be used is left out
    and named; so are those that were not read before the user ended the work, if it keeps results.

    Raises:
        RecordFormatError: no file could be used, or they are of different machines and that is not allowed. The only
            file is refused by its own error.
    """
    found = find_logs(paths)
    files = found.files
    series = EvenlySpread()
    unusable = list(found.warnings)
    refusal: Optional[Exception] = None
    read = 0
    with work.hold():
        for path in files:
            work.report(read, len(files), "logs")
            try:
                series.add(load_states(path))
            except (PykdextError, OSError) as error:
                refusal = error
                unusable.append(str(error))
            read += 1
        work.report(read, len(files), "logs")
    snapshots = series.states()
    if work.cause is not None:
        if not snapshots:
            raise work.cause
        unusable.append(_describe_unread(files[read:]))
    if not snapshots:
        if refusal is not None and len(unusable) == 1:
            raise refusal
        reason = f"no log among {count_things(found.passed_over, 'file')}"
        if unusable:
            reason = f"nothing of use ({unusable[0]}{f'; {more}' if (more := say_rest(len(unusable), 1)) else ''})"
        raise RecordFormatError(", ".join(paths), None, reason, "logs, snapshots or dumps")
    try:
        report = growth.follow_series(settle_day_order(snapshots), lists.is_object, allow_mixed, every_seconds)
    except growth.MixedMachinesError as error:
        raise RecordFormatError(", ".join(paths), None, str(error), "one machine, or --mixed") from None
    if series.warnings:
        report = replace(report, warnings=(*series.warnings, *report.warnings))
    is_complete = not unusable and all(snapshot.coverage.is_complete for snapshot in snapshots)
    return FollowedSeries(report, tuple(unusable), is_complete)


def _may_hold_states(path: str) -> bool:
    """Whether a file of a folder belongs to a series; one that is empty or cannot be read does, so that it is told."""
    if path.lower().endswith(DUMP_SUFFIXES):
        return True
    head = read_head(path)
    return not head or is_log_head(head) or is_dump_head(head) or is_store_head(head)


def _describe_unread(paths: Sequence[str]) -> str:
    return f"interrupted: not read: {name_some(paths, _NAMED_FILES)}"
