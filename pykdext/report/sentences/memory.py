"""What to say about where a machine's memory is."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

from pykdext.model import PoolKind, UntaggedKind, UntaggedMemory
from pykdext.model.memory import CommitPart, CommitSheet, FrameUse, MappingHolder, PageFrames
from pykdext.units import count_things, format_bytes, format_count, format_share

_OF_DRIVERS = (UntaggedKind.MDL, UntaggedKind.LOCKED, UntaggedKind.DRIVER_LOCKED, UntaggedKind.CONTIGUOUS)

_OF_PROCESSES = ("Total Private", "Process Commit")
"""The lines that count the own memory of all processes."""

SMALL_SHARE = 0.1
"""Of what is committed: pools that are less are not what fills the machine, a line that is less explains little."""

MAX_LINES_NAMED = 2

NOTABLE_SHARE = 0.25
"""Of the mappings: what leads to less names nobody in the verdict."""


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
    mappers: Optional[Sequence[MappingHolder]] = None,
) -> str:
    """A few sentences: what fills the machine, or that the largest holder is none that tags miss."""
    if dominant is not None:
        said = describe_untagged(dominant, bool(pools))
        if balloons:
            said += f" {' and '.join(balloons)}, loaded here, takes memory at the wish of the host (possible)."
        elif dominant.kind in _OF_DRIVERS and mappers is None:
            said += " Which driver holds them is not told here."
        return said if mappers is None else f"{said} {_describe_mappers(mappers, dominant)}"
    held = ", ".join(f"{format_bytes(size)} of {pool.value} pool" for pool, size in pools.items())
    if not untagged:
        return _describe_totals(sheet, held)
    largest = f"the largest kind of it is {untagged[0].kind.value}, {format_bytes(untagged[0].bytes)}"
    said = f"No memory that tags miss weighs more than the pools ({held or 'of unknown size'}); {largest}."
    if not held:
        said = f"What the pools hold is not told here; of memory that tags miss {largest}."
    if frames is not None:
        said += _describe_largest_use(frames)
    small = describe_small_pools(sheet, sum(pools.values())) if frames is None and len(pools) == len(PoolKind) else ""
    said += f" {small}" if small else ""
    unexplained = sheet.unexplained_bytes if sheet else None
    if sheet is not None and unexplained is not None and sheet.committed_bytes:
        share = format_share(max(0, unexplained) / sheet.committed_bytes)
        told = any(line.name in _OF_PROCESSES for line in sheet.lines)
        whose = "" if told else ": processes' own memory, and what no kernel tells"
        said += f" {share} of what is committed is in no counter{whose}."
    return said


def _describe_largest_use(frames: PageFrames) -> str:
    """The largest use where it is none of the pools; of frames read in part its share is of these alone."""
    used = [count for count in frames.uses if not count.use.is_available]
    if not used or used[0].use in (FrameUse.NONPAGED_POOL, FrameUse.PAGED_POOL):
        return ""
    held = f"{used[0].use.value}: {format_bytes(used[0].frames * frames.frame_bytes)}"
    if not frames.is_sampled and frames.read < frames.expected:
        share = format_share(used[0].frames / max(1, frames.read))
        read = f"{format_count(frames.read)} of {count_things(frames.expected, 'page frame')}"
        return f" Of {read}, whose records could be read, the largest use is {held}, {share} of these."
    return f" The largest use is {held}, {format_share(used[0].frames / max(1, frames.expected))} of the machine."


def name_holder(holder: MappingHolder) -> str:
    """``tag Foo``, or the driver's name."""
    return f"blocks of tag {holder.name}" if holder.is_tag else holder.name


def _describe_mappers(mappers: Sequence[MappingHolder], dominant: UntaggedMemory) -> str:
    """Who points at the mappings, or at lists of the pages, with the grade of that; only where it is much of them."""
    are_mapped = dominant.kind is UntaggedKind.SYSTEM_PTES
    who = "Who mapped" if are_mapped else "Who took"
    if not mappers:
        leads = "points there" if are_mapped else "leads to a list of such pages (MDL)"
        return f"{who} them is not told by this dump: no data of a driver in it {leads}."
    first = mappers[0]
    name, most = name_holder(first), format_bytes(first.most_bytes)
    if first.most_bytes < NOTABLE_SHARE * dominant.bytes:
        leads = "points at is" if are_mapped else "has in lists is"
        return f"{who} most of them is not told by this dump: what {name} {leads} {most} at most."
    if are_mapped:
        return (
            f"Up to {most} of them ({count_things(first.ranges, 'range')}) is what {name} points at "
            "(possible: who points there need not have mapped it)."
        )
    return (
        f"Up to {most} of them are in {count_things(first.ranges, 'list')} of pages (MDL) that the data of {name} lead "
        "to (possible: who points there need not have taken them)."
    )


def _describe_totals(sheet: Optional[CommitSheet], held: str) -> str:
    """Of a source that tells totals alone."""
    unexplained = sheet.unexplained_bytes if sheet else None
    if sheet is None or unexplained is None or not sheet.committed_bytes or not held:
        return "No verdict: what is outside the pools cannot be read here; the tag tables are all that is told."
    share = format_share(max(0, unexplained) / sheet.committed_bytes)
    said = f"Of {format_bytes(sheet.committed_bytes)} committed the pools hold {held}."
    largest = name_largest_lines(sheet)
    if largest:
        said += f" The largest counters beside them: {largest}."
    rest = f"{format_bytes(max(0, unexplained))} ({share})"
    return f"No verdict on what is outside the pools. {said} {rest} are in no counter of this source."


def describe_small_pools(sheet: Optional[CommitSheet], pool_bytes: int) -> str:
    """That the pools are a small part of what is committed, and what is not; empty where that is not known."""
    if sheet is None or not sheet.committed_bytes or not 0 < pool_bytes < SMALL_SHARE * sheet.committed_bytes:
        return ""
    share = format_share(pool_bytes / sheet.committed_bytes)
    said = f"The pools hold {share} of the {format_bytes(sheet.committed_bytes)} that are committed: little."
    largest = name_largest_lines(sheet)
    return f"{said} The largest counters beside them: {largest}." if largest else said


def name_largest_lines(sheet: CommitSheet) -> str:
    """The largest lines of a commit sheet that are no pool's, with their shares; empty where none is large."""
    committed = sheet.committed_bytes or 0
    lines = sorted((line for line in sheet.lines if line.part is not CommitPart.POOL), key=lambda line: -line.bytes)
    large = [line for line in lines[:MAX_LINES_NAMED] if line.bytes >= SMALL_SHARE * committed > 0]
    return " and ".join(
        f"{line.name}, {format_bytes(line.bytes)} ({format_share(line.bytes / committed)})" for line in large
    )
