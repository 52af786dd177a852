"""Tables of tags that people paste into issues and mails: Markdown, or text in columns, with titles above or beside.

The titles must name the tag and something counted: bytes (in KB, MB or GB, also in the title: ``NP_MB``), blocks
outstanding, allocations, frees. Where neither a title nor the line above names the pool, nonpaged is taken, and said.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, partial
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import PoolKind, PoolSnapshot
from pykdext.records.columns import SESSION_POOL, Columns, find_columns, find_fact, find_pools
from pykdext.records.joining import join_states
from pykdext.records.samples import SampleCollector
from pykdext.records.textfile import TextFile
from pykdext.records.titlewords import english_words

_COLUMN_BORDER = re.compile(r"\s{2,}|\t")
_RULE = re.compile(r"^[\s|:=+-]*$")
_LINE_CHARACTERS = 1000
_MOST_TITLES = 40
_SHOWN_CHARACTERS = 60
_MOST_SEARCHED_LINES = 2000
_SORTING = re.compile(r"\bsorting by\b", re.IGNORECASE)
_TAG_WORD = re.compile(r"\btag\b|\bhex\b|\btag (?:name|hex)\b")

Split = Callable[[str], List[str]]
"""Parts a line into cells."""


class _Row(NamedTuple):
    number: int
    line: str
    cells: Sequence[str]


class _Table(NamedTuple):
    """A table: the index of its titles and that of the line after its last row; rows; lines within that are none."""

    titles: int
    end: int
    columns: Columns
    rows: Sequence[_Row]
    odd: Sequence[Tuple[int, str]]


def parse_pasted_tables(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """A snapshot of each table of tags in ``file``, in its order; tables of different pools are joined to one state."""
    lines = [line[:_LINE_CHARACTERS] for line in file.text.split("\n")]
    snapshots: List[PoolSnapshot] = []
    for table, caption in _iter_tables(lines):
        table.columns.study([row.cells for row in table.rows])
        collector = SampleCollector(table.columns, "table of tags", file.path, find_captioned_pool(caption))
        for row in table.rows:
            collector.add(*row)
        for number, line in table.odd:
            collector.refuse(number, line)
        found = collector.snapshots()
        snapshots += (_mark_session(snapshot, caption) for snapshot in found)
    return join_states(snapshots)


def find_captioned_pool(caption: str) -> Optional[PoolKind]:
    """The pool that the line above a table names; None if it names none, or both, or only how rows are sorted."""
    pools = set() if _SORTING.search(caption) else set(find_pools(caption))
    return pools.pop() if len(pools) == 1 else None


def _mark_session(snapshot: PoolSnapshot, caption: str) -> PoolSnapshot:
    if "session" not in caption.lower() or SESSION_POOL in snapshot.warnings:
        return snapshot
    return replace(snapshot, warnings=(*snapshot.warnings, SESSION_POOL))


def _iter_tables(lines: Sequence[str]) -> Iterator[Tuple[_Table, str]]:
    """The tables, each with the last line of text above it."""
    place = before = 0
    while place < len(lines):
        if not is_tag_titles(lines[place]):
            place += 1
            continue
        caption = next((line for line in reversed(lines[max(before, place - 8) : place]) if line.strip()), "")
        table = _read_table(lines, place, caption) or _read_transposed(lines, place)
        if table:
            yield table, caption
            before = table.end
        place = table.end if table else place + 1


def _read_table(lines: Sequence[str], titles: int, caption: str) -> Optional[_Table]:
    """The table whose titles stand in a line; None if no row follows them."""
    first = next((line for line in lines[titles + 1 : titles + 4] if not _RULE.match(line)), "")
    found = _find_split(lines[titles], first, caption)
    if found is None:
        return None
    split, columns = found
    rows: List[_Row] = []
    unreadable: List[Tuple[int, str]] = []
    odd: List[int] = []  # lines since the last row: what stands after the table is none of its rows
    end = titles + 1
    for number in range(titles + 1, len(lines)):
        cells = split(lines[number])
        if columns.read_row(cells):
            unreadable += ((place + 1, lines[place]) for place in odd if rows)
            rows.append(_Row(number + 1, lines[number], cells))
            odd, end = [], number + 1
        elif not _RULE.match(lines[number]):
            odd.append(number)
        if len(odd) > 1 or (rows and not lines[number].strip()):
            break
    return _Table(titles, end, columns, rows, unreadable)


def _find_split(titles: str, first: str, caption: str) -> Optional[Tuple[Split, Columns]]:
    """How the cells part, and what they mean: the first way in which titles and the first row can be read."""
    for split in iter_splits(titles, first):
        columns = _find_sided_columns(split(titles), caption)
        if columns and columns.read_row(split(first)):
            return split, columns
    return None


def _find_sided_columns(titles: Sequence[str], caption: str) -> Optional[Columns]:
    """The columns of titles; where they repeat for each pool, the line above must name both pools in their order."""
    columns = find_columns(titles) if len(titles) <= _MOST_TITLES else None
    if columns is None or not columns.has_unnamed_sides_only:
        return columns
    words = [english_words(title) for title in titles]
    repeated = [word for word in dict.fromkeys(words) if words.count(word) == 2 and not find_fact(word)]
    if not repeated:
        return columns
    pools = find_pools(caption)
    if len(pools) != 2 or pools[0] is pools[1]:
        return None
    seen: List[str] = []
    named: List[str] = []
    for title, word in zip(titles, words):
        named.append(f"{pools[seen.count(word)].value} {title}" if word in repeated else title)
        seen.append(word)
    return find_columns(named)


def _read_transposed(lines: Sequence[str], start: int) -> Optional[_Table]:
    """A table with a tag a column: its first cell is the title of the tags, the first cells below it are titles."""
    below = next((line for line in lines[start + 1 : start + 4] if not _RULE.match(line)), "")
    split = next(iter_splits(lines[start], below))
    head = split(lines[start])
    if len(head) < 2 or find_fact(head[0]) != "tag":
        return None
    rows = [head]
    end = start + 1
    for number in range(start + 1, min(len(lines), start + _MOST_TITLES)):
        if _RULE.match(lines[number]):
            if not lines[number].strip() and len(rows) > 1:
                break
            continue
        cells = split(lines[number])
        if len(cells) != len(head) or cells[0] == head[0]:  # the same title again begins another table
            break
        rows.append(cells)
        end = number + 1
    titles = [row[0] for row in rows]
    columns = find_columns(titles) if len(rows) > 1 else None
    turned = [[row[place] for row in rows] for place in range(1, len(head))]
    if columns is None or not all(columns.read_row(cells) for cells in turned):
        return None
    return _Table(start, end, columns, [_Row(start + 1, " ".join(cells), cells) for cells in turned], ())


def find_unread_table(file: TextFile) -> Optional[Tuple[int, str]]:
    """Of a text of which no table could be read: the line, and what was found there. None without titles of tags."""
    lines = [line[:_LINE_CHARACTERS] for line in file.text.split("\n", _MOST_SEARCHED_LINES)[:_MOST_SEARCHED_LINES]]
    for index, line in enumerate(lines):
        if not is_tag_titles(line):
            continue
        below = next((number for number in range(index + 1, len(lines)) if not _RULE.match(lines[number])), None)
        if below is None:
            break
        for split in _SPLITS:
            titles, cells = split(line), split(lines[below])
            if len(titles) > 1 and abs(len(cells) - len(titles)) < 2 and _find_sided_columns(titles, "nonpaged paged"):
                shown = lines[below].strip()[:_SHOWN_CHARACTERS]
                return below + 1, f"below the titles of a table of tags a line that is no row: {shown!r}"
    return None


@lru_cache(maxsize=1 << 12)
def is_tag_titles(line: str) -> bool:
    """Whether a line has a word that titles the column of tags."""
    return bool(_TAG_WORD.search(english_words(line)))


def is_rule(line: str) -> bool:
    """Whether a line is empty, or drawn below titles."""
    return bool(_RULE.match(line))


def iter_splits(titles: str, row: str) -> Iterator[Split]:
    """How the cells of a table may part: by bars, or commas, semicolons, tabs, if both lines have as many of them.

    Else by single blanks if both lines then have as many cells, by wider gaps, by single blanks all the same.
    """
    if titles.count("|") > 1:
        yield _split_markdown
        return
    for mark in ";,\t":
        if titles.count(mark) > 1 and row.count(mark) >= titles.count(mark):
            yield partial(_split_delimited, mark)
    if len(titles.split()) == len(row.split()):
        yield str.split
    yield _split_wide
    yield str.split


def _split_delimited(mark: str, line: str) -> List[str]:
    return [cell.strip() for cell in line.split(mark)]


def _split_markdown(line: str) -> List[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _split_wide(line: str) -> List[str]:
    return _COLUMN_BORDER.split(line.strip())


_SPLITS: Tuple[Split, ...] = (
    _split_markdown,
    *(partial(_split_delimited, mark) for mark in ";,\t"),
    _split_wide,
    str.split,
)
