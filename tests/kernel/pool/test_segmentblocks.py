"""Small blocks proven by the segment heap's own records: from bytes written here, and from two real dumps."""

from __future__ import annotations

import random
import struct

import pytest

from pykdext.kernel.pool.heapchunks import CHUNK_32, HeapKeys, KeyVotes
from pykdext.kernel.pool.poolheaders import find_headers
from pykdext.kernel.pool.smallblocks import find_small_blocks
from pykdext.model import Machine, PoolTag, TargetFacts
from pykdext.targets.dump.crashdump import open_crashdump
from tests.helpers.segments import SegmentsTarget

PIPO, POOL = PoolTag(b"Pipo"), 0xFFFFE00000000000
KEY, LFH_KEY = 0x620E994736767EE6, 0x1122334455667788
ROW = 0xFFFFE00000400000


def target_of(segments, build=22000):
    facts = TargetFacts("segments", Machine.X64, build=build)
    return SegmentsTarget(segments, machine=Machine.X64, symbols={}, facts=facts)


def header(units, kind, tag, index=0):
    return struct.pack("<BBBB4sQ", 0, index, units, kind, tag, 0)


def chunk(va, units, previous=0, allocated=1, key=KEY):
    return struct.pack("<QQ", (units << 16 | previous << 32 | allocated << 48) ^ va ^ key, 0)


def chunks_page(va, blocks, key=KEY):
    """A page of chunks, each of (units of its block, tag, allocated, units that the chunk has more)."""
    page, previous = bytearray(random.Random(va).getrandbits(8 * 0x1000).to_bytes(0x1000, "little")), 0
    at = 0x40
    for units, tag, allocated, more in blocks:
        page[at : at + 16] = chunk(va + at, units + more, previous, allocated, key)
        page[at + 16 : at + 32] = header(units, 2, tag, index=at >> 4)
        previous = units + more
        at += (units + more) * 16
    return bytes(page)


def seen(found):
    return [(block.address, block.is_certain, block.is_likely) for block in found.allocations]


KEY32, POOL32 = 0x9E3779B1, 0x8A000000


def narrow_target(segments):
    facts = TargetFacts("segments", Machine.X86, build=19041)
    return SegmentsTarget(segments, machine=Machine.X86, symbols={}, facts=facts)


def narrow_page(va, blocks, key=KEY32, end=0x1000):
    """The same on 32 bits: half the bytes for each header, units of 8 bytes."""
    page, previous = bytearray(random.Random(va).getrandbits(8 * 0x1000).to_bytes(0x1000, "little")), 0
    at = 0x40
    for units, tag, allocated, more in blocks:
        plain = (units + more) << 1 | previous << 16 | allocated << 31
        page[at : at + 8] = struct.pack("<II", plain ^ va + at ^ key, 0)
        page[at + 8 : at + 16] = struct.pack("<HH4s", 0, units | 2 << 9, tag)
        previous = units + more
        at += (units + more) * 8
    return bytes(page[:end])


def test_on_32_bits_a_neighbour_must_agree():
    """Votes need more blocks there; the last chunk is confirmed by the one before it."""
    blocks = [(5 + number % 3, b"Pipo" if number % 2 else b"Else", 1, 1 + number % 2) for number in range(24)]
    page = narrow_page(POOL32, [*blocks, (300, b"Pipo", 1, 1)])
    found = find_small_blocks(narrow_target({POOL32: page}), PIPO)
    assert [block.is_certain for block in found.allocations] == [False] * 13  # no two neighbours vote alike
    page = narrow_page(POOL32, [(units, tag, 1, 1) for units, tag, *_ in blocks] + [(300, b"Pipo", 1, 1)])
    found = find_small_blocks(narrow_target({POOL32: page}), PIPO)
    assert [block.is_certain for block in found.allocations] == [True] * 13
    assert found.allocations[-1].size_bytes == 2400


