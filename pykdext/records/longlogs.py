"""Which states of a long log are read: a series is judged by some hundreds, and the others would only take memory."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Sequence, Tuple

from pykdext.model import PoolSnapshot
from pykdext.units import count_things

MOST_STATES = 800
"""Of a long log; twice as many as a trend is judged by, so that a part of a series still has enough."""

MOST_ROWS = 400_000
"""Of all states of a long log that are read: some 200 MB of values."""

_BYTES_A_ROW = 80
"""Of poolmon's rows, about."""


def choose_states(count: int, rows: int) -> Tuple[int, ...]:
    """The indexes of the states to read of ``count`` with ``rows`` in all: evenly spread, with first and last."""
    most = min(MOST_STATES, max(2, count * MOST_ROWS // max(rows, 1)))
    if rows <= MOST_ROWS or count <= most:
        return tuple(range(count))
    return tuple(place * (count - 1) // (most - 1) for place in range(most))


def estimate_rows(size_bytes: int) -> int:
    """How many rows a text of this size has, about."""
    return size_bytes // _BYTES_A_ROW


def note_passed_over(snapshots: Sequence[PoolSnapshot], places: Sequence[int], count: int) -> Tuple[PoolSnapshot, ...]:
    """The snapshots with the number of states before each that were not read; ``places``: theirs, among ``count``."""
    if not snapshots:
        return ()
    note = f"the log holds {count_things(count, 'state')}: {len(snapshots):,} of them, evenly spread, were read"
    noted: List[PoolSnapshot] = []
    before = -1
    for snapshot, place in zip(snapshots, places):
        noted.append(replace(snapshot, passed_over=place - before - 1))
        before = place
    return (replace(noted[0], warnings=(note, *noted[0].warnings)), *noted[1:])
