"""Where the memory is, as text."""

from __future__ import annotations

from typing import List, Sequence

from pykdext.model import PoolKind, UntaggedMemory
from pykdext.model.memory import CommitSheet, FrameUse, MemoryByProcess, MemoryReport, PageFrames
from pykdext.report.layout import format_table, warning_lines, wrap
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, emphasize, render_lines
from pykdext.report.sentences.memory import name_holder
from pykdext.report.sentences.states import subject_lines
from pykdext.report.steps import step_lines
from pykdext.units import count_things, format_bytes, format_count, format_share

_BAR_COLUMNS = 20

PROCESSES_SHOWN = 8
"""Processes in text and on the page; JSON and CSV have all."""

SESSIONS_SHOWN = 4
"""Sessions in text; JSON and CSV have all."""

UNTAGGED_SHOWN = 4
"""Kinds of untagged memory in a verdict; ``poolleak memory`` and JSON have them all."""


def render_memory_text(report: MemoryReport, width: int, markup: Markup = PLAIN) -> str:
    """The verdict, pages by use, the commit sheet, and what to do next."""
    lines: List[Line] = [*subject_lines(report.snapshot), "", *emphasize(wrap(report.verdict, width)), ""]
    if report.frames is not None:
        lines += [*_frame_table(report.frames, width), ""]
        if report.frames.private:
            lines += [*_private_table(report.frames, width), ""]
    if report.mappers:
        rows = [
            (name_holder(holder), f"{holder.ranges:,}", format_bytes(holder.most_bytes)) for holder in report.mappers
        ]
        headers = (f"Points at {report.pointed_at}", "Count", "At most")
        lines += [*format_table(headers, rows, ("left", "right", "right"), width), ""]
    if report.sheet is not None:
        lines += [*_commit_table(report.sheet, width), ""]
    if report.by_process is not None:
        lines += [*_process_table(report.by_process, width), ""]
    lines += _pool_lines(report, width)
    lines = lines if lines[-1] else lines[:-1]
    if report.next_steps:
        lines += ["", "Next steps", *step_lines(report.next_steps, width, Links(report.snapshot.source))]
    lines += warning_lines(report.warnings, width)
    return render_lines(lines, markup, width)


def _frame_table(frames: PageFrames, width: int) -> List[str]:
    total = frames.expected or 1
    rows = []
    for count in frames.uses:
        share = count.frames / total
        error = f"+-{format_bytes(count.error_frames * frames.frame_bytes)}" if count.error_frames else ""
        bar = "#" * round(_BAR_COLUMNS * min(1.0, share))
        held = format_bytes(count.frames * frames.frame_bytes)
        rows.append((count.use.value, format_count(count.frames), held, error, format_share(share), bar))
    known = (
        f"estimated from {frames.read:,} of {frames.expected:,}"
        if frames.is_sampled
        else count_things(frames.read, "frame")
    )
    headers = ("Pages by use", "Frames", "Bytes", "95 %" if frames.is_sampled else "", "Share", "")
    return [
        *format_table(headers, rows, ("left", "right", "right", "right", "right", "left"), width),
        f"{format_bytes(frames.expected * frames.frame_bytes)} of physical memory, {known}",
    ]


def _private_table(frames: PageFrames, width: int) -> List[str]:
    rows = [
        (
            process.image,
            "-" if process.pid is None else str(process.pid),
            format_bytes(process.bytes),
            "-" if process.table_bytes is None else format_bytes(process.table_bytes),
            "exited, kept" if process.has_exited else "",
        )
        for process in frames.private[:PROCESSES_SHOWN]
    ]
    headers = ("Private pages by process", "PID", "Bytes", "Page tables", "")
    lines = format_table(headers, rows, ("left", "right", "right", "right", "left"), width)
    held = sum(process.bytes for process in frames.private)
    tables = sum(process.table_bytes or 0 for process in frames.private)
    words = f"{format_bytes(held)} and {format_bytes(tables)} of page tables "
    words += f"by {count_things(len(frames.private), 'process', 'processes')}"
    exited = [process for process in frames.private if process.has_exited]
    if exited:
        kept = sum(process.bytes + (process.table_bytes or 0) for process in exited)
        words += f", {format_bytes(kept)} of it by {len(exited):,} exited and kept"
    rest = frames.bytes_of(FrameUse.PRIVATE) - held
    if rest > 0:
        words += f"; of {format_bytes(rest)} of private pages the process is not told"
    return [*lines, *wrap(words, width)]


