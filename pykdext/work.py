"""Long work and whoever waits for it: how far it is, and whether the user ended it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Iterator, Optional

ReportProgress = Callable[[int, int, str], None]
"""Called now and then with what is done, what there is to do (in any unit), and a word for it."""


def ignore_progress(_done: int, _total: int, _what: str) -> None:
    """A :data:`ReportProgress` for those who do not watch."""


class Work:
    """What every step of long work is handed.

    Attributes:
        report: the :data:`ReportProgress` of whoever waits.
        cause: what ended the work before its time, to be raised again once the results are shown; None if nothing did.
    """

    def __init__(self, report: ReportProgress = ignore_progress, *, keeps_results: bool = False) -> None:
        """``keeps_results``: an end by the user leaves what was found until then; else it goes its way."""
        self.report = report
        self.cause: Optional[BaseException] = None
        self._keeps_results = keeps_results

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

    def whole(self) -> Work:
        """The same work for a step whose results are of no use in part: an end by the user goes its way."""
        return Work(self.report)


UNWATCHED = Work()
"""Work that nobody watches, and whose end by the user goes its way."""
