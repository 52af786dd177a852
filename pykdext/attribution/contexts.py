"""Minifilters' contexts, proven: the registration that names the tag, and the call that allocates with it.

``FltAllocateContext`` gets the type of a context as its second argument, and allocates with the pool tag that the
filter's FLT_CONTEXT_REGISTRATION has for this type (WDK: fltkernel.h, FltAllocateContext, FltRegisterFilter). The array
of these is the one to which the filter's FLT_REGISTRATION points.
"""

from __future__ import annotations

from typing import Iterator, Optional, Set

from pykdext.attribution.calls.allocators import argument_locations
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.references import find_references
from pykdext.attribution.flow.values import Constant, ImageRead
from pykdext.attribution.registrations import ContextEntry
from pykdext.images.image import Image
from pykdext.images.imports import read_imports

MAX_CALLS = 32
"""Calls of FltAllocateContext in one image that are looked at."""

_ALLOCATE = "FltAllocateContext"
_TYPE_BYTES = 2
_VERSIONS = range(0x0200, 0x0210)
_REGISTRATION_BYTES, _POINTER_AT = 8, 8
"""FLT_REGISTRATION: Size, Version, Flags; then the pointer to the contexts."""


def find_context_call(followed: FollowedImage, entry: ContextEntry) -> Optional[int]:
    """The RVA of a call that allocates a context of the entry's type; None if none is known, or it may be another's."""
    image = followed.image
    if entry.is_ambiguous or not _is_registered(image, entry):
        return None
    slots = {slot.rva for slot in read_imports(image) if slot.name == _ALLOCATE}
    location = argument_locations(image.machine)[1]
    for rva in _iter_places(image, slots):
        flow = followed.find_flow(rva)
        for site in flow.calls if flow is not None else ():
            if not any(isinstance(atom, ImageRead) and atom.rva in slots for atom in site.target):
                continue
            kinds = site.frame.argument(location, _TYPE_BYTES)
            if any(isinstance(atom, Constant) and atom.number == entry.kind for atom in kinds):
                return site.rva
    return None


def _iter_places(image: Image, slots: Set[int]) -> Iterator[int]:
    """Where the function is called, the first places."""
    places = sorted(rva for rvas in find_references(image, slots).values() for rva in rvas)
    yield from places[:MAX_CALLS]


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
