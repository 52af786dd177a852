"""Who owns tags: the images in memory and on disk, and the tag lists, put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence, Tuple

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
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.model import ImageCoverage, PoolSnapshot, PoolTag, TagOwners
from pykdext.pipeline.driverfiles import search_files
from pykdext.pipeline.imagesearch import SearchedImages, search_kernel
from pykdext.pipeline.objectevidence import find_object_evidence, join_contents
from pykdext.pipeline.pointers import NO_CONTENTS, FoundContents, search_contents
from pykdext.pipeline.sources import choose_symbol_path
from pykdext.units import format_share, name_some
from pykdext.work import UNWATCHED, Work

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


def find_owners(
    kernel: Optional[Kernel],
    paths: Sequence[str],
    tags: Sequence[PoolTag],
    lists: TagLists,
    jobs: int = 1,
    work: Work = UNWATCHED,
    symbol_path: Optional[str] = None,
) -> FoundOwners:
    """Who owns each of ``tags``: by the images of ``kernel`` and the blocks in it, by driver files, and by the lists.

    The files are those of ``paths`` (see :func:`search_files`); ``symbol_path`` is where their symbols are looked for;
    None: along the environment's. An end by the user leaves what was searched until then.
    """
    searches: List[SearchedImages] = []
    contents = NO_CONTENTS
    if kernel is not None:
        searches.append(search_kernel(kernel, tags, work))
        contents = join_contents(
            search_contents(kernel, tags, work), find_object_evidence(ObjectSpace(kernel, work), tags)
        )
    if paths:
        symbols = choose_symbol_path(symbol_path)
        loaded = {module.name for search in searches for module in search.modules}
        searches.append(search_files(paths, tags, jobs, work, symbols, loaded))
    return weigh_owners(searches, contents, tags, lists)


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
        {description.module for description in load_knowntags()},
    )
    coverage = ImageCoverage.of(
        sum(search.scanned for search in searches),
        sum(search.total for search in searches),
        sum(search.present_bytes for search in searches),
        sum(search.expected_bytes for search in searches),
        sum(search.unsearched for search in searches),
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
        owners = weigh_evidence(evidence, facts)
        sharing = describe_sharing(tag, owners)
        found.append(TagOwners(tag, owners, coverage, descriptions, (sharing,) if sharing else ()))
    foreign = [
        (name, share) for search in searches for name, share in search.incomplete if not facts.is_part_of_windows(name)
    ]
    unusable = [line for search in searches for line in search.unusable]
    warnings = [line for search in searches for line in search.warnings]
    warnings += [*contents.warnings, *unusable, *_describe_incomplete(foreign)]
    return FoundOwners(tuple(found), coverage, not unusable, tuple(warnings))


def _describe_incomplete(shares: Sequence[Tuple[str, float]]) -> Iterator[str]:
    """The images that may hide an owner, the least complete first; nothing if all are complete."""
    if shares:
        worst = sorted(shares, key=lambda share: share[1])
        names = name_some([f"{name} ({format_share(share)})" for name, share in worst], _NAMED_IMAGES)
        yield f"driver images that are not wholly in memory, a tag may be in what is missing: {names}"
