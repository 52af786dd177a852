"""Who points at mappings: page tables that have no end end the count."""

from __future__ import annotations

import struct

from pykdext.attribution import mappings
from pykdext.attribution.mappings import find_holders
from pykdext.kernel.memory.database import PteSpace
from pykdext.model import Allocation, PoolKind, PoolTag
from pykdext.work import UNWATCHED
from tests.helpers.segments import SegmentsTarget

SPACE = PteSpace(0xFFFFF68000000000)
REGION, BLOCK = 0xFFFFF88000000000, 0xFFFFFA8000001000
TABLE_BYTES = 512 * 0x1000


def entry_of(address):
    return SPACE.base + (address >> 12 & (1 << 36) - 1) * 8


def find(tables, *addresses):
    """``tables``: the entries from the region's start on, those of one page table each."""
    memory = {entry_of(REGION): b"".join(tables), BLOCK: struct.pack(f"<{len(addresses)}Q", *addresses)}
    block = Allocation(BLOCK, 8 * len(addresses), PoolTag(b"Mapr"), PoolKind.NONPAGED, is_big=True)
    regions = [(REGION, REGION + (1 << 39))]
    return find_holders(SegmentsTarget(memory), SPACE, regions, (), (block,), UNWATCHED)


def test_what_two_pointers_lead_to_is_counted_once():
    table = struct.pack("<512Q", *([0x63] * 100 + [0] + [0x63] * 50 + [0] * 361))
    (holder,) = find([table], REGION, REGION + 0x5000, REGION + 101 * 0x1000, REGION + 200 * 0x1000)
    assert (holder.name, holder.is_tag, holder.ranges, holder.most_bytes) == ("Mapr", True, 2, 150 * 0x1000)


def test_page_tables_without_an_end_end_the_count(monkeypatch):
    monkeypatch.setattr(mappings, "MAX_TABLES_READ", 3)
    full = struct.pack("<512Q", *([0x63] * 512))
    (holder,) = find([full] * 8, REGION, REGION + 6 * TABLE_BYTES)
    assert (holder.ranges, holder.most_bytes) == (1, 3 * TABLE_BYTES)
