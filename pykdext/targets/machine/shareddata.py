"""KUSER_SHARED_DATA: what Windows tells every process of the system, and us of a memory without a dump's header.

Offsets: Microsoft's public symbols of Windows 7 to 11 (JPCERTCC/Windows-Symbol-Tables) and the WDK's ntddk.h.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import NamedTuple, Optional

from construct import Bytes, Int32sl, Int32ul, Pointer, Struct

from pykdext.errors import MemoryReadError
from pykdext.targets.protocol import PAGE_BYTES, VirtualReader

SHARED_DATA_ADDRESS = 0xFFFFF780_00000000
"""Where every 64-bit kernel maps it."""

_SHARED_DATA_ADDRESS_32 = 0xFFDF0000

_MAX_UPTIME_SECONDS = 100 * 365 * 24 * 3600
_MAX_PROCESSORS = 4096
_MAJOR_VERSIONS = (5, 6, 10)
_FIRST_BUILD_WITH_NUMBER = 10240
_BUILDS_OF_OLD_VERSIONS = {(5, 2): 3790, (6, 0): 6002, (6, 1): 7601, (6, 2): 9200, (6, 3): 9600}
"""The last service packs, by version: these systems do not tell their build here."""

_FIRST_BUILD_WITH_BOOT_ID = 14393
_FILETIME_EPOCH = datetime(1601, 1, 1, tzinfo=timezone.utc)
_SIZE_BYTES = 0x400

_KSYSTEM_TIME = Struct("LowPart" / Int32ul, "High1Time" / Int32sl, "High2Time" / Int32sl)

_KUSER_SHARED_DATA = Struct(
    "InterruptTime" / Pointer(0x008, _KSYSTEM_TIME),
    "SystemTime" / Pointer(0x014, _KSYSTEM_TIME),
    "NtSystemRoot" / Pointer(0x030, Bytes(0x40)),
    "NtBuildNumber" / Pointer(0x260, Int32ul),
    "NtMajorVersion" / Pointer(0x26C, Int32ul),
    "NtMinorVersion" / Pointer(0x270, Int32ul),
    "BootId" / Pointer(0x2C4, Int32ul),
    "NumberOfPhysicalPages" / Pointer(0x2E8, Int32ul),
    "ActiveProcessorCount" / Pointer(0x3C0, Int32ul),
)


class SharedData(NamedTuple):
    """The system's own facts. None: not told by this Windows, or damaged.

    ``build_by_version``: what an old system has, if its last service pack is installed.
    ``taken_at`` is the last clock tick: a machine that hangs at a high interrupt level stops its clock. ``uptime`` is
    the time since boot, sleep included. ``physical_pages``: RAM as Windows counts it. ``boot_id`` is the same for all
    memory of one boot.
    """

    build: Optional[int]
    build_by_version: Optional[int]
    taken_at: Optional[datetime]
    uptime_seconds: Optional[float]
    processors: Optional[int]
    physical_pages: Optional[int]
    boot_id: Optional[int]


def read_shared_data(memory: VirtualReader, pointer_bytes: int = 8) -> Optional[SharedData]:
    """The facts, or None: what is mapped there is not a Windows system's page of shared data."""
    address = SHARED_DATA_ADDRESS if pointer_bytes == 8 else _SHARED_DATA_ADDRESS_32
    try:
        data = memory.read(address, _SIZE_BYTES)
    except MemoryReadError:
        return None
    fields = _KUSER_SHARED_DATA.parse(data.ljust(PAGE_BYTES, b"\0"))
    root = fields.NtSystemRoot.decode("utf-16-le", "replace")
    if fields.NtMajorVersion not in _MAJOR_VERSIONS or not root[:1].isalpha() or root[1:3] != ":\\":
        return None
    build = fields.NtBuildNumber & 0xFFFF
    ticks = _join_time(fields.SystemTime)
    passed = _join_time(fields.InterruptTime)
    count = fields.ActiveProcessorCount
    return SharedData(
        build=build if build >= _FIRST_BUILD_WITH_NUMBER else None,
        build_by_version=_BUILDS_OF_OLD_VERSIONS.get((fields.NtMajorVersion, fields.NtMinorVersion)),
        taken_at=_moment(ticks),
        uptime_seconds=passed / 10_000_000 if passed and passed < _MAX_UPTIME_SECONDS * 10_000_000 else None,
        processors=count if 0 < count <= _MAX_PROCESSORS else None,
        physical_pages=fields.NumberOfPhysicalPages or None,
        boot_id=fields.BootId or None if build >= _FIRST_BUILD_WITH_BOOT_ID else None,
    )


def _join_time(value: object) -> Optional[int]:
    """A KSYSTEM_TIME in 100 ns, or None while its halves do not agree: it was imaged while the clock wrote it."""
    low, high, again = value.LowPart, value.High1Time, value.High2Time  # type: ignore[attr-defined]
    return int(high << 32 | low) if high == again else None


def _moment(filetime: Optional[int]) -> Optional[datetime]:
    if not filetime or filetime < 0:
        return None
    try:
        return _FILETIME_EPOCH + timedelta(microseconds=filetime // 10)
    except OverflowError:
        return None