def _commit_table(sheet: CommitSheet, width: int) -> List[str]:
    committed = sheet.committed_bytes
    rows = [
        (
            line.name,
            format_bytes(line.bytes),
            format_share(line.bytes / committed) if committed else "-",
            line.part.value,
        )
        for line in sorted(sheet.lines, key=lambda line: -line.bytes)
        if line.bytes
    ]
    unexplained = sheet.unexplained_bytes
    if unexplained is not None and committed:
        share = format_share(max(0, unexplained) / committed)
        rows.append(("in no counter", format_bytes(unexplained), share, "processes, stacks, session"))
    titles, align = ("Committed", "Bytes", "Share", "Of"), ("left", "right", "right", "left")
    lines = format_table(titles, rows, align, width) if rows else []
    words = [
        f"committed {format_bytes(committed)}",
        f"limit {format_bytes(sheet.limit_bytes)}",
        f"peak {format_bytes(sheet.peak_bytes)}",
        f"available {format_bytes(sheet.available_bytes)}",
        f"may still be nonpaged {format_bytes(sheet.resident_available_bytes)}",
    ]
    lines += wrap("; ".join(words), width)
    told = [session for session in sheet.sessions if session.number is not None]
    if told:
        session_words = ", ".join(
            f"session {session.number}: {format_bytes(session.committed_bytes)} committed, "
            f"{format_bytes(session.paged_pool_bytes)} of it paged pool"
            for session in told[:SESSIONS_SHOWN]
        )
        more = f", and {len(told) - SESSIONS_SHOWN:,} more" if len(told) > SESSIONS_SHOWN else ""
        lines += wrap(f"{session_words[0].upper()}{session_words[1:]}{more}", width)
    refused = [f"{failure.count:,} {failure.name}" for failure in sheet.failures if failure.count]
    lines += wrap(f"Refused since boot: {', '.join(refused)}", width) if refused else []
    return lines


def _process_table(found: MemoryByProcess, width: int) -> List[str]:
    shown = found.processes[:PROCESSES_SHOWN]
    rows = [
        (
            process.image,
            str(process.pid),
            format_bytes(process.bytes),
            format_bytes(process.working_set_bytes),
            format_bytes(process.locked_bytes),
            "exited, kept" if process.has_exited else "",
        )
        for process in shown
    ]
    headers = ("Committed by process", "PID", "Bytes", "In memory", "Locked", "")
    lines = format_table(headers, rows, ("left", "right", "right", "right", "right", "left"), width)
    words = f"{format_bytes(found.bytes)} by {count_things(len(found.processes), 'process', 'processes')}"
    if found.unknown != 0:
        words += "; of some it is not known" if found.unknown is None else f"; of {found.unknown:,} it is not known"
    return [*lines, *wrap(words, width)]


def untagged_table(untagged: Sequence[UntaggedMemory], width: int) -> List[str]:
    """What no tag counts, the largest first, and whose count it is."""
    shown = untagged[:UNTAGGED_SHOWN]
    rows = [
        (holding.kind.value, ("~" if holding.is_estimate else "") + format_bytes(holding.bytes), holding.source)
        for holding in shown
    ]
    lines = format_table(("Kind", "Bytes", "Counted by"), rows, ("left", "right", "left"), width)
    return [*lines, f"and {len(untagged) - len(shown)} more"] if len(untagged) > len(shown) else lines


def _pool_lines(report: MemoryReport, width: int) -> List[str]:
    """The pools' own counters against the sum of their tags."""
    lines = []
    for pool in PoolKind:
        counted, tags = report.snapshot.memory.used_bytes(pool), report.snapshot.total_bytes(pool)
        if counted is None or tags is None:
            continue
        text = f"{pool.value.capitalize()} pool: {format_bytes(counted)} in use, {format_bytes(tags)} in tags"
        if counted > tags:
            text += f"; {format_bytes(counted - tags)} are headers, free blocks, special pool or untagged"
        lines += wrap(f"{text}.", width)
    return lines
