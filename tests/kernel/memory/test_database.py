"""Page tables as memory: four levels, and the five of LA57 kernels, lead from an address to its entry and back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.kernel.memory.database import Columns, PteSpace
from pykdext.kernel.memory.frames import Classifier
from pykdext.kernel.memory.regions import Region
from pykdext.model.memory import FrameUse

SPACES = [PteSpace(0xFFFFF68000000000), PteSpace(0xFFFFDE8000000000), PteSpace(0xFF4A000000000000, 5)]
ACTIVE = 6


def columns_of(space):
    return Columns(0x30, 8, 0x22, 0x2F, 7, 0x28, is_wide=space.levels > 4)


@pytest.mark.parametrize("space", SPACES)
@given(page=st.integers(0, (1 << 45) - 1))
def test_an_entry_leads_back_to_its_page(space, page):
    page &= (1 << space.address_bits - 12) - 1
    address = page << 12
    canonical = address if address < space.user_end else address | -1 << space.address_bits & (1 << 64) - 1
    entry = space.base + page * 8
    assert space.holds(entry)
    assert space.mapped_by(entry) == canonical
    low, high = space.tables
    assert (low <= entry < high) == space.holds(canonical)


@pytest.mark.parametrize("space", SPACES)
@given(page=st.integers(0, (1 << 45) - 1), location=st.integers(0, 7), prototype=st.booleans())
def test_a_key_keeps_what_tells_the_use(space, page, location, prototype):
    columns, entry = columns_of(space), space.base + (page & (1 << space.address_bits - 12) - 1) * 8
    for address in (entry, 0, 0xFFFF_8000_0012_3450):
        record = struct.pack("<8xQ18xB5xQ", address, location | 0x50, prototype << 63).ljust(columns.size, b"\0")
        (key,) = columns.keys(record)
        assert columns.split_key(key) == (address & -0x10000, location, prototype)


@pytest.mark.parametrize("space", SPACES)
def test_uses_follow_from_the_entry(space):
    start = -(1 << 45) & (1 << 64) - 1
    regions = [Region(start, start + (1 << 40), FrameUse.SYSTEM_PTES, True)]
    classifier = Classifier(space, regions, columns_of(space))
    mask = (1 << space.address_bits) - 1

    def use_of(address):
        return classifier.decide(space.base + ((address & mask) >> 12) * 8, ACTIVE, False)

    assert use_of(0x7FF6_1234_5000) is FrameUse.PRIVATE
    assert use_of(space.user_end - 0x1000) is FrameUse.PRIVATE
    assert use_of(start + 0x5000) is FrameUse.SYSTEM_PTES
    assert use_of(start - 0x5000) is FrameUse.OTHER
    assert use_of(space.base + 0x5000) is FrameUse.PAGE_TABLES
    assert classifier.decide(0xFFFF_8000_0000_0000 - 8, ACTIVE, False) is FrameUse.NO_PTE
