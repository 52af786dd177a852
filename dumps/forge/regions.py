"""Where in the kernel's address space the parts of a machine lie."""

from __future__ import annotations

import random
from dataclasses import dataclass

from dumps.forge.kernels import KernelBuild
from dumps.forge.pagetables import HUGE_BYTES

_SLOT_BYTES = 1 << 39
_KERNEL_HALF = 0xFFFF800000000000
_FREE_SLOTS = range(0x10, 0xE0)  # slots of the upper half below the page tables' own


@dataclass
class Region:
    """Addresses of one purpose, handed out in ascending order."""

    next_va: int

    def take(self, size: int, *, alignment: int = 0x1000, gap: int = 0) -> int:
        """Return the address of ``size`` free bytes; at least ``gap`` bytes behind them stay free."""
        va = -(-self.next_va // alignment) * alignment
        self.next_va = va + size + gap
        return va


@dataclass(frozen=True)
class Regions:
    """The regions of a machine."""

    drivers: Region
    nonpaged: Region
    paged: Region
    tables: Region
    processors: Region


def plan_regions(kernel: KernelBuild, chance: random.Random) -> Regions:
    """Return regions at the fixed places of Windows 7, else anywhere: later systems choose them at each start."""
    if kernel.build == 7601:
        return Regions(
            drivers=Region(0xFFFFF88000E5E000),
            nonpaged=Region(0xFFFFFA8001A00000),
            paged=Region(0xFFFFF8A000104000),
            tables=Region(0xFFFFF88040000000),
            processors=Region(0xFFFFF88003164000),
        )
    slots = chance.sample(_FREE_SLOTS, 4)
    nonpaged, paged, tables, processors = (
        _KERNEL_HALF + slot * _SLOT_BYTES + chance.randrange(1, 64) * HUGE_BYTES for slot in slots
    )
    return Regions(
        drivers=Region(kernel.base + HUGE_BYTES + chance.randrange(0x100) * 0x10000),
        nonpaged=Region(nonpaged + chance.randrange(0x1000) * 0x1000),
        paged=Region(paged + chance.randrange(0x1000) * 0x1000),
        tables=Region(tables),
        processors=Region(processors + chance.randrange(0x1000) * 0x1000),
    )
