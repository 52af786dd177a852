"""The tone of each verdict, and of roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from pykdext.model import Diff, LeakReport, Role, TagDelta, TrendReport, Verdict
from pykdext.report.sentences.series import is_worth_a_row
from pykdext.report.tone import Tone

if TYPE_CHECKING:
    from pykdext.model.fleet import BatchSummary

_GROWING = (Verdict.LEAK, Verdict.GROWTH)


def tone_of_report(report: LeakReport) -> Tone:
    """The tone of a verdict on one state."""
    snapshot = report.snapshot
    return Tone.of(
        alarming=bool(report.suspects or report.fills),
        known=bool(snapshot.tags) and snapshot.coverage.is_complete and not report.unusual,
    )


def tone_of_diff(diff: Diff, first: Optional[TagDelta]) -> Tone:
    """The tone of a verdict on two states; ``first`` is the row that grew most."""
    is_known = bool(diff.before.tags and diff.after.tags) and not diff.restart and not diff.lacks_counts
    return Tone.of(
        alarming=first is not None and (first.bytes or 0) > 0 and not diff.lacks_counts,
        known=is_known,
    )


def tone_of_series(report: TrendReport) -> Tone:
    """The tone of a verdict on a series."""
    growing = any(is_worth_a_row(trend) and trend.verdict in _GROWING for trend in report.trends)
    return Tone.of(
        alarming=growing or any(total.verdict in _GROWING for total in report.totals),
        known=report.judged is not None
        and bool(report.trends or report.totals)
        and all(trend.verdict is not Verdict.TOO_FEW_SAMPLES for trend in report.trends),
    )


def tone_of_batch(summary: BatchSummary) -> Tone:
    """The tone of a verdict on many dumps: an object of Windows alone is no alarm, but not quiet either."""
    from pykdext.model.fleet import DumpStatus  # only batches need it

    return Tone.of(
        alarming=any(cause.role is not Role.OBJECT for cause in summary.common),
        known=not summary.common and summary.by_status.get(DumpStatus.DONE, 0) == summary.dumps,
    )


def tone_of_role(role: Role) -> Optional[Tone]:
    """What makes a leak is alarming; of victims and shared tags somebody else must be found; the rest has no colour."""
    if role is Role.CAUSE:
        return Tone.ALARMING
    return Tone.OPEN if role in (Role.OBJECT, Role.VICTIM, Role.SHARED) else None


def tone_of_trend(verdict: Verdict) -> Optional[Tone]:
    """As a leak is alarming, what rises ever slower or falls back is worth a look."""
    if verdict is Verdict.LEAK:
        return Tone.ALARMING
    return Tone.OPEN if verdict in (Verdict.GROWTH, Verdict.SAWTOOTH) else None
