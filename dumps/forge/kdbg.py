"""The debugger data block, KDDEBUGGER_DATA64 (wdbgexts documentation; values of real blocks of 19041 and 22000).

It holds addresses of kernel variables. Kernels whose variables moved into structures leave those members zero.
"""

from __future__ import annotations

import struct
from typing import Dict

from dumps.forge.kernels import KernelBuild
from dumps.forge.pagetables import PTE_BASE

# Offset in the block -> the variable whose address stands there.
_ADDRESSES: Dict[int, str] = {
    0x048: "PsLoadedModuleList",
    0x050: "PsActiveProcessHead",
    0x058: "PspCidTable",
    0x060: "ExpSystemResourcesList",
    0x078: "KeTimeIncrement",
    0x080: "KeBugCheckCallbackListHead",
    0x098: "ObpRootDirectoryObject",
    0x0A0: "ObpTypeObjectType",
    0x0C0: "MmPfnDatabase",
    0x0F8: "MmNumberOfPhysicalPages",
    0x100: "MmMaximumNonPagedPoolInBytes",
    0x140: "MmSizeOfPagedPoolInBytes",
    0x1B8: "PoolTrackTable",
    0x1C8: "MmHighestUserAddress",
    0x1D0: "MmSystemRangeStart",
    0x1D8: "MmUserProbeAddress",
    0x208: "NtBuildLab",
    0x218: "KiProcessorBlock",
    0x220: "MmUnloadedDrivers",
    0x228: "MmLastUnloadedDriver",
    0x238: "MmSpecialPoolTag",
    0x240: "KernelVerifier",
    0x248: "MmVerifierData",
    0x250: "MmAllocatedNonPagedPool",
    0x268: "CmNtCSDVersion",
    0x270: "MmPhysicalMemoryBlock",
}


def build_debugger_data(kernel: KernelBuild) -> bytes:
    """Return the block, decoded, as the crash path of the kernel leaves it in a dump."""
    sizes = kernel.sizes
    head_va = kernel.base + kernel.variables["KdDebuggerDataBlock"]
    block = bytearray(sizes.debugger_data)
    struct.pack_into("<QQ4sI", block, 0, head_va, head_va, b"KDBG", sizes.debugger_data)
    struct.pack_into("<Q", block, 0x18, kernel.base)
    for offset, name in _ADDRESSES.items():
        if name in kernel.variables:
            struct.pack_into("<Q", block, offset, kernel.base + kernel.variables[name])
    struct.pack_into("<Q", block, 0x138, 0x1000)
    struct.pack_into("<HHHHHH", block, 0x2A8, sizes.eprocess, sizes.peb, sizes.parent_cid, 0x28, sizes.prcb, 0)
    struct.pack_into("<H", block, 0x2B4, 0x8)  # KPRCB.CurrentThread
    struct.pack_into("<HHH", block, 0x2BC, sizes.processor_state, 0x24, sizes.ethread)
    struct.pack_into("<H", block, 0x2E0, sizes.pcr)
    struct.pack_into("<H", block, 0x338, sizes.prcb_context)
    if sizes.debugger_data >= 0x368:
        struct.pack_into("<Q", block, 0x360, PTE_BASE)
    return bytes(block)
