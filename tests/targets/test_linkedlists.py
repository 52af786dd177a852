"""Linked lists with every kind of damage: what is found, why the walk ended, and what may be lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.errors import MemoryReadError
from pykdext.targets.linkedlists import NOT_THERE, STRAY, TOO_LONG, VISITED, ListWalk, walk_chain, walk_list

HEAD = 0x1000


class Ring:
    """A list whose entries stand at 2000h, 2100h, ... ``links``: {address: [Flink, Blink]}."""

    def __init__(self, count, pointer_bytes=8):
        self.pointer_bytes = pointer_bytes
        self.entries = [0x2000 + 0x100 * number for number in range(count)]
        ring = [HEAD, *self.entries]
        self.links = {address: [ring[(place + 1) % len(ring)], ring[place - 1]] for place, address in enumerate(ring)}

    def read(self, address, size):
        for start, links in self.links.items():
            if start <= address < start + 2 * self.pointer_bytes:
                data = b"".join(link.to_bytes(self.pointer_bytes, "little") for link in links)
                return data[address - start : address - start + size]
        raise MemoryReadError(address, size)

    def walk(self, limit=1000):
        return walk_list(self.read, self.pointer_bytes, HEAD, limit)


@pytest.mark.parametrize("pointer_bytes", [4, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_a_whole_list(pointer_bytes, count):
    ring = Ring(count, pointer_bytes)
    assert ring.walk() == ListWalk(tuple(ring.entries))
    assert ring.walk(limit=count) == ListWalk(tuple(ring.entries))


def test_without_its_head_there_is_no_list():
    ring = Ring(3)
    del ring.links[HEAD]
    with pytest.raises(MemoryReadError):
        ring.walk()


@pytest.mark.parametrize("gone", range(5))
def test_an_entry_that_is_not_in_memory_is_the_only_one_lost(gone):
    ring = Ring(5)
    missing = ring.entries.pop(gone)
    del ring.links[missing]
    assert ring.walk() == ListWalk(tuple(ring.entries), missing, NOT_THERE, lost=1)


def test_entries_between_two_that_are_not_in_memory_may_be_lost():
    ring = Ring(7)
    for number in (2, 4):
        del ring.links[ring.entries[number]]
    kept = [ring.entries[number] for number in (0, 1, 5, 6)]
    assert ring.walk() == ListWalk(tuple(kept), ring.entries[2], NOT_THERE, lost=None)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("place", range(-1, 5))
def test_one_link_that_leads_astray_loses_nothing(place, which):
    """``place`` -1: the head's own."""
    ring = Ring(5)
    ring.links[ring.entries[place] if place >= 0 else HEAD][which] = 0x66660000
    found = ring.walk()
    assert found.entries == tuple(ring.entries)
    assert found.lost == 0
    assert found.torn_at is not None and found.reason in (NOT_THERE, STRAY)


def test_a_link_into_the_middle_skips_nothing():
    ring = Ring(6)
    ring.links[ring.entries[1]][0] = ring.entries[4]
    found = ring.walk()
    assert found == ListWalk(tuple(ring.entries), ring.entries[4], STRAY, lost=0)


def test_a_circle_ends():
    """Links that agree with each other and never come back to the head."""
    ring = Ring(4)
    first, last = ring.entries[0], ring.entries[-1]
    ring.links[last][0], ring.links[first][1] = first, HEAD
    found = ring.walk()
    assert (found.entries, found.torn_at, found.reason) == (tuple(ring.entries), first, VISITED)


def test_a_list_without_end_is_cut_at_the_limit():
    def read(address, size):
        data = (address + 0x100).to_bytes(8, "little") + (address - 0x100).to_bytes(8, "little")
        return data[:size]

    found = walk_list(read, 8, HEAD, 50)
    assert (len(found.entries), found.reason, found.lost) == (50, TOO_LONG, None)


@given(st.data())
def test_no_damage_makes_an_entry_or_hangs(data):
    """Whatever links hold: only entries of the list are found, each once, in its order on either side of the tear."""
    ring = Ring(data.draw(st.integers(1, 12)))
    everywhere = [HEAD, *ring.entries]
    for _ in range(data.draw(st.integers(1, 4))):
        address = data.draw(st.sampled_from(everywhere))
        if address in ring.links and address != HEAD and data.draw(st.booleans()):
            del ring.links[address]
        elif address in ring.links:
            ring.links[address][data.draw(st.integers(0, 1))] = data.draw(st.sampled_from([0, 0x77, *everywhere]))
    found = ring.walk()
    assert len(set(found.entries)) == len(found.entries)
    assert set(found.entries) <= set(ring.entries)
    if found.torn_at is None:  # whole in both directions: two wrong links that make another whole ring cannot be told
        around = [HEAD, *found.entries, HEAD]
        pairs = list(zip(around, around[1:]))
        assert all(ring.links[one][0] == other and ring.links[other][1] == one for one, other in pairs)


@pytest.mark.parametrize("pointer_bytes", [4, 8])
def test_a_chain(pointer_bytes):
    cells = {0x10: 0x20, 0x20: 0x33, 0x30: 0}

    def read(address, size):
        if address not in cells:
            raise MemoryReadError(address, size)
        return cells[address].to_bytes(size, "little")

    def walk(limit=9):
        return walk_chain(read, pointer_bytes, 0x10, limit, lambda link: link & ~0xF)

    assert walk() == ListWalk((0x10, 0x20, 0x30))
    assert walk(2) == ListWalk((0x10, 0x20), 0x30, TOO_LONG, None)
    cells[0x30] = 0x10
    assert walk() == ListWalk((0x10, 0x20, 0x30), 0x10, VISITED, None)
    cells[0x30] = 0x50
    assert walk() == ListWalk((0x10, 0x20, 0x30), 0x50, NOT_THERE, None)
    assert walk_chain(read, pointer_bytes, 0, 9) == ListWalk(())
