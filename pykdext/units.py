"""Numbers, moments and lists of names as people read them."""

from __future__ import annotations

from datetime import datetime
from typing import Optional, Sequence

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
        return count_things(round(size), "byte")
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


def format_change(number: Optional[int]) -> str:
    """``+3,141``, ``-3``, ``0``; ``-`` alone for None."""
    return "-" if number is None else f"{number:+,}" if number else "0"


def format_rate(bytes_per_hour: Optional[float]) -> str:
    """``+1.20 MB``, ``-300 bytes``; ``-`` alone for None."""
    if bytes_per_hour is None:
        return "-"
    return ("+" if round(bytes_per_hour) > 0 else "") + format_bytes(bytes_per_hour)


def format_moment(
    moment: Optional[datetime], seconds: bool = True, zone: bool = True, unknown: str = "time not known"
) -> str:
    """``2024-11-10 16:00:07 UTC``, or without seconds or zone; ``unknown`` for None. All moments are UTC."""
    if moment is None:
        return unknown
    clock = f"{moment:%Y-%m-%d %H:%M:%S}" if seconds else f"{moment:%Y-%m-%d %H:%M}"
    return f"{clock} UTC" if zone else clock


def format_day(moment: Optional[datetime]) -> str:
    """``2024-11-10``; ``-`` for None."""
    return f"{moment:%Y-%m-%d}" if moment else "-"


def count_things(count: Optional[int], word: str, plural: Optional[str] = None) -> str:
    """``1 host``, ``2,000 hosts``, ``- hosts`` for None; ``plural`` where that is not the word with an s."""
    return f"{format_count(count)} {choose_form(count, word, plural or f'{word}s')}"


def say_ratio(ratio: float) -> str:
    """How many there are for each of something else, with the whole number on the larger side."""
    if round(ratio) > 1:
        return f"{round(ratio)} for each"
    return "one for each" if round(1 / ratio) <= 1 else f"one for every {round(1 / ratio)}"


def choose_form(count: Optional[int], singular: str, plural: str) -> str:
    """The form of a word that fits a count of things: ``is`` of one (more or less), ``are`` of any other number."""
    return singular if count in (1, -1) else plural


def say_rest(total: int, shown: int, word: str = "", plural: Optional[str] = None) -> str:
    """``and 3 more``, ``and 1 more size``: what is left of ``total`` after those ``shown``; empty if nothing is."""
    if total <= shown:
        return ""
    return (
        f"and {count_things(total - shown, f'more {word}', plural and f'more {plural}')}"
        if word
        else f"and {total - shown:,} more"
    )


def name_some(names: Sequence[str], limit: int = 4) -> str:
    """``a, b, c, d and 3 more``: the first ``limit`` of many names, and how many more there are."""
    rest = say_rest(len(names), limit)
    return ", ".join(names[:limit]) + (f" {rest}" if rest else "")
