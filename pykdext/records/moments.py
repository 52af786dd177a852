"""Dates and times as logs, consoles of several countries, WinDbg and file names write them."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime, timedelta, timezone
from typing import Mapping, NamedTuple, Optional, Tuple

ZONE_UNKNOWN = "the log does not name the zone of its times; they are taken as UTC"
MONTH_FIRST = "dates such as 4/5/2024 are read as month/day/year"

DAY_FIRST = "dates such as 4/5/2024 are read as day/month/year: otherwise they would go back"
DATE_OF_FILE = "the log names times of day without a date; the date of the file is taken"

_YEARS = range(1990, 2100)
_MONTHS: Tuple[Tuple[str, ...], ...] = (
    ("jan", "ene", "gen", "янв", "oca", "sty"),
    ("feb", "fev", "фев", "sub", "lut"),
    ("mar", "мар", "mrt"),
    ("apr", "abr", "avr", "апр", "nis", "kwi"),
    ("may", "mai", "mag", "май", "мая", "maj", "mei"),
    ("jun", "juin", "giu", "июн", "haz", "cze"),
    ("jul", "juil", "lug", "июл", "tem", "lip"),
    ("aug", "ago", "aou", "авг", "agu", "sie"),
    ("sep", "set", "сен", "eyl", "wrz"),
    ("oct", "okt", "ott", "out", "окт", "eki", "paz"),
    ("nov", "ноя", "kas", "lis"),
    ("dec", "dez", "dic", "дек", "ara", "gru"),
)
"""How the names of months begin, without accents: en, de, fr, es, it, pt, ru, tr, pl, nl."""

_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FOREIGN_WEEKDAYS = re.compile(
    r"mo|di|mi|do|fr|sa|so|lun|mar|mer|jeu|ven|sam|dim|lu|ma|me|je|ve|mi[eé]|jue|vie|s[aá]b|dom|gio|seg|ter|qua|qui|sex"
    r"|пн|вт|ср|чт|пт|сб|вс|za|zo|wo|vr|(?:mon|diens|donners|frei|sams|sonn)tag|mittwoch|(?:lun|mar|mercre|jeu|vendre|same)di"
    r"|dimanche|lunes|martes|mi[eé]rcoles|jueves|viernes|s[aá]bado|domingo|(?:lune|marte|mercole|giove|vener)d[iì]"
    r"|sabato|domenica|(?:segunda|ter[cç]a|quarta|quinta|sexta)\w*"
)
"""Days of the week of consoles that write the day first."""

_AFTERNOON = frozenset(("p", "下", "午後", "오후"))


class Moment(NamedTuple):
    """A moment in UTC, and what had to be assumed to read it (each a sentence for the user)."""

    at: datetime
    doubts: Tuple[str, ...] = ()


_GAP = r"\s{1,3}"
_HALF = r"(?:(?P<before>上午|下午|午前|午後|오전|오후|[AaPp]\.?[Mm]\.?)\s{0,2})?"
_CLOCK = (
    _HALF + r"(?P<hour>\d{1,2})[:.時时시]\s?(?P<minute>\d\d)(?:[:.分분]\s?(?P<second>\d\d)(?:[.,]\d{1,9})?)?[秒초分분]?"
    r"(?:\s*(?P<half>[AaPp])\.?\s?[Mm]\b)?"
)
_ZONE = r"(?:\s*(?P<zone>Z\b|GMT\b|\(?UTC(?:\s*[+-]\s*\d{1,2}:\d\d)?\)?|[+-]\d\d:?\d\d(?!\d)))?"
_YEAR = r"(?P<year>\d{4})"
_DAY = r"(?P<day>\d{1,2})"
_MONTH_NAME = r"(?P<month>[^\W\d_]{3,12})\.?"
_WEEKDAY = rf"(?:(?P<weekday>[^\W\d_]{{2,13}})[.,]{{0,2}}{_GAP})?"
_WEEKDAY_BEHIND = (
    r"(?:[\s.,]{0,3}[(（]?(?!上午|下午|午前|午後|오전|오후|[AaPp]\.?[Mm])"
    r"(?:[^\W\d_]{1,3}|[^\W\d_]{1,2}曜日|星期[^\W\d_]|[^\W\d_]요일)\.?[)）]?)?"
)
_TWO_NUMBERS = r"(?<![\d.])(?P<first>\d{1,2})(?P<mark>[./-]|\.\s)(?P<other>\d{1,2})(?P=mark)"
_AT = rf"(?:,?{_GAP}|\s(?:um|at|à|a las|alle|alle ore|às|в)\s)"
_FORMS = tuple(
    re.compile(form + _ZONE)
    for form in (
        # 2024-11-12T03:41:27Z, 2024/11/12 03:41; 2026/06/13 周六  8:00:01.23, 2026-06-13 오전 8:00:01
        rf"(?<!\d){_YEAR}[-/.]\s?(?P<month>\d{{1,2}})[-/.]\s?{_DAY}(?:T|\.?{_WEEKDAY_BEHIND},?{_GAP}){_CLOCK}",
        # 2026年6月13日 8:00:01, 2026년 6월 13일 토요일 오전 8:00:01
        rf"(?<!\d){_YEAR}\s?[年년]\s?(?P<month>\d{{1,2}})\s?[月월]\s?{_DAY}\s?[日일号]{_WEEKDAY_BEHIND},?\s{{0,3}}{_CLOCK}",
        # Tue 11/12/2024  3:41:27.53 (%date% %time%), 12.11.2024 03:41, 12.11.2024 Sal  3:41
        rf"{_WEEKDAY}{_TWO_NUMBERS}{_YEAR}(?:\sг\.)?{_WEEKDAY_BEHIND},?{_GAP}{_CLOCK}",
        # Tue Nov 12 03:41:27.123 2024 (UTC + 1:00), as WinDbg writes
        rf"{_MONTH_NAME}{_GAP}{_DAY}{_GAP}{_CLOCK}{_GAP}{_YEAR}",
        # Tuesday, November 12, 2024 3:41:27 AM, as Get-Date writes
        rf"{_MONTH_NAME}{_GAP}{_DAY},{_GAP}{_YEAR},?{_GAP}{_CLOCK}",
        # 12 November 2024 03:41:27; Samstag, 13. Juni 2026 08:00; 13 de junio de 2026 8:00; 13 июня 2026 г. 8:00;
        # 13 Haziran 2026 Cumartesi 08:00
        rf"(?<!\d){_DAY}\.?{_GAP}(?:de{_GAP})?{_MONTH_NAME}{_GAP}(?:del?{_GAP})?{_YEAR}(?:\sг\.|{_GAP}[^\W\d_]{{2,13}})?{_AT}{_CLOCK}",
    )
)
_FOUR_DIGITS = re.compile(r"\d{4}")
_CLOCK_MARK = re.compile(r"\d[:.時时시]\s?\d\d")
_TIME_OF_DAY = re.compile(rf"^\s*{_CLOCK}\s*$")

_NAME_DAY = r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<mark>[-_.]?)(?P<month>\d\d)(?P=mark)(?P<day>\d\d)"
_NAME_CLOCK = r"[-_.T ]{0,2}(?P<hour>\d\d)[-_.:h]?(?P<minute>\d\d)(?:[-_.:m]?(?P<second>\d\d))?(?P<zone>Z)?"
_NAME_FORMS = (re.compile(rf"{_NAME_DAY}{_NAME_CLOCK}(?!\d)"), re.compile(rf"{_NAME_DAY}(?!\d)"))
_NAME_SECONDS = re.compile(r"(?<!\d)1\d{9}(?!\d)")


def find_moment(text: str) -> Optional[Moment]:
    """The last date with a time of day in ``text``; None if there is none."""
    if not _FOUR_DIGITS.search(text) or not _CLOCK_MARK.search(text):
        return None  # every form has both, and most lines of most texts have neither
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
    hour = _read_hour(parts)
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


def find_time_of_day(text: str, day: Optional[datetime]) -> Optional[Moment]:
    """The moment of a text that is a time of day only, on the given day (in UTC)."""
    match = _TIME_OF_DAY.match(text)
    if match is None or day is None:
        return None
    parts = match.groupdict()
    try:
        at = day.replace(
            hour=_read_hour(parts), minute=int(parts["minute"]), second=int(parts["second"] or 0), microsecond=0
        )
    except ValueError:
        return None
    return Moment(at, (DATE_OF_FILE,))


def swap_day_and_month(at: datetime) -> Optional[datetime]:
    """The same digits read the other way: 6 July for 7 June; None if there is no such day."""
    try:
        return at.replace(month=at.day, day=at.month)
    except ValueError:
        return None


def _read_hour(parts: Mapping[str, Optional[str]]) -> int:
    """The hour of 24."""
    hour = int(parts.get("hour") or 0)
    half = (parts.get("half") or parts.get("before") or "").lower()
    if not half:
        return hour
    is_afternoon = half in _AFTERNOON or half[0] in _AFTERNOON
    return hour % 12 + (12 if is_afternoon else 0)


def _order_day_and_month(parts: Mapping[str, Optional[str]], year: int) -> Tuple[int, int, Tuple[str, ...]]:
    """Month and day of two numbers: told by a number above 12, the weekday, the mark; else as in the USA."""
    first, other = int(parts["first"] or 0), int(parts["other"] or 0)
    if first > 12 or (parts["mark"] or "").startswith("."):
        return other, first, ()
    if other > 12:
        return first, other, ()
    weekday = (parts["weekday"] or "").lower()
    if weekday and weekday[:3] not in _WEEKDAYS and _FOREIGN_WEEKDAYS.fullmatch(weekday):
        return other, first, ()
    weekday = weekday[:3]
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
    """1 to 12; 0 for a word that is no month."""
    if month.isdigit():
        return int(month)
    start = "".join(unicodedata.normalize("NFD", letter)[0] for letter in month.lower())
    longest = max(
        (
            (len(name), number)
            for number, names in enumerate(_MONTHS, start=1)
            for name in names
            if start.startswith(name)
        ),
        default=(0, 0),
    )
    return longest[1]


def _zone_offset(zone: str) -> timedelta:
    """The distance from UTC: ``+01:00``, ``UTC - 7:00``; none for ``Z``."""
    offset = re.search(r"([+-])\s*(\d{1,2}):?(\d\d)", zone)
    if not offset:
        return timedelta(0)
    distance = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
    return -distance if offset[1] == "-" else distance
