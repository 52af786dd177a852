"""Logs of the pools in any form that is known: recognised by content, read to the last snapshot, dated."""

from __future__ import annotations

import gc
import os
import re
from contextlib import contextmanager
from dataclasses import replace
from typing import Callable, Iterable, Iterator, List, Sequence, Tuple, Union

from pykdext.errors import RecordFormatError
from pykdext.model import PoolSnapshot, TimeOrigin
from pykdext.records.blocklists import parse_poolfind, parse_verifier
from pykdext.records.celllines import parse_cell_lines
from pykdext.records.csvlog import parse_csv
from pykdext.records.frametables import find_frame_table, parse_frame_tables
from pykdext.records.keyedrecords import parse_format_list, parse_json_records
from pykdext.records.moments import DAY_FIRST, MONTH_FIRST, find_name_moment, swap_day_and_month
from pykdext.records.notes import parse_notes
from pykdext.records.packed import Unpacked, peek_packed, unpack
from pykdext.records.pastedtable import find_unread_table, parse_pasted_tables
from pykdext.records.perfcounters import parse_counter_log, parse_perf_counters
from pykdext.records.plaintotals import parse_plain_totals
from pykdext.records.poolmon import parse_newest_screen, parse_poolmon
from pykdext.records.poolused import parse_poolused
from pykdext.records.recognition import HEAD_BYTES
from pykdext.records.snapshotfile import is_snapshot_head, load_snapshot, parse_snapshot
from pykdext.records.statecolumns import parse_state_columns
from pykdext.records.textclean import clean_text
from pykdext.records.textfile import MAX_TEXT_BYTES, TextFile, is_text_head, make_text_file, read_text_file
from pykdext.records.untitled import parse_untitled_rows
from pykdext.records.vmtotals import parse_vm_text
from pykdext.units import count_things

LONG_LOG_BYTES = 8 << 20
"""Of a log that is larger the newest snapshot is read alone where no other is asked for."""

UNDATED = "the file holds several states without a time; poolleak trend follows them, and --every dates them"

ZONE_OF_PACKER = "the archive tells the time of its files without a zone; UTC is taken"

_EXPECTED = "a poolmon log, !poolused text, a CSV or table of tags, or a poolleak snapshot"
_TAGGING_OFF = b"Query pooltags Failed"
_SHOWN_CHARACTERS = 60

_Parse = Callable[[TextFile], Tuple[PoolSnapshot, ...]]
PARSERS: Tuple[_Parse, ...] = (
    parse_counter_log,
    parse_poolmon,
    parse_state_columns,
    parse_csv,
    parse_poolused,
    parse_json_records,
    parse_format_list,
    parse_pasted_tables,
    parse_cell_lines,
    parse_poolfind,
    parse_verifier,
    parse_untitled_rows,
    parse_perf_counters,
    parse_vm_text,
    parse_frame_tables,
    parse_notes,
    parse_plain_totals,
)
"""From the form that is told most surely to that which is told least so; the first that finds a snapshot reads all."""


_BARE_ROW = re.compile(r"^[ \t]{0,20}\S{3,4}[ \t]{1,20}\d{1,20}[ \t]{1,20}\d{3,20}[ \t]{0,20}$", re.MULTILINE)
_FEWEST_BARE_ROWS = 2
_SEARCHED_CHARACTERS = 20_000


def load_log(path: str) -> Tuple[PoolSnapshot, ...]:
    """All snapshots of a file, in its order.

    Their time is that in the file, else that in its name, else that of its last change (``time_from`` says which).
    Times without a zone are taken as UTC, so that a series stays in order; a warning says so. Of several snapshots
    without a time the name dates the first, or the last change the last.

    Raises:
        RecordFormatError: no form of log is found in it, or it is a damaged snapshot file.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if is_snapshot_head(head):
        return (load_snapshot(path),)
    if peek_packed(head) is None:
        return _load(read_text_file(path))
    packed = read_text_file(path)
    return _load_members(unpack(packed.raw, path), packed)


def load_newest(path: str) -> PoolSnapshot:
    """The last snapshot of a file, as ``load_log`` reads it; of a long log the others take neither time nor memory.

    Raises:
        RecordFormatError: as ``load_log`` does.
        OSError: it cannot be read.
    """
    if os.path.getsize(path) > LONG_LOG_BYTES:
        file = read_text_file(path)
        if peek_packed(file.raw[:HEAD_BYTES]) is None and not is_snapshot_head(file.raw[:HEAD_BYTES]):
            with _collector_paused():
                snapshots = parse_newest_screen(file) or parse_csv(file, newest_only=True)
            if snapshots:
                return _date_snapshots(snapshots[-1:], file)[0]
    return newest_of(load_log(path))


def newest_of(snapshots: Sequence[PoolSnapshot]) -> PoolSnapshot:
    """The last of a file's snapshots; where it is not the only one, a warning says so."""
    newest = snapshots[-1]
    if len(snapshots) == 1:
        return newest
    others = (
        f"this is the last of {count_things(len(snapshots), 'state')} in the source; poolleak trend "
        "tells how they go on"
    )
    return replace(newest, warnings=(*(item for item in newest.warnings if item != UNDATED), others))


