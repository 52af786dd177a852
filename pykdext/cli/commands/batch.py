"""``poolleak batch PATH...``: what many dumps have in common."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Iterable, Optional, Tuple

from pykdext.cli.answers import REPORT, Command, Invocation, Outcome, choose_redaction, list_forms
from pykdext.cli.arguments import (
    RedactOptions,
    add_report_options,
    parse_duration,
    parse_positive,
)


@dataclass(frozen=True)
class BatchOptions(RedactOptions):
    """Fields as in :class:`pykdext.fleet.request.BatchRequest`."""

    PATHS = ("store", "paths")

    paths: Tuple[str, ...]
    jobs: Optional[int]
    scheduler: Optional[str]
    store: Optional[str]
    again: bool
    timeout: float
    host_from: str
    top: int


def _declare(parser: argparse.ArgumentParser) -> None:
    from pykdext.fleet.hosts import AUTOMATIC

    parser.add_argument("paths", metavar="PATH", nargs="+", help="dumps: files, folders, patterns, URLs")
    parser.add_argument(
        "--jobs", type=parse_positive, metavar="N", help="dumps at the same time (default: all processors)"
    )
    parser.add_argument("--scheduler", metavar="URL", help="read with the workers of a Dask cluster: tcp://HOST:8786")
    parser.add_argument("--store", metavar="FILE", help="keep all in this SQLite file, and read only what is new")
    parser.add_argument("--again", action="store_true", help="read also what is stored and has not changed")
    parser.add_argument(
        "--timeout",
        type=parse_duration,
        metavar="TIME",
        default=1800.0,
        help="give up on a dump after it (default: 30m)",
    )
    parser.add_argument(
        "--host-from",
        type=_parse_host_rule,
        metavar="RULE",
        default=AUTOMATIC,
        help="folder, name, or a pattern such as '{host}/*.dmp': the part of a path that names the host"
        " (default: the file name without dates and words such as MEMORY, else the folder)",
    )
    parser.add_argument(
        "--top", type=parse_positive, metavar="N", default=5, help="at most N suspects a dump (default: 5)"
    )
    add_report_options(parser, list_forms(REPORT))


def _parse_host_rule(text: str) -> str:
    from pykdext.fleet.hosts import PLACEHOLDER, is_rule

    if not is_rule(text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected folder, name, or a pattern with {PLACEHOLDER}")
    return text


def _read_dumps(options: BatchOptions, call: Invocation) -> Outcome:
    """The answer is written piece by piece, as it may be large, while its store is open."""
    from pykdext.cli.origin import describe_origin
    from pykdext.errors import PykdextError
    from pykdext.fleet.request import BatchRequest, open_batch
    from pykdext.model.fleet import DumpStatus
    from pykdext.report.batchdoc import iter_batch_csv, iter_batch_json
    from pykdext.report.batchtext import render_batch_text
    from pykdext.report.sentences.batches import verdict_on_batch
    from pykdext.report.sentences.tones import tone_of_batch
    from pykdext.targets.session.debugger import is_in_debugger

    if is_in_debugger():
        raise PykdextError("batch: found a debugger, expected a shell: it starts processes of its own")
    request = BatchRequest(
        paths=options.paths,
        timeout_seconds=options.timeout,
        jobs=options.jobs,
        scheduler=options.scheduler,
        store=options.store,
        host_rule=options.host_from,
        again=options.again,
        top=options.top,
        pooltags=options.pooltags,
        symbols=options.symbols,
    )
    found = call.opened.enter_context(open_batch(request, call.work))
    redact = choose_redaction(options)
    summary, origin = redact((found.summary, describe_origin(call.words)))
    rows = map(redact, found.iter_rows())

    def iter_page() -> Iterable[str]:
        from pykdext.report.html import iter_batch_page

        return iter_batch_page(summary, rows, origin)

    return Outcome(
        text=lambda look: render_batch_text(summary, rows, look.width, look.encoding, look.markup),
        document=lambda: iter_batch_json(summary, rows),
        rows=lambda: iter_batch_csv(rows),
        page=iter_page,
        is_complete=summary.by_status[DumpStatus.DONE] == summary.dumps and not summary.warnings,
        is_usable=summary.hosts > 0,
        verdict=verdict_on_batch(summary),
        tone=tone_of_batch(summary),
    )


COMMAND = Command(
    _declare,
    BatchOptions,
    _read_dumps,
    examples=(
        "poolleak batch dumps --store fleet.sqlite",
        "poolleak batch //server/dumps --host-from folder --format html -o fleet.html",
    ),
)
