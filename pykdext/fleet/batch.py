"""Reads the dumps of a batch with any workers, and keeps each answer as it comes.

No more than a few dumps are on their way at any time, and what is answered is in the store, not in memory: it does not
matter how many dumps there are.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from pykdext.fleet.common import find_common
from pykdext.fleet.inputs import FoundInputs
from pykdext.fleet.workers import Workers
from pykdext.model.fleet import Answer, BatchSummary, DumpInput, DumpRow, DumpStatus, Task
from pykdext.store.batches import Store
from pykdext.store.database import StoreError
from pykdext.work import UNWATCHED, Work

AHEAD = 2
"""So many times the workers' capacity is on its way: nobody waits, and little is lost when all is ended."""

_LOST = "the cluster's scheduler went away: what it had answered is kept, run the same command again"
_PROGRESS_SECONDS = 1.0

MakeTask = Callable[[DumpInput], Task]
NameHost = Callable[[DumpInput, Answer], str]


@dataclass
class BatchRun:
    """How the reading went: ``reused`` dumps were stored before; ``cause`` is why it ended early, or None."""

    dumps: Tuple[DumpInput, ...]
    reused: int = 0
    read: int = 0
    seconds: float = 0.0
    fetched_bytes: int = 0
    cause: Optional[str] = None


def run_batch(
    dumps: Sequence[DumpInput],
    workers: Workers,
    store: Store,
    make_task: MakeTask,
    name_host: NameHost,
    again: bool = False,
    work: Work = UNWATCHED,
) -> BatchRun:
    """Read all dumps that are not in the store, or with ``again`` all.

    An end by the user, a full disk or a scheduler that goes away leaves what was answered until then in the store.
    """
    run = BatchRun(tuple(dumps))
    reading = _Reading(run, workers, store, make_task, name_host, work)
    started = time.monotonic()
    with work.hold():
        try:
            reading.read_all(dumps if again else reading.iter_new(dumps))
        except StoreError as error:
            run.cause = str(error)
        except CancelledError:
            run.cause = _LOST
    run.seconds = time.monotonic() - started
    return run


class _Reading:
    """The dumps that are on their way."""

    def __init__(
        self,
        run: BatchRun,
        workers: Workers,
        store: Store,
        make_task: MakeTask,
        name_host: NameHost,
        work: Work,
    ) -> None:
        self._run = run
        self._workers = workers
        self._store = store
        self._make_task = make_task
        self._name_host = name_host
        self._report = work.report
        self._started = time.monotonic()
        self._on_their_way: Dict[Future[Answer], DumpInput] = {}

    def iter_new(self, dumps: Sequence[DumpInput]) -> Iterator[DumpInput]:
        """The dumps that are not stored as they are now."""
        for dump in dumps:
            if self._store.holds(dump):
                self._run.reused += 1
            else:
                yield dump

    def read_all(self, dumps: Iterable[DumpInput]) -> None:
        """Keep the workers busy until every dump is answered."""
        waiting = iter(dumps)
        while True:
            room = AHEAD * self._workers.capacity - len(self._on_their_way)
            for dump in islice(waiting, max(room, 0)):  # a cluster may lose workers
                self._on_their_way[self._workers.submit(self._make_task(dump))] = dump
            if not self._on_their_way:
                return
            done, _ = wait(self._on_their_way, timeout=_PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
            self._take(done)
            self._tell_progress()

    def _take(self, done: Set[Future[Answer]]) -> None:
        for future in done:
            dump = self._on_their_way.pop(future)
            answer = _take_answer(future, dump)
            self._store.save(dump, self._name_host(dump, answer), answer)
            self._run.read += 1
            self._run.fetched_bytes += answer.fetched_bytes or 0

    def _tell_progress(self) -> None:
        minutes = (time.monotonic() - self._started) / 60
        rate = f", {self._run.read / minutes:.0f} a minute" if self._run.read and minutes else ""
        self._report(self._run.reused + self._run.read, len(self._run.dumps), f"dumps{rate}")


def _take_answer(future: Future[Answer], dump: DumpInput) -> Answer:
    """The answer of a worker. A cluster gives up on a task whose workers died several times: that is one too."""
    error = future.exception()
    if error is None:
        return future.result()
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Answer(DumpStatus.CRASHED.value, 0.0, error=f"{dump.path}: {reason}")


def summarize_batch(run: BatchRun, found: FoundInputs, store: Store) -> BatchSummary:
    """What a batch came to, from what is stored of its dumps."""
    by_status = dict.fromkeys(DumpStatus, 0)
    hosts: Set[str] = set()
    uncounted: Set[str] = set()

    def count(rows: Iterator[DumpRow]) -> Iterator[DumpRow]:
        for row in rows:
            by_status[row.status] += 1
            if row.status.has_report:
                hosts.add(row.host)
            if row.verdict is not None and row.verdict.lacks_counts:
                uncounted.add(row.path)
            yield row

    common = find_common(count(store.load_rows(run.dumps)))
    warnings: List[str] = [*found.warnings, *([run.cause] if run.cause else [])]
    return BatchSummary(
        dumps=len(run.dumps),
        reused=run.reused,
        by_status=by_status,
        hosts=len(hosts),
        seconds=run.seconds,
        fetched_bytes=run.fetched_bytes,
        unfinished=len(run.dumps) - sum(by_status.values()),
        common=common,
        warnings=tuple(warnings),
        uncounted=len(uncounted),
    )
