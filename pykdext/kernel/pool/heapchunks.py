"""Proof of small blocks of the segment heap one by one: the heap's own header before them, and the key that hides it.

Before the POOL_HEADER of a block of variable size stands the chunk's header (16 bytes): its first 64 bits, taken
exclusive-or with the chunk's address and the heap's key, are cost 0 (16 bits), the chunk's units (16), those of the
chunk before (16), 1 for allocated (8), 0 (8). The chunk is a unit larger than its block, or two where the rest was too
small to split off. A block below 0xFF0 that would cross a page has its POOL_HEADER at the next page's start instead.

Where no symbols tell the key, the blocks themselves vote for it. Bytes by chance pass the test once in 2^47.

On 32 bits a chunk's header has 8 bytes; its first 32 bits are cost (1), units of 8 bytes (15), those of the chunk
before (15) and 1 for allocated (1). Bytes by chance pass once in 2^16: there a neighbour's header must agree with the
size, too. No real memory of a 32-bit segment heap was at hand.
Sources: the types in Microsoft's public PDBs (17763 to 22000); sizes and votes were read out of two real dumps, of
19041 on x64 and of 22000 on ARM64. A block that the heap keeps for a delayed free still counts as allocated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.poolheaders import UNIT_BYTES, PlacedHeader
from pykdext.targets.protocol import PAGE_BYTES

FIRST_BUILD = 17763
"""The first that can have pool in the segment heap (by a switch; every machine since 18362)."""

MAX_VOTES = 1 << 16
MAX_PAGES = 1_024

_RIVAL_SHARE = 0.5


@dataclass(frozen=True)
class ChunkForm:
    """How a chunk's header packs its numbers; ``fewest_votes``: for a key that nobody told."""

    header_bytes: int
    word_bytes: int
    unit_bytes: int
    size_shift: int
    previous_shift: int
    size_mask: int
    allocated: int
    fewest_votes: int

    @property
    def fixed(self) -> int:
        """The bits that a block's own size tells."""
        return (1 << 8 * self.word_bytes) - 1 & ~(self.size_mask << self.previous_shift)

    def size_of(self, plain: int) -> int:
        """The units of a chunk."""
        return plain >> self.size_shift & self.size_mask

    def previous_of(self, plain: int) -> int:
        """The units of the chunk before."""
        return plain >> self.previous_shift & self.size_mask


CHUNK_64 = ChunkForm(0x10, 8, 0x10, 16, 32, 0xFFFF, 1 << 48, 3)
CHUNK_32 = ChunkForm(8, 4, 8, 1, 16, 0x7FFF, 1 << 31, 8)

_UPPER_OFFSET = 6


@dataclass(frozen=True)
class HeapKeys:
    """What hides the heap's headers; None: not known.

    ``heap_key``: of chunks; of one that was voted for the bits of the chunk before may be unknown, then ``is_whole``
    is False. ``lfh_key``: of subsegments of equal blocks.
    """

    heap_key: Optional[int] = None
    lfh_key: Optional[int] = None
    is_whole: bool = True
    form: ChunkForm = CHUNK_64

    def confirms(self, word: int, chunk: int, units: int) -> bool:
        """Whether ``word`` at ``chunk`` is the header of an allocated chunk around a block of so many units."""
        if self.heap_key is None:
            return False
        form = self.form
        plain = (word ^ chunk ^ self.heap_key) & form.fixed
        return plain in (form.allocated | units + 1 << form.size_shift, form.allocated | units + 2 << form.size_shift)


NO_KEYS = HeapKeys()


