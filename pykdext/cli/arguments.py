"""The command line's words: commands, options, and what each accepts."""

from __future__ import annotations

import argparse
import os
from typing import Any, Optional, Sequence, Tuple, Union

from pykdext import __version__
from pykdext.fleet.hosts import AUTOMATIC, PLACEHOLDER, is_rule
from pykdext.model import PoolKind, PoolTag
from pykdext.model.selection import SORT_KEYS

COMMANDS = (
    "analyze",
    "used",
    "find",
    "blocks",
    "diff",
    "trend",
    "record",
    "snapshot",
    "batch",
    "history",
    "schema",
    "setup-windbg",
)
MAX_SECONDS = 366 * 86400
"""The longest time that an option takes: no system waits for more, and nobody does."""

MIN_WIDTH, MAX_WIDTH = 80, 120

_TABLE_FORMATS = ("text", "json", "csv")
_DELTA_KEYS = ("bytes", "outstanding", "allocs", "frees", "rate", "tag")

_EXIT_STATUS = """\
exit status: 0 done; 1 done, but part of the input could not be used; 2 wrong usage; 3 the input is not usable"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="poolleak",
        description="Find the driver behind a Windows kernel pool memory leak.",
        epilog=f"poolleak MEMORY.DMP is short for poolleak analyze MEMORY.DMP. {_EXIT_STATUS}",
    )
    parser.add_argument("--version", action="version", version=f"poolleak {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--pooltags", metavar="FILE", help="pooltag.txt to use (default: where WinDbg has it)")
    common.add_argument(
        "--symbols",
        metavar="PATH",
        help="where PDB or ISF files are: folders, srv*CACHE*SERVER (default: _NT_SYMBOL_PATH)",
    )
    common.add_argument("--width", type=_width, metavar="N", help="columns of the text, 80 to 120")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    formatted = argparse.ArgumentParser(add_help=False, parents=[common, _format_option(*_TABLE_FORMATS)])
    formatted.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of the screen")
    reported = argparse.ArgumentParser(add_help=False, parents=[common, _page_options()])
    reported.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of the screen")

    analyze = commands.add_parser(
        "analyze",
        parents=[reported],
        help="the verdict: who leaks, how much, which driver, what to do next",
        epilog=_EXIT_STATUS,
    )
    _add_source(analyze)
    analyze.add_argument("--top", type=_positive, metavar="N", default=5, help="at most N suspects (default: 5)")

    used = commands.add_parser(
        "used",
        parents=[formatted, _row_options()],
        help="the tag table, like poolmon and !poolused",
        epilog=_EXIT_STATUS,
    )
    _add_source(used)
    used.add_argument("--sort", choices=SORT_KEYS, default="bytes", help="largest first by this (default: bytes)")
    used.add_argument(
        "--view",
        choices=("poolmon", "poolused"),
        default="poolmon",
        help="a line for each tag and pool, or one for each tag (default: poolmon)",
    )

    find = commands.add_parser(
        "find",
        parents=[formatted],
        help="who owns these tags",
        epilog=_EXIT_STATUS,
        usage="poolleak find [-h] [options] TAG... [SOURCE]",
    )
    find.add_argument(
        "tags",
        nargs="+",
        action=_TagsAndSource,
        metavar="TAG",
        help="tags of 1 to 4 characters (\\xNN is a byte), then the SOURCE, if it is not the debugger's session",
    )
    find.add_argument(
        "--images",
        metavar="PATH",
        action="append",
        default=[],
        help="also search driver files: a file, or a folder with all in it (may repeat); no SOURCE needed",
    )
    find.add_argument(
        "--jobs", type=_positive, metavar="N", default=os.cpu_count() or 1, help="processes for --images (default: all)"
    )
    find.add_argument(
        "--explain", action="store_true", help="only what the tag lists say, which entry won, and why; no SOURCE needed"
    )

    blocks = commands.add_parser("blocks", parents=[formatted], help="where a tag's blocks are", epilog=_EXIT_STATUS)
    blocks.add_argument("tag", type=_tag, metavar="TAG", help="a tag of 1 to 4 characters; \\xNN is a byte")
    _add_source(blocks)
    blocks.add_argument("--top", type=_positive, metavar="N", default=10, help="list N blocks (default: 10)")

    diff = commands.add_parser(
        "diff", parents=[reported, _row_options()], help="growth between any two sources", epilog=_EXIT_STATUS
    )
    diff.add_argument("before", metavar="BEFORE", help="dump, log, pasted !poolused or snapshot")
    diff.add_argument("after", metavar="AFTER", nargs="?", help="the same, later (default: the session or machine)")
    diff.add_argument(
        "--sort",
        type=_delta_keys,
        metavar="KEYS",
        default=("bytes",),
        help=f"one or more of {', '.join(_DELTA_KEYS)}, separated by commas (default: bytes)",
    )

    trend = commands.add_parser(
        "trend",
        parents=[reported],
        help="a series of logs: which tag grows, how fast, until when",
        epilog=_EXIT_STATUS,
    )
    trend.add_argument("logs", metavar="LOG", nargs="+", help="logs, snapshots or dumps: files, folders or patterns")
    trend.add_argument("--every", type=_duration, metavar="TIME", help="time between samples without one, e.g. 15m")
    trend.add_argument("--mixed", action="store_true", help="take samples of different machines as one series")

    record = commands.add_parser(
        "record", parents=[common], help="sample a live machine or session", epilog=_EXIT_STATUS
    )
    record.add_argument(
        "-o", "--output", dest="folder", metavar="DIR", default=".", help="folder for the samples (default: this one)"
    )
    record.add_argument(
        "--every", type=_duration, metavar="TIME", default=900.0, help="e.g. 15m, 90s, 1h (default: 15m)"
    )
    record.add_argument("--count", type=_positive, metavar="N", default=200, help="samples to take (default: 200)")
    record.add_argument(
        "--recipe", action="store_true", help="print a script that does it with what Windows brings along"
    )
    record.set_defaults(format="text", output=None)

    _add_fleet_commands(commands, common)
    _add_commands_without_source(commands, common)

    snapshot = commands.add_parser("snapshot", parents=[common], help="keep a state for later", epilog=_EXIT_STATUS)
    _add_source(snapshot)
    snapshot.add_argument("-o", "--output", metavar="FILE", required=True, help="snapshot to write; .gz compresses it")
    snapshot.set_defaults(format="json")
    return parser


def _add_fleet_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """``batch`` and ``history``."""
    batch = commands.add_parser(
        "batch",
        parents=[common, _page_options()],
        help="many dumps: what they have in common",
        epilog=_EXIT_STATUS,
    )
    batch.add_argument("paths", metavar="PATH", nargs="+", help="dumps: files, folders, patterns, URLs")
    batch.add_argument("-o", "--output", dest="file", metavar="FILE", help="write to FILE instead of the screen")
    batch.add_argument("--jobs", type=_positive, metavar="N", help="dumps at the same time (default: all processors)")
    batch.add_argument("--scheduler", metavar="URL", help="read with the workers of a Dask cluster: tcp://HOST:8786")
    batch.add_argument("--store", metavar="FILE", help="keep all in this SQLite file, and read only what is new")
    batch.add_argument("--again", action="store_true", help="read also what is stored and has not changed")
    batch.add_argument(
        "--timeout", type=_duration, metavar="TIME", default=1800.0, help="give up on a dump after it (default: 30m)"
    )
    batch.add_argument(
        "--host-from",
        type=_host_rule,
        metavar="RULE",
        default=AUTOMATIC,
        help="folder, name, or a pattern such as '{host}/*.dmp': the part of a path that names the host"
        " (default: the file name without dates and words such as MEMORY, else the folder)",
    )
    batch.add_argument("--top", type=_positive, metavar="N", default=5, help="at most N suspects a dump (default: 5)")
    batch.set_defaults(output=None)

    history = commands.add_parser(
        "history",
        parents=[common, _format_option(*_TABLE_FORMATS)],
        help="stored hosts and tags over the weeks",
        epilog=_EXIT_STATUS,
    )
    history.add_argument("subject", metavar="HOST|TAG", nargs="?", help="of these only; * and ? match (default: all)")
    history.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of the screen")
    history.add_argument("--store", metavar="FILE", required=True, help="what poolleak batch --store wrote")
    history.add_argument("--top", type=_positive, metavar="N", default=20, help="at most N rows of text (default: 20)")


def _add_commands_without_source(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """``setup-windbg`` and ``schema``."""
    setup = commands.add_parser(
        "setup-windbg", parents=[common], help="what to do so that WinDbg knows !poolleak", epilog=_EXIT_STATUS
    )
    setup.add_argument("--write", metavar="FOLDER", help="also write poolleak.wds there, a script for the debugger")
    setup.set_defaults(format="text", output=None)

    schema = commands.add_parser("schema", parents=[common], help="the JSON Schema of a document", epilog=_EXIT_STATUS)
    schema.add_argument("name", metavar="NAME", nargs="?", help="such as report/1 (default: list the names)")
    schema.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of the screen")
    schema.set_defaults(format="text")


def _format_option(*formats: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--format", choices=formats, default="text", help="form of the output (default: text)")
    return parser


def _page_options() -> argparse.ArgumentParser:
    """The options of what may be a page, and may leave the house."""
    parser = argparse.ArgumentParser(add_help=False, parents=[_format_option(*_TABLE_FORMATS, "html")])
    parser.add_argument(
        "--redact", action="store_true", help="host-1 and path-1 instead of the names of machines, people and folders"
    )
    return parser


def _host_rule(text: str) -> str:
    if not is_rule(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected folder, name, or a pattern with {PLACEHOLDER}")
    return text


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="dump, log or snapshot (default: the debugger's session, or the live machine)",
    )


class _TagsAndSource(argparse.Action):
    """Tags, and a source behind them: a last word that is a file, or too long for a tag."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Union[str, Sequence[Any], None],
        option_string: Optional[str] = None,
    ) -> None:
        words = [str(word) for word in values or ()]
        namespace.source = words.pop() if len(words) > 1 and _is_source(words[-1]) else None
        try:
            namespace.tags = [_tag(word) for word in words]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None


def _is_source(word: str) -> bool:
    try:
        PoolTag.from_text(word)
    except ValueError:
        return True
    return os.path.exists(word)


def _row_options() -> argparse.ArgumentParser:
    """The options that choose rows of a table of tags."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--pool", choices=[pool.value for pool in PoolKind], help="only this pool")
    parser.add_argument(
        "--tag", action="append", metavar="PATTERN", default=[], help="only these tags; * and ? match, may repeat"
    )
    parser.add_argument("--top", type=_positive, metavar="N", help="at most N rows")
    return parser


def _duration(text: str) -> float:
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


def _delta_keys(text: str) -> Tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    unknown = [key for key in keys if key not in _DELTA_KEYS]
    if unknown:
        raise argparse.ArgumentTypeError(f"found {unknown[0]!r}, expected one of {', '.join(_DELTA_KEYS)}")
    return keys


def _width(text: str) -> int:
    columns = int(text)
    if not MIN_WIDTH <= columns <= MAX_WIDTH:
        raise argparse.ArgumentTypeError(f"found {columns}, expected {MIN_WIDTH} to {MAX_WIDTH}")
    return columns


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected 1 or more")
    return number


def _tag(text: str) -> PoolTag:
    try:
        return PoolTag.from_text(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
