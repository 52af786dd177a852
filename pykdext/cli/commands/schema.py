"""``poolleak schema NAME``: the JSON Schema of a document, or the names of all."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Optional

from pykdext.cli.answers import Command, Invocation, Outcome
from pykdext.cli.arguments import SharedOptions, add_output_option, add_shared_options


@dataclass(frozen=True)
class SchemaOptions(SharedOptions):
    """``name``: of the document; None: list them."""

    name: Optional[str]


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="such as report or report/1 (default: list the names)")
    add_shared_options(parser, without=("pooltags", "symbols", "width"))
    add_output_option(parser)


def _show_schema(options: SchemaOptions, _call: Invocation) -> Outcome:
    from pykdext.cli.parsing import say_expected
    from pykdext.errors import PykdextError
    from pykdext.report.schemas import iter_schema_names, load_schema

    if options.name is None:
        return Outcome.of_text("".join(f"{name}\n" for name in iter_schema_names()))
    names = list(iter_schema_names())
    versions = [name for name in names if name.partition("/")[0] == options.name.rpartition(".")[2]]
    text = load_schema(options.name if "/" in options.name or not versions else versions[-1])
    if text is None:
        raise PykdextError(f"schema: {say_expected(options.name, names)}")
    return Outcome.of_text(text)


COMMAND = Command(
    _declare,
    SchemaOptions,
    _show_schema,
    examples=(
        "poolleak schema",
        "poolleak schema report",
    ),
)
