"""``poolleak holders TAG SOURCE``: who holds the objects of a tag."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pykdext.cli.answers import REPORT, Command, Invocation, Outcome, choose_redaction, list_forms, open_source
from pykdext.cli.arguments import (
    ReportOptions,
    add_report_options,
    add_source,
    parse_tag,
)

if TYPE_CHECKING:
    from pykdext.model import PoolTag


@dataclass(frozen=True)
class HoldersOptions(ReportOptions):
    """``tag``: of the objects."""

    tag: PoolTag


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tag", type=parse_tag, metavar="TAG", help="the tag of objects: Proc, Toke, File, 'Key ', Even")
    add_source(parser)
    add_report_options(parser, list_forms(REPORT), without=("pooltags",))


def _find_holders(options: HoldersOptions, call: Invocation) -> Outcome:
    from pykdext.cli.origin import describe_origin
    from pykdext.model.selection import describe_misspelt_tags
    from pykdext.pipeline.holders import find_holders
    from pykdext.report.holdersdoc import render_holders_csv, render_holders_json
    from pykdext.report.holderstext import render_holders_text

    with open_source(options, call, needs_tags=False) as source:
        found = find_holders(source, options.tag, call.work)
        guesses = describe_misspelt_tags([options.tag], source.snapshot.tags)
    found = replace(found, warnings=(*guesses, *found.warnings))
    report, origin = choose_redaction(options)((found, describe_origin(call.words)))

    def render_page() -> str:
        from pykdext.report.html.holderpages import render_holders_page

        return render_holders_page(report, origin)

    return Outcome(
        text=lambda look: render_holders_text(report, look.width, look.markup, look.encoding),
        document=lambda: render_holders_json(report),
        rows=lambda: render_holders_csv(report),
        page=render_page,
        is_complete=len(report.warnings) == len(guesses),
        verdict=report.sentence,
    )


COMMAND = Command(
    _declare,
    HoldersOptions,
    _find_holders,
    examples=(
        "poolleak holders Toke MEMORY.DMP",
        "poolleak holders Proc MEMORY.DMP --format html -o holders.html",
    ),
)
