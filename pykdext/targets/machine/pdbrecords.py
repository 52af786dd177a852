"""Finds nt where its first page is not in memory: by the record in it that names its PDB (RSDS).

Several such records are usual: the file cache and updates that wait hold copies of the file. One counts only where the
kernel's page tables map it, and the list of modules that lies in the same image says where that image is.
"""

from __future__ import annotations

import struct
import time
from typing import Iterable, Iterator, NamedTuple, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.machine.memory import MachineMemory
from pykdext.targets.machine.ntimage import (
    KERNEL_PDBS,
    KERNEL_RANGE,
    MAX_IMAGE_BYTES,
    AddressSpaceView,
    NtImage,
    iter_list_heads,
    parse_pdb_record,
)
from pykdext.targets.machine.peheader import ImageHeader
from pykdext.targets.paging.addressspace import DEMAND_ZERO
from pykdext.targets.protocol import PAGE_BYTES

MAX_RECORDS = 256
"""Copies of kernels in one memory are a handful."""

_GUID_CHARACTERS = 32
_RECORD_BYTES = 0x18 + 0x100
_MIN_RECORD_BYTES = 0x18 + 0x10
_DLL_BASE, _SIZE_OF_IMAGE, _ENTRY_BYTES = 0x30, 0x40, 0x44


class PdbRecord(NamedTuple):
    """Where in physical memory a kernel's PDB is named: its name, and its key (GUID and age)."""

    address: int
    name: str
    key: str

    @property
    def identity(self) -> Tuple[str, str, int]:
        """File name, GUID and age."""
        return self.name, self.key[:_GUID_CHARACTERS], int(self.key[_GUID_CHARACTERS:], 16)


def iter_pdb_records(memory: MachineMemory, ends_at: float) -> Iterator[PdbRecord]:
    """The records of kernels, the lowest first, as far as they are found until ``ends_at`` (of ``time.monotonic``)."""
    found = 0
    for address, data in memory.iter_pieces(0, min(memory.end_address, memory.searchable_bytes)):
        at = data.find(b"RSDS")
        while at >= 0:
            record = data[at : at + _RECORD_BYTES]
            if len(record) < _RECORD_BYTES:
                record = _read_behind(memory, address + at) or record
            name, key = parse_pdb_record(record)
            if name in KERNEL_PDBS and key is not None:
                yield PdbRecord(address + at, name.decode("ascii"), key)
                found += 1
            at = data.find(b"RSDS", at + 1)
        if found >= MAX_RECORDS or time.monotonic() > ends_at:
            return


def _read_behind(memory: MachineMemory, address: int) -> Optional[bytes]:
    """A record that the end of a piece cuts."""
    for size in (_RECORD_BYTES, _MIN_RECORD_BYTES):
        try:
            return memory.read_physical(address, size)
        except MemoryReadError:
            continue
    return None


def find_nt_by_record(view: AddressSpaceView, records: Iterable[PdbRecord]) -> Optional[Tuple[NtImage, PdbRecord]]:
    """The image that one of the records lies in, and that record."""
    mappings = [item for item in view.space.iter_mappings(*KERNEL_RANGE) if item[1] != DEMAND_ZERO]
    for record in records:
        for address, physical, length in mappings:
            if physical <= record.address < physical + length:
                found = _find_image(view, address + record.address - physical)
                if found is not None:
                    base, size = found
                    return NtImage(base, ImageHeader(size, (), ()), record.key), record
    return None


def _find_image(view: AddressSpaceView, inside: int) -> Optional[Tuple[int, int]]:
    """Base and size of the image around an address, as the first entry of a list of modules in that image says."""
    first_byte = max(inside - MAX_IMAGE_BYTES, KERNEL_RANGE[0])
    for piece, data in view.memory.read_present(first_byte, inside + MAX_IMAGE_BYTES - first_byte):
        for offset, first, last in iter_list_heads(piece, data):
            entry = view.read(first, _ENTRY_BYTES) if first != last else None
            if entry is None:
                continue
            (back,), (base,) = struct.unpack_from("<Q", entry, 8), struct.unpack_from("<Q", entry, _DLL_BASE)
            size = int.from_bytes(entry[_SIZE_OF_IMAGE:_ENTRY_BYTES], "little")
            head = piece + offset
            if back != head or base % PAGE_BYTES or size > MAX_IMAGE_BYTES:
                continue
            if base <= inside < base + size and base <= head < base + size:
                return base, size
    return None
