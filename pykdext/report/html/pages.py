"""The pages: what each template is given."""

from __future__ import annotations

from typing import Iterable, Iterator, List, Mapping, Sequence

from pykdext.model import (
    Conclusion,
    Diff,
    DumpSummary,
    LeakReport,
    Origin,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    TagDelta,
    TrendReport,
    UsageRow,
    Verdict,
)
from pykdext.model.fleet import BatchSummary, DumpRow
from pykdext.model.memory import MemoryReport
from pykdext.report.html.charts import draw_causes, draw_changes, draw_composition, draw_uses
from pykdext.report.html.curves import draw_growth
from pykdext.report.html.page import iter_page
from pykdext.report.memorytext import PROCESSES_SHOWN
from pykdext.report.poolnames import list_pools
from pykdext.report.sentences.batches import (
    describe_companion,
    describe_counts,
    describe_holder,
    describe_other,
    describe_owner,
    describe_run,
    name_driver,
    name_suspect,
    verdict_on_batch,
)
from pykdext.report.sentences.memory import name_holder
from pykdext.report.sentences.series import (
    describe_series,
    describe_verdicts,
    format_deadline,
    is_worth_a_row,
)
from pykdext.report.sentences.states import describe_coverage, head_largest, machine_lines
from pykdext.report.sentences.tones import tone_of_batch, tone_of_diff, tone_of_report, tone_of_series
from pykdext.report.tone import Tone

_GROWING = (Verdict.LEAK, Verdict.GROWTH)


def render_report_page(report: LeakReport, origin: Origin) -> str:
    """The verdict on a state, the suspects with their evidence, and all tags."""
    snapshot = report.snapshot
    suspects = {(suspect.tag, suspect.pool) for suspect in report.suspects}
    return "".join(
        iter_page(
            "report.html",
            origin,
            tone=tone_of_report(report),
            composition=draw_composition(snapshot, suspects),
            report=report,
            machine=list(machine_lines(snapshot)),
            usages=_rank_usages(snapshot),
            coverage=describe_coverage(snapshot.coverage, report.image_coverage),
            largest_heading=head_largest(snapshot.coverage),
        )
    )


def render_summary_page(summary: DumpSummary, origin: Origin) -> str:
    """What a dump without tag tables tells, and why there is no verdict."""
    modules = sorted(summary.modules, key=lambda module: module.base)
    return "".join(
        iter_page(
            "summary.html",
            origin,
            tone=Tone.OPEN,
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
            tone=tone_of_diff(diff, next(iter(rows), None)),
            changes=draw_changes(rows, diff.after),
            composition=draw_composition(diff.after, grown),
            diff=diff,
            rows=rows,
            conclusion=conclusion,
            pools=list_pools(diff.after),
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
            tone=tone_of_series(report),
            growth=draw_growth(report, shown),
            composition=composition,
            report=report,
            shown=shown,
            verdict=conclusion.verdict,
            conclusion=conclusion,
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
            tone=Tone.of(alarming=report.dominant is not None, known=report.frames is not None),
            report=report,
            machine=list(machine_lines(report.snapshot)),
            uses=draw_uses(report.frames) if report.frames else [],
            processes_shown=PROCESSES_SHOWN,
            name_holder=name_holder,
        )
    )


def iter_batch_page(summary: BatchSummary, rows: Iterable[DumpRow], origin: Origin) -> Iterator[str]:
    """What many dumps have in common, and what became of each; in pieces, as there may be many."""
    return iter_page(
        "batch.html",
        origin,
        tone=tone_of_batch(summary),
        causes=draw_causes(summary),
        summary=summary,
        rows=rows,
        verdict=verdict_on_batch(summary),
        counts=describe_counts(summary),
        run=describe_run(summary),
        describe_companion=describe_companion,
        describe_holder=describe_holder,
        name_suspect=name_suspect,
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
