"""The structures of small memory dumps (triage dumps, type 4), 32-bit and 64-bit.

Declarations only. Offsets: the TRIAGE_DUMP structures of the public SDK and WDK headers, checked against real 64-bit
dumps. All integers are little-endian, all offsets count from the beginning of the file.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from construct import Bytes, Int16ul, Int32ul, Int64ul, Padding, Pointer, Struct

from pykdext.targets.kernelformat import KERNEL32, KERNEL64, KernelFormat, Record

VALID_MARK = b"TRGD"
"""What stands at ValidOffset, at the end of a dump that was written to its end."""

HAS_PROCESSOR = 0x4
HAS_PROCESS = 0x8
HAS_THREAD = 0x10
HAS_STACK = 0x20
HAS_DRIVERS = 0x40
HAS_DATA_PAGE = 0x200
HAS_DEBUGGER_DATA = 0x400
HAS_DATA_BLOCKS = 0x800
"""Bits of the dump header's MiniDumpFields: the parts that the dump has. Fields of other parts mean nothing."""


class RunningOffsets(NamedTuple):
    """Where the debugger data tells of the thread that ran.

    Offsets of KTHREAD's process and KPRCB's thread, sizes of EPROCESS and ETHREAD: two bytes each.
    """

    thread_process: int = 0x2A0
    process_bytes: int = 0x2A8
    processor_thread: int = 0x2B4
    thread_bytes: int = 0x2C0


class TriageFormat(NamedTuple):
    """The structures of one width.

    Attributes:
        kernel: those of its kernel. header: TRIAGE_DUMP, right behind the dump's header.
        data_block: TRIAGE_DATA_BLOCK, a piece of memory: its address, file offset and size. The address has 64 bits
            in both widths, with its sign extended: dbgeng reads the 32-bit dumps so.
        driver_entry: its ``size_bytes`` is the size it has in most dumps.
        unloaded_count_bytes: size of the number before the list of unloaded drivers.
    """

    kernel: KernelFormat
    header: Record
    data_block: struct.Struct
    driver_entry: Record
    unloaded_count_bytes: int
    unloaded_driver: Record


_TRIAGE_DUMP_START = Struct(
    "ServicePackBuild" / Int32ul,
    "SizeOfDump" / Int32ul,
    "ValidOffset" / Int32ul,
    "ContextOffset" / Int32ul,
    "ExceptionOffset" / Int32ul,
    "MmOffset" / Int32ul,
    "UnloadedDriversOffset" / Int32ul,
    "PrcbOffset" / Int32ul,
    "ProcessOffset" / Int32ul,
    "ThreadOffset" / Int32ul,
    "CallStackOffset" / Int32ul,
    "SizeOfCallStack" / Int32ul,
    "DriverListOffset" / Int32ul,
    "DriverCount" / Int32ul,
    "StringPoolOffset" / Int32ul,
    "StringPoolSize" / Int32ul,
    "BrokenDriverOffset" / Int32ul,
    "TriageOptions" / Int32ul,
)


def _triage_dump(pointer: Any, unused_bytes: int) -> Any:
    """TRIAGE_DUMP with addresses of type ``pointer``; the 64-bit form has a place for Itanium's registers."""
    return _TRIAGE_DUMP_START + Struct(
        "TopOfStack" / pointer,
        Padding(unused_bytes),
        "DataPageAddress" / pointer,
        "DataPageOffset" / Int32ul,
        "DataPageSize" / Int32ul,
        "DebuggerDataOffset" / Int32ul,
        "DebuggerDataSize" / Int32ul,
        "DataBlocksOffset" / Int32ul,
        "DataBlocksCount" / Int32ul,
    )


TRIAGE32 = TriageFormat(
    kernel=KERNEL32,
    header=Record(_triage_dump(Int32ul, 0), 0x68),
    data_block=struct.Struct("<QII"),
    driver_entry=Record(
        Struct(
            "DriverNameOffset" / Int32ul,
            "DllBase" / Pointer(0x1C, Int32ul),
            "SizeOfImage" / Pointer(0x24, Int32ul),
            "CheckSum" / Pointer(0x44, Int32ul),
            "TimeDateStamp" / Pointer(0x48, Int32ul),
        ),
        0x4C,
    ),
    unloaded_count_bytes=4,
    unloaded_driver=Record(
        Struct(
            "NameLength" / Int16ul,
            "DriverName" / Pointer(0x08, Bytes(0x18)),
            "StartAddress" / Pointer(0x20, Int32ul),
            "EndAddress" / Pointer(0x24, Int32ul),
        ),
        0x28,
    ),
)

TRIAGE64 = TriageFormat(
    kernel=KERNEL64,
    header=Record(_triage_dump(Int64ul, 0x10), 0x80),
    data_block=struct.Struct("<QII"),
    driver_entry=Record(
        Struct(
            "DriverNameOffset" / Int32ul,
            "DllBase" / Pointer(0x38, Int64ul),
            "SizeOfImage" / Pointer(0x48, Int32ul),
            "CheckSum" / Pointer(0x80, Int32ul),
            "TimeDateStamp" / Pointer(0x88, Int32ul),
        ),
        0x90,
    ),
    unloaded_count_bytes=8,
    unloaded_driver=Record(
        Struct(
            "NameLength" / Int16ul,
            "DriverName" / Pointer(0x10, Bytes(0x18)),
            "StartAddress" / Pointer(0x28, Int64ul),
            "EndAddress" / Pointer(0x30, Int64ul),
        ),
        0x38,
    ),
)
