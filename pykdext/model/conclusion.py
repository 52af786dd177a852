"""What growth comes to: which tags grew, who owns them, how full the pools are, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from pykdext.model.growth import LockstepGroup
from pykdext.model.owners import ImageCoverage, Owner, Role, TagDescription
from pykdext.model.pool import PoolKind, PoolTag
from pykdext.model.report import NextStep, PoolTotal


@dataclass(frozen=True)
class GrownTag:
    """A tag that grew in one pool, with all that is known of it.

    ``bytes`` and ``blocks`` are by how much; ``bytes_per_hour`` how fast, None where the time is not known.
    """

    tag: PoolTag
    pool: PoolKind
    bytes: int
    blocks: Optional[int]
    bytes_per_hour: Optional[float]
    role: Role = Role.UNKNOWN
    owners: Tuple[Owner, ...] = ()
    descriptions: Tuple[TagDescription, ...] = ()
    notes: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Conclusion:
    """What a difference or a series comes to.

    Attributes:
        verdict: one or two sentences. grown: the tags that grew most, the most bytes first.
        groups: tags whose blocks grew in equal numbers. before, after: the pools of both sides.
        image_coverage: how much of the driver images was searched; None if there are none.
        warnings: those of the search for owners.
    """

    verdict: str
    grown: Tuple[GrownTag, ...]
    groups: Tuple[LockstepGroup, ...]
    before: Tuple[PoolTotal, ...]
    after: Tuple[PoolTotal, ...]
    next_steps: Tuple[NextStep, ...]
    image_coverage: Optional[ImageCoverage] = None
    warnings: Tuple[str, ...] = ()
