"""Proof of small blocks of the segment heap one by one: the heap's own header before them, and the key that hides it.

Before the POOL_HEADER of a block of variable size stands the chunk's header (16 bytes): its first 64 bits, taken
exclusive-or with the chunk's address and the heap's key, are cost 0 (16 bits), the chunk's units (16), those of the
chunk before (16), 1 for allocated (8), 0 (8). The chunk is a unit larger than its block, or two where the rest was too
small to split off. A block below 0xFF0 that would cross a page has its POOL_HEADER at the next page's start instead.

Where no symbols tell the key, the blocks themselves vote for it. Bytes by chance pass the test once in 2^47.
Sources: the types in Microsoft's public PDBs (17763 to 22000); sizes and votes were read out of two real dumps, of
19041 on x64 and of 22000 on ARM64. A block that the heap keeps for a delayed free still counts as allocated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.poolheaders import UNIT_BYTES, PlacedHeader, words_of
from pykdext.targets.protocol import PAGE_BYTES

FIRST_BUILD = 17763
"""The first that can have pool in the segment heap (by a switch; every machine since 18362)."""

CHUNK_BYTES = 0x10
MIN_VOTES = 3
MAX_VOTES = 1 << 16
MAX_PAGES = 1_024

_PREVIOUS = 0xFFFF << 32
FIXED = (1 << 64) - 1 & ~_PREVIOUS
ALLOCATED = 1 << 48
_NEAR = 48
_UPPER_OFFSET = 6
_RIVAL_SHARE = 0.5


@dataclass(frozen=True)
class HeapKeys:
    """What hides the heap's headers; None: not known.

    ``heap_key``: of chunks; of one that was voted for the 16 bits of ``_PREVIOUS`` may be unknown, then
    ``is_whole`` is False. ``lfh_key``: of subsegments of equal blocks.
    """

    heap_key: Optional[int] = None
    lfh_key: Optional[int] = None
    is_whole: bool = True

    def confirms(self, word: int, chunk: int, units: int) -> bool:
        """Whether ``word`` at ``chunk`` is the header of an allocated chunk around a block of so many units."""
        if self.heap_key is None:
            return False
        plain = (word ^ chunk ^ self.heap_key) & FIXED
        return plain in (ALLOCATED | units + 1 << 16, ALLOCATED | units + 2 << 16)


NO_KEYS = HeapKeys()


def read_heap_keys(kernel: Kernel) -> HeapKeys:
    """The keys in nt!RtlpHpHeapGlobals, if symbols tell where that is; they are to be tried, not to be believed."""
    if kernel.target.pointer_size != 8 or (kernel.target.facts.build or FIRST_BUILD) < FIRST_BUILD:
        return NO_KEYS
    located = kernel.find_symbol("RtlpHpHeapGlobals")
    if located is None:
        return NO_KEYS
    words = b"".join(data for _, data in kernel.target.read_present(located.address, 16))
    heap_key, lfh_key = words_of(words) if len(words) == 16 else (0, 0)
    return HeapKeys(heap_key or None, lfh_key or None)


class KeyVotes:
    """The key that most of the headers in some pages vote for."""

    def __init__(self) -> None:
        self._votes: Counter[int] = Counter()
        self._pages = 0
        self._chunks: Dict[int, List[Tuple[int, int, int]]] = {}

    @property
    def is_full(self) -> bool:
        """Enough have voted."""
        return self._pages >= MAX_PAGES or len(self._votes) >= MAX_VOTES

    def add(self, address: int, data: bytes, headers: Sequence[PlacedHeader]) -> None:
        """Let what looks like headers in the ``data`` at ``address`` vote."""
        self._pages += 1
        for header in headers:
            at = header.address - CHUNK_BYTES - address
            if at < 0:
                continue
            chunk = header.address - CHUNK_BYTES
            hidden = int.from_bytes(data[at : at + 8], "little") ^ chunk
            if hidden >> _NEAR == 0:
                continue  # a pointer into the same pool: the same word at many places
            vote = (hidden ^ (ALLOCATED | header.units + 1 << 16)) & FIXED
            self._votes[vote] += 1
            self._chunks.setdefault(vote, []).append((chunk, header.units + 1, hidden))

    def winner(self) -> Optional[HeapKeys]:
        """The key, if enough votes are for it and no rival has half as many; None else."""
        ranked = self._votes.most_common(2)
        if not ranked or ranked[0][1] < MIN_VOTES:
            return None
        if len(ranked) > 1 and ranked[1][1] > _RIVAL_SHARE * ranked[0][1]:
            return None
        key = ranked[0][0]
        previous = _vote_for_previous(self._chunks[key])
        return HeapKeys(key | (previous or 0) << 32, None, previous is not None)


def _vote_for_previous(chunks: Sequence[Tuple[int, int, int]]) -> Optional[int]:
    """The key's 16 bits that hide the size of the chunk before: neighbours tell them."""
    sizes = {chunk: units for chunk, units, _ in chunks}
    hidden = {chunk: word for chunk, _, word in chunks}
    votes = Counter(
        hidden[chunk + units * UNIT_BYTES] >> 32 & 0xFFFF ^ units
        for chunk, units in sizes.items()
        if chunk + units * UNIT_BYTES in hidden
    )
    return votes.most_common(1)[0][0] if votes else None


def has_moved_chunk(keys: HeapKeys, page: bytes, address: int, units: int) -> bool:
    """Whether a block whose POOL_HEADER was moved to a page's start belongs to a chunk that begins before the page.

    ``page`` is the page before, and ``address`` its own.
    """
    if keys.heap_key is None:
        return False
    block_end = address + PAGE_BYTES + units * UNIT_BYTES
    upper = ((keys.heap_key ^ address ^ ALLOCATED) >> 48).to_bytes(2, "little")
    at = page.find(upper)
    while at >= 0:
        if at % UNIT_BYTES == _UPPER_OFFSET:
            chunk, word = address + at - _UPPER_OFFSET, int.from_bytes(page[at - _UPPER_OFFSET : at + 2], "little")
            if keys.confirms(word, chunk, (block_end - chunk) // UNIT_BYTES - 1):
                return True
        at = page.find(upper, at + 1)
    return False
