"""Lookaside lists (GENERAL_LOOKASIDE: one layout from XP to Windows 11) and the heads that link them."""

from __future__ import annotations

import struct
from typing import Dict, List, Mapping, Tuple

from dumps.forge.modules import LoadedModules
from dumps.forge.objects.population import HEALTHY_LOOKASIDES, LookasidePlan, Population
from dumps.forge.objects.truth import LookasideTruth
from dumps.forge.parts import Parts

_BYTES = 0x80
_LINK, _LINK_NARROW = 0x40, 0x30
_HEADS = {False: "ExNPagedLookasideListHead", True: "ExPagedLookasideListHead"}
_PLACE_IN_DATA = 0xA00  # behind what images keep on the first page of their data
_NT_ROUTINES = ("ExAllocatePoolWithTag", "ExFreePool")


def write_lookasides(
    parts: Parts, modules: LoadedModules, variables: Mapping[str, int], population: Population
) -> List[LookasideTruth]:
    """Write the lists of all drivers and link them; of kernels without public symbols nobody knows the heads."""
    links: Dict[bool, List[int]] = {False: [], True: []}
    places: Dict[str, int] = {}
    truths = []
    for plan in (*HEALTHY_LOOKASIDES, *population.lookasides):
        va = _place(parts, modules, plan, places)
        parts.space.store(va, _pack(parts, modules, plan))
        links[plan.paged].append(va + (_LINK_NARROW if parts.kernel.architecture.narrow else _LINK))
        in_use = plan.allocates - plan.frees
        owner = plan.driver if plan.place == "data" else None
        truths.append(LookasideTruth(va, plan.tag, plan.block_bytes, in_use, plan.allocate_misses, owner))
    unknown_va = parts.regions.nonpaged.take(0x1000)
    for number, (paged, head_name) in enumerate(_HEADS.items()):
        _link(parts, variables.get(head_name, unknown_va + 0x10 * number), links[paged])
    _link(parts, variables.get("ExSystemLookasideListHead", unknown_va + 0x20), [])
    return truths


def _place(parts: Parts, modules: LoadedModules, plan: LookasidePlan, places: Dict[str, int]) -> int:
    if plan.place != "data":
        return parts.regions.nonpaged.take(0x1000) + 0x80
    number = places.get(plan.driver, 0)
    places[plan.driver] = number + 1
    data_va = modules.pointers_into(plan.driver)[1] & -0x1000
    return data_va + _PLACE_IN_DATA + _BYTES * number


def _pack(parts: Parts, modules: LoadedModules, plan: LookasidePlan) -> bytes:
    pack = parts.kernel.architecture.pack_pointers
    if plan.place == "routines":
        code_va = modules.pointers_into(plan.driver)[0]
        routines: Tuple[int, ...] = (code_va + 0x130, code_va + 0x1F0)
    else:
        routines = tuple(parts.kernel.base + parts.kernel.functions[name] for name in _NT_ROUTINES)
    counts = (plan.allocates, plan.allocate_misses, plan.frees, plan.free_misses)
    data = bytes(8 if parts.kernel.architecture.narrow else 0x10) + struct.pack("<HH4I", 4, 256, *counts)
    data += struct.pack("<I4sI", 1 if plan.paged else 0x200, plan.tag, plan.block_bytes) + pack(*routines)
    return data.ljust(_BYTES, b"\0")


def _link(parts: Parts, head: int, links: List[int]) -> None:
    pack, ring = parts.kernel.architecture.pack_pointers, [head, *links, head]
    for number, va in enumerate(links, start=1):
        parts.space.store(va, pack(ring[number + 1], ring[number - 1]))
    parts.space.store(head, pack(ring[1], ring[-2]))
