"""A small memory dump (triage dump, type 4) as a target: the system, its drivers, and a few pieces of memory.

It has no page tables and, on every Windows, no pool tag tables: it can say what crashed, not who leaks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterator, List, Optional, Tuple

from pykdext.errors import DumpFormatError
from pykdext.model import Module, TargetFacts
from pykdext.targets.debuggerdata import DebuggerData, parse_debugger_data
from pykdext.targets.dump.base import DumpTarget
from pykdext.targets.dump.header import DumpHeader
from pykdext.targets.dump.segments import FileSegments, Segment
from pykdext.targets.dump.triageformat import (
    HAS_DATA_BLOCKS,
    HAS_DATA_PAGE,
    HAS_DEBUGGER_DATA,
    HAS_DRIVERS,
    HAS_PROCESS,
    HAS_PROCESSOR,
    HAS_STACK,
    HAS_THREAD,
    TRIAGE32,
    TRIAGE64,
    VALID_MARK,
    RunningOffsets,
)
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.kernelformat import (
    KDDEBUGGER_DATA64_HEADER,
    KDDEBUGGER_DATA64_MAX_BYTES,
    KDDEBUGGER_DATA64_MIN_BYTES,
)
from pykdext.targets.loader import MAX_IMAGE_BYTES, MAX_MODULES, MAX_NAME_BYTES, UNLOADED_DRIVER_SLOTS
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import choose_form, count_things

NO_TAG_TABLES = (
    "a small memory dump holds no pool tag tables: it cannot tell who leaks. "
    "Hint: set 'Write debugging information' to a kernel or automatic memory dump (System Properties, Startup and "
    "Recovery; or CrashControl\\CrashDumpEnabled 2 or 7), reboot, and take a dump when the pool is full again; without "
    "a crash, Task Manager makes a live kernel dump of Windows 11, and poolmon -n FILE a log of any Windows"
)
"""What to tell whoever asks a TriageDump for pool tags."""

MAX_DATA_BLOCKS = 1 << 20
"""Real dumps have a few thousand pieces of memory: more are damage."""

_MAX_DRIVER_ENTRY_BYTES = 0x100


def open_triage(file: FileBytes, header: DumpHeader) -> TriageDump:
    """The small memory dump with this header, or DumpFormatError: it is damaged beyond use."""
    return TriageDump(file, header)


class TriageDump(DumpTarget):
    """What a small memory dump holds of a kernel: a Target.

    Its memory are the pieces that Windows chose: the stack of the thread that crashed, and data that registers and
    pointers led to. Of the drivers' images hardly anything is among them. Variables are known as far as the dump's
    copy of the kernel's debugger data names them; few of them can be read.
    """

    def __init__(self, file: FileBytes, header: DumpHeader) -> None:
        super().__init__(file, header.facts)
        self._header = header
        self._format = TRIAGE32 if header.machine.pointer_size == TRIAGE32.kernel.pointer_bytes else TRIAGE64
        self._fields = self._parse_header()
        self._check_end()
        self._memory = FileSegments(file, self._find_segments())
        if self._memory.lost_bytes:
            self._warn(
                f"the dump is truncated: {count_things(self._memory.lost_bytes, 'byte')} of its memory "
                f"{choose_form(self._memory.lost_bytes, 'is', 'are')} not in the file"
            )
        data = self._parse_debugger_data()
        if data is not None:
            self._symbols = {**self._symbols, **data.variables}
            self._kernel_base = data.kernel_base
        self._modules: Optional[Tuple[Module, ...]] = None

    @property
    def facts(self) -> TargetFacts:
        """What the dump says of itself. Its warnings grow by what ``modules`` finds wrong."""
        return replace(self._facts(self._warnings), no_tag_tables=NO_TAG_TABLES)

    def read_virtual(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a kernel virtual address, or MemoryReadError."""
        return self._memory.read(address, size)

    def read_present(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The parts of a range that are in the dump, as ``(address, bytes)``, ascending and disjoint."""
        return self._memory.read_present(address, size)

    def modules(self) -> Tuple[Module, ...]:
        """Loaded images in load order, nt first, then the unloaded drivers that the kernel remembers."""
        if self._modules is None:
            loaded = self._read_drivers()
            loaded.sort(key=lambda module: module.base != self._kernel_base)
            self._modules = (*loaded, *self._read_unloaded_drivers())
        return self._modules

    def _warn(self, text: str) -> None:
        self._warnings += (text,)

    def _has(self, part: int) -> bool:
        return bool(self._header.minidump_fields & part)

    def _parse_header(self) -> Any:
        """The TRIAGE_DUMP behind the dump's header."""
        record, start = self._format.header, self._header.data_offset
        data = self._file.read_at(start, record.size_bytes)
        if len(data) < record.size_bytes:
            raise DumpFormatError(
                self._file.path, self._file.size, "the end of the file", "a triage header", "the copy is cut short"
            )
        return record.declaration.parse(data)

    def _check_end(self) -> None:
        """Warn where the mark is missing that Windows puts behind all the rest."""
        offset = self._fields.ValidOffset
        mark = self._file.read_at(offset, len(VALID_MARK))
        if len(mark) < len(VALID_MARK):
            self._warn(f"the dump is truncated: it ends at 0x{self._file.size:x}, its end mark stood at 0x{offset:x}")
        elif mark != VALID_MARK:
            self._warn(f"the dump has no end mark at 0x{offset:x}: Windows did not finish it, or it is damaged")

    def _read_array(self, offset: int, count: int, stride: int, record_bytes: int, what: str) -> List[bytes]:
        """The records of an array, ``stride`` bytes apart, as far as the file holds them; a warning of the others."""
        data = self._file.read_at(offset, count * stride)
        held = min(count, (len(data) + stride - record_bytes) // stride)
        if held < count:
            self._warn(
                f"the dump is truncated: {held:,} of its {count:,} {what} {choose_form(held, 'is', 'are')} in the file"
            )
        return [data[at * stride : at * stride + record_bytes] for at in range(held)]

    def _find_segments(self) -> List[Segment]:
        """The pieces of memory that the dump has: data blocks, the stack, a page, the debugger data."""
        fields = self._fields
        segments: List[Segment] = []
        if self._has(HAS_DATA_BLOCKS):
            block = self._format.data_block
            count = self._sane_count(fields.DataBlocksCount, MAX_DATA_BLOCKS, "pieces of memory")
            blocks = self._read_array(fields.DataBlocksOffset, count, block.size, block.size, "pieces of memory")
            widest = (1 << 8 * self._format.kernel.pointer_bytes) - 1
            for address, offset, size in block.iter_unpack(b"".join(blocks)):
                segments.append((address & widest, offset, size))
        if self._has(HAS_STACK):
            segments.append((fields.TopOfStack, fields.CallStackOffset, fields.SizeOfCallStack))
        if self._has(HAS_DATA_PAGE):
            segments.append((fields.DataPageAddress, fields.DataPageOffset, fields.DataPageSize))
        if self._has(HAS_DEBUGGER_DATA) and self._header.debugger_data_block is not None:
            segments.append((self._header.debugger_data_block, fields.DebuggerDataOffset, fields.DebuggerDataSize))
            segments += self._find_running()
        return segments

    def _find_running(self) -> List[Segment]:
        """The copies of the thread that crashed and of its process; their addresses stand in one another."""
        if not (self._has(HAS_PROCESSOR) and self._has(HAS_THREAD) and self._has(HAS_PROCESS)):
            return []
        fields, kernel, offsets = self._fields, self._format.kernel, RunningOffsets()
        thread = self._read_number(fields.PrcbOffset + self._told(offsets.processor_thread), kernel.pointer_bytes)
        process = self._read_number(fields.ThreadOffset + self._told(offsets.thread_process), kernel.pointer_bytes)
        copies = (
            (thread, fields.ThreadOffset, self._told(offsets.thread_bytes)),
            (process, fields.ProcessOffset, self._told(offsets.process_bytes)),
        )
        return [copy for copy in copies if copy[0] >= kernel.kernel_start and copy[2]]

    def _told(self, offset: int) -> int:
        """A number of two bytes in the debugger data."""
        return self._read_number(self._fields.DebuggerDataOffset + offset, 2)

    def _read_number(self, offset: int, size: int) -> int:
        return int.from_bytes(self._file.read_at(offset, size), "little")

    def _sane_count(self, count: int, limit: int, what: str) -> int:
        """``count``, or 0 and a warning if it is absurd."""
        if count <= limit:
            return count
        self._warn(f"the dump counts {count:,} {what}, more than there can be: damaged, not read")
        return 0

    def _parse_debugger_data(self) -> Optional[DebuggerData]:
        """What the dump's copy of the kernel's debugger data says; None and a warning if there is none."""
        if not self._has(HAS_DEBUGGER_DATA):
            self._warn("the dump has no copy of the kernel's debugger data")
            return None
        size = min(self._fields.DebuggerDataSize, KDDEBUGGER_DATA64_MAX_BYTES)
        data = self._file.read_at(self._fields.DebuggerDataOffset, size)
        if len(data) < KDDEBUGGER_DATA64_MIN_BYTES:
            self._warn("the dump's copy of the kernel's debugger data is cut short")
            return None
        if KDDEBUGGER_DATA64_HEADER.declaration.parse(data).OwnerTag != b"KDBG":
            self._warn("the dump's copy of the kernel's debugger data is damaged (no KDBG tag)")
            return None
        return parse_debugger_data(data, self._format.kernel)

    def _read_drivers(self) -> List[Module]:
        """The modules of the driver list, in its order."""
        if not self._has(HAS_DRIVERS):
            self._warn("the dump has no list of loaded modules")
            return []
        fields, record = self._fields, self._format.driver_entry
        count = self._sane_count(fields.DriverCount, MAX_MODULES, "modules")
        entries = self._read_array(fields.DriverListOffset, count, self._driver_stride(), record.size_bytes, "modules")
        modules: List[Module] = []
        damaged = unnamed = 0
        for entry in map(record.declaration.parse, entries):
            if not self._is_image(entry.DllBase, entry.SizeOfImage):
                damaged += 1
                continue
            path = self._read_string(entry.DriverNameOffset)
            unnamed += not path
            name = path.rpartition("\\")[2] or f"module_{entry.DllBase:x}"
            modules.append(Module(name, entry.DllBase, entry.SizeOfImage, path, entry.TimeDateStamp, entry.CheckSum))
        if damaged:
            self._warn(f"damaged entries in the list of loaded modules: {damaged:,}")
        if unnamed:
            self._warn(f"modules whose names are not in the dump: {unnamed:,}")
        return modules

    def _driver_stride(self) -> int:
        """Bytes from one driver entry to the next: they grew over time, and the strings follow the last one."""
        usual = self._format.driver_entry.size_bytes
        gap = self._fields.StringPoolOffset - self._fields.DriverListOffset
        pointer_bytes = self._format.kernel.pointer_bytes
        stride = gap // max(self._fields.DriverCount, 1) // pointer_bytes * pointer_bytes
        return stride if usual <= stride <= _MAX_DRIVER_ENTRY_BYTES else usual

    def _read_unloaded_drivers(self) -> List[Module]:
        """The drivers that the kernel remembers as unloaded."""
        offset = self._fields.UnloadedDriversOffset
        count_bytes = self._format.unloaded_count_bytes
        if not offset:
            return []
        count = int.from_bytes(self._file.read_at(offset, count_bytes), "little")
        count = self._sane_count(count, UNLOADED_DRIVER_SLOTS, "unloaded drivers")
        record = self._format.unloaded_driver
        size = record.size_bytes
        entries = self._read_array(offset + count_bytes, count, size, size, "unloaded drivers")
        modules: List[Module] = []
        for entry in map(record.declaration.parse, entries):
            size = entry.EndAddress - entry.StartAddress
            if self._is_image(entry.StartAddress, size):
                stored = entry.DriverName[: entry.NameLength].decode("utf-16-le", "replace").rstrip("\0")
                name = stored if stored and stored.isprintable() else f"module_{entry.StartAddress:x}"
                modules.append(Module(name, entry.StartAddress, size, unloaded=True))
        if len(modules) < len(entries):
            self._warn(f"damaged entries in the list of unloaded drivers: {len(entries) - len(modules):,}")
        return modules

    def _is_image(self, base: int, size: int) -> bool:
        return base >= self._format.kernel.kernel_start and base % PAGE_BYTES == 0 and 0 < size <= MAX_IMAGE_BYTES

    def _read_string(self, offset: int) -> str:
        """A DUMP_STRING: its length in UTF-16 units, then the text; empty if it is damaged or not in the file."""
        size = 2 * int.from_bytes(self._file.read_at(offset, 4), "little")
        if not 0 < size <= MAX_NAME_BYTES:
            return ""
        data = self._file.read_at(offset + 4, size)
        text = data.decode("utf-16-le", "replace")
        return text if len(data) == size and text.isprintable() else ""
