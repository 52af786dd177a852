"""Pieces of virtual memory that stand somewhere in a file: a small memory dump's memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Iterable, Iterator, List, Tuple

from pykdext.targets.filebytes import FileBytes
from pykdext.targets.parts import join_parts, join_whole

Segment = Tuple[int, int, int]
"""A piece of memory: its address, its file offset, its size in bytes."""


class FileSegments:
    """Virtual memory made of segments of a file. They may overlap: the one that begins first counts.

    Attributes:
        lost_bytes: what the segments announce beyond the end of the file.
    """

    def __init__(self, file: FileBytes, segments: Iterable[Segment]) -> None:
        self._file = file
        self.lost_bytes = 0
        self._segments: List[Segment] = []
        reached = 0
        for address, offset, size in sorted(segments):
            held = max(min(size, file.size - offset), 0)
            self.lost_bytes += size - held
            start = max(address, reached)
            if start < address + held:
                reached = address + held
                self._segments.append((start, offset + start - address, reached - start))
        self._addresses = [address for address, _, _ in self._segments]

    def _iter_held(self, address: int, size: int) -> Iterator[Segment]:
        """The parts of a range that segments hold, ascending; neighbours are not joined."""
        end = address + size
        for at in range(max(bisect_right(self._addresses, address) - 1, 0), bisect_left(self._addresses, end)):
            start, offset, length = self._segments[at]
            first = max(start, address)
            held = min(start + length, end) - first
            if held > 0:
                yield first, offset + first - start, held

    def read(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at ``address``, or MemoryReadError."""
        return join_whole(self._iter_parts(address, size), address, size, "is memory that is not in the dump")

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that the file holds, as ``(address, bytes)``, ascending and disjoint."""
        return join_parts(self._iter_parts(address, size), size)

    def _iter_parts(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        return ((start, self._file.read_at(offset, length)) for start, offset, length in self._iter_held(address, size))
