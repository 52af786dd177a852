"""Lines of a report with marks on them: laid out as plain text first, given links and emphasis afterwards."""

from __future__ import annotations

import re
from typing import Iterable, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Tuple, Union

from pykdext.printable import make_printable, make_readable, take_columns
from pykdext.report.tone import Tone


class Markup(Protocol):
    """How a screen wants text, emphasis and links; ``folds``: it has no room for lines beyond its width."""

    folds: bool

    def text(self, words: str) -> str:
        """Ordinary text, within one line."""

    def strong(self, words: str, tone: Optional[Tone] = None) -> str:
        """Text that stands out; ``tone``: how it is to be taken."""

    def tint(self, words: str, tone: Tone) -> str:
        """Text in the colour of its tone, if the screen has colours."""

    def link(self, words: str, command: str) -> str:
        """Text that runs ``command`` in the debugger when it is clicked."""


class PlainMarkup:
    """Text only: it neither stands out nor leads on, and long words (paths) stay whole."""

    folds = False

    def text(self, words: str) -> str:
        """The words, kept on their line."""
        return words.replace("\n", "\\n")

    def strong(self, words: str, tone: Optional[Tone] = None) -> str:
        """The words."""
        return self.text(words)

    def tint(self, words: str, tone: Tone) -> str:
        """The words."""
        return self.text(words)

    def link(self, words: str, command: str) -> str:
        """The words."""
        return self.text(words)


PLAIN = PlainMarkup()

_COLOURS = {Tone.ALARMING: "31", Tone.CALM: "32", Tone.OPEN: "33"}
"""Red, green and yellow, as the terminal's user has chosen them."""


class AnsiMarkup:
    """A terminal that knows bold and colours (ECMA-48); words lead nowhere. ``encoding``: what it can show."""

    folds = False

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def text(self, words: str) -> str:
        """The words, kept on their line; control characters are shown, never sent."""
        return make_readable(words, self._encoding, frozenset())

    def strong(self, words: str, tone: Optional[Tone] = None) -> str:
        """Bold, in the colour of the tone."""
        colour = f";{_COLOURS[tone]}" if tone else ""
        return f"\x1b[1{colour}m{self.text(words)}\x1b[0m"

    def tint(self, words: str, tone: Tone) -> str:
        """In the colour of the tone."""
        return f"\x1b[{_COLOURS[tone]}m{self.text(words)}\x1b[0m"

    def link(self, words: str, command: str) -> str:
        """The words."""
        return self.text(words)


class Mark(NamedTuple):
    """Columns [start, end) of a line: a link to ``command``, or with None words that stand out or have a colour."""

    start: int
    end: int
    command: Optional[str]
    tone: Optional[Tone] = None
    is_strong: bool = True


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
                mark._replace(start=max(mark.start, start) - start, end=min(mark.end, end) - start) for mark in within
            )
            yield MarkedLine(text[start:end], tuple(shifted))


def _make_printable(line: Line) -> MarkedLine:
    """The line as it is shown, its marks moved to where their words are then."""
    if isinstance(line, str):
        return MarkedLine(make_printable(line, frozenset()), ())
    text = line.text

    def column_of(index: int) -> int:
        return len(make_printable(text[:index], frozenset()))

    marks = (mark._replace(start=column_of(mark.start), end=column_of(mark.end)) for mark in line.marks)
    return MarkedLine(make_printable(text, frozenset()), tuple(marks))


def _render_line(line: Line, markup: Markup) -> str:
    if isinstance(line, str):
        return markup.text(line)
    pieces: List[str] = []
    reached = 0
    for mark in line.marks:
        pieces.append(markup.text(line.text[reached : mark.start]))
        pieces.append(_render_mark(mark, line.text[mark.start : mark.end], markup))
        reached = mark.end
    return "".join((*pieces, markup.text(line.text[reached:])))


def _render_mark(mark: Mark, words: str, markup: Markup) -> str:
    if mark.command is not None:
        return markup.link(words, mark.command)
    return markup.strong(words, mark.tone) if mark.is_strong or mark.tone is None else markup.tint(words, mark.tone)


def emphasize(lines: Iterable[str], tone: Optional[Tone] = None) -> List[Line]:
    """The lines, all of their words standing out."""
    return [MarkedLine(line, (Mark(len(line) - len(line.lstrip()), len(line), None, tone),)) for line in lines]


def link_words(lines: Iterable[Line], words: str, command: Optional[str]) -> List[Line]:
    """The lines, ``words`` linked where they first stand outside of other marks; None: no link."""
    linked = list(lines)
    for number, line in enumerate(linked if command and words else ()):
        marked = line if isinstance(line, MarkedLine) else MarkedLine(line, ())
        start = marked.text.find(words)
        end = start + len(words)
        if start >= 0 and all(end <= mark.start or mark.end <= start for mark in marked.marks):
            linked[number] = MarkedLine(
                marked.text, tuple(sorted((*marked.marks, Mark(start, end, command)), key=_start))
            )
            break
    return linked


def link_cells(table: Sequence[Line], column: int, commands: Sequence[Optional[str]]) -> List[Line]:
    """A table of ``format_table``, the cells of a column linked: ``commands`` are those of its rows; None: no link."""
    return _mark_cells(table, column, [Mark(0, 0, command) if command else None for command in commands])


def tint_cells(table: Sequence[Line], column: int, tones: Sequence[Optional[Tone]]) -> List[Line]:
    """A table of ``format_table``, the cells of a column in the colours of its rows; None: no colour."""
    return _mark_cells(table, column, [Mark(0, 0, None, tone, is_strong=False) if tone else None for tone in tones])


def _mark_cells(table: Sequence[Line], column: int, wanted: Sequence[Optional[Mark]]) -> List[Line]:
    if len(table) < 2:
        return list(table)
    rule = table[1]
    spans = [match.span() for match in _COLUMN.finditer(rule if isinstance(rule, str) else rule.text)]
    linked = list(table)
    if column >= len(spans):  # the line had no room for it
        return linked
    start, end = spans[column]
    for number, mark in enumerate(wanted, 2):
        line = linked[number]
        text, marks = (line, ()) if isinstance(line, str) else line
        before = len(take_columns(text, start))
        cell = text[before : len(take_columns(text, end))]
        first = before + len(cell) - len(cell.lstrip())
        last = before + len(cell.rstrip())
        if mark and first < last:
            linked[number] = MarkedLine(text, tuple(sorted((*marks, mark._replace(start=first, end=last)), key=_start)))
    return linked


def _start(mark: Mark) -> int:
    return mark.start
