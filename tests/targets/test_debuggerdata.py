"""The kernel's debugger data block: plain, of 32-bit kernels, encoded."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.targets.debuggerdata import (
    DebuggerDataKeys,
    decode_debugger_data,
    parse_debugger_data,
    read_debugger_data,
)
from pykdext.targets.kernelformat import KERNEL32, KERNEL64
from tests.helpers.pagetables import KINDS, PAGE, Tables

WORD = (1 << 64) - 1
words = st.integers(0, WORD)


def encode(data, never, always, flag_address):
    """What a running kernel does to its block: each step of the decoding undone, the last one first."""
    out = b""
    turn = never & 63
    for (word,) in struct.iter_unpack("<Q", data):
        swapped = struct.unpack(">Q", struct.pack("<Q", word ^ always))[0]
        mixed = swapped ^ (flag_address | 0xFFFF << 48)
        turned = (mixed >> turn | mixed << (64 - turn)) & WORD
        out += struct.pack("<Q", turned ^ never)
    return out


def block(pointer=lambda value: value, size=0x380, base=0xFFFFF803_00000000):
    data = bytearray(size)
    struct.pack_into("<QQ4sIQ", data, 0, 1, 2, b"KDBG", size, pointer(base))
    for offset, value in ((0x48, 0x1000), (0x120, 0x2000), (0x1B8, 0x3000), (0x220, 0x4000)):
        struct.pack_into("<Q", data, offset, pointer(base + value))
    return bytes(data)


def test_a_plain_block():
    data = parse_debugger_data(block(), KERNEL64)
    assert data.kernel_base == 0xFFFFF803_00000000
    assert data.variables == {
        "PsLoadedModuleList": 0xFFFFF803_00001000,
        "MmPagedPoolStart": 0xFFFFF803_00002000,
        "PoolTrackTable": 0xFFFFF803_00003000,
        "MmUnloadedDrivers": 0xFFFFF803_00004000,
    }


@pytest.mark.parametrize("upper", [0xFFFFFFFF << 32, 0], ids=["sign-extended", "plain"])
def test_pointers_of_a_32_bit_kernel(upper):
    data = parse_debugger_data(block(lambda value: value | upper, size=0x290, base=0x80400000), KERNEL32)
    assert data.kernel_base == 0x80400000
    assert data.variables["PoolTrackTable"] == 0x80403000
    assert all(value < 1 << 32 for value in data.variables.values())


def test_a_32_bit_member_that_is_zero_but_for_its_sign():
    data = bytearray(block(size=0x290, base=0x80400000))
    struct.pack_into("<Q", data, 0x1B8, 0xFFFFFFFF << 32)
    assert "PoolTrackTable" not in parse_debugger_data(bytes(data), KERNEL32).variables


def test_decoding_by_hand():
    """One word, every step written out: xor, turn left by 8, xor, swap, xor."""
    keys = DebuggerDataKeys(wait_never=0x0000000000000008, wait_always=0x1, flag_address=0x0000F80300000000)
    word = 0x11223344_55667788
    # ^8 -> 1122334455667780; turned -> 2233445566778011; ^FFFFF803... -> DDCCBC5666778011; swapped; ^1
    assert decode_debugger_data(struct.pack("<Q", word), keys) == struct.pack("<Q", 0x1180776656BCCCDC)


@given(st.lists(words, max_size=20), words, words, words)
def test_decoding_undoes_encoding(data, never, always, flag_address):
    plain = struct.pack(f"<{len(data)}Q", *data)
    keys = DebuggerDataKeys(never, always, flag_address)
    assert decode_debugger_data(encode(plain, never, always, flag_address), keys) == plain


class BlockInMemory:
    def __init__(self, data):
        self.tables = Tables(KINDS["x64"])
        self.address = self.tables.kind.kernel + 0xFB0  # the block goes over a page's end
        for number in range(2):
            self.tables.memory.fill(0x700 + number, seed=0)
            self.tables.map_page(self.tables.kind.kernel + number * PAGE, 0x700 + number)
        room = bytearray(2 * PAGE)
        room[0xFB0 : 0xFB0 + len(data)] = data
        for number in range(2):
            self.tables.memory.pages[0x700 + number][:] = room[number * PAGE : (number + 1) * PAGE]

    def read(self, keys=None, address=None):
        return read_debugger_data(self.tables.virtual, KERNEL64, address or self.address, keys)


KEYS = DebuggerDataKeys(0x1F2E3D4C5B6A7988, 0x0123456789ABCDEF, 0xFFFFF803_00C1A2B0)


def test_an_encoded_block_needs_its_keys():
    held = BlockInMemory(encode(block(), *KEYS))
    data, reason = held.read()
    assert data is None
    assert "encoded or damaged" in reason
    assert held.read(KEYS) == (parse_debugger_data(block(), KERNEL64), None)


@pytest.mark.parametrize(
    "keys",
    [KEYS._replace(wait_never=1), KEYS._replace(wait_always=1), KEYS._replace(flag_address=0xFFFFF803_00C1A2B1)],
    ids=["never", "always", "flag"],
)
def test_wrong_keys_give_nothing(keys):
    assert BlockInMemory(encode(block(), *KEYS)).read(keys)[0] is None


@pytest.mark.parametrize("size", [0, 0x288, 0x1008, 0xFFFFFFFF])
def test_sizes_that_cannot_be(size):
    data = bytearray(block())
    struct.pack_into("<I", data, 0x14, size)
    found, reason = BlockInMemory(data).read()
    assert found is None
    assert f"size 0x{size:x}" in reason


def test_an_odd_size_is_read_as_far_as_its_words_go():
    data = bytearray(block())
    struct.pack_into("<I", data, 0x14, 0x37C)
    assert BlockInMemory(data).read()[0] == parse_debugger_data(block(), KERNEL64)


def test_a_block_that_is_not_in_the_dump():
    held = BlockInMemory(block())
    assert "not in the dump" in held.read(address=0xFFFFF900_00000000)[1]
    assert "does not tell" in read_debugger_data(held.tables.virtual, KERNEL64, None)[1]
    del held.tables.memory.pages[0x701]
    assert "not in the dump" in held.read()[1]
