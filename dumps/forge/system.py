"""Writes what the kernel and debuggers keep about a whole system: variables of nt, shared user data, page states."""

from __future__ import annotations

import struct
from typing import List, Tuple

from dumps.forge.entryformats import INVALID_PTE_MASK
from dumps.forge.headers import Run, pack_memory_runs
from dumps.forge.kdbg import DebuggerDataKeys, build_debugger_data, encode_debugger_data
from dumps.forge.kernels import KernelBuild
from dumps.forge.ntimage import windows_version
from dumps.forge.parts import Parts
from dumps.forge.physical import HOLE_PAGE, PAGE_BYTES, SPAN_PAGES
from dumps.forge.pooltotals import Limits, PoolTotals, write_totals
from dumps.forge.standins import MODULES, PAGEABLE_RVA

FIVE_LEVELS_PFN_DATABASE = 0xFF31400000000000
PFN_DATABASE, NARROW_PFN_DATABASE = 0xFFFFFA8000000000, 0x80C00000

_TICK_COUNT_MULTIPLIER = 0x0FA00000  # 15.625 ms a tick
_TICKS_PER_SECOND = 64
_WINDOWS_7 = 7601
_BOOT_ID = 42
_SERVICE_PACKS = {2600: 3, 3790: 2, 6002: 2, 7601: 1}
_PAGED_POOL_BYTES = 0x0F000000  # the range of addresses that old kernels' variables tell


def memory_runs(kernel: KernelBuild) -> List[Run]:
    """Return the runs of physical memory that the machine has: all but the hole below 1 MB."""
    span_pages = kernel.architecture.span_pages
    if kernel.architecture.is_virtual:
        return [(0x1, 0x9E), (0x100, HOLE_PAGE - 0x100), (SPAN_PAGES, span_pages - SPAN_PAGES)]
    return [(0x1, 0x9E), (0x100, span_pages - 0x100)]


def write_variables(parts: Parts, totals: PoolTotals, *, encoded: bool) -> Limits:
    """Write the variables that debuggers read, and the debugger data block; return what can be found of the totals.

    ``encoded`` leaves the block as it is on a running system.
    """
    kernel = parts.kernel
    for name in ("PsActiveProcessHead", "KeBugCheckCallbackListHead"):
        head = parts.variable(name)  # an empty list
        parts.space.store(head, kernel.architecture.pack_pointers(head, head))
    parts.space.store(parts.variable("NtBuildLab"), kernel.build_lab.encode("ascii") + b"\0")
    parts.space.store(parts.variable("CmNtCSDVersion"), struct.pack("<I", _SERVICE_PACKS.get(kernel.build, 0) << 8))
    parts.set_variable("MmPhysicalMemoryBlock", _write_memory_block(parts))
    highest, probe, start = _user_limits(kernel)
    values = {
        "MmPfnDatabase": NARROW_PFN_DATABASE if kernel.architecture.narrow else PFN_DATABASE,
        "MmHighestUserAddress": highest,
        "MmUserProbeAddress": probe,
        "MmSystemRangeStart": start,
        "KeTimeIncrement": 156250,
        "MmNonPagedPoolStart": parts.regions.nonpaged.start,
        "MmPagedPoolStart": parts.regions.paged.start,
        "MmPagedPoolEnd": parts.regions.paged.start + _PAGED_POOL_BYTES - 1,
        "MiInvalidPteMask": INVALID_PTE_MASK,
        **dict.fromkeys(("ObpRootDirectoryObject", "ObpTypeObjectType", "KernelVerifier", "MmVerifierData"), 0),
    }
    for name, value in values.items():
        if name in kernel.variables:
            parts.set_variable(name, value)
    limits = write_totals(parts, totals, sum(count for _, count in memory_runs(kernel)))
    if "MiState" in kernel.variables:
        mask_va = parts.variable("MiState") + kernel.sizes.invalid_pte_mask
        parts.space.store(mask_va, struct.pack("<Q", INVALID_PTE_MASK))
    block_va, block = parts.variable("KdDebuggerDataBlock"), build_debugger_data(kernel)
    parts.space.store(block_va, _encode_block(parts, block) if encoded else block)
    parts.addresses["KDBG"] = block_va
    for name in ("PoolTrackTable", "ExPoolTagTables", "PoolBigPageTable", "PsActiveProcessHead", "KiProcessorBlock"):
        if name in kernel.variables:
            parts.addresses[name] = parts.variable(name)
    return limits