def read_heap_keys(kernel: Kernel) -> HeapKeys:
    """The keys in nt!RtlpHpHeapGlobals, if symbols tell where that is; they are to be tried, not to be believed."""
    form = CHUNK_64 if kernel.target.pointer_size == 8 else CHUNK_32
    nothing = HeapKeys(form=form)
    located = kernel.find_symbol("RtlpHpHeapGlobals")
    if located is None or (kernel.target.facts.build or FIRST_BUILD) < FIRST_BUILD:
        return nothing
    words = b"".join(data for _, data in kernel.target.read_present(located.address, 2 * form.word_bytes))
    if len(words) < 2 * form.word_bytes:
        return nothing
    heap_key, lfh_key = (
        int.from_bytes(half, "little") for half in (words[: form.word_bytes], words[form.word_bytes :])
    )
    # How rows of equal blocks look on 32 bits nobody has told: their key is of no use there.
    return HeapKeys(heap_key or None, lfh_key or None if form is CHUNK_64 else None, form=form)


class KeyVotes:
    """The key that most of the headers in some pages vote for."""

    def __init__(self, form: ChunkForm = CHUNK_64) -> None:
        self._form = form
        self._votes: Counter[int] = Counter()
        self._pages = 0
        self._chunks: Dict[int, List[Tuple[int, int, int]]] = {}

    @property
    def is_full(self) -> bool:
        """Enough have voted."""
        return self._pages >= MAX_PAGES or len(self._votes) >= MAX_VOTES

    def add(self, address: int, data: bytes, headers: Sequence[PlacedHeader]) -> None:
        """Let what looks like headers in the ``data`` at ``address`` vote."""
        form, near = self._form, 8 * self._form.word_bytes - 16
        self._pages += 1
        for header in headers:
            at = header.address - form.header_bytes - address
            if at < 0:
                continue
            chunk = header.address - form.header_bytes
            hidden = int.from_bytes(data[at : at + form.word_bytes], "little") ^ chunk
            if hidden >> near == 0:
                continue  # a pointer into the same pool: the same word at many places
            vote = (hidden ^ (form.allocated | header.units + 1 << form.size_shift)) & form.fixed
            self._votes[vote] += 1
            self._chunks.setdefault(vote, []).append((chunk, header.units + 1, hidden))

    def winner(self) -> Optional[HeapKeys]:
        """The key, if enough votes are for it and no rival has half as many; None else."""
        ranked = self._votes.most_common(2)
        if not ranked or ranked[0][1] < self._form.fewest_votes:
            return None
        if len(ranked) > 1 and ranked[1][1] > _RIVAL_SHARE * ranked[0][1]:
            return None
        key = ranked[0][0]
        previous = _vote_for_previous(self._chunks[key], self._form)
        return HeapKeys(key | (previous or 0) << self._form.previous_shift, None, previous is not None, self._form)


def _vote_for_previous(chunks: Sequence[Tuple[int, int, int]], form: ChunkForm) -> Optional[int]:
    """The bits of the key that hide the size of the chunk before: neighbours tell them."""
    sizes = {chunk: units for chunk, units, _ in chunks}
    hidden = {chunk: word for chunk, _, word in chunks}
    votes = Counter(
        form.previous_of(hidden[chunk + units * form.unit_bytes]) ^ units
        for chunk, units in sizes.items()
        if chunk + units * form.unit_bytes in hidden
    )
    return votes.most_common(1)[0][0] if votes else None


def has_moved_chunk(keys: HeapKeys, page: bytes, address: int, units: int) -> bool:
    """Whether a block whose POOL_HEADER was moved to a page's start belongs to a chunk that begins before the page.

    ``page`` is the page before, and ``address`` its own.
    """
    if keys.heap_key is None or keys.form is not CHUNK_64:
        return False
    block_end = address + PAGE_BYTES + units * UNIT_BYTES
    upper = ((keys.heap_key ^ address ^ CHUNK_64.allocated) >> 48).to_bytes(2, "little")
    at = page.find(upper)
    while at >= 0:
        if at % UNIT_BYTES == _UPPER_OFFSET:
            chunk, word = address + at - _UPPER_OFFSET, int.from_bytes(page[at - _UPPER_OFFSET : at + 2], "little")
            if keys.confirms(word, chunk, (block_end - chunk) // UNIT_BYTES - 1):
                return True
        at = page.find(upper, at + 1)
    return False