def load_log_stream(name: str, data: bytes) -> Tuple[PoolSnapshot, ...]:
    """All snapshots of bytes that have no file: of a pipe, of standard input. ``name`` is what to call them.

    Nothing dates them but themselves.

    Raises:
        RecordFormatError: no form of log is found in them.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise RecordFormatError(name, None, f"more than {MAX_TEXT_BYTES >> 20} MB", "a log")
    if peek_packed(data[:HEAD_BYTES]) is None:
        return _load(make_text_file(name, data))
    return _load_members(unpack(data, name), make_text_file(name, data))


def _load_members(members: Iterable[Unpacked], packed: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The snapshots of all logs that are packed in a file; what is none is left out, if others are."""
    snapshots: List[PoolSnapshot] = []
    refused: List[RecordFormatError] = []
    for member in sorted(members, key=lambda member: natural_key(member.name)):
        path = f"{packed.path}/{member.name}" if member.name else packed.path
        try:
            found = _load(make_text_file(path, member.data, member.written_at or packed.written_at))
        except RecordFormatError as error:
            refused.append(error)
            continue
        if member.has_zone or member.written_at is None:
            snapshots += found
        else:
            snapshots += [_doubt_zone(snapshot) for snapshot in found]
    if not snapshots:
        raise refused[0] if refused else RecordFormatError(packed.path, None, "an empty archive", _EXPECTED)
    if refused:
        left_out = f"{len(refused)} of the packed files cannot be used, first {refused[0]}"
        snapshots = [replace(snapshot, warnings=(*snapshot.warnings, left_out)) for snapshot in snapshots]
    return tuple(snapshots)


def _doubt_zone(snapshot: PoolSnapshot) -> PoolSnapshot:
    if snapshot.time_from is not TimeOrigin.FILE_TIME:
        return snapshot
    return replace(snapshot, warnings=(*snapshot.warnings, ZONE_OF_PACKER))


def _load(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The snapshots of one text or snapshot file."""
    if is_snapshot_head(file.raw[:HEAD_BYTES]):
        return (parse_snapshot(file.raw, file.path),)
    text = clean_text(file)
    with _collector_paused():
        for parse in PARSERS:
            snapshots = parse(text)
            if snapshots:
                return settle_day_order(_date_snapshots(_add_frames(snapshots, text), text))
    unread = find_unread_table(text)
    if unread is not None:
        raise RecordFormatError(file.path, *unread, "a tag, and a number in each column that counts")
    raise RecordFormatError(file.path, None, _describe(text), _EXPECTED)


def _add_frames(snapshots: Tuple[PoolSnapshot, ...], file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The newest snapshot with the table of physical memory that stands beside it."""
    table = find_frame_table(file.text) if snapshots[-1].frames is None else None
    if table is None:
        return snapshots
    warnings = (*snapshots[-1].warnings, *table.warnings)
    return (*snapshots[:-1], replace(snapshots[-1], frames=table.frames, warnings=warnings))


def settle_day_order(snapshots: Sequence[PoolSnapshot]) -> Tuple[PoolSnapshot, ...]:
    """The snapshots of a series with days and months of ambiguous dates (4/5/2024) changed about, if that orders them.

    They come in their order; as month/day/year they would go back in time, as day/month/year they do not.
    """
    swapped = []
    for snapshot in snapshots:
        at = swap_day_and_month(snapshot.taken_at) if snapshot.taken_at and MONTH_FIRST in snapshot.warnings else None
        if at is None:
            swapped.append(snapshot)
            continue
        warnings = tuple(warning for warning in snapshot.warnings if warning != MONTH_FIRST)
        swapped.append(replace(snapshot, taken_at=at, warnings=(DAY_FIRST, *warnings)))
    return tuple(swapped) if _goes_back(snapshots) and not _goes_back(swapped) else tuple(snapshots)


def _goes_back(snapshots: Sequence[PoolSnapshot]) -> bool:
    moments = [snapshot.taken_at for snapshot in snapshots if snapshot.taken_at]
    return any(later < earlier for earlier, later in zip(moments, moments[1:]))


def natural_key(name: str) -> Tuple[Union[int, str], ...]:
    """A sort key in which ``log-2`` stands before ``log-10``."""
    pieces = re.split(r"([0-9]+)", name)
    return tuple(int(piece) if number % 2 else piece.lower() for number, piece in enumerate(pieces))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause Python's search for cycles: a log becomes thousands of values without any, and it takes half the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _date_snapshots(snapshots: Tuple[PoolSnapshot, ...], file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The snapshots with a time from the file's name or last change, where the log itself names none."""
    undated = [index for index, snapshot in enumerate(snapshots) if snapshot.taken_at is None]
    if not undated:
        return snapshots
    dated = list(snapshots)
    named = find_name_moment(os.path.basename(file.path))
    if len(undated) > 1:
        for index in undated:
            dated[index] = replace(dated[index], warnings=(*dated[index].warnings, UNDATED))
    if named:
        first = dated[undated[0]]
        dated[undated[0]] = replace(
            first, taken_at=named.at, time_from=TimeOrigin.FILE_NAME, warnings=(*named.doubts, *first.warnings)
        )
    elif file.written_at is not None:
        dated[undated[-1]] = replace(dated[undated[-1]], taken_at=file.written_at, time_from=TimeOrigin.FILE_TIME)
    return tuple(dated)


def _describe(file: TextFile) -> str:
    """What a file that is no log begins with, in a few words."""
    if not file.raw.strip():
        return "an empty file"
    if _TAGGING_OFF in file.data:
        return "poolmon's message that pool tagging is off (gflags /r +ptg turns it on)"
    if not is_text_head(file.raw[:HEAD_BYTES]):
        return "binary data"
    bare = _BARE_ROW.findall(file.text[:_SEARCHED_CHARACTERS])
    if len(bare) >= _FEWEST_BARE_ROWS:
        return f"rows of a tag and numbers, but not the titles that say what they count (first: {bare[0].strip()!r})"
    start = file.text.lstrip()[:_SHOWN_CHARACTERS].split("\n")[0].rstrip()
    return f"text that begins {start!r}"
