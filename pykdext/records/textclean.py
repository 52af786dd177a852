"""Text as it arrives by mail and from web pages, made what the tool printed: no quotes, HTML, odd blanks, digits."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Dict, List, Optional, Tuple

from pykdext.records.textfile import TextFile

_ANSI = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")
_MARKUP = re.compile(r"<(?:table|t[rdh]|pre|html|body|br|p|div|span|code)\b[^<>]{0,1000}>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:nbsp|lt|gt|amp|quot|apos|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
_QUOTE = re.compile(r"^[ \t]?(?:>[ \t]?)+", re.MULTILINE)
_QUOTED_LINE = re.compile(r"^[ \t]?>", re.MULTILINE)
_ESCAPED_STARS = re.compile(r"(?:\\[*_])+")
_HEADS = re.compile(
    r"(?:Tag|Allocs|Memory:|NonPaged|Physical Memory)[^\n]{0,200}?\xa0|\xa0[^\n]{0,40}?(?:Tag|Allocs|Memory:)"
)
_FULL_WIDTH_DIGIT = re.compile("[\uff10-\uff19]")
_FULL_WIDTH: Dict[int, int] = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_BLANKS: Dict[int, Optional[str]] = {
    **dict.fromkeys((12288, 5760, *range(8192, 8203), 8287), " "),
    **dict.fromkeys((0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF), None),
}
_BOX: Dict[int, str] = {
    **dict.fromkeys(range(0x2500, 0x2580), "+"),
    **dict.fromkeys((0x2502, 0x2503, 0x2506, 0x2507, 0x250A, 0x250B, 0x2551), "|"),
    **dict.fromkeys((0x2500, 0x2501, 0x2504, 0x2505, 0x2508, 0x2509, 0x2550), "-"),
}
"""The lines around cells, as programs for terminals draw them."""

_BOX_SIDE = re.compile("[\u2502\u2503\u2551]")
_STAMP = re.compile(r"^\[(?:\d{4}-\d\d-\d\d[ T])?\d{1,2}:\d\d:\d\d(?:[.,]\d{1,9})?Z?\][ \t]?", re.MULTILINE)
_STAMPED_SHARE = 0.8
_LISTED = re.compile(
    r"^[ \t]{0,8}(?:(\d{1,3})[.)]|[-*\u2022])[ \t]{1,8}"
    r"(?=(?!Nonp\b|Paged\b)\S(?:[^\n]{0,2}\S)?[ \t]{1,40}(?:(?:Nonp|Paged)[ \t]{1,40})?"
    r"\d[\d,.]{0,30}[ \t]{1,40}(?:\([^()\n]{1,12}\)[ \t]{1,40})?\d)",
    re.MULTILINE,
)
_LIST_BEGINS = re.compile(rb"^[ \t]{0,8}(?:1[.)]|[-*])[ \t]", re.MULTILINE)
_FEWEST_LISTED = 2
_HEAD_BYTES = 1 << 16
_MOST_CLEANED_BYTES = 64 << 20
"""A larger text is a log that a tool wrote, not one that somebody pasted."""

_MARKS = (b"\x1b", b"</", b"&", b">", b"\\", b"<br")
_QUOTED_SHARE = 0.5
_FEW_QUOTED = 3


def clean_text(file: TextFile) -> TextFile:
    """The same text without what mail, web pages and terminals put in; ``file`` itself where there is nothing such.

    Only what shows by itself is taken away: a line's ``>`` where several lines bear it, blanks of other kinds where the
    titles are written with them, full-width letters where there are full-width digits, the marks of a list of rows.
    """
    raw = file.raw
    if len(raw) > _MOST_CLEANED_BYTES or not (
        not raw.isascii()
        or any(mark in raw for mark in (b"\x1b", b"</", b"&", b">", b"\\", b"["))
        or _LIST_BEGINS.search(raw[:_HEAD_BYTES])
    ):
        return file
    text = file.text
    cleaned = _strip_list_marks(_strip_stamps(_strip_quotes(_strip_markup(_ANSI.sub("", text)))))
    if not cleaned.isascii():
        cleaned = _plain_characters(cleaned)
    cleaned = _ESCAPED_STARS.sub(lambda match: match[0].replace("\\", "") if len(match[0]) > 2 else match[0], cleaned)
    return file if cleaned == text else replace(file, raw=cleaned.encode("utf-8"), encoding="utf-8")


def _strip_quotes(text: str) -> str:
    """Lines without the ``>`` of a mail, if several lines bear it."""
    quoted = len(_QUOTED_LINE.findall(text))
    lines = sum(1 for line in text.split("\n") if line.strip()) if quoted else 0
    return _QUOTE.sub("", text) if quoted and (quoted >= _FEW_QUOTED or quoted >= _QUOTED_SHARE * lines) else text


def _strip_stamps(text: str) -> str:
    """Lines without the time in brackets that a terminal's log puts before each."""
    if not text.lstrip().startswith("["):
        return text
    lines = sum(1 for line in text.split("\n") if line.strip())
    return _STAMP.sub("", text) if len(_STAMP.findall(text)) >= _STAMPED_SHARE * lines else text


