"""Where the memory of a machine is: the question behind ``poolleak memory`` and the memory part of every verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Optional, Sequence, Tuple

from pykdext.growth.untagged import find_dominant, rank_untagged
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.memory.commit import add_sessions, read_commit_sheet, sheet_of_totals
from pykdext.kernel.memory.frames import NOT_IN_MEMORY, explain_missing_frames, read_page_frames
from pykdext.kernel.memory.processmemory import ProcessMemoryReader
from pykdext.kernel.memory.sessions import read_sessions
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.model import LeakReport, NextStep, PoolKind, PoolSnapshot, UntaggedKind
from pykdext.model.memory import CommitSheet, FrameUse, MemoryByProcess, MemoryReport, PageFrames
from pykdext.model.objects import ProcessList
from pykdext.pipeline.advice import name_program
from pykdext.pipeline.mappings import find_listers, find_mappers
from pykdext.pipeline.sessionpool import describe_session_pool
from pykdext.pipeline.sources import Source
from pykdext.report.sentences.memory import verdict_on_memory
from pykdext.report.sentences.states import verdict_on
from pykdext.targets.session.wholememory import open_whole_memory
from pykdext.units import count_things
from pykdext.work import UNWATCHED, Work

SAMPLED_CHUNKS, VERDICT_CHUNKS = 192, 48
"""Pieces of 4,096 page frames that ``poolleak memory`` and every verdict look at."""

_IN_LISTS = (UntaggedKind.MDL, UntaggedKind.LOCKED, UntaggedKind.DRIVER_LOCKED)
"""Pages that a memory descriptor list of their driver names, and no page table."""

_BALLOON_DRIVERS = ("vmmemctl.sys", "balloon.sys", "dmvsc.sys", "xenballoon.sys", "prl_memdev.sys")
"""Drivers that take memory from a virtual machine at its host's wish: VMware, virtio, Hyper-V, Xen, Parallels."""

_STEPS: Dict[UntaggedKind, Tuple[NextStep, ...]] = {
    UntaggedKind.SYSTEM_PTES: (
        NextStep("!sysptes 1", "who maps how much; names drivers where TrackPtes was on at boot"),
        NextStep(
            None,
            "set TrackPtes (REG_DWORD) to 1 below HKLM\\SYSTEM\\CurrentControlSet\\Control\\Session Manager\\Memory "
            "Management, then restart the machine: the next dump names the driver (!sysptes 4)",
        ),
    ),
    UntaggedKind.LOCKED: (NextStep("!verifier 1", "PagesForMdlBytes and locked pages by driver, if verifier was on"),),
    UntaggedKind.DRIVER_LOCKED: (
        NextStep("!verifier 1", "PagesForMdlBytes and locked pages by driver, if verifier was on"),
        NextStep(None, "is a balloon driver or a virtual machine (Hyper-V, VMware) on this machine? They lock pages"),
    ),
    UntaggedKind.MDL: (
        NextStep("!verifier 1", "PagesForMdlBytes by driver, if verifier was on"),
        NextStep(None, "is a balloon driver of the hypervisor, or a driver with large buffers, on this machine?"),
    ),
    UntaggedKind.PAGE_TABLES: (NextStep("!process 0 0", "exited processes that are kept: each keeps its page tables"),),
    UntaggedKind.HYPERSPACE: (NextStep("!process 0 0", "exited processes that are kept keep these pages, too"),),
    UntaggedKind.CONTIGUOUS: (NextStep("!verifier 1", "contiguous memory by driver, if verifier was on"),),
    UntaggedKind.AWE: (NextStep("!process 0 0", "processes that lock pages (AWE): databases, virtual machines"),),
    UntaggedKind.KERNEL_STACKS: (NextStep("!stacks 2", "what the threads wait for, and whose they are"),),
}


def report_memory(source: Source, work: Work = UNWATCHED, *, sampled: bool) -> MemoryReport:
    """Where the memory of a machine is; of a source without a kernel what its own totals tell.

    ``sampled``: the page frames are estimated from a part of them, in less than a second.
    """
    snapshot, kernel = source.snapshot, source.kernel
    sheet = read_commit_sheet(kernel) if kernel else snapshot.commit or sheet_of_totals(snapshot.memory)
    processes = ObjectSpace(kernel, work).processes if kernel else None
    frames = snapshot.frames
    session_pool: str = ""
    session_steps: Tuple[NextStep, ...] = ()
    if kernel is not None and processes is not None:
        roots = ProcessMemoryReader(kernel).find_roots(processes.processes)
        frames = read_page_frames(kernel, work, SAMPLED_CHUNKS if sampled else None, roots)
        with open_whole_memory(kernel.target) as memory:
            sheet = sheet and add_sessions(sheet, read_sessions(kernel, processes.processes, memory))
            session_pool, session_steps = describe_session_pool(kernel, memory, processes, snapshot, work)
    untagged = rank_untagged(sheet, frames)
    physical = _physical_bytes(snapshot, sheet, frames)
    pools = _pool_bytes(snapshot, frames)
    dominant = find_dominant(untagged, physical, sum(pools.values()))
    balloons = _find_balloons(kernel)
    mappers = None
    if kernel is not None and dominant is not None and dominant.kind is UntaggedKind.SYSTEM_PTES:
        mappers = find_mappers(kernel, snapshot, work)
    elif kernel is not None and dominant is not None and dominant.kind in _IN_LISTS:
        mappers = find_listers(kernel, snapshot, work)
    if work.is_ended:  # who was not looked at may point there, too
        mappers = None
    verdict = verdict_on_memory(sheet, frames, untagged, dominant, pools, balloons, mappers)
    return MemoryReport(
        snapshot=snapshot,
        verdict=f"{verdict} {session_pool}".rstrip(),
        sheet=sheet,
        frames=frames,
        untagged=untagged,
        dominant=dominant,
        balloons=balloons,
        next_steps=(*(_STEPS[dominant.kind] if dominant else ()), *session_steps),
        warnings=(*snapshot.warnings, *_iter_warnings(kernel, sheet, frames)),
        by_process=_read_processes(kernel, processes) if kernel and processes else None,
        mappers=mappers,
    )


