"""Dates and times as logs, consoles of several countries, WinDbg and file names write them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Mapping, NamedTuple, Optional, Tuple

ZONE_UNKNOWN = "the log does not name the zone of its times; they are taken as UTC"
MONTH_FIRST = "dates such as 4/5/2024 are read as month/day/year"

_YEARS = range(1990, 2100)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Moment(NamedTuple):
    """A moment in UTC, and what had to be assumed to read it (each a sentence for the user)."""

    at: datetime
    doubts: Tuple[str, ...] = ()


_GAP = r"\s{1,3}"
_CLOCK = (
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d\d)(?:[:.](?P<second>\d\d)(?:[.,]\d{1,9})?)?(?:\s*(?P<half>[AaPp])\.?[Mm]\b)?"
)
_ZONE = r"(?:\s*(?P<zone>Z\b|GMT\b|\(?UTC(?:\s*[+-]\s*\d{1,2}:\d\d)?\)?|[+-]\d\d:?\d\d(?!\d)))?"
_YEAR = r"(?P<year>\d{4})"
_DAY = r"(?P<day>\d{1,2})"
_MONTH_NAME = r"(?P<month>[A-Z][a-z]{2,8})"
_WEEKDAY = rf"(?:(?P<weekday>[A-Za-z]{{3,9}})[.,]{{0,2}}{_GAP})?"
_TWO_NUMBERS = r"(?<![\d.])(?P<first>\d{1,2})(?P<mark>[./-])(?P<other>\d{1,2})(?P=mark)"
_FORMS = tuple(
    re.compile(form + _ZONE)
    for form in (
        # 2024-11-12T03:41:27Z, 2024/11/12 03:41
        rf"(?<!\d){_YEAR}[-/.](?P<month>\d{{1,2}})[-/.]{_DAY}(?:T|,?{_GAP}){_CLOCK}",
        # Tue 11/12/2024  3:41:27.53 (%date% %time%), 12.11.2024 03:41
        rf"{_WEEKDAY}{_TWO_NUMBERS}{_YEAR},?{_GAP}{_CLOCK}",
        # Tue Nov 12 03:41:27.123 2024 (UTC + 1:00), as WinDbg writes
        rf"{_MONTH_NAME}{_GAP}{_DAY}{_GAP}{_CLOCK}{_GAP}{_YEAR}",
        # Tuesday, November 12, 2024 3:41:27 AM, as Get-Date writes
        rf"{_MONTH_NAME}{_GAP}{_DAY},{_GAP}{_YEAR},?{_GAP}{_CLOCK}",
        # 12 November 2024 03:41:27
        rf"(?<!\d){_DAY}{_GAP}{_MONTH_NAME}{_GAP}{_YEAR},?{_GAP}{_CLOCK}",
    )
)

_NAME_DAY = r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<mark>[-_.]?)(?P<month>\d\d)(?P=mark)(?P<day>\d\d)"
_NAME_CLOCK = r"[-_.T ]{0,2}(?P<hour>\d\d)[-_.:h]?(?P<minute>\d\d)(?:[-_.:m]?(?P<second>\d\d))?(?P<zone>Z)?"
_NAME_FORMS = (re.compile(rf"{_NAME_DAY}{_NAME_CLOCK}(?!\d)"), re.compile(rf"{_NAME_DAY}(?!\d)"))
_NAME_SECONDS = re.compile(r"(?<!\d)1\d{9}(?!\d)")


def find_moment(text: str) -> Optional[Moment]:
    """The last date with a time of day in ``text``; None if there is none."""
    found = [match for form in _FORMS for match in form.finditer(text)]
    for match in sorted(found, key=lambda match: match.end(), reverse=True):
        moment = _read_moment(match.groupdict())
        if moment:
            return moment
    return None


def find_name_moment(name: str) -> Optional[Moment]:
    """The moment that a file's name tells: ``log-2024-11-12_0341.txt``, ``20241112-034127Z``, seconds since 1970."""
    for form in _NAME_FORMS:
        for match in form.finditer(name):
            moment = _read_moment(match.groupdict())
            if moment:
                return moment
    seconds = _NAME_SECONDS.search(name)
    return Moment(datetime.fromtimestamp(int(seconds[0]), timezone.utc)) if seconds else None


def _read_moment(parts: Mapping[str, Optional[str]]) -> Optional[Moment]:
    """The moment of a match's groups; None if they are no date (month 13, a word that is no month)."""
    year = int(parts["year"] or 0)
    if parts.get("first"):
        month, day, doubts = _order_day_and_month(parts, year)
    else:
        month, day, doubts = _month_number(parts["month"] or ""), int(parts["day"] or 0), ()
    hour = int(parts.get("hour") or 0)
    half = (parts.get("half") or "").lower()
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    try:
        at = datetime(year, month, day, hour, int(parts.get("minute") or 0), int(parts.get("second") or 0))
    except ValueError:
        return None
    if year not in _YEARS:
        return None
    zone = parts.get("zone")
    if not zone:
        doubts += (ZONE_UNKNOWN,)
    return Moment(at.replace(tzinfo=timezone.utc) - _zone_offset(zone or ""), doubts)


def _order_day_and_month(parts: Mapping[str, Optional[str]], year: int) -> Tuple[int, int, Tuple[str, ...]]:
    """Month and day of two numbers: told by a number above 12, the weekday, the mark; else as in the USA."""
    first, other = int(parts["first"] or 0), int(parts["other"] or 0)
    if first > 12 or parts["mark"] == ".":
        return other, first, ()
    if other > 12:
        return first, other, ()
    weekday = (parts["weekday"] or "")[:3].lower()
    if weekday in _WEEKDAYS and first != other:
        fits = [
            (month, day)
            for month, day in ((first, other), (other, first))
            if month and day and datetime(year, month, day).weekday() == _WEEKDAYS.index(weekday)
        ]
        if len(fits) == 1:
            return (*fits[0], ())
    if parts["mark"] == "-":
        return other, first, ()
    return first, other, () if first == other else (MONTH_FIRST,)


def _month_number(month: str) -> int:
    """1 to 12; 0 for a word that is no English month."""
    if month.isdigit():
        return int(month)
    start = month[:3].lower()
    return _MONTHS.index(start) + 1 if start in _MONTHS else 0


def _zone_offset(zone: str) -> timedelta:
    """The distance from UTC: ``+01:00``, ``UTC - 7:00``; none for ``Z``."""
    offset = re.search(r"([+-])\s*(\d{1,2}):?(\d\d)", zone)
    if not offset:
        return timedelta(0)
    distance = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
    return -distance if offset[1] == "-" else distance
