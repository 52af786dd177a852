"""``poolleak [analyze] SOURCE``: the verdict."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pykdext.cli.answers import REPORT, Command, Invocation, Outcome, choose_redaction, list_forms, open_source
from pykdext.cli.arguments import (
    ReportOptions,
    add_report_options,
    add_source,
    parse_positive,
)

if TYPE_CHECKING:
    from pykdext.model import DumpSummary


@dataclass(frozen=True)
class AnalyzeOptions(ReportOptions):
    """``top``: so many suspects at most."""

    top: int


def _declare(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--top", type=parse_positive, metavar="N", default=5, help="at most N suspects (default: 5)")
    add_report_options(parser, list_forms(REPORT))


def _analyze(options: AnalyzeOptions, call: Invocation) -> Outcome:
    from pykdext import pipeline
    from pykdext.cli.origin import describe_origin
    from pykdext.cli.outputs import describe_lacks_of
    from pykdext.report.plaintext import render_report_text
    from pykdext.report.sentences.tones import tone_of_report

    lists = pipeline.TagLists.load(options.pooltags)
    try:
        with open_source(options, call) as source:
            found = pipeline.analyze(source, lists, call.work, options.top)
            is_whole = source.is_whole
    except pipeline.NoTagTablesError as error:
        return _answer_without_tables(options, call, error.summary)
    report, origin = choose_redaction(options)((found, describe_origin(call.words)))

    def render_page() -> str:
        from pykdext.report.html import render_report_page

        return render_report_page(report, origin)

    def render_document() -> str:
        from pykdext.report.jsondoc import render_report_json

        return render_report_json(report)

    def render_rows() -> str:
        from pykdext.report.csvtext import render_suspects_csv

        return render_suspects_csv(report.suspects)

    return Outcome(
        text=lambda look: render_report_text(report, look.width, look.markup),
        document=render_document,
        rows=render_rows,
        page=render_page,
        verdict=report.verdict,
        tone=tone_of_report(report),
        is_complete=is_whole,
        lacks=describe_lacks_of(report.snapshot, is_whole=is_whole),
    )


def _answer_without_tables(options: AnalyzeOptions, call: Invocation, found: DumpSummary) -> Outcome:
    """What can be said of a dump without tag tables: no suspect, and why."""
    from pykdext.cli.origin import describe_origin
    from pykdext.report.csvtext import render_suspects_csv
    from pykdext.report.dumpsummary import render_summary_json, render_summary_text

    summary, origin = choose_redaction(options)((found, describe_origin(call.words)))

    def render_page() -> str:
        from pykdext.report.html import render_summary_page

        return render_summary_page(summary, origin)

    return Outcome(
        text=lambda look: render_summary_text(summary, look.width, look.markup),
        document=lambda: render_summary_json(summary),
        rows=lambda: render_suspects_csv(()),
        page=render_page,
        is_complete=False,
        is_usable=False,
        lacks=(f"no verdict: {summary.reason}",),
    )


COMMAND = Command(
    _declare,
    AnalyzeOptions,
    _analyze,
    examples=(
        "poolleak MEMORY.DMP",
        "poolleak MEMORY.DMP --redact --format html -o report.html",
        "poolleak https://files.example/MEMORY.DMP",
    ),
)
