"""Finds the pages of the tag tables in a file that does not tell where some of its pages stand.

A page that holds rows of a table can be told from all others: its keys are tags, and a tag's row follows from its hash.
"""

from __future__ import annotations

from functools import partial
from typing import Iterable

from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.believed import OVERFLOW_KEY, hash_before_vista, hash_of_vista
from pykdext.kernel.pool.inference import MAX_PROCESSORS, is_table_pointer
from pykdext.kernel.pool.layouts import TrackerLayout, is_printable, list_tracker_layouts
from pykdext.model import PROTECTED_POOL
from pykdext.targets.protocol import PAGE_BYTES, PlaceProver, Target, VirtualReader

_FEWEST_ROWS = 4
_SHARE = 0.8
"""So many of a page's used rows, and at least four of them, have a tag, and stand where it puts them."""

_FARTHEST_ROWS = 8
"""How far from the place that its hash gives a row may stand, where others were taken before."""

_USUAL_MASK = 0x3FF
"""Of the hash: that of all larger tables agrees with it, and no kernel makes smaller ones by itself."""


def prove_table_pointers(kernel: Kernel) -> None:
    """Find the pages of the variables that lead to the tables."""
    target = kernel.target
    if not isinstance(target, PlaceProver) or not target.has_uncertain_places:
        return
    width = target.pointer_size
    layouts = list_tracker_layouts(width)

    def leads_to_table(pointer: int, memory: VirtualReader) -> bool:
        table = int.from_bytes(memory.read(pointer, width), "little")
        return is_table_pointer(table, target.machine) and _reads_as_rows(table, 0, layouts, _USUAL_MASK, memory)

    for name, slots in (("PoolTrackTable", 1), ("ExPoolTagTables", target.facts.processors or 1)):
        symbol = kernel.find_symbol(name)
        if symbol is None:
            continue
        for slot in range(min(slots, MAX_PROCESSORS)):
            target.prove_places(partial(leads_to_table, symbol.address + slot * width))


def prove_table_pages(target: Target, tables: Iterable[int], layout: TrackerLayout, row_count: int) -> None:
    """Find the pages of the tables at these addresses."""
    if not isinstance(target, PlaceProver):
        return
    for table in tables:
        for offset in range(0, row_count * layout.row_bytes, PAGE_BYTES):
            if target.has_uncertain_places:
                target.prove_places(partial(_reads_as_rows, table, offset, (layout,), row_count - 2))


def _reads_as_rows(table: int, offset: int, layouts: Iterable[TrackerLayout], mask: int, memory: VirtualReader) -> bool:
    """Whether the page at ``offset`` in a table reads as rows of one of the layouts that are in their places.

    The last row has its own tag, whatever the hash; it counts where it is alone.
    """
    page = memory.read(table + offset, PAGE_BYTES)
    for layout in layouts:
        first = -(-offset // layout.row_bytes)
        rows = page[first * layout.row_bytes - offset : (mask + 1) * layout.row_bytes - offset]
        keys = [row[0] & ~PROTECTED_POOL for row in layout.form.iter_unpack(rows)]
        overflow = (mask + 1) * layout.row_bytes - offset
        if not rows and page[overflow : overflow + 4] == OVERFLOW_KEY.to_bytes(4, "little"):
            return True
        used = [(row, key) for row, key in enumerate(keys, first) if key]
        tags = [(row, key) for row, key in used if is_printable(key)]
        for hash_key in (hash_of_vista, hash_before_vista):
            placed = sum((row - hash_key(key)) & mask <= _FARTHEST_ROWS for row, key in tags)
            if placed >= max(_FEWEST_ROWS, _SHARE * len(used)):
                return True
    return False
