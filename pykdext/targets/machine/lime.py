"""LiME images: each range of memory behind a header of its own. Layout: LiME's documentation, LeechCore's reader."""

from __future__ import annotations

import struct
from typing import List

from pykdext.errors import DumpFormatError
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.image import MachineImage
from pykdext.targets.machine.memory import MAX_RANGES, FileRanges, MemoryRange

_MAGIC, _VERSION = 0x4C694D45, 1
_HEADER = struct.Struct("<IIQQ8x")

WINDBG_HINT = "WinDbg does not open it; MemProcFS shows it as memory.dmp, which WinDbg opens"


def open_lime(file: FileBytes) -> MachineImage:
    """The memory of a LiME image; one that is damaged is read as far as its headers are right."""
    ranges: List[MemoryRange] = []
    warnings: List[str] = []
    at = 0
    while at < file.size and len(ranges) < MAX_RANGES:
        data = file.read_at(at, _HEADER.size)
        magic, version, start, last = _HEADER.unpack(data.ljust(_HEADER.size, b"\0"))
        if len(data) < _HEADER.size or magic != _MAGIC or version != _VERSION or last < start:
            if not ranges:
                found = f"a LiME header of version {version}"
                raise DumpFormatError(file.path, at, found, f"version {_VERSION}", "the file is damaged")
            warnings.append(f"the file is damaged at 0x{at:x}: no range of memory begins there")
            break
        size = last - start + 1
        ranges.append(MemoryRange(start, at + _HEADER.size, size))
        at += _HEADER.size + size
    memory = FileRanges(file, ranges, tuple(warnings))
    return MachineImage("LiME image", memory, windbg_hint=WINDBG_HINT)
