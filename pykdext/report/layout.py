"""Tables and running text in lines of a given width."""

from __future__ import annotations

import textwrap
from typing import Iterable, List, Optional, Sequence

import tabulate

from pykdext.printable import make_printable

_HELD_BLANK = "\ue000"
"""Stands for a blank while a table is laid out; no printable cell has it."""


def format_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], align: Sequence[str], width: Optional[int] = None
) -> List[str]:
    """Lines of a table of ready texts: headers, rule, a line for each row; longer ones are cut at ``width``.

    The blanks of tags are kept, nothing is taken for a number, and no text breaks its line.
    """
    printable = [[_hold_blanks(make_printable(cell, frozenset())) for cell in row] for row in (headers, *rows)]
    columns = [max(map(len, column)) for column in zip(*printable)]
    table: str = tabulate.tabulate(printable, tablefmt="plain", colalign=align, disable_numparse=True)
    lines = table.replace(_HELD_BLANK, " ").split("\n")
    lines.insert(1, "  ".join("-" * column for column in columns))
    return [cut(line.rstrip(), width) for line in lines]


def _hold_blanks(cell: str) -> str:
    """The cell with a character of its own for blanks at its ends, which tabulate takes away."""
    text = cell.strip(" ")
    if text == cell:
        return cell
    left = len(cell) - len(cell.lstrip(" ")) if text else 0
    return _HELD_BLANK * left + text + _HELD_BLANK * (len(cell) - left - len(text))


def cut(line: str, width: Optional[int]) -> str:
    """The line, its end as dots where it is longer than ``width``; None: as it is."""
    return line if width is None or len(line) <= width else line[: width - 3] + "..."


def wrap(text: str, width: int, indent: str = "", hanging: Optional[str] = None) -> List[str]:
    """Lines of running text; words that are longer than a line (paths) stay whole."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def warning_lines(warnings: Sequence[str], width: int) -> List[str]:
    """Each warning, wrapped."""
    return [line for warning in warnings for line in wrap(f"Warning: {warning}", width, "", "  ")]
