"""Small pool blocks, found by the headers that bear their tag.

In the classic pool (all builds before segment heap took over: up to 17763) the blocks of a page form a chain, so a
header is certain when the chain of its page runs through it. In segment-heap kernels blocks still begin with a
POOL_HEADER, but no chain confirms it: there the heap's own records prove a block, see ``segmentblocks``. Any other
block is reported as not certain.

Sources: POOL_HEADER in Microsoft's public PDBs (JPCERTCC/Windows-Symbol-Tables, volatility overlays); for the use bit
the public studies of the pool's allocator.
"""

from __future__ import annotations

import struct
import sys
import time
from array import array
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from pykdext.kernel.pool.heapchunks import CHUNK_32, CHUNK_64, FIRST_BUILD, NO_KEYS, HeapKeys
from pykdext.kernel.pool.segmentblocks import CERTAIN, FREE, LIKELY, BlockProver, PlacedBlock
from pykdext.model import PROTECTED_POOL, Allocation, Machine, PoolKind, PoolTag
from pykdext.targets.protocol import PAGE_BYTES, SymbolTaker, Target, Translator
from pykdext.units import format_duration
from pykdext.work import UNWATCHED, Work

_FOUR_LEVELS_START = 0xFFFF8000_00000000
_SPARSE_SPAN_BYTES = 1 << 48
_SPAN_BYTES = 1 << 36
"""Memory is walked in spans of this size, by turns; between two pieces of them time is checked and progress told."""

MAX_MAPPINGS_A_PAGE = 4
"""No kernel maps its pages more often on the average: page tables that do are damaged, and could go on for days."""

MAX_WALK_SECONDS = 900.0
"""For page tables that map nothing and have no end. All others end by what was walked, alike in every run."""

_MIN_WALK_BYTES = 1 << 30
_ENOUGH = "enough blocks were found"
_PROGRESS_UNIT = "MB of kernel memory"
_PAGES_NOT_KNOWN = 1 << 28
_IN_USE_VISTA = 2
_PAGED = 1
_FIRST_BUILD_OF_VISTA = 6000
_TAG_OFFSET = 4


@dataclass(frozen=True)
class _HeaderFormat:
    """How POOL_HEADER packs sizes: units of ``unit_bytes``; each function takes the first four bytes as a number."""

    unit_bytes: int
    previous_units: Callable[[int], int]
    block_units: Callable[[int], int]
    pool_type: Callable[[int], int]


_HEADER_64 = _HeaderFormat(0x10, lambda word: word & 0xFF, lambda word: word >> 16 & 0xFF, lambda word: word >> 24)
_HEADER_32 = _HeaderFormat(8, lambda word: word & 0x1FF, lambda word: word >> 16 & 0x1FF, lambda word: word >> 25)


class WalkLimits(NamedTuple):
    """When a walk ends, with what it found: after so many blocks or bytes of memory; None: what pages could map."""

    blocks: int = sys.maxsize
    walked_bytes: Optional[int] = None


_USUAL_LIMITS = WalkLimits()


@dataclass
class SmallBlocks:
    """The blocks that were found and how far the walk went; ``ended_by`` is the limit that ended it, or None."""

    allocations: List[Allocation] = field(default_factory=list)
    freed: int = 0
    walked_bytes: int = 0
    ended_by: Optional[str] = None

    @property
    def complete(self) -> bool:
        """Whether no limit ended the walk."""
        return self.ended_by is None


def find_small_blocks(
    target: Target,
    tag: PoolTag,
    work: Work = UNWATCHED,
    limits: WalkLimits = _USUAL_LIMITS,
    keys: HeapKeys = NO_KEYS,
) -> SmallBlocks:
    """The blocks of ``tag`` in all kernel memory that the target holds; freed ones are counted, not listed.

    ``keys`` are the segment heap's as far as symbols tell them. An end by the user leaves those found before it, if
    the work keeps results.
    """
    walker = _Walker(target, tag, limits, keys)
    with work.hold():
        walker.walk(work)
    with work.hold():
        walker.prove()
    return walker.finish()


