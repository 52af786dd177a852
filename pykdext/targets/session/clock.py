"""Letting time pass in a debugger's session: a local kernel runs on by itself, a remote one must be resumed."""

from __future__ import annotations

import threading
import time
from typing import Any

from pykdext.errors import TargetError

SLICE_SECONDS = 0.2
"""Ctrl-Break reaches Python between two calls: no sleep is longer than this."""

EARLY_SECONDS = 1.0
"""A machine that stops so long before its time was stopped by something else: a breakpoint, a bugcheck, the user."""


def sleep_in_slices(seconds: float) -> None:
    """Sleep, and let Ctrl-Break end it at once."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SLICE_SECONDS))


def run_machine(pykd: Any, seconds: float) -> None:
    """Resume a remote machine for ``seconds`` and break into it again, so that it is left stopped, as it was found.

    Also after Ctrl-Break, which stops the machine by itself: then its SystemExit goes on from here.

    Raises:
        TargetError: the machine stopped early by something else; it is not resumed again.
    """
    started = time.monotonic()
    alarm = threading.Timer(seconds, pykd.breakin)
    alarm.daemon = True
    alarm.start()
    try:
        pykd.go()
    except pykd.DbgException as error:
        raise TargetError(f"live session: the machine could not be resumed: {error}") from None
    finally:
        alarm.cancel()
    if time.monotonic() - started < seconds - EARLY_SECONDS:
        raise TargetError(
            "live session: the machine stopped before its time, at a breakpoint or a bugcheck. "
            "Hint: look at it with !analyze; what was recorded is kept"
        )