def test_on_32_bits_a_chunk_alone_proves_nothing():
    keys = HeapKeys(KEY32, form=CHUNK_32)
    alone = narrow_page(POOL32, [(6, b"Pipo", 1, 1)])
    found = find_small_blocks(narrow_target({POOL32: alone}), PIPO, keys=keys)
    assert [block.is_certain for block in found.allocations] == [False]
    pair = narrow_page(POOL32, [(6, b"Pipo", 1, 1), (4, b"Else", 1, 2)])
    found = find_small_blocks(narrow_target({POOL32: pair}), PIPO, keys=keys)
    assert [block.is_certain for block in found.allocations] == [True]
    for wrong in (HeapKeys(KEY32 ^ 2, form=CHUNK_32), HeapKeys(KEY)):
        found = find_small_blocks(narrow_target({POOL32: pair}), PIPO, keys=wrong)
        assert [block.is_certain for block in found.allocations] == [False]


def test_blocks_vote_for_the_key_that_proves_them():
    """Two sizes of chunks, any PoolIndex; a header whose chunk is not allocated stays known by itself alone."""
    page = chunks_page(POOL, [(5, b"Pipo", 1, 1), (9, b"Else", 1, 2), (7, b"Pipo", 0, 1), (4, b"Pipo", 1, 2)])
    found = find_small_blocks(target_of({POOL: page}), PIPO)
    assert seen(found) == [(POOL + 0x50, False, False), (POOL + 0x160, False, False), (POOL + 0x1E0, False, False)]
    page = chunks_page(POOL, [(5, b"Pipo", 1, 1), (9, b"Else", 1, 1), (7, b"Pipo", 0, 1), (4, b"Pipo", 1, 1)])
    found = find_small_blocks(target_of({POOL: page}), PIPO)
    assert seen(found) == [(POOL + 0x50, True, False), (POOL + 0x150, False, False), (POOL + 0x1D0, True, False)]


def test_a_key_of_symbols_that_fits_no_block_gives_way_to_the_votes():
    page = chunks_page(POOL, [(5, b"Pipo", 1, 1)] * 5)
    for keys in (HeapKeys(KEY), HeapKeys(KEY ^ 0x40)):
        assert all(
            block.is_certain for block in find_small_blocks(target_of({POOL: page}), PIPO, keys=keys).allocations
        )


def test_one_block_is_proven_by_the_key_that_symbols_tell():
    page = chunks_page(POOL, [(5, b"Pipo", 1, 2)])
    assert seen(find_small_blocks(target_of({POOL: page}), PIPO)) == [(POOL + 0x50, False, False)]
    assert seen(find_small_blocks(target_of({POOL: page}), PIPO, keys=HeapKeys(KEY))) == [(POOL + 0x50, True, False)]


def test_two_keys_that_as_many_vote_for_prove_nothing():
    pages = {
        POOL: chunks_page(POOL, [(5, b"Pipo", 1, 1)] * 4),
        POOL + 0x1000: chunks_page(POOL + 0x1000, [(5, b"Pipo", 1, 1)] * 4, KEY ^ 0x5555),
    }
    assert not any(block.is_certain for block in find_small_blocks(target_of(pages), PIPO).allocations)


@pytest.mark.parametrize("more", [0, 1])
def test_a_header_that_was_moved_to_the_next_page(more):
    """The chunk of the block begins 0x70 before the page: its header stands at the page's start."""
    before, page = bytearray(chunks_page(POOL, [(5, b"Else", 1, 1)] * 4)), bytearray(0x1000)
    before[0xF90:0xFA0] = chunk(POOL + 0xF90, 7 + 9 + more)
    page[:16] = header(9, 2, b"Pipo")
    keys = HeapKeys(KEY)
    found = find_small_blocks(target_of({POOL: bytes(before), POOL + 0x1000: bytes(page)}), PIPO, keys=keys)
    assert seen(found) == [(POOL + 0x1000, True, False)]
    found = find_small_blocks(target_of({POOL + 0x1000: bytes(page)}), PIPO, keys=keys)
    assert seen(found) == [(POOL + 0x1000, False, False)]


