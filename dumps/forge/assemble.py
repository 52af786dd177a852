"""Assembles a machine from a scenario, and tells the truth about it."""

from __future__ import annotations

import datetime
import random
from dataclasses import replace
from typing import Dict, Iterable, Optional, Tuple

from dumps.forge.architectures import X64
from dumps.forge.counters import shrink_counters, usual_counters
from dumps.forge.driverfile import DRIVER_TAGS, holds_tag
from dumps.forge.entryformats import INVALID_PTE_MASK, NarrowSoftwareEntries, SoftwareEntries
from dumps.forge.frameowners import FrameOwners
from dumps.forge.headers import DumpHeader
from dumps.forge.kernels import KernelBuild
from dumps.forge.loader import UnloadedDriver
from dumps.forge.machine import ForgedMachine, Truth
from dumps.forge.memorymanager import write_memory_counters
from dumps.forge.modules import LoadedModules, write_unloaded
from dumps.forge.objects.damage import lose_pages
from dumps.forge.objects.population import count_tags, plan_types
from dumps.forge.objects.truth import ObjectTruth
from dumps.forge.objects.writer import ObjectWriter
from dumps.forge.pageframes import write_page_frames
from dumps.forge.pagetables import AddressSpace
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES, FrameAllocator, PhysicalMemory
from dumps.forge.plan import HEALTHY_DRIVERS, USUAL_BLOCKS, Scenario, Wishes
from dumps.forge.pool import PoolWriter
from dumps.forge.pooltotals import Limits, PoolTotals, count_totals, nonpaged_limit_bytes, paged_limit_bytes
from dumps.forge.processors import write_processors
from dumps.forge.regions import PAGED_POOL_START, plan_regions
from dumps.forge.segmentheap import plan_heap
from dumps.forge.sessions import SessionSpaces, write_session_spaces
from dumps.forge.system import (
    FIVE_LEVELS_PFN_DATABASE,
    PFN_DATABASE,
    memory_runs,
    trim_pages,
    write_shared_user_data,
    write_variables,
)
from dumps.forge.trackertables import TagTruth
from dumps.forge.userpages import write_user_pages
from dumps.forge.virtual import write_low_stub, write_processes

_TAKEN_AT = datetime.datetime(2024, 11, 12, 3, 41, 27, tzinfo=datetime.timezone.utc)
_FILETIME_ORIGIN = datetime.datetime(1601, 1, 1, tzinfo=datetime.timezone.utc)
_FILETIME_SECOND = 10_000_000
_NOW = int((_TAKEN_AT - _FILETIME_ORIGIN).total_seconds()) * _FILETIME_SECOND
_FIRST_WITH_PCID = 17763
_FIRST_VISTA = 6000
_FIRST_WITH_SWIZZLE_BIT = 17763
_MANY_OBJECTS = 30_000