def _strip_list_marks(text: str) -> str:
    """Rows of tags without the number or the bullet that makes them a list: every row's own, counted from 1."""
    marks = _LISTED.findall(text)
    if len(marks) < _FEWEST_LISTED or (any(marks) and marks != [str(number) for number in range(1, len(marks) + 1)]):
        return text
    return _LISTED.sub("", text)


def _strip_markup(text: str) -> str:
    if _MARKUP.search(text):
        reader = _TextOfMarkup()
        reader.feed(text)
        reader.close()
        return reader.text
    return html.unescape(text) if _ENTITY.search(text) else text


def _plain_characters(text: str) -> str:
    if _FULL_WIDTH_DIGIT.search(text):
        text = text.translate(_FULL_WIDTH)
    if _BOX_SIDE.search(text):
        text = text.translate(_BOX)
    text = text.translate(_BLANKS)
    return text.replace("\xa0", " ") if _HEADS.search(text) else text


class _TextOfMarkup(HTMLParser):
    """The text of HTML: rows of tables as ``| a | b |``, what is preformatted as it stands."""

    _LINES = frozenset(("p", "div", "br", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "pre", "tr", "blockquote"))
    _HIDDEN = frozenset(("script", "style", "head", "title"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: List[str] = []
        self._cells: Optional[List[str]] = None
        self._hidden = 0
        self._tables = 0

    @property
    def text(self) -> str:
        """What was read until now."""
        return "".join(self._pieces)

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        """Begin a row, a cell, or a line."""
        if tag in self._HIDDEN:
            self._hidden += 1
        elif tag == "tr":
            self._end_row()
            self._cells = []
        elif tag in ("td", "th"):
            self._cells = self._cells if self._cells is not None else []
            self._cells.append("")
        elif self._cells is not None:
            self._add(" ")
        elif tag in self._LINES:
            self._pieces.append("\n")
        self._tables += tag == "table"

    def handle_endtag(self, tag: str) -> None:
        """End a row or a line."""
        if tag in self._HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in ("tr", "table"):
            self._end_row()
        elif tag in self._LINES and self._cells is None:
            self._pieces.append("\n")
        if tag == "table":
            self._tables = max(0, self._tables - 1)

    def handle_data(self, data: str) -> None:
        """Take in text."""
        if not self._hidden:
            self._add(data)

    def _add(self, data: str) -> None:
        if self._cells:
            self._cells[-1] += data.replace("\n", " ")
        elif self._cells is None and (not self._tables or data.strip()):  # blanks between rows are no lines
            self._pieces.append(data)

    def _end_row(self) -> None:
        if self._cells:
            cells = (cell.replace("\xa0", " ").strip().replace("|", "/") for cell in self._cells)
            self._pieces.append(f"\n| {' | '.join(cells)} |")
        if self._cells is not None and not self._cells:
            self._pieces.append("\n")
        self._cells = None
