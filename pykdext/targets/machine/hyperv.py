"""Saved states of Hyper-V (.vmrs): memory in blocks of 1 MiB, plain or packed page by page, and the registers.

Layout: microsoft/openvmm (``FORMAT.md``, ``hyperv_dump``, ``save_restore.rs``) and the published snapshot readers.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import OrderedDict
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from pykdext.errors import DumpFormatError, UnsupportedDumpError
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.cpustate import MAX_PROCESSORS, CpuState
from pykdext.targets.machine.hypervstorage import StorageFile, Value
from pykdext.targets.machine.image import MachineImage
from pykdext.targets.machine.lz77 import unpack_lz77
from pykdext.targets.machine.memory import MAX_RANGES, PHYSICAL_ADDRESS_BITS, PackedPages
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

BLOCK_BYTES = 1 << 20
PAGES_IN_BLOCK = BLOCK_BYTES // PAGE_BYTES
MAX_STATE_BYTES = 64 << 20
"""Of registers; each processor has some kilobytes."""

_ROOT = "/savedstate/"
_RANGE = struct.Struct("<IIQQQI")
_RANGE_VERSION = 3
_VTL2_MEMORY = 4
_SEARCHABLE_BYTES = 96 << 20
_KEPT_BLOCKS = 64
_FILL, _FILL_RUN, _GROUP, _END = 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFC, 0xFFFFFFFF

_CHUNK = struct.Struct("<II8x")
_LAST_CHUNK, _PROCESSOR, _CONTROL, _SEGMENTS, _TABLES, _TRUST_LEVEL, _GENERAL = (
    0xF0000000, 0x30001000, 0x30007000, 0x30009000, 0x3000A000, 0x3001A000, 0x30002000,
)  # fmt: skip
_GS = 5


class _Run(NamedTuple):
    """Guest pages that follow each other: the first, how many, and the first page among those stored."""

    page: int
    pages: int
    stored: int


class _Part(NamedTuple):
    """Pages of a block that are packed together: a word that fills them, or bytes in the file."""

    first: int
    pages: int
    fill: Optional[bytes]
    value: Optional[Value]


def open_saved_state(file: FileBytes) -> MachineImage:
    """The memory of a saved state; DumpFormatError if the file has none."""
    storage = StorageFile(file)
    runs = _read_runs(storage)
    blocks = {
        int(name[len("RamBlock") :]): value
        for path, value in storage.values.items()
        if path.startswith(_ROOT) and (name := path[len(_ROOT) :]).startswith("RamBlock") and name[8:].isdecimal()
    }
    if not runs or not blocks:
        if any(path.startswith(("/RamBlock", "/savedVM")) for path in storage.values):
            hint = "resume the machine, and save it on Windows Server 2016 or later"
            raise UnsupportedDumpError(file.path, 0, "a saved state of Hyper-V 2012 R2 or older", "a newer one", hint)
        hint = (
            "a production checkpoint holds no memory: Set-VM -CheckpointType Standard and take another, "
            "or Save-VM the machine"
        )
        raise DumpFormatError(file.path, 0, "a file of Hyper-V without memory", "a saved state (.vmrs)", hint)
    memory = SavedMemory(file, runs, blocks, tuple(storage.warnings))
    state = storage.read(f"{_ROOT}savedVM/partition_state", MAX_STATE_BYTES) or b""
    return MachineImage("Hyper-V saved state", memory, _read_processors(state))


def _read_runs(storage: StorageFile) -> List[_Run]:
    """Which guest pages are stored where. Memory of the host's own guard (VTL 2) is left out."""
    runs: List[_Run] = []
    for number in range(MAX_RANGES):
        data = storage.read(f"{_ROOT}RamMemoryBlock{number}", BLOCK_BYTES)
        if data is None:
            break
        if len(data) < _RANGE.size:
            storage.warnings.append(f"range {number} of the memory is not described: {count_things(len(data), 'byte')}")
            continue
        version, flags, count, stored, page, _ = _RANGE.unpack_from(data)
        if version != _RANGE_VERSION or (page + count) * PAGE_BYTES > 1 << PHYSICAL_ADDRESS_BITS:
            storage.warnings.append(f"range {number} of the memory is damaged or of another version ({version})")
            continue
        if count and not flags & _VTL2_MEMORY:
            runs.append(_Run(page, count, stored))
    return sorted(runs)


