"""The forge: makes Windows kernel dumps from nothing, with a truth to compare readings against.

It shares no declaration with the readers in this repository: every offset is written out here once more.
"""

from __future__ import annotations

from dumps.forge.architectures import ARCHITECTURES
from dumps.forge.kernels import BUILDS
from dumps.forge.machine import ForgedMachine, Truth
from dumps.forge.privatekernels import find_builds
from dumps.forge.scenarios import SCENARIOS, forge
from dumps.forge.trackertables import TagTruth

BUILDS_BY_ARCH = {name: find_builds(architecture) for name, architecture in ARCHITECTURES.items()}
"""Every build that the forge knows of each architecture; ``BUILDS`` are those of x64 with public symbols."""

__all__ = ["BUILDS", "BUILDS_BY_ARCH", "SCENARIOS", "ForgedMachine", "TagTruth", "Truth", "forge"]
