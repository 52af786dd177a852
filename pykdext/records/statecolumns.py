"""Tables with a column for each state: ``Before`` and ``After``, ``Start`` and ``End``, or times as titles.

Rows are tags. What is counted stands in the title beside the state's word (``Bytes before``, ``Allocs after``);
where nothing else stands there it is the size. Columns of differences, which belong to no state, are not read.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.model import PoolSnapshot, TimeOrigin
from pykdext.records.columns import Columns, find_columns, find_fact, find_unit
from pykdext.records.moments import Moment, find_moment, find_time_of_day
from pykdext.records.pastedtable import find_captioned_pool, is_rule, is_tag_titles, iter_splits
from pykdext.records.samples import SampleCollector
from pykdext.records.textfile import TextFile
from pykdext.records.titlewords import english_words

_LINE_CHARACTERS = 1000
_MOST_LINES = 5_000
_MOST_STATES = 200
_MOST_STARTS = 100
"""Lines that may be titles."""
_PAIRS = (
    ("before", "after"),
    ("start", "end"),
    ("first", "last"),
    ("first", "second"),
    ("initial", "final"),
    ("old", "new"),
    ("then", "now"),
    ("earlier", "later"),
    ("baseline", "current"),
)


class _State(NamedTuple):
    """One state of the table: its columns, and when it was, by its title."""

    columns: Columns
    moment: Optional[Moment]


def parse_state_columns(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """A snapshot of each state of the first such table in ``file``, in the order of its columns; empty without one."""
    lines = [line[:_LINE_CHARACTERS] for line in file.text.split("\n", _MOST_LINES)[:_MOST_LINES]]
    starts = (place for place, line in enumerate(lines) if is_tag_titles(line))
    found = (_read_table(file, lines, place) for place in itertools.islice(starts, _MOST_STARTS))
    return next(filter(None, found), ())


def _read_table(file: TextFile, lines: Sequence[str], place: int) -> Tuple[PoolSnapshot, ...]:
    first = next((line for line in lines[place + 1 : place + 4] if not is_rule(line)), "")
    for split in iter_splits(lines[place], first):
        states = _find_states(split(lines[place]), file)
        if not states or not any(state.columns.read_row(split(first)) for state in states):
            continue
        caption = next((line for line in reversed(lines[max(0, place - 8) : place]) if line.strip()), "")
        rows = []
        for number, line in enumerate(lines[place + 1 :], start=place + 2):
            if not is_rule(line):
                rows.append((number, line, split(line)))
            elif rows and not line.strip():
                break
        found = []
        for state in states:
            state.columns.study([cells for _, _, cells in rows])
            collector = SampleCollector(state.columns, "table of states", file.path, find_captioned_pool(caption))
            for row in rows:
                collector.add(*row)
            found += [_date(snapshot, state.moment) for snapshot in collector.snapshots()]
        return tuple(found)
    return ()


def _date(snapshot: PoolSnapshot, moment: Optional[Moment]) -> PoolSnapshot:
    if moment is None:
        return snapshot
    warnings = (*moment.doubts, *snapshot.warnings)
    return replace(snapshot, taken_at=moment.at, time_from=TimeOrigin.HEADER, warnings=warnings)


def _find_states(titles: Sequence[str], file: TextFile) -> Tuple[_State, ...]:
    """The states that titles tell apart; empty unless there are two or more, each with something counted."""
    names = _name_states(titles, file)
    labels = list(dict.fromkeys(label for label, _ in names.values()))
    if not 2 <= len(labels) <= _MOST_STATES:
        return ()
    states: List[_State] = []
    for label in labels:
        own = [
            names[cell][1] if cell in names and names[cell][0] == label else title if find_fact(title) else ""
            for cell, title in enumerate(titles)
        ]
        columns = find_columns(own)
        if columns is None:
            return ()
        states.append(_State(columns, find_moment(label) or find_time_of_day(label, file.written_at)))
    return tuple(states)


def _name_states(titles: Sequence[str], file: TextFile) -> Dict[int, Tuple[str, str]]:
    """For each cell that is of one state: the state's word or time, and the title without it."""
    timed = {
        cell: (title.strip(), "Bytes")
        for cell, title in enumerate(titles)
        if find_moment(title) or find_time_of_day(title, file.written_at)
    }
    if len(timed) > 1:
        return timed
    words = [english_words(title).split() for title in titles]
    for pair in _PAIRS:
        if all(any(label in said for said in words) for label in pair):
            return {
                cell: (label, _name_counter(title, [word for word in said if word != label]))
                for cell, (title, said) in enumerate(zip(titles, words))
                for label in pair
                if label in said and len(set(pair) & set(said)) == 1
            }
    return {}


def _name_counter(title: str, words: Sequence[str]) -> str:
    """The title of a state's column without the state's word: that of a size if nothing counted is left."""
    rest = " ".join(words)
    counted = find_columns(["tag", rest]) is not None
    unit = find_unit(title) or "bytes"
    return rest if counted else f"{rest} {unit}"
