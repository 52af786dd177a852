"""Finds nt, the kernel's image, in an address space that may be the kernel's, and what it says of itself.

Where an image lies and what it exports: Microsoft's "PE Format". Kernels are 2 MiB pages, or pages of 4 KiB; their
header page may stand alone, with unreadable pages behind it.
"""

from __future__ import annotations

import math
import struct
import time
from typing import Iterable, Iterator, NamedTuple, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.machine.peheader import ImageHeader, Read, read_image_header
from pykdext.targets.paging.addressspace import DEMAND_ZERO, AddressSpace
from pykdext.targets.paging.virtual import VirtualMemory
from pykdext.targets.protocol import PAGE_BYTES

KERNEL_PDBS = (b"ntkrnlmp.pdb", b"ntoskrnl.pdb", b"ntkrnlpa.pdb", b"ntkrpamp.pdb", b"ntkrla57.pdb")
_KERNEL_NAME = b"ntoskrnl.exe"

MAX_STEPS_BACK = 0x2000
"""Pages from an address in nt down to its first one: no kernel is larger than 32 MiB."""

MAX_IMAGE_BYTES = 64 << 20
KERNEL_RANGE = (0xFFFFF800_00000000, 0x8_00000000)
"""Where the loader puts nt, and how large that range is."""

_MAX_PAGES_LOOKED_AT = 1 << 20
_PAGES_A_CLOCK = 64
_MAX_EXPORTS = 0x10000
_WRITABLE = 0x80000000
_DISCARDABLE = 0x02000000

_EXPORT, _DEBUG = 0, 6
_EXPORT_DIRECTORY = struct.Struct("<12xIIIIIII")
_DEBUG_ENTRY = struct.Struct("<12xIIII")
_CODEVIEW = 2
_MAX_DEBUG_ENTRIES = 16
_RSDS_BYTES = 0x18
_KDBG_LIST_BYTES = 0x10


class NtImage(NamedTuple):
    """nt in memory: its base, its headers, and the PDB that belongs to it (GUID and age), if it can be read."""

    base: int
    headers: ImageHeader
    pdb_key: Optional[str]


class AddressSpaceView(NamedTuple):
    """Virtual memory, and the page tables that it is seen through."""

    memory: VirtualMemory
    space: AddressSpace

    def read(self, address: int, size: int) -> Optional[bytes]:
        """All ``size`` bytes, or None."""
        try:
            return self.memory.read(address, size)
        except MemoryReadError:
            return None

    def read_pointer(self, address: int) -> Optional[int]:
        """The pointer at an address, or None."""
        data = self.read(address, 8)
        return None if data is None else int.from_bytes(data, "little")


def read_nt(view: AddressSpaceView, base: int) -> Optional[NtImage]:
    """The image at ``base`` if it is an x64 nt."""
    if view.read(base, 2) != b"MZ":
        return None
    read = _reader(view, base)
    headers = read_image_header(read)
    if headers is None or not 0 < headers.image_bytes <= MAX_IMAGE_BYTES:
        return None
    name, key = _read_pdb(read, headers)
    if name is None:
        return NtImage(base, headers, None) if _export_name(read, headers) == _KERNEL_NAME else None
    return NtImage(base, headers, key) if name in KERNEL_PDBS else None


def find_nt(view: AddressSpaceView, hints: Iterable[int], ends_at: float = math.inf) -> Optional[NtImage]:
    """The image of nt: below one of the addresses ``hints``, which lie in it, or else anywhere in its range.

    The search of the range ends at the time ``ends_at`` (of ``time.monotonic``): pages may have to be unpacked.
    """
    for hint in dict.fromkeys(hint & -PAGE_BYTES for hint in hints):
        for step in range(MAX_STEPS_BACK):
            found = read_nt(view, hint - step * PAGE_BYTES)
            if found is not None and hint < found.base + found.headers.image_bytes:
                return found
    return next(
        (found for base in _iter_image_bases(view, ends_at) if (found := read_nt(view, base)) is not None), None
    )


def _iter_image_bases(view: AddressSpaceView, ends_at: float) -> Iterator[int]:
    """The pages of the kernel's range that begin like an image; large pages first, as most kernels lie in them."""
    pages = 0
    mappings = sorted(view.space.iter_mappings(*KERNEL_RANGE), key=lambda item: item[2] < 1 << 21)
    for address, physical, length in mappings:
        if physical == DEMAND_ZERO:
            continue
        for page in range(address & -PAGE_BYTES, address + length, PAGE_BYTES):
            pages += 1
            if pages > _MAX_PAGES_LOOKED_AT or (not pages % _PAGES_A_CLOCK and time.monotonic() > ends_at):
                return
            if view.read(page, 2) == b"MZ":
                yield page


def find_export(view: AddressSpaceView, nt: NtImage, name: bytes) -> Optional[int]:
    """The address of what nt exports as ``name``, or None. Names are sorted: a few of them are read."""
    read = _reader(view, nt.base)
    directory = _export_directory(read, nt.headers)
    if directory is None:
        return None
    _, _, functions, names, function_rvas, name_rvas, ordinals = directory
    low, high = 0, min(names, _MAX_EXPORTS)
    while low < high:
        middle = (low + high) // 2
        found = _read_name(read, _number(read, name_rvas + 4 * middle, 4))
        if found is None:
            return None
        if found == name:
            ordinal = _number(read, ordinals + 2 * middle, 2)
            rva = _number(read, function_rvas + 4 * ordinal, 4) if ordinal < min(functions, _MAX_EXPORTS) else 0
            return nt.base + rva if 0 < rva < nt.headers.image_bytes else None
        low, high = (middle + 1, high) if found < name else (low, middle)
    return None


