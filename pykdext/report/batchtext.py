"""A batch as text: what the hosts have in common first, then every dump, then what could not be read."""

from __future__ import annotations

from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence

from pykdext.model.fleet import BatchSummary, CommonCause, DumpRow, DumpStatus
from pykdext.printable import count_columns, make_readable, pad_columns, take_last_columns
from pykdext.report.layout import format_table, warning_lines, wrap
from pykdext.report.markup import PLAIN, Line, Markup, emphasize, render_lines
from pykdext.report.sentences.batches import (
    describe_companion,
    describe_counts,
    describe_holder,
    describe_other,
    describe_owner,
    describe_run,
    name_group,
    name_hosts,
    name_suspect,
    verdict_on_batch,
)
from pykdext.report.sentences.tones import tone_of_batch
from pykdext.units import count_things, format_bytes, format_duration, say_rest

CAUSES_SHOWN = 10
"""JSON has all."""
GAPS_SHOWN = 2
HOLDERS_SHOWN = 5
COMPANIONS_SHOWN = 5

MIN_PATH_COLUMNS = 12
"""With less room the dumps' paths are left out: their hosts name them too."""

_HEADERS = ("Host", "Status", "Taken (UTC)", "Up", "Tag", "Type", "Bytes", "Driver")
_SPARE = ("Up", "Taken (UTC)")
"""What goes first where lines are short: hosts and drivers stay."""

_ALIGN = ("left", "left", "left", "right", "left", "left", "right", "left")


class _Room(NamedTuple):
    """Where the text is shown: names of hosts and drivers are foreign, and shown as far as its encoding has them."""

    width: int
    encoding: str

    def readable(self, text: str) -> str:
        return make_readable(text, self.encoding)


def render_batch_text(
    summary: BatchSummary, rows: Iterable[DumpRow], width: int, encoding: str = "ascii", markup: Markup = PLAIN
) -> str:
    """What the hosts have in common, a line for each dump with its first suspect, and why a dump has no verdict."""
    room = _Room(width, encoding)
    failures: List[str] = []
    cells: List[Sequence[str]] = []
    paths: List[str] = []
    for row in rows:
        cells.append(_cells(row))
        paths.append(row.path)
        reason = row.error or _gap(row)
        if reason:
            failures += _wrap(f"{row.host}: {row.status.value}: {reason}", room, "  ", "    ")
    verdict = emphasize(_wrap(verdict_on_batch(summary), room), tone_of_batch(summary))
    lines: List[Line] = [*_wrap(describe_counts(summary), room), "", *verdict]
    for number, cause in enumerate(summary.common[:CAUSES_SHOWN], 1):
        lines += ["", *_cause_lines(number, cause, room)]
    if len(summary.common) > CAUSES_SHOWN:
        lines += ["", say_rest(len(summary.common), CAUSES_SHOWN)]
    if cells:
        lines += ["", *_dump_table(cells, paths, room)]
    if failures:
        lines += ["", "Not read, or not all of it", *failures]
    lines += [
        "",
        *_wrap(describe_run(summary), room),
        *warning_lines([room.readable(line) for line in summary.warnings], width),
    ]
    return render_lines(lines, markup, width)


def _gap(row: DumpRow) -> str:
    """What a dump lacks that was read in part."""
    if row.verdict is None or row.status is not DumpStatus.PARTIAL:
        return ""
    return "; ".join(row.verdict.warnings[:GAPS_SHOWN])


def _cause_lines(number: int, cause: CommonCause, room: _Room) -> Iterator[str]:
    tags = name_group(cause) if cause.companions else f"{cause.tag} {cause.pool.label}"
    yield from _wrap(f"{number}. {tags}  {describe_owner(cause)}", room, "", "   ")
    own = f"{format_bytes(cause.bytes)} of {cause.tag}" if cause.companions else format_bytes(cause.bytes)
    held = f"{own} on {count_things(len(cause.hosts), 'host')}: {name_hosts(cause.hosts)}"
    yield from _wrap(held, room, "   ", "     ")
    for companion in cause.companions[:COMPANIONS_SHOWN]:
        yield from _wrap(describe_companion(cause, companion), room, "   ", "     ")
    if len(cause.companions) > COMPANIONS_SHOWN:
        yield "   " + say_rest(len(cause.companions), COMPANIONS_SHOWN, "tag")
    if cause.unowned_hosts:
        yield from _wrap(f"no driver tied to it on {name_hosts(cause.unowned_hosts)}", room, "   ", "     ")
    for holder in cause.holders[:HOLDERS_SHOWN]:
        yield from _wrap(describe_holder(holder), room, "   ", "     ")
    if len(cause.holders) > HOLDERS_SHOWN:
        yield "   " + say_rest(len(cause.holders), HOLDERS_SHOWN, "program")
    if cause.module is None:
        return
    if cause.quiet_hosts:
        yield from _wrap(f"same driver, no leak: {name_hosts(cause.quiet_hosts)}", room, "   ", "     ")
    for other in cause.other_versions:
        yield from _wrap(describe_other(other), room, "   ", "     ")


def _cells(row: DumpRow) -> Sequence[str]:
    """A dump with its first suspect."""
    verdict = row.verdict
    status = row.status.value if row.status is not DumpStatus.DONE else "ok"
    if verdict is None:
        return (row.host, status, "", "", "", "", "", "")
    taken_at = verdict.taken_at.strftime("%Y-%m-%d %H:%M") if verdict.taken_at else ""
    facts = (row.host, status, taken_at, format_duration(verdict.uptime_seconds))
    if not verdict.suspects:
        return (*facts, "-", "", "", "")
    suspect = verdict.suspects[0]
    tag, owner = name_suspect(verdict)
    return (*facts, tag, suspect.pool.label, format_bytes(suspect.bytes), owner)


def _dump_table(cells: Sequence[Sequence[str]], paths: Sequence[str], room: _Room) -> List[str]:
    """The table with the paths in what is left of the line; of a long one its end."""
    table = format_table(_HEADERS, cells, _ALIGN, room.width, _SPARE, room.encoding)
    left = count_columns(table[1]) + 2
    shown = [make_readable(path, room.encoding, frozenset()) for path in paths]
    columns = min(room.width - left, max(map(count_columns, shown)))
    if columns < MIN_PATH_COLUMNS:
        return table
    words = ["Dump", "-" * columns, *(_cut_front(path, columns) for path in shown)]
    return [pad_columns(line, left) + word for line, word in zip(table, words)]


def _cut_front(path: str, columns: int) -> str:
    """The path, of a long one its end."""
    if count_columns(path) <= columns:
        return path
    return f"...{take_last_columns(path, columns - 3)}"


def _wrap(text: str, room: _Room, indent: str = "", hanging: Optional[str] = None) -> List[str]:
    """``wrap``; names of hosts and drivers are foreign, and may hold anything."""
    return wrap(room.readable(text), room.width, indent, hanging)
