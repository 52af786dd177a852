"""Work that the user ends, so that what was found until then is shown first."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, Optional


class Interruption:
    """Remembers that Ctrl-Break (in the debugger: SystemExit) or Ctrl-C ended the work.

    ``cause`` is None, or what must be raised again once the results are shown.
    """

    def __init__(self) -> None:
        self.cause: Optional[BaseException] = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """End the block at once when the user wants it, and keep the cause."""
        try:
            yield
        except (SystemExit, KeyboardInterrupt) as cause:
            self.cause = cause


@contextmanager
def hold(interruption: Optional[Interruption]) -> Iterator[None]:
    """``interruption.hold()``; with None an interruption goes its way."""
    if interruption is None:
        yield
        return
    with interruption.hold():
        yield


def is_interrupted(interruption: Optional[Interruption]) -> bool:
    """Whether the user has ended the work."""
    return interruption is not None and interruption.cause is not None
