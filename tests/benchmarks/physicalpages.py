"""Open a bitmap dump and read physical pages, against LeechCore, kdmp-parser and volatility3."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List

from tests.benchmarks.largedumps import LARGE, SCATTERED, SMALL, LargeDump, Size, make_large_dump
from tests.benchmarks.pagereaders import READERS
from tests.benchmarks.results import MICROSECONDS_A_PIECE, MILLISECONDS, OURS, Report, Work
from tests.benchmarks.rounds import ContestantError, run_in_turns, run_module

PAGE_COUNT = 2000

_READER_MODULE = "tests.benchmarks.pagereaders"

_OPEN_LIMITS = {"LeechCore": 1 / 5, "kdmp-parser": 1 / 50, "volatility3": 1 / 1000}
_PAGE_LIMITS = {"LeechCore": 1.0}
_SLOW_READER = "volatility3"  # about 200 s for a dump of 48 GiB


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure dumps of 6 GiB and, unless ``quick``, 48 GiB; the latter with volatility3 only if ``slow``."""
    report = Report([])
    installed = [tool for tool in READERS if _is_installed(tool, report.notes)]
    for size in (SMALL,) if quick else (SMALL, SCATTERED, LARGE):
        dump = make_large_dump(folder, size, PAGE_COUNT)
        tools = [tool for tool in installed if tool != _SLOW_READER or size is SMALL or slow]
        if len(tools) < len(installed):
            report.notes.append(f"{_SLOW_READER} is left out of the dumps of 48 GiB: --slow measures it")
        works = _measure(dump, size, tools, rounds, report.notes)
        report.works += works
        dump.path.unlink()
    return report


def _is_installed(tool: str, notes: List[str]) -> bool:
    try:
        run_module(_READER_MODULE, tool)
    except ContestantError as error:
        notes.append(f"{tool} is left out: {error}")
        return False
    return True


def _measure(dump: LargeDump, size: Size, tools: List[str], rounds: int, notes: List[str]) -> List[Work]:
    plan = dump.path.with_suffix(".json")
    plan.write_text(
        json.dumps(
            {
                "path": str(dump.path),
                "addresses": dump.addresses,
                "offsets": dump.offsets,
                "digests": dump.digests,
            }
        ),
        encoding="ascii",
    )
    works = {
        "first": Work(f"open, first page: {size}", MILLISECONDS, ratio_limits=_OPEN_LIMITS),
        "last": Work(f"open, last page: {size}", MILLISECONDS),
        "page": Work(f"random page: {size}", MICROSECONDS_A_PIECE, ratio_limits=_PAGE_LIMITS),
    }
    entrants: Dict[str, Callable[[], Dict[str, List[float]]]] = {
        tool: partial(_samples_of, tool, str(plan), size, notes) for tool in tools
    }
    for tool, samples in run_in_turns(entrants, rounds):
        for name, seconds in samples.items():
            for sample in seconds:
                works[name].add(tool, sample)
    return list(works.values())


def _samples_of(tool: str, plan: str, size: Size, notes: List[str]) -> Dict[str, List[float]]:
    try:
        answer: Dict[str, List[float]] = run_module(_READER_MODULE, tool, plan)
        return answer
    except ContestantError as error:
        if tool == OURS:
            raise
        notes.append(f"{tool} is left out of {size}: {error}")
        return {}
