"""Who holds objects: at the size of a public case (71,268 exited processes, 1,592,853 handles to one key), on a usual
machine, beside volatility3; and what looking for objects adds to a verdict that names none.

Times with a target are of the processor: these are set for a machine that does nothing else.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, List

from dumps.forge import forge
from dumps.forge.machine import ForgedMachine
from pykdext.attribution.taglists import TagLists
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.kernel.pool.heapchunks import read_heap_keys
from pykdext.kernel.pool.segmentblocks import BlockProver
from pykdext.kernel.pool.smallblocks import find_small_blocks
from pykdext.model import PoolTag
from pykdext.pipeline import verdict
from pykdext.pipeline.evidence import NO_CONTENTS
from pykdext.pipeline.sources import open_source
from pykdext.targets.dump.crashdump import open_crashdump
from tests.benchmarks import debuggerpeer
from tests.benchmarks.results import MEGABYTES, MICROSECONDS_A_PIECE, MILLISECONDS, OURS, Report, Unit, Work
from tests.benchmarks.rounds import PROJECT, ContestantError, run_in_turns, run_process

_SECONDS = Unit("s", lambda seconds: seconds)
_CPU_SECONDS = Unit("cpu s", lambda seconds: seconds)
_CPU_MILLISECONDS = Unit("cpu ms", MILLISECONDS.shown)
_EXITED, _HANDLES = 71_268, 1_592_853
_PROCESSES = 300
_HOLDER = {"zombies": 2428, "keys": 5120}
_HANDLES_LIMIT_SECONDS, _PEAK_LIMIT_BYTES, _LISTS_LIMIT_SECONDS, _VERDICT_LIMIT = 3.0e-6, 200e6, 0.05, 1.1
_PROOF_LIMIT = 1.15
_VERDICT_ROUNDS = 8
_ISF = PROJECT.parent / "shared" / "evidence" / "isf"
_PEER = "volatility3"


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure all of it; ``quick``: a twentieth of the large cases."""
    del slow
    share = 20 if quick else 1
    report = Report()
    for scenario, tag, count in (("zombies", "Proc", _EXITED // share), ("keys", "Key", _HANDLES // share)):
        report.works += _measure_leak(folder, rounds, scenario, tag, count)
    report.works.append(_measure_lists(folder, rounds))
    report.works.append(_measure_proofs(folder, rounds, _HANDLES // (20 * share)))
    report.works.append(_measure_verdicts(folder, rounds))
    report.works.append(_measure_peer(folder, rounds, report.notes))
    report.works.append(_measure_debugger(folder, rounds, report.notes))
    return report


def _measure_leak(folder: Path, rounds: int, scenario: str, tag: str, count: int) -> List[Work]:
    """The command in a process of its own, and the handles of the one process by type."""
    path = folder / f"{scenario}.dmp"
    forge(scenario, leaked=count).save(path)
    whole = Work(f"holders {tag}: {count:,} objects", _SECONDS)
    peak = Work(f"holders {tag}: {count:,} objects", MEGABYTES, limit=_PEAK_LIMIT_BYTES)
    is_large = count >= _EXITED and scenario == "keys"
    limit = _HANDLES_LIMIT_SECONDS * count if is_large else None
    census = Work(f"handles of one process: {count:,}", _CPU_SECONDS, limit=limit)
    processes = Work(f"processes, {tag} leaks", _CPU_SECONDS)
    for _ in range(rounds):
        answer = run_process([sys.executable, "-m", "pykdext", "holders", tag, str(path)], folder / "bytecode")
        if answer["status"]:
            raise ContestantError(f"holders {tag} ended with status {answer['status']}")
        whole.add(OURS, answer["seconds"])
        peak.add(OURS, answer["peak_bytes"])
        with _open_space(path) as space:
            started = time.process_time()
            holder = next(process for process in space.processes.processes if process.pid == _HOLDER[scenario])
            processes.add(OURS, time.process_time() - started)
            types = len(space.types.types)
            started = time.process_time()
            found = space.take_census(holder)
            census.add(OURS, time.process_time() - started)
            assert found.is_whole and types
    path.unlink()
    return [whole, peak, processes, census]


def _measure_lists(folder: Path, rounds: int) -> Work:
    """Types, processes and lookaside lists of a usual machine."""
    work = Work(f"types, {_PROCESSES} processes, lookaside lists", _CPU_MILLISECONDS, limit=_LISTS_LIMIT_SECONDS)
    path = folder / "usual.dmp"
    machine = forge("zombies", leaked=_PROCESSES - 32)
    machine.save(path)
    for _ in range(rounds):
        with _open_space(path) as space:
            started = time.process_time()
            found = (len(space.types.types), len(space.processes.processes), len(space.lookasides.lists))
            work.add(OURS, time.process_time() - started)
            assert all(found)
            assert found[1] == len(machine.truth.objects.processes if machine.truth.objects else ())
    return work


def _measure_proofs(folder: Path, rounds: int, count: int) -> Work:
    """A walk for the blocks of a tag of which memory is full, with the heap's proof of each and without, by turns."""
    without = "without proofs"
    work = Work(f"walk, {count:,} blocks of the tag", _CPU_SECONDS, ratio_limits={without: _PROOF_LIMIT})
    path = folder / "blocks.dmp"
    forge("keys", leaked=count).save(path)
    target = open_crashdump(str(path))
    keys = read_heap_keys(open_kernel(target))

    def walk() -> float:
        started = time.process_time()
        found = find_small_blocks(target, PoolTag.from_text("Key"), keys=keys)
        assert len(found.allocations) >= count
        return time.process_time() - started

    def walk_without() -> float:
        judge = BlockProver.judge
        BlockProver.judge = lambda *_: None  # a benchmark's own process
        try:
            return walk()
        finally:
            BlockProver.judge = judge

    try:
        for name, seconds in run_in_turns({OURS: walk, without: walk_without}, rounds * _VERDICT_ROUNDS):
            work.add(name, seconds)
    finally:
        target.close()
    return work


def _measure_verdicts(folder: Path, rounds: int) -> Work:
    """The verdict on a machine whose suspect is no object, with the search for objects and without it, by turns."""
    without = "without objects"
    work = Work("verdict, no object is suspect", _CPU_SECONDS, ratio_limits={without: _VERDICT_LIMIT})
    path = folder / "verdict.dmp"
    forge("lookaside").save(path)

    def judge() -> float:
        started = time.process_time()
        with open_source(str(path)) as source:
            assert verdict.analyze(source, TagLists({})).suspects
        return time.process_time() - started

    def judge_without() -> float:
        kept = verdict.find_object_evidence, verdict._add_holders
        verdict.find_object_evidence = lambda *_: NO_CONTENTS  # a benchmark's own process
        verdict._add_holders = lambda report, *_: report
        try:
            return judge()
        finally:
            verdict.find_object_evidence, verdict._add_holders = kept

    judge()  # what is searched once is kept
    for name, seconds in run_in_turns({OURS: judge, without: judge_without}, rounds * _VERDICT_ROUNDS):
        work.add(name, seconds)
    return work


def _measure_peer(folder: Path, rounds: int, notes: List[str]) -> Work:
    """Handles by type of every process of a small machine, each: ours, and volatility3's through its API."""
    work = Work("handles of all processes by type", MICROSECONDS_A_PIECE)
    path = folder / "full.dmp"
    machine = forge("zombies", leaked=60, healthy_share=64)
    machine.save(path, kind=1)
    for _ in range(rounds):
        with _open_space(path) as space:
            started = time.process_time()
            censuses = [space.take_census(process) for process in space.processes.processes]
            work.add(OURS, (time.process_time() - started) / sum(census.read for census in censuses))
    try:
        list_handles = _open_peer(path, machine)
    except (ImportError, StopIteration):
        notes.append(f"{_PEER} lists no handles: it is not installed, or its symbols (isf) are not at hand")
        return work
    for _ in range(rounds):
        started = time.process_time()
        count = list_handles()
        work.add(_PEER, (time.process_time() - started) / count)
    return work


def _measure_debugger(folder: Path, rounds: int, notes: List[str]) -> Work:
    """Handles by type of every process of a small Windows 7, each: ours, and ntoseye's."""
    work = Work("handles of all processes, Windows 7", MICROSECONDS_A_PIECE)
    machine = forge("zombies", build=debuggerpeer.BUILD, leaked=60, healthy_share=16)
    path, isf = folder / "seven.dmp", next(_ISF.glob(f"*{machine.kernel.guid}*"), None)
    is_there = debuggerpeer.is_installed() and isf is not None
    if is_there and isf is not None:
        debuggerpeer.prepare(machine, isf, folder)
    else:
        notes.append("ntoseye lists no handles: it is not installed, or symbols (isf) are not at hand")
    machine.save(path, kind=1)
    for _ in range(rounds):
        with _open_space(path) as space:
            started = time.process_time()
            censuses = [space.take_census(process) for process in space.processes.processes]
            count = sum(census.read for census in censuses)
            work.add(OURS, (time.process_time() - started) / count)
        if is_there:
            seconds, theirs = debuggerpeer.measure(path, folder)
            if theirs != count:
                notes.append(f"ntoseye lists {theirs:,} handles, we {count:,}")
            work.add("ntoseye", seconds / theirs)
    return work


def _open_peer(path: Path, machine: ForgedMachine) -> Callable[[], int]:
    """Counts the handles of all processes, their types read."""
    from volatility3.framework import contexts
    from volatility3.framework.layers import crash, intel, physical
    from volatility3.framework.symbols.windows import WindowsKernelIntermedSymbols
    from volatility3.plugins.windows.handles import Handles
    from volatility3.plugins.windows.pslist import PsList

    logging.getLogger("volatility3").setLevel(logging.CRITICAL)
    symbols = next(_ISF.glob(f"*{machine.truth.kernel_guid}*")).as_uri()

    def list_handles() -> int:
        context = contexts.Context()
        context.config["base.location"] = path.as_uri()
        context.add_layer(physical.FileLayer(context, "base", "base"))
        context.config["crash.base_layer"] = "base"
        context.add_layer(crash.WindowsCrashDump64Layer(context, "crash", "crash"))
        context.config["layer.memory_layer"] = "crash"
        context.config["layer.page_map_offset"] = machine.header.directory_table_base & ~0xFFF
        context.add_layer(intel.WindowsIntel32e(context, "layer", "layer"))
        context.symbol_space.append(WindowsKernelIntermedSymbols(context, "nt", "nt_symbols", symbols))
        contexts.Module.create(context, "kernel", "layer", machine.addresses["nt"], symbol_table_name="nt_symbols")
        types, cookie = Handles.get_type_map(context, "kernel"), Handles.find_cookie(context, "kernel")
        count = 0
        for process in PsList.list_processes(context, "kernel"):
            if process.ObjectTable:
                for entry in Handles.handles(context, "kernel", process.ObjectTable):
                    entry.get_object_type(types, cookie)
                    count += 1
        return count

    return list_handles


@contextmanager
def _open_space(path: Path) -> Iterator[ObjectSpace]:
    target = open_crashdump(str(path))
    try:
        yield ObjectSpace(open_kernel(target))
    finally:
        target.close()
