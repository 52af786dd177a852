"""The debugger data block, KDDEBUGGER_DATA64 (wdbgexts documentation; values of real blocks of 19041 and 22000).

It holds addresses of kernel variables, 64 bits wide on every system. Kernels whose variables moved into structures
leave those members zero.
"""

from __future__ import annotations

import struct
from typing import Dict, NamedTuple

from dumps.forge.descriptors import SELECTORS
from dumps.forge.kernels import KernelBuild
from dumps.forge.processors import PCR_SELF
from dumps.forge.threads import thread_layout

# Offset in the block -> the variable whose address stands there.
_ADDRESSES: Dict[int, str] = {
    0x048: "PsLoadedModuleList",
    0x050: "PsActiveProcessHead",
    0x058: "PspCidTable",
    0x060: "ExpSystemResourcesList",
    0x078: "KeTimeIncrement",
    0x080: "KeBugCheckCallbackListHead",
    0x088: "KiBugCheckData",
    0x098: "ObpRootDirectoryObject",
    0x0A0: "ObpTypeObjectType",
    0x0C0: "MmPfnDatabase",
    0x0F8: "MmNumberOfPhysicalPages",
    0x100: "MmMaximumNonPagedPoolInBytes",
    0x110: "MmNonPagedPoolStart",
    0x120: "MmPagedPoolStart",
    0x128: "MmPagedPoolEnd",
    0x130: "MmPagedPoolInfo",
    0x140: "MmSizeOfPagedPoolInBytes",
    0x148: "MmTotalCommitLimit",
    0x150: "MmTotalCommittedPages",
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


class DebuggerDataKeys(NamedTuple):
    """What a running system hides the block with: two random numbers, and the address of KdpDataBlockEncoded."""

    wait_never: int
    wait_always: int
    flag_va: int


def build_debugger_data(kernel: KernelBuild) -> bytes:
    """Return the block, decoded, as the crash path of the kernel leaves it in a dump."""
    sizes, architecture = kernel.sizes, kernel.architecture
    head_va = architecture.widen(kernel.base + kernel.variables["KdDebuggerDataBlock"])
    block = bytearray(sizes.debugger_data)
    struct.pack_into("<QQ4sI", block, 0, head_va, head_va, b"KDBG", sizes.debugger_data)
    struct.pack_into("<Q", block, 0x18, architecture.widen(kernel.base))
    struct.pack_into("<H", block, 0x36, architecture.pae)
    for offset, name in _ADDRESSES.items():
        if name in kernel.variables:
            struct.pack_into("<Q", block, offset, architecture.widen(kernel.base + kernel.variables[name]))
    struct.pack_into("<Q", block, 0x138, 0x1000)
    for offset, number in (
        *((0x298 + 2 * n, offset) for n, offset in enumerate(thread_layout(kernel))),
        (0x2A8, sizes.eprocess),
        (0x2AA, sizes.peb),
        (0x2AC, sizes.parent_cid),
        (0x2AE, sizes.process_root),
        (0x2B0, sizes.prcb),
        (0x2B4, sizes.prcb_thread),
        (0x2BC, sizes.processor_state),
        (0x2BE, sizes.prcb_number),
        (0x2C0, sizes.ethread),
        (0x2E0, sizes.pcr),
        *((0x2E2 + 2 * n, offset) for n, offset in enumerate(PCR_SELF[architecture.family])),
        (0x2E6, sizes.pcr - sizes.prcb),
        (0x2F2, sizes.special_registers),
        *((0x2F4 + 2 * n, selector) for n, selector in enumerate(SELECTORS[architecture.family])),
        (0x338, sizes.prcb_context),
    ):
        if offset < sizes.debugger_data:
            struct.pack_into("<H", block, offset, number)
    if sizes.debugger_data >= 0x368:
        struct.pack_into("<Q", block, 0x360, architecture.widen(architecture.entries.pte_base))
    return bytes(block)


def encode_debugger_data(block: bytes, keys: DebuggerDataKeys) -> bytes:
    """Return the block as 64-bit systems since Windows 8 keep it until they crash (the inverse of QEMU's reading)."""
    return b"".join(struct.pack("<Q", _encode_word(word, keys)) for (word,) in struct.iter_unpack("<Q", block))


def _encode_word(word: int, keys: DebuggerDataKeys) -> int:
    turn = keys.wait_never & 63
    swapped = int.from_bytes((word ^ keys.wait_always).to_bytes(8, "little"), "big")
    hidden = swapped ^ (keys.flag_va | 0xFFFF000000000000)
    return (hidden >> turn | hidden << 64 - turn) & 0xFFFFFFFFFFFFFFFF ^ keys.wait_never
