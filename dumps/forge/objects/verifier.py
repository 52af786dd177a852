"""Driver Verifier's accounts: the tree of the drivers it watches, their counters and tracked allocations.

Types of the public symbols of x64 kernels; from 20348 on only the counters are public.
"""

from __future__ import annotations

import struct
from typing import List, Mapping, Tuple

from dumps.forge.modules import LoadedModules
from dumps.forge.objects.blocks import BlockWriter
from dumps.forge.objects.layouts import Members, verifier_members
from dumps.forge.objects.poollog import PoolLog
from dumps.forge.objects.population import Population, VerifiedDriver
from dumps.forge.objects.truth import ObjectTruth, VerifiedTruth
from dumps.forge.objects.verifierlist import LAST_BUILD, write_verifier_list
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES

_POOL_TRACKING = 8
_LEVEL = 0x1 | 0x2 | _POOL_TRACKING | 0x10
_FIRST_WITHOUT_TRACKING_TYPES = 20348
_ENTRIES_START, _ENTRY_BYTES = 0x20, 0x20
_SIGNATURE = 0x0000000021455256
_NODE_BYTES = 0x20


def write_verifier(
    parts: Parts,
    modules: LoadedModules,
    variables: Mapping[str, int],
    blocks: BlockWriter,
    population: Population,
    truth: ObjectTruth,
) -> None:
    """Write the accounts of all drivers that are watched; where none is, Driver Verifier is off."""
    if not population.verified:
        return
    truth.verifier_level = _LEVEL
    if parts.kernel.build <= LAST_BUILD:
        write_verifier_list(parts, modules, population, truth)
        return
    if "ViTargetDriversAvl" not in variables:
        return
    layout = verifier_members(parts.kernel)
    nodes = []
    log = PoolLog(parts, modules, blocks, layout["TraceBytes"])
    for driver in population.verified:
        data_va = _write_driver(parts, modules, layout, driver, log, truth)
        node_va = parts.regions.nonpaged.take(0x100, alignment=0x10)
        base = modules.base(driver.driver)
        parts.space.store(node_va + _NODE_BYTES, struct.pack("<QQ", base, modules.images[driver.driver].size))
        parts.space.store(node_va + _NODE_BYTES + layout["VerifiedData"], struct.pack("<Q", data_va))
        nodes.append(node_va)
    _write_tree(parts, layout, variables["ViTargetDriversAvl"], nodes)
    log.write(variables)
    allocations = sum(driver.allocations for driver in population.verified)
    total_bytes = sum(driver.allocations * driver.block_bytes for driver in population.verified)
    global_va = parts.variable("MmVerifierData")
    parts.space.store(global_va + layout["TotalAllocations"], struct.pack("<II", 0, allocations))
    parts.space.store(global_va + layout["TotalBytes"], struct.pack("<QQ", 0, total_bytes))


def _write_tree(parts: Parts, layout: Members, tree_va: int, nodes: List[int]) -> None:
    """Write the tree as two tables, one empty; the nodes hang to the right of one another."""
    tables_va = parts.regions.nonpaged.take(2 * layout["TableBytes"], alignment=0x10)
    parts.space.store(tables_va, bytes(2 * layout["TableBytes"]))
    parts.space.store(tree_va + layout["Tables"], struct.pack("<Q", tables_va))
    parts.space.store(tree_va + layout["TablesNo"], struct.pack("<I", 2))
    previous = tables_va + layout["TableBytes"]
    for number, node_va in enumerate(nodes):
        right = nodes[number + 1] if number + 1 < len(nodes) else 0
        parts.space.store(node_va, struct.pack("<QQQQ", previous, 0, right, 0))
        previous = node_va
    table = struct.pack("<QQQQ", tables_va + layout["TableBytes"], 0, nodes[0], 0) + struct.pack(
        "<QII", 0, 0, len(nodes)
    )
    parts.space.store(tables_va + layout["TableBytes"], table)


def _write_driver(
    parts: Parts,
    modules: LoadedModules,
    layout: Members,
    driver: VerifiedDriver,
    log: PoolLog,
    truth: ObjectTruth,
) -> int:
    """Write a driver's counters, name and tracked allocations; return the address of the counters."""
    data_va = parts.regions.nonpaged.take(0x180, alignment=0x10)
    parts.space.store(data_va, bytes(0x180))
    suspect_va = parts.regions.nonpaged.take(0x100, alignment=0x10)
    name = driver.driver.encode("utf-16-le") + b"\0\0"
    entry = struct.pack("<QQII", suspect_va, suspect_va, 1, 0)
    entry += parts.kernel.architecture.pack_unicode_string(driver.driver, suspect_va + 0x40)
    parts.space.store(suspect_va, entry.ljust(0x40, b"\0") + name)
    size = driver.allocations * driver.block_bytes
    parts.space.store(data_va, struct.pack("<Q", suspect_va))
    parts.space.store(data_va + layout["Allocations"], struct.pack("<4I", 0, driver.allocations, 0, driver.allocations))
    parts.space.store(data_va + layout["Bytes"], struct.pack("<4Q", 0, size, 0, size))
    callers: Tuple[int, ...] = ()
    tracked = 0
    if parts.kernel.build < _FIRST_WITHOUT_TRACKING_TYPES:
        code_va, _ = modules.pointers_into(driver.driver)
        code_rva = code_va - modules.base(driver.driver)
        callers = (code_rva + 0x2B, code_rva + 0x57)
        first, tracked = _write_tracked(parts, data_va, driver, modules.base(driver.driver), callers)
        parts.space.store(data_va + layout["PoolPageHeaders"], struct.pack("<QQ", 0x10001, first | 1))
    logged, place = log.add(driver)
    truth.verified.append(
        VerifiedTruth(data_va, driver.driver, driver.allocations, size, driver.tag, callers, tracked, logged, place)
    )
    return data_va


def _write_tracked(
    parts: Parts, data_va: int, driver: VerifiedDriver, base: int, callers: Tuple[int, ...]
) -> Tuple[int, int]:
    """Write pages of entries, every ninth of which is free; return the first page and how many are in use."""
    per_page = (PAGE_BYTES - _ENTRIES_START) // _ENTRY_BYTES
    pages = -(-driver.tracked // per_page)
    starts = [parts.regions.nonpaged.take(PAGE_BYTES) for _ in range(pages)]
    pool_va, live = parts.regions.nonpaged.start, 0
    for number, va in enumerate(starts):
        following = starts[number + 1] if number + 1 < pages else 0
        page = struct.pack("<QQQQ", following, data_va, _SIGNATURE, 0)
        for entry in range(per_page):
            if entry % 9 == 8 or number * per_page + entry >= driver.tracked:
                page += bytes(_ENTRY_BYTES)
                continue
            caller = base + callers[entry % 4 == 3]
            block_va = pool_va + 0x10 * (number * per_page + entry)
            page += struct.pack("<QQQ4sI", block_va, caller, driver.block_bytes, driver.tag, 0)
            live += 1
        parts.addresses[f"verifier:{driver.driver}:{number}"] = va
        parts.space.store(va, page)
    return starts[0], live
