"""What searches bring: the evidence of each tag, and how much was searched for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Mapping, Tuple

from pykdext.model import Evidence, ImageVersion, Module, PoolTag


@dataclass(frozen=True)
class SearchedImages:
    """What a set of images tells of the tags that were asked for.

    ``modules`` may hold unloaded ones, too. ``versions`` by module name. Of ``total`` images ``scanned`` had something
    to search; ``expected_bytes`` of theirs should be searched, ``present_bytes`` were. ``incomplete``: images that are
    not wholly there, and which share is. ``unusable``: one line for each file that is no image. ``unsearched``: images
    that the user's end left unsearched. ``discarded_bytes``: code that is gone since the drivers started. ``poolless``:
    by tag the images of user mode that have its bytes.
    """

    evidence: Mapping[PoolTag, Tuple[Evidence, ...]]
    modules: Tuple[Module, ...]
    versions: Mapping[str, ImageVersion]
    scanned: int
    total: int
    present_bytes: int
    expected_bytes: int
    incomplete: Tuple[Tuple[str, float], ...] = ()
    unusable: Tuple[str, ...] = ()
    warnings: Tuple[str, ...] = ()
    unsearched: int = 0
    discarded_bytes: int = 0
    poolless: Mapping[PoolTag, Tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class FoundContents:
    """What the blocks of each tag tell, and what could not be looked at."""

    evidence: Mapping[PoolTag, Tuple[Evidence, ...]]
    warnings: Tuple[str, ...] = ()


NO_CONTENTS = FoundContents({})


def join_contents(*parts: FoundContents) -> FoundContents:
    """The evidence of all parts, each tag's in their order."""
    evidence: Dict[PoolTag, Tuple[Evidence, ...]] = {}
    for part in parts:
        for tag, items in part.evidence.items():
            evidence[tag] = (*evidence.get(tag, ()), *items)
    return FoundContents(evidence, tuple(warning for part in parts for warning in part.warnings))
