"""Small memory dumps (type 4): no pages of memory, only lists of drivers and blocks that the kernel chose.

TRIAGE_DUMP64 as in real files of 19041 and 22000, TRIAGE_DUMP32 by the public copies of the SDK's structures and as
Microsoft's debugger engine reads it: blocks of memory have addresses of 64 bits there too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from dumps.forge.containers import TRIAGE
from dumps.forge.headers import DumpHeader
from dumps.forge.pagetables import AddressSpace
from dumps.forge.physical import PAGE_BYTES

_VALID_MARK = b"TRGD"
_ALL_OPTIONS = 0xFFFFFFFF
_UNLOADED_NAME_BYTES = 0x18  # twelve characters; longer names are cut
_ALIGNMENT = 8
# What the header says is in the file.
_BASICS = 0xFF  # context, exception, processor, process, thread, stack, drivers, broken driver
_MEMORY_TOTALS, _DEBUGGER_DATA, _DATA_BLOCKS = 0x100, 0x400, 0x800
_FIRST_WITHOUT_TOTALS = 10240


class TriageDriver(NamedTuple):
    """A loaded driver as a small dump lists it."""

    path: str
    base: int
    size: int
    checksum: int
    timestamp: int


class UnloadedRange(NamedTuple):
    """An unloaded driver and the addresses that it had."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class TriageContents:
    """What goes into a small dump: lists, and addresses with sizes of structures, the stack and blocks of memory.

    ``pool_totals_pages`` are the largest and the present size of nonpaged pool, then of paged pool.
    """

    drivers: Sequence[TriageDriver]
    unloaded: Sequence[UnloadedRange]
    debugger_data: bytes
    processor_block: Tuple[int, int]
    process: Tuple[int, int]
    thread: Tuple[int, int]
    stack: Tuple[int, int]
    blocks: Sequence[Tuple[int, int]]
    pool_totals_pages: Sequence[int]


def write_triage(file: BinaryIO, header: DumpHeader, contents: TriageContents, space: AddressSpace) -> None:
    """Write a small dump; blocks whose pages do not exist are left out."""
    file.write(_TriageBuilder(header, contents).build(space))


