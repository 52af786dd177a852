"""Who owns tags, and the verdict on one state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Mapping, Optional, Sequence, Tuple

from pykdext import growth
from pykdext.advice import next_steps, verdict_on
from pykdext.attribution.immediates import INTERRUPTED, ImageIndex, ImmediateAttributor, ModuleIndex
from pykdext.attribution.knowntags import load_knowntags
from pykdext.attribution.weigh import ModuleFacts, weigh_evidence
from pykdext.interruption import Interruption, hold
from pykdext.kernel.image import Image
from pykdext.kernel.kernel import Kernel
from pykdext.model import (
    ImageCoverage,
    ImageVersion,
    LeakReport,
    Module,
    PoolKind,
    PoolTag,
    PoolTotal,
    TagOwners,
)
from pykdext.pipeline.sources import Source
from pykdext.pipeline.taglists import TagLists
from pykdext.progress import ReportProgress, ignore_progress
from pykdext.units import format_share

_NAMED_IMAGES = 5


@dataclass(frozen=True)
class FoundOwners:
    """The owners of the tags that were asked for, how much was searched, and what could not be."""

    tags: Tuple[TagOwners, ...]
    coverage: ImageCoverage
    warnings: Tuple[str, ...]


def find_owners(
    source: Source,
    tags: Sequence[PoolTag],
    lists: TagLists,
    progress: ReportProgress = ignore_progress,
    interruption: Optional[Interruption] = None,
) -> FoundOwners:
    """Who owns each of ``tags``: by the images in memory, which are read once, and by the tag lists.

    With an ``interruption`` an end by the user leaves the images that were searched until then.
    """
    attributors = lists.attributors
    modules: Tuple[Module, ...] = ()
    versions: Mapping[str, ImageVersion] = {}
    coverage = ImageCoverage(0, 0, None)
    warnings: Tuple[str, ...] = ()
    incomplete: List[ModuleIndex] = []
    if source.kernel is not None:
        index = _index_images(source.kernel, tags, progress, interruption)
        modules = tuple(entry.image.module for entry in index.modules)
        versions = {entry.image.module.name: entry.version for entry in index.modules}
        attributors = [ImmediateAttributor(index), *attributors]
        coverage, warnings = index.coverage, index.warnings
        incomplete = [entry for entry in index.modules if _is_incomplete(entry)]
        if interruption is not None and interruption.cause is not None and not index.modules:
            warnings += ("interrupted before the driver images were searched: no owner by code",)
    facts = ModuleFacts(modules, versions, {description.module for description in load_knowntags()})
    foreign = [entry for entry in incomplete if not facts.is_part_of_windows(entry.image.module.name)]
    if foreign:
        warnings += (_name_incomplete(foreign),)
    owners = (
        weigh_evidence((item for attributor in attributors for item in attributor.evidence(tag)), facts) for tag in tags
    )
    found = tuple(
        TagOwners(tag, tag_owners, coverage, lists.find_descriptions(tag)) for tag, tag_owners in zip(tags, owners)
    )
    return FoundOwners(found, coverage, warnings)


def _index_images(
    kernel: Kernel, tags: Sequence[PoolTag], progress: ReportProgress, interruption: Optional[Interruption]
) -> ImageIndex:
    images: List[Image] = []
    if interruption is None or interruption.cause is None:
        with hold(interruption):
            images = kernel.read_images()
    return ImageIndex(images, tags, progress, interruption)


def _is_incomplete(entry: ModuleIndex) -> bool:
    return entry.present_bytes < entry.expected_bytes and entry.reason != INTERRUPTED


def _name_incomplete(entries: Sequence[ModuleIndex]) -> str:
    """The images that may hide an owner, the least complete first."""
    worst = sorted(entries, key=lambda entry: entry.present_bytes / entry.expected_bytes)[:_NAMED_IMAGES]
    names = ", ".join(
        f"{entry.image.module.name} ({format_share(entry.present_bytes / entry.expected_bytes)})" for entry in worst
    )
    more = f" and {len(entries) - len(worst)} more" if len(entries) > len(worst) else ""
    return f"driver images that are not wholly in memory, a tag may be in what is missing: {names}{more}"


def analyze(
    source: Source,
    lists: TagLists,
    progress: ReportProgress = ignore_progress,
    top: Optional[int] = None,
    interruption: Optional[Interruption] = None,
) -> LeakReport:
    """The verdict on one state: the ``top`` suspects, who owns them, and what to do next."""
    snapshot = source.snapshot
    found = find_owners(source, growth.find_notable(snapshot), lists, progress, interruption)
    suspects = growth.rank_suspects(snapshot, {owners.tag: owners for owners in found.tags})[:top]
    images = found.coverage if source.kernel else None
    return LeakReport(
        snapshot=snapshot,
        verdict=verdict_on(suspects, images),
        pools=tuple(PoolTotal.of(snapshot, pool) for pool in PoolKind),
        suspects=suspects,
        next_steps=next_steps(snapshot, suspects),
        image_coverage=images,
        warnings=(*snapshot.warnings, *found.warnings),
    )
