"""Memory that the kernel or drivers hold and no pool tag counts."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class UntaggedKind(enum.Enum):
    """A kind of memory that the kernel or a driver holds and no pool tag counts."""

    SYSTEM_PTES = "system PTE mappings"
    LOCKED = "pages without a PTE (locked by drivers, MDLs, AWE)"
    DRIVER_LOCKED = "pages locked by drivers"
    MDL = "pages that drivers allocated for MDLs"
    CONTIGUOUS = "contiguous memory of drivers"
    AWE = "AWE and physical pages of processes"
    PAGE_TABLES = "page tables"
    KERNEL_STACKS = "kernel stacks"
    HYPERSPACE = "hyperspace and working set lists"


@dataclass(frozen=True)
class UntaggedMemory:
    """What one kind of untagged memory holds, and by whose count. ``is_estimate``: from a sample, or a part."""

    kind: UntaggedKind
    bytes: int
    source: str
    is_estimate: bool
