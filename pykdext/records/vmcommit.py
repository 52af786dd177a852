"""The commit sheet in the text of WinDbg's ``!vm``: who was charged for committed memory, in pages, line by line.

On a real Windows 10 the lines up to ``Sum System Commit`` add up to it, and with ``Total Private`` and
``Misc/Transient Commit`` to the committed pages. That last line is what the debugger itself cannot explain.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from pykdext.model.memory import CommitLine, CommitPart, CommitSheet, MemoryFailure

_LINE = re.compile(
    r"^[ \t>]*(?P<name>[A-Z][A-Za-z/ ]{3,30}?):?[ \t]{1,40}(?P<pages>\d{1,20})"
    r"[ \t]{1,20}\([ \t]{0,20}(?P<kilobytes>\d{1,20})[ \t]?Kb\)",
    re.MULTILINE,
)
_FAILURE = re.compile(r"^[* \t]{0,40}(\d{1,20}) ([a-z][A-Za-z ]{3,60}) (?:attempts )?have failed", re.MULTILINE)

_PARTS: Dict[str, CommitPart] = {
    "NonPagedPool Commit": CommitPart.POOL,
    "PagedPool Commit": CommitPart.POOL,
    "Special Pool": CommitPart.POOL,
    "Pages For MDLs": CommitPart.DRIVERS,
    "ContigMem Pages": CommitPart.DRIVERS,
    "Pages For AWE": CommitPart.DRIVERS,
    "Processor Commit": CommitPart.SYSTEM,
    "Session Commit": CommitPart.SYSTEM,
    "Kernel Stacks": CommitPart.SYSTEM,
    "Driver Commit": CommitPart.SYSTEM,
    "Boot Commit": CommitPart.SYSTEM,
    "PFN Array Commit": CommitPart.SYSTEM,
    "SmallNonPagedPtesCommit": CommitPart.SYSTEM,
    "SlabAllocatorPages": CommitPart.SYSTEM,
    "System PageTables": CommitPart.SYSTEM,
    "VAD/PageTable Bitmaps": CommitPart.SYSTEM,
    "Pagefile Hash Pages": CommitPart.SYSTEM,
    "ProcessLockedFilePages": CommitPart.PROCESSES,
    "Total Private": CommitPart.PROCESSES,
    "Shared Commit": CommitPart.SHARED,
}
_TOTALS = {
    "Committed pages": "committed_bytes",
    "Commit limit": "limit_bytes",
    "Physical Memory": "physical_bytes",
    "Available Pages": "available_bytes",
    "ResAvail Pages": "resident_available_bytes",
}
_MAX_BYTES = 1 << 63
"""A larger number is a counter that went below zero."""


def parse_commit_sheet(text: str) -> Optional[CommitSheet]:
    """The sheet of one ``!vm``; None where it has no line of it.

    A line that is larger than all that is committed (the debugger prints such) is left out and named.
    """
    sizes = {line["name"]: int(line["kilobytes"]) << 10 for line in _LINE.finditer(text)}
    totals: Dict[str, Any] = {
        field: size for name, field in _TOTALS.items() if (size := sizes.get(name, _MAX_BYTES)) < _MAX_BYTES
    }
    known = {name: sizes[name] for name in _PARTS if name in sizes}
    if not known:
        return None
    most = totals.get("committed_bytes", _MAX_BYTES - 1)
    return CommitSheet(
        lines=tuple(CommitLine(name, _PARTS[name], size) for name, size in known.items() if size <= most),
        failures=tuple(MemoryFailure(name, int(count)) for count, name in _FAILURE.findall(text)),
        doubtful=tuple(name for name, size in known.items() if size > most),
        **totals,
    )
