"""Who points at mappings in system space: a hint at the driver behind system PTEs that no tag counts.

A driver that maps memory (MmMapLockedPages, MmMapIoSpace, MmAllocateMappingAddress) gets an address of the system PTE
region, and keeps it in its data or in blocks of pool. An address counts where its page table entry is valid now. What
follows it up to the first entry that is not valid may be the mapping, or this one and its neighbours: an upper bound.
A pointer is no proof of who mapped: the grade is never better than possible.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Dict, Iterable, Iterator, List, Sequence, Set, Tuple

from pykdext.attribution.pointers import EVERYBODYS
from pykdext.errors import MemoryReadError
from pykdext.images.image import Image
from pykdext.kernel.memory.database import PteSpace
from pykdext.model import Allocation
from pykdext.model.memory import MappingHolder
from pykdext.model.names import canonical_name
from pykdext.targets.protocol import PAGE_BYTES, Target
from pykdext.work import Work

MAX_IMAGE_BYTES = 4 << 20
"""Of one driver's data so much is searched."""

MAX_BLOCKS_OF_TAG = 64
MAX_BYTES_OF_BLOCK = 0x1000
MAX_HOLDERS = 8
MAX_POINTERS = 4096
"""Addresses that are followed for one holder."""

_MAX_RUN_PAGES = 1 << 22
"""16 GiB: a longer run of entries is not followed."""

MAX_TABLES_READ = 1 << 17
"""Page tables read for all holders together, which map 256 GiB: what lies behind is not counted."""

_VALID = 1

_Range = Tuple[int, int]


def find_holders(
    target: Target,
    space: PteSpace,
    regions: Sequence[_Range],
    images: Iterable[Image],
    blocks: Iterable[Allocation],
    work: Work,
) -> Tuple[MappingHolder, ...]:
    """The drivers and pool tags whose data point at valid mappings in ``regions``, the most bytes first."""
    runs = _Runs(target, space)
    found: List[MappingHolder] = []
    for name, is_tag, pointers in iter_pointers(target, regions, images, blocks, work):
        found += _measure(name, is_tag, pointers, runs)
    return rank_holders(found)


def rank_holders(found: Sequence[MappingHolder]) -> Tuple[MappingHolder, ...]:
    """The ``MAX_HOLDERS`` that lead to most."""
    return tuple(sorted(found, key=lambda holder: (-holder.most_bytes, holder.name))[:MAX_HOLDERS])


def iter_pointers(
    target: Target,
    regions: Sequence[_Range],
    images: Iterable[Image],
    blocks: Iterable[Allocation],
    work: Work,
) -> Iterator[Tuple[str, bool, Set[int]]]:
    """Each driver and, true, each pool tag with the addresses within ``regions`` that its data hold."""
    for image in images:
        if work.is_ended:
            return
        if canonical_name(image.module.name) in EVERYBODYS:
            continue
        pointers = set(_iter_pointers(_iter_data(image), regions))
        image.release()
        yield image.module.name, False, pointers
    by_tag: Dict[str, Set[int]] = {}
    sampled: Counter[str] = Counter()
    for block in blocks:
        name = str(block.tag)
        sampled[name] += 1
        if work.is_ended or sampled[name] > MAX_BLOCKS_OF_TAG:
            continue
        pieces = (data for _, data in target.read_present(block.address, min(block.size_bytes, MAX_BYTES_OF_BLOCK)))
        by_tag.setdefault(name, set()).update(_iter_pointers(pieces, regions))
    for name, pointers in by_tag.items():
        yield name, True, pointers


def _iter_data(image: Image) -> Iterator[bytes]:
    left = MAX_IMAGE_BYTES
    for section in image.sections:
        if not section.writable or not section.known:
            continue
        for _, data in image.iter_range(section.rva, min(section.size, left)):
            left -= len(data)
            yield data
        if left <= 0:
            return


def _iter_pointers(pieces: Iterable[bytes], regions: Sequence[_Range]) -> Iterator[int]:
    for data in pieces:
        words = array("Q")
        words.frombytes(bytes(data[: len(data) // 8 * 8]))
        for low, high in regions:
            yield from (word for word in words if low <= word < high)


def _measure(name: str, is_tag: bool, pointers: Set[int], runs: _Runs) -> Iterator[MappingHolder]:
    """The holder, if one of its pointers leads to a mapping; what two of them lead to is counted once."""
    pages = sorted({address & -PAGE_BYTES for address in pointers})[:MAX_POINTERS]
    total, ranges, reached = 0, 0, 0
    for page in pages:
        if page < reached:
            continue
        size = runs.measure(page)
        if size:
            ranges += 1
            total += size
            reached = page + size
    if ranges:
        yield MappingHolder(name, is_tag, ranges, total)


class _Runs:
    """How far valid entries of the page tables reach; what was measured is not read again."""

    def __init__(self, target: Target, space: PteSpace) -> None:
        self._target = target
        self._space = space
        self._known: Dict[int, int] = {}
        self._left_tables = MAX_TABLES_READ

    def measure(self, address: int) -> int:
        """Bytes from a page on that valid entries map; 0 where its own is not valid or not in memory."""
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = self._read(address)
        return known

    def _read(self, address: int) -> int:
        mask = (1 << self._space.address_bits) - 1
        entry = self._space.base + ((address & mask) >> 12) * 8
        pages = 0
        while pages < _MAX_RUN_PAGES and self._left_tables > 0:
            self._left_tables -= 1
            size = PAGE_BYTES - entry % PAGE_BYTES
            try:
                data = self._target.read_virtual(entry, size)
            except MemoryReadError:
                break
            low_bytes = data[::8]
            valid = next((number for number, byte in enumerate(low_bytes) if not byte & _VALID), len(low_bytes))
            pages += valid
            if valid < len(low_bytes):
                break
            entry += size
        return pages * PAGE_BYTES
