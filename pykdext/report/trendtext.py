"""The trends of a series as text: the verdict first, then what it rests on."""

from __future__ import annotations

import itertools
from typing import Iterator, List, Mapping, Optional, Sequence

from pykdext.model import LockstepGroup, PoolTag, Role, SnapshotSource, Trend, TrendReport, Verdict
from pykdext.report.difftext import format_change, format_rate
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, emphasize, link_cells, render_lines
from pykdext.report.plaintext import format_table, warning_lines, wrap
from pykdext.report.sparkline import render_sparkline
from pykdext.units import format_bytes, format_duration, format_share

ROWS_SHOWN = 20
"""JSON has all trends."""

SPARKLINE_MIN_COLUMNS, SPARKLINE_MAX_COLUMNS = 8, 40

_AT_HAND = Links(SnapshotSource(""))
"""A series is of files, which hold no images: its tags lead to the session at hand."""

DEADLINE_HOURS = 365 * 24
"""A limit that is farther away is no deadline."""


def render_trend_text(
    report: TrendReport,
    width: int,
    unicode: bool = False,
    questions: Optional[Mapping[PoolTag, str]] = None,
    markup: Markup = PLAIN,
) -> str:
    """The verdict, the suspects with a sparkline each, and the groups that grow in lockstep.

    ``unicode``: the screen shows block characters. ``questions`` are what to ask next about tags of kernel objects.
    """
    shown = [trend for trend in report.trends if is_worth_a_row(trend)]
    lines: List[Line] = [*wrap(describe_series(report), width), "", *emphasize(wrap(verdict_on_series(report), width))]
    if shown:
        lines += ["", *_trend_table(shown[:ROWS_SHOWN], width, unicode)]
        if len(shown) > ROWS_SHOWN:
            lines.append(f"and {len(shown) - ROWS_SHOWN} more")
    for group in report.groups:
        lines += ["", *_group_lines(group, width)]
    lines += _object_lines(shown, questions or {}, width)
    lines += ["", *wrap(describe_verdicts(report.trends), width), *warning_lines(report.warnings, width)]
    return render_lines(lines, markup, width)


def verdict_on_series(report: TrendReport) -> str:
    """One or two sentences: what leaks, how fast and until when, or that nothing does."""
    if report.judged is None or report.newest is None:
        return "There is no sample to judge."
    first = report.trends[0] if report.trends else None
    if first is None or first.verdict not in (Verdict.LEAK, Verdict.GROWTH, Verdict.TOO_FEW_SAMPLES):
        return "No tag grows beyond its noise."
    if first.slope is None or first.slope.bytes_per_hour <= 0:
        return "The samples are too few for a verdict, and no tag grew among them."
    if first.verdict is Verdict.TOO_FEW_SAMPLES:
        return f"The samples are too few for a verdict. {_growth_text(first)} among them."
    note = f". No leak for certain: {first.note}" if first.verdict is Verdict.GROWTH else ""
    return f"{_growth_text(first)}{_interval_text(first)}{_limit_text(first)}{note}.{_role_text(first)}"


def _growth_text(trend: Trend) -> str:
    assert trend.slope is not None
    rate = trend.slope.bytes_per_hour
    return (
        f"Tag {trend.tag} of the {trend.pool.value} pool grows by {format_bytes(rate)} an hour, "
        f"{format_bytes(24 * rate)} a day"
    )


def _interval_text(trend: Trend) -> str:
    assert trend.slope is not None
    p = trend.monotonic_p
    chance = "" if p is None else ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
    return f" (95 %: {format_bytes(trend.slope.low)} to {format_bytes(trend.slope.high)} an hour{chance})"


def _limit_text(trend: Trend) -> str:
    if trend.hours_to_limit is None or trend.hours_to_limit > DEADLINE_HOURS:
        return ""
    if trend.hours_to_limit <= 0:
        return f"; the {trend.limit} is reached already"
    left = format_duration(3600 * trend.hours_to_limit)
    return f"; the {trend.limit} is {'full' if trend.limit != 'commit limit' else 'reached'} in {left}"


