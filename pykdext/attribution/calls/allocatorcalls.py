"""Where code of an image calls allocators: through its import tables, other pointers to them, or the linker's jumps."""

from __future__ import annotations

from itertools import islice
from typing import FrozenSet, Iterator, List, NamedTuple

from pykdext.attribution.calls.callees import CalleeResolver
from pykdext.attribution.calls.directcalls import find_direct_calls
from pykdext.attribution.calls.references import find_references
from pykdext.attribution.flow.thunks import read_thunk
from pykdext.images.image import Image

MAX_POINTERS = 512
"""Copies of allocators' addresses in the data of one image whose readers are looked for; drivers have few."""

_BEFORE_JUMP_BYTES = 4
"""Of a thunk's first instruction, where that does not read the pointer: ``endbr64`` or ``adrp``."""

_LOWER_BYTES = 2
"""Of a pointer: those that tell the functions of one image apart, together with few of the upper bytes."""


class AllocatorCalls(NamedTuple):
    """The RVAs of instructions that call an allocator or read a pointer to one; ``is_cut``: some are missing."""

    places: FrozenSet[int]
    is_cut: bool


def find_allocator_calls(image: Image, resolver: CalleeResolver) -> AllocatorCalls:
    """Such instructions of ``image``, by its own tables and by the addresses that the allocators have in memory."""
    addresses = [address for address in resolver.allocator_addresses if address not in image.module]
    pointers = list(islice(_iter_pointers(image, addresses), MAX_POINTERS + 1))
    slots = {*resolver.allocator_slots(image), *pointers[:MAX_POINTERS]}
    readers = [rva for found in find_references(image, slots).values() for rva in found]
    starts = {start for rva in readers for start in (rva, rva - _BEFORE_JUMP_BYTES)}
    targets = {start for start in starts if read_thunk(image, start) is not None}
    targets.update(address - image.module.base for address in addresses)
    places = frozenset((*readers, *find_direct_calls(image, targets)))
    return AllocatorCalls(places, len(pointers) > MAX_POINTERS)


def _iter_pointers(image: Image, addresses: List[int]) -> Iterator[int]:
    """The RVAs of pointers in data to one of ``addresses``, which share few upper halves."""
    size = image.machine.pointer_size
    fitting = (address for address in addresses if not address >> 8 * size)  # the image may be of another architecture
    pointers = {address.to_bytes(size, "little") for address in fitting}
    uppers = {pointer[_LOWER_BYTES:] for pointer in pointers}
    for section in image.sections:
        if not section.holds_data or not section.initialised or image.is_resource(section):
            continue
        for rva, data in image.iter_present(section):
            for upper in uppers:
                end = data.find(upper, _LOWER_BYTES)
                while end >= 0:
                    start = end - _LOWER_BYTES
                    if (rva + start) % size == 0 and data[start : start + size] in pointers:
                        yield rva + start
                    end = data.find(upper, end + 1)
