"""What commands have in common in their words: types of arguments, groups of options, and the values they become.

A group is a frozen dataclass whose fields are the destinations of its options, with a function that declares them; a
command's own options inherit from the groups that it takes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Collection, Iterator, Optional, Sequence, Tuple, Type, TypeVar

if TYPE_CHECKING:
    from pykdext.model import PoolTag

MIN_WIDTH, MAX_WIDTH = 80, 200

MAX_SECONDS = 366 * 86400
"""The longest time that an option takes: no system waits for more, and nobody does."""

_Options = TypeVar("_Options", bound="SharedOptions")


@dataclass(frozen=True)
class SharedOptions:
    """What every command takes.

    Attributes:
        output: the file that the answer goes to; None: the screen. pooltags: the tag list. symbols: where symbols are;
        None: along the environment's path. width: columns of text; None: those of the screen. color: words stand out;
        None: where the screen can and NO_COLOR is not set. debug: errors show where they come from. format: the form of
        the answer, one of :data:`pykdext.cli.answers.FORMS`.
    PATHS: the fields of a class that hold paths as the user typed them; ``--redact`` takes them out of texts.
    """

    PATHS: ClassVar[Tuple[str, ...]] = ("output", "pooltags", "symbols")

    output: Optional[str]
    pooltags: Optional[str]
    symbols: Optional[str]
    width: Optional[int]
    color: Optional[bool]
    debug: bool
    format: str


@dataclass(frozen=True)
class SourceOptions(SharedOptions):
    """``source``: a dump, image, log or snapshot; None: the session or machine at hand.

    ``meta``: the file that describes a memory file; None: it is looked for beside it.
    """

    PATHS: ClassVar[Tuple[str, ...]] = ("source", "meta")

    source: Optional[str]
    meta: Optional[str]


@dataclass(frozen=True)
class RedactOptions(SharedOptions):
    """``redact``: names of machines, people and folders leave no trace in the answer."""

    redact: bool


@dataclass(frozen=True)
class ReportOptions(SourceOptions, RedactOptions):
    """What every command takes that reports on one source."""


@dataclass(frozen=True)
class RowOptions(SharedOptions):
    """Which rows of a table of tags are wanted: of one ``pool``, of tags that match a pattern, the ``top`` ones."""

    pool: Optional[str]
    tag: Tuple[str, ...]
    top: Optional[int]


def read_options(kind: Type[_Options], parsed: argparse.Namespace) -> _Options:
    """The options of a command as its value; lists become tuples."""
    found = vars(parsed)
    return kind(**{item.name: _freeze(found[item.name]) for item in fields(kind)})


def iter_typed_paths(options: SharedOptions) -> Iterator[str]:
    """The paths among the options, as they were typed: the command's own, then those that every command takes."""
    for kind in type(options).__mro__:
        for name in vars(kind).get("PATHS", ()):
            value = getattr(options, name)
            yield from value if isinstance(value, tuple) else (value,) if value else ()


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def add_shared_options(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """``--pooltags``, ``--symbols``, ``--width``, ``--debug``; text on the screen, unless more is declared.

    ``without``: those of the first three that the command has no use for.
    """
    parser.set_defaults(format="text", output=None, pooltags=None, symbols=None, width=None, color=None)
    if "pooltags" not in without:
        parser.add_argument("--pooltags", metavar="FILE", help="pooltag.txt to use (default: where WinDbg has it)")
    if "symbols" not in without:
        parser.add_argument(
            "--symbols",
            metavar="PATH",
            help="where PDB or ISF files are: folders, srv*CACHE*SERVER (default: _NT_SYMBOL_PATH)",
        )
    if "width" not in without:
        parser.add_argument(
            "--width", type=parse_width, metavar="N", help=f"columns of the text, {MIN_WIDTH} to {MAX_WIDTH}"
        )
        parser.add_argument(
            "--color",
            type=_parse_color,
            metavar="WHEN",
            help="always, never or auto: bold where the terminal knows it (default: auto; NO_COLOR=1 switches it off)",
        )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_format_option(parser: argparse.ArgumentParser, forms: Sequence[str]) -> None:
    """``--format``, one of ``forms``."""
    parser.add_argument("--format", choices=forms, default="text", help="form of the output (default: text)")


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """``-o FILE``."""
    parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of the screen")


def add_report_options(parser: argparse.ArgumentParser, forms: Sequence[str], without: Collection[str] = ()) -> None:
    """What every command with a report takes: its form (of ``forms``), its file, ``--redact``, the shared ones."""
    add_format_option(parser, forms)
    add_output_option(parser)
    _add_redact_option(parser)
    add_shared_options(parser, without)


def _add_redact_option(parser: argparse.ArgumentParser) -> None:
    """``--redact`` of what may leave the house."""
    parser.add_argument(
        "--redact", action="store_true", help="host-1 and path-1 instead of the names of machines, people and folders"
    )


def add_row_options(parser: argparse.ArgumentParser, more_pools: Sequence[str] = ()) -> None:
    """The options of :class:`RowOptions`; ``more_pools`` may be asked for beside those of the system."""
    from pykdext.model import PoolKind

    parser.add_argument("--pool", choices=[*(pool.value for pool in PoolKind), *more_pools], help="only this pool")
    parser.add_argument(
        "--tag", action="append", metavar="PATTERN", default=[], help="only these tags; * and ? match, may repeat"
    )
    parser.add_argument("--top", type=parse_positive, metavar="N", help="at most N rows")


def add_source(parser: argparse.ArgumentParser) -> None:
    """``SOURCE``."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="dump, memory image, log or snapshot (default: the debugger's session, or the live machine)",
    )
    add_meta_option(parser)


def add_meta_option(parser: argparse.ArgumentParser) -> None:
    """``--meta FILE``."""
    parser.add_argument(
        "--meta",
        metavar="FILE",
        help="the .vmsn or .vmss of a .vmem file (default: the one beside it that fits)",
    )


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``15m``, ``1h``, ``2d``; a plain number is seconds."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:].lower())
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a time such as 90s, 15m, 1h")
    if seconds > MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a time of at most {MAX_SECONDS // 86400}d")
    return seconds


def parse_width(text: str) -> int:
    """Columns that every text can be laid out in."""
    return _parse_number(text, MIN_WIDTH, MAX_WIDTH, f"{MIN_WIDTH} to {MAX_WIDTH}")


def parse_positive(text: str) -> int:
    """A count of at least one."""
    return _parse_number(text, 1, None, "1 or more")


def _parse_number(text: str, lowest: int, highest: Optional[int], expected: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if number < lowest or (highest is not None and number > highest):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
    return number


def _parse_color(text: str) -> Optional[bool]:
    choices = {"always": True, "never": False, "auto": None}
    if text not in choices:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {', '.join(choices)}")
    return choices[text]


def parse_tag(text: str) -> PoolTag:
    """A tag of one to four characters."""
    from pykdext.model import PoolTag

    try:
        return PoolTag.from_text(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
