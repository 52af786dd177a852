"""Numbers as people read them."""

from __future__ import annotations

from typing import Optional

_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")


def format_bytes(size: Optional[float]) -> str:
    """``1.86 GB`` (1 KB is 1024 bytes, as WinDbg counts); ``-`` for None."""
    if size is None:
        return "-"
    unit = 0
    while abs(size) >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    if unit == 0:
        return f"{size:.0f} bytes"
    return f"{size:.{2 if abs(size) < 10 else 1 if abs(size) < 100 else 0}f} {_UNITS[unit]}"


def format_count(count: Optional[int]) -> str:
    """``3,141,592``; ``-`` for None."""
    return "-" if count is None else f"{count:,}"


def format_share(share: Optional[float]) -> str:
    """``81%``; a share that is not nothing is never shown as 0, nor one that is not all as 100. ``-`` for None."""
    if share is None:
        return "-"
    percent = 100 * share
    if 0 < percent < 0.01:
        return "<0.01%"
    if 99.95 <= percent < 100:
        return ">99.9%"
    digits = 2 if 0 < percent < 0.1 else 1 if 0 < percent < 10 or 99 < percent < 100 else 0
    return f"{percent:.{digits}f}%"


def format_duration(seconds: Optional[float]) -> str:
    """``12 d 3 h``, ``3 h 5 min``, ``5 min 2 s``, ``2 s``; ``-`` for None."""
    if seconds is None:
        return "-"
    minutes, whole_seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole_seconds} s" if minutes else f"{whole_seconds} s"


def format_address(address: int) -> str:
    """As WinDbg prints a 64-bit address: ``fffff804`bbe9109f``; a 32-bit one without the tick."""
    if address < 1 << 32:
        return f"{address:08x}"
    return f"{address >> 32:08x}`{address & 0xFFFFFFFF:08x}"
