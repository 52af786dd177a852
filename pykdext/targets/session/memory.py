"""Virtual memory through the debugger: few large reads, and no page asked for twice.

pykd reads all or nothing, and a failing read does not say which page is missing. In a dump that is asked beforehand,
elsewhere it is found by halving.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Iterator, List, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.model import Machine
from pykdext.targets.parts import MAX_READ_BYTES, join_parts
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.targets.session.presence import PresenceSurvey

MAX_KEPT_PAGES = 64 << 20 >> 12
"""So many pages that were read are kept: 64 MiB, more than all tag tables of a large machine."""

MAX_KEPT_FAILURES = 1 << 16
"""So many pages that cannot be read are remembered."""


class _DebuggerRefusedError(Exception):
    """The debugger answers no reads any more; caught where the caller's range is known."""


class SessionMemory:
    """The kernel's memory as the debugger reads it, as of the first time each page was read.

    ``piece_pages``: pages of one call at most, a power of two. ``asks_first``: ask which pages are missing before they
    are read, as for a dump. ``pykd``: the module of that name.
    """

    def __init__(self, pykd: Any, machine: Machine, piece_pages: int, *, asks_first: bool = False) -> None:
        self._pykd = pykd
        self._address_limit = 1 << 8 * machine.pointer_size
        self._sign_bit = 1 << 31 if machine is Machine.X86 else 0
        self._piece_pages = piece_pages
        self._survey = PresenceSurvey(pykd, self._address_of, self._is_known, piece_pages) if asks_first else None
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._failed: OrderedDict[int, None] = OrderedDict()
        self._refusal: Optional[str] = None

    @property
    def warnings(self) -> Tuple[str, ...]:
        """Why parts of the memory were not read that may be there."""
        if self._refusal is None:
            return ()
        return (f"the debugger stopped reading memory ({self._refusal}): the target runs, or the connection is lost",)

    def read(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at ``address``, or MemoryReadError."""
        if size == 0:
            return b""
        if size > MAX_READ_BYTES:
            raise MemoryReadError(address, size, f"more than {MAX_READ_BYTES >> 20:,} MiB at once")
        if not 0 <= address <= self._address_limit - size:
            raise MemoryReadError(address, size, "not wholly in the address space")
        pieces: List[bytes] = []
        try:
            for page, data in self._iter_runs(address, size):
                if data is None:
                    raise MemoryReadError(address, size, f"the debugger cannot read 0x{page * PAGE_BYTES:x}")
                pieces.append(data)
        except _DebuggerRefusedError as error:
            raise MemoryReadError(address, size, f"the debugger refuses: {error}") from None
        start = address % PAGE_BYTES
        return b"".join(pieces)[start : start + size]

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that can be read, as ``(address, bytes)``, ascending and disjoint.

        It ends early where the debugger stops reading; ``warnings`` tells.
        """
        return join_parts(self._iter_parts(address, min(address + size, self._address_limit)))

    def _iter_parts(self, address: int, end: int) -> Iterator[Tuple[int, bytes]]:
        """``read_present`` before parts that touch are joined."""
        try:
            for page, data in self._iter_runs(address, end - address):
                if data is not None:
                    first = page * PAGE_BYTES
                    part = max(first, address)
                    yield part, data[part - first : end - first]
        except _DebuggerRefusedError:
            return

    def _iter_runs(self, address: int, size: int) -> Iterator[Tuple[int, Optional[bytes]]]:
        """The pages that a range touches, as ``(page number, bytes of one or more pages)``; None: one that fails."""
        page, end = address // PAGE_BYTES, -(-(address + size) // PAGE_BYTES)
        window = self._survey.window_pages if self._survey else max(1, end - page)
        for first in range(page, end, window):
            count = min(window, end - first)
            for missing in self._survey.find_missing(first, count) if self._survey else ():
                self._keep_failure(missing)
            yield from self._iter_unsurveyed(first, first + count)

    def _iter_unsurveyed(self, page: int, end: int) -> Iterator[Tuple[int, Optional[bytes]]]:
        """``_iter_runs`` of [page, end) with what is known of it.

        A piece that fails is halved until the first page that fails is found. Behind it the pieces begin with one
        page and double, so that a long hole costs one call a page.
        """
        step = self._piece_pages
        failing_end = 0  # [page, failing_end) is known to hold a page that fails, if it is not empty
        while page < end:
            known = self._find_kept(page)
            if known is not None or page in self._failed:
                yield page, known
                page += 1
                continue
            halved = max(1, (failing_end - page) // 2)
            count = self._count_unknown(page, halved if page < failing_end else min(step, end - page))
            data = self._load(page, count)
            if data is not None:
                self._keep(page, data)
                yield page, data
                page += count
                step = min(2 * count, self._piece_pages)
            elif count > 1:
                failing_end = page + count
            else:
                self._keep_failure(page)
                yield page, None
                page += 1
                step, failing_end = 1, 0

    def _count_unknown(self, page: int, most: int) -> int:
        """How many pages from ``page`` on, at most ``most``, were not asked for yet; ``page`` itself was not."""
        for count in range(1, most):
            if self._is_known(page + count):
                return count
        return most

    def _is_known(self, page: int) -> bool:
        return page in self._kept or page in self._failed

    def _load(self, page: int, count: int) -> Optional[bytes]:
        """``count`` pages; None: not all of them can be read.

        Strings of 16-bit units are the fastest that pykd gives, and with surrogates passed through they are exact.
        """
        size = count * PAGE_BYTES
        try:
            text: str = self._pykd.loadWChars(self._address_of(page), size // 2)
        except self._pykd.MemoryException:
            return None
        except self._pykd.DbgException as error:
            self._refusal = str(error).partition("\n")[0]
            raise _DebuggerRefusedError(self._refusal) from None
        data = text.encode("utf-16-le", "surrogatepass")
        return data if len(data) == size else None

    def _address_of(self, page: int) -> int:
        """Where a page is for the debugger's engine, which extends the sign of 32-bit addresses."""
        address = page * PAGE_BYTES
        return address | 0xFFFFFFFF_00000000 if address & self._sign_bit else address

    def _find_kept(self, page: int) -> Optional[bytes]:
        data = self._kept.get(page)
        if data is not None:
            self._kept.move_to_end(page)
        return data

    def _keep(self, first_page: int, data: bytes) -> None:
        for offset in range(0, len(data), PAGE_BYTES):
            self._kept[first_page + offset // PAGE_BYTES] = data[offset : offset + PAGE_BYTES]
        while len(self._kept) > MAX_KEPT_PAGES:
            self._kept.popitem(last=False)

    def _keep_failure(self, page: int) -> None:
        self._failed[page] = None
        if len(self._failed) > MAX_KEPT_FAILURES:
            self._failed.popitem(last=False)
