"""What a tag's blocks point at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from pykdext.model.pool import PoolTag


@dataclass(frozen=True)
class PointedPlace:
    """A place of a driver that blocks point at, and in what share of the sampled blocks (0.0 to 1.0).

    ``what`` is ``code``, ``constants``, ``data``, ``image`` where the sections are not known, or ``object``: a driver
    object of the driver, or one of its device objects. ``rva`` is None for objects: they lie outside the image.
    """

    what: str
    rva: Optional[int]
    share_of_blocks: float


@dataclass(frozen=True)
class DriverPointers:
    """The sampled blocks that point at one driver: their share, and the places, the most common first."""

    module: str
    unloaded: bool
    share_of_blocks: float
    places: Tuple[PointedPlace, ...]


@dataclass(frozen=True)
class ContentsWitness:
    """What a sample of a tag's blocks points at: drivers by the share of blocks, those that tell least last."""

    tag: PoolTag
    blocks_sampled: int
    drivers: Tuple[DriverPointers, ...]
