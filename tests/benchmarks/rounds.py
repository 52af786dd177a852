"""Runs contestants in turns: what disturbs the machine for a while disturbs all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Sequence, Tuple, TypeVar

Answer = TypeVar("Answer")

PROJECT = Path(__file__).resolve().parent.parent.parent

_LAUNCHER = Path(__file__).with_name("launcher.py")


class ContestantError(Exception):
    """A contestant gave no answer: not installed, refused the work, or died."""


def run_in_turns(contestants: Mapping[str, Callable[[], Answer]], rounds: int) -> Iterator[Tuple[str, Answer]]:
    """Each contestant once a round, beginning with another one in each."""
    names = list(contestants)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            yield name, contestants[name]()


def time_seconds(work: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run_module(module: str, *arguments: str) -> Any:
    """The JSON that ``python -m module`` prints in a process of its own; ContestantError if it has none to give."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    try:
        answer = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        raise ContestantError(f"ended with status {done.returncode} and no answer: {done.stderr[-500:]}") from None
    if "error" in answer:
        raise ContestantError(answer["error"])
    return answer


def run_process(arguments: Sequence[str], bytecode: Path, **variables: str) -> Dict[str, float]:
    """``seconds``, ``cpu_seconds`` (with its own processes), ``peak_bytes`` and ``status`` of a Python process.

    ``variables`` are added to the environment.
    Its compiled modules are kept in the folder ``bytecode``, as an installed package keeps them. A bare interpreter
    launches it: a child inherits the memory peak of the process that forks it.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode), "PYTHONDONTWRITEBYTECODE": "", **variables}
    launched = subprocess.run(
        [sys.executable, "-I", "-S", str(_LAUNCHER), *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answer: Dict[str, float] = json.loads(launched.stdout)
    return answer
