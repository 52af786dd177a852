"""The segment heap that holds the pool's small blocks on 64-bit systems since build 18362: its headers and its keys.

Its records are those of the public symbols of 17763 to 22000: _HEAP_VS_CHUNK_HEADER before every block of variable
size, _HEAP_LFH_SUBSEGMENT before blocks of one size; each is hidden by a key that a machine draws at its start.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Optional, Sequence

from dumps.forge.kernels import KernelBuild

CHUNK_BYTES = 0x10
_FIRST_BUILD = 18362
_UNIT = 0x10
_LARGEST_EQUAL_BYTES = 0x80


@dataclass(frozen=True)
class SegmentHeap:
    """The keys of one machine; on a ``narrow`` one headers have half the bytes, and no blocks stand in rows."""

    heap_key: int
    lfh_key: int
    narrow: bool = False

    @property
    def chunk_bytes(self) -> int:
        """Return the size of a chunk's header."""
        return CHUNK_BYTES // 2 if self.narrow else CHUNK_BYTES

    def chunk_header(self, va: int, size: int, previous_bytes: int, *, allocated: bool) -> bytes:
        """Return the header of a chunk of ``size`` bytes, itself included."""
        if self.narrow:
            plain = size // 8 << 1 | previous_bytes // 8 << 16 | int(allocated) << 31
            return struct.pack("<II", plain ^ va ^ self.heap_key, va >> 12 & 0xFF)
        plain = size // _UNIT << 16 | previous_bytes // _UNIT << 32 | int(allocated) << 48
        return struct.pack("<QQ", plain ^ va ^ self.heap_key, va >> 12 & 0xFF)

    def free_chunk(self, va: int, size: int, previous_bytes: int, chance: random.Random) -> bytes:
        """Return the start of a free chunk: its place in the tree of free ones covers what its owner had there."""
        if self.narrow:
            nodes = [0x80000000 | chance.getrandbits(27) << 4 for _ in range(3)]
            return self.chunk_header(va, size, previous_bytes, allocated=False)[:4] + struct.pack("<3I", *nodes)
        tree = [0xFFFF800000000000 | chance.getrandbits(40) << 4 for _ in range(3)]
        return self.chunk_header(va, size, previous_bytes, allocated=False)[:8] + struct.pack("<3Q", *tree)

    def subsegment_header(self, va: int, size: int, busy: Sequence[bool]) -> bytes:
        """Return the header of a row of equal blocks in one page, up to the first of them."""
        words = [0] * -(-2 * len(busy) // 64)
        for number, used in enumerate(busy):
            words[2 * number // 64] |= int(used) << 2 * number % 64
        first = first_equal_block(len(busy))
        offsets = (size | first << 16) ^ (self.lfh_key ^ va >> 12) & 0xFFFFFFFF
        owner = 0xFFFF9A0000001000 | va & 0xFFFFF000
        state = 0x30 + 8 * len(words)
        head = struct.pack(
            "<4Q4HIBBH", owner, owner, owner + 0x40, 0, busy.count(False), len(busy), 0, 0, offsets, 12, 1, state
        )
        return (head + struct.pack(f"<{len(words)}QH", *words, 1)).ljust(first, b"\0")


def first_equal_block(count: int) -> int:
    """Return where the first of so many equal blocks of one page stands."""
    return -(-(0x30 + 8 * -(-2 * count // 64) + 2) // _UNIT) * _UNIT


def count_equal_blocks(size: int, room: int = 0x1000) -> int:
    """Return how many equal blocks have room in a page."""
    count = (room - 0x40) // size
    while first_equal_block(count) + count * size > room:
        count -= 1
    return count


def lies_with_equals(heap: SegmentHeap, size: int) -> bool:
    """Return whether blocks of a size stand in rows of equal ones."""
    return size <= _LARGEST_EQUAL_BYTES and not heap.narrow


def plan_heap(kernel: KernelBuild, seed: int) -> Optional[SegmentHeap]:
    """Return the heap of a machine, or None where its pool is the classic one."""
    if kernel.build < _FIRST_BUILD:
        return None
    chance, narrow = random.Random(f"segment heap of {seed}"), kernel.architecture.narrow
    bits = 32 if narrow else 64
    return SegmentHeap(chance.getrandbits(bits), chance.getrandbits(bits), narrow)
