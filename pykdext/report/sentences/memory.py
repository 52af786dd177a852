"""What to say about where a machine's memory is."""

from __future__ import annotations

from typing import Optional, Sequence

from pykdext.model import PoolKind, PoolSnapshot, UntaggedMemory
from pykdext.model.memory import CommitSheet, PageFrames
from pykdext.units import format_bytes, format_share


def describe_untagged(dominant: UntaggedMemory) -> str:
    """The sentence that stands before a small suspect: the pools are not what fills the machine."""
    about = "about " if dominant.is_estimate else ""
    return (
        f"The pools are not what fills this machine: {about}{format_bytes(dominant.bytes)} are "
        f"{dominant.kind.value}, which no tag counts ({dominant.source})."
    )


def verdict_on_memory(
    snapshot: PoolSnapshot,
    sheet: Optional[CommitSheet],
    frames: Optional[PageFrames],
    untagged: Sequence[UntaggedMemory],
    dominant: Optional[UntaggedMemory],
    balloons: Sequence[str],
) -> str:
    """One or two sentences: what fills the machine, or that the largest holder is none that tags miss."""
    if dominant is not None:
        said = describe_untagged(dominant)
        if balloons:
            said += f" {' and '.join(balloons)}, loaded here, takes memory at the wish of the host (possible)."
        return said
    if not untagged:
        return "No verdict: what is outside the pools cannot be read here; the tag tables are all that is told."
    pools = ", ".join(
        f"{format_bytes(held)} of {pool.value} pool"
        for pool in PoolKind
        if (held := snapshot.pool_bytes(pool)) is not None
    )
    largest = f"the largest kind of it are {untagged[0].kind.value}, {format_bytes(untagged[0].bytes)}"
    said = f"No memory that tags miss weighs more than the pools ({pools or 'of unknown size'}); {largest}."
    unexplained = sheet.unexplained_bytes if sheet else None
    if sheet is not None and unexplained is not None and sheet.committed_bytes:
        share = format_share(max(0, unexplained) / sheet.committed_bytes)
        said += f" {share} of what is committed is in no counter: processes' own memory, and what no kernel tells."
    return said
