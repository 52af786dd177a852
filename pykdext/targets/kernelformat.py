"""The structures of kernel memory that describe the kernel itself: its drivers, and its variables for debuggers.

Declarations only. Offsets: symbols of the kernels and the debugger headers of the Windows SDK and WDK, volatility's
overlays; checked against real dumps. All integers are little-endian.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from construct import Bytes, Int16ul, Int32ul, Int64ul, Padding, Pointer, Struct

from pykdext.model import Machine


class Record(NamedTuple):
    """A structure as far as it is read: its declaration, and how many bytes of it that takes."""

    declaration: Any
    size_bytes: int


class KernelFormat(NamedTuple):
    """The structures of a kernel with pointers of one width.

    Attributes:
        machine: one that has such structures. unloaded_driver: a slot of MmUnloadedDrivers.
    """

    machine: Machine
    unloaded_driver: Record

    @property
    def pointer_bytes(self) -> int:
        """The width."""
        return self.machine.pointer_size

    @property
    def kernel_start(self) -> int:
        """The lowest address that can be the kernel's; user space lies below."""
        return self.machine.kernel_start


_LIST_ENTRY64 = Struct("Flink" / Int64ul, "Blink" / Int64ul)

_UNICODE_STRING32 = Struct("Length" / Int16ul, "MaximumLength" / Int16ul, "Buffer" / Int32ul)
_UNICODE_STRING64 = Struct("Length" / Int16ul, "MaximumLength" / Int16ul, Padding(4), "Buffer" / Int64ul)

KERNEL32 = KernelFormat(
    machine=Machine.X86,
    unloaded_driver=Record(
        Struct(
            "Name" / _UNICODE_STRING32,
            "StartAddress" / Int32ul,
            "EndAddress" / Int32ul,
            "CurrentTime" / Int64ul,
        ),
        0x18,
    ),
)

KERNEL64 = KernelFormat(
    machine=Machine.X64,
    unloaded_driver=Record(
        Struct(
            "Name" / _UNICODE_STRING64,
            "StartAddress" / Int64ul,
            "EndAddress" / Int64ul,
            "CurrentTime" / Int64ul,
        ),
        0x28,
    ),
)

_BY_POINTER_BYTES = {4: KERNEL32, 8: KERNEL64}

PE_OFFSET_AT = 0x3C
"""Where an image's DOS header tells the offset of its PE header (e_lfanew)."""

PE_HEADER = Record(
    Struct(  # as far as both PE32 and PE32+ agree
        "Signature" / Bytes(4),
        "TimeDateStamp" / Pointer(0x08, Int32ul),
        "SizeOfImage" / Pointer(0x50, Int32ul),
        "CheckSum" / Pointer(0x58, Int32ul),
    ),
    0x5C,
)

KDDEBUGGER_DATA64_MIN_BYTES = 0x290
KDDEBUGGER_DATA64_MAX_BYTES = 0x1000
"""The structure grew from 290h (Windows XP) to 380h (Windows 10); the maximum is ours, against damage."""

KDDEBUGGER_DATA64_HEADER = Record(
    Struct(
        "List" / _LIST_ENTRY64,
        "OwnerTag" / Bytes(4),
        "Size" / Int32ul,
        "KernBase" / Int64ul,
    ),
    0x20,
)

KDDEBUGGER_DATA64_VARIABLES = Struct(
    "PsLoadedModuleList" / Pointer(0x048, Int64ul),
    "PsActiveProcessHead" / Pointer(0x050, Int64ul),
    "PspCidTable" / Pointer(0x058, Int64ul),
    "KeTimeIncrement" / Pointer(0x078, Int64ul),
    "KiBugcheckData" / Pointer(0x088, Int64ul),
    "ObpTypeObjectType" / Pointer(0x0A0, Int64ul),
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


def choose_kernel_format(machine: Machine) -> KernelFormat:
    """The structures of a kernel for processors of a kind."""
    return _BY_POINTER_BYTES[machine.pointer_size]
