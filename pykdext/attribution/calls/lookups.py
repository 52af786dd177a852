"""Calls that look a function up by its name, and those that make the string with the name.

``MmGetSystemRoutineAddress`` and ``NdisGetRoutineAddress`` get a UNICODE_STRING, ``FltGetRoutineAddress`` plain text
(WDK: wdm.h, ndis.h, fltkernel.h). The string is in the image, or is put together on the stack by
``RtlInitUnicodeString``. Drivers also have functions of their own that search the kernel's exports, or get a pointer to
one from their port driver (``VideoPortGetProcAddress``): what such a call returns for the name of a function that takes
a pool tag is that function to whoever calls it.
"""

from __future__ import annotations

from typing import Dict, Iterator, Mapping, NamedTuple, Optional, Set

from pykdext.attribution.calls.allocators import argument_locations, is_maker
from pykdext.attribution.calls.names import find_names, find_pointers
from pykdext.attribution.flow.calls import CallSite
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.thunks import read_thunk
from pykdext.attribution.flow.values import Atom, Constant, ImageRead, Location, Returned, StackAddress, Value
from pykdext.images.image import Image
from pykdext.images.imports import read_imports
from pykdext.model import Machine, MachineTable

MAX_NAME_BYTES = 64
"""Characters of a function's name that is looked up; the longest allocator has 42."""

MAX_NAMED_ARGUMENT = 6
"""Arguments of a driver's own function among which a name is looked for."""

_LOOK_UPS = frozenset(("MmGetSystemRoutineAddress", "NdisGetRoutineAddress", "FltGetRoutineAddress"))
_INITIALISERS = frozenset(("RtlInitUnicodeString", "RtlInitUnicodeStringEx"))

_RESULTS = MachineTable("calls that return functions", {Machine.X86: "eax", Machine.X64: "rax", Machine.ARM64: "x0"})


class NamedPlaces(NamedTuple):
    """The places of an image that tell of functions by their names, by RVA.

    Attributes:
        imports: the pointers in its import tables. texts: names of functions that take a pool tag, which it does not
        import. strings: the UNICODE_STRINGs, and their like, with such a text.
    """

    imports: Mapping[int, str]
    texts: Mapping[int, str]
    strings: Mapping[int, str]


def read_named_places(image: Image) -> NamedPlaces:
    """All of them in ``image``. Never fails."""
    imports = {slot.rva: slot.name for slot in read_imports(image) if slot.name is not None}
    texts = find_names(image)
    pointers = find_pointers(image, texts)
    return NamedPlaces(imports, texts, {rva - image.machine.pointer_size: name for rva, name in pointers.items()})


