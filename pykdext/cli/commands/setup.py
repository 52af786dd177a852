"""``poolleak setup-windbg``: what WinDbg needs, by what is found around this Python."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Optional

from pykdext.cli.answers import Command, Invocation, Outcome
from pykdext.cli.arguments import SharedOptions, add_shared_options


@dataclass(frozen=True)
class SetupOptions(SharedOptions):
    """``write``: the folder for a script of the debugger; None: none is written."""

    write: Optional[str]


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", metavar="FOLDER", help="also write poolleak.wds there, a script for the debugger")
    add_shared_options(parser, without=("pooltags", "symbols", "width"))


def _set_up(options: SetupOptions, _call: Invocation) -> Outcome:
    from pykdext.cli.windbgsetup import read_surroundings, render_setup, save_script

    surroundings = read_surroundings()
    written = save_script(options.write, surroundings) if options.write else None
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
