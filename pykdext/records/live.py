"""The pools of the Windows that this process runs on, without debugger, driver kit or installation.

NtQuerySystemInformation gives the table that poolmon shows (class SystemPoolTagInformation; layouts as in phnt's
``ntexapi.h``), GetPerformanceInfo the totals of the memory manager, GetTickCount64 the uptime (Win32 documentation).
"""

from __future__ import annotations

import os
import platform
import struct
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Callable, NamedTuple, Tuple

from pykdext.errors import TargetError
from pykdext.model import (
    Machine,
    PoolKind,
    PoolSnapshot,
    PoolUsage,
    SnapshotSource,
    SystemMemory,
    TagUsage,
)
from pykdext.records.tagtable import TagTable, tag_of_bytes, unwrap_counts
from pykdext.units import count_things

if TYPE_CHECKING:
    import ctypes

STATUS_INFO_LENGTH_MISMATCH = 0xC0000004

FIRST_BUFFER_BYTES = 256 << 10
"""Room for 6,500 tags on 64-bit Windows; a server has about 3,000."""
MAX_BUFFER_BYTES = 64 << 20
"""The kernel's tables cannot hold more tags than fit in this."""

WOW64 = "this is a 32-bit Python on 64-bit Windows: sizes above 4 GB are not shown in full"

_MACHINES = {"AMD64": Machine.X64, "x86": Machine.X86, "ARM64": Machine.ARM64}


class _Layout(NamedTuple):
    """SYSTEM_POOLTAG_INFORMATION: where the entries begin, after a 32-bit count, and how one is laid out.

    An entry is the tag, then allocations, frees and bytes of the paged pool, then those of the nonpaged pool.
    """

    first_entry: int
    entry: struct.Struct


_LAYOUTS = {4: _Layout(4, struct.Struct("<4s6I")), 8: _Layout(8, struct.Struct("<4sII4xQIIQ"))}

_PERFORMANCE_INFORMATION = {4: struct.Struct("<I10I"), 8: struct.Struct("<I4x10Q")}
"""By pointer size: the size of the structure; commit total, limit and peak, physical total and available, system cache,
kernel total, kernel paged and nonpaged, all in pages; bytes of a page. Counts of handles and processes follow.
"""

Query = Callable[["ctypes.Array[ctypes.c_char]"], Tuple[int, int]]
"""Fills a buffer; gives the NTSTATUS and the length in bytes that was written, or would be needed."""


def read_live_snapshot() -> PoolSnapshot:
    """The pools of this machine, now.

    Raises:
        TargetError: this is not Windows, or Windows refuses.
    """
    if sys.platform != "win32":
        raise TargetError(
            f"live pools: found {platform.system() or sys.platform}, expected Windows. "
            "Hint: poolleak record --recipe prints a script to run there"
        )
    from pykdext.records import windowscalls

    pointer_size = struct.calcsize("P")
    tags = parse_pool_tag_information(read_growing(windowscalls.query_pool_tags), pointer_size)
    is_wow64 = pointer_size == 4 and bool(os.environ.get("PROCESSOR_ARCHITEW6432"))
    return PoolSnapshot(
        source=SnapshotSource("live Windows"),
        tags=tags,
        taken_at=datetime.now(timezone.utc),
        host=platform.node() or None,
        build=sys.getwindowsversion().build,
        machine=_MACHINES.get(platform.machine()),
        processors=os.cpu_count(),
        uptime_seconds=windowscalls.read_uptime_seconds(),
        memory=parse_performance_information(windowscalls.read_performance_information(), pointer_size),
        warnings=(WOW64,) if is_wow64 else (),
    )


def parse_pool_tag_information(buffer: bytes, pointer_size: int) -> Tuple[TagUsage, ...]:
    """The tags of a SYSTEM_POOLTAG_INFORMATION, as a process with pointers of 4 or 8 bytes gets it.

    Raises:
        TargetError: the buffer is shorter than its count says.
    """
    layout = _LAYOUTS[pointer_size]
    count = int.from_bytes(buffer[:4], "little")
    end = layout.first_entry + count * layout.entry.size
    if len(buffer) < max(4, end):
        raise TargetError(
            f"pool tags: found {count_things(len(buffer), 'byte')}, expected {end:,} for {count_things(count, 'tag')}"
        )
    table = TagTable()
    for raw, *numbers in layout.entry.iter_unpack(buffer[layout.first_entry : end]):
        tag = tag_of_bytes(raw)
        table.add(tag, PoolKind.PAGED, _make_usage(*numbers[:3]))
        table.add(tag, PoolKind.NONPAGED, _make_usage(*numbers[3:]))
    return table.usages


def _make_usage(allocs: int, frees: int, used_bytes: int) -> PoolUsage:
    outstanding, clamped = unwrap_counts(allocs - frees)
    return PoolUsage(allocs, frees, outstanding, used_bytes, clamped)


def read_growing(query: Query) -> bytes:
    """The answer of a query whose length is not known beforehand, in a buffer that grows until it fits.

    Raises:
        TargetError: the query fails, or wants more than ``MAX_BUFFER_BYTES``.
    """
    import ctypes  # only live mode needs it

    size = FIRST_BUFFER_BYTES
    while size <= MAX_BUFFER_BYTES:
        buffer = ctypes.create_string_buffer(size)
        status, length = query(buffer)
        if status == 0:
            return buffer.raw[:length]
        if status != STATUS_INFO_LENGTH_MISMATCH:
            raise TargetError(f"NtQuerySystemInformation: found status 0x{status:08x}, expected success")
        size = max(2 * size, length)
    raise TargetError(f"NtQuerySystemInformation: found a table above {MAX_BUFFER_BYTES >> 20} MB, expected pool tags")


def parse_performance_information(buffer: bytes, pointer_size: int) -> SystemMemory:
    """The totals in a PERFORMANCE_INFORMATION of a process with pointers of 4 or 8 bytes; none if it is empty."""
    if not buffer:
        return SystemMemory()
    numbers = _PERFORMANCE_INFORMATION[pointer_size].unpack_from(buffer)
    _, commit, commit_limit, _, physical, available, _, _, paged, nonpaged, page_bytes = numbers
    return SystemMemory(
        nonpaged_bytes=nonpaged * page_bytes,
        paged_bytes=paged * page_bytes,
        commit_bytes=commit * page_bytes,
        commit_limit_bytes=commit_limit * page_bytes,
        physical_bytes=physical * page_bytes,
        available_bytes=available * page_bytes,
    )
