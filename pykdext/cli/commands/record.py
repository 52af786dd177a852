"""``poolleak record``: samples of a live machine or session, or the recipe to take them with Windows' own tools."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from pykdext.cli.answers import Command, Invocation, Outcome
from pykdext.cli.arguments import SharedOptions, add_shared_options, parse_duration, parse_positive
from pykdext.units import count_things


@dataclass(frozen=True)
class RecordOptions(SharedOptions):
    """``folder``: of the samples. ``every``: seconds from one to the next. ``recipe``: only print a script."""

    folder: str
    every: float
    count: int
    recipe: bool


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", dest="folder", metavar="DIR", default=".", help="folder for the samples (default: this one)"
    )
    parser.add_argument(
        "--every", type=parse_duration, metavar="TIME", default=900.0, help="e.g. 15m, 90s, 1h (default: 15m)"
    )
    parser.add_argument("--count", type=parse_positive, metavar="N", default=200, help="samples to take (default: 200)")
    parser.add_argument(
        "--recipe", action="store_true", help="print a script that does it with what Windows brings along"
    )
    add_shared_options(parser, without=("pooltags", "width"))


def _record(options: RecordOptions, call: Invocation) -> Outcome:
    if options.recipe:
        from pykdext.records.recipe import render_recipe

        return Outcome.of_text(render_recipe(round(options.every), options.count, options.folder))
    from pykdext import pipeline

    taken = 0
    try:
        for path in pipeline.record_samples(options.folder, options.every, options.count, options.symbols):
            taken += 1
            call.screen.write(f"{taken} of {options.count}: {path}\n")
    except (KeyboardInterrupt, SystemExit) as cause:
        if isinstance(cause, SystemExit):
            call.work.cause = cause
        text = f"stopped after {taken} of {count_things(options.count, 'sample')}; all of them are kept\n"
        return Outcome.of_text(text, is_complete=False)
    return Outcome.of_text("")


COMMAND = Command(
    _declare,
    RecordOptions,
    _record,
    examples=(
        "poolleak record -o samples --every 15m --count 200",
        "poolleak record --recipe",
    ),
)