def _read_processes(kernel: Kernel, found: ProcessList) -> Optional[MemoryByProcess]:
    """What each process of the kernel's list was charged; None where no process tells."""
    reader = ProcessMemoryReader(kernel)
    charged = [told for process in found.processes if (told := reader.read(process)) is not None]
    if not charged:
        return None
    unknown = None if found.lost is None else found.lost + len(found.processes) - len(charged)
    return MemoryByProcess(tuple(sorted(charged, key=lambda process: -process.bytes)), unknown)


def _pool_bytes(snapshot: PoolSnapshot, frames: Optional[PageFrames]) -> Dict[PoolKind, int]:
    """What each pool holds, as far as anything tells; of paged pool at least its resident pages."""
    found: Dict[PoolKind, int] = {}
    for pool, use in ((PoolKind.NONPAGED, FrameUse.NONPAGED_POOL), (PoolKind.PAGED, FrameUse.PAGED_POOL)):
        held = max(snapshot.pool_bytes(pool) or 0, frames.bytes_of(use) if frames else 0)
        if held:
            found[pool] = held
    return found


def _physical_bytes(
    snapshot: PoolSnapshot, sheet: Optional[CommitSheet], frames: Optional[PageFrames]
) -> Optional[int]:
    if sheet is not None and sheet.physical_bytes:
        return sheet.physical_bytes
    if snapshot.memory.physical_bytes:
        return snapshot.memory.physical_bytes
    return frames.expected * frames.frame_bytes if frames else None


def _find_balloons(kernel: Optional[Kernel]) -> Tuple[str, ...]:
    loaded = kernel.target.modules() if kernel else ()
    return tuple(module.name for module in loaded if not module.unloaded and module.name.lower() in _BALLOON_DRIVERS)


def _iter_warnings(
    kernel: Optional[Kernel], sheet: Optional[CommitSheet], frames: Optional[PageFrames]
) -> Sequence[str]:
    found: List[str] = []
    if kernel is None:
        found.append("the source has no memory to look into: only its own totals are known")
    elif sheet is None:
        found.append("the memory manager's counters of this kernel are not known: no commit sheet")
    unread = [session for session in sheet.sessions if session.committed_bytes is None] if sheet is not None else []
    if unread:
        found.append(
            f"{count_things(len(unread), 'session')}: their space is mapped by the page tables of their processes "
            "only; what they were charged, and the tags of session pool, are not told by this dump"
        )
    if sheet is not None and sheet.doubtful:
        found.append(f"{', '.join(sheet.doubtful)}: larger than all that is committed, left out")
    if kernel is None:
        return found
    if frames is None:
        reason = explain_missing_frames(kernel)
        found += [reason, *(_iter_gaps(kernel) if reason == NOT_IN_MEMORY else ())]
    elif not frames.is_sampled and frames.read < frames.expected:
        found.append(
            f"{frames.read:,} of {count_things(frames.expected, 'page frame')} read: the others' records are not there"
        )
        found += _iter_gaps(kernel)
    if kernel.target.facts.is_live:
        found.append("the dump was taken while the system ran: counts of one moment differ a little from the next")
    if frames is not None and not frames.has_regions:
        found.append("this kernel does not tell the regions of system space: some uses are counted as others")
    return found


def _iter_gaps(kernel: Kernel) -> Sequence[str]:
    """Whether what is missing was left out by design or is damage."""
    why = kernel.target.facts.why_missing
    return [f"What is not there: {why}"] if why else []


def weigh_untagged(report: LeakReport, kernel: Optional[Kernel], work: Work) -> LeakReport:
    """The report with what no tag counts; its verdict and next steps begin with it if it weighs more than the pools.

    The page frames are estimated from few of them: in a debugger all that is read takes its time. Of a text they are
    what it tells.
    """
    snapshot = report.snapshot
    sheet, frames = snapshot.commit, snapshot.frames
    if kernel is not None:
        sheet = read_commit_sheet(kernel)
        with work.hold():
            frames = read_page_frames(kernel, work, chunks=VERDICT_CHUNKS)
    untagged = rank_untagged(sheet, frames)
    pools = sum(_pool_bytes(snapshot, frames).values())
    if snapshot.coverage.lacks_counts:  # what is counted is at least no less than nothing
        pools = max(pools, sum(snapshot.counted_bytes(pool) or 0 for pool in PoolKind))
    fills = find_dominant(untagged, _physical_bytes(snapshot, sheet, frames), pools)
    if not untagged:
        return report
    steps: Tuple[NextStep, ...] = ()
    if fills is not None:
        program, source = name_program(snapshot)
        whole = " --whole" if kernel is not None else ""
        steps = (*_STEPS[fills.kind], NextStep(f"{program} memory{source}{whole}", "all of the memory by use"))
    report = replace(report, untagged=untagged, fills=fills, next_steps=(*steps, *report.next_steps))
    return replace(report, verdict=verdict_on(report))
