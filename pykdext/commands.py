"""What each command of the command line does: the sentence of the pipeline, and the form of its answer.

Each function is named like its command and takes the parsed options.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, replace
from typing import Optional, Tuple

from pykdext import pipeline
from pykdext.growth import rank_deltas
from pykdext.interruption import Interruption
from pykdext.model import Diff, PoolKind, PoolSnapshot, TagDelta
from pykdext.pipeline import TagLists
from pykdext.progress import ReportProgress
from pykdext.records.recipe import render_recipe
from pykdext.report.blocklist import render_blocks_text
from pykdext.report.difftext import render_diff_text
from pykdext.report.dumpsummary import render_summary_json, render_summary_text
from pykdext.report.explaintext import render_explanation_json, render_explanation_text
from pykdext.report.growthdoc import render_diff_json, render_trend_json
from pykdext.report.jsondoc import render_blocks_json, render_owners_json, render_report_json, render_snapshot_json
from pykdext.report.markup import PLAIN, Markup
from pykdext.report.plaintext import render_owners_text, render_report_text
from pykdext.report.tagtable import render_poolmon_text, render_poolused_text
from pykdext.report.trendtext import render_trend_text
from pykdext.selection import Selection, matches_any, select_tags, select_usages
from pykdext.windbgsetup import read_surroundings, render_setup, save_script


@dataclass(frozen=True)
class Outcome:
    """The output of a command.

    ``complete`` is false if part of the input could not be used, ``usable`` if what was asked for is not in it.
    ``marked``: the text is in the markup of the screen. ``interrupted_by``: what ended the work before its time, to be
    raised once the text is shown.
    """

    text: str
    complete: bool
    usable: bool = True
    marked: bool = False
    interrupted_by: Optional[BaseException] = None


def analyze(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak DUMP``: the verdict."""
    lists = TagLists.load(options.pooltags)
    interruption = Interruption()
    try:
        with pipeline.open_source(options.source, progress, options.symbols, interruption) as source:
            report = pipeline.analyze(source, lists, progress, options.top, interruption)
    except pipeline.NoTagTablesError as error:
        summary = error.summary
        if options.format == "json":
            return Outcome(render_summary_json(summary), complete=False, usable=False)
        text = render_summary_text(summary, options.width, _choose_markup(options))
        return Outcome(text, complete=False, usable=False, marked=True)
    complete = report.snapshot.coverage.is_complete
    if options.format == "json":
        return Outcome(render_report_json(report), complete, interrupted_by=interruption.cause)
    text = render_report_text(report, options.width, _choose_markup(options))
    return Outcome(text, complete, marked=True, interrupted_by=interruption.cause)


