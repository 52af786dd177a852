"""The tag table as text: poolmon's columns (a line for each tag and pool) or ``!poolused``'s (a line for each tag)."""

from __future__ import annotations

from typing import List, Mapping, Optional, Sequence

from pykdext.model import PoolKind, PoolSnapshot, PoolTag, TagDescription, TagUsage, UsageRow
from pykdext.report.layout import format_table, leave_out_columns, warning_lines, wrap
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, link_cells, render_lines
from pykdext.report.sentences.owners import describe
from pykdext.report.sentences.states import say_lacking_counts, subject_lines
from pykdext.units import count_things, format_count

MIN_DESCRIPTION_COLUMNS = 20

SPARE = ("Per Alloc", "Frees", "Allocs")
"""Columns that go where lines are short, so that the driver is seen."""

Descriptions = Mapping[PoolTag, TagDescription]


def render_poolmon_text(
    snapshot: PoolSnapshot,
    rows: Sequence[UsageRow],
    descriptions: Descriptions,
    width: int,
    markup: Markup = PLAIN,
) -> str:
    """``Tag Type Allocs Frees Diff Bytes Per Alloc`` and what the tag is."""
    cells = [
        [
            row.tag.text,
            row.pool.label,
            format_count(row.usage.allocs),
            format_count(row.usage.frees),
            format_count(row.usage.outstanding),
            format_count(row.usage.bytes) + ("!" if row.usage.clamped else ""),
            format_count(row.usage.bytes_each),
        ]
        for row in rows
    ]
    headers = ("Tag", "Type", "Allocs", "Frees", "Diff", "Bytes", "Per Alloc")
    align = ("left", "left", "right", "right", "right", "right", "right")
    tags = [row.tag for row in rows]
    table = _described_table(headers, cells, align, tags, descriptions, width)
    lines = link_cells(table, 0, [Links(snapshot.source).tag(tag) for tag in tags])
    if any(row.usage.clamped for row in rows):
        lines.append("! the tables counted more frees than allocations; shown as 0, as the kernel does")
    return render_lines(_page_lines(snapshot, lines, len(rows), width), markup, width)


def render_poolused_text(
    snapshot: PoolSnapshot,
    rows: Sequence[TagUsage],
    descriptions: Descriptions,
    width: int,
    markup: Markup = PLAIN,
) -> str:
    """``Tag``, and ``Allocs`` (outstanding) and ``Used`` (bytes) of both pools, with a TOTAL line."""
    cells = [
        [row.tag.text]
        + [format_count(count) for pool in PoolKind for count in (row.usage(pool).outstanding, row.usage(pool).bytes)]
        for row in rows
    ]
    total = ["TOTAL"]
    for pool in PoolKind:
        usages = [row.usage(pool) for row in snapshot.tags]
        if snapshot.coverage.lacks_counts:
            total += [format_count(None)] * 2
            continue
        total += [format_count(sum(usage.outstanding or 0 for usage in usages))]
        total += [format_count(sum(usage.bytes or 0 for usage in usages))]
    headers = ("Tag", "NonPaged Allocs", "Used", "Paged Allocs", "Used")
    align = ("left", "right", "right", "right", "right")
    tags = [row.tag for row in rows]
    table = _described_table(headers, [*cells, total], align, [*tags, None], descriptions, width)
    lines = link_cells(table, 0, [Links(snapshot.source).tag(tag) for tag in tags])
    return render_lines(_page_lines(snapshot, lines, len(rows), width), markup, width)


def _described_table(
    headers: Sequence[str],
    cells: Sequence[Sequence[str]],
    align: Sequence[str],
    tags: Sequence[Optional[PoolTag]],
    descriptions: Descriptions,
    width: int,
) -> List[str]:
    """The table with one more column that takes what is left of ``width``."""
    if not cells:
        return format_table(headers, cells, align)
    room = width - MIN_DESCRIPTION_COLUMNS - 2
    (headers, *cells), align = leave_out_columns([list(row) for row in (headers, *cells)], align, room, SPARE)
    lines = format_table(headers, cells, align)
    left = len(lines[1]) + 2
    room = width - left
    words = ["Driver and use", "-" * max(0, room)]
    for tag in tags:
        description = descriptions.get(tag) if tag is not None else None
        words.append(describe(description) if description else "")
    if room < len(words[0]):
        return lines
    return [
        (line.ljust(left) + (word if len(word) <= room else word[: room - 3] + "...")).rstrip()
        for line, word in zip(lines, words)
    ]


def _page_lines(snapshot: PoolSnapshot, table: Sequence[Line], shown: int, width: int) -> List[Line]:
    totals = ", ".join(f"{pool.value} {count_things(snapshot.total_bytes(pool), 'byte')}" for pool in PoolKind)
    lacking = say_lacking_counts(snapshot.coverage)
    if lacking:
        totals = "not known"
    lines: List[Line] = [*subject_lines(snapshot), "", *table, ""]
    lines += wrap(
        f"{count_things(shown, 'row')} shown, {count_things(len(snapshot.tags), 'tag')} in use; all tags: {totals}",
        width,
    )
    lines += wrap(lacking, width) if lacking else []
    return [*lines, *warning_lines(snapshot.warnings, width)]
