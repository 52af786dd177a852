"""The structures of kernel crash dump files, 32-bit and 64-bit, and of the kernel memory that describes itself.

Declarations only. Offsets: the Windows SDK's and WDK's public headers, volatility's crash vtypes and overlays,
kdmp-parser's structures; checked against real dumps. All integers are little-endian.
"""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

from construct import (
    Array,
    Bytes,
    Const,
    ExprAdapter,
    Int8ul,
    Int32ul,
    Int64ul,
    Padding,
    Pointer,
    Struct,
)

from pykdext.model import Machine

_UNSET32 = int.from_bytes(b"PAGE", "little")
_UNSET64 = int.from_bytes(b"PAGEPAGE", "little")


def _keep(value: int, _context: Any) -> int:
    return value


# The kernel fills the header with the text PAGE before it writes fields: what still reads PAGE was never set.
_SetInt32 = ExprAdapter(Int32ul, lambda value, _: None if value == _UNSET32 else value, _keep)
_SetInt64 = ExprAdapter(Int64ul, lambda value, _: None if value == _UNSET64 else value, _keep)

PHYSICAL_MEMORY_RUN32 = Struct("BasePage" / Int32ul, "PageCount" / Int32ul)
PHYSICAL_MEMORY_RUN64 = Struct("BasePage" / Int64ul, "PageCount" / Int64ul)

MAX_HEADER_RUNS32 = 86
MAX_HEADER_RUNS64 = 42
"""How many runs fit into the 2BCh bytes that the header has for the physical memory block."""

PHYSICAL_MEMORY_DESCRIPTOR32 = Struct(
    "NumberOfRuns" / _SetInt32,
    "NumberOfPages" / _SetInt32,
    "Run" / Array(MAX_HEADER_RUNS32, PHYSICAL_MEMORY_RUN32),
)

PHYSICAL_MEMORY_DESCRIPTOR64 = Struct(
    "NumberOfRuns" / _SetInt32,
    Padding(4),
    "NumberOfPages" / _SetInt64,
    "Run" / Array(MAX_HEADER_RUNS64, PHYSICAL_MEMORY_RUN64),
)

DUMP_HEADER32 = Struct(
    "Signature" / Bytes(4),
    "ValidDump" / Bytes(4),
    "MajorVersion" / _SetInt32,
    "MinorVersion" / _SetInt32,
    "DirectoryTableBase" / _SetInt32,
    "PfnDataBase" / _SetInt32,
    "PsLoadedModuleList" / _SetInt32,
    "PsActiveProcessHead" / _SetInt32,
    "MachineImageType" / _SetInt32,
    "NumberProcessors" / _SetInt32,
    "BugCheckCode" / _SetInt32,
    "BugCheckParameter" / Array(4, _SetInt32),
    "PaeEnabled" / Pointer(0x05C, Int8ul),
    "KdDebuggerDataBlock" / Pointer(0x060, _SetInt32),
    "PhysicalMemoryBlock" / Pointer(0x064, PHYSICAL_MEMORY_DESCRIPTOR32),
    "Attributes" / Pointer(0x8A0, _SetInt32),
    "DumpType" / Pointer(0xF88, _SetInt32),
    "MiniDumpFields" / Pointer(0xF8C, _SetInt32),
    "SystemUpTime" / Pointer(0xFB8, _SetInt64),
    "SystemTime" / Pointer(0xFC0, _SetInt64),
)