def find_module_list(view: AddressSpaceView, nt: NtImage) -> Optional[int]:
    """Where PsLoadedModuleList is: exported since Windows 10, else a list in nt's data whose first entry is nt's."""
    exported = find_export(view, nt, b"PsLoadedModuleList")
    if exported is not None and is_module_list(view, nt, exported):
        return exported
    candidates = (
        address + offset
        for address, data in _iter_data(view, nt)
        for offset, first, last in iter_list_heads(address, data)
        if first != last
    )
    return next((head for head in candidates if is_module_list(view, nt, head)), None)


def is_module_list(view: AddressSpaceView, nt: NtImage, head: int) -> bool:
    """Whether the list at ``head`` begins with nt's loader entry: it points back, and its DllBase is nt's."""
    first = view.read_pointer(head)
    entry = view.read(first, 0x38) if first else None
    if entry is None:
        return False
    back, base = int.from_bytes(entry[8:16], "little"), int.from_bytes(entry[0x30:0x38], "little")
    return back == head and base == nt.base


def find_debugger_data(view: AddressSpaceView, nt: NtImage) -> Optional[int]:
    """Where KdDebuggerDataBlock is, if it is not encoded; it bears the tag KDBG and nt's base."""
    for address, data in _iter_data(view, nt):
        at = data.find(b"KDBG")
        while at >= 0:
            block = address + at - _KDBG_LIST_BYTES
            if view.read_pointer(block + 0x18) == nt.base:
                return block
            at = data.find(b"KDBG", at + 1)
    return None


def _iter_data(view: AddressSpaceView, nt: NtImage) -> Iterator[Tuple[int, bytes]]:
    """The writable sections of nt, as far as they are in memory; all of it where the section table says nothing."""
    sections = [
        (section.rva, section.size)
        for section in nt.headers.sections
        if section.characteristics & _WRITABLE and not section.characteristics & _DISCARDABLE
    ]
    for rva, size in sections or [(0, nt.headers.image_bytes)]:
        if rva < nt.headers.image_bytes:
            yield from view.memory.read_present(nt.base + rva, min(size, nt.headers.image_bytes - rva))


def iter_list_heads(address: int, data: bytes) -> Iterator[Tuple[int, int, int]]:
    """Offsets of pairs of kernel pointers, with the pointers: whatever may be a LIST_ENTRY."""
    start = -address % 8
    words = struct.unpack_from(f"<{(len(data) - start) // 8}Q", data, start)
    for number, (first, last) in enumerate(zip(words, words[1:])):
        if first > 0xFFFF8000_00000000 < last and not (first | last) & 7:
            yield start + 8 * number, first, last


def _reader(view: AddressSpaceView, base: int) -> Read:
    return lambda offset, size: view.read(base + offset, size)


def _number(read: Read, rva: int, size: int) -> int:
    """A number of the image, 0 where it is not there."""
    return int.from_bytes(read(rva, size) or b"", "little")


def _export_directory(read: Read, headers: ImageHeader) -> Optional[Tuple[int, ...]]:
    rva, size = headers.directory(_EXPORT)
    data = read(rva, _EXPORT_DIRECTORY.size) if rva and size else None
    return None if data is None else _EXPORT_DIRECTORY.unpack(data)


def _export_name(read: Read, headers: ImageHeader) -> Optional[bytes]:
    directory = _export_directory(read, headers)
    return None if directory is None else _read_name(read, directory[0])


def _read_name(read: Read, rva: int) -> Optional[bytes]:
    """A name that ends with a zero byte; it may stand at the end of what is in memory."""
    for size in (0x40, 0x100, 0x10):
        data = read(rva, size) if rva else None
        if data is not None and b"\0" in data:
            return data.partition(b"\0")[0]
    return None


def _read_pdb(read: Read, headers: ImageHeader) -> Tuple[Optional[bytes], Optional[str]]:
    """The name of the image's PDB, and its key on a symbol server; None where they are not in memory."""
    rva, size = headers.directory(_DEBUG)
    for at in range(rva, rva + min(size, _MAX_DEBUG_ENTRIES * 0x1C), 0x1C):
        data = read(at, 0x1C)
        if data is None:
            break
        kind, _, record_rva, _ = _DEBUG_ENTRY.unpack(data)
        record = read(record_rva, _RSDS_BYTES) if kind == _CODEVIEW and record_rva else None
        if record is not None and record.startswith(b"RSDS"):
            return parse_pdb_record(record + (_read_name(read, record_rva + _RSDS_BYTES) or b""))
    return None, None


def parse_pdb_record(record: bytes) -> Tuple[Optional[bytes], Optional[str]]:
    """The name of a PDB, without its folder, and its key on a symbol server, from an RSDS record; None: it is none."""
    if len(record) < _RSDS_BYTES or not record.startswith(b"RSDS"):
        return None, None
    first, second, third = struct.unpack_from("<IHH", record, 4)
    guid = f"{first:08X}{second:04X}{third:04X}{record[12:20].hex().upper()}"
    path = record[_RSDS_BYTES:].partition(b"\0")[0]
    return path.rpartition(b"\\")[2], f"{guid}{int.from_bytes(record[20:24], 'little'):X}"
