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
    parser.add_argument("name", metavar="NAME", nargs="?", help="such as report/1 (default: list the names)")
    add_shared_options(parser)
    add_output_option(parser)


def _show_schema(options: SchemaOptions, _call: Invocation) -> Outcome:
    from pykdext.errors import PykdextError
    from pykdext.report.schemas import iter_schema_names, load_schema

    if options.name is None:
        return Outcome.of_text("".join(f"{name}\n" for name in iter_schema_names()))
    text = load_schema(options.name)
    if text is None:
        known = ", ".join(iter_schema_names())
        raise PykdextError(f"schema: found {options.name!r}, expected one of {known}")
    return Outcome.of_text(text)


COMMAND = Command(_declare, SchemaOptions, _show_schema)
