"""Many dumps: how many a minute with one and two processes, and what the batch itself takes of memory."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List

from dumps.forge import forge
from tests.benchmarks.results import MEGABYTES, Report, Unit, Work
from tests.benchmarks.rounds import ContestantError, run_in_turns, run_process

DUMPS, QUICK_DUMPS = 40, 8
BUILDS = (7601, 17763, 19041)
PEAK_BYTES_LIMIT = 120e6
"""Of the largest process, whatever the number of dumps."""

TWO_JOBS_RATIO = 0.75
"""Of the time with one job, on a machine with two processors."""

_ROUNDS = 2
_ONE, _TWO, _FEW = "batch --jobs 1", "batch --jobs 2", "batch --jobs 2, a quarter of the dumps"
_KEPT = "batch --jobs 2, its images followed before"


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure 40 dumps of 1.3 MB, with ``quick`` 8; ``slow`` has no meaning here. Two rounds at most."""
    count = QUICK_DUMPS if quick else DUMPS
    paths = _write_dumps(folder / "fleet", count)
    output = folder / "batch.json"
    jobs_and_paths = {_ONE: ("1", paths), _TWO: ("2", paths), _FEW: ("2", paths[: count // 4])}
    entrants: Dict[str, Callable[[], Dict[str, float]]] = {
        name: partial(run_process, _command(jobs, chosen, output), folder / "bytecode")
        for name, (jobs, chosen) in jobs_and_paths.items()
    }
    rate = Unit("dumps/min", lambda seconds: 60 * count / seconds, ">=")
    kept = {"POOLLEAK_CACHE": str(folder / "cache")}
    entrants[_KEPT] = partial(run_process, _command("2", paths, output), folder / "bytecode", **kept)
    entrants[_KEPT]()
    speed = Work(f"batch of {count} dumps", rate, ratio_limits={_ONE: TWO_JOBS_RATIO}, ours=_TWO)
    peak = Work(f"batch of {count} dumps, peak memory of a process", MEGABYTES, limit=PEAK_BYTES_LIMIT, ours=_TWO)
    for name, answer in run_in_turns(entrants, min(rounds, _ROUNDS)):
        if answer["status"]:
            raise ContestantError(f"{name}: exit status {answer['status']}")
        _check(output, len(paths[: count // 4] if name == _FEW else paths))
        peak.add(name, answer["peak_bytes"])
        if name != _FEW:
            speed.add(name, answer["seconds"])
    return Report([speed, peak])


def _command(jobs: str, paths: List[str], output: Path) -> List[str]:
    options = ["--jobs", jobs, "--format", "json", "-o", str(output)]
    return [sys.executable, "-m", "pykdext", "batch", *paths, *options]


def _check(output: Path, count: int) -> None:
    document = json.loads(output.read_text(encoding="utf-8"))
    common = document["common"][0]
    if (document["counts"]["done"], common["tag"], common["dumps"]) != (count, "Pipo", count):
        raise ContestantError(f"the batch did not find the leak in all {count} dumps")


def _write_dumps(folder: Path, count: int) -> List[str]:
    folder.mkdir()
    paths: List[str] = []
    for number in range(count):
        path = folder / f"SRV{number:02}.dmp"
        forge("pipo", build=BUILDS[number % len(BUILDS)], seed=number).save(path)
        paths.append(str(path))
    return paths
