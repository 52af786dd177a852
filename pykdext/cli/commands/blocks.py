"""``poolleak blocks TAG SOURCE``: where a tag's blocks are, and what they point at."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pykdext.cli.answers import TABLE, Command, Invocation, Outcome, list_forms, open_source
from pykdext.cli.arguments import (
    SourceOptions,
    add_format_option,
    add_output_option,
    add_shared_options,
    add_source,
    parse_positive,
    parse_tag,
)

if TYPE_CHECKING:
    from pykdext.model import PoolTag


@dataclass(frozen=True)
class BlocksOptions(SourceOptions):
    """``top``: so many blocks are listed at most."""

    tag: PoolTag
    top: int


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tag", type=parse_tag, metavar="TAG", help="a tag of 1 to 4 characters; \\xNN is a byte")
    add_source(parser)
    parser.add_argument("--top", type=parse_positive, metavar="N", default=10, help="list N blocks (default: 10)")
    add_format_option(parser, list_forms(TABLE))
    add_output_option(parser)
    add_shared_options(parser, without=("pooltags",))


def _find_blocks(options: BlocksOptions, call: Invocation) -> Outcome:
    from pykdext import pipeline
    from pykdext.cli.outputs import describe_lacks
    from pykdext.model.selection import describe_misspelt_tags
    from pykdext.report.blocklist import render_blocks_text
    from pykdext.report.csvtext import render_blocks_csv
    from pykdext.report.jsondoc import render_blocks_json

    with open_source(options, call) as source:
        found = pipeline.find_blocks(source, options.tag, options.top, call.work)
    guesses = describe_misspelt_tags([options.tag], source.snapshot.tags)
    report = replace(found, warnings=(*guesses, *found.warnings))
    return Outcome(
        text=lambda look: render_blocks_text(report, look.width, look.markup),
        document=lambda: render_blocks_json(report),
        rows=lambda: render_blocks_csv(report),
        is_complete=report.is_complete,
        lacks=describe_lacks((), report.warnings),
    )


COMMAND = Command(
    _declare,
    BlocksOptions,
    _find_blocks,
    examples=(
        "poolleak blocks Pipo MEMORY.DMP",
        "poolleak blocks Pipo MEMORY.DMP --format csv -o blocks.csv",
    ),
)
