"""The command line: the parser, the command that was typed, exit status, errors in one line. No analysis."""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

from pykdext.cli.commands import COMMANDS
from pykdext.cli.parsing import (
    HELP_WORDS,
    USAGE,
    VERSION_WORD,
    build_command_parser,
    build_parser,
    guess_word,
    load_command,
)
from pykdext.cli.screen import Screen, open_screen, silence_output
from pykdext.errors import PykdextError
from pykdext.printable import hide_secrets
from pykdext.targets.session.debugger import is_in_debugger

if TYPE_CHECKING:
    from pykdext.cli.answers import Command
    from pykdext.cli.arguments import SharedOptions

DONE, PARTIAL, UNUSABLE, INTERRUPTED = 0, 1, 3, 130

_DEFAULT = "analyze"
_WORD = re.compile(r"[A-Za-z][A-Za-z-]*")

_ARGUMENTS_LOST = (
    "arguments: found only empty ones, expected a command or a source. Hint: pykd.pyd was loaded without its "
    "bootstrapper, which loses them: type .unload pykd.pyd, .load pykd (the pykd.dll of pykd_ext), then !py poolleak"
)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit status; everything a user did wrong is said in one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    screen = open_screen()
    try:
        return _read_and_run(words, screen)
    except KeyboardInterrupt:
        return _fail(screen, "interrupted", INTERRUPTED)


def _read_and_run(words: Sequence[str], screen: Screen) -> int:
    in_debugger = is_in_debugger()
    if in_debugger and words and not any(words):
        return _fail(screen, _ARGUMENTS_LOST, USAGE)
    if not words and not in_debugger:
        build_parser().print_help()
        return USAGE
    name, *own = _choose_command(words)
    from pykdext.cli.arguments import read_options  # only now: --help answers at once

    command = load_command(name)
    options = read_options(command.options, build_command_parser(name).parse_words(own))
    if options.color is not None:
        screen = open_screen(options.color)
    try:
        return _run(command, options, words, screen)
    except BrokenPipeError:
        silence_output()
        return DONE
    except (PykdextError, OSError) as error:
        if options.debug:
            raise
        return _fail(screen, _redact(_describe(error), options), UNUSABLE)
    except SystemExit:  # Ctrl-Break, as pykd delivers it
        screen.write_error("poolleak: interrupted")
        raise


def _choose_command(words: Sequence[str]) -> List[str]:
    """The words with the command first; usage that is meant otherwise ends here, as help does."""
    first = words[0] if words else ""
    if first in (*HELP_WORDS, VERSION_WORD) or words == ["help"]:
        build_parser().parse_args([first if first == VERSION_WORD else "--help"])
    if first == "help":
        words = [words[1], "--help"]
    if not words or words[0] not in COMMANDS:
        _refuse_misspelt(words, is_command=first == "help")
        words = [_DEFAULT, *words]
    return ["--help" if word in HELP_WORDS else word for word in words]


def _refuse_misspelt(words: Sequence[str], is_command: bool) -> None:
    """End with a guess if the first word is meant for a command: it is no file, and like one or followed by others."""
    first = words[0] if words else ""
    if not is_command and (not _WORD.fullmatch(first) or os.path.lexists(first)):
        return
    guess = guess_word(first, (*COMMANDS, "help"))
    if guess or is_command or (len(words) > 1 and not words[1].startswith("-")):
        hint = f"did you mean {guess}?" if guess else f"expected one of {', '.join(COMMANDS)}"
        build_parser().error(f"found {first}, which is neither a command nor a file, {hint}")


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
            work = Work(report, keeps_results=True, tell=report.tell)
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


def _redact(message: str, options: SharedOptions) -> str:
    """The message without names of machines and folders, if the options ask for it."""
    if not getattr(options, "redact", False):
        return message
    from pykdext.cli.arguments import iter_typed_paths
    from pykdext.cli.redaction import Redactor

    return Redactor(iter_typed_paths(options)).redact_text(message)


def _fail(screen: Screen, message: str, status: int) -> int:
    screen.write_error(f"poolleak: {hide_secrets(' '.join(message.splitlines()))}")
    return status
