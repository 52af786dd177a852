"""Calls into Windows by ctypes. Can be imported on Windows only; ``live`` does, when it is asked to."""

from __future__ import annotations

import ctypes
import sys
from ctypes import wintypes
from typing import Tuple

assert sys.platform == "win32"  # type checkers on other systems skip the rest

_SYSTEM_POOL_TAG_INFORMATION = 22
_PERFORMANCE_INFORMATION_BYTES = 104 if ctypes.sizeof(ctypes.c_void_p) == 8 else 56


def query_pool_tags(buffer: ctypes.Array[ctypes.c_char]) -> Tuple[int, int]:
    """Have the kernel fill ``buffer`` with its pool tags; the NTSTATUS, and the bytes written or needed."""
    query = ctypes.WinDLL("ntdll").NtQuerySystemInformation
    query.restype = wintypes.ULONG
    length = wintypes.ULONG()
    status = query(_SYSTEM_POOL_TAG_INFORMATION, buffer, len(buffer), ctypes.byref(length))
    return status, length.value


def read_uptime_seconds() -> float:
    """Seconds since Windows was started."""
    tick_count = ctypes.WinDLL("kernel32").GetTickCount64
    tick_count.restype = ctypes.c_ulonglong
    return float(tick_count()) / 1000


def read_performance_information() -> bytes:
    """The PERFORMANCE_INFORMATION of psapi.h; empty if the call fails."""
    buffer = ctypes.create_string_buffer(_PERFORMANCE_INFORMATION_BYTES)
    succeeded = ctypes.WinDLL("psapi").GetPerformanceInfo(buffer, len(buffer))
    return buffer.raw if succeeded else b""