class SavedMemory(PackedPages):
    """The pages of a saved state. A block that is not stored was zeros."""

    searchable_bytes = _SEARCHABLE_BYTES

    def __init__(
        self, file: FileBytes, runs: List[_Run], blocks: Dict[int, Value], warnings: Tuple[str, ...] = ()
    ) -> None:
        super().__init__(file, warnings)
        self._runs = runs
        self._starts = [run.page for run in runs]
        self._blocks = blocks
        self._tables: OrderedDict[int, Tuple[_Part, ...]] = OrderedDict()
        self._groups: OrderedDict[Value, Optional[bytes]] = OrderedDict()
        self._damaged: Dict[int, None] = {}

    @property
    def pages_expected(self) -> int:
        """Pages of the guest."""
        return sum(run.pages for run in self._runs)

    @property
    def present_pages(self) -> int:
        """Pages of the guest, less those whose blocks lie behind the end of the file."""
        lost = sum(1 for block in self._blocks.values() if block.offset + block.size > self._file.size)
        return max(self.pages_expected - lost * PAGES_IN_BLOCK, 0)

    @property
    def end_address(self) -> int:
        """Where the last page ends."""
        return max(run.page + run.pages for run in self._runs) * PAGE_BYTES

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What is wrong with the container; it may grow while pages are read."""
        if not self._damaged:
            return super().warnings
        first = next(iter(self._damaged))
        return (*super().warnings, f"pages that cannot be unpacked: {len(self._damaged):,}, first page 0x{first:x}")

    def _iter_numbers(self, first: int, stop: int) -> Iterator[int]:
        at = max(bisect_right(self._starts, first) - 1, 0)
        for run in self._runs[at:]:
            if run.page >= stop:
                return
            yield from range(max(run.page, first), min(run.page + run.pages, stop))

    def _load_page(self, number: int) -> Optional[bytes]:
        at = bisect_right(self._starts, number) - 1
        if at < 0 or number >= self._runs[at].page + self._runs[at].pages:
            return None
        run = self._runs[at]
        block, inside = divmod(run.stored + number - run.page, PAGES_IN_BLOCK)
        value = self._blocks.get(block)
        if value is None:
            return bytes(PAGE_BYTES)
        page = self._read_page(block, value, inside)
        if page is None:
            self._damaged[number] = None
        return page

    def _read_page(self, block: int, value: Value, inside: int) -> Optional[bytes]:
        if value.size == BLOCK_BYTES:
            data = self._file.read_at(value.offset + inside * PAGE_BYTES, PAGE_BYTES)
            return data if len(data) == PAGE_BYTES else None
        for part in self._find_parts(block, value):
            if part.first <= inside < part.first + part.pages:
                if part.value is None:
                    return (part.fill or b"") * (PAGE_BYTES // 8)
                unpacked = self._unpack_part(part.value, part.pages)
                start = (inside - part.first) * PAGE_BYTES
                return None if unpacked is None else unpacked[start : start + PAGE_BYTES]
        return None

    def _unpack_part(self, value: Value, count: int) -> Optional[bytes]:
        """The pages that are packed together; groups are kept, since their neighbours are asked for next."""
        if count > 1 and value in self._groups:
            return self._groups[value]
        packed = self._file.read_at(value.offset, value.size)
        size = count * PAGE_BYTES
        data = packed if value.size == size else unpack_lz77(packed, size)
        if data is not None and len(data) != size:
            data = None
        if count > 1:
            self._groups[value] = data
            if len(self._groups) > _KEPT_BLOCKS:
                self._groups.popitem(last=False)
        return data

    def _find_parts(self, block: int, value: Value) -> Tuple[_Part, ...]:
        if block not in self._tables:
            self._tables[block] = _read_parts(
                self._file.read_at(value.offset, min(value.size, BLOCK_BYTES)), value.offset
            )
            if len(self._tables) > _KEPT_BLOCKS:
                self._tables.popitem(last=False)
        return self._tables[block]


def _read_parts(data: bytes, offset: int) -> Tuple[_Part, ...]:
    """The parts of a packed block, as far as they are whole. ``offset``: where its bytes stand in the file."""
    parts: List[_Part] = []
    at = page = 0
    while page < PAGES_IN_BLOCK and at + 4 <= len(data):
        token = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if token == _END:
            break
        if token in (_FILL, _FILL_RUN):
            fill = data[at : at + 8]
            at += 8
            count = 1
            if token == _FILL_RUN:
                count = int.from_bytes(data[at : at + 4], "little")
                at += 4
            if at > len(data) or not 0 < count <= PAGES_IN_BLOCK - page:
                break
            parts.append(_Part(page, count, fill, None))
        else:
            count, size = 1, token
            if token == _GROUP:
                out_bytes, size = struct.unpack("<II", data[at : at + 8].ljust(8, b"\0"))
                at += 8
                count = out_bytes // PAGE_BYTES
                if out_bytes % PAGE_BYTES:
                    break
            if not 0 < count <= PAGES_IN_BLOCK - page or not 0 < size <= count * PAGE_BYTES or at + size > len(data):
                break
            parts.append(_Part(page, count, None, Value(offset + at, size)))
            at += size
        page += count
    return tuple(parts)


def _read_processors(state: bytes) -> Tuple[CpuState, ...]:
    """The registers of each processor in the normal world (VTL 0); the secure kernel has its own beside them."""
    found: Dict[int, CpuState] = {}
    processor = level = 0
    for kind, data in _iter_chunks(state):
        if kind == _PROCESSOR and len(data) >= 4:
            processor, level = int.from_bytes(data[:4], "little"), 0
        elif kind == _TRUST_LEVEL and data:
            level = data[0]
        elif level == 0 and processor < MAX_PROCESSORS:
            known = found.get(processor, CpuState(0))
            if kind == _CONTROL and len(data) >= 0x30:
                cr3, cr4 = struct.unpack_from("<QQ", data, 0x10)
                found[processor] = known._replace(cr3=cr3, cr4=cr4)
            elif kind == _SEGMENTS and len(data) >= 0x10 * (_GS + 1):
                found[processor] = known._replace(gs_base=struct.unpack_from("<Q", data, 0x10 * _GS)[0])
            elif kind == _TABLES and len(data) >= 0x10:
                found[processor] = known._replace(idt_base=struct.unpack_from("<Q", data, 8)[0])
            elif kind == _GENERAL and len(data) >= 0x90:
                found[processor] = known._replace(rip=struct.unpack_from("<Q", data, 0x80)[0])
    return tuple(cpu for _, cpu in sorted(found.items()) if cpu.cr3)


def _iter_chunks(state: bytes) -> Iterator[Tuple[int, bytes]]:
    """The kind and content of each chunk of a partition's state."""
    if len(state) < 0x18:
        return
    at = int.from_bytes(state[8:16], "little") + _CHUNK.size
    while at + _CHUNK.size <= len(state):
        kind, size = _CHUNK.unpack_from(state, at)
        at += _CHUNK.size
        if kind == _LAST_CHUNK or at + size > len(state):
            return
        yield kind, state[at : at + size]
        at += size
