"""The tag table as text: poolmon's columns (a line for each tag and pool) or ``!poolused``'s (a line for each tag)."""

from __future__ import annotations

from typing import List, Mapping, Optional, Sequence

from pykdext.model import PoolSnapshot, PoolTag, TagDescription, TagUsage, UsageRow
from pykdext.report.layout import format_table, leave_out_columns, warning_lines, wrap
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, link_cells, render_lines
from pykdext.report.poolnames import is_pool_named, label_pool, list_pools, name_pool
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
            label_pool(row.pool, snapshot),
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
    pools = list_pools(snapshot)
    cells = [
        [row.tag.text]
        + [format_count(count) for pool in pools for count in (row.usage(pool).outstanding, row.usage(pool).bytes)]
        for row in rows
    ]
    total = ["TOTAL"]
    for pool in pools:
        usages = [row.usage(pool) for row in snapshot.tags]
        if snapshot.coverage.lacks_counts:
            total += [format_count(None)] * 2
            continue
        total += [_sum_known([usage.outstanding for usage in usages]), _sum_known([usage.bytes for usage in usages])]
    sides = (
        ("NonPaged Allocs", "Used", "Paged Allocs", "Used")
        if is_pool_named(snapshot)
        else ("Allocs", "Used") * len(pools)
    )
    headers, align = ("Tag", *sides), ("left", *("right",) * len(sides))
    tags = [row.tag for row in rows]
    table = _described_table(headers, [*cells, total], align, [*tags, None], descriptions, width)
    lines = link_cells(table, 0, [Links(snapshot.source).tag(tag) for tag in tags])
    return render_lines(_page_lines(snapshot, lines, len(rows), width), markup, width)


def _sum_known(counts: Sequence[Optional[int]]) -> str:
    """The sum of those that are known; of none it is not known either."""
    known = [count for count in counts if count is not None]
    return format_count(sum(known) if known or not counts else None)


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
    is_named = is_pool_named(snapshot)
    totals = ", ".join(
        f"{pool.value if is_named else name_pool(pool, snapshot)} {count_things(snapshot.total_bytes(pool), 'byte')}"
        for pool in list_pools(snapshot)
    )
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
