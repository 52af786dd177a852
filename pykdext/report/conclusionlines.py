"""What growth comes to, as lines: the owners of what grew, the pools of both sides, and the next steps."""

from __future__ import annotations

from typing import Iterator, List, Optional, Sequence

from pykdext.model import Conclusion, GrownTag, PoolSnapshot, PoolTotal
from pykdext.report.layout import format_table, warning_lines, wrap
from pykdext.report.links import Links
from pykdext.report.markup import Line, emphasize
from pykdext.report.plaintext import note_lines, owner_lines
from pykdext.report.poolnames import label_total, list_totals, name_pool
from pykdext.report.sentences.owners import describe
from pykdext.report.steps import step_lines
from pykdext.units import format_bytes, format_share

OWNERS_SHOWN = 3
"""Tags whose owners are listed; JSON has all that were looked for."""

OWNERS_SHARE = 0.1
"""Nor are those of a tag that grew by less than this share of the first, alone."""


def conclusion_lines(
    conclusion: Conclusion, width: int, links: Links, newest: Optional[PoolSnapshot]
) -> Iterator[Line]:
    """Who owns the tags that grew most, how full the pools are, and what to do next; ``newest``: the last state."""
    for item in conclusion.grown[:OWNERS_SHOWN]:
        if item.bytes < OWNERS_SHARE * conclusion.grown[0].bytes and not _is_in_group(item, conclusion):
            continue
        if not item.owners and not item.descriptions and conclusion.image_coverage is None:
            continue  # nothing was searched, and no list knows it: the verdict says so
        yield ""
        yield from emphasize([f"{item.tag} in {name_pool(item.pool, newest)}: {item.role.value}"])
        for entry in item.descriptions[:1]:
            yield from wrap(f"{describe(entry)} ({entry.source})", width, "   ")
        yield from owner_lines(item.owners, conclusion.image_coverage, width, links)
        yield from note_lines(item.notes, width)
    if conclusion.after:
        yield from ("", *_pool_table(conclusion.before, conclusion.after, newest))
    if conclusion.next_steps:
        yield from ("", "Next steps")
        yield from step_lines(conclusion.next_steps, width, links)
    if conclusion.warnings:
        yield from ("", *warning_lines(conclusion.warnings, width))


def _is_in_group(item: GrownTag, conclusion: Conclusion) -> bool:
    return any(
        (member.tag, member.pool) == (item.tag, item.pool) for group in conclusion.groups for member in group.members
    )


def _pool_table(before: Sequence[PoolTotal], after: Sequence[PoolTotal], newest: Optional[PoolSnapshot]) -> List[str]:
    """What the pools held and hold of what they may hold."""
    rows = [
        (
            label_total(total, newest),
            *([format_bytes(earlier.used_bytes)] if (earlier := _find(before, total)) else []),
            format_bytes(total.used_bytes),
            format_bytes(total.limit_bytes) if total.limit_bytes is not None else "not known",
            format_share(total.filled_share),
        )
        for total in list_totals(after, newest)
    ]
    titles = ("Pool", *(("Before", "After") if before else ("Now",)), "Limit", "Filled")
    return format_table(titles, rows, ("left", *("right",) * (len(titles) - 1)))


def _find(totals: Sequence[PoolTotal], wanted: PoolTotal) -> Optional[PoolTotal]:
    return next((total for total in totals if total.pool is wanted.pool), None)
