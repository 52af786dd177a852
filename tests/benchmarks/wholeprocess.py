"""The command line from start to end: wall time and peak memory, with the interpreter's own start beside it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Sequence

from tests.benchmarks.largedumps import LARGE, SCATTERED, SMALL, Size, make_large_dump
from tests.benchmarks.results import MEGABYTES, MILLISECONDS, Report, Work
from tests.benchmarks.rounds import ContestantError, run_in_turns, run_process

SECONDS_LIMIT = 0.5
PEAK_BYTES_LIMIT = 80e6

_LEAKING_TAG = "Pipo"
_BARE = "python -c pass"


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure ``poolleak used`` on large dumps; ``slow`` has no meaning here."""
    dumps = {str(size): make_large_dump(folder, size, 0).path for size in _sizes(quick)}
    output = folder / "used.txt"
    commands: Dict[str, List[str]] = {
        _BARE: [sys.executable, "-c", "pass"],
        "poolleak --help": [sys.executable, "-m", "pykdext", "--help"],
    }
    for name, path in dumps.items():
        options = ["--top", "20", "-o", str(output)]
        commands[f"poolleak used: {name}"] = [sys.executable, "-m", "pykdext", "used", str(path), *options]
    entrants: Dict[str, Callable[[], Dict[str, float]]] = {
        name: partial(run_process, arguments, folder / "bytecode") for name, arguments in commands.items()
    }
    used = f"poolleak used: {list(dumps)[-1]}"
    seconds = Work("whole process, wall time", MILLISECONDS, limit=SECONDS_LIMIT, ours=used)
    peak = Work("whole process, peak memory", MEGABYTES, limit=PEAK_BYTES_LIMIT, ours=used)
    for compile_modules in entrants.values():
        compile_modules()
    for name, answer in run_in_turns(entrants, rounds):
        if answer["status"]:
            raise ContestantError(f"{name}: exit status {answer['status']}")
        if name in map("poolleak used: {}".format, dumps) and _LEAKING_TAG not in output.read_text(encoding="utf-8"):
            raise ContestantError(f"{name}: the tag {_LEAKING_TAG} is not in the table")
        seconds.add(name, answer["seconds"])
        peak.add(name, answer["peak_bytes"])
    for path in dumps.values():
        path.unlink()
    return Report([seconds, peak])


def _sizes(quick: bool) -> Sequence[Size]:
    return (SMALL,) if quick else (SMALL, LARGE, SCATTERED)
