"""``python -m tests.benchmarks [NAME...]``: measures us and our peers on the same work, and prints one table.

For POSIX systems. Peers that are not installed are left out, and the output says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional

from tests.benchmarks import (
    callsites,
    damageddumps,
    debuggertables,
    driverfolder,
    fleet,
    growthtrends,
    imagereading,
    immediateindex,
    machineimages,
    newestkernels,
    objectholders,
    pageframes,
    physicalpages,
    recall,
    scrambledkernels,
    sessionreading,
    structreading,
    symbolfiles,
    verdicts,
    wholeprocess,
)
from tests.benchmarks.results import Report, render_reports
from tests.benchmarks.rounds import ContestantError

_PEERS = ("leechcorepyc", "kdmp-parser", "volatility3", "ntoseye", "yara-python")

_BENCHMARKS: Dict[str, Callable[..., Report]] = {
    "pages": physicalpages.run,
    "process": wholeprocess.run,
    "immediates": immediateindex.run,
    "callsites": callsites.run,
    "folder": driverfolder.run,
    "images": imagereading.run,
    "growth": growthtrends.run,
    "session": sessionreading.run,
    "structs": structreading.run,
    "frames": pageframes.run,
    "machines": machineimages.run,
    "objects": objectholders.run,
    "symbols": symbolfiles.run,
    "recall": recall.run,
    "fleet": fleet.run,
    "damage": damageddumps.run,
    "verdicts": verdicts.run,
    "scrambled": scrambledkernels.run,
    "newest": newestkernels.run,
    "debugger": debuggertables.run,
}


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the benchmarks and return 0 if all gave results and every target was met, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Measure pykdext and other tools on the same work."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_BENCHMARKS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="only dumps of 6 GiB")
    parser.add_argument("--slow", action="store_true", help="volatility3 on dumps of 48 GiB too: minutes a round")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each tool runs (default: 5)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="x64 PE files to search for immediates")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - _BENCHMARKS.keys()
    if unknown or options.rounds < 1:
        parser.error(f"unknown: {', '.join(sorted(unknown))}" if unknown else "--rounds: 1 or more")
    benchmarks: Dict[str, Callable[..., Report]] = {
        **_BENCHMARKS,
        "immediates": partial(immediateindex.run, images=options.images),
    }

    print(_machine_facts(), flush=True)
    reports: List[Report] = []
    failed: List[str] = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        for name in options.names or benchmarks:
            print(f"measuring: {name}", file=sys.stderr)
            try:
                reports.append(benchmarks[name](Path(folder), options.rounds, quick=options.quick, slow=options.slow))
            except ContestantError as error:
                failed.append(f"{name} gave no result: {error}")
    print(render_reports(reports))
    print("", *failed, f"load average at the end: {os.getloadavg()[0]:.1f}", sep="\n")
    return int(bool(failed) or any(report.is_missed for report in reports))


def _machine_facts() -> str:
    """Interpreter, processors, load and versions of the peers, in two lines."""
    versions: List[str] = []
    for peer in _PEERS:
        try:
            versions.append(f"{peer} {importlib.metadata.version(peer)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{peer} not installed")
    machine = f"Python {platform.python_version()}, {os.cpu_count()} processors, {platform.platform()}"
    return f"{machine}, load average {os.getloadavg()[0]:.1f}\n{', '.join(versions)}\n"


if __name__ == "__main__":
    sys.exit(main())
