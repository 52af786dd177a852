"""The pages: what each template is given."""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, List, Mapping, Sequence, Union

from pykdext.model import (
    BatchSummary,
    Conclusion,
    Diff,
    DumpRow,
    DumpSummary,
    LeakReport,
    MemoryReport,
    Origin,
    PageFrames,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    TagDelta,
    TrendReport,
    UsageRow,
    Verdict,
)
from pykdext.report.html.charts import draw_causes, draw_changes, draw_composition, draw_growth
from pykdext.report.html.page import iter_page
from pykdext.report.sentences.batches import (
    describe_counts,
    describe_other,
    describe_owner,
    describe_run,
    name_driver,
    verdict_on_batch,
)
from pykdext.report.sentences.owners import (
    describe,
    describe_gap,
    describe_place,
    describe_vendor,
    find_address,
    name_use,
)
from pykdext.report.sentences.series import (
    describe_series,
    describe_verdicts,
    format_deadline,
    is_worth_a_row,
)
from pykdext.report.sentences.states import describe_coverage, machine_lines
from pykdext.units import format_bytes

_GROWING = (Verdict.LEAK, Verdict.GROWTH)

_BAR_COLORS = (
    "#2f6fb5",
    "#d9822b",
    "#3f9b61",
    "#b5473c",
    "#7d5fb2",
    "#8a6d4f",
    "#c470a5",
    "#7f7f7f",
    "#a3a336",
    "#3aa6b0",
)


def render_report_page(report: LeakReport, origin: Origin) -> str:
    """The verdict on a state, the suspects with their evidence, and all tags."""
    snapshot = report.snapshot
    suspects = {(suspect.tag, suspect.pool) for suspect in report.suspects}
    return "".join(
        iter_page(
            "report.html",
            origin,
            {"composition": draw_composition(snapshot, suspects)},
            report=report,
            machine=list(machine_lines(snapshot)),
            usages=_rank_usages(snapshot),
            coverage=describe_coverage(snapshot.coverage, report.image_coverage),
            describe=describe,
            describe_gap=describe_gap,
            describe_place=describe_place,
            describe_vendor=describe_vendor,
            find_address=find_address,
            name_use=name_use,
        )
    )


def render_summary_page(summary: DumpSummary, origin: Origin) -> str:
    """What a dump without tag tables tells, and why there is no verdict."""
    modules = sorted(summary.modules, key=lambda module: module.base)
    return "".join(
        iter_page(
            "summary.html",
            origin,
            {},
            summary=summary,
            machine=list(machine_lines(summary.facts)),
            loaded=[module for module in modules if not module.unloaded],
            unloaded=[module for module in modules if module.unloaded],
        )
    )


def render_diff_page(diff: Diff, rows: Sequence[TagDelta], conclusion: Conclusion, origin: Origin) -> str:
    """What grew most between two states, and all rows; ``rows`` are those to list."""
    grown = {(delta.tag, delta.pool) for delta in rows[:1] if (delta.bytes or 0) > 0}
    return "".join(
        iter_page(
            "diff.html",
            origin,
            {"changes": draw_changes(rows), "composition": draw_composition(diff.after, grown)},
            diff=diff,
            rows=rows,
            conclusion=conclusion,
            describe=describe,
            describe_gap=describe_gap,
            describe_place=describe_place,
            describe_vendor=describe_vendor,
            find_address=find_address,
            pools=list(PoolKind),
        )
    )


def render_trend_page(
    report: TrendReport, conclusion: Conclusion, questions: Mapping[PoolTag, str], origin: Origin
) -> str:
    """The verdict on a series, the curves of the suspects, and the trends of all tags.

    ``questions`` are what to ask next about tags of kernel objects.
    """
    shown = [trend for trend in report.trends if is_worth_a_row(trend)]
    growing = {(trend.tag, trend.pool) for trend in shown if trend.verdict in _GROWING}
    composition = draw_composition(report.newest, growing) if report.newest else []
    return "".join(
        iter_page(
            "trend.html",
            origin,
            {"growth": draw_growth(report, shown), "composition": composition},
            report=report,
            shown=shown,
            alarming=bool(growing),
            verdict=conclusion.verdict,
            conclusion=conclusion,
            describe=describe,
            describe_gap=describe_gap,
            describe_place=describe_place,
            describe_vendor=describe_vendor,
            find_address=find_address,
            series=describe_series(report),
            counts=describe_verdicts(report.trends),
            questions=questions,
            format_deadline=format_deadline,
        )
    )


def render_memory_page(report: MemoryReport, origin: Origin) -> str:
    """Where the memory is: one bar of all page frames, the commit sheet, and what to do next."""
    return "".join(
        iter_page(
            "memory.html",
            origin,
            {},
            report=report,
            machine=list(machine_lines(report.snapshot)),
            bar=_lay_out_bar(report.frames) if report.frames else [],
        )
    )


def _lay_out_bar(frames: PageFrames) -> List[Dict[str, Union[str, float]]]:
    """The parts of a bar of 1,000 units, the largest use first."""
    whole = max(frames.expected, sum(count.frames for count in frames.uses), 1)
    parts: List[Dict[str, Union[str, float]]] = []
    start = 0.0
    for number, count in enumerate(frames.uses):
        width = round(1000 * count.frames / whole, 2)
        words = f"{count.use.value}: {format_bytes(count.frames * frames.frame_bytes)}"
        color = _BAR_COLORS[number % len(_BAR_COLORS)]
        parts.append({"start": start, "width": width, "color": color, "words": words})
        start = round(start + width, 2)
    return parts


def iter_batch_page(summary: BatchSummary, rows: Iterable[DumpRow], origin: Origin) -> Iterator[str]:
    """What many dumps have in common, and what became of each; in pieces, as there may be many."""
    return iter_page(
        "batch.html",
        origin,
        {"causes": draw_causes(summary)},
        summary=summary,
        rows=rows,
        verdict=verdict_on_batch(summary),
        counts=describe_counts(summary),
        run=describe_run(summary),
        describe_other=describe_other,
        name_driver=name_driver,
        describe_owner=describe_owner,
    )


def _rank_usages(snapshot: PoolSnapshot) -> List[UsageRow]:
    """Every tag and pool in use, the largest first."""
    rows = [
        UsageRow(row.tag, pool, row.usage(pool))
        for row in snapshot.tags
        for pool in PoolKind
        if not row.usage(pool).is_idle
    ]
    return sorted(rows, key=lambda row: row.usage.bytes or 0, reverse=True)
