"""``poolleak history HOST|TAG``: stored hosts and tags over the weeks."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Optional

from pykdext.cli.answers import TABLE, Command, Invocation, Outcome, list_forms
from pykdext.cli.arguments import (
    SharedOptions,
    add_format_option,
    add_output_option,
    add_shared_options,
    parse_positive,
)


@dataclass(frozen=True)
class HistoryOptions(SharedOptions):
    """``subject``: a host or tag; None: all. ``store``: a batch wrote it. ``top``: rows of text at most."""

    PATHS = ("store",)

    subject: Optional[str]
    store: str
    top: int


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="HOST|TAG", nargs="?", help="of these only; * and ? match (default: all)")
    parser.add_argument("--store", metavar="FILE", required=True, help="what poolleak batch --store wrote")
    parser.add_argument(
        "--top", type=parse_positive, metavar="N", default=20, help="at most N rows of text (default: 20)"
    )
    add_format_option(parser, list_forms(TABLE))
    add_output_option(parser)
    add_shared_options(parser, without=("pooltags", "symbols"))


def _show_history(options: HistoryOptions, _call: Invocation) -> Outcome:
    from pykdext.report.batchdoc import render_history_csv, render_history_json
    from pykdext.report.historytext import render_history_text
    from pykdext.store.states import load_history

    lines = load_history(options.store, options.subject)
    return Outcome(
        text=lambda look: render_history_text(lines, look.width, look.unicode, options.top, look.encoding),
        document=lambda: render_history_json(lines, options.subject),
        rows=lambda: render_history_csv(lines),
        has_marks=False,
    )


COMMAND = Command(
    _declare,
    HistoryOptions,
    _show_history,
    examples=(
        "poolleak history Pipo --store fleet.sqlite",
        "poolleak history SRV01 --store fleet.sqlite --format csv",
    ),
)
