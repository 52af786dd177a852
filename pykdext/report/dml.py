"""DML, the markup of WinDbg's command window (WinDbg documentation: Debugger Markup Language)."""

from __future__ import annotations

import re
from typing import Iterator, Optional

from pykdext.printable import make_printable
from pykdext.report.tone import Tone

OWN_COMMAND = "!py poolleak"
"""How reports write poolleak's own commands in the debugger."""

MAX_PIECE = 16_000
"""Characters written at once: pykd cuts what is longer than 16,383 and says nothing."""

MAX_MARKED = 1_000
"""Longer words and commands are not marked, so that every element fits into a piece."""

_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})
_ELEMENT = re.compile(r"<(\w+)[^>]*>.*?</\1>|&\w+;|[^<&]+", re.DOTALL)


class Dml:
    """The markup of a command window.

    ``own_command``: what to type there to start poolleak, in place of ``!py poolleak``; ``{}`` in it stands for the
    words behind that, else they follow.
    """

    folds = True

    def __init__(self, own_command: str = OWN_COMMAND) -> None:
        self._own_command = own_command if "{}" in own_command else f"{own_command} {{}}"

    def text(self, words: str) -> str:
        """Escaped; control characters are shown, never sent."""
        return make_printable(words, frozenset()).translate(_ENTITIES)

    def tint(self, words: str, tone: Tone) -> str:
        """The words: the window's colours are its user's."""
        return self.text(words)

    def strong(self, words: str, tone: Optional[Tone] = None) -> str:
        """Bold."""
        return f"<b>{self.text(words)}</b>" if len(words) <= MAX_MARKED else self.text(words)

    def link(self, words: str, command: str) -> str:
        """A link, if the debugger would take ``command`` for one command: names from memory must not add another."""
        if command.startswith(f"{OWN_COMMAND} "):
            typed = command[len(OWN_COMMAND) + 1 :]
            if '"' in self._own_command:  # a text of the debugger's expressions: it has escapes, and ends at a quote
                typed = typed.replace("\\", "\\\\").replace('"', "'")
            command = self._own_command.replace("{}", typed)
        if not _is_one_command(command) or len(words) + len(command) > MAX_MARKED:
            return self.text(words)
        return f'<link cmd="{self.text(command)}">{self.text(words)}</link>'


def _is_one_command(command: str) -> bool:
    """Neither a semicolon that ends it, nor quotes that do not close, nor control characters."""
    return command.isascii() and command.isprintable() and ";" not in command and command.count('"') % 2 == 0


def iter_pieces(text: str, marked: bool) -> Iterator[str]:
    """``text`` in pieces of at most MAX_PIECE characters, cut at line ends; ``marked``: it is DML.

    A line that is longer is cut between elements of markup.
    """
    piece = ""
    for part in _iter_parts(text, marked):
        if len(piece) + len(part) > MAX_PIECE:
            yield piece
            piece = ""
        piece += part
    if piece:
        yield piece


def _iter_parts(text: str, marked: bool) -> Iterator[str]:
    """Lines with their ends; of a line that is too long its elements, and of these plain text in parts."""
    for line in text.splitlines(keepends=True):
        if len(line) <= MAX_PIECE:
            yield line
            continue
        for element in (found.group() for found in _ELEMENT.finditer(line)) if marked else (line,):
            for start in range(0, len(element), MAX_PIECE):
                yield element[start : start + MAX_PIECE]
