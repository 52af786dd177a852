"""Minifilters' contexts, proven: the registration that names the tag, and the call that allocates with it.

``FltAllocateContext`` gets the type of a context as its second argument, and allocates with the pool tag that the
filter's FLT_CONTEXT_REGISTRATION has for this type (WDK: fltkernel.h, FltAllocateContext, FltRegisterFilter). The array
of these is the one to which the filter's FLT_REGISTRATION points.
"""

from __future__ import annotations

from typing import Dict, Iterator, Optional, Set, Tuple

from pykdext.attribution.calls.allocators import argument_locations
from pykdext.attribution.calls.directcalls import find_direct_calls
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.references import find_references
from pykdext.attribution.flow.calls import CallSite
from pykdext.attribution.flow.thunks import read_thunk
from pykdext.attribution.flow.values import Constant, ImageRead, Location, Parameter, address_in
from pykdext.attribution.registrations import ContextEntry
from pykdext.images.image import Image
from pykdext.images.imports import read_imports

MAX_CALLS = 32
"""Calls of FltAllocateContext in one image that are looked at, and of a function that hands the type on to it."""

MAX_WRAPPERS = 2
"""Such functions between the type and FltAllocateContext."""

_ALLOCATE = "FltAllocateContext"
_TYPE_BYTES, _REGISTER_BYTES = 2, 4
_VERSIONS = range(0x0200, 0x0210)
_REGISTRATION_BYTES, _POINTER_AT = 8, 8
"""FLT_REGISTRATION: Size, Version, Flags; then the pointer to the contexts."""


def find_context_call(followed: FollowedImage, entry: ContextEntry) -> Optional[int]:
    """The RVA of a call that allocates a context of the entry's type; None if none is known, or it may be another's.

    It may be the call of a function that hands the type on.
    """
    image = followed.image
    if entry.is_ambiguous or not _is_registered(image, entry):
        return None
    slots = {slot.rva for slot in read_imports(image) if slot.name == _ALLOCATE}
    kind = Constant(entry.kind)
    seen: Set[Tuple[int, Location]] = set()
    calls = [(site, argument_locations(image.machine)[1], start) for site, start in _iter_calls(followed, slots)]
    for _ in range(1 + MAX_WRAPPERS):
        wrappers: Dict[int, Set[Location]] = {}
        for site, location, start_rva in calls:
            kinds = site.frame.argument(location, _TYPE_BYTES) | site.frame.argument(location, _REGISTER_BYTES)
            if kind in kinds:
                return site.rva
            for atom in kinds:
                if isinstance(atom, Parameter) and (start_rva, atom.location) not in seen:
                    seen.add((start_rva, atom.location))
                    wrappers.setdefault(start_rva, set()).add(atom.location)
        calls = [
            (site, location, caller_rva)
            for start_rva, locations in sorted(wrappers.items())
            for site, caller_rva in _iter_direct_calls(followed, start_rva)
            for location in sorted(locations)
        ]
    return None


def _iter_calls(followed: FollowedImage, slots: Set[int]) -> Iterator[Tuple[CallSite, int]]:
    """The calls through the import, or through a jump that the linker made of it, each with its function's start."""
    image = followed.image
    places = sorted(rva for rvas in find_references(image, slots).values() for rva in rvas)[:MAX_CALLS]
    for rva in places:
        target = read_thunk(image, rva)
        if isinstance(target, ImageRead) and target.rva in slots:
            yield from _iter_direct_calls(followed, rva)
            continue
        flow = followed.find_flow(rva)
        for site in flow.calls if flow is not None else ():
            if any(isinstance(atom, ImageRead) and atom.rva in slots for atom in site.target):
                yield site, flow.start_rva if flow is not None else rva


def _iter_direct_calls(followed: FollowedImage, target_rva: int) -> Iterator[Tuple[CallSite, int]]:
    """The calls of a function of the image, each with the start of the one that it is in."""
    target = address_in(followed.image, target_rva)
    seen: Set[int] = set()
    for rva in find_direct_calls(followed.image, {target_rva})[:MAX_CALLS]:
        flow = followed.find_flow(rva)
        if flow is None or flow.start_rva in seen:
            continue
        seen.add(flow.start_rva)
        yield from ((site, flow.start_rva) for site in flow.calls if target in site.target)


def _is_registered(image: Image, entry: ContextEntry) -> bool:
    """Whether an FLT_REGISTRATION in data points at the array of the entry."""
    size = image.machine.pointer_size
    for start_rva in entry.possible_starts:
        pointer = (image.module.base + start_rva).to_bytes(size, "little")
        for section in image.sections:
            if not section.holds_data or not section.initialised or image.is_resource(section):
                continue
            for rva, data in image.iter_present(section):
                at = data.find(pointer)
                while at >= 0:
                    head = image.read(rva + at - _POINTER_AT, _REGISTRATION_BYTES) if rva + at >= _POINTER_AT else None
                    if head is not None and int.from_bytes(head[2:4], "little") in _VERSIONS:
                        return True
                    at = data.find(pointer, at + 1)
    return False
