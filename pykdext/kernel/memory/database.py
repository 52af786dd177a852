"""Where a kernel's page frame database is, how long, and where the members of its records stand.

Sources: public symbols of _MMPFN, MmPfnDatabase, MmPteBase and _MI_PARTITION. Nothing is taken from a neighbouring
build: a kernel that is not in the tables needs its symbols (PDB or ISF), and what it lacks is said in words.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from itertools import compress
from typing import Iterator, List, Optional, Sequence, Tuple, Union

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.limitinference import MOST_PAGES, find_physical_pages
from pykdext.model import Machine
from pykdext.model.layouts import Struct
from pykdext.targets.protocol import PAGE_BYTES

CHUNK_RECORDS = 0x1000
IN_USE = (6, 7)
"""PageLocation of frames that are active or in transition (enum _MMLISTS of public symbols)."""

_FIELDS = ("PteAddress", "u3.e1.PageLocation", "u4.PrototypePte", "u4.PteFrame")
_FIXED_PTE_BASE, _FIRST_WITH_PTE_BASE = 0xFFFFF68000000000, 14393
_USED = bytes(value & 7 in IN_USE for value in range(256))
_LISTS = bytes(value & 7 for value in range(256))


@dataclass(frozen=True)
class PteSpace:
    """Where the page tables appear as memory. ``levels`` of tables: four, or five in kernels of LA57."""

    base: int
    levels: int = 4

    @property
    def address_bits(self) -> int:
        """Bits of a virtual address that the tables translate."""
        return 12 + 9 * self.levels

    @property
    def size(self) -> int:
        """Bytes of all entries of the last level."""
        return 1 << self.address_bits - 9

    @property
    def user_end(self) -> int:
        """The end of what processes have."""
        return 1 << self.address_bits - 1

    @property
    def tables(self) -> Tuple[int, int]:
        """The addresses of the entries that map page tables, from the first to the end."""
        start = self.base + ((self.base & (1 << self.address_bits) - 1) >> 9)
        return start, start + (1 << self.address_bits - 18)

    def holds(self, address: int) -> bool:
        """Whether an entry stands at the address."""
        return self.base <= address < self.base + self.size

    def mapped_by(self, entry: int) -> int:
        """The address that an entry maps, as processors write it."""
        address = (entry - self.base) << 9
        return address if address < self.user_end else address | -1 << self.address_bits & (1 << 64) - 1


@dataclass(frozen=True)
class Columns:
    """Where the members stand in a record of ``size`` bytes; ``prototype_bit`` within its byte.

    ``is_wide``: addresses have 57 bits, so that the highest byte of one follows from no other bit.
    """

    size: int
    pte_address: int
    location: int
    prototype: int
    prototype_bit: int
    pte_frame: Optional[int]
    is_wide: bool = False

    def keys(self, data: bytes) -> array[int]:
        """What each record has in common with others, as one number: see ``split_key``."""
        count = len(data) // self.size
        packed = bytearray(8 * count)
        for place in range(5):
            packed[place::8] = data[self.pte_address + 2 + place :: self.size]
        packed[5::8] = data[self.location :: self.size].translate(_LISTS)
        packed[6::8] = data[self.prototype :: self.size].translate(
            bytes(value >> self.prototype_bit & 1 for value in range(256))
        )
        if self.is_wide:
            packed[7::8] = data[self.pte_address + 7 :: self.size]
        keys = array("Q")
        keys.frombytes(packed)
        return keys

    def split_key(self, key: int) -> Tuple[int, int, bool]:
        """PteAddress to 64 KB, the list, and whether a prototype entry maps the frame."""
        address = (key & (1 << 40) - 1) << 16
        highest = key >> 56 if self.is_wide else 0xFF * (key >> 39 & 1)
        return address | highest << 56, key >> 40 & 0xFF, bool(key >> 48 & 0xFF)

    def find_tables(self, data: bytes, space: PteSpace, first: int) -> List[Tuple[int, int, int]]:
        """Number, PteAddress and PteFrame of the frames in use that hold page tables, or that large pages map.

        ``first`` is the number of the first record.
        """
        low, high = space.tables
        marks = bytes(value in (low >> 32 & 0xFF, high - 1 >> 32 & 0xFF) for value in range(256))
        if space.levels > 4:
            marks = b"\1" * 256
        chosen = data[self.pte_address + 4 :: self.size].translate(marks)
        if not any(chosen):
            return []
        words = array("Q")
        words.frombytes(data)
        step = self.size // 8
        entries = words[self.pte_address // 8 :: step]
        parents: Sequence[int] = (
            self.parents(data) if self.pte_frame is not None else array("I", bytes(4 * len(entries)))
        )
        used = data[self.location :: self.size].translate(_USED)
        return [
            (first + number, entry & -8, parent)
            for number, entry, parent, is_used in compress(zip(range(len(entries)), entries, parents, used), chosen)
            if is_used and low <= entry < high
        ]

    def parents(self, data: bytes) -> array[int]:
        """The frame of the page table that maps each record's frame; only where ``pte_frame`` is known."""
        words = array("I")
        words.frombytes(data)
        return words[(self.pte_frame or 0) // 4 :: self.size // 4]

    def parents_in_use(self, data: bytes) -> Iterator[int]:
        """The parents of the frames in use; of one that a prototype entry maps it is the frame of that entry."""
        used = data[self.location :: self.size].translate(_USED)
        return compress(self.parents(data), used)


@dataclass(frozen=True)
class FrameDatabase:
    """The page frame database of one kernel: ``frames`` records from frame 0 on; ``physical`` frames have memory."""

    address: int
    frames: int
    physical: Optional[int]
    columns: Columns
    space: PteSpace

    def iter_records(self, kernel: Kernel, first: int, count: int) -> Iterator[Tuple[int, bytes]]:
        """The whole records of a piece that are in memory, each run with the number of its first."""
        size = self.columns.size
        address = self.address + first * size
        for start, data in kernel.target.read_present(address, count * size):
            skipped = -(start - address) % size
            whole = (len(data) - skipped) // size * size
            if whole > 0:
                yield first + (start + skipped - address) // size, bytes(data[skipped : skipped + whole])


def find_database(kernel: Kernel) -> Union[FrameDatabase, str]:
    """The database, or in words why it cannot be read."""
    facts = kernel.target.facts
    build = f"build {facts.build}" if facts.build else "a kernel of unknown build"
    if kernel.target.pointer_size != 8:
        return "pages by use are read of 64-bit kernels only"
    address, highest = kernel.find_variable("MmPfnDatabase"), _highest_frame(kernel)
    if not address:
        return "nothing tells where the page frame database is (MmPfnDatabase)"
    columns = _find_columns(kernel)
    if columns is None:
        return (
            f"the layout of _MMPFN in {build} on {facts.machine.value} is not known: "
            "no pages by use without the kernel's symbols (PDB or ISF)"
        )
    base = kernel.pte_base
    if not base and (facts.machine is not Machine.X64 or kernel.build >= _FIRST_WITH_PTE_BASE):
        return (
            "nothing tells where the page tables are mapped (MmPteBase): no pages by use without the kernel's symbols"
        )
    if not highest:
        return "nothing tells how much memory the machine has: the page frame database has no known end"
    base = base or _FIXED_PTE_BASE
    space = PteSpace(base, 5 if kernel.has_five_levels else 4)
    columns = replace(columns, is_wide=space.levels > 4)
    return FrameDatabase(address, min(highest + 1, MOST_PAGES), find_physical_pages(kernel), columns, space)


def _find_columns(kernel: Kernel) -> Optional[Columns]:
    layout = kernel.struct("_MMPFN", *_FIELDS)
    if layout is None or layout.size is None or layout.size % 8 or not layout.has(*_FIELDS[:3]):
        return None
    return _columns_of(layout, layout.size)


def _columns_of(layout: Struct, size: int) -> Optional[Columns]:
    entry, location, prototype, parent = (layout.fields[name] for name in _FIELDS)
    if entry is None or location is None or prototype is None or prototype.bits is None or entry.offset % 8:
        return None
    if max(entry.offset + 8, location.offset + 1, prototype.offset + 8) > size:
        return None
    first_bit = prototype.bits[0]
    is_plain = parent is not None and parent.bits is not None and not parent.bits[0] and not parent.offset % 4
    return Columns(
        size,
        entry.offset,
        location.offset,
        prototype.offset + first_bit // 8,
        first_bit % 8,
        parent.offset if parent is not None and is_plain else None,
    )


def _highest_frame(kernel: Kernel) -> Optional[int]:
    """The number of the last page frame, by the partition, by the old variable, or as many as there are pages."""
    partition = kernel.find_symbol("MiSystemPartition")
    layout = kernel.struct("_MI_PARTITION", "Vp.HighestPhysicalPage") if partition else None
    if partition is not None and layout is not None and (offset := layout.offset("Vp.HighestPhysicalPage")) is not None:
        try:
            return kernel.read_pointer(partition.address + offset) or _highest_by_runs(kernel)
        except MemoryReadError:
            return _highest_by_runs(kernel)
    return kernel.find_variable("MmHighestPhysicalPage") or _highest_by_runs(kernel)


def _highest_by_runs(kernel: Kernel) -> Optional[int]:
    """The end of the last run of MmPhysicalMemoryBlock (PHYSICAL_MEMORY_DESCRIPTOR of public headers)."""
    block = kernel.find_variable("MmPhysicalMemoryBlock")
    if not block:
        return None
    try:
        runs = int.from_bytes(kernel.target.read_virtual(block, 4), "little")
        if not 0 < runs <= PAGE_BYTES // 16:
            return None
        data = kernel.target.read_virtual(block + 16 + 16 * (runs - 1), 16)
    except MemoryReadError:
        return None
    return int.from_bytes(data[:8], "little") + int.from_bytes(data[8:], "little") - 1
