"""The structures of 64-bit kernel crash dump files and of the kernel memory that describes itself.

Declarations only. Offsets: the Windows SDK's and WDK's public headers, volatility's crash vtypes and overlays,
kdmp-parser's structures; checked against real dumps. All integers are little-endian.
"""

from __future__ import annotations

from typing import Any

from construct import (
    Array,
    Bytes,
    Const,
    ExprAdapter,
    Int16ul,
    Int32ul,
    Int64ul,
    Padding,
    Pointer,
    Struct,
)

HEADER64_BYTES = 0x2000
"""Size of DUMP_HEADER64; what follows depends on DumpType."""

MAX_HEADER_RUNS = 42
"""How many PHYSICAL_MEMORY_RUN64 fit into the 2BCh bytes of the header's physical memory block."""

_UNSET32 = int.from_bytes(b"PAGE", "little")
_UNSET64 = int.from_bytes(b"PAGEPAGE", "little")


def _keep(value: int, _context: Any) -> int:
    return value


# The kernel fills the header with the text PAGE before it writes fields: what still reads PAGE was never set.
_SetInt32 = ExprAdapter(Int32ul, lambda value, _: None if value == _UNSET32 else value, _keep)
_SetInt64 = ExprAdapter(Int64ul, lambda value, _: None if value == _UNSET64 else value, _keep)

PHYSICAL_MEMORY_RUN64 = Struct("BasePage" / Int64ul, "PageCount" / Int64ul)

PHYSICAL_MEMORY_DESCRIPTOR64 = Struct(
    "NumberOfRuns" / _SetInt32,
    Padding(4),
    "NumberOfPages" / _SetInt64,
    "Run" / Array(MAX_HEADER_RUNS, PHYSICAL_MEMORY_RUN64),
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
    "Attributes" / Pointer(0x1050, _SetInt32),
)

BITMAP_HEADER64_BYTES = 0x38
"""Size of the header of a bitmap dump (types 5 and 6), at HEADER64_BYTES; the bitmap follows it."""

BITMAP_HEADER64 = Struct(
    "Signature" / Bytes(4),  # SDMP: a part of memory; FDMP: all of it
    "ValidDump" / Const(b"DUMP"),
    "DumpOptions" / Int32ul,
    Padding(0x14),
    "FirstPage" / Int64ul,
    "TotalPresentPages" / Int64ul,
    "Pages" / Int64ul,
)

UNICODE_STRING64 = Struct("Length" / Int16ul, "MaximumLength" / Int16ul, Padding(4), "Buffer" / Int64ul)

LIST_ENTRY64 = Struct("Flink" / Int64ul, "Blink" / Int64ul)

KLDR_DATA_TABLE_ENTRY64_BYTES = 0xA0
KLDR_DATA_TABLE_ENTRY64 = Struct(
    "InLoadOrderLinks" / LIST_ENTRY64,
    "DllBase" / Pointer(0x30, Int64ul),
    "SizeOfImage" / Pointer(0x40, Int32ul),
    "FullDllName" / Pointer(0x48, UNICODE_STRING64),
    "BaseDllName" / Pointer(0x58, UNICODE_STRING64),
    "CheckSum" / Pointer(0x78, Int32ul),
    "TimeDateStamp" / Pointer(0x9C, Int32ul),  # Windows 10 and later; other things stood there before
)

PE_OFFSET_AT = 0x3C
"""Where an image's DOS header tells the offset of its PE header (e_lfanew)."""

PE_HEADER_BYTES = 0x5C
PE_HEADER = Struct(  # as far as both PE32 and PE32+ agree
    "Signature" / Bytes(4),
    "TimeDateStamp" / Pointer(0x08, Int32ul),
    "SizeOfImage" / Pointer(0x50, Int32ul),
    "CheckSum" / Pointer(0x58, Int32ul),
)

UNLOADED_DRIVER64_BYTES = 0x28
UNLOADED_DRIVER64 = Struct(
    "Name" / UNICODE_STRING64,
    "StartAddress" / Int64ul,
    "EndAddress" / Int64ul,
    "CurrentTime" / Int64ul,
)

KDDEBUGGER_DATA64_MIN_BYTES = 0x290
KDDEBUGGER_DATA64_MAX_BYTES = 0x1000
"""The structure grew from 290h (Windows XP) to 380h (Windows 10); the maximum is ours, against damage."""

KDDEBUGGER_DATA64_HEADER = Struct(
    "List" / LIST_ENTRY64,
    "OwnerTag" / Bytes(4),
    "Size" / Int32ul,
    "KernBase" / Int64ul,
)

KDDEBUGGER_DATA64_VARIABLES = Struct(
    "PsLoadedModuleList" / Pointer(0x048, Int64ul),
    "PsActiveProcessHead" / Pointer(0x050, Int64ul),
    "PspCidTable" / Pointer(0x058, Int64ul),
    "KeTimeIncrement" / Pointer(0x078, Int64ul),
    "KiBugcheckData" / Pointer(0x088, Int64ul),
    "MmPfnDatabase" / Pointer(0x0C0, Int64ul),
    "MmNumberOfPhysicalPages" / Pointer(0x0F8, Int64ul),
    "MmMaximumNonPagedPoolInBytes" / Pointer(0x100, Int64ul),
    "MmNonPagedPoolStart" / Pointer(0x110, Int64ul),
    "MmNonPagedPoolEnd" / Pointer(0x118, Int64ul),
    "MmPagedPoolStart" / Pointer(0x120, Int64ul),
    "MmPagedPoolEnd" / Pointer(0x128, Int64ul),
    "MmPagedPoolInformation" / Pointer(0x130, Int64ul),
    "MmSizeOfPagedPoolInBytes" / Pointer(0x140, Int64ul),
    "MmTotalCommitLimit" / Pointer(0x148, Int64ul),
    "MmTotalCommittedPages" / Pointer(0x150, Int64ul),
    "MmPagedPoolCommit" / Pointer(0x170, Int64ul),
    "PoolTrackTable" / Pointer(0x1B8, Int64ul),
    "NonPagedPoolDescriptor" / Pointer(0x1C0, Int64ul),
    "MmHighestUserAddress" / Pointer(0x1C8, Int64ul),
    "MmSystemRangeStart" / Pointer(0x1D0, Int64ul),
    "NtBuildLab" / Pointer(0x208, Int64ul),
    "KiProcessorBlock" / Pointer(0x218, Int64ul),
    "MmUnloadedDrivers" / Pointer(0x220, Int64ul),
    "MmLastUnloadedDriver" / Pointer(0x228, Int64ul),
    "MmSpecialPoolTag" / Pointer(0x238, Int64ul),
    "KernelVerifier" / Pointer(0x240, Int64ul),
    "MmVerifierData" / Pointer(0x248, Int64ul),
    "MmAllocatedNonPagedPool" / Pointer(0x250, Int64ul),
    "CmNtCSDVersion" / Pointer(0x268, Int64ul),
    "MmPhysicalMemoryBlock" / Pointer(0x270, Int64ul),
)
"""Members of KDDEBUGGER_DATA64: addresses of the kernel variables of their names, 0 where there is none."""
