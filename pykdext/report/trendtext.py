"""The trends of a series as text: the verdict first, then what it rests on."""

from __future__ import annotations

import itertools
from typing import Iterator, List, Mapping, Optional, Sequence

from pykdext.model import Conclusion, PoolSnapshot, PoolTag, Role, SnapshotSource, Trend, TrendReport, Verdict
from pykdext.printable import pad_columns
from pykdext.report.conclusionlines import conclusion_lines
from pykdext.report.grouptable import group_lines
from pykdext.report.layout import format_table, warning_lines, wrap
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, emphasize, link_cells, render_lines, tint_cells
from pykdext.report.poolnames import label_pool, name_tag
from pykdext.report.sentences.series import (
    capture_steps,
    describe_series,
    describe_total,
    describe_verdicts,
    format_deadline,
    is_worth_a_row,
)
from pykdext.report.sentences.tones import tone_of_series, tone_of_trend
from pykdext.report.sparkline import render_sparkline
from pykdext.units import format_bytes, format_rate, say_rest

ROWS_SHOWN = 20
"""JSON has all trends."""

SPARKLINE_MIN_COLUMNS, SPARKLINE_MAX_COLUMNS = 8, 40

_AT_HAND = Links(SnapshotSource(""))
"""A series is of files, which hold no images: its tags lead to the session at hand."""


def render_trend_text(
    report: TrendReport,
    conclusion: Conclusion,
    width: int,
    unicode: bool = False,
    questions: Optional[Mapping[PoolTag, str]] = None,
    markup: Markup = PLAIN,
) -> str:
    """The verdict, the suspects with a sparkline each, and the groups that grow in lockstep.

    ``unicode``: the screen shows block characters. ``questions`` are what to ask next about tags of kernel objects.
    """
    shown = [trend for trend in report.trends if is_worth_a_row(trend)]
    verdict = emphasize(wrap(conclusion.verdict, width), tone_of_series(report))
    lines: List[Line] = [*wrap(describe_series(report), width), "", *verdict]
    if shown:
        lines += ["", *_trend_table(shown[:ROWS_SHOWN], report.newest, width, unicode)]
        if len(shown) > ROWS_SHOWN:
            lines.append(say_rest(len(shown), ROWS_SHOWN))
    growing = [total for total in report.totals if total.verdict in (Verdict.LEAK, Verdict.GROWTH)]
    if report.trends and growing:
        lines += ["", *itertools.chain(*(wrap(describe_total(total), width) for total in growing))]
    for step in capture_steps(report):
        lines += ["", *wrap(step, width, "", "   ")] if step[0].isalpha() else wrap(step, width, "", "   ")
    for group in report.groups:
        heading = "blocks grow in lockstep, so one cause holds them all"
        lines += ["", *group_lines(group, heading, width, _AT_HAND, report.newest)]
    lines += _object_lines(shown, questions or {}, width)
    lines += conclusion_lines(conclusion, width, _AT_HAND, report.newest)
    lines += ["", *wrap(describe_verdicts(report.trends), width), *warning_lines(report.warnings, width)]
    return render_lines(lines, markup, width)


def _trend_table(trends: Sequence[Trend], newest: Optional[PoolSnapshot], width: int, unicode: bool) -> List[Line]:
    """Poolmon's first columns, the verdict and its numbers, a sparkline in what is left of the line, and notes."""
    cells = [
        [
            trend.tag.text,
            label_pool(trend.pool, newest),
            "too few" if trend.verdict is Verdict.TOO_FEW_SAMPLES else trend.verdict.value,
            format_rate(trend.slope.bytes_per_hour if trend.slope else None),
            format_bytes(trend.last_bytes),
            format_deadline(trend),
        ]
        for trend in trends
    ]
    headers = ["Tag", "Type", "Verdict", "Per hour", "Now", "Full in"]
    align = ["left", "left", "left", "right", "right", "right"]
    lines = format_table(headers, cells, align)
    left = len(lines[1]) + 2
    columns = min(width - left, SPARKLINE_MAX_COLUMNS)
    if columns >= SPARKLINE_MIN_COLUMNS:
        drawings = ["Bytes", "-" * columns, *(render_sparkline(trend.bytes, columns, unicode) for trend in trends)]
        lines = [(pad_columns(line, left) + drawing).rstrip() for line, drawing in zip(lines, drawings)]
    notes = [
        wrap(f"{name_tag(str(trend.tag), trend.pool, newest)}: {trend.note}", width) for trend in trends if trend.note
    ]
    linked = link_cells(lines, 0, [_AT_HAND.tag(trend.tag) for trend in trends])
    return [*tint_cells(linked, 2, [tone_of_trend(trend.verdict) for trend in trends]), *itertools.chain(*notes)]


def _object_lines(trends: Sequence[Trend], questions: Mapping[PoolTag, str], width: int) -> Iterator[str]:
    """What to ask about the kernel objects among the suspects."""
    tags = dict.fromkeys(trend.tag for trend in trends if trend.role is Role.OBJECT)
    if tags:
        yield ""
    for tag in tags:
        question = f". Ask next: {questions[tag]}" if tag in questions else ""
        yield from wrap(f"{tag}: object that Windows makes for somebody else, not the cause{question}", width, "", "  ")
