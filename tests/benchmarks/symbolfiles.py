"""What names cost: addresses, types and functions of a PDB as large as a kernel's."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable, Dict

from pykdext.symbols.identity import PdbName
from pykdext.symbols.pdbfile import PdbSymbols, load_pdb
from tests.benchmarks.results import MILLISECONDS, OURS, Report, Work
from tests.benchmarks.rounds import ContestantError, run_in_turns, time_seconds
from tests.helpers import pdbwriter

_SECONDS_LIMIT = 1.0

_GUID = "0123456789ABCDEF0123456789ABCDEF"
_NAMES = 60_000


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Open the file anew for each question; neither option has a meaning here."""
    path = folder / "large.pdb"
    path.write_bytes(pdbwriter.large_pdb(_GUID, _NAMES))
    questions: Dict[str, Callable[[PdbSymbols], bool]] = {
        "one address and 10 types": _find_layouts,
        "the functions at 1,000 addresses": _find_functions,
    }
    size = f"PDB of {path.stat().st_size / 1e6:.0f} MB"
    works = [Work(f"{size}: {question}", MILLISECONDS, limit=_SECONDS_LIMIT) for question in questions]
    for work, ask in zip(works, questions.values()):
        for tool, seconds in run_in_turns({OURS: partial(_open_and_ask, path, ask)}, rounds):
            work.add(tool, seconds)
    path.unlink()
    return Report(works)


def _open_and_ask(path: Path, ask: Callable[[PdbSymbols], bool]) -> float:
    answers = []
    seconds = time_seconds(lambda: answers.append(ask(load_pdb(str(path), PdbName(path.name, _GUID, 1), 0))))
    if answers != [True]:
        raise ContestantError(f"{path.name} has other names than were written")
    return seconds


def _find_layouts(pdb: PdbSymbols) -> bool:
    types = [pdb.find_type(f"_STRUCTURE_{number}") for number in range(0, 20_000, 2000)]
    expected = 0x1000 + 16 * (_NAMES - 1)
    return pdb.find_address(f"Function{_NAMES - 1}") == expected and all(
        found is not None and len(found.fields) == 12 for found in types
    )


def _find_functions(pdb: PdbSymbols) -> bool:
    return all(
        pdb.find_function(0x1003 + 16 * number) == (f"Function{number}", 3)
        for number in range(0, _NAMES, _NAMES // 1000)
    )
