"""``poolleak processes SOURCE``: the processes by handles, pool charged, commit, or exited ones that they hold."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from pykdext.cli.answers import REPORT, Command, Invocation, Outcome, choose_redaction, list_forms, open_source
from pykdext.cli.arguments import (
    ReportOptions,
    add_report_options,
    add_source,
    parse_positive,
)


@dataclass(frozen=True)
class ProcessesOptions(ReportOptions):
    """``sort``: what the first ones have most of. ``top``: so many are shown at most."""

    sort: str
    top: int


def _declare(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument(
        "--sort",
        choices=("handles", "pool", "commit", "zombies"),
        default="handles",
        help="most first of this; zombies: exited processes that it holds (default: handles)",
    )
    parser.add_argument("--top", type=parse_positive, metavar="N", default=30, help="show N processes (default: 30)")
    add_report_options(parser, list_forms(REPORT), without=("pooltags",))


def _list_processes(options: ProcessesOptions, call: Invocation) -> Outcome:
    from pykdext.cli.origin import describe_origin
    from pykdext.pipeline.holders import list_processes
    from pykdext.report.holdersdoc import render_processes_csv, render_processes_json
    from pykdext.report.holderstext import render_processes_text

    with open_source(options, call, needs_tags=False) as source:
        found = list_processes(source, options.sort, options.top, call.work)
    report, origin = choose_redaction(options)((found, describe_origin(call.words)))

    def render_page() -> str:
        from pykdext.report.html.holderpages import render_processes_page

        return render_processes_page(report, origin)

    return Outcome(
        text=lambda look: render_processes_text(report, look.width, look.markup, look.encoding),
        document=lambda: render_processes_json(report),
        rows=lambda: render_processes_csv(report),
        page=render_page,
        is_complete=not report.warnings,
        verdict=report.sentence,
        is_usable=bool(report.processes),
    )


COMMAND = Command(
    _declare,
    ProcessesOptions,
    _list_processes,
    examples=(
        "poolleak processes MEMORY.DMP",
        "poolleak processes MEMORY.DMP --sort zombies --top 10",
    ),
)
