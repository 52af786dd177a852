"""What each command of the command line does: the sentence of the pipeline, and the form of its answer.

Each function is named like its command and takes the parsed options.
"""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Callable, Iterable, Iterator, List, Mapping, Optional, Tuple, TypeVar

from pykdext import pipeline
from pykdext.cli.origin import describe_origin
from pykdext.cli.redaction import Redactor
from pykdext.cli.windbgsetup import read_surroundings, render_setup, save_script
from pykdext.errors import PykdextError
from pykdext.growth import compare_snapshots, rank_deltas
from pykdext.model import Diff, DumpStatus, DumpSummary, PoolKind, PoolSnapshot, SnapshotSource, TagDelta
from pykdext.model.selection import Selection, matches_any, select_tags, select_usages
from pykdext.pipeline import TagLists
from pykdext.records.recipe import render_recipe
from pykdext.records.snapshotfile import render_snapshot_json
from pykdext.report import csvtext
from pykdext.report.blocklist import render_blocks_text
from pykdext.report.difftext import render_diff_text
from pykdext.report.dumpsummary import render_summary_json, render_summary_text
from pykdext.report.explaintext import render_explanation_json, render_explanation_text
from pykdext.report.growthdoc import render_diff_json, render_trend_json
from pykdext.report.jsondoc import render_blocks_json, render_owners_json, render_report_json
from pykdext.report.markup import PLAIN, Markup
from pykdext.report.plaintext import render_owners_text, render_report_text
from pykdext.report.tagtable import render_poolmon_text, render_poolused_text
from pykdext.report.trendtext import render_trend_text
from pykdext.targets.session.debugger import is_in_debugger
from pykdext.units import format_bytes
from pykdext.work import Work


@dataclass(frozen=True)
class Outcome:
    """The output of a command.

    ``complete`` is false if part of the input could not be used, ``usable`` if what was asked for is not in it.
    ``marked``: the text is in the markup of the screen; ``is_document``: it is the contents of a file, as it is.
    ``interrupted_by``: what ended the work before its time, to be raised once the text is shown.
    """

    text: str
    complete: bool
    usable: bool = True
    marked: bool = False
    is_document: bool = False
    interrupted_by: Optional[BaseException] = None


_Value = TypeVar("_Value")
_Forms = Mapping[str, Callable[[], str]]
"""What makes each form of an answer."""

_DOCUMENTS = ("csv", "html")

_PATH_OPTIONS = ("source", "before", "after", "output", "file", "pooltags", "symbols", "store")
_PATHS_OPTIONS = ("logs", "paths")


def analyze(options: Namespace, work: Work) -> Outcome:
    """``poolleak DUMP``: the verdict."""
    lists = TagLists.load(options.pooltags)
    try:
        with _open_source(options, work) as source:
            report = pipeline.analyze(source, lists, work, options.top)
    except pipeline.NoTagTablesError as error:
        return _answer_without_tables(options, error.summary)
    report, origin = _choose_redaction(options)((report, describe_origin(options)))
    forms: _Forms = {
        "text": lambda: render_report_text(report, options.width, _choose_markup(options)),
        "json": lambda: render_report_json(report),
        "csv": lambda: csvtext.render_suspects_csv(report.suspects),
        "html": lambda: _import_pages().render_report_page(report, origin),
    }
    return _answer(options, forms, report.snapshot.coverage.is_complete, work)


def _answer_without_tables(options: Namespace, found: DumpSummary) -> Outcome:
    """What ``poolleak DUMP`` can say of a dump without tag tables: no suspect, and why."""
    summary, origin = _choose_redaction(options)((found, describe_origin(options)))
    if options.format == "csv":
        options.screen.write_error(f"poolleak: no verdict: {summary.reason}")
    forms: _Forms = {
        "text": lambda: render_summary_text(summary, options.width, _choose_markup(options)),
        "json": lambda: render_summary_json(summary),
        "csv": lambda: csvtext.render_suspects_csv(()),
        "html": lambda: _import_pages().render_summary_page(summary, origin),
    }
    return replace(_answer(options, forms, complete=False), usable=False)