def equal_page(va, size, busy, key=LFH_KEY, first=0x60):
    page = bytearray(0x1000)
    words = [0] * -(-2 * len(busy) // 64)
    for number, used in enumerate(busy):
        words[number // 32] |= int(used) << 2 * (number % 32)
        at = first + number * size
        page[at : at + 16] = header(size // 16, 2, b"Pipo" if number % 3 else b"Else")
    struct.pack_into("<HH", page, 0x20, busy.count(0), len(busy))
    struct.pack_into("<I", page, 0x28, (size | first << 16) ^ (key ^ va >> 12) & 0xFFFFFFFF)
    struct.pack_into(f"<{len(words)}Q", page, 0x30, *words)
    return bytes(page)


def test_the_bitmap_of_a_row_tells_which_blocks_are_in_use():
    busy = [1, 1, 0, 1, 1, 1, 0, 0, 1, 1] * 4
    target = target_of({ROW: equal_page(ROW, 0x50, busy)})
    wanted = [ROW + 0x60 + number * 0x50 for number in range(40) if number % 3 and busy[number]]
    found = find_small_blocks(target, PIPO, keys=HeapKeys(lfh_key=LFH_KEY))
    assert seen(found) == [(address, True, False) for address in wanted]
    assert found.freed == sum(1 for number in range(40) if number % 3 and not busy[number])
    for keys in (HeapKeys(), HeapKeys(lfh_key=LFH_KEY ^ 1)):
        found = find_small_blocks(target, PIPO, keys=keys)
        assert {block.is_likely for block in found.allocations} == {True}
        assert not any(block.is_certain for block in found.allocations)


def test_a_row_over_several_pages_whose_first_is_missing_is_likely_only():
    whole = equal_page(ROW, 0x50, [1] * 40) + bytes(0x1000)
    second = bytearray(whole[0x1000:])
    for number in range(50, 100):
        at = 0x60 + number * 0x50 - 0x1000
        if 0 <= at <= 0xFB0:
            second[at : at + 16] = header(5, 2, b"Pipo")
    found = find_small_blocks(target_of({ROW + 0x1000: bytes(second)}), PIPO, keys=HeapKeys(KEY, LFH_KEY))
    assert found.allocations
    assert {(block.is_certain, block.is_likely) for block in found.allocations} == {(False, True)}


def test_a_header_between_them_or_too_few_make_no_row():
    page = bytearray(equal_page(ROW, 0x50, [1] * 7))
    assert not any(block.is_likely for block in find_small_blocks(target_of({ROW: bytes(page)}), PIPO).allocations)
    page = bytearray(equal_page(ROW, 0x50, [1] * 20))
    page[0x60 + 0x70 : 0x60 + 0x80] = header(3, 2, b"Odd ")
    assert not any(block.is_likely for block in find_small_blocks(target_of({ROW: bytes(page)}), PIPO).allocations)


@pytest.mark.parametrize(
    ("name", "key", "certain"),
    [("triage_x64.dmp", KEY, 20), ("triage_arm64.dmp", 0x408F243E08EF4A9A, 10)],
)
def test_the_keys_of_two_real_dumps(evidence, name, key, certain):
    """The keys are those that were worked out by hand; so were 17 and 10 certain blocks, of fewer candidates."""
    votes, pages = KeyVotes(), []
    target = open_crashdump(str(evidence / "dumps" / name))
    try:
        for start in range(0xFFFF800000000000, 1 << 64, 1 << 40):
            for address, data in target.read_present(start, 1 << 40):
                at = -address % 16
                while at < len(data):
                    size = 0x1000 - (address + at) % 0x1000
                    piece = address + at, data[at : at + size]
                    pages.append((*piece, find_headers(*piece)))
                    votes.add(*pages[-1])
                    at += size
    finally:
        target.close()
    keys = votes.winner()
    assert keys == HeapKeys(key)
    places = [(address, data, found) for address, data, headers in pages for found in headers]
    proven = [
        found
        for address, data, found in places
        if found.address - 16 >= address
        and keys.confirms(
            int.from_bytes(data[found.address - 16 - address :][:8], "little"), found.address - 16, found.units
        )
    ]
    assert len(proven) == certain
    assert len(places) > 10 * certain
