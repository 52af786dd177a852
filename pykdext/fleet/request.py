"""One batch from its paths to its answers: what is asked for, who reads, and where the answers are kept."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Iterator, NamedTuple, Optional, Tuple

from pykdext.errors import PykdextError
from pykdext.fleet.batch import run_batch, summarize_batch
from pykdext.fleet.hosts import AUTOMATIC, find_host
from pykdext.fleet.inputs import find_inputs
from pykdext.fleet.workers import open_dask_workers, open_local_workers
from pykdext.model.fleet import Answer, BatchSummary, DumpInput, DumpRow, Task
from pykdext.store.batches import Store, open_store
from pykdext.units import count_things
from pykdext.work import UNWATCHED, Work


@dataclass(frozen=True)
class BatchRequest:
    """What a batch is to do.

    Attributes:
        paths: files, folders, patterns, URLs. jobs: processes of this machine; None: one for each processor.
        scheduler: address of a Dask scheduler, whose workers read instead. store: file that keeps the answers; None:
        a temporary one. host_rule: as ``find_host`` knows them. again: read also what is stored and unchanged.
        timeout_seconds, top, pooltags, symbols: of each dump.
    """

    paths: Tuple[str, ...]
    timeout_seconds: float
    jobs: Optional[int] = None
    scheduler: Optional[str] = None
    store: Optional[str] = None
    host_rule: str = AUTOMATIC
    again: bool = False
    top: Optional[int] = None
    pooltags: Optional[str] = None
    symbols: Optional[str] = None


class Batch(NamedTuple):
    """The answers of a batch, which are read from its store when they are wanted."""

    summary: BatchSummary
    store: Store
    dumps: Tuple[DumpInput, ...]

    def iter_rows(self) -> Iterator[DumpRow]:
        """Each dump that was answered, in the order of the paths."""
        return self.store.load_rows(self.dumps)


@contextmanager
def open_batch(
    request: BatchRequest,
    work: Work = UNWATCHED,
) -> Iterator[Batch]:
    """Read all dumps of a request; its answers can be read within the block.

    Raises:
        PykdextError: no dump is named by the paths, or the store or the scheduler cannot be used at all.
    """
    found = find_inputs(request.paths)
    if not found.dumps:
        reason = "; ".join(found.warnings) or f"no dump among {count_things(found.passed_over, 'file')}"
        raise PykdextError(f"{', '.join(request.paths)}: found {reason}, expected dumps")
    with ExitStack() as opened:
        opened.enter_context(_ended_by_signal())
        path = request.store or os.path.join(opened.enter_context(_open_folder()), "batch.sqlite")
        store = opened.enter_context(open_store(path))
        if request.scheduler:
            workers = open_dask_workers(request.scheduler)
        else:
            workers = open_local_workers(request.jobs or os.cpu_count() or 1)
        with workers as crew:
            run = run_batch(
                found.dumps,
                crew,
                store,
                lambda dump: _make_task(request, dump),
                lambda dump, answer: _name_host(request, dump, answer),
                request.again,
                work,
            )
        yield Batch(summarize_batch(run, found, store), store, found.dumps)


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: children are ended, folders removed, and what was answered is kept."""
    if threading.current_thread() is not threading.main_thread():  # only there Python takes signals
        yield
        return
    previous = signal.signal(signal.SIGTERM, _raise_end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def _raise_end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _open_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="poolleak-")


def _make_task(request: BatchRequest, dump: DumpInput) -> Task:
    return Task(dump.location, request.timeout_seconds, request.top, request.pooltags, request.symbols)


def _name_host(request: BatchRequest, dump: DumpInput, answer: Answer) -> str:
    """The name in the snapshot, if it has one and no rule was given; else what the path tells."""
    named: Optional[str] = (answer.state or {}).get("host")
    return named if named and request.host_rule == AUTOMATIC else find_host(dump.location, request.host_rule)
