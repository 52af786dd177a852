"""``poolleak trend LOG...``: which tag grows, how fast, until when."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Optional, Tuple

from pykdext.cli.answers import REPORT, Command, Invocation, Outcome, choose_redaction, list_forms
from pykdext.cli.arguments import (
    RedactOptions,
    RowOptions,
    add_report_options,
    add_row_options,
    parse_duration,
)


@dataclass(frozen=True)
class TrendOptions(RowOptions, RedactOptions):
    """``every``: seconds between samples that bear no time. ``mixed``: different machines are one series."""

    PATHS = ("logs",)

    logs: Tuple[str, ...]
    every: Optional[float]
    mixed: bool


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", metavar="LOG", nargs="+", help="logs, snapshots or dumps: files, folders or patterns")
    parser.add_argument(
        "--every", type=parse_duration, metavar="TIME", help="time between samples without one, e.g. 15m"
    )
    parser.add_argument("--mixed", action="store_true", help="take samples of different machines as one series")
    add_row_options(parser)
    add_report_options(parser, list_forms(REPORT), without=("symbols",))


def _follow(options: TrendOptions, call: Invocation) -> Outcome:
    from pykdext import pipeline
    from pykdext.cli.origin import describe_origin
    from pykdext.cli.outputs import describe_lacks
    from pykdext.model.selection import describe_misspelt_patterns, select_trends
    from pykdext.report.sentences.tones import tone_of_series
    from pykdext.report.trendtext import render_trend_text

    lists = pipeline.TagLists.load(options.pooltags)
    followed = pipeline.follow_files(options.logs, lists, options.every, options.mixed, call.work)
    chosen = select_trends(followed.report.trends, options.pool, options.tag, options.top)
    newest = followed.report.newest
    guesses = describe_misspelt_patterns(options.tag, newest.tags) if newest else ()
    found = replace(followed.report, trends=chosen, warnings=(*followed.unusable, *guesses, *followed.report.warnings))
    redact = choose_redaction(options, pipeline.find_logs(options.logs).files)
    concluded = pipeline.conclude_series(found, lists, call.work, options.symbols)
    report, conclusion, origin = redact((found, concluded, describe_origin(call.words)))
    described = lists.describe_tags(trend.tag for trend in report.trends)
    questions = {tag: item.next_question for tag, item in described.items() if item.next_question}

    def render_page() -> str:
        from pykdext.report.html import render_trend_page

        return render_trend_page(report, conclusion, questions, origin)

    def render_document() -> str:
        from pykdext.report.growthdoc import render_trend_json

        return render_trend_json(report, conclusion)

    def render_rows() -> str:
        from pykdext.report.csvtext import render_trends_csv

        return render_trends_csv(report.trends)

    return Outcome(
        text=lambda look: render_trend_text(report, conclusion, look.width, look.unicode, questions, look.markup),
        document=render_document,
        rows=render_rows,
        page=render_page,
        is_complete=followed.is_complete,
        lacks=describe_lacks((), report.warnings),
        verdict=conclusion.verdict,
        tone=tone_of_series(report),
    )


COMMAND = Command(
    _declare,
    TrendOptions,
    _follow,
    examples=(
        "poolleak trend logs",
        "poolleak trend logs/*.txt --every 15m",
        "poolleak trend counters.csv",
        'poolleak trend logs --pool nonpaged --tag "Ir*" --top 5',
    ),
)
