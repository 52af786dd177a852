"""``poolleak find TAG... SOURCE``: who owns these tags."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Sequence, Tuple, Union

from pykdext.cli.answers import TABLE, Command, Invocation, Outcome, list_forms, open_source
from pykdext.cli.arguments import (
    SourceOptions,
    add_format_option,
    add_meta_option,
    add_output_option,
    add_shared_options,
    parse_positive,
    parse_tag,
)

if TYPE_CHECKING:
    from pykdext.model import PoolSnapshot, PoolTag
    from pykdext.pipeline import TagLists


@dataclass(frozen=True)
class FindOptions(SourceOptions):
    """``images``: driver files, too. ``jobs``: processes for them. ``explain``: only what the tag lists say."""

    PATHS = ("images",)

    tags: Tuple[PoolTag, ...]
    images: Tuple[str, ...]
    jobs: int
    explain: bool


def _declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tags",
        nargs="+",
        action=_TagsAndSource,
        metavar="TAG",
        help="tags of 1 to 4 characters (\\xNN is a byte), then the SOURCE, if it is not the debugger's session",
    )
    parser.add_argument(
        "--images",
        metavar="PATH",
        action="append",
        default=[],
        help="also search driver files: a file, or a folder with all in it (may repeat); no SOURCE needed",
    )
    parser.add_argument(
        "--jobs",
        type=parse_positive,
        metavar="N",
        default=os.cpu_count() or 1,
        help="processes for --images (default: all)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="only what the tag lists say, which entry won, and why; no SOURCE needed"
    )
    add_meta_option(parser)
    add_format_option(parser, list_forms(TABLE))
    add_output_option(parser)
    add_shared_options(parser)


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
            namespace.tags = [parse_tag(word) for word in words]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None


def _is_source(word: str) -> bool:
    try:
        parse_tag(word)
    except argparse.ArgumentTypeError:
        return True
    return os.path.exists(word)


def _find(options: FindOptions, call: Invocation) -> Outcome:
    from pykdext import pipeline
    from pykdext.cli.outputs import describe_lacks
    from pykdext.model import SnapshotSource
    from pykdext.model.selection import describe_misspelt_tags
    from pykdext.report.csvtext import render_owners_csv
    from pykdext.report.jsondoc import render_owners_json
    from pykdext.report.plaintext import render_owners_text
    from pykdext.report.sentences.states import describe_coverage, say_lacking_counts
    from pykdext.targets.session.debugger import is_in_debugger

    lists = pipeline.TagLists.load(options.pooltags)
    if options.explain:
        return _explain(options.tags, lists)
    in_debugger = is_in_debugger()
    jobs = 1 if in_debugger else options.jobs  # there this Python has no program file to start again
    with ExitStack() as opened:
        kernel, subject = None, SnapshotSource("driver files", ", ".join(options.images))
        state: Optional[PoolSnapshot] = None
        is_whole = True
        if options.source is not None or in_debugger or not options.images:
            source = opened.enter_context(open_source(options, call))
            kernel, state, is_whole = source.kernel, source.snapshot, source.is_whole
            subject = state.source
        answer = pipeline.find_owners(
            kernel, options.images, options.tags, lists, jobs, call.work, options.symbols, state
        )
    lacking = say_lacking_counts(state.coverage) if state else ""
    if state and not lacking and not state.coverage.is_complete:
        lacking = f"read in part: {describe_coverage(state.coverage, None)}"
    warnings = (
        *describe_misspelt_tags(options.tags, state.tags if state else ()),
        *([lacking] if lacking else []),
        *answer.warnings,
    )
    return Outcome(
        text=lambda look: render_owners_text(subject, answer.tags, warnings, look.width, look.markup, state),
        document=lambda: render_owners_json(answer.tags, warnings),
        rows=lambda: render_owners_csv(answer.tags),
        is_complete=answer.complete and is_whole and not call.work.is_ended,
        lacks=describe_lacks((), answer.warnings),
    )


def _explain(tags: Sequence[PoolTag], lists: TagLists) -> Outcome:
    """``--explain``: what the tag lists say, and why."""
    from pykdext.report.csvtext import render_explanation_csv
    from pykdext.report.explaintext import render_explanation_json, render_explanation_text

    explained = [(tag, lists.look_up(tag)) for tag in tags]
    return Outcome(
        text=lambda look: render_explanation_text(explained, look.width, look.markup),
        document=lambda: render_explanation_json(explained),
        rows=lambda: render_explanation_csv(explained),
    )


COMMAND = Command(
    _declare,
    FindOptions,
    _find,
    examples=(
        "poolleak find Pipo MEMORY.DMP",
        "poolleak find Pipo --images C:/Windows/System32/drivers",
        "poolleak find Toke --explain",
    ),
    usage="poolleak find [-h] [options] TAG... [SOURCE]",
)
