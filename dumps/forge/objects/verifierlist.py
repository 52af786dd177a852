"""Driver Verifier's accounts up to Vista: a list of the drivers it watches, with their counters and allocations.

Members of MI_VERIFIER_DRIVER_ENTRY as the public symbols of these kernels have them; XP keeps its allocations in a hash
table, which is left out.
"""

from __future__ import annotations

import struct
from typing import List, Tuple

from dumps.forge.modules import LoadedModules
from dumps.forge.objects.population import Population, VerifiedDriver
from dumps.forge.objects.truth import ObjectTruth, VerifiedTruth
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES

LAST_BUILD = 6003
_XP = 2600
_SIGNATURE = 0x98761940
_PAGE_SIGNATURE = 0x21455256
# build and pointer bytes: name | start | end | signature | page headers | counts | bytes
_PLACES = {
    (3790, 8): (0x18, 0x28, 0x30, 0x40, 0x50, 0x70, 0x80),
    (6002, 8): (0x18, 0x28, 0x30, 0x40, 0x50, 0x70, 0x80),
    (2600, 4): (0x10, 0x18, 0x1C, 0x24, None, 0x40, 0x50),
    (3790, 4): (0x10, 0x18, 0x1C, 0x24, 0x28, 0x38, 0x48),
    (6002, 4): (0x10, 0x18, 0x1C, 0x24, 0x28, 0x38, 0x48),
}
_ENTRY_BYTES = 0xC0


def write_verifier_list(parts: Parts, modules: LoadedModules, population: Population, truth: ObjectTruth) -> None:
    """Write the list of the drivers that are watched, behind one that is watched but was never loaded."""
    pack = parts.kernel.architecture.pack_pointers
    head_va = parts.variable("MiSuspectDriverList")
    drivers = list(population.verified)
    places = [parts.regions.nonpaged.take(_ENTRY_BYTES + 0x80, alignment=0x10) for _ in range(len(drivers) + 1)]
    ring = [head_va, *places, head_va]
    for number, va in enumerate(places, start=1):
        parts.space.store(va, bytes(_ENTRY_BYTES))
        parts.space.store(va, pack(ring[number + 1], ring[number - 1]))
    parts.space.store(head_va, pack(places[0], places[-1]))
    _write_name(parts, places[0], "absent.sys")
    for va, driver in zip(places[1:], drivers):
        truth.verified.append(_write_entry(parts, modules, va, driver))


def _write_name(parts: Parts, va: int, name: str) -> None:
    buffer_va = va + _ENTRY_BYTES
    place = _PLACES[parts.kernel.build, parts.kernel.architecture.pointer_bytes][0]
    parts.space.store(buffer_va, name.encode("utf-16-le") + b"\0\0")
    parts.space.store(va + place, parts.kernel.architecture.pack_unicode_string(name, buffer_va))


def _write_entry(parts: Parts, modules: LoadedModules, va: int, driver: VerifiedDriver) -> VerifiedTruth:
    pack, width = parts.kernel.architecture.pack_pointers, parts.kernel.architecture.pointer_bytes
    _, start, end, signature, pages, counts, sizes = _PLACES[parts.kernel.build, width]
    base, size = modules.base(driver.driver), modules.images[driver.driver].size
    held = driver.allocations * driver.block_bytes
    _write_name(parts, va, driver.driver)
    parts.space.store(va + 2 * width, struct.pack("<II", 1, 0))
    parts.space.store(va + start, pack(base))
    parts.space.store(va + end, pack(base + size))
    parts.space.store(va + signature, struct.pack("<I", _SIGNATURE))
    parts.space.store(va + counts, struct.pack("<4I", 0, driver.allocations, 0, driver.allocations))
    parts.space.store(va + sizes, pack(0, held & (1 << 8 * width) - 1))
    callers: Tuple[int, ...] = ()
    tracked = 0
    if pages is not None:
        code_rva = modules.pointers_into(driver.driver)[0] - base
        callers = (code_rva + 0x2B, code_rva + 0x57)
        first, tracked = _write_tracked(parts, va, driver, [base + rva for rva in callers])
        parts.space.store(va + pages, _pack_list_head(first, width))
    return VerifiedTruth(va, driver.driver, driver.allocations, held, driver.tag, callers, tracked, 0, 0)


def _pack_list_head(first: int, width: int) -> bytes:
    """Return an SLIST_HEADER; of 64 bits the one of eight bytes: depth 16 bits, sequence 9, address 39."""
    if width == 4:
        return struct.pack("<IHH", first, 1, 7)
    return struct.pack("<QQ", 1 | 3 << 16 | (first >> 4 & (1 << 39) - 1) << 25, 7 << 61)


def _write_tracked(parts: Parts, owner_va: int, driver: VerifiedDriver, callers: List[int]) -> Tuple[int, int]:
    """Write pages of allocations, every ninth of which is free; return the first page and how many are in use."""
    width = parts.kernel.architecture.pointer_bytes
    per_page = PAGE_BYTES // (4 * width) - 1
    starts = [parts.regions.nonpaged.take(PAGE_BYTES) for _ in range(-(-driver.tracked // per_page))]
    pool_va, live = parts.regions.nonpaged.start, 0
    words = "<3Q4sI" if width == 8 else "<3I4s"
    for number, va in enumerate(starts):
        following = starts[number + 1] if number + 1 < len(starts) else 0
        page = parts.kernel.architecture.pack_pointers(following, owner_va, _PAGE_SIGNATURE, 0)
        for entry in range(per_page):
            if entry % 9 == 8 or number * per_page + entry >= driver.tracked:
                page += bytes(4 * width)
                continue
            values = (pool_va + 0x10 * entry, callers[entry % 4 == 3], driver.block_bytes, driver.tag)
            page += struct.pack(words, *values, *((0,) if width == 8 else ()))
            live += 1
        parts.addresses[f"verifier:{driver.driver}:{number}"] = va
        parts.space.store(va, page)
    return starts[0], live
