"""Logs of poolmon: snapshots saved by ``poolmon -n``, and screens copied from its console window.

The columns are those of the WDK documentation ("PoolMon Display"): ``Tag Type Allocs Frees Diff Bytes Per Alloc``, the
changes since the last update in parentheses, with ``-g`` a column ``Mapped_Driver``; above them stand the totals of the
memory manager. Widths differ between versions. A log that is as poolmon wrote it is read by one regular expression;
lines that are odd (retyped, glued, cut) are looked at one by one.
"""

from __future__ import annotations

import re
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import (
    PoolKind,
    PoolSnapshot,
    PoolUsage,
    SnapshotSource,
    StatedDriver,
    SystemMemory,
    TagUsage,
    TimeOrigin,
)
from pykdext.records.longlogs import choose_states, estimate_rows, note_passed_over
from pykdext.records.moments import find_moment
from pykdext.records.stateddrivers import find_drivers
from pykdext.records.tagtable import (
    LineFaults,
    TagTable,
    check_against_memory,
    count_rows,
    join_sides,
    tag_of_bytes,
    unwrap_counts,
)
from pykdext.records.textfile import TextFile, decode_words
from pykdext.records.windbgtext import find_host

_POOLS = {b"Nonp": PoolKind.NONPAGED, b"Paged": PoolKind.PAGED}

# Between two numbers stands the change in parentheses, or blanks; so no number is ever split in two.
_GAP = rb"(?: *\( *-?\d{1,20}\) *| +)"
_COUNT = rb"(\d{1,20})"
_SIGNED = rb"(-?\d{1,20})"
_TAG = rb"^[ \t]*?(.{4}) (Nonp|Paged)"
_NUMBERS = rb" +" + _COUNT + _GAP + _COUNT + _GAP + _SIGNED + rb" +" + _SIGNED + _GAP + rb"-?\d{1,20}\b"
_ROW = re.compile(_TAG + _NUMBERS + rb"[^\n]*$", re.MULTILINE)
_ROW_MARK = re.compile(rb"(Nonp|Paged)[ \t]{0,40}[\d(]")

_MAPPED_DRIVER = re.compile(_TAG + rb"[^\n\[]{1,200}\[([^\n]{1,200})\][ \t]*$", re.MULTILINE)
_TAG_BEFORE_TYPE = re.compile(_TAG)
_CHANGE = re.compile(rb"\([-\d.,' \xa0\xff]{0,40}\)")
_NUMBER = re.compile(rb"-?(?:\d{1,3}(?:[.,'\xa0\xff]\d{3}){1,12}|\d{1,40})")
_MARKS = re.compile(rb"[.,'\xa0\xff]")
_UTF8_BLANKS = re.compile(rb"\xc2\xa0|\xe2\x80[\x87\x89\xaf]")
_NO_ROW = re.compile(
    rb"^[\s=|`~-]*$|^\s*\.\.\.|^\s*(?:TOTAL|Total)\b|Memory:|Commit:|pool information|Tag +Type +Allocs"
)
_DIGITS = 20
_COUNTER_MASK = 0xFFFFFFFF
"""Poolmon's counters have 32 bits, so that Diff is Allocs - Frees but for a multiple of 2**32."""

_MEMORY_LINE = re.compile(rb"Memory:.{0,200}?Avail:")
_COLUMN_LINE = re.compile(rb"Tag\s{1,20}Type\s{1,20}Allocs\s{1,60}Frees")
_SESSION_POOL = re.compile(rb"(All sessions|Session \d{1,5}) pool information")
_KILOBYTES = rb":[ \t]*(\d[\d.,' \xa0\xff]{0,30}?)[ \t]*K\b"
_MEMORY_FIELDS = {
    "physical_bytes": re.compile(rb"Memory" + _KILOBYTES),
    "available_bytes": re.compile(rb"Avail" + _KILOBYTES),
    "commit_bytes": re.compile(rb"Commit" + _KILOBYTES),
    "commit_limit_bytes": re.compile(rb"Limit" + _KILOBYTES),
    "nonpaged_bytes": re.compile(rb"Pool N" + _KILOBYTES),
    "paged_bytes": re.compile(rb"Pool N:[^\n]{0,60}?P" + _KILOBYTES),
}
_PREAMBLE_BYTES = 1000
"""A date or host name stands in the last few lines before a screen; what is further away is about something else."""

