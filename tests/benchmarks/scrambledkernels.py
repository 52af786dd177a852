"""Kernels whose pool variables stand where no linker put them: read right, said to be unknown, or wrong.

The layouts are those of the 213 kernels whose symbols are known, scrambled in the forge. None may be wrong.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Dict, List, Tuple

from tabulate import tabulate

from pykdext.attribution.poolcode import find_pool_variables
from tests.benchmarks.results import Report
from tests.helpers.scrambledkernels import (
    RIGHT,
    UNKNOWN,
    WRONG,
    forge_scrambled,
    iter_scrambles,
    read_outcome,
)

SEED = 1

_HEADERS = ("variables", "decoys", "searched", "kernels", "what", RIGHT, UNKNOWN, WRONG)
_SEARCHES = {"nt's data": None, "data and code": find_pool_variables}


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Read every kernel once, one of eleven when ``quick``; ``rounds`` and ``slow`` have no meaning here."""
    report = Report()
    counts: Dict[Tuple[str, int, str, str], Counter[str]] = {}
    for number, scramble in enumerate(iter_scrambles(SEED)):
        if quick and number % 11:
            continue
        dump = folder / "scrambled.dmp"
        machine = forge_scrambled(scramble, SEED)
        machine.save(dump)
        for search, follow in _SEARCHES.items():
            outcome = read_outcome(machine, dump, follow)
            for what, became in zip(("tag tables", "big blocks"), outcome):
                counts.setdefault((scramble.way, scramble.decoys, search, what), Counter())[became] += 1
                if became == WRONG:
                    report.missed.append(f"{scramble.version} {scramble.key}: {what} are WRONG ({search})")
    rows: List[List[object]] = []
    for (way, decoys, search, what), found in sorted(counts.items()):
        rows.append(
            [way, decoys, search, sum(found.values()), what, *(found[name] for name in (RIGHT, UNKNOWN, WRONG))]
        )
    report.tables = [tabulate(rows, _HEADERS, tablefmt="github")]
    return report
