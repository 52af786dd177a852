"""Keeps a series of any length in bounded memory: evenly spread states of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable, List, NamedTuple, Optional, Tuple

from pykdext.model import PoolSnapshot
from pykdext.units import count_things

MOST_ROWS = 1_000_000
"""Of all states that are held: some 500 MB of values. A month of logs every 15 minutes has four times as many."""

_FEWEST_STATES = 800
"""So many states are always held: a trend is judged by half of them."""


class _Placed(NamedTuple):
    """A state and its place in the series, counted from 1."""

    place: int
    snapshot: PoolSnapshot


class EvenlySpread:
    """States of a series as they come, all of them or every second, fourth ... one, and always the last."""

    def __init__(self) -> None:
        self._kept: List[_Placed] = []
        self._last: Optional[_Placed] = None
        self._step = 1
        self._seen = self._place = self._rows = 0

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What a reader must know of what was left out."""
        if self._step == 1:
            return ()
        return (
            f"{count_things(self._seen, 'state')} are more than it takes: "
            f"one in {self._step} of them, evenly spread, is judged",
        )

    def add(self, snapshots: Iterable[PoolSnapshot]) -> None:
        """Take in the next states."""
        for snapshot in snapshots:
            self._place += 1 + snapshot.passed_over
            self._last = _Placed(self._place, snapshot)
            if self._seen % self._step == 0:
                self._kept.append(self._last)
                self._rows += len(snapshot.tags)
            self._seen += 1
            if self._rows > MOST_ROWS and len(self._kept) > _FEWEST_STATES:
                self._step *= 2
                self._kept = self._kept[::2]
                self._rows = sum(len(placed.snapshot.tags) for placed in self._kept)

    def states(self) -> Tuple[PoolSnapshot, ...]:
        """What is held, in the order in which it came."""
        if self._last is None:
            return ()
        held = self._kept if self._kept[-1] is self._last else [*self._kept, self._last]
        if self._step == 1:
            return tuple(placed.snapshot for placed in held)
        befores = (0, *(placed.place for placed in held))
        return tuple(
            replace(placed.snapshot, passed_over=placed.place - before - 1) for placed, before in zip(held, befores)
        )
