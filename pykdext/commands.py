"""What each command of the command line does: the sentence of the pipeline, and the form of its answer.

Each function is named like its command and takes the parsed options.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

from pykdext import pipeline
from pykdext.model import PoolKind
from pykdext.pipeline import TagLists
from pykdext.progress import ReportProgress
from pykdext.report.blocklist import render_blocks_text
from pykdext.report.dumpsummary import render_summary_json, render_summary_text
from pykdext.report.jsondoc import render_blocks_json, render_owners_json, render_report_json, render_snapshot_json
from pykdext.report.plaintext import render_owners_text, render_report_text
from pykdext.report.tagtable import render_poolmon_text, render_poolused_text
from pykdext.selection import Selection, select_tags, select_usages


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


def snapshot(options: Namespace, progress: ReportProgress) -> Outcome:
    """``poolleak snapshot``: the state as a file."""
    with pipeline.open_source(options.source, progress, options.symbols) as source:
        state = source.snapshot
    return Outcome(render_snapshot_json(state), state.coverage.is_complete)
