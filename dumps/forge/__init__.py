"""The forge: makes Windows kernel dumps from nothing, with a truth to compare readings against.

It shares no declaration with the readers in this repository: every offset is written out here once more.
"""

from __future__ import annotations

from dumps.forge.kernels import BUILDS
from dumps.forge.machine import ForgedMachine, Truth
from dumps.forge.scenarios import SCENARIOS, forge
from dumps.forge.trackertables import TagTruth

__all__ = ["BUILDS", "SCENARIOS", "ForgedMachine", "TagTruth", "Truth", "forge"]
