"""The big-page table of a kernel that nobody knows: found by what it holds and by nt's code, or said to be unknown."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace

import pytest

from pykdext.errors import TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.biglocation import list_big_forms
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.model import ImageVersion, Machine, PoolTag, TargetFacts
from pykdext.symbols.chain import SymbolChain
from tests.helpers.segments import SegmentsTarget

NT, DATA_RVA, DATA_BYTES = 0xFFFFF80000000000, 0xC00000, 0x8000
TABLE, STALE, OTHER = 0xFFFFB00000000000, 0xFFFFB00010000000, 0xFFFFB00020000000
TAG = PoolTag(b"Bigg")
COUNT = 512


def pack_rows(chance, count, used, row_bytes):
    """Rows of big allocations, hashed by their page as Windows does since Vista, written here once more."""
    rows = [struct.pack("<Q", 1).ljust(row_bytes, b"\0")] * count
    places = {}
    while len(places) < used:
        va = 0xFFFF9000_00000000 + 0x1000 * chance.randrange(1 << 24)
        product = (va >> 12 & 0xFFFFFFFF) * 40543
        at = ((product & 0xFFFFFFFF) ^ (product >> 32)) & (count - 1)
        while at in places:
            at = (at + 1) & (count - 1)
        places[at] = va
        rows[at] = struct.pack("<Q4sIQ", va, TAG.raw, 0x200 << 8, 0x3000).ljust(row_bytes, b"\0")
    return b"".join(rows), set(places.values())


def big_kernel(seed, *, row_bytes=0x18, code=(), stale=False, present=None, told=COUNT):
    """``code``: which variables the pool routines use; ``stale``: the half as long one of before is there."""
    chance = random.Random(seed)
    table, addresses = pack_rows(chance, COUNT, 200, row_bytes)
    old, _ = pack_rows(chance, COUNT // 2, 100, row_bytes)
    places = chance.sample(range(0, DATA_BYTES, 8), 24)
    words = {"table": TABLE, "size": told, "stale": STALE if stale else 0, "number": 64, "other": OTHER}
    data = bytearray(DATA_BYTES)
    variables = {}
    for name, at in zip(words, places):
        variables[name] = NT + DATA_RVA + at
        data[at : at + 8] = words[name].to_bytes(8, "little")
    for at in places[len(words) :]:
        data[at : at + 8] = (OTHER + 0x1000 * chance.randrange(8)).to_bytes(8, "little")
    segments = {
        NT + DATA_RVA: bytes(data),
        TABLE: table[:present] if present else table,
        STALE: old,
        OTHER: bytes(chance.choices(b"\0\1abcXYZ \xff", k=0x8000)),
    }
    target = SegmentsTarget(segments, facts=TargetFacts("segments", Machine.X64, build=30000))
    nt = SimpleNamespace(
        sections=(SimpleNamespace(rva=DATA_RVA, size=DATA_BYTES, writable=True, known=True),),
        module=SimpleNamespace(base=NT),
        version=ImageVersion(),
        pdb=None,
        iter_range=lambda rva, size: [(at - NT, piece) for at, piece in target.read_present(NT + rva, size)],
    )
    used = frozenset(variables[name] for name in code)
    return Kernel(target, nt, SymbolChain([]), follow_pool_code=lambda _: used), addresses


def found_by(kernel):
    found = read_big_pages(kernel, [TAG])
    return {block.address for block in found.allocations}, found


@pytest.mark.parametrize("row_bytes", [0x18, 0x20])
@pytest.mark.parametrize("seed", range(4))
def test_the_table_is_found_by_what_it_holds(seed, row_bytes):
    kernel, addresses = big_kernel(seed, row_bytes=row_bytes)
    blocks, found = found_by(kernel)
    assert blocks == addresses and found.rows_expected == COUNT
    assert "by what it holds" in found.warnings[0]


@pytest.mark.parametrize("stale", [False, True])
def test_the_code_confirms_it_or_decides(stale):
    kernel, addresses = big_kernel(1, code=("table", "size", "number"), stale=stale)
    blocks, found = found_by(kernel)
    assert blocks == addresses and found.warnings == ()


def test_a_stale_table_beside_it_is_not_mistaken_without_code():
    kernel, _ = big_kernel(2, stale=True)
    with pytest.raises(TargetError, match="2 tables that nt's data lead to could be it"):
        read_big_pages(kernel, [TAG])


def test_code_that_uses_none_of_them_is_not_overruled():
    kernel, _ = big_kernel(3, code=("number",))
    with pytest.raises(TargetError, match="pool routines use 0 of them"):
        read_big_pages(kernel, [TAG])


def test_rows_and_code_that_do_not_agree_are_told():
    kernel, _ = big_kernel(4, code=("table", "size"), told=2 * COUNT)
    with pytest.raises(TargetError, match=r"has 512 rows, by nt's code 1,024: these do not agree"):
        read_big_pages(kernel, [TAG])


def test_of_a_table_that_is_mostly_not_there_the_code_tells_the_length_at_its_grade():
    kernel, addresses = big_kernel(5, code=("table", "size"), present=0x400)
    blocks, found = found_by(kernel)
    assert blocks < addresses and found.rows_read < found.rows_expected == COUNT
    assert "by nt's own code alone" in found.warnings[0]


@pytest.mark.parametrize("width", [4, 8])
def test_each_layout_of_a_row_is_tried_once(width):
    places = [(form.stride, form.offset("Va"), form.offset("Key")) for form in list_big_forms(width)]
    assert places
    assert len(places) == len(set(places))
