"""``poolleak snapshot SOURCE -o FILE``: a state as a file."""

from __future__ import annotations

import argparse

from pykdext.cli.answers import Command, Invocation, Outcome, open_source
from pykdext.cli.arguments import SourceOptions, add_shared_options, add_source


def _declare(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="snapshot to write; .gz compresses it")
    add_shared_options(parser, without=("pooltags", "width"))


def _keep(options: SourceOptions, call: Invocation) -> Outcome:
    """It serves comparisons, so that a half-read state is not written."""
    from pykdext.cli.outputs import describe_lacks_of
    from pykdext.records.snapshotfile import render_snapshot_json

    with call.work.hold(), open_source(options, call, call.work.whole()) as source:
        state, is_whole = source.snapshot, source.is_whole
    if call.work.cause is not None:
        call.screen.write_error(f"poolleak: interrupted before the state was read: {options.output} is not written")
        raise call.work.cause
    lacks = describe_lacks_of(state, is_whole=is_whole)
    return Outcome.of_text(render_snapshot_json(state), is_complete=is_whole, lacks=lacks)


COMMAND = Command(
    _declare,
    SourceOptions,
    _keep,
    examples=(
        "poolleak snapshot MEMORY.DMP -o monday.json",
        "poolleak snapshot MEMORY.DMP -o monday.json.gz",
    ),
)
