"""Assembles a machine from a scenario, and tells the truth about it."""

from __future__ import annotations

import datetime
import random
from typing import Dict, Iterable

from dumps.forge.counters import usual_counters
from dumps.forge.driverfile import DRIVER_TAGS
from dumps.forge.headers import DumpHeader
from dumps.forge.kernels import KernelBuild
from dumps.forge.loader import UnloadedDriver
from dumps.forge.machine import ForgedMachine, Truth
from dumps.forge.modules import LoadedModules, write_unloaded
from dumps.forge.pagetables import AddressSpace
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES, FrameAllocator, PhysicalMemory
from dumps.forge.plan import HEALTHY_DRIVERS, USUAL_BLOCKS, Scenario
from dumps.forge.pool import PoolWriter
from dumps.forge.regions import plan_regions
from dumps.forge.system import (
    memory_runs,
    nonpaged_limit_bytes,
    paged_limit_bytes,
    trim_pages,
    write_processors,
    write_shared_user_data,
    write_variables,
)
from dumps.forge.trackertables import TagTruth

_TAKEN_AT = datetime.datetime(2024, 11, 12, 3, 41, 27, tzinfo=datetime.timezone.utc)
_FILETIME_ORIGIN = datetime.datetime(1601, 1, 1, tzinfo=datetime.timezone.utc)
_FILETIME_SECOND = 10_000_000
_NOW = int((_TAKEN_AT - _FILETIME_ORIGIN).total_seconds()) * _FILETIME_SECOND
_FIRST_WITH_PCID = 17763


def assemble_machine(
    scenario: Scenario, kernel: KernelBuild, processors: int, table_rows: int, seed: int
) -> ForgedMachine:
    """Return the machine of a scenario; the same arguments make the same machine."""
    chance = random.Random(f"{scenario.name} {kernel.build} {processors} {seed}")
    space = AddressSpace(PhysicalMemory(), FrameAllocator(chance))
    parts = Parts(kernel, processors, space, plan_regions(kernel, chance), chance)
    if kernel.huge_pages:
        parts.addresses["page:1G"] = parts.regions.tables.next_va
        space.map_huge(parts.regions.tables.next_va, space.frames.huge_frame())

    tags = {**usual_counters(), **scenario.tags}
    modules = LoadedModules(parts, HEALTHY_DRIVERS + scenario.drivers)
    unloaded = write_unloaded(parts, _NOW)
    pool = PoolWriter(parts, modules)
    for plan in USUAL_BLOCKS + scenario.blocks:
        pool.write_blocks(plan)
    pool.write_tag_tables(tags, scenario.expansion, table_rows)
    pool.write_big_pages()
    write_processors(parts)
    write_variables(parts, sum(counters.nonpaged_bytes for counters in tags.values()))
    write_shared_user_data(parts, _NOW, scenario.uptime_seconds)
    trim_pages(parts)

    truth = _tell_truth(scenario, parts, modules, unloaded, tags, pool)
    machine = ForgedMachine(truth, parts.addresses, _build_header(scenario, parts), space.memory, space)
    if scenario.without_pages_of:
        _lose_pages(machine, modules, scenario.without_pages_of)
    return machine


def _tell_truth(
    scenario: Scenario,
    parts: Parts,
    modules: LoadedModules,
    unloaded: Iterable[UnloadedDriver],
    tags: Dict[bytes, TagTruth],
    pool: PoolWriter,
) -> Truth:
    build = parts.kernel.build
    return Truth(
        build=build,
        machine="x64",
        processors=parts.processors,
        bugcheck=scenario.bugcheck,
        taken_at=_TAKEN_AT,
        uptime_seconds=float(scenario.uptime_seconds),
        kernel_guid=parts.kernel.guid,
        tags={tag: counters for tag, counters in tags.items() if any(counters)},
        modules=tuple(
            (name, modules.base(name), image.size, image.timestamp) for name, image in modules.images.items()
        ),
        unloaded=tuple((driver.name, driver.start, driver.end) for driver in unloaded),
        leak=scenario.leak,
        owners=modules.owners(),
        blocks={tag: tuple(blocks) for tag, blocks in pool.blocks.items()},
        nonpaged_limit_bytes=nonpaged_limit_bytes(build),
        paged_limit_bytes=paged_limit_bytes(build),
    )


def _build_header(scenario: Scenario, parts: Parts) -> DumpHeader:
    pcid = 2 if parts.kernel.build >= _FIRST_WITH_PCID else 0
    return DumpHeader(
        build=parts.kernel.build,
        directory_table_base=parts.space.root_pfn << 12 | pcid,
        pfn_database=parts.variable("MmPfnDatabase"),
        loaded_module_list=parts.variable("PsLoadedModuleList"),
        active_process_head=parts.variable("PsActiveProcessHead"),
        processors=parts.processors,
        bugcheck=scenario.bugcheck,
        debugger_data_block=parts.variable("KdDebuggerDataBlock"),
        system_time=_NOW,
        system_uptime=scenario.uptime_seconds * _FILETIME_SECOND,
        memory_runs=memory_runs(),
        instruction_pointer=parts.kernel.base + parts.kernel.functions["KeBugCheckEx"],
    )


def _lose_pages(machine: ForgedMachine, modules: LoadedModules, name: str) -> None:
    """Lose the driver's pages that hold its tag and every second other page: out of the dump, or in a page file."""
    base, tag, space = modules.base(name), DRIVER_TAGS[name], machine.space
    addresses = range(base + PAGE_BYTES, base + modules.images[name].size, PAGE_BYTES)
    mapped = [va for va in addresses if space.translate(va) is not None]
    lost = [va for number, va in enumerate(mapped) if number % 2 or tag in space.read(va, PAGE_BYTES)]
    for number, va in enumerate(lost):
        if number % 2:
            space.turn_into_pagefile(va, 0x2000 + number)
        else:
            machine.omit(va, PAGE_BYTES)
