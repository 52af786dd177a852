"""Evidence weighed: who owns tags, by all that searches brought and by the tag lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional, Sequence, Tuple

from pykdext.attribution.owners import (
    ModuleFacts,
    describe_sharing,
    find_static_library,
    find_unloaded_owners,
    limit_library_evidence,
    weigh_evidence,
)
from pykdext.attribution.stated import StatedAttributor
from pykdext.attribution.taglists import TagLists, load_knowntags
from pykdext.model import ImageCoverage, PoolSnapshot, PoolTag, TagOwners
from pykdext.pipeline.evidence import FoundContents, SearchedImages
from pykdext.units import format_share, name_some

_NAMED_IMAGES = 5


@dataclass(frozen=True)
class FoundOwners:
    """The owners of the tags that were asked for, how much was searched, and what could not be.

    ``complete`` is false if a file that was named could not be used.
    """

    tags: Tuple[TagOwners, ...]
    coverage: ImageCoverage
    complete: bool
    warnings: Tuple[str, ...]


def weigh_owners(
    searches: Sequence[SearchedImages],
    contents: FoundContents,
    tags: Sequence[PoolTag],
    lists: TagLists,
    snapshot: Optional[PoolSnapshot] = None,
) -> FoundOwners:
    """Who owns each of ``tags`` by all ``searches``, the ``contents`` of blocks, and the tag lists.

    With a ``snapshot`` the drivers that its source itself names are evidence, too.
    """
    attributors = [*lists.attributors, *([StatedAttributor(snapshot)] if snapshot else [])]
    modules = [module for search in searches for module in search.modules]
    facts = ModuleFacts(
        modules,
        {name: version for search in searches for name, version in search.versions.items()},
        {description.module for description in load_knowntags() if not description.is_vendors},
        {description.module for description in load_knowntags() if description.is_vendors},
    )
    coverage = ImageCoverage.of(
        sum(search.scanned for search in searches),
        sum(search.total for search in searches),
        sum(search.present_bytes for search in searches),
        sum(search.expected_bytes for search in searches),
        sum(search.unsearched for search in searches),
        sum(search.discarded_bytes for search in searches),
    )
    found = []
    for tag in tags:
        descriptions = lists.find_descriptions(tag)
        evidence = [item for search in searches for item in search.evidence.get(tag, ())]
        evidence += contents.evidence.get(tag, ())
        evidence += [item for attributor in attributors for item in attributor.evidence(tag)]
        if all(item.rva is None for item in evidence):
            evidence += find_unloaded_owners(tag, descriptions, modules)
        library = find_static_library(tag, descriptions)
        if library is not None:
            evidence = list(limit_library_evidence(evidence, library))
        owners = weigh_evidence(evidence, facts, is_object=lists.is_object(tag))
        sharing = describe_sharing(tag, owners)
        poolless = [name for search in searches for name in search.poolless.get(tag, ())]
        notes = [line for line in (sharing, _describe_poolless(poolless)) if line is not None]
        found.append(TagOwners(tag, owners, coverage, descriptions, tuple(notes)))
    foreign = [
        (name, share) for search in searches for name, share in search.incomplete if not facts.is_part_of_windows(name)
    ]
    unusable = [line for search in searches for line in search.unusable]
    warnings = [line for search in searches for line in search.warnings]
    warnings += [*contents.warnings, *unusable, *_describe_incomplete(foreign)]
    return FoundOwners(tuple(found), coverage, not unusable, tuple(warnings))


def _describe_poolless(names: Sequence[str]) -> Optional[str]:
    """That images of user mode have a tag's bytes, which are no tag there; None if none has."""
    if not names:
        return None
    has = "has the bytes, and runs" if len(names) == 1 else "have the bytes, and run"
    return f"{name_some(names, _NAMED_IMAGES)} {has} in user mode, where no pool is"


def _describe_incomplete(shares: Sequence[Tuple[str, float]]) -> Iterator[str]:
    """The images that may hide an owner, the least complete first; nothing if all are complete."""
    if shares:
        worst = sorted(shares, key=lambda share: share[1])
        names = name_some([f"{name} ({format_share(share)})" for name, share in worst], _NAMED_IMAGES)
        yield f"driver images that are not wholly in memory, a tag may be in what is missing: {names}"
