"""Windows as it runs today, every build on every kind of page tables: what of each machine equals its truth."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List

from tabulate import tabulate

from tests.benchmarks.results import Report
from tests.helpers.newestkernels import compare_newest, list_newest

SEED = 1


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Read every machine once, one of three when ``quick``; ``rounds`` and ``slow`` have no meaning here."""
    report = Report()
    rows: List[Dict[str, object]] = []
    for number, newest in enumerate(sorted(list_newest(SEED))):
        if quick and number % 3:
            continue
        place = folder / f"{newest.arch}-{newest.build}"
        place.mkdir()
        row: Dict[str, object] = {"kernel": f"{newest.build} {newest.arch}", "leak": newest.scenario}
        for what, found, truth in compare_newest(newest, SEED, place):
            row[what] = "equal" if found == truth else "WRONG"
            if found != truth:
                report.missed.append(f"{newest}: {what}")
        rows.append(row)
    report.tables = [tabulate(rows, "keys", tablefmt="github", missingval="not told")]
    return report
