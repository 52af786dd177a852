"""The pages: what each template is given."""

from __future__ import annotations

import enum
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
    Role,
    TagDelta,
    TrendReport,
    UsageRow,
    Verdict,
)
from pykdext.model.fleet import BatchSummary, DumpRow, DumpStatus
from pykdext.model.memory import MemoryReport
from pykdext.report.html.charts import draw_causes, draw_changes, draw_composition, draw_uses
from pykdext.report.html.curves import draw_growth
from pykdext.report.html.page import iter_page
from pykdext.report.memorytext import PROCESSES_SHOWN
from pykdext.report.sentences.batches import (
    describe_counts,
    describe_holder,
    describe_other,
    describe_owner,
    describe_run,
    name_driver,
    verdict_on_batch,
)
from pykdext.report.sentences.series import (
    describe_series,
    describe_verdicts,
    format_deadline,
    is_worth_a_row,
)
from pykdext.report.sentences.states import describe_coverage, machine_lines

_GROWING = (Verdict.LEAK, Verdict.GROWTH)
_TOO_FEW = Verdict.TOO_FEW_SAMPLES


class Tone(enum.Enum):
    """How a verdict is to be taken at a glance: the colour of its box."""

    ALARMING = "alarming"
    CALM = "calm"
    """All was read, and nothing stands out."""
    OPEN = "open"
    """Nothing was found, but that says little: there is no verdict, or part of what it needs is missing."""

    @classmethod
    def of(cls, *, alarming: bool, known: bool) -> Tone:
        """``known``: enough was read for silence to mean health."""
        return cls.ALARMING if alarming else cls.CALM if known else cls.OPEN


def render_report_page(report: LeakReport, origin: Origin) -> str:
    """The verdict on a state, the suspects with their evidence, and all tags."""
    snapshot = report.snapshot
    suspects = {(suspect.tag, suspect.pool) for suspect in report.suspects}
    return "".join(
        iter_page(
            "report.html",
            origin,
            tone=Tone.of(
                alarming=bool(report.suspects or report.fills),
                known=bool(snapshot.tags) and snapshot.coverage.is_complete and not report.unusual,
            ),
            composition=draw_composition(snapshot, suspects),
            report=report,
            machine=list(machine_lines(snapshot)),
            usages=_rank_usages(snapshot),
            coverage=describe_coverage(snapshot.coverage, report.image_coverage),
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
            tone=Tone.of(alarming=bool(grown), known=bool(diff.before.tags and diff.after.tags) and not diff.restart),
            changes=draw_changes(rows),
            composition=draw_composition(diff.after, grown),
            diff=diff,
            rows=rows,
            conclusion=conclusion,
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
            tone=Tone.of(
                alarming=bool(growing) or any(total.verdict in _GROWING for total in report.totals),
                known=report.judged is not None and all(item.verdict is not _TOO_FEW for item in report.trends),
            ),
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
        )
    )


def iter_batch_page(summary: BatchSummary, rows: Iterable[DumpRow], origin: Origin) -> Iterator[str]:
    """What many dumps have in common, and what became of each; in pieces, as there may be many."""
    return iter_page(
        "batch.html",
        origin,
        tone=Tone.of(
            alarming=any(cause.role is not Role.OBJECT for cause in summary.common),
            known=not summary.common and summary.by_status.get(DumpStatus.DONE, 0) == summary.dumps,
        ),
        causes=draw_causes(summary),
        summary=summary,
        rows=rows,
        verdict=verdict_on_batch(summary),
        counts=describe_counts(summary),
        run=describe_run(summary),
        describe_holder=describe_holder,
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
