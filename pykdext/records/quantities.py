"""Numbers as people and consoles of several countries write them: ``3,708,367``, ``8.665.967``, ``7,695.3 MB``."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Iterable, Optional

_GROUPED = re.compile(r"[+-]?\d{1,3}(?:([.,' \xa0\xff])\d{3})(?:\1\d{3})*|[+-]?\d{1,2}(?:,\d\d)+,\d{3}")
_PLAIN = re.compile(r"[+-]?\d{1,24}")
_SIZE = re.compile(
    r"~?\s*(?P<number>[+-]?\d[\d.,' \xa0\xff]{0,40}?)\s*"
    r"(?P<unit>[KMGTКМГТ]?i?[BБ](?:ytes?)?|bytes|[KMGT]o|octets?|байт\w{0,2}|字节|[KMGT])?",
    re.IGNORECASE,
)
_MARKS = re.compile(r"[.,' \xa0\xff]")
_NUMBER = re.compile(r"\d[\d.,' \xa0\xff]{0,40}")
_UNGROUPED = re.compile(r"[+-]?\d{4,24}")
_TWICE_GROUPED = re.compile(r"[.,]\d{3}[.,]")
_SHIFTS = {"k": 10, "m": 20, "g": 30, "t": 40, "к": 10, "м": 20, "г": 30, "т": 40}


def parse_count(text: str) -> Optional[int]:
    """A whole number, perhaps with thousands marks (``.``, ``,``, ``'``, a blank); None if it is none."""
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return int(text)
    return int(_MARKS.sub("", text)) if _GROUPED.fullmatch(text) and len(text) <= 40 else None


def parse_size(text: str, unit: str = "bytes", decimal: Optional[str] = None) -> Optional[int]:
    """Bytes of a size such as ``7,695.3 MB``; ``unit`` is meant where the text names none; None if it is no size.

    1 KB is 1024 bytes. ``decimal`` is the decimal mark of the column (``find_decimal_mark``), which bytes may have too:
    tools print means of samples. Without it a single mark before three digits is a decimal point only if it is a dot
    and the unit is not the byte; where two different marks stand, the last one is the decimal point.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    shift = _SHIFTS.get((match["unit"] or unit)[:1].lower(), 0)
    number = _read_decimal(match["number"].strip(), has_fraction=shift > 0, decimal=decimal)
    return None if number is None else round(number * (1 << shift))


def find_decimal_mark(texts: Iterable[str]) -> Optional[str]:
    """The decimal mark of a column, ``.`` or ``,``; None where its numbers do not tell, or contradict each other."""
    votes = {vote for text in texts if (vote := _tell_decimal_mark(text))}
    return votes.pop() if len(votes) == 1 else None


def find_program_mark(texts: Iterable[str]) -> Optional[str]:
    """The same of numbers that one program wrote: if it groups no large number, a mark before three digits is decimal.

    ``123456`` beside ``987.654`` tells that; of what people type it would not.
    """
    seen = [text.strip() for text in texts]
    mark = find_decimal_mark(seen)
    if mark is not None or not any(_UNGROUPED.fullmatch(text) for text in seen):
        return mark
    marks = {mark for text in seen for mark in text if mark in ".,"}
    return marks.pop() if len(marks) == 1 and not any(_TWICE_GROUPED.search(text) for text in seen) else None


def _tell_decimal_mark(text: str) -> Optional[str]:
    """What one number tells: two kinds of marks, one mark twice, or one that parts no three digits."""
    number = _NUMBER.search(text)
    if number is None:
        return None
    digits = number[0].rstrip(".,' \xa0\xff")
    marks = [mark for mark in digits if mark in ".,"]
    if not marks:
        return None
    last = marks[-1]
    whole, _, fraction = digits.rpartition(last)
    if len(set(marks)) > 1:
        return last if marks.count(last) == 1 else None
    if len(marks) > 1:
        return "," if last == "." else "."
    return last if len(fraction) != 3 or whole in ("", "0") or len(_MARKS.sub("", whole)) > 3 else None


def _read_decimal(text: str, *, has_fraction: bool, decimal: Optional[str]) -> Optional[Fraction]:
    marks = _MARKS.findall(text)
    if not marks:
        return Fraction(int(text))
    whole, _, fraction = text.rpartition(marks[-1])
    if decimal is None:
        is_decimal = (
            marks[-1] in ".,"
            and marks.count(marks[-1]) == 1
            and (len(set(marks)) > 1 or len(fraction) != 3 or (has_fraction and marks[-1] == "."))
        )
    else:
        is_decimal = marks[-1] == decimal and marks.count(decimal) == 1
    if not is_decimal:
        grouped = parse_count(text)
        return None if grouped is None else Fraction(grouped)
    count = parse_count(whole)
    if count is None or not fraction:
        return None
    part = Fraction(int(fraction), 10 ** len(fraction))
    return count - part if whole.startswith("-") else count + part
