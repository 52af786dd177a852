"""Where output goes: a terminal, a pipe, or the command window of a debugger."""

from __future__ import annotations

import ntpath
import os
import shutil
import sys
import textwrap
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Optional, Protocol, Type

from pykdext.printable import make_printable, make_readable
from pykdext.report.dml import OWN_COMMAND, Dml, iter_pieces
from pykdext.report.markup import PLAIN, AnsiMarkup, Markup
from pykdext.targets.session.debugger import find_debugger
from pykdext.work import describe_progress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_WINDOW_COLUMNS, _WINDOW_LINES = 100, 25

SILENT_SECONDS = 2.0

LINE_SECONDS = 3.0
"""A command window keeps what is written: so often it gets a line."""


class Watch(Protocol):
    """How whoever waits sees progress: called as :data:`pykdext.work.ReportProgress` says."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show how far the work is."""

    def tell(self, line: str) -> None:
        """Show a line that stays: a step ended before its time."""


class Screen(Protocol):
    """What the commands know of the place they write to."""

    columns: int
    unicode: bool
    encoding: str
    """What characters it shows; a pipe and a debugger show ASCII."""
    markup: Markup
    takes_documents: bool
    """Whether what is written may be a file for a program: nobody reads along."""
    lines: Optional[int]
    """How many lines of what is written are seen at once; None: nobody pages, or nobody reads along."""

    def write(self, text: str, marked: bool = False) -> None:
        """Show text; ``marked``: it is in ``markup``."""

    def write_document(self, text: str) -> None:
        """The contents of a file with line ends of its own."""

    def write_error(self, line: str) -> None:
        """Show a line beside the output."""

    def watch(self) -> ContextManager[Watch]:
        """Show the progress of what is done in the block."""


class TerminalScreen:
    """Standard output and standard error."""

    markup: Markup = PLAIN

    def __init__(self, color: Optional[bool] = None) -> None:
        """``color``: None where a terminal knows it and the user has not set NO_COLOR."""
        size = shutil.get_terminal_size((_WINDOW_COLUMNS, _WINDOW_LINES))
        self.columns = size.columns
        is_terminal = sys.stdout.isatty()
        self.takes_documents = not is_terminal
        self.lines = size.lines if is_terminal else None
        self.encoding = (sys.stdout.encoding or "ascii").lower() if is_terminal else "ascii"
        self.unicode = self.encoding.startswith("utf")
        if color is None:
            color = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        if color and _takes_ansi(is_terminal):
            self.markup = AnsiMarkup(self.encoding)

    def write(self, text: str, marked: bool = False) -> None:
        """Text with its marks, or harmless text."""
        is_ready = marked and self.markup is not PLAIN
        sys.stdout.write(text if is_ready else make_readable(text, self.encoding))
        sys.stdout.flush()

    def write_document(self, text: str) -> None:
        """UTF-8 as it is into a file or another program, harmless text for a person."""
        if self.takes_documents:
            sys.stdout.flush()
            sys.stdout.buffer.write(text.encode("utf-8"))
            sys.stdout.buffer.flush()
        else:
            self.write(text.replace("\r\n", "\n"))

    def write_error(self, line: str) -> None:
        """On standard error."""
        encoding = sys.stderr.encoding if sys.stderr.isatty() else "ascii"
        sys.stderr.write(make_readable(line, encoding or "ascii") + "\n")

    def watch(self) -> ContextManager[Watch]:
        """A bar."""
        return TerminalProgress()


class DebuggerScreen:
    """The command window of a debugger, by pykd: DML in pieces, 100 columns, no cursor to move."""

    columns = _WINDOW_COLUMNS
    lines: Optional[int] = None
    unicode = False
    encoding = "ascii"
    takes_documents = False

    def __init__(self, pykd: Any) -> None:
        self._pykd = pykd
        self.markup: Markup = Dml(_find_own_command())

    def write(self, text: str, marked: bool = False) -> None:
        """Piece by piece, as pykd cuts what is long."""
        for piece in iter_pieces(make_printable(text), marked):
            self._pykd.dprint(piece, marked)

    def write_document(self, text: str) -> None:
        """Text like any other."""
        self.write(text.replace("\r\n", "\n"))

    def write_error(self, line: str) -> None:
        """Text like any other: there is one window. It has no room for long lines."""
        folded = textwrap.wrap(make_printable(line), self.columns, subsequent_indent="  ", break_on_hyphens=False)
        self.write("".join(f"{part}\n" for part in folded))

    def watch(self) -> ContextManager[Watch]:
        """A line every few seconds."""
        return LineProgress(self.write_error)


def open_screen(color: Optional[bool] = None) -> Screen:
    """The debugger's command window if one runs this script, else standard output; ``color``: None: where it fits."""
    pykd = find_debugger()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # a shell closed it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the life of the process
    return TerminalScreen(color) if pykd is None else DebuggerScreen(pykd)


def _takes_ansi(is_terminal: bool) -> bool:
    """Whether escape sequences are understood; Windows' console has to be told to, which this does."""
    if sys.platform != "win32" or not is_terminal:
        return True
    import ctypes

    kernel = ctypes.windll.kernel32
    handle, mode = kernel.GetStdHandle(-11), ctypes.c_ulong()
    processed_and_virtual = 0x1 | 0x4
    known = kernel.GetConsoleMode(handle, ctypes.byref(mode))
    return bool(known and kernel.SetConsoleMode(handle, mode.value | processed_and_virtual))


def silence_output() -> None:
    """Let standard output lead nowhere: its reader went away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _find_own_command() -> str:
    """What was typed to start this: ``!py -m pykdext`` works without the scripts folder on PATH."""
    return "!py -m pykdext" if ntpath.basename(sys.argv[0]) == "__main__.py" else OWN_COMMAND


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

    def tell(self, line: str) -> None:
        """A line above the bar, if there is one: who has not waited reads it in the answer."""
        if self._bar is not None:
            self._bar.console.print(make_printable(line), markup=False, highlight=False, soft_wrap=True)

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
        self._has_written = False

    def __call__(self, done: int, total: int, what: str) -> None:
        """Write how far the work is, if it is time."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + LINE_SECONDS
            self._has_written = True
            self._write_line(f"{describe_progress(done, total, what)} ...")

    def tell(self, line: str) -> None:
        """A line, if there was one before: who has not waited reads it in the answer."""
        if self._has_written:
            self._write_line(line)

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
