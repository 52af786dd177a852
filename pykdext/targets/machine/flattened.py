"""Files that makedumpfile or QEMU wrote to a pipe: pieces of the real file, each with its offset (flattened format).

Layout: makedumpfile's IMPLEMENTATION; checked against QEMU. The pieces do not ascend, and a later one wins.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import List, Protocol, Tuple

from pykdext.errors import DumpFormatError
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.memory import MemoryRange, settle_ranges
from pykdext.units import count_things

MAX_RECORDS = 1 << 22

_HEADER_BYTES = 0x1000
_HEADER = struct.Struct(">16sqq")
_RECORD = struct.Struct(">qq")


class Readable(Protocol):
    """Bytes at offsets: a file, or what a flattened file stands for."""

    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``."""


class FlattenedFile:
    """The file that a flattened one stands for.

    Attributes:
        size: where its last piece ends. warnings: what is wrong with it.
    """

    def __init__(self, file: FileBytes) -> None:
        """DumpFormatError for another version, or more pieces than any tool writes."""
        self._file = file
        head = file.read_at(0, _HEADER.size)
        _, kind, version = _HEADER.unpack(head.ljust(_HEADER.size, b"\0"))
        if (kind, version) != (1, 1):
            raise DumpFormatError(file.path, 0x10, f"a flattened file of type {kind}, version {version}", "1, 1")
        records, self.warnings = _read_records(file)
        placed = settle_ranges(records[::-1]) if records else []
        self._starts = [start for start, _, _ in placed]
        self._placed = placed
        self.size = placed[-1][0] + placed[-1][2] if placed else 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, fewer where a piece is missing."""
        pieces: List[bytes] = []
        reached, end = offset, offset + size
        for at in range(max(bisect_right(self._starts, offset) - 1, 0), len(self._placed)):
            start, place, length = self._placed[at]
            if start > reached or start >= end:
                break
            if reached < start + length:
                data = self._file.read_at(place + reached - start, min(end, start + length) - reached)
                pieces.append(data)
                reached += len(data)
        return b"".join(pieces)


def _read_records(file: FileBytes) -> Tuple[List[MemoryRange], Tuple[str, ...]]:
    """The pieces in the file's order (offset in the real file, place, size), and a warning if the end is missing."""
    records: List[MemoryRange] = []
    at = _HEADER_BYTES
    while len(records) < MAX_RECORDS:
        data = file.read_at(at, _RECORD.size)
        if len(data) < _RECORD.size:
            return records, ("the file has no end mark: it was cut short while it was written or copied",)
        offset, size = _RECORD.unpack(data)
        at += _RECORD.size
        if offset == -1 and size == -1:
            return records, ()
        if offset < 0 or size < 0:
            return records, (
                f"the file is damaged at 0x{at - _RECORD.size:x}: a piece of {count_things(size, 'byte')} at {offset}",
            )
        if size:
            records.append(MemoryRange(offset, at, size))
        at += size
    raise DumpFormatError(file.path, at, f"more than {MAX_RECORDS:,} pieces", "fewer", "the file is damaged")
