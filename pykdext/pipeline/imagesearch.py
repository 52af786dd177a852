"""What driver images tell of tags: those of a kernel's memory, or any that are indexed."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Optional, Sequence, Tuple

from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.frameworkdrivers import FrameworkAttributor
from pykdext.attribution.owners import Attributor, open_registered
from pykdext.attribution.places.cache import open_index_cache
from pykdext.attribution.places.index import INTERRUPTED, ImageIndex, ImmediateAttributor
from pykdext.images.image import Image
from pykdext.kernel.kernel import Kernel
from pykdext.model import Evidence, PoolTag
from pykdext.pipeline.evidence import SearchedImages
from pykdext.pipeline.functionnames import FunctionNames
from pykdext.targets.protocol import Target
from pykdext.work import UNWATCHED, Work


def search_index(
    index: ImageIndex,
    target: Target,
    tags: Sequence[PoolTag],
    work: Work = UNWATCHED,
    symbol_path: str = "",
    folder: Optional[str] = None,
    code: Optional[CodeAttributor] = None,
) -> SearchedImages:
    """The evidence of indexed images, which are in ``target``.

    Functions have their names by symbols along ``symbol_path``, and by PDBs in ``folder``, that of an image's file.
    ``code`` is what follows their code, if the caller asks it more later. After an interruption the tags whose calls
    were not followed until then have only the places where they stand.
    """
    images = [entry.image for entry in index.modules]
    code = code or CodeAttributor(index, open_index_cache())
    attributors: Tuple[Attributor, ...] = (code, FrameworkAttributor(target, images), *open_registered(target, images))
    names = FunctionNames(index, target, code, symbol_path, folder)
    evidence: Dict[PoolTag, Tuple[Evidence, ...]] = {}
    if not work.is_ended:
        with work.hold():
            for number, tag in enumerate(tags):
                work.report(number, len(tags), "tags followed to their calls")
                evidence[tag] = names.add_to(item for attributor in attributors for item in attributor.evidence(tag))
            work.report(len(tags), len(tags), "tags followed to their calls")
    for tag in tags[len(evidence) :]:
        evidence[tag] = tuple(ImmediateAttributor(index).evidence(tag))
    scanned = [entry for entry in index.modules if entry.reason is None]
    return SearchedImages(
        evidence,
        tuple(image.module for image in images),
        {entry.image.module.name: entry.version for entry in index.modules},
        len(scanned),
        len(index.modules),
        sum(entry.present_bytes for entry in scanned),
        sum(entry.expected_bytes for entry in scanned),
        tuple(
            (entry.image.module.name, entry.present_bytes / entry.expected_bytes)
            for entry in index.modules
            if entry.present_bytes < entry.expected_bytes and entry.reason != INTERRUPTED
        ),
        warnings=(*index.warnings, *names.warnings),
        unsearched=sum(entry.reason == INTERRUPTED for entry in index.modules),
        discarded_bytes=sum(entry.discarded_bytes for entry in scanned),
        poolless={tag: tuple(names_of_tag) for tag, names_of_tag in code.poolless.items()},
    )


def search_kernel(
    kernel: Kernel,
    tags: Sequence[PoolTag],
    work: Work = UNWATCHED,
) -> SearchedImages:
    """What the images in memory tell; each is read once. After an interruption: what was searched until then."""
    images: Sequence[Image] = ()
    if not work.is_ended:
        with work.hold():
            images = kernel.images
    index = ImageIndex(images, tags, work, open_index_cache())
    searched = search_index(index, kernel.target, tags, work, kernel.symbol_path)
    warnings = searched.warnings
    if work.is_ended and not images:
        warnings += ("interrupted before the driver images were searched: no owner by code",)
        loaded = sum(not module.unloaded for module in kernel.target.modules())
        searched = replace(searched, total=loaded, unsearched=loaded)
    return replace(searched, modules=kernel.target.modules(), warnings=warnings)
