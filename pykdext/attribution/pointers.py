"""Contents of blocks as a witness: whoever allocates a block usually keeps pointers to his code, data or devices in it.

Pointers alone prove nothing. A block may point at the driver that shall be called back, at a neighbour, or at what lay
there before: memory of pool is not cleared. So a driver has to be in most blocks of a tag, and nt never counts.

Layouts of DRIVER_OBJECT and DEVICE_OBJECT are those of the WDK's wdm.h and of the public symbols of nt.
"""

from __future__ import annotations

import heapq
import struct
from bisect import bisect_left
from collections import Counter
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.images.image import Image
from pykdext.model import (
    Allocation,
    Confidence,
    ContentsWitness,
    DriverPointers,
    Evidence,
    EvidenceKind,
    Module,
    PointedPlace,
    PoolTag,
)
from pykdext.model.names import canonical_name
from pykdext.targets.protocol import Target
from pykdext.units import choose_form, count_things

MAX_BLOCKS = 256
"""Blocks in a sample: a share of a half is certain to a few percent."""

MAX_BYTES_OF_BLOCK = 0x1000
"""How much of a block is looked at, from its start."""

MAX_BLOCKS_TRIED = 2048
"""Blocks that are asked for until the sample is full; many may not be in a dump."""

MAX_OBJECTS_TRIED = 256
"""Addresses outside of all images that are looked at for a driver or device object: of those that several blocks have,
the most common first."""

MAX_PLACES = 4
"""Places named for one driver."""

NOTABLE_SHARE = 0.5
"""Of the sample: what less blocks point at is not called a witness."""

NOTABLE_UNLOADED_SHARE = 0.1
"""The same for an unloaded driver: nothing but its own leftovers points into its old range."""

MIN_BLOCKS = 4
"""With fewer blocks a share says nothing."""

EVERYBODYS = frozenset({"nt", "hal.dll"})
"""Modules that blocks of nearly every tag point at: lists, locks, timers and work items are theirs."""

_DEVICE_TYPE, _DRIVER_TYPE = 3, 4
_OBJECT_ALIGNMENT = 8


class _ObjectLayout(NamedTuple):
    """Type and Size begin both objects. DriverStart is the base of the driver's image."""

    driver_bytes: int
    driver_start: int
    least_device_bytes: int
    device_driver: int


_OBJECT_LAYOUTS = {
    4: _ObjectLayout(driver_bytes=0xA8, driver_start=0x0C, least_device_bytes=0xB8, device_driver=8),
    8: _ObjectLayout(driver_bytes=0x150, driver_start=0x18, least_device_bytes=0x150, device_driver=8),
}


def read_witness(
    target: Target, tag: PoolTag, blocks: Sequence[Allocation], images: Sequence[Image]
) -> ContentsWitness:
    """What the blocks of ``tag`` point at: up to ``MAX_BLOCKS`` of them that are in memory, spread over all.

    ``images`` tell what is code and what is data in the modules of ``target``; one that is missing is not looked into.
    """
    pointers_by_block = list(_iter_pointers(target, blocks))
    counts: Counter[int] = Counter()
    for pointers in pointers_by_block:
        counts.update(pointers)
    image_by_base = {image.module.base: image for image in images}
    sampled = len(pointers_by_block)
    drivers = []
    for module, addresses in _find_targets(target, counts).items():
        holders = sum(not pointers.isdisjoint(addresses) for pointers in pointers_by_block)
        common = heapq.nsmallest(MAX_PLACES, addresses, key=lambda address: (-counts[address], address))
        image = image_by_base.get(module.base)
        places = tuple(_place(module, image, address, counts[address] / sampled) for address in common)
        drivers.append(DriverPointers(module.name, module.unloaded, holders / sampled, places))
    return ContentsWitness(tag, sampled, tuple(sorted(drivers, key=_precedence)))


def choose_modules(modules: Iterable[Module]) -> List[Module]:
    """The modules whose ranges are theirs alone, by address; ``modules`` in a target's order, the loaded ones first.

    Of unloaded ones only those count whose range nobody has now: a pointer into it may be the new owner's. Where two
    unloaded ones had the same range, it is the one that comes first, which was unloaded last.
    """
    kept: List[Module] = []
    for module in modules:
        if not module.unloaded or not any(_overlap(module, other) for other in kept):
            kept.append(module)
    return sorted(kept, key=lambda module: module.base)


