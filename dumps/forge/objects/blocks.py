"""Pool blocks of chosen contents: pages that fill one block at a time, and whose blocks can still be written."""

from __future__ import annotations

from typing import Dict, List

from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.poolblocks import PoolBlock, block_header, first_block_offset
from dumps.forge.regions import Region


class _OpenPage:
    """The page of one pool that takes the next blocks."""

    def __init__(self) -> None:
        self.va = 0
        self.offset = PAGE_BYTES
        self.previous_bytes = 0


class BlockWriter:
    """Places blocks in both pools; ``blocks`` are those in use, by tag."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._open = {False: _OpenPage(), True: _OpenPage()}
        self._pages: Dict[int, bytearray] = {}
        self._unit = 2 * parts.kernel.architecture.pointer_bytes
        self.blocks: Dict[bytes, List[PoolBlock]] = {}

    def reserve(self, tag: bytes, size: int, *, paged: bool) -> int:
        """Return the address of ``size`` zeroed bytes in a new block."""
        architecture, build, unit = self._parts.kernel.architecture, self._parts.kernel.build, self._unit
        block_bytes = -(-size // unit) * unit + unit
        page = self._open[paged]
        heap = self._parts.heap
        head_bytes = 0 if heap is None else heap.chunk_bytes
        if page.offset + head_bytes + block_bytes > PAGE_BYTES:
            self._close(page)
            page.va = self._region(paged).take(PAGE_BYTES)
            page.offset, page.previous_bytes = first_block_offset(build), 0
            self._pages[page.va] = bytearray(PAGE_BYTES)
        if heap is not None:
            rest_bytes = PAGE_BYTES - page.offset - head_bytes - block_bytes
            size = head_bytes + block_bytes + (rest_bytes if rest_bytes == unit else 0)
            chunk = heap.chunk_header(page.va + page.offset, size, page.previous_bytes, allocated=True)
            self._pages[page.va][page.offset : page.offset + head_bytes] = chunk
            page.offset += head_bytes
        va = page.va + page.offset
        header = block_header(architecture, build, page.previous_bytes, block_bytes, tag, paged=paged)
        self._pages[page.va][page.offset : page.offset + unit] = header
        self.blocks.setdefault(tag, []).append(PoolBlock(va, block_bytes, is_big=False))
        page.offset += block_bytes
        page.previous_bytes = head_bytes + block_bytes
        return va + unit

    def put(self, va: int, data: bytes) -> None:
        """Write into a block that was reserved."""
        page_va, offset = va & -PAGE_BYTES, va & PAGE_BYTES - 1
        self._pages[page_va][offset : offset + len(data)] = data

    def finish(self) -> None:
        """Write the pages into the machine."""
        for page in self._open.values():
            self._close(page)
        while self._pages:
            va, data = self._pages.popitem()
            self._parts.space.store(va, bytes(data))

    def _close(self, page: _OpenPage) -> None:
        """End the chain of a page's blocks by a free one."""
        rest_bytes = PAGE_BYTES - page.offset
        if page.va and rest_bytes and first_block_offset(self._parts.kernel.build) == 0:
            architecture, build = self._parts.kernel.architecture, self._parts.kernel.build
            header = block_header(architecture, build, page.previous_bytes, rest_bytes, b"Free", paged=None)
            self._pages[page.va][page.offset : page.offset + self._unit] = header
        page.va, page.offset = 0, PAGE_BYTES

    def _region(self, paged: bool) -> Region:
        return self._parts.regions.paged if paged else self._parts.regions.nonpaged
