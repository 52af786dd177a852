"""``poolleak memory SOURCE``: where the memory is: pages by use, the commit sheet, what no tag counts."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from pykdext.cli.answers import REPORT, Command, Invocation, Outcome, choose_redaction, list_forms, open_source
from pykdext.cli.arguments import (
    ReportOptions,
    add_report_options,
    add_source,
)


@dataclass(frozen=True)
class MemoryOptions(ReportOptions):
    """``whole``: every page frame is counted, not a sample of them."""

    whole: bool


def _declare(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument(
        "--whole", action="store_true", help="count every page frame (seconds) instead of a sample (under a second)"
    )
    add_report_options(parser, list_forms(REPORT), without=("pooltags",))


def _report_memory(options: MemoryOptions, call: Invocation) -> Outcome:
    from pykdext.cli.origin import describe_origin
    from pykdext.pipeline.memory import report_memory
    from pykdext.report.memorydoc import render_memory_csv, render_memory_json
    from pykdext.report.memorytext import render_memory_text

    with open_source(options, call) as source:
        found = report_memory(source, call.work, sampled=not options.whole)
    report, origin = choose_redaction(options)((found, describe_origin(call.words)))

    def render_page() -> str:
        from pykdext.report.html import render_memory_page

        return render_memory_page(report, origin)

    return Outcome(
        text=lambda look: render_memory_text(report, look.width, look.markup),
        document=lambda: render_memory_json(report),
        rows=lambda: render_memory_csv(report),
        page=render_page,
        verdict=report.verdict,
        is_complete=report.sheet is not None or report.frames is not None,
    )


COMMAND = Command(
    _declare,
    MemoryOptions,
    _report_memory,
    examples=(
        "poolleak memory MEMORY.DMP",
        "poolleak memory MEMORY.DMP --whole",
    ),
)
