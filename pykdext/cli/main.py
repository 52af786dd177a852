"""The command line: the parser, the command that was typed, exit status, errors in one line. No analysis."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any, Optional, Sequence

from pykdext import __version__
from pykdext.cli.commands import COMMANDS
from pykdext.cli.screen import Screen, open_screen, silence_output
from pykdext.errors import PykdextError
from pykdext.printable import hide_secrets
from pykdext.targets.session.debugger import is_in_debugger

if TYPE_CHECKING:
    from pykdext.cli.answers import Command
    from pykdext.cli.arguments import SharedOptions

DONE, PARTIAL, USAGE, UNUSABLE, INTERRUPTED = 0, 1, 2, 3, 130

_DEFAULT = "analyze"
_OF_NO_COMMAND = ("-h", "--help", "--version")

_EXIT_STATUS = """\
exit status: 0 done; 1 done, but part of the input could not be used; 2 wrong usage; 3 the input is not usable"""

_ARGUMENTS_LOST = (
    "arguments: found only empty ones, expected a command or a source. Hint: pykd.pyd was loaded without its "
    "bootstrapper, which loses them: type .unload pykd.pyd, .load pykd (the pykd.dll of pykd_ext), then !py poolleak"
)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit status; everything a user did wrong is said in one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    screen = open_screen()
    in_debugger = is_in_debugger()
    if in_debugger and words and not any(words):
        return _fail(screen, _ARGUMENTS_LOST, USAGE)
    if not words and not in_debugger:
        build_parser().print_help()
        return USAGE
    if words and words[0] in _OF_NO_COMMAND:
        build_parser().parse_args(words)
    from pykdext.cli.arguments import read_options  # only now: --help answers at once

    name, *own = words if words and words[0] in COMMANDS else [_DEFAULT, *words]
    command = load_command(name)
    options = read_options(command.options, build_command_parser(name).parse_args(own))
    try:
        return _run(command, options, words, screen)
    except BrokenPipeError:
        silence_output()
        return DONE
    except (PykdextError, OSError) as error:
        if options.debug:
            raise
        return _fail(screen, _describe(error), UNUSABLE)
    except KeyboardInterrupt:
        return _fail(screen, "interrupted", INTERRUPTED)
    except SystemExit:  # Ctrl-Break, as pykd delivers it
        screen.write_error("poolleak: interrupted")
        raise


def build_parser() -> argparse.ArgumentParser:
    """The parser that lists the commands; each has one of its own, :func:`build_command_parser`."""
    parser = argparse.ArgumentParser(
        prog="poolleak",
        description="Find the driver behind a Windows kernel pool memory leak.",
        epilog=f"poolleak MEMORY.DMP is short for poolleak analyze MEMORY.DMP. {_EXIT_STATUS}",
    )
    parser.add_argument("--version", action="version", version=f"poolleak {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, listed in COMMANDS.items():
        commands.add_parser(name, help=listed.summary)
    return parser


def load_command(name: str) -> Command[Any]:
    """The command that is registered with this word."""
    command: Command[Any] = import_module(COMMANDS[name].module).COMMAND
    return command


def build_command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of what stands behind a command's word."""
    command = load_command(name)
    parser = argparse.ArgumentParser(prog=f"poolleak {name}", usage=command.usage, epilog=_EXIT_STATUS)
    command.declare(parser)
    return parser


def _run(command: Command[Any], options: SharedOptions, words: Sequence[str], screen: Screen) -> int:
    from pykdext.cli.answers import FORMS, Invocation, show
    from pykdext.cli.outputs import find_overwritten_input
    from pykdext.work import Work

    problem = FORMS[options.format].find_problem(options, screen.takes_documents)
    if problem:
        return _fail(screen, problem, USAGE)
    overwritten = find_overwritten_input(options)
    if overwritten:
        return _fail(screen, f"-o: found {overwritten}, which this command reads, expected another file", USAGE)
    with ExitStack() as opened:
        with screen.watch() as report:
            work = Work(report, keeps_results=True)
            outcome = command.run(options, Invocation(tuple(words), screen, work, opened))
        show(outcome, options, screen)
    if work.cause is not None:
        raise work.cause
    if not outcome.is_usable:
        return UNUSABLE
    return DONE if outcome.is_complete else PARTIAL


def _describe(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}"
    return str(error)


def _fail(screen: Screen, message: str, status: int) -> int:
    screen.write_error(f"poolleak: {hide_secrets(' '.join(message.splitlines()))}")
    return status
