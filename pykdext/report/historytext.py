"""The history of hosts and tags as text: each tag over the weeks, with a sparkline."""

from __future__ import annotations

from typing import List, Optional, Sequence

from pykdext.model.fleet import HistoryLine
from pykdext.printable import pad_columns
from pykdext.report.layout import format_table, wrap
from pykdext.report.sentences.tags import say_uncounted
from pykdext.report.sparkline import render_sparkline
from pykdext.units import count_things, format_bytes, format_day

SPARKLINE_MIN_COLUMNS, SPARKLINE_MAX_COLUMNS = 6, 30

_HEADERS = ("Host", "Tag", "Type", "Dumps", "First", "Last", "First bytes", "Last bytes", "Per hour")
_SPARE = ("Dumps", "First bytes", "First")
"""What goes first where lines are short: how fast it grows stays."""

_ALIGN = ("left", "left", "left", "right", "left", "left", "right", "right", "right")


def render_history_text(
    lines: Sequence[HistoryLine], width: int, unicode: bool, top: Optional[int], encoding: str = "ascii"
) -> str:
    """A line for each tag, pool and host; ``Per hour`` is the average from boot to the last dump."""
    shown = lines[:top]
    cells = [
        (
            line.host,
            line.tag.text,
            line.pool.label,
            str(len(line.samples)),
            format_day(first.taken_at),
            format_day(last.taken_at),
            format_bytes(first.usage.bytes),
            format_bytes(last.usage.bytes),
            format_bytes(last.bytes_per_hour),
        )
        for line in shown
        for first, last in (line.ends,)
    ]
    table = format_table(_HEADERS, cells, _ALIGN, width, _SPARE, encoding)
    left = len(table[1]) + 2
    columns = min(width - left, SPARKLINE_MAX_COLUMNS, max((len(line.samples) for line in shown), default=0))
    if columns >= SPARKLINE_MIN_COLUMNS:
        graphs = [render_sparkline([sample.usage.bytes for sample in line.samples], columns, unicode) for line in shown]
        table = [
            (pad_columns(row, left) + graph).rstrip() for row, graph in zip(table, ["Bytes", "-" * columns, *graphs])
        ]
    text: List[str] = [*table, "", *wrap(_summary(lines, len(shown)), width), *wrap(say_uncounted(lines), width)]
    return "\n".join(text) + "\n"


def _summary(lines: Sequence[HistoryLine], shown: int) -> str:
    hosts = len({line.host for line in lines})
    rows = count_things(len(lines), "row (tag, pool and host) is", "rows (tag, pool and host) are")
    return f"{shown:,} of {rows} shown, of {count_things(hosts, 'host')}; per hour: since boot"
