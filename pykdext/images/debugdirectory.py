"""What a linker left in an image for debuggers: which PDB belongs to it, and whether its time stamp is a time.

Layouts are those of Microsoft's "PE Format" page (debug directory) and, for the CodeView record ``RSDS``, those that
LLVM's documentation of PDB files gives.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Iterator, NamedTuple, Optional

from construct import Bytes, Int32ul, Padding, Struct

from pykdext.images.headers import ReadRange
from pykdext.symbols.identity import PdbName

MAX_DEBUG_ENTRIES = 32
MAX_PDB_PATH_BYTES = 1024

_CODEVIEW, _REPRODUCIBLE = 2, 16
_DEBUG_ENTRY = Struct(Padding(12), "type" / Int32ul, "size" / Int32ul, "rva" / Int32ul, Padding(4))
_RSDS = Struct("signature" / Bytes(4), "guid" / Bytes(16), "age" / Int32ul)

_FIRST_LINK = datetime(1995, 1, 1, tzinfo=timezone.utc)
"""No driver that can still be loaded is older."""

_CLOCK_ERROR = timedelta(days=1)


class DebugDirectory(NamedTuple):
    """``is_reproducible``: the linker put a hash where the time stamp belongs (``/Brepro``)."""

    pdb: Optional[PdbName] = None
    is_reproducible: bool = False


def read_debug_directory(read: ReadRange, rva: int, size: int) -> DebugDirectory:
    """The debug directory of ``size`` bytes at ``rva``, as far as ``read`` gives it."""
    entries = list(_iter_entries(read, rva, size))
    identities = (_read_rsds(read, entry) for entry in entries if entry.type == _CODEVIEW)
    return DebugDirectory(
        pdb=next((identity for identity in identities if identity), None),
        is_reproducible=any(entry.type == _REPRODUCIBLE for entry in entries),
    )


def link_time(timestamp: int) -> Optional[datetime]:
    """The time (UTC) that a header's TimeDateStamp is; None for a number that no linker's clock showed."""
    linked_at = datetime.fromtimestamp(timestamp, timezone.utc)
    return linked_at if _FIRST_LINK <= linked_at <= datetime.now(timezone.utc) + _CLOCK_ERROR else None


def _iter_entries(read: ReadRange, rva: int, size: int) -> Iterator[Any]:
    entry_bytes = _DEBUG_ENTRY.sizeof()
    for index in range(min(size // entry_bytes, MAX_DEBUG_ENTRIES)):
        raw = read(rva + index * entry_bytes, entry_bytes)
        if raw:
            yield _DEBUG_ENTRY.parse(raw)


def _read_rsds(read: ReadRange, entry: Any) -> Optional[PdbName]:
    if entry.size <= _RSDS.sizeof():
        return None
    raw = read(entry.rva, min(entry.size, MAX_PDB_PATH_BYTES))
    if raw is None or raw[:4] != b"RSDS":
        return None
    record = _RSDS.parse(raw)
    path = raw[_RSDS.sizeof() :].split(b"\0")[0].decode("utf-8", "replace")
    groups = (record.guid[3::-1], record.guid[5:3:-1], record.guid[7:5:-1], record.guid[8:])
    return PdbName(path.replace("/", "\\").rpartition("\\")[2], b"".join(groups).hex().upper(), record.age)
