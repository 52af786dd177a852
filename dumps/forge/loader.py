"""Lists of loaded and of unloaded drivers (_KLDR_DATA_TABLE_ENTRY and _UNLOADED_DRIVERS, x64)."""

from __future__ import annotations

import struct
from typing import NamedTuple, Sequence

ENTRY_BYTES = 0xA0
UNLOADED_BYTES = 0x28
UNLOADED_SLOTS = 50


class UnloadedDriver(NamedTuple):
    """A driver that left: its name, its old range of addresses, and when it left (FILETIME)."""

    name: str
    start: int
    end: int
    unloaded_at: int


def pack_unicode_string(text: str, buffer_va: int) -> bytes:
    """Return a UNICODE_STRING whose characters lie at ``buffer_va``."""
    length = len(text) * 2
    return struct.pack("<HHxxxxQ", length, length + 2, buffer_va)


def pack_entry(
    *,
    next_va: int,
    previous_va: int,
    base: int,
    entry_point: int,
    size: int,
    path: str,
    path_va: int,
    name: str,
    name_va: int,
    timestamp: int,
    build: int,
) -> bytes:
    """Return one entry of PsLoadedModuleList; kernels before Windows 10 keep no time stamp in it."""
    entry = bytearray(ENTRY_BYTES)
    struct.pack_into("<QQ", entry, 0, next_va, previous_va)
    struct.pack_into("<QQI", entry, 0x30, base, entry_point, size)
    entry[0x48:0x58] = pack_unicode_string(path, path_va)
    entry[0x58:0x68] = pack_unicode_string(name, name_va)
    struct.pack_into("<IH", entry, 0x68, 0x49104000, 1)
    struct.pack_into("<I", entry, 0x78, (base ^ size) >> 12 & 0xFFFFFF)
    if build >= 14393:
        struct.pack_into("<II", entry, 0x98, size, timestamp)
    return bytes(entry)


def pack_unloaded(drivers: Sequence[UnloadedDriver], ring_va: int) -> bytes:
    """Return the ring of 50 entries, which will lie at ``ring_va``, and behind it the names."""
    names_va = ring_va + UNLOADED_SLOTS * UNLOADED_BYTES
    ring, names = b"", b""
    for driver in drivers:
        ring += pack_unicode_string(driver.name, names_va + len(names))
        ring += struct.pack("<QQQ", driver.start, driver.end, driver.unloaded_at)
        names += driver.name.encode("utf-16-le") + b"\0\0"
    return ring.ljust(UNLOADED_SLOTS * UNLOADED_BYTES, b"\0") + names
