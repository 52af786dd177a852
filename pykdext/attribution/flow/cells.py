"""Storage with byte addresses whose content is values of several sizes: a stack frame, a file of vector registers."""

from __future__ import annotations

import operator
from typing import Dict, Iterator, List, NamedTuple, Optional

from pykdext.attribution.flow.values import (
    UNKNOWN,
    UNKNOWN_ATOM,
    Atom,
    Constant,
    Displaced,
    FieldRead,
    ImageRead,
    Parameter,
    Result,
    Returned,
    StackAddress,
    Value,
    combine,
    map_constants,
)

MAX_CELL_BYTES = 16
"""Larger pieces are kept as several cells."""

_TAG_BYTES, _SHORT_BYTES = 4, 2

MAX_CELLS = 512
"""Cells kept of one frame; what is written beyond them is forgotten."""


class Cell(NamedTuple):
    """``size`` bytes at ``offset`` that were written together."""

    offset: int
    size: int
    value: Value


class Cells:
    """Disjoint cells, little-endian. A read takes a part of a cell, or several cells of numbers, as memory would."""

    __slots__ = ("_cells",)

    def __init__(self, cells: Optional[Dict[int, Cell]] = None) -> None:
        self._cells: Dict[int, Cell] = {} if cells is None else cells

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells.values())

    def __len__(self) -> int:
        return len(self._cells)

    def copy(self) -> Cells:
        """The same content, to be changed apart."""
        return Cells(dict(self._cells))

    def is_same_as(self, other: Cells) -> bool:
        """Whether both have the same content in the same pieces."""
        return self._cells == other._cells

    def differing_from(self, other: Cells) -> List[Cell]:
        """The cells that ``other`` has not got, or not with the very same content."""
        cells = self._cells
        return [cell for cell, its in zip(cells.values(), map(other._cells.get, cells)) if its is not cell]

    def missing_in(self, other: Cells) -> List[Cell]:
        """The cells at whose offsets ``other`` has none that begins."""
        return [self._cells[offset] for offset in self._cells.keys() - other._cells.keys()]

    def read(self, offset: int, size: int) -> Optional[Value]:
        """The ``size`` bytes at ``offset``; None if none of them was ever written."""
        exact = self._cells.get(offset)
        if exact and exact.size == size:
            return exact.value
        pieces = self.cut(offset, size)
        if not pieces:
            return None
        if len(pieces) == 1 and pieces[0].size == size:
            return pieces[0].value
        if sum(piece.size for piece in pieces) != size:
            return UNKNOWN
        return _concatenate(pieces, size)

    def overlaps(self, offset: int, size: int) -> bool:
        """Whether one of the ``size`` bytes at ``offset`` was ever written."""
        return offset in self._cells or bool(self._overlapping(offset, size))

    def write(self, offset: int, size: int, value: Value) -> bool:
        """Put ``value`` at ``offset``; cells that reach over the border keep their other part. False: no room."""
        exact = self._cells.get(offset)
        if exact is None or exact.size != size:
            self.remove(offset, size)
            if size > MAX_CELL_BYTES:
                self.paste(offset, size, _split(value, size))
                return True
            if len(self._cells) >= MAX_CELLS:
                return False
        self._cells[offset] = Cell(offset, size, value)
        return True

    def cut(self, offset: int, size: int) -> List[Cell]:
        """What is known of the ``size`` bytes at ``offset``, ascending, with offsets relative to it."""
        pieces = []
        for cell in self._overlapping(offset, size):
            start, stop = max(cell.offset, offset), min(cell.offset + cell.size, offset + size)
            pieces.append(Cell(start - offset, stop - start, part(cell.value, start - cell.offset, stop - start)))
        return pieces

    def paste(self, offset: int, size: int, pieces: List[Cell]) -> None:
        """Put what was ``cut`` elsewhere at ``offset``; bytes between the pieces are UNKNOWN from now on."""
        for start in range(0, size, MAX_CELL_BYTES):
            self.write(offset + start, min(MAX_CELL_BYTES, size - start), UNKNOWN)
        for piece in pieces:
            self.write(offset + piece.offset, piece.size, piece.value)

    def forget_from(self, offset: int) -> None:
        """The cells that end above ``offset`` can from now on also hold anything else."""
        for start, size, value in list(self):
            if start + size > offset and not value >= UNKNOWN:
                self._cells[start] = Cell(start, size, value | UNKNOWN)

    def _overlapping(self, offset: int, size: int) -> List[Cell]:
        cells = self._cells
        if not cells:
            return []
        starts = range(offset - MAX_CELL_BYTES + 1, offset + size)
        if cells.keys().isdisjoint(starts):
            return []
        found = [cells[start] for start in starts if start in cells]
        return [cell for cell in found if cell.offset + cell.size > offset]

    def remove(self, offset: int, size: int) -> None:
        """Make the ``size`` bytes at ``offset`` as if never written."""
        for cell in self._overlapping(offset, size):
            del self._cells[cell.offset]
            before, after = offset - cell.offset, cell.offset + cell.size - offset - size
            if before > 0:
                self._cells[cell.offset] = Cell(cell.offset, before, part(cell.value, 0, before))
            if after > 0:
                rest = offset + size
                self._cells[rest] = Cell(rest, after, part(cell.value, cell.size - after, after))


def part(value: Value, skipped: int, size: int) -> Value:
    """The ``size`` bytes of ``value`` that begin at byte ``skipped``.

    The low four bytes or more of a parameter or a stack address count as it: a pool tag has 32 bits. So do two of a
    parameter, which may be a short number.
    """
    if value is UNKNOWN:
        return value
    if len(value) == 1:
        (atom,) = value
        taken = _part_of_atom(atom, skipped, size)
        return value if taken is atom else frozenset({taken})
    return frozenset([_part_of_atom(atom, skipped, size) for atom in value])


def _part_of_atom(atom: Atom, skipped: int, size: int) -> Atom:
    if isinstance(atom, Constant):
        number = (atom.number >> 8 * skipped) & ((1 << 8 * size) - 1)
        return atom if number == atom.number else Constant(number, atom.origin_rva)
    if isinstance(atom, (ImageRead, FieldRead)) and skipped == 0 and size >= atom.size:
        return atom
    if isinstance(atom, ImageRead) and skipped < atom.size:
        return ImageRead(atom.rva + skipped, min(size, atom.size - skipped))
    if isinstance(atom, FieldRead) and skipped < atom.size:
        return FieldRead(atom.base, atom.offset + skipped, min(size, atom.size - skipped))
    least = _SHORT_BYTES if isinstance(atom, Parameter) else _TAG_BYTES
    if isinstance(atom, (Parameter, StackAddress, Displaced, Returned, Result)) and skipped == 0 and size >= least:
        return atom
    return UNKNOWN_ATOM


def _concatenate(pieces: List[Cell], size: int) -> Value:
    """Adjacent pieces as one number; UNKNOWN for each possibility that is no number in all of them."""
    whole = pieces[0].value
    for piece in pieces[1:]:
        whole = combine(whole, _shift_up(piece.value, 8 * piece.offset, 8 * size), operator.or_, 8 * size)
    return whole


def _shift_up(value: Value, shift: int, bits: int) -> Value:
    return map_constants(value, lambda number: number << shift, bits)


def _split(value: Value, size: int) -> List[Cell]:
    """A value larger than a cell."""
    return [
        Cell(start, min(MAX_CELL_BYTES, size - start), part(value, start, min(MAX_CELL_BYTES, size - start)))
        for start in range(0, size, MAX_CELL_BYTES)
    ]