def _role_text(trend: Trend) -> str:
    if trend.role is Role.OBJECT:
        return " Windows makes this object on behalf of somebody else, who does not let go of it."
    if trend.group is None:
        return ""
    return f" It grows in lockstep with others (group {trend.group}, role: {trend.role.value})."


def is_worth_a_row(trend: Trend) -> bool:
    """Suspects, and what might be taken for one: sawtooth, plateau."""
    if trend.verdict is Verdict.TOO_FEW_SAMPLES:
        return trend.slope is not None and trend.slope.bytes_per_hour > 0
    return trend.verdict in (Verdict.LEAK, Verdict.GROWTH, Verdict.SAWTOOTH) or bool(trend.note)


def describe_series(report: TrendReport) -> str:
    """How many samples, from when to when."""
    if report.judged is None:
        return "No samples"
    return (
        f"{report.samples} samples from {report.judged.first:%Y-%m-%d %H:%M} to {report.judged.last:%Y-%m-%d %H:%M} "
        f"UTC, {format_duration(report.span_seconds)}"
    )


def _trend_table(trends: Sequence[Trend], width: int, unicode: bool) -> List[Line]:
    """Poolmon's first columns, the verdict and its numbers, a sparkline in what is left of the line, and notes."""
    cells = [
        [
            trend.tag.text,
            trend.pool.label,
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
        lines = [(line.ljust(left) + drawing).rstrip() for line, drawing in zip(lines, drawings)]
    notes = [wrap(f"{trend.tag} {trend.pool.label}: {trend.note}", width) for trend in trends if trend.note]
    return [*link_cells(lines, 0, [_AT_HAND.tag(trend.tag) for trend in trends]), *itertools.chain(*notes)]


def format_deadline(trend: Trend) -> str:
    """The time until the limit is reached."""
    hours = trend.hours_to_limit
    if hours is None:
        return "-"
    return "> 1 year" if hours > DEADLINE_HOURS else format_duration(3600 * hours)


def _group_lines(group: LockstepGroup, width: int) -> List[Line]:
    """The members, the likeliest cause first, each with its role and the reason in one line."""
    cells = [
        [
            member.tag.text,
            member.pool.label,
            format_change(member.blocks),
            f"x{member.ratio:.3f}",
            format_share(member.freed_share),
            f"{member.role.value}: {member.reason}",
        ]
        for member in group.members
    ]
    heading = wrap(f"Group {group.number}: blocks grow in lockstep, so one cause holds them all", width)
    table = format_table(
        ["Tag", "Type", "Blocks", "Ratio", "Freed", "Role"], cells, ["left", "left", "right", "right", "right", "left"]
    )
    cut = [line[:width] for line in table]
    return [*heading, *link_cells(cut, 0, [_AT_HAND.tag(member.tag) for member in group.members])]


def _object_lines(trends: Sequence[Trend], questions: Mapping[PoolTag, str], width: int) -> Iterator[str]:
    """What to ask about the kernel objects among the suspects."""
    tags = dict.fromkeys(trend.tag for trend in trends if trend.role is Role.OBJECT)
    if tags:
        yield ""
    for tag in tags:
        question = f". Ask next: {questions[tag]}" if tag in questions else ""
        yield from wrap(f"{tag}: object that Windows makes for somebody else, not the cause{question}", width, "", "  ")


def describe_verdicts(trends: Sequence[Trend]) -> str:
    """How many tags have each verdict."""
    counts = {verdict: sum(trend.verdict is verdict for trend in trends) for verdict in Verdict}
    parts = [f"{count} {verdict.value}" for verdict, count in counts.items() if count]
    return f"{len(trends)} rows (tag and pool): {', '.join(parts)}" if parts else "No tag has bytes to follow"
