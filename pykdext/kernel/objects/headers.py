"""OBJECT_HEADER: counts, type and optional parts of an object.

The header stands right before the object's body, its optional parts before the header, that of the lowest bit nearest.
Since Windows 7 it names its type by an index, since Windows 10 hidden by the header's address and a cookie. Sources:
public symbols (JPCERTCC/Windows-Symbol-Tables), ReactOS for the parts before Windows 7, volatility3 for the cookie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional

from pykdext.errors import MemoryReadError
from pykdext.kernel.objects.pages import PageReader

CREATOR, NAME, HANDLES, QUOTA, PROCESS = 1, 2, 4, 8, 0x10
_SINGLE_ENTRY = 0x40
_CREATOR_FLAG = 4
_FIRST_WITH_INDEX = 7000
_FIRST_WITH_COOKIE = 10240
_HANDLE_COUNT_MASK = 0xFFFFFF
_MAX_COUNT = 1 << 40
_PREFETCHED = {4: 0x1F, 8: 0x7FFF}
_FIRST_WITH_PREFETCH = 9600


@dataclass(frozen=True)
class ObjectHeader:
    """A header. Its type is named by ``type_index``, before Windows 7 by ``type_address``.

    ``parts_bytes`` is the size of all its parts; ``references`` are those of the kernel, as far as they can be told
    from what handles took in advance.
    """

    address: int
    pointer_count: int
    handle_count: int
    type_index: Optional[int]
    type_address: Optional[int]
    mask: int
    flags: int
    parts_bytes: int

    @property
    def is_plausible(self) -> bool:
        """Counts that an object in use may have."""
        return 0 < self.pointer_count < _MAX_COUNT and 0 <= self.handle_count <= self.pointer_count


class HeaderReader:
    """Headers of one kernel; ``cookie`` is set once it is known."""

    def __init__(self, pages: PageReader, pointer_bytes: int, build: int) -> None:
        self._pages = pages
        self._width = pointer_bytes
        self._build = build
        self.body_offset = 0x18 if pointer_bytes == 4 else 0x30
        self.cookie: Optional[int] = None
        self._parts = _part_sizes(pointer_bytes, build)

    @property
    def has_index(self) -> bool:
        """The header names its type by an index."""
        return self._build >= _FIRST_WITH_INDEX

    @property
    def is_encoded(self) -> bool:
        """The index is hidden by a cookie."""
        return self._build >= _FIRST_WITH_COOKIE

    def index_byte(self, header: int) -> Optional[int]:
        """The index as it stands in memory, mixed with the header's address but not with the cookie."""
        byte = self._pages.number(header + 3 * self._width, 1)
        if byte is None or not self.is_encoded:
            return byte
        return byte ^ header >> 8 & 0xFF

    def read(self, header: int) -> Optional[ObjectHeader]:
        """The header at an address; None: not in memory."""
        try:
            data = self._pages.read(header, self.body_offset)
        except MemoryReadError:
            return None
        return self.parse(header, data)

    def parse(self, address: int, data: bytes) -> ObjectHeader:
        """The header whose bytes are ``data``."""
        width = self._width
        pointers = int.from_bytes(data[:width], "little", signed=True)
        handles = int.from_bytes(data[width : 2 * width], "little", signed=True)
        if not self.has_index:
            return self._parse_old(address, data, pointers, handles)
        index: Optional[int] = data[3 * width]
        if self.is_encoded:
            index = None if self.cookie is None else data[3 * width] ^ address >> 8 & 0xFF ^ self.cookie
        mask, flags = data[3 * width + 2], data[3 * width + 3]
        parts = sum(size for bit, size in self._parts.items() if mask & bit)
        return ObjectHeader(address, pointers, handles, index, None, mask, flags, parts)

    def _parse_old(self, address: int, data: bytes, pointers: int, handles: int) -> ObjectHeader:
        """Before Windows 7: the type's address, and the distance of each part."""
        width = self._width
        type_address = int.from_bytes(data[2 * width : 3 * width], "little")
        name, holders, quota, flags = data[3 * width : 3 * width + 4]
        mask = NAME * bool(name) | HANDLES * bool(holders) | QUOTA * bool(quota) | CREATOR * bool(flags & _CREATOR_FLAG)
        parts = max(name, holders, quota, self._parts[CREATOR] if mask & CREATOR else 0)
        return ObjectHeader(address, pointers, handles, None, type_address, mask, flags, parts)

    def part_address(self, header: ObjectHeader, bit: int) -> Optional[int]:
        """Where a part begins; None: the object has none."""
        if not header.mask & bit:
            return None
        nearer = sum(size for other, size in self._parts.items() if other <= bit and header.mask & other)
        return header.address - nearer

    def references(self, header: ObjectHeader) -> int:
        """References of the kernel: what handles took in advance is left out where kernels do that."""
        if self._build < _FIRST_WITH_PREFETCH:
            return max(0, header.pointer_count - header.handle_count)
        each = _PREFETCHED[self._width] + 1
        return header.pointer_count % each if header.handle_count else header.pointer_count

    def creator_pid(self, header: ObjectHeader) -> Optional[int]:
        """The process that made the object, for types that keep it."""
        part = self.part_address(header, CREATOR)
        return None if part is None else self._pages.pointer(part + 2 * self._width)

    def single_holder(self, header: ObjectHeader) -> Optional[int]:
        """The EPROCESS of the only process with handles, for types that keep it."""
        part = self.part_address(header, HANDLES)
        if part is None or not header.flags & _SINGLE_ENTRY:
            return None
        count = self._pages.number(part + self._width, 4)
        return self._pages.pointer(part) if count is not None and count & _HANDLE_COUNT_MASK else None


def _part_sizes(pointer_bytes: int, build: int) -> Dict[int, int]:
    """Size of each optional part in bytes, by its bit."""
    wide = pointer_bytes == 8
    sizes = {CREATOR: 0x20, NAME: 0x20, HANDLES: 0x10, QUOTA: 0x20, PROCESS: 0x10}
    if not wide:
        sizes = {bit: size // 2 for bit, size in sizes.items()}
    if build >= 9200:
        sizes[0x20] = 0x10 if wide else 8
        if build < 10240:
            sizes[0x40] = 4
        else:
            revocation = build < 14393
            sizes[0x40] = (0x20 if revocation else 0x10) if wide else (0x10 if revocation else 8)
            sizes[0x80] = 4
    return sizes
