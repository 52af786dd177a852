"""The difference between two snapshots as text, in poolmon's words."""

from __future__ import annotations

from typing import Iterator, List, Sequence

from pykdext.model import UNSAID, Change, Conclusion, Diff, PoolKind, PoolSnapshot, TagDelta
from pykdext.report.conclusionlines import conclusion_lines
from pykdext.report.grouptable import group_lines
from pykdext.report.layout import format_table, warning_lines, wrap
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, emphasize, link_cells, render_lines
from pykdext.report.poolnames import is_pool_named, label_pool, name_pool
from pykdext.report.sentences.states import describe_taken
from pykdext.report.sentences.tones import tone_of_diff
from pykdext.units import choose_form, count_things, format_change, format_duration, format_rate


def render_diff_text(
    diff: Diff, rows: Sequence[TagDelta], conclusion: Conclusion, width: int, markup: Markup = PLAIN
) -> str:
    """Both states, what grew and who owns it in a sentence, the rows as a table, and what that rests on."""
    links = Links(diff.after.source)
    lines: List[Line] = [*_state_lines("Before", diff.before, width), *_state_lines("After", diff.after, width)]
    lines += ["", *emphasize(wrap(conclusion.verdict, width), tone_of_diff(diff, next(iter(rows), None)))]
    lines += ["", *_table(rows, diff.after, links)] if rows else []
    lines += ["", *wrap(_summary(diff, len(rows)), width)]
    for group in conclusion.groups:
        lines += [
            "",
            *group_lines(group, "blocks grew in lockstep, so one cause holds them all", width, links, diff.after),
        ]
    lines += conclusion_lines(conclusion, width, links, diff.after)
    warnings = warning_lines(diff.warnings, width)
    lines += ["", *warnings] if warnings else []
    return render_lines(lines, markup, width)


def _state_lines(word: str, snapshot: PoolSnapshot, width: int) -> List[str]:
    taken = describe_taken(snapshot)
    host = f", {snapshot.host}" if snapshot.host else ""
    return wrap(f"{word + ':':8}{snapshot.source.path or 'session'}: {taken}{host}", width, "", " " * 8)


def _table(rows: Sequence[TagDelta], after: PoolSnapshot, links: Links) -> List[Line]:
    cells = [
        [
            delta.tag.text,
            label_pool(delta.pool, after),
            format_change(delta.allocs),
            format_change(delta.frees),
            format_change(delta.outstanding),
            format_change(delta.bytes),
            format_rate(delta.bytes_per_hour),
            ", ".join(change.value for change in delta.changes),
        ]
        for delta in rows
    ]
    headers = ["Tag", "Type", "Allocs", "Frees", "Diff", "Bytes", "Per hour", ""]
    align = ["left", "left", "right", "right", "right", "right", "right", "left"]
    return link_cells(format_table(headers, cells, align), 0, [links.tag(delta.tag) for delta in rows])


def _summary(diff: Diff, shown: int) -> str:
    differing = count_things(len(diff.deltas), "row that differs is", "rows that differ are")
    interval = f" in {format_duration(abs(diff.interval_seconds))}" if diff.interval_seconds else ""
    is_part = any(Change.UNLISTED in delta.changes for delta in diff.deltas)
    which = "tags that both states list" if is_part else "all tags"
    totals = ", ".join(_totals(diff))
    return f"{shown:,} of {differing} shown" + (f"; {which}{interval}: {totals}" if totals else "")


def _is_listed(diff: Diff, pool: PoolKind) -> bool:
    return any(row.usage(pool) != UNSAID for state in (diff.before, diff.after) for row in state.tags)


def _totals(diff: Diff) -> Iterator[str]:
    is_named = is_pool_named(diff.after)
    for pool in PoolKind:
        total = diff.total_bytes(pool)
        if total is None and (not is_named or not _is_listed(diff, pool)):
            continue  # nothing is listed of that pool, or all is of the one pool that is not named
        name = pool.value if is_named else name_pool(pool, diff.after)
        if total is None:
            yield f"{name} not known"
        else:
            yield f"{name} {format_change(total)} {choose_form(abs(total), 'byte', 'bytes')}"
