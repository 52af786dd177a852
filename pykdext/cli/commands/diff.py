"""``poolleak diff BEFORE AFTER``: what changed between two states."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Optional, Tuple

from pykdext.cli.answers import REPORT, Command, Invocation, Outcome, choose_redaction, list_forms
from pykdext.cli.arguments import (
    RedactOptions,
    RowOptions,
    add_report_options,
    add_row_options,
)

if TYPE_CHECKING:
    from pykdext.model import Diff, TagDelta

_KEYS = ("bytes", "outstanding", "allocs", "frees", "rate", "tag")


@dataclass(frozen=True)
class DiffOptions(RowOptions, RedactOptions):
    """``before`` and ``after``: sources; None for the later one: the session or machine. ``sort``: keys in turn."""

    PATHS = ("before", "after")

    before: str
    after: Optional[str]
    sort: Tuple[str, ...]


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="BEFORE", help="dump, log, pasted !poolused or snapshot")
    parser.add_argument("after", metavar="AFTER", nargs="?", help="the same, later (default: the session or machine)")
    add_row_options(parser)
    parser.add_argument(
        "--sort",
        type=_parse_keys,
        metavar="KEYS",
        default=("bytes",),
        help=f"one or more of {', '.join(_KEYS)}, separated by commas (default: bytes)",
    )
    add_report_options(parser, list_forms(REPORT), without=("pooltags",))


def _parse_keys(text: str) -> Tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    unknown = [key for key in keys if key not in _KEYS]
    if unknown:
        raise argparse.ArgumentTypeError(f"found {unknown[0]!r}, expected one of {', '.join(_KEYS)}")
    return keys


def _compare(options: DiffOptions, call: Invocation) -> Outcome:
    """Half of a state is compared with nothing."""
    from pykdext import pipeline
    from pykdext.cli.origin import describe_origin
    from pykdext.cli.outputs import describe_lacks
    from pykdext.growth import compare_snapshots
    from pykdext.model.selection import describe_misspelt_patterns
    from pykdext.report.csvtext import render_deltas_csv
    from pykdext.report.difftext import render_diff_text
    from pykdext.report.growthdoc import render_diff_json
    from pykdext.report.sentences.tones import tone_of_diff

    sides = pipeline.load_sides(options.before, options.after, call.work, options.symbols)
    if call.work.cause is not None:
        names = options.before, options.after or "the session or machine"
        unread = " and ".join(names[len(sides) :])
        call.screen.write_error(f"poolleak: nothing is compared: interrupted before {unread} was read")
        raise call.work.cause
    compared = compare_snapshots(*sides)
    guesses = describe_misspelt_patterns(options.tag, (*compared.before.tags, *compared.after.tags))
    compared = replace(compared, warnings=(*guesses, *compared.warnings))
    lists = pipeline.TagLists.load(options.pooltags)
    concluded = pipeline.conclude_diff(compared, _choose_deltas(compared, options), lists, call.work, options.symbols)
    redact = choose_redaction(options)
    found, conclusion, origin = redact((compared, concluded, describe_origin(call.words)))
    rows = _choose_deltas(found, options)[: options.top]
    coverages = [side.coverage for side in sides]

    def render_page() -> str:
        from pykdext.report.html import render_diff_page

        return render_diff_page(found, rows, conclusion, origin)

    return Outcome(
        text=lambda look: render_diff_text(found, rows, conclusion, look.width, look.markup),
        document=lambda: render_diff_json(found, conclusion, rows),
        rows=lambda: render_deltas_csv(rows),
        page=render_page,
        verdict=conclusion.verdict,
        tone=tone_of_diff(found, next(iter(rows), None)),
        is_complete=all(coverage.is_complete for coverage in coverages),
        lacks=describe_lacks(coverages, found.warnings),
    )


def _choose_deltas(found: Diff, options: DiffOptions) -> Tuple[TagDelta, ...]:
    """The rows of a diff that the options ask for."""
    from pykdext.growth import rank_deltas
    from pykdext.model.selection import matches_any

    return tuple(
        delta
        for delta in rank_deltas(found.deltas, options.sort)
        if options.pool in (None, delta.pool.value) and matches_any(options.tag, delta.tag)
    )


COMMAND = Command(
    _declare,
    DiffOptions,
    _compare,
    examples=(
        "poolleak diff monday.json MEMORY.DMP --top 10",
        "poolleak diff log-1.txt log-9.txt --sort rate",
    ),
)
