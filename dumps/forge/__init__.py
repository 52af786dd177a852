"""The forge: makes Windows kernel dumps from nothing, with a truth to compare readings against.

It shares no declaration with the readers in this repository: every offset is written out here once more.
"""

from __future__ import annotations

from dumps.forge.architectures import ARCHITECTURES
from dumps.forge.kernels import BUILDS
from dumps.forge.machine import ForgedMachine, Truth
from dumps.forge.privatekernels import FIRST_OF_TODAY, find_builds
from dumps.forge.scenarios import SCENARIOS, forge
from dumps.forge.trackertables import TagTruth

_ALL = {name: find_builds(architecture) for name, architecture in ARCHITECTURES.items()}
BUILDS_BY_ARCH = {name: old for name, all_ in _ALL.items() if (old := tuple(b for b in all_ if b < FIRST_OF_TODAY))}
"""Builds that the forge knows of each architecture up to 22000; ``BUILDS`` are those of x64 with public symbols."""

BUILDS_OF_TODAY = {name: new for name, all_ in _ALL.items() if (new := tuple(b for b in all_ if b >= FIRST_OF_TODAY))}
"""The newer ones, which nobody published symbols of."""

__all__ = ["BUILDS", "BUILDS_BY_ARCH", "BUILDS_OF_TODAY", "SCENARIOS", "ForgedMachine", "TagTruth", "Truth", "forge"]
