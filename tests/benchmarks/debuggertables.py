"""The tag tables and the totals of memory as ntoseye reads them from the same dump: every number must be ours, too."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Optional, Tuple

from tabulate import tabulate

from dumps.forge import forge
from dumps.forge.memorymanager import MemoryPlan
from dumps.forge.pageframes import plan_frames
from pykdext.model import PoolUsage
from pykdext.pipeline.memory import report_memory
from pykdext.pipeline.sources import open_source
from tests.benchmarks import debuggerpeer
from tests.benchmarks.results import Report
from tests.benchmarks.rounds import PROJECT

_ISF = PROJECT.parent / "shared" / "evidence" / "isf"
_VARIABLES = (
    *("PoolTrackTable", "PoolTrackTableSize", "ExPoolTagTables", "PoolTrackTableExpansion", "PoolBigPageTable"),
    *("PoolTrackTableExpansionSize", "MmNumberOfPhysicalPages", "MmAvailablePages", "MmTotalCommittedPages"),
    *("MmTotalCommitLimit", "MmPfnDatabase", "MmHighestPhysicalPage", "KeNumberProcessors", "NonPagedPoolDescriptor"),
    *("KiProcessorBlock", "PoolHitTag", "PoolTrackTableMask", "KeActiveProcessors", "ExpNumberOfNonPagedPools"),
    *("MmSizeOfPagedPoolInBytes", "MmSizeOfNonPagedPoolInBytes", "ExpNumberOfPagedPools", "ExpPagedPoolDescriptor"),
)
_PAGE_BYTES = 0x1000

_Counts = Tuple[Optional[int], Optional[int], Optional[int]]


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Compare both once; ``rounds``, ``quick`` and ``slow`` have no meaning here."""
    report = Report()
    machine = forge(
        "zombies", build=debuggerpeer.BUILD, leaked=5, healthy_share=16, processors=2, memory=MemoryPlan(),
        page_frames=plan_frames(0x1000),
    )  # fmt: skip
    isf = next(_ISF.glob(f"*{machine.kernel.guid}*"), None)
    if isf is None or not debuggerpeer.is_installed():
        report.notes.append("ntoseye reads no tables: it is not installed, or symbols (isf) are not at hand")
        return report
    path = folder / "tables.dmp"
    debuggerpeer.prepare(machine, isf, folder, _VARIABLES)
    machine.save(path)
    theirs, totals = debuggerpeer.read_tables(path, folder)
    with open_source(str(path)) as source:
        memory = report_memory(source, sampled=False)
    ours = {row.tag.text: (_counts(row.nonpaged), _counts(row.paged)) for row in memory.snapshot.tags}
    equal = sum(ours.get(str(row["tag_name"])) == (_pick(row, "nonpaged"), _pick(row, "paged")) for row in theirs)
    rows: List[Dict[str, object]] = [{"what": "tags", "ours": len(ours), "ntoseye": len(theirs), "equal": equal}]
    sheet = memory.sheet
    for name, value in (
        ("physical", sheet and sheet.physical_bytes),
        ("available", sheet and sheet.available_bytes),
        ("committed", sheet and sheet.committed_bytes),
        ("commit_limit", sheet and sheet.limit_bytes),
    ):
        other = totals[f"{name}_pages"] * _PAGE_BYTES
        rows.append({"what": f"{name} bytes", "ours": value, "ntoseye": other, "equal": int(value == other)})
    report.missed += [str(row["what"]) for row in rows[1:] if not row["equal"]]
    if not equal == len(theirs) == len(ours):
        report.missed.append("tags")
    report.tables = [tabulate(rows, "keys", tablefmt="github")]
    return report


def _counts(usage: PoolUsage) -> _Counts:
    return usage.allocs, usage.frees, usage.bytes


def _pick(row: Dict[str, int], pool: str) -> _Counts:
    return row[f"{pool}_allocs"], row[f"{pool}_frees"], row[f"{pool}_bytes"]