def assemble_machine(scenario: Scenario, kernel: KernelBuild, wishes: Wishes) -> ForgedMachine:
    """Return the machine of a scenario; the same arguments make the same machine."""
    architecture = kernel.architecture
    suffix = "" if architecture.name == X64.name else f" {architecture.name}"
    chance = random.Random(f"{scenario.name} {kernel.build} {wishes.processors} {wishes.seed}{suffix}")
    software = _choose_software_entries(kernel, swizzle=wishes.swizzle)
    space = AddressSpace(
        PhysicalMemory(),
        FrameAllocator(
            chance,
            architecture.span_pages,
            dense=(wishes.leaked or 0) > _MANY_OBJECTS,
            is_virtual=architecture.is_virtual,
        ),
        architecture.entries,
        software,
    )
    parts = Parts(
        kernel, wishes.processors, space, plan_regions(kernel, chance), chance, plan_heap(kernel, wishes.seed)
    )
    if kernel.huge_pages:
        parts.addresses["page:1G"] = parts.regions.tables.next_va
        space.map_huge(parts.regions.tables.next_va, space.frames.huge_frame())

    tags = {**usual_counters(), **scenario.tags}
    if architecture.narrow:
        tags = {tag: shrink_counters(counters) for tag, counters in tags.items()}
    leaked = scenario.leaked if wishes.leaked is None else wishes.leaked
    population = scenario.populate(leaked) if scenario.populate is not None else None
    types = [] if population is None else plan_types(architecture, population, wishes.healthy_share)
    if population is not None:
        tags.update(count_tags(types, population, architecture))
    modules = LoadedModules(parts, HEALTHY_DRIVERS + scenario.drivers, wishes.drivers)
    unloaded = write_unloaded(parts, _NOW)
    pool = PoolWriter(parts, modules)
    pool.write_heap_keys()
    totals = count_totals(kernel, tags.values())
    if wishes.untagged:
        tags = {}
        pool.write_no_tables()
    else:
        for plan in USUAL_BLOCKS + scenario.blocks:
            pool.write_blocks(plan)
        pool.write_tag_tables(tags, scenario.expansion, wishes.table_rows)
        pool.write_big_pages()
    objects = None
    if population is not None:
        parts.frame_owners = FrameOwners(architecture.entries) if wishes.page_frames is not None else None
        parts.sessions = SessionSpaces() if wishes.session_pool else None
        objects = ObjectWriter(parts, modules, types, _NOW, scenario.uptime_seconds, traced=wishes.traced)
        objects.write(population)
        for tag, blocks in objects.blocks.items():
            pool.blocks.setdefault(tag, []).extend(blocks)
    write_processors(parts, scenario.bugcheck, modules.code_addresses())
    limits = write_variables(parts, totals, encoded=wishes.encoded_kdbg)
    memory, frames, private = _write_memory(parts, wishes, totals)
    write_shared_user_data(parts, _NOW, scenario.uptime_seconds)
    if architecture.is_virtual:
        write_processes(parts)
        write_low_stub(parts)
    trim_pages(parts)
    if objects is not None:
        objects.link()
    if parts.sessions is not None:
        write_session_spaces(parts, parts.sessions)

    found = None if objects is None else objects.truth
    truth = _tell_truth(scenario, parts, modules, unloaded, tags, pool, limits, found)
    truth = replace(
        truth,
        session_tags=parts.sessions.tags if parts.sessions is not None else {},
        memory=memory,
        frames=frames,
        private_frames=private,
    )
    user_frames, free_frames = write_user_pages(parts) if wishes.user_pages else (frozenset(), frozenset())
    machine = ForgedMachine(
        truth=truth,
        addresses=parts.addresses,
        header=_build_header(scenario, parts),
        memory=space.memory,
        space=space,
        kernel=kernel,
        module_paths=modules.paths,
        table_bytes=wishes.table_rows * kernel.sizes.tracker_row,
        user_frames=user_frames,
        free_frames=free_frames,
    )
    if scenario.without_pages_of:
        _lose_pages(machine, modules, scenario.without_pages_of)
    if wishes.pages_lost and population is not None and objects is not None:
        lose_pages(machine, population, objects.truth)
    return machine


def _tell_truth(
    scenario: Scenario,
    parts: Parts,
    modules: LoadedModules,
    unloaded: Iterable[UnloadedDriver],
    tags: Dict[bytes, TagTruth],
    pool: PoolWriter,
    limits: Limits,
    objects: Optional[ObjectTruth],
) -> Truth:
    build = parts.kernel.build
    return Truth(
        build=build,
        machine=parts.kernel.architecture.family,
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
        owners={**modules.owners(), **(objects.owners() if objects is not None else {})},
        blocks={tag: tuple(blocks) for tag, blocks in pool.blocks.items()},
        big_blocks=pool.big_blocks,
        nonpaged_limit_bytes=nonpaged_limit_bytes(parts.kernel),
        paged_limit_bytes=paged_limit_bytes(parts.kernel),
        limits=limits,
        objects=objects,
    )


_SLOT_BYTES = 1 << 39


