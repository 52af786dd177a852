"""poolleak for programs: what the command line does as functions, whose answers are the values of ``pykdext.model``.

``import pykdext`` offers these names, and imports them when one is used. :func:`to_dict` makes the JSON document of an
answer, as ``--format json`` writes it. Errors are PykdextError and OSError, of one line each.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Dict, Iterable, Optional, Tuple, Type, Union

from pykdext import pipeline
from pykdext.errors import TargetError
from pykdext.growth import compare_snapshots
from pykdext.model import BlockReport, Diff, DumpSummary, LeakReport, PoolSnapshot, PoolTag, TrendReport
from pykdext.model.fleet import BatchSummary, DumpRow
from pykdext.model.memory import MemoryReport
from pykdext.model.objects import HolderReport, ProcessReport

Path = Union[str, "os.PathLike[str]"]
Tag = Union[str, bytes, PoolTag]
"""A tag, its one to four characters, where ``\\xNN`` is a byte, or its one to four bytes in memory order.

Blanks behind may be left out.
"""


class OpenSource:
    """A dump, log, snapshot, store or image of a virtual machine, read as far as its tag table.

    It is a context manager; the file is open until it is closed. ``snapshot``: the pools, of a log its last state.
    """

    def __init__(
        self,
        path: Optional[Path] = None,
        *,
        pooltags: Optional[Path] = None,
        symbols: Optional[str] = None,
        needs_tags: bool = True,
    ) -> None:
        self._lists = pipeline.TagLists.load(_text(pooltags))
        self._symbols = symbols
        self._opened = ExitStack()
        self._opened_source: Optional[pipeline.Source] = self._opened.enter_context(
            pipeline.open_source(_text(path), symbol_path=symbols, needs_tags=needs_tags)
        )
        self.snapshot: PoolSnapshot = self._opened_source.snapshot

    def __enter__(self) -> OpenSource:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; ``snapshot`` stays."""
        self._opened_source = None
        self._opened.close()

    @property
    def _source(self) -> pipeline.Source:
        """What was opened; TargetError once it is closed."""
        if self._opened_source is None:
            name = self.snapshot.source.path or "session"
            raise TargetError(f"{name}: found a closed source, expected an open one. Hint: ask before its with ends")
        return self._opened_source

    def analyze(self, top: Optional[int] = 5) -> LeakReport:
        """The verdict, with the ``top`` suspects; None: all. TargetError where the tags cannot be read."""
        if self._source.lacks:
            raise TargetError(self._source.lacks)
        return pipeline.analyze(self._source, self._lists, top=top)

    def find(self, tags: Union[Tag, Iterable[Tag]], images: Iterable[Path] = (), jobs: int = 1) -> pipeline.FoundOwners:
        """Who owns these tags, by the drivers in memory and the driver files of ``images``, read by ``jobs`` processes.

        ValueError for what is no tag.
        """
        files = [os.fspath(path) for path in images]
        return pipeline.find_owners(
            self._source.kernel,
            files,
            _parse_tags(tags),
            self._lists,
            jobs,
            symbol_path=self._symbols,
            snapshot=self.snapshot,
        )

    def blocks(self, tag: Tag, sample: int = 10) -> BlockReport:
        """Where the tag's blocks are, ``sample`` of them with their first bytes; TargetError without memory."""
        return pipeline.find_blocks(self._source, _parse_tags(tag)[0], sample)

    def holders(self, tag: Tag) -> HolderReport:
        """Who holds the objects of the tag: processes, references, lookaside lists; TargetError without memory."""
        from pykdext.pipeline.holders import find_holders

        return find_holders(self._source, _parse_tags(tag)[0])

    def processes(self, order: str = "handles", top: Optional[int] = None) -> ProcessReport:
        """The processes with most of ``handles``, ``pool``, ``commit`` or ``zombies``; TargetError without memory."""
        from pykdext.pipeline.holders import list_processes

        return list_processes(self._source, order, top)

    def memory(self, *, whole: bool = False) -> MemoryReport:
        """Where the memory of the machine is; ``whole``: every page frame is counted, not a sample of them."""
        from pykdext.pipeline.memory import report_memory

        return report_memory(self._source, sampled=not whole)


@dataclass(frozen=True)
class BatchAnswer:
    """What many dumps came to: all in all, and each of them."""

    summary: BatchSummary
    rows: Tuple[DumpRow, ...]


def open_source(
    path: Optional[Path] = None,
    *,
    pooltags: Optional[Path] = None,
    symbols: Optional[str] = None,
    needs_tags: bool = True,
) -> OpenSource:
    """Open a source, recognised by its content; None: the debugger's session, or the live machine.

    ``pooltags``: a tag list. ``symbols``: a symbol path; None: that of the environment. Without ``needs_tags`` a dump
    is opened whose tag tables cannot be read, too: for its processes and holders.
    """
    return OpenSource(path, pooltags=pooltags, symbols=symbols, needs_tags=needs_tags)