def _kernel_spans(target: Target) -> Iterator[Tuple[int, int]]:
    """The kernel's half of the address space, piece by piece; what only five levels of tables reach in larger ones.

    A target that reads page tables itself passes at once over what these do not reach; a debugger asks page by page.
    """
    machine = target.machine
    start = max(machine.kernel_start, _FOUR_LEVELS_START) if machine is Machine.X64 else machine.kernel_start
    if isinstance(target, SymbolTaker):
        for lower in range(machine.kernel_start, start, _SPARSE_SPAN_BYTES):
            yield lower, min(_SPARSE_SPAN_BYTES, start - lower)
    for upper in range(start, machine.address_end, _SPAN_BYTES):
        yield upper, min(_SPAN_BYTES, machine.address_end - upper)


class _Walker:
    """The search for one tag, page by page where its bytes stand."""

    def __init__(self, target: Target, tag: PoolTag, limits: WalkLimits, keys: HeapKeys) -> None:
        self._target = target
        self._tag = tag
        self._limits = limits
        self._format = _HEADER_32 if target.pointer_size == 4 else _HEADER_64
        self._is_vista = (target.facts.build or _FIRST_BUILD_OF_VISTA) >= _FIRST_BUILD_OF_VISTA
        self._keys = [tag.key.to_bytes(4, "little"), (tag.key | PROTECTED_POOL).to_bytes(4, "little")]
        images = sorted((module.base, module.base + module.size) for module in target.modules() if not module.unloaded)
        self._image_starts = [start for start, _ in images]
        self._image_ends = [end for _, end in images]
        self._prover: Optional[BlockProver] = None
        self._blocks: List[PlacedBlock] = []
        self._words = array("Q")  # before each block's header, as far as the piece of memory holds it
        self._marks = bytearray()
        self._chunk = CHUNK_64 if target.pointer_size == 8 else CHUNK_32
        if (target.facts.build or FIRST_BUILD) >= FIRST_BUILD:
            self._prover = BlockProver(target, keys if keys.form is self._chunk else HeapKeys(form=self._chunk))
        self._addresses: Dict[int, int] = {}  # by physical page: where it was searched first
        self.found = SmallBlocks()
        present = (target.facts.pages_present or _PAGES_NOT_KNOWN) * PAGE_BYTES
        mapped = max(MAX_MAPPINGS_A_PAGE * present, _MIN_WALK_BYTES)
        self._max_bytes = mapped if limits.walked_bytes is None else min(mapped, limits.walked_bytes)

    def walk(self, work: Work) -> None:
        """Search all kernel memory, as far as the limits allow."""
        ends_at = time.monotonic() + MAX_WALK_SECONDS
        total = -(-(self._target.facts.pages_present or 0) * PAGE_BYTES >> 20)  # MB, the last one begun
        spans = deque(self._target.read_present(*span) for span in _kernel_spans(self._target))
        work.report(0, total, _PROGRESS_UNIT)
        while spans:
            # One piece of each span in turn: a walk that ends early has seen something of all kinds of memory.
            span = spans.popleft()
            for address, data in islice(span, 1):
                self.search(address, data)
                work.report(min(self.found.walked_bytes >> 20, total), total, _PROGRESS_UNIT)
                spans.append(span)
            self.found.ended_by = self._find_limit(ends_at)
            if self.found.ended_by == _ENOUGH:
                break
            if self.found.ended_by is not None:
                work.stop(self.found.ended_by)
                return
        work.report(total, total, _PROGRESS_UNIT)

    def prove(self) -> None:
        """Tell which of the blocks that no chain confirms the segment heap's own records prove, or prove free."""
        missing = len(self._blocks) - len(self._words)  # an end by the user may come between a block and its word
        self._words.extend([0] * missing)
        self._marks = bytearray(len(self._blocks))
        if self._prover is not None:
            self._prover.judge(self._blocks, self._words, self._marks)

    def finish(self) -> SmallBlocks:
        """What was found, as far as it was proven; what the heap says is free is counted only."""
        found, tag = self.found, self._tag
        marks = self._marks or bytes(len(self._blocks))
        for (address, size, pool, is_certain), mark in zip(self._blocks, marks):
            if mark == FREE:
                found.freed += 1
            else:
                is_proven = is_certain or mark == CERTAIN
                found.allocations.append(Allocation(address, size, tag, pool, False, is_proven, mark == LIKELY))
        return found

    def _find_limit(self, ends_at: float) -> Optional[str]:
        """The limit that is reached, or None."""
        if len(self._blocks) >= self._limits.blocks:
            return _ENOUGH
        if self.found.walked_bytes >= self._max_bytes:
            is_enough = self._max_bytes == self._limits.walked_bytes
            return (
                "more is not looked at for this"
                if is_enough
                else "more than the dump can map: its page tables are damaged"
            )
        return f"time limit of {format_duration(MAX_WALK_SECONDS)}" if time.monotonic() > ends_at else None

    def search(self, address: int, data: bytes) -> None:
        """Find the headers in a piece of memory; a block never crosses a page."""
        self.found.walked_bytes += len(data)
        chains: Dict[int, Optional[Dict[int, int]]] = {}
        elsewhere: Dict[int, bool] = {}
        for offset in self._header_offsets(address, data):
            page = offset - (address + offset) % PAGE_BYTES
            if page not in elsewhere:
                elsewhere[page] = self._is_seen_elsewhere(address + page)
            if elsewhere[page]:
                continue
            if page not in chains:
                chains[page] = self._chain(data[page : page + PAGE_BYTES]) if page >= 0 else None
                if chains[page] is None and self._prover is not None:
                    start = max(page, 0)
                    self._prover.note_page(address + start, data[start : page + PAGE_BYTES])
            word = int.from_bytes(data[offset : offset + 4], "little")
            if self._add(address + offset, word, chains[page], offset - page):
                start, end = (
                    offset - self._chunk.header_bytes,
                    offset - self._chunk.header_bytes + self._chunk.word_bytes,
                )
                self._words.append(int.from_bytes(data[max(start, 0) : max(end, 0)], "little"))

    def _is_seen_elsewhere(self, page_address: int) -> bool:
        """Whether the same physical page was searched at another address: memory may be mapped twice."""
        physical = self._target.find_physical(page_address) if isinstance(self._target, Translator) else None
        return physical is not None and self._addresses.setdefault(physical, page_address) != page_address

    def _header_offsets(self, address: int, data: bytes) -> Iterator[int]:
        for key in self._keys:
            at = data.find(key)
            while at >= 0:
                if at >= _TAG_OFFSET and (address + at - _TAG_OFFSET) % self._format.unit_bytes == 0:
                    yield at - _TAG_OFFSET
                at = data.find(key, at + 1)

    def _chain(self, page: bytes) -> Optional[Dict[int, int]]:
        """Offset and size in units of each block of a page, if its headers link up to exactly one page."""
        blocks: Dict[int, int] = {}
        offset = previous = 0
        while offset < PAGE_BYTES and offset + 4 <= len(page):
            (word,) = struct.unpack_from("<I", page, offset)
            units = self._format.block_units(word)
            if not units or self._format.previous_units(word) != previous:
                return None
            blocks[offset] = previous = units
            offset += units * self._format.unit_bytes
        return blocks if offset == PAGE_BYTES else None

    def _add(self, address: int, word: int, chain: Optional[Dict[int, int]], offset: int) -> bool:
        """Note the block of a header, if it is one in use."""
        size = self._format.block_units(word) * self._format.unit_bytes
        if chain is not None and offset not in chain:
            return False  # the bytes of the tag inside another block
        if not size or size > PAGE_BYTES - offset or self._is_in_image(address):
            return False  # the bytes of the tag in a driver's code, or anywhere else
        pool_type = self._format.pool_type(word)
        if not (pool_type & _IN_USE_VISTA if self._is_vista else pool_type):
            self.found.freed += 1
            return False
        paged = (pool_type if self._is_vista else pool_type - 1) & _PAGED
        pool = PoolKind.PAGED if paged else PoolKind.NONPAGED
        self._blocks.append((address, size, pool, chain is not None))
        return True

    def _is_in_image(self, address: int) -> bool:
        number = bisect_right(self._image_starts, address)
        return number > 0 and address < self._image_ends[number - 1]