def write_shared_user_data(parts: Parts, now: int, uptime_seconds: int) -> None:
    """Write the start of KUSER_SHARED_DATA: times, version, system root; ``now`` is a FILETIME."""
    major, minor, build, _ = windows_version(parts.kernel)
    data = bytearray(0x400)
    struct.pack_into("<II", data, 0, 0, _TICK_COUNT_MULTIPLIER)
    for offset, time in ((0x8, uptime_seconds * 10_000_000), (0x14, now)):
        struct.pack_into("<QI", data, offset, time, time >> 32)
    root = "C:\\Windows".encode("utf-16-le")
    data[0x30 : 0x30 + len(root)] = root
    struct.pack_into("<IIBxxxII", data, 0x260, build, 3, 1, major, minor)
    struct.pack_into("<Q", data, 0x320, uptime_seconds * _TICKS_PER_SECOND)
    if parts.kernel.architecture.is_virtual:
        pages = sum(count for _, count in memory_runs(parts.kernel))
        struct.pack_into("<I", data, 0x2C4, _BOOT_ID)
        struct.pack_into("<I", data, 0x2E8, pages)
        struct.pack_into("<IB", data, 0x3C0, parts.processors, 1)
    parts.space.store(parts.kernel.architecture.shared_user_data, bytes(data))


def trim_pages(parts: Parts) -> None:
    """Give pageable code the states that trimmed pages have, and leave examples of pages without a frame.

    ``parts.addresses`` then has one page of every state as ``page:STATE``.
    """
    space, take, swizzles = parts.space, parts.regions.paged.take, parts.kernel.swizzles
    entry_bytes = parts.kernel.architecture.entries.entry_bytes
    prototypes = take(PAGE_BYTES)
    modules = [module for module in MODULES if module.paged_tags]
    pageable = [parts.addresses[f"module:{module.name}"] + PAGEABLE_RVA for module in modules]
    for number, va in enumerate(pageable):
        if number % 4 == 0:
            space.turn_into_prototype(va, prototypes + entry_bytes * number)
        elif number % 4 == 1:
            space.turn_into_transition(va)
        elif number % 4 == 2:
            space.turn_into_prototype(va, prototypes + entry_bytes * number, transition=True)
        else:
            space.turn_into_transition(va, swizzled=swizzles)
    states = ["page:prototype", "page:transition", "page:prototype-transition"] + ["page:swizzled"] * swizzles
    parts.addresses.update(zip(states, pageable))
    for name in ("page:pagefile", "page:demand-zero", "page:unmapped"):
        parts.addresses[name] = take(PAGE_BYTES)
    space.turn_into_pagefile(parts.addresses["page:pagefile"], 0x1F23)
    space.make_demand_zero(parts.addresses["page:demand-zero"])


def _encode_block(parts: Parts, block: bytes) -> bytes:
    """Write the keys and the flag of an encoded debugger data block, and return the block."""
    keys = DebuggerDataKeys(
        wait_never=parts.chance.getrandbits(64),
        wait_always=parts.chance.getrandbits(64),
        flag_va=parts.variable("KdpDataBlockEncoded"),
    )
    parts.set_variable("KiWaitNever", keys.wait_never)
    parts.set_variable("KiWaitAlways", keys.wait_always)
    parts.space.store(keys.flag_va, b"\1")
    return encode_debugger_data(block, keys)


def _write_memory_block(parts: Parts) -> int:
    va = parts.regions.nonpaged.take(0x40, alignment=0x10)
    parts.space.store(va, pack_memory_runs(parts.kernel.architecture, memory_runs(parts.kernel)))
    return va


def _user_limits(kernel: KernelBuild) -> Tuple[int, int, int]:
    """Return the highest user address, the probe address, and where system space starts."""
    if kernel.architecture.narrow:
        return 0x7FFEFFFF, 0x7FFF0000, 0x80000000
    if kernel.build <= _WINDOWS_7:
        return 0x7FFFFFEFFFF, 0x7FFFFFF0000, 0xFFFF080000000000
    return 0x7FFFFFFEFFFF, 0x7FFFFFFF0000, 0xFFFF800000000000
