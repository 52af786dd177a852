"""Whether a machine was restarted between two snapshots, and what counters that went back mean."""

from __future__ import annotations

from typing import Optional, Tuple

from pykdext.model import PoolSnapshot, TimeOrigin
from pykdext.units import count_things, format_duration

COUNTER_RANGE = 1 << 32
"""Allocations and frees have 32 bits in SYSTEM_POOLTAG (NtQuerySystemInformation), and so in every log."""

UPTIME_SLACK_SECONDS = 60.0
UPTIME_SLACK_SHARE = 0.01
"""How far uptime and the clock may drift apart: somebody sets the clock, a log writes minutes only."""

RESTART_SHARE = 0.25
"""So many counters go back only in a restart: what begins anew is below its old count at first."""


MIN_FILE_SECONDS = 300.0
"""Two files that were written within less may be copies, or pastes of one sitting: their times tell nothing."""


def is_file_time(snapshot: PoolSnapshot) -> bool:
    """Whether the time is that of a file's last change, which a copy of the file may have changed."""
    return snapshot.time_from is TimeOrigin.FILE_TIME


def seconds_between(earlier: PoolSnapshot, later: PoolSnapshot) -> Optional[float]:
    """Seconds from one snapshot to the other; None where either has no time."""
    if earlier.taken_at is None or later.taken_at is None:
        return None
    return (later.taken_at - earlier.taken_at).total_seconds()


def trusted_seconds_between(earlier: PoolSnapshot, later: PoolSnapshot) -> Optional[float]:
    """Seconds from one snapshot to the other; None also where times of files may be those of copies.

    That is where they are close together, or contradict the order of the states.
    """
    seconds = seconds_between(earlier, later)
    is_of_files = TimeOrigin.FILE_TIME in (earlier.time_from, later.time_from)
    return None if seconds is None or (is_of_files and seconds < MIN_FILE_SECONDS) else seconds


def find_restart(earlier: PoolSnapshot, later: PoolSnapshot) -> Optional[str]:
    """How a restart between the two shows, in words; None if nothing shows one.

    The count of boots decides where both have it, then uptime where both have that and their times; else counters do.
    """
    if None not in (earlier.boot_id, later.boot_id) and earlier.boot_id != later.boot_id:
        return f"Windows counts its boots: number {earlier.boot_id:,}, then number {later.boot_id:,}"
    if is_same_boot(earlier, later):
        return None
    seconds = seconds_between(earlier, later)
    if later.uptime_seconds is not None:
        up = format_duration(later.uptime_seconds)
        if seconds is not None and later.uptime_seconds < seconds - _slack_seconds(seconds):
            return f"the machine was up {up} only, {format_duration(seconds)} after the sample before"
        if earlier.uptime_seconds is not None and later.uptime_seconds < earlier.uptime_seconds:
            return f"uptime went back from {format_duration(earlier.uptime_seconds)} to {up}"
    compared, gone_back = count_gone_back(earlier, later)
    if gone_back and gone_back >= RESTART_SHARE * compared:
        return f"the counters of {gone_back:,} of {count_things(compared, 'tag')} went back"
    return None


def is_same_boot(earlier: PoolSnapshot, later: PoolSnapshot) -> bool:
    """Whether uptime proves that the machine ran from one snapshot to the other."""
    seconds = seconds_between(earlier, later)
    if seconds is None or earlier.uptime_seconds is None or later.uptime_seconds is None:
        return False
    return abs(later.uptime_seconds - earlier.uptime_seconds - seconds) <= _slack_seconds(seconds)


def is_wrap(earlier: Optional[int], later: Optional[int]) -> bool:
    """Whether a counter went through zero: from the upper half of its 32 bits to the lower half."""
    if earlier is None or later is None:
        return False
    return later < COUNTER_RANGE // 2 <= earlier < COUNTER_RANGE


def _slack_seconds(seconds: float) -> float:
    return UPTIME_SLACK_SECONDS + UPTIME_SLACK_SHARE * abs(seconds)


def count_gone_back(earlier: PoolSnapshot, later: PoolSnapshot) -> Tuple[int, int]:
    """How many sides of tags have allocations in both, and in how many these went back and did not wrap."""
    rows = {row.tag.raw: row for row in earlier.tags}
    compared = gone_back = 0
    for after in later.tags:
        before = rows.get(after.tag.raw)
        if before is None:
            continue
        for old, new in (
            (before.nonpaged.allocs, after.nonpaged.allocs),
            (before.paged.allocs, after.paged.allocs),
        ):
            if old and new is not None:
                compared += 1
                if new < old and not is_wrap(old, new):
                    gone_back += 1
    return compared, gone_back
