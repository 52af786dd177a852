"""Writes the pool of a machine: its blocks, the tag tables of every processor, and the big-page table."""

from __future__ import annotations

import struct
from typing import Dict, List, Sequence, Tuple

from dumps.forge.counters import SEEDED_TAGS
from dumps.forge.modules import LoadedModules
from dumps.forge.ntimage import IMAGE_NAME
from dumps.forge.parts import Parts
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.plan import BlockPlan
from dumps.forge.poolblocks import PageFiller, PoolBlock, pack_contents
from dumps.forge.regions import Region
from dumps.forge.scrambling import COUNTS, FIRST_DECOY, STALE_TABLE
from dumps.forge.trackertables import (
    OVERFLOW_TAG,
    BigPage,
    TagTruth,
    pack_big_pages,
    pack_row,
    pack_table,
    place_tags,
    spread_counters,
)

_BIG_PAGE_ROWS = 1024


class PoolWriter:
    """Writes blocks first, then the tables that know of them; ``blocks`` are the blocks in use of each tag."""

    def __init__(self, parts: Parts, modules: LoadedModules) -> None:
        self._parts = parts
        self._modules = modules
        self._big_pages: List[BigPage] = []
        self.blocks: Dict[bytes, List[PoolBlock]] = {}

    def write_blocks(self, plan: BlockPlan) -> None:
        """Write the blocks of one tag."""
        pointers = self._modules.pointers_into(plan.module or IMAGE_NAME)
        write = self._write_big_blocks if plan.is_big else self._write_small_blocks
        self.blocks.setdefault(plan.tag, []).extend(write(plan, pointers))

    def write_tag_tables(self, tags: Dict[bytes, TagTruth], expansion: Sequence[bytes], row_count: int) -> None:
        """Write one table a processor with its share of the counters, and the expansion table if it has tags."""
        parts, row_bytes = self._parts, self._parts.kernel.sizes.tracker_row
        table_count = parts.processors if parts.kernel.tags_by_processor else 1
        hashed = {tag: counters for tag, counters in tags.items() if tag not in expansion}
        hashed.update({tag: TagTruth() for tag in SEEDED_TAGS})
        rows = place_tags(hashed, row_count, parts.kernel.build)
        shares = {tag: spread_counters(counters, table_count, parts.chance) for tag, counters in hashed.items()}
        shares[OVERFLOW_TAG] = [TagTruth()] * table_count
        tables: List[int] = []
        packed_tables: List[bytes] = []
        for processor in range(table_count):
            packed = {row: pack_row(tag, shares[tag][processor], row_bytes) for tag, row in rows.items()}
            packed_tables.append(pack_table(packed, row_count, row_bytes))
            tables.append(self._store_table(f"table:{processor}", packed_tables[-1]))
        if parts.kernel.tags_by_processor:
            pack_pointers, slot_count = parts.kernel.architecture.pack_pointers, parts.kernel.sizes.tag_table_slots
            parts.space.store(
                parts.variable("ExPoolTagTables"), pack_pointers(*tables, *[0] * (slot_count - len(tables)))
            )
        parts.set_variable("PoolTrackTable", tables[0])
        parts.set_variable("PoolTrackTableSize", row_count)
        parts.set_variable("PoolTrackTableMask", row_count - 2)
        self._write_decoys(tables, packed_tables, row_count)
        if expansion:
            packed = {row: pack_row(tag, tags[tag], row_bytes) for row, tag in enumerate(expansion)}
            expansion_rows = PAGE_BYTES // row_bytes
            table = self._store_table("expansion", pack_table(packed, expansion_rows, row_bytes))
            parts.set_variable("PoolTrackTableExpansion", table)
            parts.set_variable("PoolTrackTableExpansionSize", expansion_rows)

    def _write_decoys(self, tables: Sequence[int], packed: Sequence[bytes], row_count: int) -> None:
        """Write arrays of old tables, each of another processor's counters, and numbers like counts of rows."""
        parts = self._parts
        pack_pointers = parts.kernel.architecture.pack_pointers
        for name in sorted(name for name in parts.kernel.variables if name.startswith(FIRST_DECOY)):
            others = [
                self._store_table(f"{name}:{number}", packed[number - 1]) for number in range(1, min(len(tables), 0x40))
            ]
            parts.space.store(parts.variable(name), pack_pointers(tables[0], *others))
        if COUNTS in parts.kernel.variables:
            numbers = [(1 << bits) + off for bits in range(6, 14) for off in (-1, 1, 0)]
            parts.space.store(parts.variable(COUNTS), pack_pointers(*numbers, row_count, row_count - 2))

    @property
    def big_blocks(self) -> Tuple[int, ...]:
        """Where the big blocks in use are that the table lists."""
        return tuple(page.va for page in self._big_pages if not page.freed)

    def write_no_tables(self) -> None:
        """Leave the kernel without tables, as where pool tagging is switched off."""
        for name in self._parts.kernel.variables:
            if name.startswith("Pool"):
                self._parts.set_variable(name, 0)

    def write_heap_keys(self) -> None:
        """Write the keys of the segment heap where this kernel keeps them."""
        parts = self._parts
        if parts.heap is not None and "RtlpHpHeapGlobals" in parts.kernel.variables:
            keys = struct.pack("<2Q", parts.heap.heap_key, parts.heap.lfh_key)
            parts.space.store(parts.variable("RtlpHpHeapGlobals"), keys)

    def write_big_pages(self) -> None:
        """Write the big-page table over all big blocks, the freed ones too."""
        parts = self._parts
        kernel = parts.kernel
        row_bytes = kernel.sizes.big_page_row
        packed = pack_big_pages(self._big_pages, _BIG_PAGE_ROWS, row_bytes, kernel.build, kernel.architecture)
        parts.set_variable("PoolBigPageTable", self._store_table("bigpages", packed))
        parts.set_variable("PoolBigPageTableSize", _BIG_PAGE_ROWS)
        if STALE_TABLE in kernel.variables:
            half = self._big_pages[: len(self._big_pages) // 2]
            packed = pack_big_pages(half, _BIG_PAGE_ROWS // 2, row_bytes, kernel.build, kernel.architecture)
            parts.set_variable(STALE_TABLE, self._store_table("bigpages:old", packed))
        parts.set_variable("ExpPoolBigEntriesInUse", sum(not page.freed for page in self._big_pages))

    def _write_small_blocks(self, plan: BlockPlan, pointers: Sequence[int]) -> List[PoolBlock]:
        parts = self._parts
        filler = PageFiller(parts.kernel.architecture, parts.kernel.build, parts.chance, parts.heap)
        blocks: List[PoolBlock] = []
        for _ in range(plan.count):
            va = self._region(plan).take(PAGE_BYTES, gap=parts.chance.randrange(8) * PAGE_BYTES)
            page, page_blocks = filler.fill(va, plan.tag, plan.block_bytes, paged=plan.paged, contents=pointers)
            parts.space.store(va, page)
            blocks += page_blocks
        return blocks

    def _write_big_blocks(self, plan: BlockPlan, pointers: Sequence[int]) -> List[PoolBlock]:
        """Write ``plan.count`` blocks and list more; after every fifth the table still has a freed one."""
        parts, region, architecture = self._parts, self._region(plan), self._parts.kernel.architecture
        blocks: List[PoolBlock] = []
        for number in range(plan.count + plan.listed):
            va = region.take(plan.block_bytes, gap=parts.chance.randrange(4) * PAGE_BYTES)
            if number < plan.count:
                contents = pack_contents(architecture, va, plan.block_bytes, pointers, parts.chance)
                parts.space.store(va, contents)
                blocks.append(PoolBlock(va, plan.block_bytes, is_big=True))
            self._big_pages.append(BigPage(va, plan.tag, plan.block_bytes, plan.paged))
            if number % 5 == 4:
                freed_va = region.take(plan.block_bytes)
                self._big_pages.append(BigPage(freed_va, plan.tag, plan.block_bytes, plan.paged, freed=True))
        return blocks

    def _region(self, plan: BlockPlan) -> Region:
        return self._parts.regions.paged if plan.paged else self._parts.regions.nonpaged

    def _store_table(self, name: str, data: bytes) -> int:
        parts = self._parts
        va = parts.regions.tables.take(len(data), gap=PAGE_BYTES * (1 + parts.chance.randrange(6)))
        parts.space.store(va, data)
        parts.addresses[name] = va
        return va
