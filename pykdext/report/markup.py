"""Lines of a report with marks on them: laid out as plain text first, given links and emphasis afterwards."""

from __future__ import annotations

import re
from typing import Iterable, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Tuple, Union

from pykdext.printable import make_printable, make_readable


class Markup(Protocol):
    """How a screen wants text, emphasis and links; ``folds``: it has no room for lines beyond its width."""

    folds: bool

    def text(self, words: str) -> str:
        """Ordinary text, within one line."""

    def strong(self, words: str) -> str:
        """Text that stands out."""

    def link(self, words: str, command: str) -> str:
        """Text that runs ``command`` in the debugger when it is clicked."""


class PlainMarkup:
    """Text only: it neither stands out nor leads on, and long words (paths) stay whole."""

    folds = False

    def text(self, words: str) -> str:
        """The words, kept on their line."""
        return words.replace("\n", "\\n")

    def strong(self, words: str) -> str:
        """The words."""
        return self.text(words)

    def link(self, words: str, command: str) -> str:
        """The words."""
        return self.text(words)


PLAIN = PlainMarkup()


class AnsiMarkup:
    """A terminal that knows bold (ECMA-48): words stand out, and lead nowhere. ``encoding``: what it can show."""

    folds = False

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def text(self, words: str) -> str:
        """The words, kept on their line; control characters are shown, never sent."""
        return make_readable(words, self._encoding, frozenset())

    def strong(self, words: str) -> str:
        """Bold."""
        return f"\x1b[1m{self.text(words)}\x1b[0m"

    def link(self, words: str, command: str) -> str:
        """The words."""
        return self.text(words)


class Mark(NamedTuple):
    """Columns [start, end) of a line: a link to ``command``, or with None words that stand out."""

    start: int
    end: int
    command: Optional[str]


class MarkedLine(NamedTuple):
    """A line with marks that do not overlap, in their order."""

    text: str
    marks: Tuple[Mark, ...]


Line = Union[str, MarkedLine]
"""Most lines have no marks."""

_COLUMN = re.compile("-+")


def render_lines(lines: Iterable[Line], markup: Markup, width: Optional[int] = None) -> str:
    """The lines in the markup, each with its line end; those beyond ``width`` columns folded if the markup wants it."""
    fitting = lines if width is None or not markup.folds else _iter_folded(lines, width)
    return "".join(f"{_render_line(line, markup)}\n" for line in fitting)


def _iter_folded(lines: Iterable[Line], width: int) -> Iterator[Line]:
    """The lines in parts of at most ``width`` columns as they are shown, with the marks of each part."""
    for line in lines:
        text, marks = _make_printable(line)
        for start in range(0, max(len(text), 1), width):
            end = start + width
            within = (mark for mark in marks if mark.start < end and start < mark.end)
            shifted = (
                Mark(max(mark.start, start) - start, min(mark.end, end) - start, mark.command) for mark in within
            )
            yield MarkedLine(text[start:end], tuple(shifted))


def _make_printable(line: Line) -> MarkedLine:
    """The line as it is shown, its marks moved to where their words are then."""
    if isinstance(line, str):
        return MarkedLine(make_printable(line, frozenset()), ())
    text = line.text

    def column_of(index: int) -> int:
        return len(make_printable(text[:index], frozenset()))

    marks = (Mark(column_of(mark.start), column_of(mark.end), mark.command) for mark in line.marks)
    return MarkedLine(make_printable(text, frozenset()), tuple(marks))


def _render_line(line: Line, markup: Markup) -> str:
    if isinstance(line, str):
        return markup.text(line)
    pieces: List[str] = []
    reached = 0
    for start, end, command in line.marks:
        words = line.text[start:end]
        pieces.append(markup.text(line.text[reached:start]))
        pieces.append(markup.strong(words) if command is None else markup.link(words, command))
        reached = end
    return "".join((*pieces, markup.text(line.text[reached:])))


def emphasize(lines: Iterable[str]) -> List[Line]:
    """The lines, all of their words standing out."""
    return [MarkedLine(line, (Mark(len(line) - len(line.lstrip()), len(line), None),)) for line in lines]


def link_words(lines: Iterable[Line], words: str, command: Optional[str]) -> List[Line]:
    """The lines, ``words`` linked where they first stand outside of other marks; None: no link."""
    linked = list(lines)
    for number, line in enumerate(linked if command and words else ()):
        marked = line if isinstance(line, MarkedLine) else MarkedLine(line, ())
        start = marked.text.find(words)
        end = start + len(words)
        if start >= 0 and all(end <= mark.start or mark.end <= start for mark in marked.marks):
            linked[number] = MarkedLine(marked.text, tuple(sorted((*marked.marks, Mark(start, end, command)))))
            break
    return linked


def link_cells(table: Sequence[Line], column: int, commands: Sequence[Optional[str]]) -> List[Line]:
    """A table of ``format_table``, the cells of a column linked: ``commands`` are those of its rows; None: no link."""
    if len(table) < 2:
        return list(table)
    rule = table[1]
    spans = [match.span() for match in _COLUMN.finditer(rule if isinstance(rule, str) else rule.text)]
    linked = list(table)
    if column >= len(spans):  # the line had no room for it
        return linked
    start, end = spans[column]
    for number, command in enumerate(commands, 2):
        line = linked[number]
        text, marks = (line, ()) if isinstance(line, str) else line
        cell = text[start:end]
        first = start + len(cell) - len(cell.lstrip())
        last = start + len(cell.rstrip())
        if command and first < last:
            linked[number] = MarkedLine(text, tuple(sorted((*marks, Mark(first, last, command)))))
    return linked
