"""Who holds objects, at the size of a public case: 71,268 exited processes, 1,592,853 handles to one key."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Tuple

from dumps.forge import forge
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.targets.dump.crashdump import open_crashdump
from tests.benchmarks.results import MEGABYTES, OURS, Report, Unit, Work
from tests.benchmarks.rounds import run_process

_SECONDS = Unit("s", lambda seconds: seconds)
_EXITED, _HANDLES = 71_268, 1_592_853
_HOLDER = {"zombies": 2428, "keys": 5120}


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure both cases, each once a round; ``quick``: a twentieth of them."""
    share = 20 if quick else 1
    works = []
    for scenario, tag, count in (("zombies", "Proc", _EXITED // share), ("keys", "Key", _HANDLES // share)):
        path = folder / f"{scenario}.dmp"
        forge(scenario, leaked=count).save(path)
        whole = Work(f"holders {tag}: {count:,} objects", _SECONDS)
        peak = Work(f"holders {tag}: {count:,} objects", MEGABYTES)
        census = Work(f"handles of one process: {count:,}", _SECONDS, limit=3.0 * count / 1_000_000 + 1.0)
        processes = Work("types, processes, lookaside lists", _SECONDS)
        for _ in range(rounds):
            answer = run_process([sys.executable, "-m", "pykdext", "holders", tag, str(path)], folder / "bytecode")
            whole.add(OURS, answer["seconds"])
            peak.add(OURS, answer["peak_bytes"])
            spent = _measure(path, _HOLDER[scenario])
            processes.add(OURS, spent[0])
            census.add(OURS, spent[1])
        works += [whole, peak, processes, census]
    return Report(works)


def _measure(path: Path, pid: int) -> Tuple[float, float]:
    """Seconds for types, processes and lists; and for the handles of a process."""
    target = open_crashdump(str(path))
    try:
        space = ObjectSpace(open_kernel(target))
        started = time.perf_counter()
        process = next(process for process in space.processes.processes if process.pid == pid)
        found = len(space.types.types) + len(space.lookasides.lists)
        lists = time.perf_counter() - started
        started = time.perf_counter()
        census = space.take_census(process)
        assert found and census.is_whole
        return lists, time.perf_counter() - started
    finally:
        target.close()
