"""Lists of loaded and of unloaded drivers (_KLDR_DATA_TABLE_ENTRY and _UNLOADED_DRIVERS of public symbols)."""

from __future__ import annotations

import struct
from typing import NamedTuple, Sequence

from dumps.forge.architectures import Architecture

UNLOADED_SLOTS = 50

_FIRST_WITH_TIMESTAMPS = 10240


class UnloadedDriver(NamedTuple):
    """A driver that left: its name, its old range of addresses, and when it left (FILETIME)."""

    name: str
    start: int
    end: int
    unloaded_at: int


class EntryLayout(NamedTuple):
    """Offsets in an entry of PsLoadedModuleList; ``image`` is where DllBase, EntryPoint and SizeOfImage stand."""

    size: int
    image: int
    path: int
    name: int
    flags: int
    checksum: int
    timestamp: int


_WIDE = EntryLayout(size=0xA0, image=0x30, path=0x48, name=0x58, flags=0x68, checksum=0x78, timestamp=0x98)
_NARROW = EntryLayout(size=0x5C, image=0x18, path=0x24, name=0x2C, flags=0x34, checksum=0x40, timestamp=0x54)


def entry_layout(architecture: Architecture) -> EntryLayout:
    """Return the layout of loader entries."""
    return _NARROW if architecture.narrow else _WIDE


def pack_entry(
    architecture: Architecture,
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
    checksum: int,
    build: int,
) -> bytes:
    """Return one entry of PsLoadedModuleList; kernels before Windows 10 keep no time stamp in it."""
    layout = entry_layout(architecture)
    entry = bytearray(layout.size)
    pieces = [
        (0, architecture.pack_pointers(next_va, previous_va)),
        (layout.image, architecture.pack_pointers(base, entry_point) + struct.pack("<I", size)),
        (layout.path, architecture.pack_unicode_string(path, path_va)),
        (layout.name, architecture.pack_unicode_string(name, name_va)),
        (layout.flags, struct.pack("<IH", 0x49104000, 1)),
        (layout.checksum, struct.pack("<I", checksum)),
    ]
    if build >= _FIRST_WITH_TIMESTAMPS:
        pieces.append((layout.timestamp, struct.pack("<II", size, timestamp)))
    for offset, data in pieces:
        entry[offset : offset + len(data)] = data
    return bytes(entry)


def pack_unloaded(architecture: Architecture, drivers: Sequence[UnloadedDriver], ring_va: int) -> bytes:
    """Return the ring of 50 entries, which will lie at ``ring_va``, and behind it the names."""
    ring_bytes = UNLOADED_SLOTS * (4 * architecture.pointer_bytes + 8)
    ring, names = b"", b""
    for driver in drivers:
        ring += architecture.pack_unicode_string(driver.name, ring_va + ring_bytes + len(names))
        ring += architecture.pack_pointers(driver.start, driver.end) + struct.pack("<Q", driver.unloaded_at)
        names += driver.name.encode("utf-16-le") + b"\0\0"
    return ring.ljust(ring_bytes, b"\0") + names