DUMP_HEADER64 = Struct(
    "Signature" / Bytes(4),
    "ValidDump" / Bytes(4),
    "MajorVersion" / _SetInt32,
    "MinorVersion" / _SetInt32,
    "DirectoryTableBase" / _SetInt64,
    "PfnDataBase" / _SetInt64,
    "PsLoadedModuleList" / _SetInt64,
    "PsActiveProcessHead" / _SetInt64,
    "MachineImageType" / _SetInt32,
    "NumberProcessors" / _SetInt32,
    "BugCheckCode" / _SetInt32,
    Padding(4),
    "BugCheckParameter" / Array(4, _SetInt64),
    "KdDebuggerDataBlock" / Pointer(0x080, _SetInt64),
    "PhysicalMemoryBlock" / Pointer(0x088, PHYSICAL_MEMORY_DESCRIPTOR64),
    "DumpType" / Pointer(0xF98, _SetInt32),
    "SystemTime" / Pointer(0xFA8, _SetInt64),
    "SystemUpTime" / Pointer(0x1030, _SetInt64),
    "MiniDumpFields" / Pointer(0x1038, _SetInt32),
    "Attributes" / Pointer(0x1050, _SetInt32),
)


class HeaderFormat(NamedTuple):
    """One of the two forms of a dump's header.

    Attributes:
        bits: width of the kernel's addresses. size_bytes: of the header; what follows depends on DumpType.
        declaration: the DUMP_HEADER32 or DUMP_HEADER64. max_runs: what its physical memory block can hold.
        machines: the processor architectures, by their MachineImageType.
        machine_offset, memory_block_offset, runs_offset, dump_type_offset, attributes_offset: places of fields, for
            messages.
    """

    bits: int
    size_bytes: int
    declaration: Any
    max_runs: int
    machines: Mapping[int, Machine]
    machine_offset: int
    memory_block_offset: int
    runs_offset: int
    dump_type_offset: int
    attributes_offset: int


HEADER32 = HeaderFormat(
    bits=32,
    size_bytes=0x1000,
    declaration=DUMP_HEADER32,
    max_runs=MAX_HEADER_RUNS32,
    machines={0x014C: Machine.X86},
    machine_offset=0x020,
    memory_block_offset=0x064,
    runs_offset=0x06C,
    dump_type_offset=0xF88,
    attributes_offset=0x8A0,
)

HEADER64 = HeaderFormat(
    bits=64,
    size_bytes=0x2000,
    declaration=DUMP_HEADER64,
    max_runs=MAX_HEADER_RUNS64,
    machines={0x8664: Machine.X64, 0xAA64: Machine.ARM64},
    machine_offset=0x030,
    memory_block_offset=0x088,
    runs_offset=0x098,
    dump_type_offset=0xF98,
    attributes_offset=0x1050,
)

BITMAP_HEADER_BYTES = 0x38
"""Size of the header of a bitmap dump (types 5, 6, 7), behind the dump's header; the bitmap follows it."""

BITMAP_HEADER = Struct(
    "Signature" / Bytes(4),  # SDMP: a part of memory; FDMP: all of it
    "ValidDump" / Const(b"DUMP"),
    "DumpOptions" / Int32ul,
    Padding(0x14),
    "FirstPage" / Int64ul,
    "TotalPresentPages" / Int64ul,
    "Pages" / Int64ul,
)

SUMMARY_HEADER_BYTES = 0x20
"""Size of what the headers of summary dumps (type 2) have in common, 32-bit and 64-bit."""

SUMMARY_HEADER = Struct(
    "Signature" / Const(b"SDMP"),
    "ValidDump" / Const(b"DUMP"),
    "DumpOptions" / Int32ul,
    "HeaderSize" / Int32ul,  # the file offset of the first page
    "BitmapSize" / Int32ul,  # in bits
    "Pages" / Int32ul,
)

RANGE_HEADER_BYTES = 0x30
"""Size of the header of a range dump (types 8, 9, A), behind the dump's header; the list of ranges follows it."""

RANGE_HEADER = Struct(
    "Marker" / Const(0x40, Int32ul),
    "Signature" / Const(b"RDMP"),
    "ValidDump" / Const(b"DUMP"),
    Padding(4),
    "MetadataSize" / Int64ul,
    "FirstPageOffset" / Int64ul,
    "NumberOfRanges" / Int32ul,  # this and the next: type A only
    Padding(4),
    "TotalNumberOfPages" / Int64ul,
)