def _write_memory(
    parts: Parts, wishes: Wishes, totals: PoolTotals
) -> Tuple[Dict[str, int], Dict[str, int], Dict[int, int]]:
    """Return what the memory manager counts beside the pools, the uses of page frames, and whose private ones are."""
    memory: Dict[str, int] = {}
    frames: Dict[str, int] = {}
    private: Dict[int, int] = {}
    if wishes.memory is not None:
        memory = write_memory_counters(parts, wishes.memory, totals.committed_pages, totals.nonpaged_pages)
    if wishes.page_frames is not None:
        large = parts.addresses["page:large"] = parts.regions.tables.take(1 << 21, alignment=1 << 21)
        parts.space.map_large(large, parts.space.frames.take_large(0x200))
        database = FIVE_LEVELS_PFN_DATABASE if parts.kernel.architecture.has_five_levels else PFN_DATABASE
        if database != PFN_DATABASE:
            parts.set_variable("MmPfnDatabase", database)
        elif parts.regions.nonpaged.start & -_SLOT_BYTES == PFN_DATABASE:  # nonpaged pool stands close behind its start
            database += _SLOT_BYTES // 2
            parts.set_variable("MmPfnDatabase", database)
        frames, private = write_page_frames(parts, database, wishes.page_frames)
    return memory, frames, private


def _build_header(scenario: Scenario, parts: Parts) -> DumpHeader:
    architecture = parts.kernel.architecture
    pcid = 2 if parts.kernel.build >= _FIRST_WITH_PCID and architecture.family == X64.family else 0
    return DumpHeader(
        build=parts.kernel.build,
        directory_table_base=parts.space.root_address | pcid,
        pfn_database=parts.variable("MmPfnDatabase"),
        loaded_module_list=parts.variable("PsLoadedModuleList"),
        active_process_head=parts.variable("PsActiveProcessHead"),
        processors=parts.processors,
        bugcheck=scenario.bugcheck,
        debugger_data_block=parts.variable("KdDebuggerDataBlock"),
        system_time=_NOW,
        system_uptime=scenario.uptime_seconds * _FILETIME_SECOND,
        memory_runs=memory_runs(parts.kernel),
        instruction_pointer=parts.kernel.base + parts.kernel.functions["KeBugCheckEx"],
        stack_pointer=parts.addresses["stack:0"],
        valid_dump=b"DUMP" if architecture.narrow else b"DU64",
        machine_type=architecture.machine,
        pae_enabled=int(architecture.pae) if architecture.narrow else None,
        architecture=architecture,
    )


def _choose_software_entries(kernel: KernelBuild, *, swizzle: bool) -> SoftwareEntries:
    """Return the forms that this kernel gives to entries that are not valid."""
    architecture = kernel.architecture
    if architecture.narrow and not architecture.pae:
        old = kernel.build < _FIRST_VISTA
        base, low_bits = (PAGED_POOL_START, 7) if old else (0x80000000, 8)
        return NarrowSoftwareEntries(0, 1, prototype_base=base, low_bits=low_bits)
    mask = INVALID_PTE_MASK if kernel.swizzles else 0
    late = kernel.swizzles or kernel.build >= _FIRST_WITH_SWIZZLE_BIT
    return SoftwareEntries(32 if architecture.narrow else 16, 12 if late else 1, mask, swizzle)


def _lose_pages(machine: ForgedMachine, modules: LoadedModules, name: str) -> None:
    """Lose the driver's pages that hold its tag and every second other page: out of the dump, or in a page file."""
    base, tag, space = modules.base(name), DRIVER_TAGS[name], machine.space
    architecture = machine.kernel.architecture
    addresses = range(base + PAGE_BYTES, base + modules.images[name].size, PAGE_BYTES)
    mapped = [va for va in addresses if space.translate(va) is not None]
    lost = [
        va for number, va in enumerate(mapped) if number % 2 or holds_tag(space.read(va, PAGE_BYTES), tag, architecture)
    ]
    for number, va in enumerate(lost):
        if number % 2:
            space.turn_into_pagefile(va, 0x2000 + number)
        else:
            machine.omit(va, PAGE_BYTES)