def used(options: Namespace, work: Work) -> Outcome:
    """``poolleak used``: the tag table."""
    pools = (PoolKind(options.pool),) if options.pool else tuple(PoolKind)
    selection = Selection(pools, tuple(options.tag), options.sort, options.top)
    with _open_source(options, work) as source:
        snapshot = source.snapshot
    forms: _Forms = {
        "text": lambda: _render_used_text(snapshot, selection, TagLists.load(options.pooltags), options),
        "json": lambda: _render_used_json(snapshot, selection),
        "csv": lambda: (
            csvtext.render_tags_csv(select_tags(snapshot, selection))
            if options.view == "poolused"
            else csvtext.render_usages_csv(select_usages(snapshot, selection))
        ),
    }
    return _answer(options, forms, snapshot.coverage.is_complete, work)


def _render_used_json(snapshot: PoolSnapshot, selection: Selection) -> str:
    """The chosen rows as a snapshot, which says so where it lacks others: it may be read again."""
    chosen, in_use = select_tags(snapshot, selection), len(select_tags(snapshot, Selection()))
    if len(chosen) < in_use:
        choice = f"{len(chosen):,} of {in_use:,} tags in use were chosen: whoever reads this again knows no others"
        snapshot = replace(snapshot, warnings=(*snapshot.warnings, choice))
    return render_snapshot_json(snapshot, chosen)


def _render_used_text(snapshot: PoolSnapshot, selection: Selection, lists: TagLists, options: Namespace) -> str:
    markup = _choose_markup(options)
    if options.view == "poolused":
        tags = select_tags(snapshot, selection)
        return render_poolused_text(snapshot, tags, lists.describe_tags(row.tag for row in tags), options.width, markup)
    usages = select_usages(snapshot, selection)
    return render_poolmon_text(snapshot, usages, lists.describe_tags(row.tag for row in usages), options.width, markup)


def find(options: Namespace, work: Work) -> Outcome:
    """``poolleak find``: the owners of tags."""
    lists = TagLists.load(options.pooltags)
    if options.explain:
        return _explain(options, lists)
    in_debugger = is_in_debugger()
    jobs = 1 if in_debugger else options.jobs  # there this Python has no program file to start again
    with ExitStack() as opened:
        kernel, subject = None, SnapshotSource("driver files", ", ".join(options.images))
        if options.source is not None or in_debugger or not options.images:
            source = opened.enter_context(_open_source(options, work))
            kernel, subject = source.kernel, source.snapshot.source
        answer = pipeline.find_owners(kernel, options.images, options.tags, lists, jobs, work, options.symbols)
    forms: _Forms = {
        "text": lambda: render_owners_text(
            subject, answer.tags, answer.warnings, options.width, _choose_markup(options)
        ),
        "json": lambda: render_owners_json(answer.tags, answer.warnings),
        "csv": lambda: csvtext.render_owners_csv(answer.tags),
    }
    return _answer(options, forms, answer.complete and work.cause is None, work)


def _explain(options: Namespace, lists: TagLists) -> Outcome:
    """``poolleak find --explain``: what the tag lists say, and why."""
    explained = [(tag, lists.look_up(tag)) for tag in options.tags]
    forms: _Forms = {
        "text": lambda: render_explanation_text(explained, options.width, _choose_markup(options)),
        "json": lambda: render_explanation_json(explained),
        "csv": lambda: csvtext.render_explanation_csv(explained),
    }
    return _answer(options, forms, complete=True)


