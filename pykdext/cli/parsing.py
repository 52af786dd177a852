"""Parsers that answer in one line, guess what was meant, and show examples."""

from __future__ import annotations

import argparse
import textwrap
from importlib import import_module
from typing import TYPE_CHECKING, Any, Iterable, NoReturn, Optional, Sequence, Tuple

from pykdext import __version__
from pykdext.cli.commands import COMMANDS
from pykdext.printable import hide_secrets, make_printable

if TYPE_CHECKING:
    from pykdext.cli.answers import Command

USAGE = 2
"""The exit status of wrong usage."""

HELP_WORDS = ("-h", "--help", "-?", "/?")
VERSION_WORD = "--version"

_HELP_COLUMNS = 80

_EXIT_STATUS = """\
exit status: 0 done; 1 done, but part of the input could not be used; 2 wrong usage; 3 the input is not usable"""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line with a hint, as all errors of poolleak are."""

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """As ``parse_args``, with a guess for an option that is not known."""
        parsed, unknown = self.parse_known_args(words)
        if unknown:
            word = unknown[0]
            options = [option for action in self._actions for option in action.option_strings]
            if not word.startswith("-"):
                self.error(f"found {word}, expected no more words")
            guess = _guess_option(word.partition("=")[0], options)
            self.error(f"found {word}, {f'did you mean {guess}?' if guess else 'which is no option of this command'}")
        return parsed

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Argparse's check of choices, in the words of all other errors."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, say_expected(str(value), list(map(str, action.choices))))

    def error(self, message: str) -> NoReturn:
        """End with the message and where to read on."""
        message = message[len("argument ") :] if message.startswith("argument ") else message
        line = f"{self.prog}: {make_printable(hide_secrets(' '.join(message.split())))}"
        ended = "" if line.endswith(("?", ".")) else "."
        self.exit(USAGE, f"{line}{ended} Hint: {self.prog} --help\n")


def build_parser() -> OneLineParser:
    """The parser that lists the commands; each has one of its own, :func:`build_command_parser`."""
    parser, commands = _build_outline()
    for name, listed in COMMANDS.items():
        commands.add_parser(name, help=listed.summary)
    return parser


def _build_outline() -> Tuple[OneLineParser, argparse._SubParsersAction[OneLineParser]]:
    parser = OneLineParser(
        prog="poolleak",
        description="Find the driver behind a Windows kernel pool memory leak.",
        epilog=f"poolleak MEMORY.DMP is short for poolleak analyze MEMORY.DMP; poolleak help COMMAND shows its options "
        f"and examples. {_EXIT_STATUS}",
    )
    parser.add_argument(VERSION_WORD, action="version", version=f"poolleak {__version__}")
    return parser, parser.add_subparsers(dest="command", metavar="COMMAND", required=True)


def build_whole_parser(file_words: Any) -> OneLineParser:
    """One parser of all commands with all their options; ``file_words``: how the words of files are completed."""
    parser, commands = _build_outline()
    for name, listed in COMMANDS.items():
        command = load_command(name)
        own = commands.add_parser(name, help=listed.summary)
        command.declare(own)
        paths = {path for kind in command.options.__mro__ for path in vars(kind).get("PATHS", ())}
        for action in own._actions:
            if action.dest in paths:
                setattr(action, "complete", file_words)  # noqa: B010 - an attribute of shtab's
    return parser


def build_command_parser(name: str) -> OneLineParser:
    """The parser of what stands behind a command's word."""
    command = load_command(name)
    parser = OneLineParser(
        prog=f"poolleak {name}",
        usage=command.usage,
        description=f"{COMMANDS[name].summary[:1].upper()}{COMMANDS[name].summary[1:]}.",
        epilog=_describe_examples(command.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.declare(parser)
    return parser


def _describe_examples(examples: Sequence[str]) -> str:
    shown = ["examples:", *(f"  {example}" for example in examples), ""] if examples else []
    return "\n".join([*shown, textwrap.fill(_EXIT_STATUS, _HELP_COLUMNS)])


def load_command(name: str) -> Command[Any]:
    """The command that is registered with this word."""
    command: Command[Any] = import_module(COMMANDS[name].module).COMMAND
    return command


def say_expected(word: str, known: Sequence[str]) -> str:
    """What is wrong with a word that should be one of those known, and which was meant."""
    guess = guess_word(word, known)
    return f"found {word!r}, " + (f"did you mean {guess}?" if guess else f"expected one of {', '.join(known)}")


def _guess_option(word: str, options: Iterable[str]) -> Optional[str]:
    """The option that is most like this one; all begin alike, which tells nothing."""
    by_name = {option.lstrip("-"): option for option in options}
    guess = guess_word(word.lstrip("-"), by_name)
    return by_name[guess] if guess else None


def guess_word(word: str, known: Iterable[str]) -> Optional[str]:
    """The known word that is most like this one, however its letters are cased; None if none is."""
    import difflib

    by_lower = {other.lower(): other for other in known}
    found = [other for other in by_lower if len(word) > 2 and other.startswith(word.lower())]
    found = found or difflib.get_close_matches(word.lower(), by_lower, 1, 0.6)
    return by_lower[found[0]] if found else None
