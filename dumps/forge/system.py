"""Writes what the kernel and debuggers keep about a whole system: variables of nt, processors, page states."""

from __future__ import annotations

import struct
from typing import List

from dumps.forge.headers import Run, pack_context
from dumps.forge.kdbg import build_debugger_data
from dumps.forge.ntimage import windows_version
from dumps.forge.pagetables import INVALID_PTE_MASK
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES, SPAN_PAGES
from dumps.forge.standins import MODULES, PAGEABLE_RVA

PFN_DATABASE = 0xFFFFFA8000000000

_SHARED_USER_DATA = 0xFFFFF78000000000
_TICK_COUNT_MULTIPLIER = 0x0FA00000  # 15.625 ms a tick
_TICKS_PER_SECOND = 64


def memory_runs() -> List[Run]:
    """Return the runs of physical memory that the machine has: all but the hole below 1 MB."""
    return [(0x1, 0x9E), (0x100, SPAN_PAGES - 0x100)]


def nonpaged_limit_bytes(build: int) -> int:
    """Return the limit of nonpaged pool: three quarters of the memory on Windows 7, 16 TB later."""
    return SPAN_PAGES * PAGE_BYTES * 3 // 4 if build == 7601 else 16 << 40


def paged_limit_bytes(build: int) -> int:
    """Return the limit of paged pool: 128 GB on Windows 7, 15.5 TB later."""
    return 128 << 30 if build == 7601 else 31 << 39


def write_variables(parts: Parts, nonpaged_bytes: int) -> None:
    """Write the variables that debuggers read, and the debugger data block; ``nonpaged_bytes`` are in use."""
    kernel = parts.kernel
    processes = parts.variable("PsActiveProcessHead")
    parts.space.store(processes, struct.pack("<QQ", processes, processes))
    parts.space.store(parts.variable("NtBuildLab"), kernel.build_lab.encode("ascii") + b"\0")
    parts.set_variable("MmPhysicalMemoryBlock", _write_memory_block(parts))
    old = kernel.build == 7601
    allocated_pages = nonpaged_bytes // PAGE_BYTES + 977  # pages are never filled to the last byte
    values = {
        "MmPfnDatabase": PFN_DATABASE,
        "MmHighestUserAddress": 0x7FFFFFEFFFF if old else 0x7FFFFFFEFFFF,
        "MmUserProbeAddress": 0x7FFFFFF0000 if old else 0x7FFFFFFF0000,
        "MmSystemRangeStart": 0xFFFF080000000000 if old else 0xFFFF800000000000,
        "KeTimeIncrement": 156250,
        "MmSizeOfPagedPoolInBytes": paged_limit_bytes(kernel.build),
        "MmMaximumNonPagedPoolInBytes": nonpaged_limit_bytes(kernel.build),
        "MmAllocatedNonPagedPool": allocated_pages,
        "MmNumberOfPhysicalPages": sum(count for _, count in memory_runs()),
        "MiInvalidPteMask": INVALID_PTE_MASK,
    }
    for name, value in values.items():
        if name in kernel.variables:
            parts.set_variable(name, value)
    if "MiState" in kernel.variables:
        _write_memory_manager_state(parts, allocated_pages)
    block_va = parts.variable("KdDebuggerDataBlock")
    parts.space.store(block_va, build_debugger_data(kernel))
    parts.addresses["KDBG"] = block_va
    for name in ("PoolTrackTable", "ExPoolTagTables", "PoolBigPageTable", "PsActiveProcessHead", "KiProcessorBlock"):
        parts.addresses[name] = parts.variable(name)


def write_processors(parts: Parts) -> None:
    """Write the part of each KPRCB that debuggers ask for; its other pages are one page of zeros."""
    space, sizes = parts.space, parts.kernel.sizes
    zeros = space.frames.take()
    space.memory.page(zeros)
    instruction = parts.kernel.base + parts.kernel.functions["KeBugCheckEx"]
    blocks = []
    for number in range(parts.processors):
        va = parts.regions.processors.take(sizes.prcb, gap=0x10000)
        space.store(va + 0x24, struct.pack("<I", number))
        space.store(va + sizes.processor_state, pack_context(instruction))
        space.store(va + sizes.prcb_context, struct.pack("<Q", va + sizes.processor_state))
        for page_va in range(va, va + sizes.prcb, PAGE_BYTES):
            if space.translate(page_va) is None:
                space.map_page(page_va, zeros)
        blocks.append(va)
    space.store(parts.variable("KiProcessorBlock"), struct.pack(f"<{parts.processors + 1}Q", *blocks, 0))


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
    parts.space.store(_SHARED_USER_DATA, bytes(data))


def trim_pages(parts: Parts) -> None:
    """Give pageable code the states that trimmed pages have, and leave examples of pages without a frame.

    ``parts.addresses`` then has one page of every state as ``page:STATE``.
    """
    space, take = parts.space, parts.regions.paged.take
    prototypes = take(PAGE_BYTES)
    modules = [module for module in MODULES if module.paged_tags]
    pageable = [parts.addresses[f"module:{module.name}"] + PAGEABLE_RVA for module in modules]
    for number, va in enumerate(pageable):
        if number % 4 == 0:
            space.turn_into_prototype(va, prototypes + 8 * number)
        elif number % 4 == 1:
            space.turn_into_transition(va)
        elif number % 4 == 2:
            space.turn_into_prototype(va, prototypes + 8 * number, transition=True)
        else:
            space.turn_into_transition(va, swizzled=True)
    states = ("page:prototype", "page:transition", "page:prototype-transition", "page:swizzled")
    parts.addresses.update(zip(states, pageable))
    for name in ("page:pagefile", "page:demand-zero", "page:unmapped"):
        parts.addresses[name] = take(PAGE_BYTES)
    space.turn_into_pagefile(parts.addresses["page:pagefile"], 0x1F23)
    space.make_demand_zero(parts.addresses["page:demand-zero"])


def _write_memory_block(parts: Parts) -> int:
    runs = memory_runs()
    descriptor = struct.pack("<IxxxxQ", len(runs), sum(count for _, count in runs))
    va = parts.regions.nonpaged.take(0x40, alignment=0x10)
    parts.space.store(va, descriptor + b"".join(struct.pack("<QQ", *run) for run in runs))
    return va


def _write_memory_manager_state(parts: Parts, allocated_pages: int) -> None:
    """Write the members of nt!MiState that replaced the pool's global variables; sizes are in pages."""
    state, sizes, build = parts.variable("MiState"), parts.kernel.sizes, parts.kernel.build
    for offset, value in (
        (sizes.allocated_nonpaged_pages, allocated_pages),
        (sizes.maximum_nonpaged_pages, nonpaged_limit_bytes(build) // PAGE_BYTES),
        (sizes.maximum_nonpaged_pages + 8, paged_limit_bytes(build) // PAGE_BYTES),
        (sizes.invalid_pte_mask, INVALID_PTE_MASK),
    ):
        parts.space.store(state + offset, struct.pack("<Q", value))
