"""Tables and running text in lines of a given width."""

from __future__ import annotations

import re
import textwrap
from typing import Iterable, List, Optional, Sequence, Tuple

import tabulate

from pykdext.printable import count_columns, make_readable, take_columns

_SHAPE = "x"
"""Stands for a column of a text while a table is laid out: tabulate counts letters, and takes blanks at ends away."""

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
    printable = [[make_readable(cell, encoding, frozenset()) for cell in row] for row in (headers, *rows)]
    if width is not None:
        printable, align = _fit(printable, align, width, spare)
    shapes = [[_SHAPE * count_columns(cell) for cell in row] for row in printable]
    texts = iter([cell for row in printable for cell in row if count_columns(cell)])
    table: str = tabulate.tabulate(shapes, tablefmt="plain", colalign=align, disable_numparse=True)
    lines = re.sub(f"{_SHAPE}+", lambda _: next(texts), table).split("\n")
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
