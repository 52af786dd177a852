"""``poolleak used SOURCE``: the tag table."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Optional

from pykdext.cli.answers import TABLE, Command, Invocation, Look, Outcome, list_forms, open_source
from pykdext.cli.arguments import (
    RowOptions,
    SourceOptions,
    add_format_option,
    add_output_option,
    add_row_options,
    add_shared_options,
    add_source,
)
from pykdext.units import choose_form, count_things

if TYPE_CHECKING:
    from pykdext.model import PoolSnapshot
    from pykdext.model.selection import Selection

_POOLMON, _POOLUSED = "poolmon", "poolused"
_SESSION = "session"

_TOP_ON_TERMINAL = 25
"""Rows that a terminal gets unless somebody asks for more."""


@dataclass(frozen=True)
class UsedOptions(SourceOptions, RowOptions):
    """``sort``: a counter, or the tag. ``view``: a line for each tag and pool as poolmon has it, or for each tag."""

    sort: str
    view: str


def _declare(parser: argparse.ArgumentParser) -> None:
    from pykdext.model.selection import SORT_KEYS

    add_source(parser)
    add_row_options(parser, (_SESSION,))
    parser.add_argument("--sort", choices=SORT_KEYS, default="bytes", help="largest first by this (default: bytes)")
    parser.add_argument(
        "--view",
        choices=(_POOLMON, _POOLUSED),
        default=_POOLMON,
        help="a line for each tag and pool, or one for each tag (default: poolmon)",
    )
    add_format_option(parser, list_forms(TABLE))
    add_output_option(parser)
    add_shared_options(parser)


def _show_usage(options: UsedOptions, call: Invocation) -> Outcome:
    from pykdext.cli.outputs import describe_lacks_of
    from pykdext.model import PoolKind
    from pykdext.model.selection import Selection, describe_misspelt_patterns, select_tags, select_usages
    from pykdext.report.csvtext import render_tags_csv, render_usages_csv

    shown_at_once = _TOP_ON_TERMINAL if call.screen.lines is not None and not options.output else None
    pools = (PoolKind(options.pool),) if options.pool and options.pool != _SESSION else tuple(PoolKind)
    selection = Selection(pools, options.tag, options.sort, options.top)
    with open_source(options, call) as source:
        snapshot, is_whole = source.snapshot, source.is_whole
        if options.pool == _SESSION:
            from pykdext.pipeline.sessionpool import read_session_state

            snapshot = read_session_state(source, call.work)
            is_whole = snapshot.coverage.is_complete
    guesses = describe_misspelt_patterns(options.tag, snapshot.tags)
    snapshot = replace(snapshot, warnings=(*guesses, *snapshot.warnings))
    return Outcome(
        text=lambda look: _render_text(snapshot, selection, options, look, shown_at_once),
        document=lambda: _render_json(snapshot, selection),
        rows=lambda: (
            render_tags_csv(select_tags(snapshot, selection))
            if options.view == _POOLUSED
            else render_usages_csv(select_usages(snapshot, selection))
        ),
        is_complete=is_whole,
        lacks=describe_lacks_of(snapshot, is_whole=is_whole),
    )


def _render_json(snapshot: PoolSnapshot, selection: Selection) -> str:
    """The chosen rows as a snapshot, which says so where it lacks others: it may be read again."""
    from pykdext.model.selection import Selection, select_tags
    from pykdext.records.snapshotfile import render_snapshot_json

    chosen, in_use = select_tags(snapshot, selection), len(select_tags(snapshot, Selection()))
    if len(chosen) < in_use:
        choice = (
            f"{len(chosen):,} of {count_things(in_use, 'tag')} in use "
            f"{choose_form(len(chosen), 'was', 'were')} chosen: "
            "whoever reads this again knows no others"
        )
        snapshot = replace(snapshot, warnings=(*snapshot.warnings, choice))
    return render_snapshot_json(snapshot, chosen)


def _render_text(
    snapshot: PoolSnapshot, selection: Selection, options: UsedOptions, look: Look, shown_at_once: Optional[int]
) -> str:
    """The table; of one that nobody limited ``shown_at_once`` rows, with a line that says so."""
    from pykdext.model.selection import select_tags, select_usages
    from pykdext.pipeline import TagLists, describe_stated
    from pykdext.report.tagtable import render_poolmon_text, render_poolused_text
    from pykdext.units import count_things

    lists = TagLists.load(options.pooltags)
    top = shown_at_once if selection.top is None else None
    if options.view == _POOLUSED:
        tags = select_tags(snapshot, selection)
        described = describe_stated(snapshot, lists.describe_tags(row.tag for row in tags[:top]))
        text = render_poolused_text(snapshot, tags[:top], described, look.width, look.markup)
        hidden = len(tags) - len(tags[:top])
    else:
        usages = select_usages(snapshot, selection)
        described = describe_stated(snapshot, lists.describe_tags(row.tag for row in usages[:top]))
        text = render_poolmon_text(snapshot, usages[:top], described, look.width, look.markup)
        hidden = len(usages) - len(usages[:top])
    if not hidden:
        return text
    rows = count_things(hidden, "more row is", "more rows are")
    hint = f"{rows} not shown on a terminal: --top N shows N, -o FILE takes all"
    return f"{text}{look.markup.text(hint)}\n"


COMMAND = Command(
    _declare,
    UsedOptions,
    _show_usage,
    examples=(
        "poolleak used MEMORY.DMP --top 20",
        "poolleak used poolmon.txt --pool paged --sort outstanding",
        'poolleak used MEMORY.DMP --tag "Nt*" --format csv -o tags.csv',
    ),
)