def blocks(options: Namespace, work: Work) -> Outcome:
    """``poolleak blocks``: where a tag's blocks are."""
    with _open_source(options, work) as source:
        report = pipeline.find_blocks(source, options.tag, options.top, work)
    forms: _Forms = {
        "text": lambda: render_blocks_text(report, options.width, _choose_markup(options)),
        "json": lambda: render_blocks_json(report),
        "csv": lambda: csvtext.render_blocks_csv(report),
    }
    return _answer(options, forms, report.warnings == source.snapshot.warnings, work)


def diff(options: Namespace, work: Work) -> Outcome:
    """``poolleak diff``: what changed between two states. Half of a state is compared with nothing."""
    sides = pipeline.load_sides(options.before, options.after, work, options.symbols)
    if work.cause is not None:
        names = options.before, options.after or "the session or machine"
        unread = " and ".join(names[len(sides) :])
        options.screen.write_error(f"poolleak: nothing is compared: interrupted before {unread} was read")
        raise work.cause
    found, origin = _choose_redaction(options)((compare_snapshots(*sides), describe_origin(options)))
    rows = _choose_deltas(found, options)
    forms: _Forms = {
        "text": lambda: render_diff_text(found, rows, options.width, _choose_markup(options)),
        "json": lambda: render_diff_json(found, rows),
        "csv": lambda: csvtext.render_deltas_csv(rows),
        "html": lambda: _import_pages().render_diff_page(found, rows, origin),
    }
    return _answer(options, forms, complete=True)


def _choose_deltas(found: Diff, options: Namespace) -> Tuple[TagDelta, ...]:
    """The rows of a diff that the options ask for."""
    wanted = [
        delta
        for delta in rank_deltas(found.deltas, options.sort)
        if options.pool in (None, delta.pool.value) and matches_any(options.tag, delta.tag)
    ]
    return tuple(wanted[: options.top])


def trend(options: Namespace, work: Work) -> Outcome:
    """``poolleak trend``: which tag grows, how fast, until when."""
    lists = TagLists.load(options.pooltags)
    followed = pipeline.follow_files(options.logs, lists, options.every, options.mixed, work)
    report, origin = _choose_redaction(options, pipeline.find_logs(options.logs).files)(
        (
            replace(followed.report, warnings=(*followed.unusable, *followed.report.warnings)),
            describe_origin(options),
        )
    )
    described = lists.describe_tags(trend.tag for trend in report.trends)
    questions = {tag: item.next_question for tag, item in described.items() if item.next_question}
    forms: _Forms = {
        "text": lambda: render_trend_text(
            report, options.width, options.screen.unicode, questions, _choose_markup(options)
        ),
        "json": lambda: render_trend_json(report),
        "csv": lambda: csvtext.render_trends_csv(report.trends),
        "html": lambda: _import_pages().render_trend_page(report, questions, origin),
    }
    return _answer(options, forms, not followed.unusable, work)


def record(options: Namespace, _work: Work) -> Outcome:
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


def snapshot(options: Namespace, work: Work) -> Outcome:
    """``poolleak snapshot``: the state as a file. It serves comparisons, so that a half-read state is not written."""
    with work.hold(), _open_source(options, work.whole()) as source:
        state = source.snapshot
    if work.cause is not None:
        options.screen.write_error(f"poolleak: interrupted before the state was read: {options.output} is not written")
        raise work.cause
    return Outcome(render_snapshot_json(state), state.coverage.is_complete)


