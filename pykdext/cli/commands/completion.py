"""``poolleak completion SHELL``: a script that lets a shell complete commands, options and files."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from pykdext.cli.answers import Command, Invocation, Outcome
from pykdext.cli.arguments import SharedOptions, add_output_option, add_shared_options

_SHELLS = ("bash", "zsh", "tcsh", "powershell")


@dataclass(frozen=True)
class CompletionOptions(SharedOptions):
    """``shell``: the one that reads the script."""

    shell: str


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=_SHELLS, help="the shell that reads the script")
    add_output_option(parser)
    add_shared_options(parser, without=("pooltags", "symbols", "width"))


def _render_script(options: CompletionOptions, _call: Invocation) -> Outcome:
    from pykdext.cli.parsing import build_whole_parser
    from pykdext.errors import PykdextError, say_install

    if options.shell == "powershell":
        from pykdext.cli.powershell import render_completion

        return Outcome.of_text(render_completion(build_whole_parser({})))
    try:
        import shtab
    except ImportError:
        hint = say_install("completion")
        raise PykdextError(f"completion: found no shtab, expected it. Hint: {hint}") from None
    script = shtab.complete(build_whole_parser(shtab.FILE), shell=options.shell)
    return Outcome.of_text(script.rstrip("\n") + "\n")


COMMAND = Command(
    _declare,
    CompletionOptions,
    _render_script,
    examples=(
        "poolleak completion bash >> ~/.bashrc",
        "poolleak completion zsh -o ~/.zfunc/_poolleak",
        "poolleak completion powershell >> $PROFILE",
    ),
)
