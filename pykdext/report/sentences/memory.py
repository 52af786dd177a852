"""What to say about where a machine's memory is."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

from pykdext.model import PoolKind, UntaggedMemory
from pykdext.model.memory import CommitSheet, FrameUse, PageFrames
from pykdext.units import format_bytes, format_share


def describe_untagged(dominant: UntaggedMemory, pools_known: bool = True) -> str:
    """The sentence that stands before a small suspect: the pools are not what fills the machine."""
    about = "about " if dominant.is_estimate else ""
    held = f"{about}{format_bytes(dominant.bytes)} are {dominant.kind.value}, which no tag counts ({dominant.source})."
    if not pools_known:
        return f"{held[0].upper()}{held[1:]} What the pools hold is not told here."
    return f"The pools are not what fills this machine: {held}"


def verdict_on_memory(
    sheet: Optional[CommitSheet],
    frames: Optional[PageFrames],
    untagged: Sequence[UntaggedMemory],
    dominant: Optional[UntaggedMemory],
    pools: Mapping[PoolKind, int],
    balloons: Sequence[str],
) -> str:
    """A few sentences: what fills the machine, or that the largest holder is none that tags miss."""
    if dominant is not None:
        said = describe_untagged(dominant, bool(pools))
        if balloons:
            said += f" {' and '.join(balloons)}, loaded here, takes memory at the wish of the host (possible)."
        return said
    held = ", ".join(f"{format_bytes(size)} of {pool.value} pool" for pool, size in pools.items())
    if not untagged:
        return _describe_totals(sheet, held)
    largest = f"the largest kind of it are {untagged[0].kind.value}, {format_bytes(untagged[0].bytes)}"
    said = f"No memory that tags miss weighs more than the pools ({held or 'of unknown size'}); {largest}."
    if not held:
        said = f"What the pools hold is not told here; of memory that tags miss {largest}."
    used = [count for count in frames.uses if not count.use.is_available] if frames else []
    if frames is not None and used and used[0].use not in (FrameUse.NONPAGED_POOL, FrameUse.PAGED_POOL):
        share = format_share(used[0].frames / max(1, frames.expected))
        said += (
            f" Most of what is in use is {used[0].use.value}: "
            f"{format_bytes(used[0].frames * frames.frame_bytes)}, {share} of the machine."
        )
    unexplained = sheet.unexplained_bytes if sheet else None
    if sheet is not None and unexplained is not None and sheet.committed_bytes:
        share = format_share(max(0, unexplained) / sheet.committed_bytes)
        said += f" {share} of what is committed is in no counter: processes' own memory, and what no kernel tells."
    return said


def _describe_totals(sheet: Optional[CommitSheet], held: str) -> str:
    """Of a source that tells totals alone."""
    unexplained = sheet.unexplained_bytes if sheet else None
    if sheet is None or unexplained is None or not sheet.committed_bytes or not held:
        return "No verdict: what is outside the pools cannot be read here; the tag tables are all that is told."
    share = format_share(max(0, unexplained) / sheet.committed_bytes)
    return (
        f"No verdict on what is outside the pools: of {format_bytes(sheet.committed_bytes)} committed "
        f"they hold {held}; the other {format_bytes(max(0, unexplained))} ({share}), of processes and of the system, "
        "are not told apart here."
    )
