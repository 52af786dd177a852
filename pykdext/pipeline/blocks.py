"""Where a tag's blocks are."""

from __future__ import annotations

from typing import List, Tuple

from pykdext.errors import MemoryReadError, TargetError
from pykdext.kernel.bigpages import read_big_pages
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.smallblocks import MAX_WALK_SECONDS, SmallBlocks, find_small_blocks
from pykdext.model import UNUSED, Allocation, BlockReport, BlockView, PoolTag, TagUsage
from pykdext.pipeline.sources import Source
from pykdext.progress import ReportProgress, ignore_progress
from pykdext.selection import count_sizes

_HEAD_OF_BLOCK_BYTES = 16


def find_blocks(source: Source, tag: PoolTag, sample: int, progress: ReportProgress = ignore_progress) -> BlockReport:
    """Where the live blocks of ``tag`` are; ``sample`` of them with their first bytes.

    Raises:
        TargetError: the source is a log or snapshot, which holds no memory.
    """
    if source.kernel is None:
        raise TargetError(
            f"{source.snapshot.source.path}: found a snapshot, expected a dump. Hint: only a dump holds the blocks"
        )
    warnings: List[str] = []
    big: Tuple[Allocation, ...] = ()
    try:
        pages = read_big_pages(source.kernel, tag)
        big = pages.allocations
        if pages.rows_read < pages.rows_expected:
            missing = pages.rows_expected - pages.rows_read
            warnings.append(f"big-page table: {missing:,} of {pages.rows_expected:,} rows are not in the target")
    except TargetError as error:
        warnings.append(f"{error}; big blocks are missing")
    small = SmallBlocks()
    if source.kernel.target.facts.pages_present is None:
        warnings.append("small blocks are searched for in dump files only; in the debugger type !poolfind")
    else:
        small = find_small_blocks(source.kernel, tag, progress)
    if not small.complete:
        warnings.append(f"the search for small blocks ended after {MAX_WALK_SECONDS:.0f} s; some are missing")
    found = sorted((*big, *small.allocations), key=lambda block: block.address)
    row = next((row for row in source.snapshot.tags if row.tag == tag), TagUsage(tag, UNUSED, UNUSED))
    return BlockReport(
        tag=tag,
        source=source.snapshot.source,
        counted=row,
        found=tuple(found),
        sizes=count_sizes(found),
        sample=tuple(_view(source.kernel, block) for block in found[:sample]),
        freed=small.freed,
        warnings=(*source.snapshot.warnings, *warnings),
    )


def _view(kernel: Kernel, block: Allocation) -> BlockView:
    """The block with its first bytes; a small block's header is left out."""
    start = 0 if block.is_big else 2 * kernel.target.pointer_size
    size = max(0, min(_HEAD_OF_BLOCK_BYTES, block.size_bytes - start))
    try:
        return BlockView(block, kernel.target.read_virtual(block.address + start, size))
    except MemoryReadError:
        return BlockView(block, b"")
