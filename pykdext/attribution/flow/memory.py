"""Loads and stores of a followed function: its frame, the image, and what is behind pointers."""

from __future__ import annotations

from typing import Dict, Iterator, List, Tuple, TypeVar

from pykdext.attribution.flow.cells import Cell, part
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import (
    MAX_DEREFERENCES,
    UNKNOWN,
    Atom,
    Constant,
    Entry,
    FieldRead,
    ImageRead,
    Parameter,
    Returned,
    StackAddress,
    Value,
    join,
    member_at,
    split_address,
)
from pykdext.images.image import Image
from pykdext.images.imports import read_imports

MAX_KEPT = 512
"""Variables, and members of structures, in which stores of one function are noted; variables that it uses at all."""

MAX_ENTRIES = 30
"""Entries of an array in the frame; with one more value are fewer than those that are told apart."""

MAX_ARRAYS = 4
"""Arrays of which one address may be an entry's."""

_IMPORT_ADDRESS_DIRECTORY = 12
_TAG_BYTES, _NOTED_BYTES = 4, 16
_LEAST_TAG = 0x01000000

_Key = TypeVar("_Key")


class Memory:
    """Memory as a function of ``image`` sees it.

    A store through a pointer that is not known is taken not to hit the frame: compilers address their own slots by
    the stack or frame pointer. What is stored elsewhere is noted, and no load reads it: it is shared with others.
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

    def load_element(self, state: State, pointer: Value, offset: int, entry_bytes: int, size: int) -> Value:
        """An entry of an array with an index that nobody knows: in the frame any of those that were written there."""
        (atom, *others) = pointer
        if isinstance(atom, (Constant, Entry)) and not others:
            self.note_variable(state, atom.number + offset)
        if others or not isinstance(atom, StackAddress) or entry_bytes < _TAG_BYTES or size != _TAG_BYTES:
            return UNKNOWN
        entries: List[Value] = []
        for place in range(atom.offset + offset, atom.offset + offset + MAX_ENTRIES * entry_bytes, entry_bytes):
            value = state.frame.read(place, size)
            if value is None or value == UNKNOWN:
                break
            entries.append(value)
        return join(UNKNOWN, *entries)

    def add_index(self, total: Value, left: Value, right: Value) -> Value:
        """``total``, the sum of both, with the entry where one is the address of an array, and the other not known."""
        if not total >= UNKNOWN:
            return total
        starts = {atom.number for atom in left | right if isinstance(atom, (Constant, Entry))}
        arrays = [Entry(number) for number in starts if 0 <= number - self._base < self._image.size]
        return total.union(arrays) if len(arrays) <= MAX_ARRAYS else total

    def store(self, state: State, pointer: Value, offset: int, size: int, value: Value) -> None:
        """Put ``value`` there. With several possible places each keeps what it had as a possibility."""
        for atom in pointer:
            if isinstance(atom, StackAddress):
                place = atom.offset + offset
                kept = [] if len(pointer) == 1 else [state.read_frame(place, size)]
                state.write_frame(place, size, join(value, *kept))
            else:
                if isinstance(atom, Constant):
                    self.note_variable(state, atom.number + offset)
                self._note_store(state, atom, offset, size, value)
        state.escape(value)

    def note_variable(self, state: State, address: int) -> None:
        """Note that the function uses what the image has at ``address``."""
        rva = address - self._base
        if 0 <= rva < self._image.size and len(state.variables) < MAX_KEPT:
            state.variables.add(rva)

    def load_cells(self, state: State, pointer: Value, offset: int, size: int) -> List[Cell]:
        """The pieces at ``offset`` from ``pointer``, for a vector register or a copy; empty: nothing is known."""
        (atom, *others) = pointer
        if isinstance(atom, StackAddress) and not others:
            return state.frame.cut(atom.offset + offset, size)
        value = self.load(state, pointer, offset, size)
        return [] if value >= UNKNOWN else [Cell(0, size, value)]

    def store_cells(self, state: State, pointer: Value, offset: int, size: int, pieces: List[Cell]) -> None:
        """Put pieces there, where it is one place of the frame; of several places nothing is known afterwards."""
        for atom in pointer:
            if isinstance(atom, StackAddress):
                state.frame.paste(atom.offset + offset, size, pieces if len(pointer) == 1 else [])
            else:
                for piece in pieces:
                    self._note_store(state, atom, offset + piece.offset, piece.size, piece.value)
        for piece in pieces:
            state.escape(piece.value)

    def _note_store(self, state: State, atom: Atom, offset: int, size: int, value: Value) -> None:
        """Note what may be of interest where it is read: a variable of the image, or a member behind a pointer.

        What a parameter points at is the caller's: that something else is stored there is of interest, too.
        """
        if isinstance(atom, Entry):
            return
        atom, distance = split_address(atom)
        offset += distance
        for start in range(0, min(size, _NOTED_BYTES), _TAG_BYTES):
            taken = part(value, start, min(size - start, 2 * _TAG_BYTES)) if start else value
            is_kept = any(self._is_of_interest(piece) for piece in taken)
            if is_kept or isinstance(atom, Parameter):
                if isinstance(atom, Constant):
                    _add(state.kept, atom.number + offset + start - self._base, taken)
                else:
                    _add(state.members, (atom, offset + start), taken if is_kept else UNKNOWN)

    def _is_of_interest(self, atom: Atom) -> bool:
        """Other numbers are neither tags nor addresses of the image."""
        if isinstance(atom, Constant):
            return atom.number >= _LEAST_TAG or 0 <= atom.number - self._base < self._image.size
        return isinstance(atom, (Returned, Parameter))

    def _load_atom(self, state: State, atom: Atom, offset: int, size: int) -> Value:
        if isinstance(atom, StackAddress):
            value = state.read_frame(atom.offset + offset, size)
            is_others = size == _TAG_BYTES and state.escaped is not None and state.escaped <= atom.offset + offset
            return frozenset({member_at(atom, offset, size)}) if value == UNKNOWN and is_others else value
        if isinstance(atom, Constant):
            self.note_variable(state, atom.number + offset)
            return self._load_image(atom.number + offset - self._base, size)
        if isinstance(atom, Entry):
            self.note_variable(state, atom.number + offset)
        atom, distance = split_address(atom)
        offset += distance
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


def _add(kept: Dict[_Key, Value], key: _Key, value: Value) -> None:
    if key in kept or len(kept) < MAX_KEPT:
        kept[key] = join(value, kept.get(key, value))


def _find_slots(image: Image) -> Tuple[int, int]:
    """Where the pointers of the import tables begin, and their bytes; some linkers tell it only in these tables."""
    told = image.directory(_IMPORT_ADDRESS_DIRECTORY)
    if told[1]:
        return told
    constant = [range(section.rva, section.rva + section.size) for section in image.sections if not section.writable]
    slots = [slot.rva for slot in read_imports(image) if any(slot.rva in rvas for rvas in constant)]
    return (min(slots), max(slots) + image.machine.pointer_size - min(slots)) if slots else told


def _iter_constant_ranges(image: Image) -> Iterator[Tuple[int, int]]:
    """Start and end RVA of what nobody writes: read-only sections without the pointers that the loader fills in."""
    slots_rva, slots_bytes = _find_slots(image)
    for section in image.sections:
        if section.writable or not section.known:
            continue
        start, stop = section.rva, section.rva + section.size
        if start < slots_rva + slots_bytes and slots_rva < stop:
            yield start, slots_rva
            start = slots_rva + slots_bytes
        if start < stop:
            yield start, stop