class _TriageBuilder:
    """Lays out the parts of a small dump behind its header, one after the other."""

    def __init__(self, header: DumpHeader, contents: TriageContents) -> None:
        self._header = header
        self._contents = contents
        self._narrow = header.architecture.narrow
        self._start_bytes = 0x68 if self._narrow else 0x80
        self._parts = bytearray(self._start_bytes)

    def build(self, space: AddressSpace) -> bytes:
        """Return the file."""
        header, contents = self._header, self._contents
        fields: Dict[str, int] = {}
        totals = header.build < _FIRST_WITHOUT_TOTALS
        fields["MmOffset"] = self._append(self._pack_totals(totals))
        fields["UnloadedDriversOffset"] = self._append(self._pack_unloaded())
        fields["PrcbOffset"] = self._append(space.read(*contents.processor_block))
        fields["ProcessOffset"] = self._append(space.read(*contents.process))
        fields["ThreadOffset"] = self._append(space.read(*contents.thread))
        fields["CallStackOffset"] = self._append(space.read(*contents.stack))
        fields["SizeOfCallStack"] = contents.stack[1]
        fields["DebuggerDataOffset"] = self._append(contents.debugger_data)
        fields["DebuggerDataSize"] = len(contents.debugger_data)
        fields.update(self._append_drivers())
        fields.update(self._append_blocks(space))
        self._append(b"")
        fields["ValidOffset"] = self._end
        self._parts += _VALID_MARK
        fields["SizeOfDump"] = self._end
        self._parts[: self._start_bytes] = self._pack_start(fields)
        flags = _BASICS | _DEBUGGER_DATA | _DATA_BLOCKS | (_MEMORY_TOTALS if totals else 0)
        head = replace(header, memory_runs=None, minidump_fields=flags).pack(TRIAGE, self._end)
        return head + bytes(self._parts)

    @property
    def _end(self) -> int:
        return self._header.layout.size + len(self._parts)

    def _append(self, data: bytes) -> int:
        """Add a part on the next aligned place and return its offset in the file."""
        self._parts += bytes(-len(self._parts) % _ALIGNMENT)
        offset = self._end
        self._parts += data
        return offset

    def _append_drivers(self) -> Dict[str, int]:
        """Add the driver list and the strings that it names by their offsets in the file."""
        drivers = self._contents.drivers
        stride = 0x4C if self._narrow else 0x90
        list_offset = self._append(bytes(stride * len(drivers)))
        strings_offset = self._append(b"")
        for number, driver in enumerate(drivers):
            text = struct.pack("<I", len(driver.path)) + driver.path.encode("utf-16-le") + b"\0\0"
            entry = self._pack_driver(driver, self._append(text)).ljust(stride, b"\0")
            start = list_offset - self._header.layout.size + number * stride
            self._parts[start : start + stride] = entry
        return {
            "DriverListOffset": list_offset,
            "DriverCount": len(drivers),
            "StringPoolOffset": strings_offset,
            "StringPoolSize": self._end - strings_offset,
        }

    def _pack_driver(self, driver: TriageDriver, name_offset: int) -> bytes:
        """Return a DUMP_DRIVER_ENTRY: the name's offset, then a loader entry in the form of Windows 7 and before."""
        if self._narrow:
            start = struct.pack("<I24xIIII", name_offset, driver.base, 0, driver.size, 0)
            return start.ljust(0x44, b"\0") + struct.pack("<II", driver.checksum, driver.timestamp)
        start = struct.pack("<I52xQQI", name_offset, driver.base, 0, driver.size)
        return start.ljust(0x80, b"\0") + struct.pack("<QQ", driver.checksum, driver.timestamp)

    def _append_blocks(self, space: AddressSpace) -> Dict[str, int]:
        """Add the list of data blocks and then their bytes."""
        blocks = list(_iter_present(space, self._contents.blocks))
        descriptor = struct.Struct("<QII")
        list_offset = self._append(bytes(descriptor.size * len(blocks)))
        for number, (va, data) in enumerate(blocks):
            start = list_offset - self._header.layout.size + number * descriptor.size
            address = self._header.architecture.widen(va)
            self._parts[start : start + descriptor.size] = descriptor.pack(address, self._append(data), len(data))
        return {"DataBlocksOffset": list_offset, "DataBlocksCount": len(blocks)}

    def _pack_unloaded(self) -> bytes:
        pack_pointers = self._header.architecture.pack_pointers
        entries = [pack_pointers(len(self._contents.unloaded))]
        for driver in self._contents.unloaded:
            name = driver.name.encode("utf-16-le")[:_UNLOADED_NAME_BYTES]
            string = struct.pack("<HH", len(name), len(name)).ljust(2 * self._header.architecture.pointer_bytes, b"\0")
            entries.append(string + name.ljust(_UNLOADED_NAME_BYTES, b"\0") + pack_pointers(driver.start, driver.end))
        return b"".join(entries)

    def _pack_totals(self, present: bool) -> bytes:
        """Return DUMP_MM_STORAGE: seven page counts, the pools' first; later kernels leave all zero."""
        words: List[int] = [0] * 7
        if present:
            words[:4] = self._contents.pool_totals_pages
        body = self._header.architecture.pack_pointers(*words)
        size = 0x18 + len(body)
        return struct.pack("<6I", 1, size, 0, 0, 0, 0) + body

    def _pack_start(self, fields: Dict[str, int]) -> bytes:
        layout, (stack_va, _) = self._header.layout, self._contents.stack
        words = [
            *(0, fields["SizeOfDump"], fields["ValidOffset"], layout.context, layout.exception),
            *(fields["MmOffset"], fields["UnloadedDriversOffset"], fields["PrcbOffset"]),
            *(fields["ProcessOffset"], fields["ThreadOffset"]),
            *(fields["CallStackOffset"], fields["SizeOfCallStack"], fields["DriverListOffset"], fields["DriverCount"]),
            *(fields["StringPoolOffset"], fields["StringPoolSize"], 0, _ALL_OPTIONS),
        ]
        tail = [fields[name] for name in ("DebuggerDataOffset", "DebuggerDataSize")]
        tail += [fields[name] for name in ("DataBlocksOffset", "DataBlocksCount")]
        start = struct.pack("<18I", *words)
        if self._narrow:
            return start + struct.pack("<IIII4I", stack_va, 0, 0, 0, *tail)
        return start + struct.pack("<Q16xQII4I", stack_va, 0, 0, 0, *tail)


def _iter_present(space: AddressSpace, blocks: Sequence[Tuple[int, int]]) -> Iterator[Tuple[int, bytes]]:
    present = set(space.memory.present_frames())
    for va, size in blocks:
        addresses = [space.translate(page_va) for page_va in range(va & -PAGE_BYTES, va + size, PAGE_BYTES)]
        if all(address is not None and address >> 12 in present for address in addresses):
            yield va, space.read(va, size)
