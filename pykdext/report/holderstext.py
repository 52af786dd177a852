"""Who holds the objects of a tag, and the processes of a machine, as text."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from pykdext.model.objects import HandleCensus, HolderReport, Process, ProcessReport
from pykdext.report.layout import format_table, warning_lines, wrap
from pykdext.report.links import Links
from pykdext.report.markup import PLAIN, Line, Markup, emphasize, link_cells, link_words, render_lines
from pykdext.report.sentences.holders import describe_sample, list_creators
from pykdext.report.sentences.processes import describe_numbers
from pykdext.report.sentences.states import subject_lines
from pykdext.units import choose_form, count_things, format_bytes, format_count, say_rest

PAGE_BYTES = 0x1000
_TYPES_SHOWN = 3
_NOTABLE_TARGET = 1_000
_ROWS_SHOWN = 10

HOLDERS_SHOWN = 8
"""Processes in the table; JSON and CSV have them all."""


def render_holders_text(report: HolderReport, width: int, markup: Markup = PLAIN, encoding: str = "ascii") -> str:
    """The verdict, the counts of the types, the processes with handles, lists and Driver Verifier's records."""
    links = Links(report.snapshot.source)
    lines: List[Line] = [*subject_lines(report.snapshot), ""]
    lines += emphasize(wrap(f"{report.sentence} [{report.grade}]", width))
    for section in (
        _type_lines(report),
        _zombie_lines(report, encoding),
        _holder_lines(report, links, width, encoding),
    ):
        lines += ["", *section] if section else []
    further = (_sample_lines, _list_lines, _verifier_lines, _trace_lines)
    for section in (lines_of(report, width) for lines_of in further):
        lines += ["", *section] if section else []
    if report.numbers is not None:
        lines += ["", *wrap(describe_numbers(report.numbers), width, "", "  ")]
    next_step: List[Line] = [*wrap(f"Next: {report.next_step}", width)]
    lines += ["", *link_words(next_step, report.next_step, links.command(report.next_step))]
    lines += warning_lines(report.warnings, width)
    return render_lines(lines, markup, width)


def render_processes_text(report: ProcessReport, width: int, markup: Markup = PLAIN, encoding: str = "ascii") -> str:
    """The sentence on the processes, and a row for each that is shown."""
    links = Links(report.snapshot.source)
    lines: List[Line] = [*subject_lines(report.snapshot), "", *emphasize(wrap(report.sentence, width)), ""]
    lines += _process_table(report, links, width, encoding)
    if report.zombie_images:
        shown = ", ".join(f"{format_count(count)} {image}" for image, count in report.zombie_images[:_ROWS_SHOWN])
        lines += ["", *wrap(f"Exited and still held: {shown}", width, "", "  ")]
    if report.numbers is not None:
        lines += ["", *wrap(describe_numbers(report.numbers), width, "", "  ")]
    lines += warning_lines(report.warnings, width)
    return render_lines(lines, markup, width)


def _process_table(report: ProcessReport, links: Links, width: int, encoding: str) -> List[Line]:
    held = dict(report.held_zombies)
    rows = [_process_row(process, held.get(process.pid)) for process in report.processes]
    headers = ("Process", "PID", "Parent", "Handles", "Nonpaged", "Paged", "Commit", "Threads", "Exited")
    columns = len(headers) if held else len(headers) - 1
    align = ("left", *["right"] * (columns - 1))
    table: List[Line] = [
        *format_table(headers[:columns], [row[:columns] for row in rows], align, width, encoding=encoding)
    ]
    return link_cells(table, 0, [links.command(f"!process {process.address:x} 7") for process in report.processes])


def _process_row(process: Process, held: Optional[int]) -> Tuple[str, ...]:
    pages = process.commit_pages
    return (
        process.image,
        str(process.pid),
        "-" if process.parent_pid is None else str(process.parent_pid),
        format_count(process.handles),
        format_bytes(process.nonpaged_charge_bytes),
        format_bytes(process.paged_charge_bytes),
        format_bytes(None if pages is None else pages * PAGE_BYTES),
        format_count(process.active_threads),
        "-" if held is None else format_count(held),
    )


def _type_lines(report: HolderReport) -> List[Line]:
    if not report.types:
        return []
    rows = [
        (
            kind.label,
            format_count(kind.objects),
            format_count(kind.handles),
            format_count(kind.most_objects),
            format_count(kind.most_handles),
        )
        for kind in report.types
    ]
    headers = ("Type", "Objects", "Handles", "Most objects", "Most handles")
    return [*format_table(headers, rows, ("left", "right", "right", "right", "right"))]


