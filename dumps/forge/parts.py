"""What the assembler's steps share: one machine in the making."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, Optional

from dumps.forge.frameowners import FrameOwners
from dumps.forge.kernels import KernelBuild
from dumps.forge.pagetables import AddressSpace
from dumps.forge.regions import Regions
from dumps.forge.segmentheap import SegmentHeap

if TYPE_CHECKING:
    from dumps.forge.sessions import SessionSpaces


@dataclass
class Parts:
    """A machine in the making; every step leaves the addresses of what it wrote in ``addresses``."""

    kernel: KernelBuild
    processors: int
    space: AddressSpace
    regions: Regions
    chance: random.Random
    heap: Optional[SegmentHeap] = None
    addresses: Dict[str, int] = field(default_factory=dict)
    frame_owners: Optional[FrameOwners] = None
    sessions: Optional[SessionSpaces] = None

    def variable(self, name: str) -> int:
        """Return the address of a variable of nt."""
        return self.kernel.base + self.kernel.variables[name]

    def set_variable(self, name: str, value: int) -> None:
        """Write a variable of nt that has the size of a pointer."""
        self.space.store(self.variable(name), self.kernel.architecture.pack_pointers(value))
