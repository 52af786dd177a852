"""Kernels whose pool variables stand where no linker has put them yet, among others that look like them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Dict, Mapping

from dumps.forge.kernels import KernelBuild

FIRST_DECOY = "DecoyTagTables"
STALE_TABLE = "DecoyBigPageTable"
COUNTS = "DecoyCounts"

WAYS = ("order", "gaps", "anywhere")
"""Real places in another order; with gaps between them, too; anywhere in a section that other kernels do not have."""

_SECTION, _SECTION_BYTES = "ALMOSTRO", 0x40000
_COUNT_BYTES = 0x100


def scramble_kernel(
    kernel: KernelBuild, places: Mapping[str, int], way: str, chance: random.Random, decoys: int = 0
) -> KernelBuild:
    """Return the kernel with its pool variables placed anew, in a writable section that is added.

    ``places`` are the variables' RVAs in some real kernel; names that this kernel has not are left out. ``decoys`` more
    arrays list tables of tags, a pointer leads to a table of big blocks of before, and numbers stand around that could
    be counts of rows.
    """
    pointer = kernel.architecture.pointer_bytes
    sizes = {name: pointer for name in places if name in kernel.variables}
    array_bytes = kernel.sizes.tag_table_slots * pointer
    if "ExPoolTagTables" in sizes:
        sizes["ExPoolTagTables"] = array_bytes
    sizes.update((f"{FIRST_DECOY}{number}", 0x40 * pointer) for number in range(decoys))
    if decoys:
        sizes.update({STALE_TABLE: pointer, COUNTS: _COUNT_BYTES})
    names = list(sizes)
    chance.shuffle(names)
    start = kernel.sections[-1][2]
    order = sorted(places.values())
    steps = [following - before for before, following in zip(order, order[1:])] or [pointer]
    rva = start + pointer * chance.randrange(0x200)
    placed: Dict[str, int] = {}
    for name in names:
        placed[name] = rva
        step = min(chance.choice(steps), 0x1000) & -pointer
        gap = pointer * chance.randrange(0x200) if way != "order" else 0
        rva += max(step, sizes[name]) + gap
    if way == "anywhere":
        placed = _spread(sizes, start, pointer, chance)
    end = start + _SECTION_BYTES
    return replace(
        kernel,
        variables={**kernel.variables, **placed},
        sections=(*kernel.sections, (_SECTION, start, end)),
    )


def _spread(sizes: Mapping[str, int], start: int, pointer: int, chance: random.Random) -> Dict[str, int]:
    """Return places that do not overlap, the largest first."""
    placed: Dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        while name not in placed:
            rva = start + pointer * chance.randrange((_SECTION_BYTES - sizes[name]) // pointer)
            if all(rva + sizes[name] <= other or other + sizes[by] <= rva for by, other in placed.items()):
                placed[name] = rva
    return placed
