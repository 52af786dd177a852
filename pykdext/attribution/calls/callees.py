"""Which function a call reaches: an import, an export of another image, a function of the same image, or one of KMDF's.

A pointer's name comes from the import tables; where these are discarded, or the pointer is not in them (a function
looked up at run time), from its live value and the exports of the image it points into. Jumps that linkers and Windows
put in between are followed: import thunks, the dispatcher of control-flow guard, retpolined import calls.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Dict, FrozenSet, Iterable, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from pykdext.attribution.calls.allocators import allocator_names, find_allocator
from pykdext.attribution.calls.kmdf import FrameworkTable, find_framework_table
from pykdext.attribution.flow.calls import CallSite
from pykdext.attribution.flow.thunks import read_thunk
from pykdext.attribution.flow.values import Atom, Constant, FieldRead, ImageRead, Returned
from pykdext.images.exports import read_exports
from pykdext.images.image import Image
from pykdext.images.imports import read_imports
from pykdext.model.names import canonical_name

MAX_JUMPS = 4
"""Thunks between a call and the function; more of them are a loop."""


@dataclass(frozen=True)
class Callee:
    """A function that is called.

    Attributes:
        name: as it is imported or exported, or None. module: file name of the image it is imported from or lies in.
        rva: of a function in the calling image, else None; it may be exported and have a name, too. is_looked_up: the
        name is what the driver asked for when it looked the pointer up. doubtful_rva: the variable through which it is
        called then, if other code may write there.
    """

    name: Optional[str] = None
    module: Optional[str] = None
    rva: Optional[int] = None
    is_looked_up: bool = False
    doubtful_rva: Optional[int] = field(default=None, compare=False)


class Fetched(NamedTuple):
    """What an image looks up by name: the variables that hold functions and the calls that return them, by RVA."""

    variables: Mapping[int, Callee]
    calls: Mapping[int, Callee]


_NOTHING_FETCHED = Fetched({}, {})


class CalleeResolver:
    """Resolves calls among ``images``, all of one system. The tables of an image are parsed when first needed."""

    def __init__(self, images: Sequence[Image]) -> None:
        self._images = sorted(images, key=lambda image: image.module.base)
        self._bases = [image.module.base for image in self._images]
        self._imports: Dict[Image, Dict[int, Callee]] = {}
        self._exports: Dict[Image, Dict[int, str]] = {}
        self._exported: Dict[Callee, Optional[Tuple[Image, int]]] = {}
        self._fetched: Dict[Image, Fetched] = {}
        self._frameworks: Dict[Image, Optional[FrameworkTable]] = {}

    def learn_fetched(self, image: Image, fetched: Fetched) -> None:
        """The functions that an image looks up by name."""
        self._fetched[image] = fetched

    def resolve(self, image: Image, site: CallSite) -> Optional[Callee]:
        """The function that the call of ``image`` reaches, or None if it is not known.

        Of several possibilities it is the one that takes a pool tag, if there is just one such.
        """
        callees = []
        for target in site.target:
            callee = self._follow(image, target)
            if callee is None and isinstance(target, (Constant, ImageRead)):
                # code without a name in another image, or none: a dispatcher, if a register holds a function
                callees += [self._follow(image, passed) for passed in site.dispatched]
            else:
                callees.append(callee)
        return _choose(callees)

    def find_export(self, callee: Callee) -> Optional[Tuple[Image, int]]:
        """The image of another driver, and the RVA in it, of a function that is imported or called by its address."""
        if callee not in self._exported:
            self._exported[callee] = self._search_export(callee)
        return self._exported[callee]

    def _search_export(self, callee: Callee) -> Optional[Tuple[Image, int]]:
        if callee.name is None or callee.module is None or callee.rva is not None:
            return None
        module = canonical_name(callee.module)
        for image in self._images:
            if canonical_name(image.module.name) == module:
                rva = next((rva for rva, name in self._exports_of(image).items() if name == callee.name), None)
                return None if rva is None else (image, rva)
        return None

    @cached_property
    def allocator_addresses(self) -> FrozenSet[int]:
        """Where the exported functions of the images begin that take a pool tag."""
        return frozenset(
            image.module.base + rva
            for image in self._images
            for rva, name in self._exports_of(image).items()
            if find_allocator(name) is not None
        )

    def allocator_slots(self, image: Image) -> FrozenSet[int]:
        """The RVAs of the image's pointers through which it calls functions that take a pool tag, by its own tables."""
        named = [rva for rva, callee in self._imports_of(image).items() if callee.name and find_allocator(callee.name)]
        table = self._framework_of(image)
        return frozenset(
            (*named, *self._fetched.get(image, _NOTHING_FETCHED).variables, *(table.slots if table is not None else ()))
        )

    def _follow(self, image: Image, target: Atom) -> Optional[Callee]:
        """The function behind ``target`` and the jumps that stand before it."""
        place: Optional[Atom] = target
        for _ in range(MAX_JUMPS):
            callee = self._function_at(image, place)
            if callee is not None:
                return callee
            place = _next_place(image, place)
        return None

    def _function_at(self, image: Image, target: Optional[Atom]) -> Optional[Callee]:
        if isinstance(target, Constant):
            rva = target.number - image.module.base
            return self._own_function(image, rva) if 0 <= rva < image.size else self._exported_at(target.number)
        imported = None
        if isinstance(target, Returned):
            return self._fetched.get(image, _NOTHING_FETCHED).calls.get(target.call_rva)
        if isinstance(target, ImageRead):
            imported = self._imports_of(image).get(target.rva) or self._fetched_at(image, target.rva)
        if imported is None and isinstance(target, (ImageRead, FieldRead)):
            return self._framework_function(image, target)
        return imported

    def _fetched_at(self, image: Image, rva: int) -> Optional[Callee]:
        """The function that was looked up for this variable; None where the variable is seen to hold another one."""
        fetched = self._fetched.get(image, _NOTHING_FETCHED).variables.get(rva)
        raw = image.read(rva, image.machine.pointer_size) if fetched is not None and not image.is_file else None
        address = int.from_bytes(raw, "little") if raw is not None else 0
        if fetched is None or not address:
            return fetched
        if address in image.module:
            return None
        holder = next((other for other in self._images if address in other.module), None)
        if holder is None or not self._exports_of(holder):
            return fetched
        exported = self._exported_at(address)
        return replace(exported, is_looked_up=fetched.name == exported.name) if exported is not None else None

    def _own_function(self, image: Image, rva: int) -> Optional[Callee]:
        """A function of the image itself; None where there is only a jump."""
        name = self._exports_of(image).get(rva)
        if name is None and read_thunk(image, rva) is not None:
            return None
        return Callee(name, image.module.name, rva)

    def _exported_at(self, address: int) -> Optional[Callee]:
        """The export of another image at exactly this address."""
        index = bisect.bisect_right(self._bases, address) - 1
        if index < 0 or address not in self._images[index].module:
            return None
        image = self._images[index]
        name = self._exports_of(image).get(address - image.module.base)
        return Callee(name, image.module.name) if name is not None else None

    def _framework_function(self, image: Image, target: Union[ImageRead, FieldRead]) -> Optional[Callee]:
        table = self._framework_of(image)
        name = table.function_name(target) if table is not None else None
        return Callee(name, "Wdf01000.sys") if name is not None else None

    def _framework_of(self, image: Image) -> Optional[FrameworkTable]:
        if image not in self._frameworks:
            self._frameworks[image] = find_framework_table(image)
        return self._frameworks[image]

    def _imports_of(self, image: Image) -> Dict[int, Callee]:
        """The named slots of the import tables by RVA."""
        if image not in self._imports:
            named = [slot for slot in read_imports(image) if slot.name is not None]
            self._imports[image] = {slot.rva: Callee(slot.name, slot.module or None) for slot in named}
        return self._imports[image]

    def _exports_of(self, image: Image) -> Dict[int, str]:
        """The exported names by RVA; of several names for one function the one that takes a pool tag."""
        if image not in self._exports:
            exports = read_exports(image)
            names = {rva: name for name, rva in reversed(list(exports.rvas.items()))}
            names.update((exports.rvas[name], name) for name in allocator_names() if name in exports.rvas)
            self._exports[image] = names
        return self._exports[image]


def _choose(callees: Iterable[Optional[Callee]]) -> Optional[Callee]:
    """The only one of ``callees``; of several the only one that takes a pool tag, or those that take it alike."""
    distinct = [callee for callee in dict.fromkeys(callees) if callee is not None]
    if len(distinct) > 1:
        allocators = [(callee, find_allocator(callee.name)) for callee in distinct if callee.name is not None]
        distinct = [callee for callee, allocator in allocators if allocator is not None]
        ways = {replace(allocator, name="") for _, allocator in allocators if allocator is not None}
        return distinct[0] if len(ways) == 1 else None
    return distinct[0] if distinct else None


def _next_place(image: Image, target: Optional[Atom]) -> Optional[Atom]:
    """Where a pointer of the image points, or a jump in the image leads."""
    if isinstance(target, ImageRead):
        size = image.machine.pointer_size
        raw = image.read(target.rva, size) if 0 <= target.rva < image.size and target.size == size else None
        return Constant(int.from_bytes(raw, "little")) if raw is not None else None
    if isinstance(target, Constant):
        rva = target.number - image.module.base
        return read_thunk(image, rva) if 0 <= rva < image.size else None
    return None
