"""Logs as ``poolmon -n`` writes them, hour by hour, of the server of the quiet scenario that begins to leak.

Run as ``python -m dumps.forge.poolmonlogs FOLDER``: the README's sample series.
"""

from __future__ import annotations

import math
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

HOURS = 36
_START = datetime(2024, 11, 10, 16, 0)
_COMMIT_LIMIT_KB = 17_517_136


class _Habit(NamedTuple):
    """How a tag behaves: outstanding blocks at the start, bytes each, allocations an hour, blocks kept an hour.

    ``swing`` is how many blocks come and go with the day, ``noise`` without any order.
    """

    tag: str
    pool: str
    blocks: int
    bytes_each: int
    allocs_an_hour: int
    kept_an_hour: float
    swing: int = 0
    noise: int = 0


_HABITS = (
    _Habit("CM31", "Paged", 12_904, 4640, 60, 0.0, noise=2),
    _Habit("EtwB", "Nonp", 148, 35_184, 2, 0.0),
    _Habit("File", "Nonp", 9_386, 400, 149_000, 0.0, swing=2_500, noise=300),
    _Habit("Irp ", "Nonp", 1_204, 464, 820_000, 0.0, swing=300, noise=120),
    _Habit("MmSt", "Paged", 8_104, 1392, 2_200, 0.0, swing=600, noise=80),
    _Habit("Ntff", "Paged", 4_911, 1312, 3_800, 0.0, swing=900, noise=150),
    _Habit("Pipo", "Nonp", 31_022, 432, 18_230, 18_200.0, noise=40),
    _Habit("Thre", "Nonp", 1_725, 2560, 2_000, 0.0, swing=200, noise=30),
    _Habit("Toke", "Paged", 2_204, 1984, 15_000, 0.0, swing=240, noise=40),
)


def iter_logs(seed: int = 1) -> Iterator[Tuple[str, str]]:
    """File names and texts, in the order of time."""
    chance = random.Random(seed)
    for hour in range(HOURS):
        moment = _START + timedelta(hours=hour)
        rows: List[str] = []
        held = {"Nonp": 0, "Paged": 0}
        for habit in _HABITS:
            outstanding = habit.blocks + habit.kept_an_hour * hour + habit.swing * math.sin(hour * math.tau / 24)
            blocks = max(1, round(outstanding + chance.gauss(0, habit.noise)))
            allocs = habit.blocks * 3 + habit.allocs_an_hour * (hour + 24)
            size = blocks * habit.bytes_each
            held[habit.pool] += size
            rows.append(
                f" {habit.tag} {habit.pool:5} {allocs:20} {allocs - blocks:18} {blocks:17} {size:14}"
                f" {habit.bytes_each:16}"
            )
        yield f"poolmon-{moment:%Y-%m-%d_%H%M}.txt", "\n".join([*_head(held), *rows, ""])


def _head(held: Dict[str, int]) -> List[str]:
    """Poolmon's lines about memory: the pools' own totals are a little above their tags."""
    nonpaged, paged = (held[pool] // 1024 * 51 // 50 for pool in ("Nonp", "Paged"))
    commit = 4_100_436 + nonpaged
    return [
        f" Memory:16468560K Avail:{12_072_536 - nonpaged}K  PageFlts:468600648   InRam Krnl:56708K P:{paged}K",
        f" Commit:{commit}K Limit:{_COMMIT_LIMIT_KB}K Peak:11685564K            Pool N:{nonpaged}K P:{paged}K",
        "",
        " Tag  Type     Allocs            Frees               Diff            Bytes                 Per Alloc",
        "",
    ]


def main() -> None:
    """Write the series into the folder that the command line names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in iter_logs():
        (folder / name).write_bytes(text.encode("ascii"))


if __name__ == "__main__":
    main()
