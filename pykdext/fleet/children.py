"""Reading a dump in a child process: one that crashes, or takes too long, is an answer like any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Optional, Set

from pykdext.fleet import worker
from pykdext.model.fleet import Answer, DumpStatus, Task
from pykdext.units import format_duration

_ATTEMPTS = 2
"""A process may be killed for no fault of its dump, when memory runs out; not twice."""

_FAREWELL_SECONDS = 5.0
"""For a killed process to be gone; one that hangs in a driver of the system is left behind."""

_PACKAGE_PARENT = str(Path(worker.__file__).resolve().parents[2])


class Children:
    """The child processes of one batch; all of them can be ended at once, from another thread."""

    def __init__(self) -> None:
        self._running: Set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def is_stopped(self) -> bool:
        """No more children are started."""
        return self._stopped

    @contextmanager
    def start(self) -> Iterator[subprocess.Popen[bytes]]:
        """A process that waits for its task; it is killed at the latest at the end of the block."""
        with self._lock:
            if self._stopped:
                raise ChildrenStoppedError
            child = subprocess.Popen(
                [sys.executable, worker.__file__, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": _extended_path()},
            )
            self._running.add(child)
        try:
            yield child
        finally:
            with self._lock:
                self._running.discard(child)
            child.kill()

    def stop(self) -> None:
        """Kill all children, and start no more."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.kill()


class ChildrenStoppedError(Exception):
    """The batch has ended: there is no answer."""


def analyze_apart(task: Task, children: Optional[Children] = None) -> Answer:
    """Read a dump in a child process. Whatever becomes of the process, there is an answer.

    Raises:
        ChildrenStoppedError: ``children`` were stopped.
    """
    family = children or Children()
    reason = ""
    for _ in range(_ATTEMPTS):
        started = time.monotonic()
        with family.start() as child:
            try:
                output, errors = child.communicate(json.dumps(task._asdict()).encode(), task.timeout_seconds)
            except subprocess.TimeoutExpired:
                return _end(child, task, time.monotonic() - started)
        if family.is_stopped:
            raise ChildrenStoppedError
        if child.returncode == 0:
            return Answer(**json.loads(output))
        reason = _describe_end(child.returncode, errors)
    error = f"{task.shown_path}: the process that reads it ended {_ATTEMPTS} times: {reason}"
    return Answer(DumpStatus.CRASHED.value, time.monotonic() - started, error=error)


def _end(child: subprocess.Popen[bytes], task: Task, seconds: float) -> Answer:
    """Kill a child that takes too long."""
    child.kill()
    with suppress(subprocess.TimeoutExpired):
        child.communicate(timeout=_FAREWELL_SECONDS)
    limit = format_duration(task.timeout_seconds)
    return Answer(DumpStatus.TIMED_OUT.value, seconds, error=f"{task.shown_path}: no answer within {limit}")


def _describe_end(status: int, errors: bytes) -> str:
    """How a process ended, and the last line it wrote."""
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    last = f" ({lines[-1]})" if lines else ""
    if status >= 0:
        return f"exit status {status}{last}"
    try:
        return f"{signal.Signals(-status).name}{last}"
    except ValueError:
        return f"signal {-status}{last}"


def _extended_path() -> str:
    """The child imports this very package, also where it is not installed."""
    return os.pathsep.join(filter(None, (_PACKAGE_PARENT, os.environ.get("PYTHONPATH"))))
