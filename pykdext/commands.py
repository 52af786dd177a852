"""What each command of the command line does: the sentence of the pipeline, and the form of its answer.

Each function is named like its command and takes the parsed options.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from typing import Tuple

from pykdext import pipeline
from pykdext.growth import rank_deltas
from pykdext.model import Diff, PoolKind, TagDelta
from pykdext.pipeline import TagLists
from pykdext.progress import ReportProgress
from pykdext.records.recipe import render_recipe
from pykdext.report.blocklist import render_blocks_text
from pykdext.report.difftext import render_diff_text
from pykdext.report.dumpsummary import render_summary_json, render_summary_text
from pykdext.report.growthdoc import render_diff_json, render_trend_json
from pykdext.report.jsondoc import render_blocks_json, render_owners_json, render_report_json, render_snapshot_json
from pykdext.report.plaintext import render_owners_text, render_report_text
from pykdext.report.tagtable import render_poolmon_text, render_poolused_text
from pykdext.report.trendtext import render_trend_text
from pykdext.selection import Selection, matches_any, select_tags, select_usages


@dataclass(frozen=True)
class Outcome:
    """The output of a command.

    ``complete`` is false if part of the input could not be used, ``usable`` if what was asked for is not in it.
    """

    text: str
    complete: bool
    usable: bool = True


def analyze(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak DUMP``: the verdict."""
    lists = TagLists.load(options.pooltags)
    try:
        with pipeline.open_source(options.source, progress, options.symbols) as source:
            report = pipeline.analyze(source, lists, progress, top=options.top)
    except pipeline.NoTagTablesError as error:
        render_summary = render_summary_json if options.format == "json" else render_summary_text
        return Outcome(render_summary(error.summary, options.width), complete=False, usable=False)
    text = render_report_json(report) if options.format == "json" else render_report_text(report, options.width)
    return Outcome(text, report.snapshot.coverage.is_complete)


def used(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak used``: the tag table."""
    pools = (PoolKind(options.pool),) if options.pool else tuple(PoolKind)
    selection = Selection(pools, tuple(options.tag), options.sort, options.top)
    with pipeline.open_source(options.source, progress, options.symbols) as source:
        snapshot = source.snapshot
    complete = snapshot.coverage.is_complete
    if options.format == "json":
        return Outcome(render_snapshot_json(snapshot, select_tags(snapshot, selection)), complete)
    lists = TagLists.load(options.pooltags)
    if options.view == "poolused":
        tags = select_tags(snapshot, selection)
        descriptions = lists.describe_tags(row.tag for row in tags)
        return Outcome(render_poolused_text(snapshot, tags, descriptions, options.width), complete)
    usages = select_usages(snapshot, selection)
    descriptions = lists.describe_tags(row.tag for row in usages)
    return Outcome(render_poolmon_text(snapshot, usages, descriptions, options.width), complete)


def find(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak find``: the owners of tags."""
    lists = TagLists.load(options.pooltags)
    with pipeline.open_source(options.source, progress, options.symbols) as source:
        answer = pipeline.find_owners(source, options.tags, lists, progress)
    if options.format == "json":
        return Outcome(render_owners_json(answer.tags, answer.warnings), complete=True)
    return Outcome(render_owners_text(answer.tags, answer.warnings, options.width), complete=True)


def blocks(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak blocks``: where a tag's blocks are."""
    with pipeline.open_source(options.source, progress, options.symbols) as source:
        report = pipeline.find_blocks(source, options.tag, options.top, progress)
    text = render_blocks_json(report) if options.format == "json" else render_blocks_text(report, options.width)
    return Outcome(text, complete=report.warnings == source.snapshot.warnings)


def diff(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak diff``: what changed between two states."""
    found = pipeline.compare_states(options.before, options.after, progress, options.symbols)
    rows = _choose_deltas(found, options)
    text = render_diff_json(found, rows) if options.format == "json" else render_diff_text(found, rows, options.width)
    return Outcome(text, complete=True)


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
    if options.format == "json":
        text = render_trend_json(report)
    else:
        described = lists.describe_tags(trend.tag for trend in report.trends)
        questions = {tag: item.next_question for tag, item in described.items() if item.next_question}
        text = render_trend_text(report, options.width, options.unicode, questions)
    return Outcome(text, complete=not followed.unusable)


def record(options: Namespace, _progress: ReportProgress) -> Outcome:
    """``poolleak record``: samples of a live machine, or the recipe to take them with Windows' own tools."""
    if options.recipe:
        return Outcome(render_recipe(round(options.every), options.count, options.folder), complete=True)
    taken = 0
    try:
        for path in pipeline.record_samples(options.folder, options.every, options.count, options.symbols):
            taken += 1
            sys.stdout.write(f"{taken} of {options.count}: {path}\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        return Outcome(f"stopped after {taken} of {options.count} samples; all of them are kept\n", complete=False)
    return Outcome("", complete=True)


def snapshot(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak snapshot``: the state as a file."""
    with pipeline.open_source(options.source, progress, options.symbols) as source:
        state = source.snapshot
    return Outcome(render_snapshot_json(state), state.coverage.is_complete)