def used(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak used``: the tag table."""
    pools = (PoolKind(options.pool),) if options.pool else tuple(PoolKind)
    selection = Selection(pools, tuple(options.tag), options.sort, options.top)
    interruption = Interruption()
    with pipeline.open_source(options.source, progress, options.symbols, interruption) as source:
        snapshot = source.snapshot
    complete = snapshot.coverage.is_complete
    if options.format == "json":
        text = render_snapshot_json(snapshot, select_tags(snapshot, selection))
        return Outcome(text, complete, interrupted_by=interruption.cause)
    text = _render_used_text(snapshot, selection, TagLists.load(options.pooltags), options)
    return Outcome(text, complete, marked=True, interrupted_by=interruption.cause)


def _render_used_text(snapshot: PoolSnapshot, selection: Selection, lists: TagLists, options: Namespace) -> str:
    markup = _choose_markup(options)
    if options.view == "poolused":
        tags = select_tags(snapshot, selection)
        return render_poolused_text(snapshot, tags, lists.describe_tags(row.tag for row in tags), options.width, markup)
    usages = select_usages(snapshot, selection)
    return render_poolmon_text(snapshot, usages, lists.describe_tags(row.tag for row in usages), options.width, markup)


def find(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak find``: the owners of tags."""
    lists = TagLists.load(options.pooltags)
    if options.explain:
        return _explain(options, lists)
    interruption = Interruption()
    with pipeline.open_source(options.source, progress, options.symbols, interruption) as source:
        answer = pipeline.find_owners(source, options.tags, lists, progress, interruption)
    complete = interruption.cause is None
    if options.format == "json":
        text = render_owners_json(answer.tags, answer.warnings)
        return Outcome(text, complete, interrupted_by=interruption.cause)
    subject = source.snapshot.source
    text = render_owners_text(subject, answer.tags, answer.warnings, options.width, _choose_markup(options))
    return Outcome(text, complete, marked=True, interrupted_by=interruption.cause)


def _explain(options: Namespace, lists: TagLists) -> Outcome:
    """``poolleak find --explain``: what the tag lists say, and why."""
    explained = [(tag, lists.look_up(tag)) for tag in options.tags]
    if options.format == "json":
        return Outcome(render_explanation_json(explained), complete=True)
    return Outcome(render_explanation_text(explained, options.width), complete=True)


def blocks(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak blocks``: where a tag's blocks are."""
    with pipeline.open_source(options.source, progress, options.symbols) as source:
        report = pipeline.find_blocks(source, options.tag, options.top, progress)
    complete = report.warnings == source.snapshot.warnings
    if options.format == "json":
        return Outcome(render_blocks_json(report), complete)
    return Outcome(render_blocks_text(report, options.width, _choose_markup(options)), complete, marked=True)


def diff(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak diff``: what changed between two states."""
    found = pipeline.compare_states(options.before, options.after, progress, options.symbols)
    rows = _choose_deltas(found, options)
    if options.format == "json":
        return Outcome(render_diff_json(found, rows), complete=True)
    return Outcome(render_diff_text(found, rows, options.width, _choose_markup(options)), complete=True, marked=True)


def _choose_deltas(found: Diff, options: Namespace) -> Tuple[TagDelta, ...]:
    """The rows of a diff that the options ask for."""
    wanted = [
        delta
        for delta in rank_deltas(found.deltas, options.sort)
        if options.pool in (None, delta.pool.value) and matches_any(options.tag, delta.tag)
    ]
    return tuple(wanted[: options.top])


def trend(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak trend``: which tag grows, how fast, until when."""
    lists = TagLists.load(options.pooltags)
    followed = pipeline.follow_files(options.logs, lists, options.every, options.mixed, progress)
    report = replace(followed.report, warnings=(*followed.unusable, *followed.report.warnings))
    complete = not followed.unusable
    if options.format == "json":
        return Outcome(render_trend_json(report), complete)
    described = lists.describe_tags(trend.tag for trend in report.trends)
    questions = {tag: item.next_question for tag, item in described.items() if item.next_question}
    text = render_trend_text(report, options.width, options.screen.unicode, questions, _choose_markup(options))
    return Outcome(text, complete, marked=True)


def record(options: Namespace, _progress: ReportProgress) -> Outcome:
    """``poolleak record``: samples of a live machine, or the recipe to take them with Windows' own tools."""
    if options.recipe:
        return Outcome(render_recipe(round(options.every), options.count, options.folder), complete=True)
    taken = 0
    try:
        for path in pipeline.record_samples(options.folder, options.every, options.count, options.symbols):
            taken += 1
            options.screen.write(f"{taken} of {options.count}: {path}\n")
    except (KeyboardInterrupt, SystemExit) as cause:
        text = f"stopped after {taken} of {options.count} samples; all of them are kept\n"
        return Outcome(text, complete=False, interrupted_by=cause if isinstance(cause, SystemExit) else None)
    return Outcome("", complete=True)


def snapshot(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak snapshot``: the state as a file."""
    with pipeline.open_source(options.source, progress, options.symbols) as source:
        state = source.snapshot
    return Outcome(render_snapshot_json(state), state.coverage.is_complete)


def setup_windbg(options: Namespace, _progress: ReportProgress) -> Outcome:
    """``poolleak setup-windbg``: what WinDbg needs, by what is found around this Python."""
    surroundings = read_surroundings()
    written = save_script(options.write, surroundings) if options.write else None
    return Outcome(render_setup(surroundings, written), complete=True)


def _choose_markup(options: Namespace) -> Markup:
    """The screen's, unless the output goes to a file."""
    markup: Markup = PLAIN if options.output else options.screen.markup
    return markup
