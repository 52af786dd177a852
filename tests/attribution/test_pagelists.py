"""Who points at lists of pages: what is a list, and chains without an end."""

from __future__ import annotations

import struct

import pytest

from pykdext.attribution.pagelists import find_list_holders
from pykdext.model import Allocation, Machine, PoolKind, PoolTag
from pykdext.work import UNWATCHED
from tests.helpers.segments import SegmentsTarget

BLOCK, LIST, OTHER = 0xFFFFFA8000001000, 0xFFFFFA8000100000, 0xFFFFFA8000900000
UNMAPPED = range(0x1000, 0x90000)


def page_list(pages, *, following=0, size=None, described=None, start=0, offset=0):
    """A memory descriptor list of 64 bits as wdm.h has it."""
    size = 0x30 + 8 * len(pages) if size is None else size
    described = len(pages) << 12 if described is None else described
    head = struct.pack("<QHHHHQQQII", following, size & 0xFFFF, 2, 0, 0, 0, 0, start, described, offset)
    return head + struct.pack(f"<{len(pages)}Q", *pages)


def find(memory, *addresses):
    memory = {BLOCK: struct.pack(f"<{len(addresses)}Q", *addresses), **memory}
    block = Allocation(BLOCK, 8 * len(addresses), PoolTag(b"Blln"), PoolKind.NONPAGED, is_big=True)
    target = SegmentsTarget(memory)
    found = find_list_holders(
        target, lambda frame: frame in UNMAPPED, Machine.X64.kernel_start, (), (block,), UNWATCHED
    )
    return [(holder.name, holder.is_tag, holder.ranges, holder.most_bytes) for holder in found]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 5000, 8186, 8188, 300_000])
def test_a_list_of_any_length(count):
    """The size of a long one does not fit into 16 bits."""
    pages = [0x1000 + number for number in range(count)]
    assert find({LIST: page_list(pages)}, LIST, LIST, LIST + 8) == [("Blln", True, 1, count << 12)]


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0x30 + 8 * 99},
        {"size": 0x33 + 8 * 100},
        {"described": 0},
        {"described": 200 << 12},
        {"start": 0x1008},
        {"offset": 0x1000},
        {"following": 0x7FFF0000},
    ],
)
def test_what_is_no_list(changes):
    assert find({LIST: page_list([0x1000 + number for number in range(100)], **changes)}, LIST) == []


def test_pages_that_are_mapped_twice_or_not_all_there():
    mapped = [0x1000 + number for number in range(80)] + [0x10 + number for number in range(20)]
    assert find({LIST: page_list(mapped)}, LIST) == []
    assert find({LIST: page_list([0x1000] * 100)}, LIST) == []
    assert find({LIST: page_list([0x1000 + number for number in range(100)])[: -8 * 90]}, LIST) == []


def test_lists_that_are_chained_in_a_circle_are_counted_once():
    first = page_list([0x1000 + number for number in range(100)], following=OTHER)
    second = page_list([0x2000 + number for number in range(50)], following=LIST)
    assert find({LIST: first, OTHER: second}, LIST, OTHER) == [("Blln", True, 2, 150 << 12)]
