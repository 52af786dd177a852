"""What is said of a series of states: what leaks, how fast, and until when."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple, Union

from pykdext.model import Conclusion, PoolKind, PoolSnapshot, Role, TotalTrend, Trend, TrendReport, Verdict
from pykdext.report.poolnames import name_limit, name_pool
from pykdext.report.sentences.grown import say_holder, say_owner
from pykdext.units import choose_form, count_things, format_bytes, format_duration, format_moment

DEADLINE_HOURS = 365 * 24
"""A limit that is farther away is no deadline."""

SMALLEST_GROWTH_BYTES = 64 << 10
"""Of samples that are too few, and bear no time; less does not matter."""


def verdict_on_series(report: TrendReport, conclusion: Optional[Conclusion] = None) -> str:
    """One or two sentences: what leaks, how fast and until when, or that nothing does."""
    if report.judged is None or report.newest is None:
        return _verdict_without_samples(report)
    if not report.trends:
        return _verdict_without_trends(report)
    first = report.trends[0]
    if first.verdict not in (Verdict.LEAK, Verdict.GROWTH, Verdict.TOO_FEW_SAMPLES):
        return "No tag grows beyond its noise."
    return _verdict_on_tag(first, report.newest, report.has_times, conclusion)


def _verdict_without_trends(report: TrendReport) -> str:
    if _tells_tags(report):
        return "None of the tags that were asked for is in the samples: nothing is said of others."
    if report.totals:
        return " ".join(map(describe_total, report.totals))
    return "No verdict: no sample tells how many bytes a tag holds. Logs of poolmon or dumps would decide."


def _tells_tags(report: TrendReport) -> bool:
    """Whether tags hold something in the newest sample, asked for or not."""
    rows = report.newest.tags if report.newest else ()
    return any(row.usage(pool).bytes for row in rows for pool in PoolKind)


def _verdict_without_samples(report: TrendReport) -> str:
    if not report.uncounted:
        return "There is no sample to judge."
    lack = choose_form(report.uncounted, "lacks", "lack")
    return (
        f"No verdict: {count_things(report.uncounted, 'sample')} {lack} rows of the tag tables, so that what tags hold "
        "is not known. Dumps that hold the tables of all processors, or logs of the tags, tell what grows."
    )


def _verdict_on_tag(first: Trend, newest: PoolSnapshot, has_times: bool, conclusion: Optional[Conclusion]) -> str:
    if not is_growing(first):
        return "The samples are too few for a verdict, and no tag grew among them."
    pool = name_pool(first.pool, newest)
    few = "The samples are too few for a verdict. " if first.verdict is Verdict.TOO_FEW_SAMPLES else ""
    if not has_times:
        return f"{few}{_untimed_text(first, pool)}{_cause_text(first, conclusion)}"
    if few:
        return f"{few}{_growth_text(first, pool)} among them{_cause_text(first, conclusion)}"
    limit = _limit_text(first, name_limit(first.limit, newest))
    note = f". No leak for certain: {first.note}" if first.verdict is Verdict.GROWTH else ""
    growth = f"{_growth_text(first, pool)}{_interval_text(first)}{limit}{note}"
    return f"{growth}{_cause_text(first, conclusion)}"


def _cause_text(first: Trend, conclusion: Optional[Conclusion]) -> str:
    """The end of the sentence, and who owns the tag or holds it, as far as that was looked for."""
    grown = conclusion.grown[0] if conclusion is not None and conclusion.grown else None
    if conclusion is None or grown is None or (grown.tag, grown.pool) != (first.tag, first.pool):
        return f".{_role_text(first)}"
    owner = "." if grown.role is Role.OBJECT else say_owner(grown, conclusion)
    return f"{owner}{_role_text(first)}{say_holder(grown, conclusion)}"


def is_growing(trend: Trend) -> bool:
    """Whether the tag rises; beyond its noise, if there are enough samples to judge that."""
    if trend.slope is None:  # of samples without times only the verdict is known, of few only their ends
        few = trend.verdict is Verdict.TOO_FEW_SAMPLES and _grown_bytes(trend) >= SMALLEST_GROWTH_BYTES
        return few or trend.verdict in (Verdict.LEAK, Verdict.GROWTH)
    return trend.slope.bytes_per_hour > 0 and trend.verdict in (Verdict.LEAK, Verdict.GROWTH, Verdict.TOO_FEW_SAMPLES)


def _grown_bytes(trend: Trend) -> int:
    return (trend.last_bytes or 0) - (trend.first_bytes or 0)


def describe_total(total: TotalTrend) -> str:
    """How a whole pool goes on, and until when; in a sentence."""
    known = [held for held in total.bytes if held is not None]
    name = f"The {total.pool.value} pool"
    if total.slope is not None and total.slope.bytes_per_hour > 0 and total.verdict is not Verdict.STEADY:
        rate = total.slope.bytes_per_hour
        surely = "" if total.verdict is not Verdict.TOO_FEW_SAMPLES else ", by too few samples for a verdict"
        return (
            f"{name} grows by {format_bytes(rate)} an hour, {format_bytes(24 * rate)} a day{surely}, and holds "
            f"{format_bytes(known[-1])} now{_limit_text(total, total.limit or '')}."
        )
    if total.verdict in (Verdict.LEAK, Verdict.GROWTH):
        return f"{name} grows, from {format_bytes(known[0])} to {format_bytes(known[-1])}; how fast is not known."
    return f"{name} holds {format_bytes(known[-1])} and does not grow beyond its noise."


def capture_steps(report: TrendReport) -> Tuple[str, ...]:
    """What to capture before the machine is restarted, where only totals are known; empty where tags are."""
    if report.trends or not report.totals or _tells_tags(report):
        return ()
    return (
        "A total names no tag, and a restart takes the evidence away. Capture before it:",
        "1. the tags, now and again in an hour: poolmon -b -n pool-1.txt (Windows Driver Kit), or without any tool "
        "the script that poolleak record --recipe prints, in an elevated PowerShell;",
        "2. the memory, for the driver's name: a kernel dump (a live one from Task Manager, Details, System; livekd; "
        "or NotMyFault), then poolleak analyze MEMORY.DMP.",
    )


def _untimed_text(trend: Trend, pool: str) -> str:
    return (
        f"Tag {trend.tag} of the {pool} grows from {format_bytes(trend.first_bytes)} to "
        f"{format_bytes(trend.last_bytes)} over {count_things(len(trend.bytes), 'sample')}; how fast is not known: "
        "they bear no time"
    )


def _growth_text(trend: Trend, pool: str) -> str:
    assert trend.slope is not None
    rate = trend.slope.bytes_per_hour
    return f"Tag {trend.tag} of the {pool} grows by {format_bytes(rate)} an hour, {format_bytes(24 * rate)} a day"


def _interval_text(trend: Trend) -> str:
    assert trend.slope is not None
    p = trend.monotonic_p
    chance = "" if p is None else ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
    return f" (95 %: {format_bytes(trend.slope.low)} to {format_bytes(trend.slope.high)} an hour{chance})"


def _limit_text(trend: Union[Trend, TotalTrend], limit: str) -> str:
    if trend.hours_to_limit is None or trend.hours_to_limit > DEADLINE_HOURS:
        return ""
    if trend.hours_to_limit <= 0:
        return f"; the {limit} is reached already"
    left = format_duration(3600 * trend.hours_to_limit)
    ends = {"commit limit": "reached", "available memory": "used up"}
    return f"; the {limit} is {ends.get(limit, 'full')} in {left}"


def _role_text(trend: Trend) -> str:
    if trend.role is Role.OBJECT:
        return " Windows makes this object on behalf of somebody else, who does not let go of it."
    if trend.group is None:
        return ""
    return f" It grows in lockstep with others (group {trend.group}, role: {trend.role.value})."


def is_worth_a_row(trend: Trend) -> bool:
    """Suspects, and what might be taken for one: sawtooth, plateau."""
    if trend.verdict is Verdict.TOO_FEW_SAMPLES:
        return is_growing(trend)
    return trend.verdict in (Verdict.LEAK, Verdict.GROWTH, Verdict.SAWTOOTH) or bool(trend.note)


def describe_series(report: TrendReport) -> str:
    """How many samples, from when to when."""
    if report.judged is None:
        return "No samples"
    if report.span_seconds is None:
        return f"{count_things(report.samples, 'sample')}, in their order; when they were taken is not known"
    first = format_moment(report.judged.first, seconds=False, zone=False)
    return (
        f"{count_things(report.samples, 'sample')} from {first} to "
        f"{format_moment(report.judged.last, seconds=False)}, {format_duration(report.span_seconds)}"
    )


def format_deadline(trend: Trend) -> str:
    """The time until the limit is reached."""
    hours = trend.hours_to_limit
    if hours is None:
        return "-"
    return "> 1 year" if hours > DEADLINE_HOURS else format_duration(3600 * hours)


def describe_verdicts(trends: Sequence[Trend]) -> str:
    """How many tags have each verdict."""
    counts = {verdict: sum(trend.verdict is verdict for trend in trends) for verdict in Verdict}
    parts = [f"{count} {verdict.value}" for verdict, count in counts.items() if count]
    return f"{count_things(len(trends), 'row')} (tag and pool): {', '.join(parts)}" if parts else "No tag to follow"
