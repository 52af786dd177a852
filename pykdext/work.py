"""Long work and whoever waits for it: how far it is, and whether the user ended it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Iterator, Optional, Tuple

ReportProgress = Callable[[int, int, str], None]
"""Called now and then with what is done, what there is to do (in any unit), and a word for it."""


def ignore_progress(_done: int, _total: int, _what: str) -> None:
    """A :data:`ReportProgress` for those who do not watch."""


def ignore_words(_line: str) -> None:
    """For those who do not read along."""


def describe_progress(done: int, total: int, what: str) -> str:
    """``3 of 15 driver images``."""
    return f"{done:,} of {total:,} {what}"


class Work:
    """What every step of long work is handed.

    Attributes:
        cause: what ended the work before its time, to be raised again once the results are shown; None if nothing did.
    """

    def __init__(
        self,
        report: ReportProgress = ignore_progress,
        *,
        keeps_results: bool = False,
        tell: Callable[[str], None] = ignore_words,
    ) -> None:
        """``keeps_results``: an end by the user leaves what was found until then; else it goes its way.

        ``tell`` is handed a line where a step ends before its time.
        """
        self.cause: Optional[BaseException] = None
        self._report = report
        self._keeps_results = keeps_results
        self._tell = tell
        self._step: Optional[Tuple[int, int, str]] = None

    def report(self, done: int, total: int, what: str) -> None:
        """What :data:`ReportProgress` says, to whoever waits; a step that ends of itself reports its ``total`` last."""
        self._step = done, total, what
        self._report(done, total, what)

    def stop(self, reason: str) -> None:
        """Tell that the step at hand, if there is one, ends here, and why."""
        step, self._step = self._step, None
        if step is not None:
            self._tell(f"stopped after {describe_progress(*step)}: {reason}")

    @property
    def is_ended(self) -> bool:
        """Whether the user has ended the work."""
        return self.cause is not None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """End the block at once when the user wants it, by Ctrl-C or (in the debugger: SystemExit) by Ctrl-Break.

        The cause is kept if the work keeps results.
        """
        try:
            yield
        except (SystemExit, KeyboardInterrupt) as cause:
            if not self._keeps_results:
                raise
            self.cause = cause
            if self._step is not None and self._step[0] < self._step[1]:
                self.stop("interrupted")

    def whole(self) -> Work:
        """The same work for a step whose results are of no use in part: an end by the user goes its way."""
        return Work(self._report, tell=self._tell)


UNWATCHED = Work()
"""Work that nobody watches, and whose end by the user goes its way."""
