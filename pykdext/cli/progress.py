"""Progress of long work: a bar on a terminal after two seconds, lines in a debugger, nothing in a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Optional, Type

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SILENT_SECONDS = 2.0

LINE_SECONDS = 3.0
"""A command window keeps what is written: so often it gets a line."""


class TerminalProgress:
    """A report of :class:`pykdext.work.Work` that draws on standard error, as a context manager.

    Nothing is drawn, nor the drawing library imported, before ``SILENT_SECONDS`` have passed.
    """

    def __init__(self) -> None:
        self._enabled = sys.stderr is not None and sys.stderr.isatty()
        self._started = time.monotonic()
        self._bar: Optional[Progress] = None
        self._task: Optional[TaskID] = None

    def __call__(self, done: int, total: int, what: str) -> None:
        """Draw or move the bar, once the work has taken long enough to need one."""
        if not self._enabled or time.monotonic() - self._started < SILENT_SECONDS:
            return
        if self._bar is None or self._task is None:
            self._bar = _open_bar()
            self._task = self._bar.add_task(what)
        self._bar.update(self._task, completed=done, total=total, description=what)

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class LineProgress:
    """A report of :class:`pykdext.work.Work` that writes a line every few seconds, as a context manager."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line
        self._due = time.monotonic() + LINE_SECONDS

    def __call__(self, done: int, total: int, what: str) -> None:
        """Write how far the work is, if it is time."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + LINE_SECONDS
            self._write_line(f"{done:,} of {total:,} ({what}) ...")

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        """Lines stay."""


def _open_bar() -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    bar.start()
    return bar
