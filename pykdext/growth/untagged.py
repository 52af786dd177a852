"""Memory that no tag counts: who holds it, and whether it weighs more than the pools."""

from __future__ import annotations

from typing import Dict, Iterator, Optional, Tuple

from pykdext.model import UntaggedKind, UntaggedMemory
from pykdext.model.memory import CommitPart, CommitSheet, FrameUse, PageFrames

SMALLEST_SHARE = 0.1
"""Of physical memory: less than this fills no machine."""

SMALLEST_BYTES = 256 << 20

_BY_USE: Dict[FrameUse, UntaggedKind] = {
    FrameUse.SYSTEM_PTES: UntaggedKind.SYSTEM_PTES,
    FrameUse.NO_PTE: UntaggedKind.LOCKED,
    FrameUse.PAGE_TABLES: UntaggedKind.PAGE_TABLES,
    FrameUse.KERNEL_STACKS: UntaggedKind.KERNEL_STACKS,
    FrameUse.HYPERSPACE: UntaggedKind.HYPERSPACE,
    FrameUse.AWE: UntaggedKind.AWE,
    FrameUse.DRIVER_LOCKED: UntaggedKind.DRIVER_LOCKED,
}
_BY_LINE: Dict[str, UntaggedKind] = {
    "Pages For MDLs": UntaggedKind.MDL,
    "ContigMem Pages": UntaggedKind.CONTIGUOUS,
    "Pages For AWE": UntaggedKind.AWE,
    "Kernel Stacks": UntaggedKind.KERNEL_STACKS,
    "System PageTables": UntaggedKind.PAGE_TABLES,
}


def rank_untagged(sheet: Optional[CommitSheet], frames: Optional[PageFrames]) -> Tuple[UntaggedMemory, ...]:
    """What the kernel and drivers hold beside the pools, the largest first.

    A kind that both sources count is given once, by the page frames unless these were sampled.
    """
    found: Dict[UntaggedKind, UntaggedMemory] = {}
    for holding in (*_iter_lines(sheet), *_iter_uses(frames)):
        known = found.get(holding.kind)
        if known is None or not holding.is_estimate:
            found[holding.kind] = holding
    return tuple(sorted(found.values(), key=lambda holding: (-holding.bytes, holding.kind.value)))


def find_dominant(
    untagged: Tuple[UntaggedMemory, ...], physical_bytes: Optional[int], pool_bytes: Optional[int]
) -> Optional[UntaggedMemory]:
    """The kind that holds more than both pools together and much of the machine; None where none does."""
    if not untagged or not physical_bytes:
        return None
    largest = untagged[0]
    enough = max(SMALLEST_BYTES, SMALLEST_SHARE * physical_bytes)
    plausible = largest.bytes <= physical_bytes
    return largest if plausible and largest.bytes >= enough and largest.bytes > (pool_bytes or 0) else None


def _iter_lines(sheet: Optional[CommitSheet]) -> Iterator[UntaggedMemory]:
    for line in sheet.lines if sheet else ():
        kind = _BY_LINE.get(line.name)
        if kind is not None and line.bytes and line.part is not CommitPart.POOL:
            yield UntaggedMemory(kind, line.bytes, f"{line.name} of the memory manager's counters", False)


def _iter_uses(frames: Optional[PageFrames]) -> Iterator[UntaggedMemory]:
    for count in frames.uses if frames else ():
        kind = _BY_USE.get(count.use)
        if kind is not None and frames is not None:
            estimate = frames.is_sampled or frames.read < frames.expected
            yield UntaggedMemory(kind, count.frames * frames.frame_bytes, frames.source, estimate)
