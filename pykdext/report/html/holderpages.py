"""The pages of ``holders`` and ``processes``: what their templates are given."""

from __future__ import annotations

from typing import Optional

from pykdext.model import Origin
from pykdext.model.objects import HolderReport, NumberCensus, ProcessReport
from pykdext.report.html.page import iter_page
from pykdext.report.sentences.holders import describe_sample, list_creators, name_made
from pykdext.report.sentences.processes import describe_numbers
from pykdext.report.sentences.states import machine_lines
from pykdext.report.tone import Tone

_PAGE_BYTES = 0x1000


def render_holders_page(report: HolderReport, origin: Origin) -> str:
    """Who holds the objects of a tag."""
    names = tuple(kind.label for kind in report.types)
    machine = list(machine_lines(report.snapshot))
    tone = Tone.of(alarming=report.grade != "unknown", known=False)
    return "".join(
        iter_page(
            "holders.html",
            origin,
            tone=tone,
            report=report,
            names=names,
            machine=machine,
            numbers=_describe_numbers(report.numbers),
            name_made=name_made,
            looked_at=describe_sample(report),
            creators=list_creators(report),
        )
    )


def render_processes_page(report: ProcessReport, origin: Origin) -> str:
    """The processes of a machine."""
    machine = list(machine_lines(report.snapshot))
    held = dict(report.held_zombies)
    tone = Tone.of(alarming=report.zombies > 0, known=not report.warnings)
    return "".join(
        iter_page(
            "processes.html",
            origin,
            tone=tone,
            report=report,
            machine=machine,
            held=held,
            page_bytes=_PAGE_BYTES,
            numbers=_describe_numbers(report.numbers),
        )
    )


def _describe_numbers(numbers: Optional[NumberCensus]) -> Optional[str]:
    return None if numbers is None else describe_numbers(numbers)
