"""Calls that look a function up by its name, and those that make the string with the name.

``MmGetSystemRoutineAddress`` and ``NdisGetRoutineAddress`` get a UNICODE_STRING, ``FltGetRoutineAddress`` plain text
(WDK: wdm.h, ndis.h, fltkernel.h). The string is in the image, or is put together on the stack by
``RtlInitUnicodeString``.
"""

from __future__ import annotations

from typing import Dict, Optional, Set

from pykdext.attribution.calls.allocators import argument_locations, is_maker
from pykdext.attribution.flow.calls import CallSite
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.thunks import read_thunk
from pykdext.attribution.flow.values import Atom, Constant, ImageRead, Returned, StackAddress, Value
from pykdext.images.image import Image
from pykdext.images.imports import read_imports
from pykdext.model import Machine, MachineTable

MAX_NAME_BYTES = 64
"""Characters of a function's name that is looked up; the longest allocator has 42."""

_LOOK_UPS = frozenset(("MmGetSystemRoutineAddress", "NdisGetRoutineAddress", "FltGetRoutineAddress"))
_INITIALISERS = frozenset(("RtlInitUnicodeString", "RtlInitUnicodeStringEx"))

_RESULTS = MachineTable("calls that return functions", {Machine.X86: "eax", Machine.X64: "rax", Machine.ARM64: "x0"})


class LookUpCalls:
    """What calls do that look a function up, make its name, or allocate: an ``ApplyCall`` for one image."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._result = _RESULTS[image.machine]
        self._first, self._second = argument_locations(image.machine)[:2]
        self._pointer_bytes = image.machine.pointer_size
        slots = {slot.rva: slot.name for slot in read_imports(image) if slot.name is not None}
        self._look_ups = {rva: name for rva, name in slots.items() if name in _LOOK_UPS}
        makers = {rva for rva, name in slots.items() if is_maker(name)}
        self._returning = makers | self._look_ups.keys()
        self._slots: Dict[Atom, Optional[int]] = {}
        self._initialisers = {rva for rva, name in slots.items() if name in _INITIALISERS} if self._look_ups else set()

    @property
    def slots(self) -> Set[int]:
        """The pointers in the import tables to what looks functions up."""
        return set(self._look_ups)

    def __call__(self, site: CallSite, state: State) -> None:
        """Note what a look-up or an allocator returned, and where a string begins."""
        if not self._returning:
            return
        slot = self._find_slot(site)
        if slot in self._returning:
            state.registers[self._result] = frozenset({Returned(site.rva)})
        elif slot in self._initialisers:
            for atom in site.frame.argument(self._first, self._pointer_bytes):
                if isinstance(atom, StackAddress):
                    text = site.frame.argument(self._second, self._pointer_bytes)
                    state.write_frame(atom.offset + self._pointer_bytes, self._pointer_bytes, text)

    def read_name(self, site: CallSite) -> Optional[str]:
        """The name that a look-up is asked for; None where it is no look-up, or not one name."""
        slot = self._find_slot(site)
        if slot not in self._look_ups:
            return None
        texts: Value = site.frame.argument(self._first, self._pointer_bytes)
        is_wide = self._look_ups[slot] != "FltGetRoutineAddress"
        if is_wide:
            texts = frozenset(atom for structure in texts for atom in self._read_buffer(site, structure))
        names = {self._read_text(atom, is_wide=is_wide) for atom in texts if isinstance(atom, Constant)}
        return names.pop() if len(names) == 1 else None

    def _find_slot(self, site: CallSite) -> Optional[int]:
        """The pointer that is called through, perhaps by a jump that the linker made."""
        for atom in site.target:
            if atom not in self._slots:
                self._slots[atom] = self._read_slot(atom)
            slot_rva = self._slots[atom]
            if slot_rva in self._returning or slot_rva in self._initialisers:
                return slot_rva
        return None

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
