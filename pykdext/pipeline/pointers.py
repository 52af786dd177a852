"""What the blocks of tags point at: a witness beside the code."""

from __future__ import annotations

import sys
from typing import Dict, List, Sequence, Tuple

from pykdext.attribution.pointers import MAX_BLOCKS_TRIED, MIN_BLOCKS, describe_witness, read_witness
from pykdext.errors import TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.kernel.pool.smallblocks import WalkLimits, find_small_blocks
from pykdext.model import Allocation, Evidence, PoolTag
from pykdext.pipeline.evidence import FoundContents
from pykdext.targets.dump.base import DumpTarget
from pykdext.targets.session.wholememory import open_whole_memory
from pykdext.units import count_things, format_bytes
from pykdext.work import UNWATCHED, Work

MAX_TAGS = 8
"""Tags whose blocks are looked at in one run, the first ones; for the others that is told."""

REMOTE_WALK_BYTES = 32 << 20
"""Of a dump that comes over a network no more is walked through."""

WALK_BYTES = 4 << 30
"""All searches for small blocks together end after so much memory: a tag that leaks has blocks wherever one looks."""


def search_contents(
    kernel: Kernel,
    tags: Sequence[PoolTag],
    work: Work = UNWATCHED,
) -> FoundContents:
    """The drivers that most blocks of a tag point at. After an interruption: of the tags sampled until then."""
    found: Dict[PoolTag, Tuple[Evidence, ...]] = {}
    warnings: List[str] = []
    if work.is_ended:
        return FoundContents(found)
    with work.hold(), open_whole_memory(kernel.target) as memory:
        left_bytes = min(WALK_BYTES, _max_walked_bytes(kernel))
        for tag, blocks in _find_big_blocks(kernel, tags[:MAX_TAGS], warnings).items():
            if len(blocks) < MIN_BLOCKS and memory is not None:
                small = find_small_blocks(memory, tag, work, limits=WalkLimits(MAX_BLOCKS_TRIED, left_bytes))
                left_bytes -= small.walked_bytes
                blocks.extend(small.allocations)
                if not small.complete and len(blocks) < MAX_BLOCKS_TRIED:
                    searched = format_bytes(small.walked_bytes)
                    warnings.append(f"small blocks of {tag} were looked for in {searched} of memory only")
            found[tag] = tuple(describe_witness(read_witness(kernel.target, tag, blocks, kernel.images)))
    if len(tags) > MAX_TAGS:
        warnings.append(
            f"what blocks point at was looked at for the first {MAX_TAGS} of {count_things(len(tags), 'tag')} only"
        )
    return FoundContents(found, tuple(warnings))


def _max_walked_bytes(kernel: Kernel) -> int:
    target = kernel.target
    return REMOTE_WALK_BYTES if isinstance(target, DumpTarget) and target.traffic else sys.maxsize


def _find_big_blocks(kernel: Kernel, tags: Sequence[PoolTag], warnings: List[str]) -> Dict[PoolTag, List[Allocation]]:
    """Those of a page and more, by one pass over their table; why it cannot be read is added to ``warnings``."""
    blocks: Dict[PoolTag, List[Allocation]] = {tag: [] for tag in tags}
    try:
        for block in read_big_pages(kernel, tags).allocations:
            blocks[block.tag].append(block)
    except TargetError as error:
        warnings.append(f"{error}; what big blocks point at was not looked at")
    return blocks
