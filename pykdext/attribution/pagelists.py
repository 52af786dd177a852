"""Who points at lists of pages that no page table maps: a hint at the driver behind pages for MDLs.

A driver that takes pages (MmAllocatePagesForMdlEx) gets a memory descriptor list, whose array names them, and keeps its
address in its data or in blocks of pool. What looks like a list counts where a sample of its pages is in use and mapped
by no page table; pages that a driver only locked are mapped by their process. A pointer is no proof of who took the
pages: the grade is never better than possible. Layout of the 64-bit MDL: wdm.h of the Windows Driver Kit.
"""

from __future__ import annotations

import struct
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from pykdext.attribution.mappings import MAX_POINTERS, iter_pointers, rank_holders
from pykdext.errors import MemoryReadError
from pykdext.images.image import Image
from pykdext.model import Allocation
from pykdext.model.memory import MappingHolder
from pykdext.targets.protocol import PAGE_BYTES, Target
from pykdext.work import Work

MAX_CHAINED = 64
"""Lists that one pointer leads to: a driver may chain them."""

SAMPLED_PAGES = 32
FEWEST_UNMAPPED = 0.9
"""Of the sampled pages so many must be in use without a mapping."""

_HEAD = struct.Struct("<QHHHHQQQII")
_ALIGNMENT = 8
_LARGEST_SIZE = 0xFFFF  # that of a list of more pages does not fit into its 16 bits

IsUnmapped = Callable[[int], bool]
"""Whether a page frame is in use, and no page table maps it."""


def find_list_holders(
    target: Target,
    is_unmapped: IsUnmapped,
    kernel_start: int,
    images: Iterable[Image],
    blocks: Iterable[Allocation],
    work: Work,
) -> Tuple[MappingHolder, ...]:
    """The drivers and pool tags whose data lead to lists of such pages, the most bytes first."""
    lists = _Lists(target, is_unmapped, kernel_start)
    found: List[MappingHolder] = []
    for name, is_tag, pointers in iter_pointers(target, [(kernel_start, 1 << 64)], images, blocks, work):
        aligned = sorted(address for address in pointers if not address % _ALIGNMENT)[:MAX_POINTERS]
        sizes = lists.measure(aligned)
        if sizes:
            found.append(MappingHolder(name, is_tag, len(sizes), sum(sizes)))
    return rank_holders(found)


class _Lists:
    """Reads what may be lists, each once."""

    def __init__(self, target: Target, is_unmapped: IsUnmapped, kernel_start: int) -> None:
        self._target = target
        self._is_unmapped = is_unmapped
        self._kernel_start = kernel_start
        self._known: Dict[int, Optional[Tuple[int, int]]] = {}

    def measure(self, addresses: Sequence[int]) -> List[int]:
        """The bytes of each list that the addresses lead to; what two of them lead to is counted once."""
        seen: Set[int] = set()
        sizes: List[int] = []
        for first in addresses:
            address = first
            for _ in range(MAX_CHAINED):
                if address in seen:
                    break
                seen.add(address)
                known = self._read(address)
                if known is None:
                    break
                size, address = known
                sizes.append(size)
        return sizes

    def _read(self, address: int) -> Optional[Tuple[int, int]]:
        """The bytes of a list and the address of the next; None if it is none of unmapped pages."""
        if address not in self._known:
            self._known[address] = self._parse(address) if address >= self._kernel_start else None
        return self._known[address]

    def _parse(self, address: int) -> Optional[Tuple[int, int]]:
        try:
            head = self._target.read_virtual(address, _HEAD.size)
        except MemoryReadError:
            return None
        following, size, _, _, _, _, _, start, described, offset = _HEAD.unpack(head)
        pages = -(-(described + offset) // PAGE_BYTES)
        expected = _HEAD.size + pages * 8
        is_list = (
            described
            and offset < PAGE_BYTES
            and start % PAGE_BYTES == 0
            and (following == 0 or following >= self._kernel_start)
            and (size - expected) % 8 == 0
            and (size >= expected or expected > _LARGEST_SIZE)
        )
        if not is_list or not self._names_unmapped(address + _HEAD.size, pages):
            return None
        return pages * PAGE_BYTES, following

    def _names_unmapped(self, array: int, pages: int) -> bool:
        """Whether the sampled pages of a list are in use without a mapping, each another one."""
        numbers = range(0, pages, max(1, pages // SAMPLED_PAGES))
        frames: List[int] = []
        for number in numbers:
            try:
                frames.append(int.from_bytes(self._target.read_virtual(array + number * 8, 8), "little"))
            except MemoryReadError:
                return False
        if len(set(frames)) < len(frames):
            return False
        return sum(map(self._is_unmapped, frames)) >= FEWEST_UNMAPPED * len(frames)
