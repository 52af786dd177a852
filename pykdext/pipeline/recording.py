"""Sampling a live machine or session: every sample whole on disk at once."""

from __future__ import annotations

import os
import time
from typing import Callable, Iterator, Optional

from pykdext.errors import TargetError
from pykdext.model import PoolSnapshot
from pykdext.pipeline.sources import load_states
from pykdext.report.jsondoc import render_snapshot_json
from pykdext.wholefile import write_text

_LIVE_KINDS_THAT_STAND_STILL = ("live kernel session", "dump in the debugger")


def record_samples(
    folder: str,
    every_seconds: float,
    count: int,
    symbol_path: Optional[str] = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """Take ``count`` samples, one each ``every_seconds``; yields the path of each file once it is complete.

    Samples are due at fixed times from the first on; one that comes late moves no other.

    Raises:
        TargetError: there is no live machine here, or its clock stands still while the debugger looks at it.
        OSError: a file cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    started = clock()
    for number in range(count):
        wait = started + number * every_seconds - clock()
        if wait > 0:
            sleep(wait)
        snapshot = load_states(None, symbol_path=symbol_path)[-1]
        if snapshot.source.kind in _LIVE_KINDS_THAT_STAND_STILL:
            raise TargetError(
                f"recording: found a {snapshot.source.kind}, expected a machine that runs: it stands still while the "
                "debugger looks at it. Hint: record on the machine itself (poolleak record there), or in a local "
                "kernel session (windbg -kl)"
            )
        yield _save(snapshot, folder)


def _save(snapshot: PoolSnapshot, folder: str) -> str:
    stamp = f"{snapshot.taken_at:%Y%m%d-%H%M%S}" if snapshot.taken_at else f"{time.time():.0f}"
    path = os.path.join(folder, f"poolleak-{stamp}.json.gz")
    write_text(path, render_snapshot_json(snapshot))
    return path
