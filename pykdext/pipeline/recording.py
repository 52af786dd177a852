"""Sampling a live machine or session: every sample whole on disk at once."""

from __future__ import annotations

import os
import time
from typing import Callable, Iterator, Optional

from pykdext.model import PoolSnapshot
from pykdext.pipeline.sources import load_states
from pykdext.records.snapshotfile import render_snapshot_json
from pykdext.targets.session.debugger import is_in_debugger
from pykdext.targets.session.session import open_session
from pykdext.wholefile import write_text


def record_samples(
    folder: str,
    every_seconds: float,
    count: int,
    symbol_path: Optional[str] = None,
    let_pass: Optional[Callable[[float], None]] = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """Take ``count`` samples, one each ``every_seconds``; yields the path of each file once it is complete.

    Samples are due at fixed times from the first on; one that comes late moves no other. ``let_pass`` waits; None: as
    the machine at hand wants it, which may mean to resume it.

    Raises:
        TargetError: there is no live machine here, or it stopped by itself.
        OSError: a file cannot be written.
    """
    wait = let_pass or _choose_wait()
    started = clock()
    for number in range(count):
        seconds = started + number * every_seconds - clock()
        if seconds > 0:
            wait(seconds)
        snapshot = load_states(None, symbol_path=symbol_path)[-1]
        os.makedirs(folder, exist_ok=True)
        yield _save(snapshot, folder, number + 1)


def _choose_wait() -> Callable[[float], None]:
    if not is_in_debugger():
        return time.sleep
    session = open_session()
    session.let_pass(0)  # a dump is refused before its only state is recorded
    return session.let_pass


def _save(snapshot: PoolSnapshot, folder: str, number: int) -> str:
    """Write a sample to a file of its own: a clock that was put back does not replace an earlier recording's."""
    stamp = f"{snapshot.taken_at:%Y%m%d-%H%M%S}" if snapshot.taken_at else f"{time.time():.0f}"
    path = os.path.join(folder, f"poolleak-{stamp}-{number:04}.json.gz")
    again = 1
    while os.path.exists(path):
        again += 1
        path = os.path.join(folder, f"poolleak-{stamp}-{number:04}-{again}.json.gz")
    write_text(path, render_snapshot_json(snapshot))
    return path
