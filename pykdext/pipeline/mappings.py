"""Who points at system PTE mappings, or at lists of pages: drivers' data, and big blocks of the tags that hold most."""

from __future__ import annotations

from typing import Optional, Tuple

from pykdext.attribution.mappings import find_holders
from pykdext.attribution.pagelists import find_list_holders
from pykdext.errors import TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.memory.database import find_database
from pykdext.kernel.memory.frames import FrameReader
from pykdext.kernel.memory.regions import read_regions
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.model import Allocation, PoolKind, PoolSnapshot
from pykdext.model.memory import FrameUse, MappingHolder
from pykdext.work import Work

_TAGS_SAMPLED = 64


def find_mappers(kernel: Kernel, snapshot: PoolSnapshot, work: Work) -> Tuple[MappingHolder, ...]:
    """The drivers and tags whose data lead to valid mappings; empty where none do, or the kernel tells no regions."""
    database = find_database(kernel)
    regions = [
        (region.start, region.end)
        for region in read_regions(kernel)
        if region.is_exact and region.use is FrameUse.SYSTEM_PTES
    ]
    if isinstance(database, str) or not regions:
        return ()
    with work.hold():
        blocks = _sample_blocks(kernel, snapshot)
        return find_holders(kernel.target, database.space, regions, kernel.images, blocks, work)


def find_listers(kernel: Kernel, snapshot: PoolSnapshot, work: Work) -> Optional[Tuple[MappingHolder, ...]]:
    """The drivers and tags whose data lead to lists of pages without a mapping; None where no frame tells that."""
    frames = FrameReader.open(kernel)
    if frames is None:
        return None
    with work.hold():
        blocks = _sample_blocks(kernel, snapshot)
        return find_list_holders(
            kernel.target, frames.is_unmapped, kernel.target.machine.kernel_start, kernel.images, blocks, work
        )


def _sample_blocks(kernel: Kernel, snapshot: PoolSnapshot) -> Tuple[Allocation, ...]:
    """Big blocks of the tags with most bytes; none where their table cannot be read."""
    held = {row.tag: sum(row.usage(pool).bytes or 0 for pool in PoolKind) for row in snapshot.tags}
    tags = sorted(held, key=lambda tag: -held[tag])[:_TAGS_SAMPLED]
    try:
        return read_big_pages(kernel, tags).allocations
    except TargetError:
        return ()
