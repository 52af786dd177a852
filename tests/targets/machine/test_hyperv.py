"""Hyper-V's saved states: every way a block is packed, fragments, registers of two worlds, damage."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumps.forge.vmfiles import savedstates
from pykdext.errors import DumpFormatError, MemoryReadError
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.machine.lz77 import unpack_lz77

PAGE = 0x1000


@pytest.fixture
def saved(machine, tmp_path, opened):
    def open_saved(**options):
        path = tmp_path / "server.vmrs"
        savedstates.save_state(machine, path, **options)
        return opened(path)

    return open_saved


def check(dump, machine):
    for number, data in machine.memory.pages.items():
        assert dump._container.read_physical(number * PAGE, PAGE) == data, hex(number)


@pytest.mark.parametrize("packed", [True, False])
def test_fragments_with_holes_of_less_than_a_block(saved, machine, packed):
    edges = sorted(number for number in machine.memory.pages if number + 1 not in machine.memory.pages)[::7]
    first = [0, *(edge + 1 for edge in edges if edge < 0xC0000)]
    ranges = [(start, end - start) for start, end in zip(first, [*first[1:], 0xBFFFB])]
    ranges += [(0x100000, 0x1003), (0x101003, 0x80000 - 0x1003)]
    dump = saved(packed=packed, ranges=ranges)
    check(dump, machine)
    with pytest.raises(MemoryReadError):
        dump._container.read_physical(0xBFFFB * PAGE, 8)


def test_registers_of_the_secure_world_are_passed_over(saved, machine):
    dump = saved(secure_first=True)
    assert dump.facts.image.found_by == "the processors' registers"
    assert dump._known.directory_table_base == machine.space.root_address


def test_a_host_that_did_not_finish_is_told(saved, machine):
    dump = saved(dirty=True)
    check(dump, machine)
    assert any("did not finish writing" in text for text in dump.facts.warnings)


def test_windbg_opens_it(saved):
    assert saved().facts.image.windbg_hint is None


def test_one_good_header_is_enough(machine, tmp_path, opened):
    path = tmp_path / "server.vmrs"
    savedstates.save_state(machine, path)
    data = bytearray(path.read_bytes())
    data[0x10] ^= 0xFF
    path.write_bytes(data)
    check(opened(path), machine)
    data[0x1010] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DumpFormatError, match="no whole header"):
        open_crashdump(str(path))


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=60), st.randoms(use_true_random=False))
def test_what_is_packed_is_unpacked(parts, chance):
    data = b"".join(part * chance.choice((1, 1, 2, 30, 400)) for part in parts)[:0x20000] or b"x"
    assert unpack_lz77(savedstates.pack_lz77(data), len(data)) == data


@pytest.mark.parametrize("size", [4, 10, 22, 24, 25, 26, 279, 280, 281, 0x10001, 0x10002, 0x10003, 0x30000])
def test_lengths_of_every_form(size):
    data = b"a" + b"b" * size + b"c"
    assert unpack_lz77(savedstates.pack_lz77(data), len(data)) == data


@given(st.binary(max_size=200), st.integers(1, 0x3000))
def test_any_bytes_unpack_to_the_size_or_to_nothing(data, size):
    found = unpack_lz77(data, size)
    assert found is None or len(found) == size


def test_known_bytes_of_the_specification():
    """[MS-XCA] gives these two examples of the plain form."""
    letters = b"abcdefghijklmnopqrstuvwxyz"
    assert unpack_lz77(b"\x3f\0\0\0" + letters, 26) == letters
    packed = bytes.fromhex("ffffff1f616263170 00fff2601".replace(" ", ""))
    assert unpack_lz77(packed, 300) == b"abc" * 100


def test_damage_anywhere_is_one_line_or_a_partial_answer(machine, tmp_path):
    path = tmp_path / "server.vmrs"
    savedstates.save_state(machine, path)
    whole = path.read_bytes()
    chance = random.Random(7)
    refusals = []
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3, 20))):
            at = chance.randrange(len(data) if chance.random() < 0.5 else 0x6000)
            data[at] = chance.randrange(256)
        path.write_bytes(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data)
        try:
            with open_crashdump(str(path)) as dump:
                dump.facts
        except DumpFormatError as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in text for text in refusals)


def test_a_key_that_leads_in_a_circle(tmp_path):
    keys = {"/savedstate/RamBlock0": (savedstates.ARRAY, bytes(100))}
    data = bytearray(savedstates.pack_storage(keys))
    at = data.index(b"savedstate\0") - 21
    struct.pack_into("<HI", data, at + 6, 1, at % 0x1000)
    path = tmp_path / "x.vmrs"
    path.write_bytes(data)
    with pytest.raises(DumpFormatError, match="without memory"):
        open_crashdump(str(path))
