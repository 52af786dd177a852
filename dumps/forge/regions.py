"""Where in the kernel's address space the parts of a machine lie."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dumps.forge.kernels import KernelBuild

PAGED_POOL_START = 0xE1000000  # on 32-bit XP and 2003

_GIB = 1 << 30
_SLOT_BYTES = 1 << 39
_KERNEL_HALF = 0xFFFF800000000000
_FREE_SLOTS = range(0x10, 0xE0)  # slots of the upper half below the page tables' own


@dataclass
class Region:
    """Addresses of one purpose, handed out in ascending order."""

    start: int
    next_va: int = field(init=False)

    def __post_init__(self) -> None:
        self.next_va = self.start

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
    """Return regions at the fixed places of old systems, else anywhere: later systems choose them at each start."""
    if kernel.architecture.narrow:
        return _plan_narrow_regions(kernel, chance)
    if kernel.build <= 7601:
        return Regions(
            drivers=Region(0xFFFFF88000E5E000),
            nonpaged=Region(0xFFFFFA8001A00000),
            paged=Region(0xFFFFF8A000104000),
            tables=Region(0xFFFFF88040000000),
            processors=Region(0xFFFFF88003164000),
        )
    if kernel.architecture.has_five_levels:
        return _plan_wide_regions(kernel, chance)
    slots = chance.sample(_FREE_SLOTS, 4)
    nonpaged, paged, tables, processors = (
        _KERNEL_HALF + slot * _SLOT_BYTES + chance.randrange(1, 64) * _GIB for slot in slots
    )
    return Regions(
        drivers=Region(kernel.base + _GIB + chance.randrange(0x100) * 0x10000),
        nonpaged=Region(nonpaged + chance.randrange(0x1000) * 0x1000),
        paged=Region(paged + chance.randrange(0x1000) * 0x1000),
        tables=Region(tables),
        processors=Region(processors + chance.randrange(0x1000) * 0x1000),
    )


def _plan_wide_regions(kernel: KernelBuild, chance: random.Random) -> Regions:
    """Return regions that four levels of tables reach no more, but for what entries of 48 bits must name."""
    nonpaged, tables, processors = (
        (0xFF00 + slot << 48) + chance.randrange(0x10, 0x1F0) * _SLOT_BYTES
        for slot in chance.sample(range(0x50, 0xF0), 3)
    )
    paged = _KERNEL_HALF + chance.choice(_FREE_SLOTS) * _SLOT_BYTES
    return Regions(
        drivers=Region(kernel.base + _GIB + chance.randrange(0x100) * 0x10000),
        nonpaged=Region(nonpaged + chance.randrange(0x1000) * 0x1000),
        paged=Region(paged + chance.randrange(0x1000) * 0x1000),
        tables=Region(tables),
        processors=Region(processors + chance.randrange(0x1000) * 0x1000),
    )


def _plan_narrow_regions(kernel: KernelBuild, chance: random.Random) -> Regions:
    """Return regions above 2 GB: XP and 2003 keep to the usual places, Vista and later vary them."""
    if kernel.build < 6000:
        return Regions(
            drivers=Region(0xF7200000),
            nonpaged=Region(0x83A00000),
            paged=Region(PAGED_POOL_START),
            tables=Region(0x86D00000),
            processors=Region(0xF8A00000),
        )
    return Regions(
        drivers=Region(0x88200000 + chance.randrange(0x100) * 0x10000),
        nonpaged=Region(0x84000000 + chance.randrange(0x1000) * 0x1000),
        paged=Region(0x91000000 + chance.randrange(0x1000) * 0x1000),
        tables=Region(0x8D000000),
        processors=Region(0x80700000 + chance.randrange(0x40) * 0x1000),
    )