def analyze(
    path: Optional[Path] = None,
    *,
    top: Optional[int] = 5,
    pooltags: Optional[Path] = None,
    symbols: Optional[str] = None,
) -> LeakReport:
    """The verdict on a source: who leaks, how much, which driver."""
    with open_source(path, pooltags=pooltags, symbols=symbols) as source:
        return source.analyze(top)


def find(
    tags: Union[Tag, Iterable[Tag]], images: Iterable[Path], *, jobs: int = 1, symbols: Optional[str] = None
) -> pipeline.FoundOwners:
    """Who owns these tags by driver files alone; in a dump: ``open(path).find(tags)``."""
    files = [os.fspath(path) for path in images]
    return pipeline.find_owners(None, files, _parse_tags(tags), pipeline.TagLists.load(), jobs, symbol_path=symbols)


def diff(before: Path, after: Optional[Path] = None, *, symbols: Optional[str] = None) -> Diff:
    """What changed between two sources; without ``after`` up to the session or live machine."""
    first, last = pipeline.load_sides(os.fspath(before), _text(after), symbol_path=symbols)
    return compare_snapshots(first, last)


def trend(
    paths: Union[Path, Iterable[Path]],
    *,
    every_seconds: Optional[float] = None,
    mixed: bool = False,
    pooltags: Optional[Path] = None,
) -> TrendReport:
    """Which tags grow over a series of logs, snapshots or dumps: files, folders, patterns.

    ``every_seconds``: the time between samples that bear none. ``mixed``: several machines are one series.
    """
    lists = pipeline.TagLists.load(_text(pooltags))
    return pipeline.follow_files(_texts(paths), lists, every_seconds, mixed).report


def batch(
    paths: Union[Path, Iterable[Path]],
    *,
    jobs: Optional[int] = None,
    store: Optional[Path] = None,
    top: Optional[int] = 5,
    timeout_seconds: float = 1800.0,
) -> BatchAnswer:
    """What many dumps have in common; ``jobs`` at the same time, kept in ``store``, a SQLite file, if there is one."""
    from pykdext.fleet.request import BatchRequest, open_batch

    request = BatchRequest(_texts(paths), timeout_seconds, jobs, store=_text(store), top=top)
    with open_batch(request) as found:
        return BatchAnswer(found.summary, tuple(found.iter_rows()))


def to_dict(answer: Any) -> Dict[str, Any]:
    """The JSON document of an answer (its ``schema`` says which); TypeError for what is none."""
    document: Dict[str, Any] = json.loads(_render(answer))
    return document


def _render(answer: Any) -> str:  # noqa: PLR0911 - one line for each answer
    from pykdext.records.snapshotfile import render_snapshot_json
    from pykdext.report import batchdoc, dumpsummary, growthdoc, holdersdoc, jsondoc, memorydoc

    if isinstance(answer, BatchAnswer):
        return "".join(batchdoc.iter_batch_json(answer.summary, answer.rows))
    if isinstance(answer, pipeline.FoundOwners):
        return jsondoc.render_owners_json(answer.tags, answer.warnings)
    if isinstance(answer, LeakReport):
        return jsondoc.render_report_json(answer)
    if isinstance(answer, BlockReport):
        return jsondoc.render_blocks_json(answer)
    if isinstance(answer, PoolSnapshot):
        return render_snapshot_json(answer)
    if isinstance(answer, Diff):
        conclusion = pipeline.conclude_diff(answer, answer.deltas, pipeline.TagLists.load())
        return growthdoc.render_diff_json(answer, conclusion)
    if isinstance(answer, TrendReport):
        return growthdoc.render_trend_json(answer, pipeline.conclude_series(answer, pipeline.TagLists.load()))
    if isinstance(answer, MemoryReport):
        return memorydoc.render_memory_json(answer)
    if isinstance(answer, HolderReport):
        return holdersdoc.render_holders_json(answer)
    if isinstance(answer, ProcessReport):
        return holdersdoc.render_processes_json(answer)
    if isinstance(answer, DumpSummary):
        return dumpsummary.render_summary_json(answer)
    raise TypeError(f"found {type(answer).__name__}, expected an answer of pykdext")


def _parse_tags(tags: Union[Tag, Iterable[Tag]]) -> Tuple[PoolTag, ...]:
    return tuple(map(_parse_tag, (tags,) if isinstance(tags, (str, bytes, PoolTag)) else tags))


def _parse_tag(tag: Tag) -> PoolTag:
    if isinstance(tag, PoolTag):
        return tag
    if isinstance(tag, str):
        return PoolTag.from_text(tag)
    if not isinstance(tag, bytes):
        raise ValueError(f"tag {tag!r}: found {type(tag).__name__}, expected text, bytes or a PoolTag")
    if not 1 <= len(tag) <= 4:
        raise ValueError(f"tag {tag!r}: a pool tag has 1 to 4 bytes")
    return PoolTag(tag.ljust(4))


def _text(path: Optional[Path]) -> Optional[str]:
    return None if path is None else os.fspath(path)


def _texts(paths: Union[Path, Iterable[Path]]) -> Tuple[str, ...]:
    several = (paths,) if isinstance(paths, (str, os.PathLike)) else tuple(paths)
    return tuple(os.fspath(path) for path in several)
