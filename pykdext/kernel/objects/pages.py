"""Reads of many small structures: each page is read once as long as it is remembered."""

from __future__ import annotations

from typing import Dict, Optional

from pykdext.errors import MemoryReadError
from pykdext.targets.protocol import PAGE_BYTES, Target

_PAGES_KEPT = 2048


class PageReader:
    """Kernel memory by whole pages; the last pages are kept, those that are not in memory too."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pages: Dict[int, Optional[bytes]] = {}

    def read(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at an address.

        Raises:
            MemoryReadError: not all of them are in memory.
        """
        start = address % PAGE_BYTES
        page = self._page(address - start)
        if page is None:
            return self._target.read_virtual(address, size)  # small dumps hold parts of pages
        if start + size <= PAGE_BYTES:
            return page[start : start + size]
        pieces = []
        for at in range(address - start, address + size, PAGE_BYTES):
            page = self._page(at)
            if page is None:
                return self._target.read_virtual(address, size)
            pieces.append(page)
        return b"".join(pieces)[start : start + size]

    def number(self, address: int, size: int) -> Optional[int]:
        """The number of ``size`` bytes at an address; None: not in memory."""
        try:
            return int.from_bytes(self.read(address, size), "little")
        except MemoryReadError:
            return None

    def pointer(self, address: int) -> Optional[int]:
        """The pointer at an address; None: not in memory."""
        return self.number(address, self._target.pointer_size)

    def _page(self, address: int) -> Optional[bytes]:
        if address in self._pages:
            return self._pages[address]
        if len(self._pages) >= _PAGES_KEPT:
            self._pages.clear()
        page: Optional[bytes] = None
        try:
            page = self._target.read_virtual(address, PAGE_BYTES)
        except MemoryReadError:
            page = None
        self._pages[address] = page
        return page
