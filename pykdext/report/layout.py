"""Tables and running text in lines of a given width."""

from __future__ import annotations

import textwrap
from typing import Iterable, List, Optional, Sequence, Tuple

import tabulate

from pykdext.printable import count_columns, make_readable, take_columns

tabulate.WIDE_CHARS_MODE = False  # whether wcwidth happens to be installed changes no table

_HELD_BLANK, _FILLER = "\ue000", "\ue001"
"""Stand for a blank and for the second column of a wide letter in tables; no printable cell has them."""

MIN_TEXT_COLUMNS = 12
"""No text of a table is made shorter than this."""


def format_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    align: Sequence[str],
    width: Optional[int] = None,
    spare: Sequence[str] = (),
    encoding: str = "ascii",
) -> List[str]:
    """Lines of a table of ready texts: headers, rule, a line for each row; ``encoding``: of where they are shown.

    What is wider than ``width`` loses ``spare`` columns, in this order, then characters of its widest texts, and is cut
    in the end. The blanks of tags are kept, nothing is taken for a number, and no text breaks its line.
    """
    printable = [[_hold_blanks(make_readable(cell, encoding, frozenset())) for cell in row] for row in (headers, *rows)]
    if width is not None:
        printable, align = _fit(printable, align, width, spare)
    laid_out = [[_fill(cell) for cell in row] for row in printable]
    table: str = tabulate.tabulate(laid_out, tablefmt="plain", colalign=align, disable_numparse=True)
    lines = table.replace(_HELD_BLANK, " ").replace(_FILLER, "").split("\n")
    lines.insert(1, "  ".join("-" * columns for columns in _measure(printable)))
    return [cut(line.rstrip(), width) for line in lines]


def _fit(
    cells: List[List[str]], align: Sequence[str], width: int, spare: Sequence[str]
) -> Tuple[List[List[str]], Sequence[str]]:
    """The cells and alignments of a table that fits, if spare columns and shorter texts let it."""
    cells, align = leave_out_columns(cells, align, width, spare)
    texts = [number for number, side in enumerate(align) if side == "left"]
    excess = _total(cells) - width
    if excess > 0 and texts:
        columns = _measure(cells)
        widest = max(texts, key=lambda number: columns[number])
        room = max(columns[widest] - excess, len(cells[0][widest]), MIN_TEXT_COLUMNS)
        cells = [[cut(cell, room) if number == widest else cell for number, cell in enumerate(row)] for row in cells]
    return cells, align


def leave_out_columns(
    cells: List[List[str]], align: Sequence[str], width: int, spare: Sequence[str]
) -> Tuple[List[List[str]], Sequence[str]]:
    """Cells (headers first) and alignments, without as many spare columns, in this order, as make lines fit."""
    for name in spare:
        if _total(cells) <= width:
            break
        if name in cells[0]:
            gone = cells[0].index(name)
            cells = [[*row[:gone], *row[gone + 1 :]] for row in cells]
            align = [*align[:gone], *align[gone + 1 :]]
    return cells, align


def _measure(cells: Sequence[Sequence[str]]) -> List[int]:
    return [max(map(count_columns, column)) for column in zip(*cells)]


def _total(cells: Sequence[Sequence[str]]) -> int:
    columns = _measure(cells)
    return sum(columns) + 2 * (len(columns) - 1)


def _fill(cell: str) -> str:
    """The cell with a character for each column, as tabulate measures it."""
    if cell.isascii():
        return cell
    return "".join(letter + _FILLER * (count_columns(letter) - 1) for letter in cell)


def _hold_blanks(cell: str) -> str:
    """The cell with a character of its own for blanks at its ends, which tabulate takes away."""
    text = cell.strip(" ")
    if text == cell:
        return cell
    left = len(cell) - len(cell.lstrip(" ")) if text else 0
    return _HELD_BLANK * left + text + _HELD_BLANK * (len(cell) - left - len(text))


def cut(line: str, width: Optional[int]) -> str:
    """The line, its end as dots where it is longer than ``width``; None: as it is."""
    return line if width is None or count_columns(line) <= width else f"{take_columns(line, width - 3)}..."


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