class LookUpCalls:
    """What calls do that look a function up, make its name, or allocate: an ``ApplyCall`` for one function or more.

    ``named`` are the places of the image.
    """

    def __init__(self, image: Image, named: NamedPlaces) -> None:
        self._image = image
        self._result = _RESULTS[image.machine]
        locations = argument_locations(image.machine)
        self._first, self._second = locations[:2]
        self._named_locations = (
            *locations[:MAX_NAMED_ARGUMENT],
            *(place for place in locations[-2:] if place.register),
        )
        self._pointer_bytes = image.machine.pointer_size
        self._imports, self._names, self._strings = named
        self._look_ups = {rva: name for rva, name in self._imports.items() if name in _LOOK_UPS}
        makers = {rva for rva, name in self._imports.items() if is_maker(name)}
        self._returning = makers | self._look_ups.keys()
        self._slots: Dict[Atom, Optional[int]] = {}
        self._variables = [part for part in image.sections if part.writable and part.holds_data]
        is_asked = bool(self._look_ups or self._names)
        self._initialisers = {rva for rva, name in self._imports.items() if is_asked and name in _INITIALISERS}

    @property
    def name_pointers(self) -> Dict[int, str]:
        """The pointers in data to names of functions that take a pool tag, in an image that looks functions up."""
        return {rva + self._pointer_bytes: name for rva, name in self._strings.items()} if self._look_ups else {}

    @property
    def places(self) -> Set[int]:
        """What code refers to that looks functions up: the pointers in the import tables, and names.

        Nothing where the image has no name of a function that takes a pool tag: what it looks up is something else.
        """
        if not self._names:
            return set()
        pointers = {rva + self._pointer_bytes for rva in self._strings}
        return {*self._look_ups, *self._names, *self._strings, *pointers}

    def __call__(self, site: CallSite, state: State) -> None:
        """Note what a look-up or an allocator returned, and where a string begins."""
        if not self._returning and not self._names:
            return
        slot = self._find_slot(site)
        if slot in self._returning or (slot is None and self._names and self._read_own_name(site, 0) is not None):
            state.registers[self._result] = frozenset({Returned(site.rva)})
        elif slot in self._initialisers:
            for atom in site.frame.argument(self._first, self._pointer_bytes):
                if isinstance(atom, StackAddress):
                    text = site.frame.argument(self._second, self._pointer_bytes)
                    state.write_frame(atom.offset + self._pointer_bytes, self._pointer_bytes, text)

    def read_name(self, site: CallSite, call_before_rva: int) -> Optional[str]:
        """The name that a look-up is asked for; None where it is no look-up, or not one name.

        ``call_before_rva``: what was pushed before that call may be left from it.
        """
        slot = self._find_slot(site)
        if slot not in self._look_ups:
            return self._read_own_name(site, call_before_rva) if slot is None and self._names else None
        texts: Value = site.frame.argument(self._first, self._pointer_bytes)
        is_wide = self._look_ups[slot] != "FltGetRoutineAddress"
        if is_wide:
            texts = frozenset(atom for structure in texts for atom in self._read_buffer(site, structure))
        names = {self._read_text(atom, is_wide=is_wide) for atom in texts if isinstance(atom, Constant)}
        return names.pop() if len(names) == 1 else None

    def find_filled(self, site: CallSite, call_before_rva: int) -> Optional[int]:
        """The variable whose address a call gets besides the name, for what it finds; None if there is not just one."""
        found = set()
        for location in self._named_locations:
            for atom in self._iter_given(site, location, call_before_rva):
                rva = atom.number - self._image.module.base if isinstance(atom, Constant) else -1
                if any(part.rva <= rva < part.rva + part.size for part in self._variables):
                    found.add(rva)
        found -= self._names.keys() | self._strings.keys()
        return found.pop() if len(found) == 1 else None

    def _find_slot(self, site: CallSite) -> Optional[int]:
        """The pointer of an import that is called through, perhaps by a jump that the linker made."""
        for atom in site.target:
            if atom not in self._slots:
                self._slots[atom] = self._read_slot(atom)
            slot_rva = self._slots[atom]
            if slot_rva in self._imports:
                return slot_rva
        return None

    def _read_own_name(self, site: CallSite, call_before_rva: int) -> Optional[str]:
        """The name of a function that takes a tag, of which a function gets the address that is no import."""
        names = set()
        for location in self._named_locations:
            for atom in self._iter_given(site, location, call_before_rva):
                if isinstance(atom, Constant):
                    rva = atom.number - self._image.module.base
                    names.add(self._names.get(rva) or self._strings.get(rva))
                elif isinstance(atom, StackAddress):
                    buffer = site.frame.stack(atom.offset + self._pointer_bytes, self._pointer_bytes)
                    rvas = (text.number - self._image.module.base for text in buffer if isinstance(text, Constant))
                    names.update(map(self._names.get, rvas))
        names.discard(None)
        return names.pop() if len(names) == 1 else None

    def _iter_given(self, site: CallSite, location: Location, call_before_rva: int) -> Iterator[Atom]:
        """The possibilities of an argument that is surely one: not left on the stack by an earlier call."""
        for atom in site.frame.argument(location, self._pointer_bytes):
            origin_rva = atom.origin_rva if isinstance(atom, Constant) else None
            is_pushed = origin_rva is not None and call_before_rva < origin_rva < site.rva
            if location.register or location == self._first or is_pushed:
                yield atom

    def _read_slot(self, atom: Atom) -> Optional[int]:
        target: Optional[Atom] = atom
        if isinstance(atom, Constant) and 0 <= atom.number - self._image.module.base < self._image.size:
            target = read_thunk(self._image, atom.number - self._image.module.base)
        return target.rva if isinstance(target, ImageRead) else None

    def _read_buffer(self, site: CallSite, structure: Atom) -> Value:
        """The text that a UNICODE_STRING points at."""
        if isinstance(structure, StackAddress):
            return site.frame.stack(structure.offset + self._pointer_bytes, self._pointer_bytes)
        if isinstance(structure, Constant):
            rva = structure.number - self._image.module.base + self._pointer_bytes
            raw = self._image.read(rva, self._pointer_bytes) if 0 <= rva < self._image.size else None
            return frozenset({Constant(int.from_bytes(raw, "little"))} if raw is not None else ())
        return frozenset()

    def _read_text(self, atom: Constant, *, is_wide: bool) -> Optional[str]:
        rva = atom.number - self._image.module.base
        if not 0 <= rva < self._image.size:
            return None
        if not is_wide:
            return self._image.read_text(rva, MAX_NAME_BYTES)
        _, raw = next(self._image.iter_range(rva, 2 * MAX_NAME_BYTES), (rva, b""))
        text, end, _ = raw[: len(raw) & -2].decode("utf-16-le", "replace").partition("\0")
        return text if end and text.isascii() and text.isidentifier() else None
