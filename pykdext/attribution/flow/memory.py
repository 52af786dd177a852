"""Loads and stores of a followed function: its frame, the image, and what is behind pointers."""

from __future__ import annotations

from typing import Iterator, List, Tuple

from pykdext.attribution.flow.cells import Cell
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import (
    MAX_DEREFERENCES,
    UNKNOWN,
    Atom,
    Constant,
    FieldRead,
    ImageRead,
    Parameter,
    Returned,
    StackAddress,
    Value,
    join,
)
from pykdext.images.image import Image

_IMPORT_ADDRESS_DIRECTORY = 12


class Memory:
    """Memory as a function of ``image`` sees it.

    A store through a pointer that is not known is taken not to hit the frame: compilers address their own slots by
    the stack or frame pointer. A store to the image is not followed: its variables are shared.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._base = image.module.base
        self._constant_ranges = tuple(_iter_constant_ranges(image))

    def load(self, state: State, pointer: Value, offset: int, size: int) -> Value:
        """The ``size`` bytes at ``offset`` from ``pointer``, of at most 16."""
        if len(pointer) == 1:
            (atom,) = pointer
            return self._load_atom(state, atom, offset, size)
        return join(*(self._load_atom(state, atom, offset, size) for atom in pointer))

    def store(self, state: State, pointer: Value, offset: int, size: int, value: Value) -> None:
        """Put ``value`` there. With several possible places each keeps what it had as a possibility."""
        for atom in pointer:
            if isinstance(atom, StackAddress):
                place = atom.offset + offset
                kept = [] if len(pointer) == 1 else [state.read_frame(place, size)]
                state.write_frame(place, size, join(value, *kept))
            elif isinstance(atom, Constant) and any(isinstance(part, Returned) for part in value):
                rva = atom.number + offset - self._base
                state.kept[rva] = join(value, state.kept.get(rva, value))
        state.escape(value)

    def load_cells(self, state: State, pointer: Value, offset: int, size: int) -> List[Cell]:
        """The pieces at ``offset`` from ``pointer``, for a vector register or a copy; empty: nothing is known."""
        (atom, *others) = pointer
        if isinstance(atom, StackAddress) and not others:
            return state.frame.cut(atom.offset + offset, size)
        value = self.load(state, pointer, offset, size)
        return [] if value == UNKNOWN else [Cell(0, size, value)]

    def store_cells(self, state: State, pointer: Value, offset: int, size: int, pieces: List[Cell]) -> None:
        """Put pieces there, where it is one place of the frame; of several places nothing is known afterwards."""
        for atom in pointer:
            if isinstance(atom, StackAddress):
                state.frame.paste(atom.offset + offset, size, pieces if len(pointer) == 1 else [])
        for piece in pieces:
            state.escape(piece.value)

    def _load_atom(self, state: State, atom: Atom, offset: int, size: int) -> Value:
        if isinstance(atom, StackAddress):
            return state.read_frame(atom.offset + offset, size)
        if isinstance(atom, Constant):
            return self._load_image(atom.number + offset - self._base, size)
        if isinstance(atom, (Parameter, ImageRead, FieldRead)):
            read = FieldRead(atom, offset, size)
            return frozenset({read}) if read.dereferences <= MAX_DEREFERENCES else UNKNOWN
        return UNKNOWN

    def _load_image(self, rva: int, size: int) -> Value:
        if not 0 <= rva < self._image.size:
            return UNKNOWN
        if any(start <= rva and rva + size <= stop for start, stop in self._constant_ranges):
            data = self._image.read(rva, size)
            if data is not None:
                return frozenset({Constant(int.from_bytes(data, "little"))})
        return frozenset({ImageRead(rva, size)})


def _iter_constant_ranges(image: Image) -> Iterator[Tuple[int, int]]:
    """Start and end RVA of what nobody writes: read-only sections without the pointers that the loader fills in."""
    slots_rva, slots_bytes = image.directory(_IMPORT_ADDRESS_DIRECTORY)
    for section in image.sections:
        if section.writable or not section.known:
            continue
        start, stop = section.rva, section.rva + section.size
        if start < slots_rva + slots_bytes and slots_rva < stop:
            yield start, slots_rva
            start = slots_rva + slots_bytes
        if start < stop:
            yield start, stop
