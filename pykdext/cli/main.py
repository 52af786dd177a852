"""The command line: exit status, choice of output, errors in one line. No analysis."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional, Sequence

from pykdext.cli.arguments import COMMANDS, MAX_WIDTH, MIN_WIDTH, build_parser
from pykdext.cli.screen import Screen, open_screen, silence_output
from pykdext.errors import PykdextError
from pykdext.printable import hide_secrets
from pykdext.targets.session.debugger import is_in_debugger

DONE, PARTIAL, USAGE, UNUSABLE, INTERRUPTED = 0, 1, 2, 3, 130

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
    parser = build_parser()
    if not words and not in_debugger:
        parser.print_help()
        return USAGE
    options = parser.parse_args(_with_default_command(words))
    options.words = words
    try:
        return _run(options, screen)
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


def _with_default_command(words: List[str]) -> List[str]:
    """``poolleak MEMORY.DMP`` means ``poolleak analyze MEMORY.DMP``; in the debugger no words mean its session."""
    first = words[0] if words else ""
    if first in COMMANDS or first in ("-h", "--help", "--version"):
        return words
    return ["analyze", *words]


def _run(options: argparse.Namespace, screen: Screen) -> int:
    # Imported only now: --help and usage errors answer at once.
    from pykdext.cli.commands import blocks as commands
    from pykdext.cli.origin import find_page_problem
    from pykdext.work import Work

    problem = find_page_problem(options, screen.takes_documents) if options.format == "html" else None
    if problem:
        return _fail(screen, problem, USAGE)
    if options.width is None:
        options.width = max(MIN_WIDTH, min(MAX_WIDTH, screen.columns))
    options.screen = screen
    with screen.watch() as progress:
        outcome = getattr(commands, options.command.replace("-", "_"))(options, Work(progress, keeps_results=True))
    if options.output:
        from pykdext.wholefile import write_text

        write_text(options.output, outcome.text)
    elif outcome.is_document:
        screen.write_document(outcome.text)
    else:
        screen.write(outcome.text, outcome.marked)
    if outcome.interrupted_by is not None:
        raise outcome.interrupted_by
    if not outcome.usable:
        return UNUSABLE
    return DONE if outcome.complete else PARTIAL


def _describe(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}"
    return str(error)


def _fail(screen: Screen, message: str, status: int) -> int:
    screen.write_error(f"poolleak: {hide_secrets(' '.join(message.splitlines()))}")
    return status