def describe_witness(witness: ContentsWitness) -> Iterator[Evidence]:
    """The drivers that enough blocks point at; never nt or hal, whatever their share is."""
    if witness.blocks_sampled < MIN_BLOCKS:
        return
    for driver in witness.drivers:
        least = NOTABLE_UNLOADED_SHARE if driver.unloaded else NOTABLE_SHARE
        if driver.share_of_blocks < least or canonical_name(driver.module) in EVERYBODYS:
            continue
        text = (
            f"{driver.share_of_blocks:.0%} of {count_things(witness.blocks_sampled, 'sampled block')} "
            f"{choose_form(witness.blocks_sampled, 'points', 'point')} at {driver.module}"
        )
        if driver.unloaded:
            text += ", which was unloaded"
        else:
            text += f": {'; '.join(map(_describe_place, driver.places))}"
        rva = next((place.rva for place in driver.places if place.rva is not None), None)
        yield Evidence(witness.tag, driver.module, EvidenceKind.CONTENTS, Confidence.POSSIBLE, text, rva)


def _overlap(module: Module, other: Module) -> bool:
    return module.base < other.base + other.size and other.base < module.base + module.size


def _iter_pointers(target: Target, blocks: Sequence[Allocation]) -> Iterator[Set[int]]:
    """What in each sampled block may be an address of the kernel's; headers of small blocks are left out."""
    width = target.pointer_size
    code, upper_half = "I" if width == 4 else "Q", target.machine.kernel_start
    sampled = 0
    for block in _spread(blocks, MAX_BLOCKS_TRIED):
        if sampled == MAX_BLOCKS:
            return
        start = 0 if block.is_big else 2 * width
        size = min(block.size_bytes - start, MAX_BYTES_OF_BLOCK)
        try:
            data = target.read_virtual(block.address + start, size - size % width) if size >= width else b""
        except MemoryReadError:
            continue
        if data:
            sampled += 1
            yield {word for word in struct.unpack(f"<{len(data) // width}{code}", data) if word >= upper_half}


def _spread(blocks: Sequence[Allocation], limit: int) -> Iterator[Allocation]:
    """Up to ``limit`` of the blocks, from all parts of the list; so are the first ``MAX_BLOCKS`` of them."""
    count = min(len(blocks), limit)
    chosen = [blocks[index * len(blocks) // count] for index in range(count)]
    stride = max(1, count // MAX_BLOCKS)
    for first in range(stride):
        yield from chosen[first::stride]


def _find_targets(target: Target, counts: Counter[int]) -> Dict[Module, Set[int]]:
    """By module the addresses that lead to it, directly or by an object. ``counts``: in how many blocks each one is."""
    modules = choose_modules(target.modules())
    if not modules:
        return {}
    start, stop = modules[0].base, modules[-1].base + modules[-1].size
    ordered = sorted(address for address in counts if start <= address < stop)
    found: Dict[Module, Set[int]] = {}
    for module in modules:
        addresses = ordered[bisect_left(ordered, module.base) : bisect_left(ordered, module.base + module.size)]
        if addresses:
            found[module] = set(addresses)
    inside = set().union(*found.values())
    shared = [
        address
        for address, blocks in counts.items()
        if blocks > 1 and address % _OBJECT_ALIGNMENT == 0 and address not in inside
    ]
    by_base = {module.base: module for module in modules}
    for address in heapq.nsmallest(MAX_OBJECTS_TRIED, shared, key=lambda address: (-counts[address], address)):
        driver = by_base.get(_read_driver_start(target, address) or 0)
        if driver is not None:
            found.setdefault(driver, set()).add(address)
    return found


def _read_driver_start(target: Target, address: int) -> Optional[int]:
    """Where the image begins of the driver object at ``address``, or of that of the device object there."""
    layout = _OBJECT_LAYOUTS[target.pointer_size]
    kind = _read_number(target, address, 2)
    if kind == _DEVICE_TYPE and (_read_number(target, address + 2, 2) or 0) >= layout.least_device_bytes:
        address = _read_number(target, address + layout.device_driver, target.pointer_size) or 0
        kind = _read_number(target, address, 2)
    if kind != _DRIVER_TYPE or _read_number(target, address + 2, 2) != layout.driver_bytes:
        return None
    return _read_number(target, address + layout.driver_start, target.pointer_size)


def _read_number(target: Target, address: int, size: int) -> Optional[int]:
    try:
        return int.from_bytes(target.read_virtual(address, size), "little")
    except MemoryReadError:
        return None


def _place(module: Module, image: Optional[Image], address: int, share: float) -> PointedPlace:
    """What stands at ``address``, which leads to ``module``."""
    if address not in module:
        return PointedPlace("object", None, share)
    rva = address - module.base
    for section in image.sections if image is not None and image.has_headers else ():
        if section.rva <= rva < section.rva + section.size:
            what = "code" if section.executable else "data" if section.writable else "constants"
            return PointedPlace(what, rva, share)
    return PointedPlace("image", rva, share)


def _precedence(driver: DriverPointers) -> Tuple[bool, float, str]:
    return canonical_name(driver.module) in EVERYBODYS, -driver.share_of_blocks, driver.module.lower()


def _describe_place(place: PointedPlace) -> str:
    where = "its driver or device object" if place.rva is None else f"{place.what} +0x{place.rva:x}"
    return f"{where} ({place.share_of_blocks:.0%})"
