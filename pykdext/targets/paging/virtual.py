"""Reads virtual memory through an address space, joining what lies together in the dump."""

from __future__ import annotations

from typing import Iterator, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.paging.addressspace import DEMAND_ZERO, AddressSpace
from pykdext.targets.parts import MAX_READ_BYTES, PIECE_BYTES, join_parts, join_whole
from pykdext.targets.protocol import PAGE_BYTES, PhysicalMemory

_ZEROS = bytes(PIECE_BYTES)


class VirtualMemory:
    """The virtual memory of the kernel: physical pages seen through page tables."""

    def __init__(self, memory: PhysicalMemory, space: AddressSpace) -> None:
        self._memory = memory
        self._space = space

    def read(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at ``address``, or MemoryReadError."""
        if size > MAX_READ_BYTES:
            raise MemoryReadError(address, size, f"more than {MAX_READ_BYTES >> 20:,} MiB at once")
        if 0 < size <= PAGE_BYTES - address % PAGE_BYTES:
            physical = self._space.translate(address)
            if physical is None:
                raise MemoryReadError(address, size, "it does not translate")
            return self._read_mapped(physical, size, address, size)
        mappings = self._space.iter_mappings(address, size)
        parts = ((start, self._read_mapped(physical, length, address, size)) for start, physical, length in mappings)
        return join_whole(parts, address, size, "does not translate")

    def _read_mapped(self, physical: int, length: int, address: int, size: int) -> bytes:
        if physical == DEMAND_ZERO:
            return bytes(length)
        try:
            return self._memory.read_physical(physical, length)
        except MemoryReadError:
            raise MemoryReadError(address, size, "its pages are not all in the dump") from None

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that can be read, as ``(address, bytes)``, ascending and disjoint."""
        return join_parts(self._iter_parts(address, size))

    def _iter_parts(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """``read_present`` before small parts are joined."""
        for start, physical, length in self._space.iter_mappings(address, size):
            if physical == DEMAND_ZERO:
                for done in range(0, length, PIECE_BYTES):
                    yield start + done, _ZEROS[: length - done]
            elif physical // PAGE_BYTES == (physical + length - 1) // PAGE_BYTES:
                # Scattered pages are the usual case: worth a way without a search for runs.
                try:
                    yield start, self._memory.read_physical(physical, length)
                except MemoryReadError:
                    continue
            else:
                for part, data in self._memory.read_present_physical(physical, length):
                    yield start + part - physical, data
