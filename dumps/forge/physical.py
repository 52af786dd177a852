"""Sparse physical memory, and where its page frames lie."""

from __future__ import annotations

import random
from typing import Dict, List, Set

PAGE_BYTES = 0x1000
SPAN_PAGES = 0x100000  # 4 GiB of physical addresses, what most machines have

HOLE_PAGE = 0xC0000  # where a virtual machine's hole below 4 GiB begins
VIRTUAL_SPAN_PAGES = 0x180000  # 6 GiB of addresses, 5 GiB of memory
VIRTUAL_LARGE_START = 0x140000

_CLUSTER_PAGES = 96
_DENSE_CLUSTER_PAGES = 0x3C0
_CLUSTERS_AT_ONCE = 3
_CLUSTERS_START = 0x400
_SMALL_FRAMES_END = 0x80000  # below 2 GiB: 4 KB frames
_HUGE_FRAME = 0x80000  # 2 GiB .. 3 GiB: the one 1 GB frame
_LARGE_FRAMES_START = 0xC0000  # above 3 GiB: frames of 2 or 4 MB


class PhysicalMemory:
    """The pages that were ever written, by page frame number, and the numbers of those left out of the dump."""

    def __init__(self) -> None:
        self.pages: Dict[int, bytearray] = {}
        self.omitted: Set[int] = set()

    def page(self, pfn: int) -> bytearray:
        """Return one page to read or change; a page comes into being, zeroed, when it is first asked for."""
        page = self.pages.get(pfn)
        if page is None:
            page = self.pages[pfn] = bytearray(PAGE_BYTES)
        return page

    def present_frames(self) -> List[int]:
        """Return the ascending page frame numbers that a dump of this machine holds."""
        return sorted(self.pages.keys() - self.omitted)


class FrameAllocator:
    """Hands out page frames that are neither contiguous nor in order, with holes between them.

    Frames come from small clusters all over the first half of the span: a full dump can then describe them by the
    few runs that its header has room for. Where the span is larger, they come from above 4 GiB too. ``dense``
    clusters have room for a machine of many objects. A virtual machine (``is_virtual``) has nothing between 3 GiB and
    4 GiB: its large frames lie behind all the others.
    """

    def __init__(
        self, chance: random.Random, span_pages: int, *, dense: bool = False, is_virtual: bool = False
    ) -> None:
        self._cluster_pages = _DENSE_CLUSTER_PAGES if dense else _CLUSTER_PAGES
        self._chance = chance
        self._free: List[int] = []
        self._clusters = list(range(_CLUSTERS_START, _SMALL_FRAMES_END - 0x400, 0x400))
        large = range(_LARGE_FRAMES_START, SPAN_PAGES, 0x200)
        if is_virtual:
            large = range(VIRTUAL_LARGE_START, span_pages, 0x200)
            span_pages = VIRTUAL_LARGE_START
        self._clusters += range(SPAN_PAGES, span_pages - 0x400, 0x400)
        self._large = list(large)
        chance.shuffle(self._clusters)
        chance.shuffle(self._large)

    def take(self) -> int:
        """Return a free 4 KB frame."""
        if not self._free:
            for _ in range(_CLUSTERS_AT_ONCE):
                start = self._clusters.pop() + self._chance.randrange(min(0x300, 0x400 - self._cluster_pages))
                self._free += [start + n for n in range(self._cluster_pages) if self._chance.random() < 0.85]
            self._chance.shuffle(self._free)
        return self._free.pop()

    def take_root(self) -> int:
        """Return the frame of the top page table: Windows makes it at its start, within the first megabytes."""
        return self._chance.randrange(0x187, _CLUSTERS_START)

    def take_large(self, page_count: int) -> int:
        """Return the first frame of a free, aligned range of 200h or 400h frames."""
        first = next(frame for frame in reversed(self._large) if frame % page_count == 0)
        self._large = [frame for frame in self._large if not first <= frame < first + page_count]
        return first

    @staticmethod
    def huge_frame() -> int:
        """Return the first frame of the span's aligned 1 GB range; there is one for each machine."""
        return _HUGE_FRAME
