"""``poolleak setup-windbg``: what WinDbg needs, by what is found around this Python."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Optional

from pykdext.cli.answers import Command, Invocation, Outcome
from pykdext.cli.arguments import SharedOptions, add_shared_options


@dataclass(frozen=True)
class SetupOptions(SharedOptions):
    """``write``: the folder for the scripts of the debugger; None: none is written."""

    write: Optional[str]


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--write", metavar="FOLDER", help="also write there the scripts for the debugger, poolleak.js and poolleak.wds"
    )
    add_shared_options(parser, without=("pooltags", "symbols", "width"))


def _set_up(options: SetupOptions, _call: Invocation) -> Outcome:
    from pykdext.cli.windbgsetup import read_surroundings, render_setup, save_scripts

    surroundings = read_surroundings()
    written = save_scripts(options.write, surroundings) if options.write else ()
    return Outcome.of_text(render_setup(surroundings, written))


COMMAND = Command(
    _declare,
    SetupOptions,
    _set_up,
    examples=(
        "poolleak setup-windbg",
        "poolleak setup-windbg --write C:/tools",
    ),
)
