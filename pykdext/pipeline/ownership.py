"""Who owns tags: the images in memory and on disk, and the tag lists, put together."""

from __future__ import annotations

from typing import List, Optional, Sequence

from pykdext.attribution.taglists import TagLists
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.model import PoolSnapshot, PoolTag
from pykdext.pipeline.driverfiles import search_files
from pykdext.pipeline.evidence import NO_CONTENTS, SearchedImages, join_contents
from pykdext.pipeline.imagesearch import search_kernel
from pykdext.pipeline.objectevidence import find_object_evidence
from pykdext.pipeline.pointers import search_contents
from pykdext.pipeline.sources import choose_symbol_path
from pykdext.pipeline.weighing import FoundOwners, weigh_owners
from pykdext.work import UNWATCHED, Work


def find_owners(
    kernel: Optional[Kernel],
    paths: Sequence[str],
    tags: Sequence[PoolTag],
    lists: TagLists,
    jobs: int = 1,
    work: Work = UNWATCHED,
    symbol_path: Optional[str] = None,
    snapshot: Optional[PoolSnapshot] = None,
) -> FoundOwners:
    """Who owns each of ``tags``: by the images of ``kernel`` and the blocks in it, by driver files, and by the lists.

    What the source of ``snapshot`` itself says of them is evidence, too.
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
    return weigh_owners(searches, contents, tags, lists, snapshot)