_Row = Tuple[bytes, bytes, bytes, bytes, bytes, bytes]
"""Tag, Type, Allocs, Frees, Diff, Bytes as they stand in the log."""

_Numbers = Tuple[bytes, bytes, bytes, bytes]
"""Allocs, Frees, Diff, Bytes."""


class _Screen(NamedTuple):
    """One table: where its head lines begin, where its first and last row do, and the end of the last one."""

    head: int
    rows: int
    rows_end: int


def parse_poolmon(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """Every screen of poolmon in ``file``, in its order, of a long log some evenly spread; empty if there is none."""
    snapshots: List[PoolSnapshot] = []
    places: List[int] = []
    counted, line = 0, 1
    screens = list(_iter_screens(file.data))
    chosen = choose_states(len(screens), estimate_rows(len(file.data)))
    for place in chosen:
        screen = screens[place]
        before = screens[place - 1].rows_end if place else 0
        line += file.data.count(b"\n", counted, screen.rows)
        counted = screen.rows
        snapshot = _read_screen(file, screen, max(before, screen.head - _PREAMBLE_BYTES), line)
        if snapshot.tags:
            snapshots.append(snapshot)
            places.append(place)
    return tuple(snapshots) if len(chosen) == len(screens) else note_passed_over(snapshots, places, len(screens))


def parse_newest_screen(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The last screen of poolmon that has rows, alone: the others of a long log are not read."""
    screens = list(_iter_screens(file.data))
    for place in range(len(screens) - 1, -1, -1):
        screen = screens[place]
        before = screens[place - 1].rows_end if place else 0
        line = 1 + file.data.count(b"\n", 0, screen.rows)
        snapshot = _read_screen(file, screen, max(before, screen.head - _PREAMBLE_BYTES), line)
        if snapshot.tags:
            return (snapshot,)
    return ()


def _iter_screens(data: bytes) -> Iterator[_Screen]:
    """The screens that have at least one row; rows above the first head, or without any, are a screen as well."""
    heads = _find_heads(data)
    ends = [*heads[1:], len(data)]
    if not heads or _ROW_MARK.search(data, 0, heads[0]):
        heads, ends = [0, *heads], [heads[0] if heads else len(data), *ends]
    for head, end in zip(heads, ends):
        first = _ROW_MARK.search(data, head, end)
        if first:
            yield _Screen(head, data.rfind(b"\n", head, first.start()) + 1 or head, _find_rows_end(data, head, end))


def _find_heads(data: bytes) -> List[int]:
    """Where screens begin: at the line of the memory totals, or at the column titles that have none above them."""
    heads = []
    has_titles = True
    for start, is_memory in sorted(
        [*_find_lines(data, b"Avail:", _MEMORY_LINE), *_find_lines(data, b"Allocs", _COLUMN_LINE)]
    ):
        if is_memory or has_titles:
            heads.append(start)
        has_titles = not is_memory
    return heads


def _find_lines(data: bytes, word: bytes, pattern: re.Pattern[bytes]) -> Iterator[Tuple[int, bool]]:
    """Where lines start that hold ``word`` and match; the flag tells a line of memory totals."""
    position = data.find(word)
    while position >= 0:
        start = data.rfind(b"\n", 0, position) + 1
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end
        if pattern.search(data, max(start, position - 300), min(end, position + 300)):
            yield start, pattern is _MEMORY_LINE
        position = data.find(word, end)


def _find_rows_end(data: bytes, start: int, end: int) -> int:
    """The end of the last line that looks like a row; there is one."""
    last = {word: data.rfind(word, start, end) for word in _POOLS}
    word = max(last, key=last.__getitem__)
    while not _ROW_MARK.match(data, last[word], end):
        last[word] = data.rfind(word, start, last[word])
        word = max(last, key=last.__getitem__)
    line_end = data.find(b"\n", last[word], end)
    return end if line_end < 0 else line_end


def _read_screen(file: TextFile, screen: _Screen, preamble_start: int, first_line: int) -> PoolSnapshot:
    """The snapshot of a screen; ``first_line`` is the number of its first row's line."""
    data = file.data
    rows = data[screen.rows : screen.rows_end]
    tags, faults, lost = _read_rows(rows, first_line)
    rest = data[screen.rows_end : screen.rows_end + _PREAMBLE_BYTES]
    cut = _find_cut_line(rest, first_line + rows.count(b"\n") + 1)
    faults += cut
    memory = _read_memory(data[screen.head : screen.rows])
    session = _SESSION_POOL.search(data, screen.head, screen.rows)
    if session:
        faults += (f"poolmon showed a session pool ({session[1].decode()}), not the system's pools",)
    else:
        faults += tuple(check_against_memory(tags, memory))
    preamble = decode_words(data[preamble_start : screen.rows])
    moment = find_moment(preamble)
    return PoolSnapshot(
        source=SnapshotSource("poolmon log", file.path),
        tags=tags,
        taken_at=moment.at if moment else None,
        host=find_host(preamble),
        memory=memory,
        time_from=TimeOrigin.HEADER if moment else None,
        warnings=(*(moment.doubts if moment else ()), *faults),
        stated_drivers=_find_mapped_drivers(rows),
        coverage=count_rows(len(tags), lost + len(cut)),
    )


def _find_mapped_drivers(rows: bytes) -> Tuple[StatedDriver, ...]:
    """What the column ``Mapped_Driver`` of ``poolmon -g`` or ``-c`` says."""
    found = _MAPPED_DRIVER.finditer(rows) if b"[" in rows else ()
    drivers = [
        driver
        for row in found
        for driver in find_drivers(tag_of_bytes(row[1]), row[3].decode("latin-1"), "column Mapped_Driver")
    ]
    return tuple(dict.fromkeys(drivers))


def _read_memory(head: bytes) -> SystemMemory:
    fields: Dict[str, Optional[int]] = {}
    for name, pattern in _MEMORY_FIELDS.items():
        match = pattern.search(head)
        digits = re.sub(rb"\D", b"", match[1]) if match else b""
        fields[name] = int(digits) << 10 if 0 < len(digits) <= _DIGITS else None
    return SystemMemory(**fields)


def _read_rows(rows: bytes, first_line: int) -> Tuple[Tuple[TagUsage, ...], Tuple[str, ...], int]:
    """The rows of a table, what is wrong with them, and how many could not be read."""
    tags = _read_regular_rows(rows)
    return _read_odd_rows(rows, first_line) if tags is None else (tags, (), 0)


def _read_regular_rows(rows: bytes) -> Optional[Tuple[TagUsage, ...]]:
    """The rows of a table as poolmon writes it; None if one is odd, contradicts itself, or has a tag twice.

    PROTECTED_POOL in a tag is odd too: the tag may stand there without it as well.
    """
    found: List[_Row] = _ROW.findall(rows)
    if len(found) != rows.strip().count(b"\n") + 1:
        return None
    sides: Dict[bytes, Dict[bytes, PoolUsage]] = {b"Nonp": {}, b"Paged": {}}
    for tag, pool, allocs, frees, diff, used in found:
        usage = _read_usage(allocs, frees, diff, used)
        if usage is None or tag[3] & 0x80:
            return None
        sides[pool][tag] = usage
    if len(sides[b"Nonp"]) + len(sides[b"Paged"]) != len(found):
        return None
    return join_sides(sides[b"Nonp"], sides[b"Paged"])


def _read_usage(allocs: bytes, frees: bytes, diff: bytes, used: bytes) -> Optional[PoolUsage]:
    """The numbers of a row, or None if Diff is not Allocs - Frees."""
    allocated, freed, outstanding, bytes_used = int(allocs), int(frees), int(diff), int(used)
    if outstanding == allocated - freed and outstanding >= 0 and bytes_used >= 0:
        return PoolUsage(allocated, freed, outstanding, bytes_used)
    if (outstanding - allocated + freed) & _COUNTER_MASK:
        return None
    outstanding, clamped = unwrap_counts(allocated - freed)
    return PoolUsage(allocated, freed, outstanding, max(bytes_used, 0), clamped or bytes_used < 0)


def _read_odd_rows(rows: bytes, first_line: int) -> Tuple[Tuple[TagUsage, ...], Tuple[str, ...], int]:
    """The same of rows that are looked at one by one."""
    table = TagTable()
    unreadable = LineFaults("cannot be read and is left out")
    contradictory = LineFaults("says a Diff that is not Allocs - Frees, and is left out")
    for number, line in enumerate(rows.split(b"\n"), start=first_line):
        match = _ROW.match(line)
        row = match.groups() if match else _read_odd_row(line)
        if row is None:
            if not _NO_ROW.search(line):
                unreadable.add(number, line.decode("latin-1"))
            continue
        usage = _read_usage(*row[2:])
        if usage is None:
            contradictory.add(number, line.decode("latin-1"))
        else:
            table.add(tag_of_bytes(row[0]), _POOLS[row[1]], usage)
    warnings = (*unreadable.warnings, *contradictory.warnings, *table.warnings)
    return table.usages, warnings, unreadable.rows + contradictory.rows


def _read_odd_row(line: bytes) -> Optional[_Row]:
    line = _UTF8_BLANKS.sub(b"\xa0", line)
    mark = _ROW_MARK.search(line)
    if mark is None:
        return None
    pool = mark[1]
    shown = line[: mark.start()].lstrip(b" \t>|").rstrip(b" \t")
    aligned = _TAG_BEFORE_TYPE.match(line)
    tag = aligned[1] if aligned and aligned.start(2) == mark.start() else shown.ljust(4)
    numbers = _split_numbers([_MARKS.sub(b"", number) for number in _iter_numbers(line[mark.end(1) :])])
    if len(tag) != 4 or not shown or numbers is None:
        return None
    return (tag, pool, *numbers)


def _iter_numbers(text: bytes) -> Iterator[bytes]:
    """The numbers at the start of ``text``, up to a word, e.g. that of Mapped_Driver."""
    for word in _CHANGE.sub(b" ", text).partition(b"[")[0].split():
        if not _NUMBER.fullmatch(word):
            return
        yield word


def _split_numbers(words: Sequence[bytes]) -> Optional[_Numbers]:
    """Allocs, Frees, Diff and Bytes of a row of which two columns may be glued together, or the last one cut off.

    Glued columns are parted where Diff = Allocs - Frees and Per Alloc = Bytes / Diff hold; None unless there is
    exactly one way to read them.
    """
    if len(words) >= 5:
        readings = {(words[0], words[1], words[2], words[3])}
    elif len(words) == 4:
        readings = {(split[0], split[1], split[2], split[3]) for split in _iter_splits(words) if _is_row(split)}
        if int(words[0]) - int(words[1]) == int(words[2]):
            readings.add((words[0], words[1], words[2], words[3]))
    else:
        return None
    reading = readings.pop() if len(readings) == 1 else None
    return reading if reading and all(len(number) <= _DIGITS for number in reading) else None


def _iter_splits(words: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """All ways to part one of the words in two."""
    for index, word in enumerate(words):
        for place in range(1, len(word)):
            yield [*words[:index], word[:place], word[place:], *words[index + 1 :]]


def _is_row(numbers: Sequence[bytes]) -> bool:
    if not all(number.isdigit() and (number == b"0" or number[:1] != b"0") for number in numbers):
        return False
    allocs, frees, diff, used, each = map(int, numbers)
    return allocs - frees == diff and each == (used // diff if diff else 0)


def _find_cut_line(rest: bytes, number: int) -> Tuple[str, ...]:
    """A warning if ``rest``, what follows the last row, is a single line without an end: the file was cut in it."""
    line = rest.strip(b"\r\n")
    unreadable = LineFaults("cannot be read and is left out")
    is_cut = line.strip() and len(rest) < _PREAMBLE_BYTES and b"\n" not in line and not rest.endswith(b"\n")
    if is_cut and not _NO_ROW.search(line) and not find_moment(line.decode("latin-1")):
        unreadable.add(number, line.decode("latin-1"))
    return unreadable.warnings