def batch(options: Namespace, work: Work) -> Outcome:
    """``poolleak batch``: what many dumps have in common. It is written piece by piece, as it may be large."""
    from pykdext.fleet.request import BatchRequest, open_batch
    from pykdext.report.batchdoc import iter_batch_csv, iter_batch_json
    from pykdext.report.batchtext import render_batch_text
    from pykdext.wholefile import write_pieces

    if is_in_debugger():
        raise PykdextError("batch: found a debugger, expected a shell: it starts processes of its own")
    request = BatchRequest(
        paths=tuple(options.paths),
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
    with open_batch(request, work) as found:
        redact = _choose_redaction(options)
        summary, origin = redact((found.summary, describe_origin(options)))
        rows = map(redact, found.iter_rows())
        pieces: Iterable[str]
        if options.format == "json":
            pieces = iter_batch_json(summary, rows)
        elif options.format == "csv":
            pieces = iter_batch_csv(rows)
        elif options.format == "html":
            pieces = _import_pages().iter_batch_page(summary, rows, origin)
        else:
            pieces = (render_batch_text(summary, rows, options.width),)
        if options.file:
            write_pieces(options.file, pieces)
        else:
            write = options.screen.write_document if options.format in _DOCUMENTS else options.screen.write
            for piece in pieces:
                write(piece)
    complete = summary.by_status[DumpStatus.DONE] == summary.dumps and not summary.warnings
    return Outcome("", complete, usable=summary.hosts > 0, interrupted_by=work.cause)


def history(options: Namespace, _work: Work) -> Outcome:
    """``poolleak history``: stored tags over the weeks."""
    from pykdext.report.batchdoc import render_history_csv, render_history_json
    from pykdext.report.historytext import render_history_text
    from pykdext.store.states import load_history

    lines = load_history(options.store, options.subject)
    if options.format == "json":
        return Outcome(render_history_json(lines, options.subject), complete=True)
    if options.format == "csv":
        return Outcome(render_history_csv(lines), complete=True, is_document=True)
    return Outcome(render_history_text(lines, options.width, options.screen.unicode, options.top), complete=True)


def schema(options: Namespace, _work: Work) -> Outcome:
    """``poolleak schema``: the JSON Schema of a document, or the names of all."""
    from pykdext.report.schemas import iter_schema_names, load_schema

    if options.name is None:
        return Outcome("".join(f"{name}\n" for name in iter_schema_names()), complete=True)
    text = load_schema(options.name)
    if text is None:
        known = ", ".join(iter_schema_names())
        raise PykdextError(f"schema: found {options.name!r}, expected one of {known}")
    return Outcome(text, complete=True)


def setup_windbg(options: Namespace, _work: Work) -> Outcome:
    """``poolleak setup-windbg``: what WinDbg needs, by what is found around this Python."""
    surroundings = read_surroundings()
    written = save_script(options.write, surroundings) if options.write else None
    return Outcome(render_setup(surroundings, written), complete=True)


def _answer(options: Namespace, forms: _Forms, complete: bool, work: Optional[Work] = None) -> Outcome:
    """The answer in the form that the options ask for."""
    return Outcome(
        forms[options.format](),
        complete,
        marked=options.format == "text",
        is_document=options.format in _DOCUMENTS,
        interrupted_by=work.cause if work else None,
    )


def _import_pages() -> ModuleType:
    """The pages, whose libraries are an extra: only what makes one needs them."""
    from pykdext.report import html

    return html


def _choose_redaction(options: Namespace, paths: Iterable[str] = ()) -> Callable[[_Value], _Value]:
    """What takes the names of machines and folders out of values, if the options ask for it.

    ``paths`` are names that texts may mention, beside those that were typed.
    """
    if not options.redact:
        return lambda value: value
    typed = vars(options)
    names: List[str] = [typed[name] for name in _PATH_OPTIONS if typed.get(name)]
    names += [path for name in _PATHS_OPTIONS for path in typed.get(name, ())]
    return Redactor([*names, *paths]).redact


@contextmanager
def _open_source(options: Namespace, work: Work) -> Iterator[pipeline.Source]:
    """The source of the options; at the end a line tells what it cost over a network."""
    with pipeline.open_source(options.source, work, options.symbols) as source:
        yield source
        if source.traffic:
            size = format_bytes(source.traffic.dump_bytes)
            options.screen.write_error(f"{format_bytes(source.traffic.fetched_bytes)} of {size} were fetched")


def _choose_markup(options: Namespace) -> Markup:
    """The screen's, unless the output goes to a file."""
    markup: Markup = PLAIN if options.output else options.screen.markup
    return markup
