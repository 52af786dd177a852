"""Where a tag's blocks are."""

from __future__ import annotations

from typing import List, Sequence, Tuple

from pykdext.attribution.pointers import read_witness
from pykdext.errors import MemoryReadError, TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.kernel.pool.heapchunks import read_heap_keys
from pykdext.kernel.pool.smallblocks import SmallBlocks, find_small_blocks
from pykdext.model import UNUSED, Allocation, BlockReport, BlockView, PoolSnapshot, PoolTag, StatedDriver, TagUsage
from pykdext.model.selection import count_sizes
from pykdext.pipeline.sources import Source
from pykdext.report.sentences.tags import say_stated
from pykdext.targets.session.wholememory import open_whole_memory
from pykdext.units import choose_form, count_things, format_bytes
from pykdext.work import UNWATCHED, Work

_HEAD_OF_BLOCK_BYTES = 16


def find_blocks(
    source: Source,
    tag: PoolTag,
    sample: int,
    work: Work = UNWATCHED,
) -> BlockReport:
    """Where the live blocks of ``tag`` are; ``sample`` of them with their first bytes.

    An end by the user leaves the blocks found before it, if the work keeps results.

    Raises:
        TargetError: the source is a log or snapshot, which holds no memory, and lists no blocks (``!poolfind``) either.
    """
    kernel = source.kernel
    if kernel is None and source.snapshot.blocks:
        return _list_stated_blocks(source.snapshot, tag)
    if kernel is None:
        kind = source.snapshot.source.kind
        stated = say_stated(tag, _find_stated(source.snapshot, tag))
        raise TargetError(
            f"blocks: found a source without memory ({kind}), expected a dump. Hint: only it holds blocks{stated}"
        )
    warnings: List[str] = []
    big: Tuple[Allocation, ...] = ()
    small = SmallBlocks()
    if not work.is_ended:
        with work.hold():
            big = _find_big_blocks(kernel, tag, warnings, work)
    if not work.is_ended:
        small = _find_small_blocks(kernel, tag, warnings, work)
    found = sorted((*big, *small.allocations), key=lambda block: block.address)
    views = _view_blocks(kernel, found[:sample], work)
    witness = None
    if found and not work.is_ended:
        with work.hold():
            witness = read_witness(kernel.target, tag, found, kernel.images)
    if work.is_ended:
        warnings.append("interrupted before the search for blocks was through: some are missing")
    row = next((row for row in source.snapshot.tags if row.tag == tag), TagUsage(tag, UNUSED, UNUSED))
    return BlockReport(
        tag=tag,
        source=source.snapshot.source,
        counted=row,
        found=tuple(found),
        sizes=count_sizes(found),
        sample=views,
        freed=small.freed,
        warnings=(*source.snapshot.warnings, *warnings),
        witness=witness,
        is_complete=source.snapshot.coverage.is_complete and not warnings,
    )


def _list_stated_blocks(snapshot: PoolSnapshot, tag: PoolTag) -> BlockReport:
    """The blocks of ``tag`` that a text lists; their contents are not in it."""
    found = tuple(sorted((block for block in snapshot.blocks if block.tag == tag), key=lambda block: block.address))
    return BlockReport(
        tag=tag,
        source=snapshot.source,
        counted=next((row for row in snapshot.tags if row.tag == tag), TagUsage(tag, UNUSED, UNUSED)),
        found=found,
        sizes=count_sizes(found),
        sample=tuple(BlockView(block, b"") for block in found),
        freed=0,
        warnings=(*snapshot.warnings, "the text lists blocks, not what is in them"),
        is_complete=snapshot.coverage.is_complete,
        stated=_find_stated(snapshot, tag),
    )


def _find_stated(snapshot: PoolSnapshot, tag: PoolTag) -> Tuple[StatedDriver, ...]:
    """Each driver that the source names for ``tag``, once."""
    return tuple({item.module.lower(): item for item in snapshot.stated_drivers if item.tag == tag}.values())


def _find_big_blocks(kernel: Kernel, tag: PoolTag, warnings: List[str], work: Work) -> Tuple[Allocation, ...]:
    """Those of a page and more; what is missing is added to ``warnings``."""
    try:
        pages = read_big_pages(kernel, (tag,), work)
    except TargetError as error:
        warnings.append(f"{error}; big blocks are missing")
        return ()
    warnings += pages.warnings
    if pages.rows_read < pages.rows_expected and not work.is_ended:
        missing = pages.rows_expected - pages.rows_read
        warnings.append(
            f"big-page table: {missing:,} of {count_things(pages.rows_expected, 'row')} "
            f"{choose_form(missing, 'is', 'are')} not in the target"
        )
    return pages.allocations


def _find_small_blocks(
    kernel: Kernel,
    tag: PoolTag,
    warnings: List[str],
    work: Work,
) -> SmallBlocks:
    """Those that share pages; what is missing is added to ``warnings``."""
    with open_whole_memory(kernel.target) as memory:
        if memory is None:
            warnings.append("small blocks are searched for in dump files only; in the debugger type !poolfind")
            return SmallBlocks()
        small = find_small_blocks(memory, tag, work, keys=read_heap_keys(kernel))
    if not small.complete:
        warnings.append(
            f"the search for small blocks ended after {format_bytes(small.walked_bytes)} of kernel memory "
            f"({small.ended_by}); some blocks are missing"
        )
    return small


def _view_blocks(kernel: Kernel, blocks: Sequence[Allocation], work: Work) -> Tuple[BlockView, ...]:
    """The blocks with their first bytes, without any once the user has ended it."""
    views: List[BlockView] = []
    if not work.is_ended:
        with work.hold():
            views += (_view(kernel, block) for block in blocks)
    return (*views, *(BlockView(block, b"") for block in blocks[len(views) :]))


def _view(kernel: Kernel, block: Allocation) -> BlockView:
    """The block with its first bytes; a small block's header is left out."""
    start = 0 if block.is_big else 2 * kernel.target.pointer_size
    size = max(0, min(_HEAD_OF_BLOCK_BYTES, block.size_bytes - start))
    try:
        return BlockView(block, kernel.target.read_virtual(block.address + start, size))
    except MemoryReadError:
        return BlockView(block, b"")