def _zombie_lines(report: HolderReport, encoding: str) -> List[Line]:
    if not report.zombies:
        return []
    rows = [(image, format_count(count)) for image, count in report.zombie_images[:_ROWS_SHOWN]]
    return [*format_table(("Exited processes", "Count"), rows, ("left", "right"), encoding=encoding)]


def _holder_lines(report: HolderReport, links: Links, width: int, encoding: str) -> List[Line]:
    if not report.holders:
        return []
    names = tuple(kind.label for kind in report.types)
    shown = report.holders[:HOLDERS_SHOWN]
    rows = [
        (
            census.process.label,
            format_count(census.counted),
            format_count(census.read),
            format_count(census.handles_of(names)),
            _types_of(census),
        )
        for census in shown
    ]
    headers = ("Process", "Handles", "Read", "Of type", "Most lead to")
    table: List[Line] = [
        *format_table(headers, rows, ("left", "right", "right", "right", "left"), width, encoding=encoding)
    ]
    lines = link_cells(table, 0, [links.command(f"!handle 0 3 0n{census.process.pid}") for census in shown])
    rest = say_rest(len(report.holders), len(shown), "process", "processes")
    lines += [rest] if rest else []
    for census in shown:
        target = census.common_target
        if target is not None and target.handles >= _NOTABLE_TARGET:
            share = f"{format_count(target.handles)} of {count_things(target.of, f'{target.type_name} handle')}"
            words = (
                f"{census.process.label}: {share} that {choose_form(target.of, 'was', 'were')} looked at "
                f"{choose_form(target.handles, 'leads', 'lead')} to {target.name}"
            )
            lines += wrap(words, width, "", "  ")
    return lines


def _types_of(census: HandleCensus) -> str:
    about = "~" if census.sampled < census.read else ""
    return ", ".join(f"{share.name} {about}{format_count(share.handles)}" for share in census.types[:_TYPES_SHOWN])


def _sample_lines(report: HolderReport, width: int) -> List[Line]:
    if report.sample is None:
        return []
    lines: List[Line] = [*wrap(describe_sample(report), width, "", "  ")]
    whose, creators = list_creators(report)
    if creators:
        made = ", ".join(f"{name} ({format_count(count)})" for name, count in creators[:_TYPES_SHOWN])
        lines += wrap(f"{whose}: {made}", width, "", "  ")
    for driver in report.referencing:
        points = f"{format_count(driver.objects)} of {count_things(driver.of, 'object')}"
        lines += wrap(f"{driver.module}: {driver.place} points at {points}", width, "", "  ")
    return lines


def _list_lines(report: HolderReport, width: int) -> List[Line]:
    if not report.lookasides:
        return []
    rows = [
        (
            f"0x{item.address:x}",
            item.pool.value,
            format_count(item.size_bytes),
            format_count(item.in_use),
            format_count(item.taken),
            "-" if item.module is None else f"{item.module} ({item.proof})",
        )
        for item in report.lookasides[:_ROWS_SHOWN]
    ]
    headers = ("Lookaside list", "Pool", "Size", "In use", "Taken", "Of")
    return [*format_table(headers, rows, ("left", "left", "right", "right", "right", "left"), width)]


def _verifier_lines(report: HolderReport, width: int) -> List[Line]:
    rows: List[Sequence[str]] = []
    for driver in report.verified:
        rows += [
            (f"{caller.module}+0x{caller.rva:x}", format_count(caller.blocks), format_bytes(caller.bytes))
            for caller in driver.callers[:_ROWS_SHOWN]
        ]
        if not driver.callers:
            count = driver.nonpaged_allocations + driver.paged_allocations
            size = driver.nonpaged_bytes + driver.paged_bytes
            rows.append((driver.name, format_count(count), format_bytes(size)))
    if not rows:
        return []
    return [*format_table(("Driver Verifier", "Allocations", "Bytes"), rows, ("left", "right", "right"), width)]


def _trace_lines(report: HolderReport, width: int) -> List[Line]:
    """What Windows recorded of references and of handles."""
    lines: List[Line] = []
    for trace in report.traced[:_ROWS_SHOWN]:
        words = (
            f"Traced references: {trace.module} kept {format_count(trace.kept)}, to {format_count(trace.objects)} of "
            f"{count_things(trace.of, 'object')}, most taken at {trace.module}+0x{trace.rva:x}"
        )
        lines += wrap(words, width, "", "  ")
    for place in report.opened[:_ROWS_SHOWN]:
        words = f"Handle trace: {format_count(place.handles)} of {format_count(place.of)} opened at {place.place}"
        lines += wrap(words, width, "", "  ")
    return lines
