"""Who reads the dumps of a batch: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Iterator, Protocol

from pykdext.errors import PykdextError, say_install
from pykdext.fleet.children import Children, analyze_apart
from pykdext.model.fleet import Answer, Task

_CONNECT_SECONDS = 15.0
_CLIENT_LOGS = ("distributed", "distributed.client", "tornado.application")


class Workers(Protocol):
    """An executor of tasks."""

    @property
    def capacity(self) -> int:
        """How many dumps are read at the same time."""

    def submit(self, task: Task) -> Future[Answer]:
        """Read a dump as soon as there is room."""


class SchedulerError(PykdextError):
    """A Dask scheduler that cannot be used."""


class _LocalWorkers:
    """A thread for each process: it only waits for it."""

    def __init__(self, jobs: int, children: Children) -> None:
        self.capacity = jobs
        self._children = children
        self._threads = ThreadPoolExecutor(jobs, "dump")

    def submit(self, task: Task) -> Future[Answer]:
        return self._threads.submit(analyze_apart, task, self._children)

    def stop(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


class _DaskWorkers:
    """Dask's own executor; each of its workers reads a dump in a child process, as this machine does."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)

    @property
    def capacity(self) -> int:
        threads: int = sum(self._client.nthreads().values())
        return max(1, threads)

    def submit(self, task: Task) -> Future[Answer]:
        future: Future[Answer] = self._executor.submit(analyze_apart, task)
        return future

    def stop(self) -> None:
        self._executor.shutdown(wait=False)


@contextmanager
def open_local_workers(jobs: int) -> Iterator[Workers]:
    """``jobs`` processes of this machine at the same time; at the end those still running are killed."""
    children = Children()
    workers = _LocalWorkers(jobs, children)
    try:
        yield workers
    finally:
        children.stop()
        workers.stop()


@contextmanager
def open_dask_workers(address: str) -> Iterator[Workers]:
    """The workers of the cluster at ``address`` (``tcp://host:8786``); at the end what is unfinished is cancelled.

    Raises:
        SchedulerError: ``distributed`` is not installed, nobody answers there, or the cluster has no worker.
    """
    try:
        from distributed import Client
    except ImportError:
        hint = say_install("fleet")
        raise SchedulerError(f"{address}: distributed is not installed. Hint: {hint}") from None
    with ExitStack() as opened:
        opened.enter_context(_silence_client())
        _check_scheduler(address)
        try:
            client: Any = opened.enter_context(Client(address, timeout=_CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            raise SchedulerError(f"{address}: no Dask scheduler answers: {error}") from error
        try:
            client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except asyncio.TimeoutError:  # before Python 3.11 not the builtin one
            hint = f"start some with: dask worker {address}"
            raise SchedulerError(f"{address}: found a scheduler without workers. Hint: {hint}") from None
        workers = _DaskWorkers(client)
        try:
            yield workers
        finally:
            workers.stop()


def _check_scheduler(address: str) -> None:
    """Shake hands once: Dask's client waits on and on for whoever takes a connection and is no scheduler.

    Raises:
        SchedulerError: nobody is there, or somebody else.
    """
    from distributed.comm import connect

    async def greet() -> None:
        comm = await asyncio.wait_for(connect(address, timeout=_CONNECT_SECONDS), _CONNECT_SECONDS + 1)
        comm.abort()

    try:
        asyncio.run(greet())
    except (OSError, ValueError, asyncio.TimeoutError) as error:
        reason = str(error) or "whoever is there does not say who it is"
        raise SchedulerError(f"{address}: no Dask scheduler answers: {reason}") from error
    except Exception as error:  # what a stranger sends may break any part of the protocol's reader
        raise SchedulerError(f"{address}: found somebody who is no Dask scheduler ({type(error).__name__})") from error


@contextmanager
def _silence_client() -> Iterator[None]:
    """Keep Dask's client from writing tracebacks of what the batch tells in one line."""
    logs = [logging.getLogger(name) for name in _CLIENT_LOGS]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for log, level in zip(logs, levels):
            log.setLevel(level)
