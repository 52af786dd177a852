"""Notes in which people write of tags: a tag a line, with its sizes and counts in words.

``Irp: ~56.18 million allocations / ~19.3 GB``, ``- `File` tag: about 4.3 GB Nonpaged``, ``Toke: 559 -> 802 MB``,
``WCsc  874 alloc / 0 free / 874 live``. A line is such a note only where it marks its tag, by quotation marks or the
word "tag", or counts blocks; ``RAM: 32 GB`` is none. An arrow makes two states.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import (
    POOL_UNNAMED,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    SnapshotSource,
    SystemMemory,
    TimeOrigin,
)
from pykdext.records.columns import find_pool, find_pools
from pykdext.records.moments import Moment, find_moment, find_time_of_day
from pykdext.records.quantities import parse_count, parse_size
from pykdext.records.tagtable import TagTable, check_against_memory, tag_of_text
from pykdext.records.textfile import TextFile

NOTES = "these are notes, not a tool's output: numbers are as exact as somebody wrote them, other tags are not listed"

_LINE_CHARACTERS = 400
_MOST_ROWS = 5_000
_LEAD = r"^[ \t]{0,12}(?:(?:[-*+\u2022\u2013]|\d{1,3}[.)])[ \t]{1,4})?(?:\*\*)?"
_ROW = re.compile(
    _LEAD + r"(?P<word>(?:the )?(?:pool ?)?tag[ \t:=]{1,4})?"
    r"(?:(?P<mark>[`'\"\u2018\u201c]|\*\*)(?P<marked>[^`'\"\u2019\u201d*\n]{1,4})(?:[`'\"\u2019\u201d]|\*\*)|(?P<bare>[^\s:=|`'\"*]{1,4}(?![^\s:=|*])))"
    r"(?:\*\*)?(?P<behind>[ \t]{1,4}(?:pool ?)?tag\b)?(?P<gap>[ \t]*(?:[:=]|[-\u2013](?=[ \t]))?[ \t]*)(?P<rest>.*)$",
    re.IGNORECASE,
)
_NUMBER = r"(?<![\d.,])(?<!\d')(?P<number>\d[\d.,']{0,30})"
_SCALE = r"(?:[ \t]{0,2}(?P<scale>million|mio\.?|billion|mrd\.?|thousand|k|m|bn)(?![a-z]))?"
_UNIT = r"[KMGT]i?B|bytes"
_ARROW = re.compile(r"[ \t]{0,3}(?:-+>|=+>|\u2192|\bto\b)[ \t]{0,3}", re.IGNORECASE)
_SIZED = re.compile(rf"{_NUMBER}[ \t]{{0,2}}(?P<unit>{_UNIT})\b", re.IGNORECASE)
_COUNTS: Dict[str, str] = {
    "allocs": r"alloc(?:ation|ed)?s?",
    "frees": r"free[sd]?",
    "outstanding": r"live|outstanding|leaked|blocks?|objects?|remaining|in use|diff(?:erence)?",
}
_COUNTED = {
    field: re.compile(rf"{_NUMBER}{_SCALE}[ \t]{{0,6}}(?:{noun})\b", re.IGNORECASE) for field, noun in _COUNTS.items()
}
_NAMED = {
    field: re.compile(rf"\b(?:{noun})[ \t]{{0,2}}[:=][ \t]{{0,6}}{_NUMBER}{_SCALE}(?!\S*%)", re.IGNORECASE)
    for field, noun in {**_COUNTS, "bytes": r"bytes|used|size"}.items()
}
_SCALES = {"k": 10**3, "t": 10**3, "m": 10**6, "b": 10**9}
_NOT_CURRENT = re.compile(r"\b(?:limit|max\w*|peak|per|each|hour|minute|free)\b|/", re.IGNORECASE)
_SPAN = re.compile(
    r"(?P<first>\d{1,2}:\d\d(?::\d\d)?)\s{0,3}(?:to|until|bis|-+>?|\u2013|\u2192)\s{0,3}(?P<last>\d{1,2}:\d\d(?::\d\d)?)"
)
_STATES = 2
_WORD = re.compile(
    r"a|all|also|and|any|are|be|but|by|each|for|from|has|have|i|if|in|is|its?|list|name|not?|o[fnr]|pool|size|so|some"
    r"|that|the|then|this|to|used|was|we|what|when|who|why|with"
)
"""Words behind "tag" that are none."""


class _Note(NamedTuple):
    """What one line says of a tag: its usage in each state (one, or two with an arrow), and the pool if it names it."""

    tag: PoolTag
    pool: Optional[PoolKind]
    usages: Tuple[PoolUsage, ...]


def parse_notes(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """A snapshot of the tags of notes, two where lines say what they were and became; empty without such notes."""
    if not _has_notes(file.text):
        return ()  # before all else is looked for, which takes far longer
    notes: List[_Note] = []
    totals: Dict[str, int] = {}
    named: List[PoolKind] = []
    moments: Tuple[Optional[Moment], ...] = (None, None)
    for line in file.text.split("\n"):
        if len(line) > _LINE_CHARACTERS or len(notes) >= _MOST_ROWS:
            continue
        named += find_pools(line)
        note = _read_note(line)
        if note is not None:
            notes.append(note)
            continue
        for field, size in _iter_totals(line):
            totals.setdefault(field, size)
        span = _SPAN.search(line)
        if span and moments == (None, None):
            moments = tuple(find_time_of_day(span[end], file.written_at) for end in ("first", "last"))
        elif moments[1] is None and (found := find_moment(line)):
            moments = (None, found)
    only = set(named).pop() if len(set(named)) == 1 else None
    count = max(len(note.usages) for note in notes)
    memory = SystemMemory(**totals)
    return tuple(
        _make_snapshot(file.path, notes, only, index - count, moments[index - count], memory) for index in range(count)
    )


def _has_notes(text: str) -> bool:
    """Whether a line among the first notes says how much a tag holds, or how often it was freed."""
    lines = (line for line in text.split("\n") if len(line) <= _LINE_CHARACTERS)
    notes = itertools.islice(filter(None, map(_read_note, lines)), _MOST_ROWS)
    return any(usage.bytes or usage.frees is not None for note in notes for usage in note.usages)


def _make_snapshot(
    path: str,
    notes: Sequence[_Note],
    only: Optional[PoolKind],
    state: int,
    moment: Optional[Moment],
    memory: SystemMemory,
) -> PoolSnapshot:
    """A state, counted from the last (-1); totals are those of the last, and so is what has no arrow."""
    table = TagTable()
    is_named = True
    for note in notes:
        if len(note.usages) >= -state:
            pool = note.pool or only
            is_named = is_named and pool is not None
            table.add(note.tag, pool or PoolKind.NONPAGED, note.usages[state])
    usages = table.usages
    memory = memory if state == -1 else SystemMemory()
    warnings = [NOTES, *(moment.doubts if moment else ()), *([] if is_named else [POOL_UNNAMED]), *table.warnings]
    snapshot = PoolSnapshot(SnapshotSource("notes", path), usages, memory=memory, warnings=tuple(warnings))
    snapshot = replace(snapshot, warnings=(*snapshot.warnings, *check_against_memory(usages, memory)))
    if moment is None:
        return snapshot
    return replace(snapshot, taken_at=moment.at, time_from=TimeOrigin.HEADER)


def _read_note(line: str) -> Optional[_Note]:
    match = _ROW.match(line)
    tag = tag_of_text(match["marked"] or match["bare"]) if match else None
    if match is None or tag is None or (match["bare"] and _WORD.fullmatch(match["bare"])):
        return None
    rest = match["rest"].split("(")[0]
    said = match["word"] or match["behind"] or match["marked"]
    if not said and not (match["gap"].strip() or len(match["gap"]) > 1):
        return None
    usages = tuple(map(_read_usage, _part_states(rest)))
    if any(usage is None for usage in usages):
        return None
    known = tuple(usage for usage in usages if usage is not None)
    if not said and all(usage.allocs is None and usage.outstanding is None for usage in known):
        return None
    return _Note(tag, find_pool(rest), known)


def _part_states(rest: str) -> Tuple[str, ...]:
    """The texts of the states that an arrow parts; the first takes the unit of the last where it names none."""
    parts = _ARROW.split(rest)
    if len(parts) != _STATES:
        return (rest,)
    first, last = parts
    sized = _SIZED.search(last)
    if sized and not _SIZED.search(first) and re.search(r"\d[\d.,]*\s*$", first):
        first = f"{first.strip()} {sized['unit']}"
    return first, last


def _read_usage(text: str) -> Optional[PoolUsage]:
    """What a text says of a tag; None if it is nothing."""
    numbers: Dict[str, Optional[int]] = {}
    for field in ("allocs", "frees", "outstanding", "bytes"):
        match = (_COUNTED[field].search(text) if field in _COUNTED else None) or _NAMED[field].search(text)
        if match:
            numbers[field] = _read_count(match)
    sized = _SIZED.search(text)
    if sized:
        numbers["bytes"] = parse_size(f"{sized['number'].rstrip('.,')} {sized['unit']}")
    if not any(number is not None for number in numbers.values()):
        return None
    allocs, frees, held = numbers.get("allocs"), numbers.get("frees"), numbers.get("outstanding")
    if allocs is not None and frees is None and held is None:
        allocs, held = None, allocs  # "4 million allocations, 2 GB": those that there are
    if held is None and allocs is not None and frees is not None and allocs >= frees:
        held = allocs - frees
    return PoolUsage(allocs, frees, held, numbers.get("bytes"))


def _read_count(match: re.Match[str]) -> Optional[int]:
    text, scale = match["number"].rstrip(".,"), (match["scale"] or "").lower()
    if not scale:
        return parse_count(text)
    factor = _SCALES["b" if scale.startswith(("b", "mr")) else scale[0]]
    try:
        return round(float(text.replace(",", ".")) * factor)
    except ValueError:
        return None


def _iter_totals(line: str) -> Iterator[Tuple[str, int]]:
    """The total of a pool that a line names beside one size."""
    pool = find_pool(line) if "pool" in line.lower() else None
    sizes = list(_SIZED.finditer(line)) if pool is not None else []
    if len(sizes) != 1 or pool is None or _NOT_CURRENT.search(line):
        return
    size = parse_size(f"{sizes[0]['number'].rstrip('.,')} {sizes[0]['unit']}")
    if size:
        yield f"{pool.value}_bytes", size
