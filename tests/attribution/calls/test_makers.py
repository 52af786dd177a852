"""Numbers of which a tag can be made, looked for in all functions of an image at once."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pykdext.attribution.calls.codereader import OFFSET_BITS, TargetIndex
from pykdext.attribution.calls.processors import PROCESSORS
from pykdext.model import Machine

TAGS = [int.from_bytes(tag, "little") for tag in (b"SelR", b"SelW", b"Pipo", b"ooPi", b"Aaaa")]
MOVE = b"\xb8"

moves = some.sampled_from(TAGS).map(lambda tag: MOVE + struct.pack("<I", tag))
shifted = some.builds(lambda tag, bits: struct.pack("<I", tag >> bits), some.sampled_from(TAGS), some.integers(0, 8))
differences = some.builds(
    lambda a, b: struct.pack("<I", (a - b) & 0xFFFFFFFF), some.sampled_from(TAGS), some.sampled_from(TAGS)
)
intel_code = some.lists(some.one_of(moves, shifted, differences, some.binary(max_size=6)), max_size=6).map(b"".join)
arm64_code = some.lists(
    some.builds(
        lambda is_upper, half: struct.pack("<I", 0x52800000 | is_upper << 21 | half << 5),
        some.integers(0, 1),
        some.sampled_from([half for tag in TAGS for half in (tag & 0xFFFF, tag >> 16)]),
    ),
    max_size=4,
).map(b"".join)


@pytest.mark.parametrize(
    ("machine", "codes"), [(Machine.X64, intel_code), (Machine.X86, intel_code), (Machine.ARM64, arm64_code)]
)
def test_functions_together_make_what_each_of_them_makes(machine, codes):
    reader = PROCESSORS[machine]

    @given(some.lists(codes, max_size=5), some.sampled_from(TAGS))
    def law(functions, tag):
        numbers = [reader.parse_numbers(reader.read_numbers(code).packed) for code in functions]
        alone = {place for place, one in enumerate(numbers) if reader.open_makers([one]).find(tag)}
        assert reader.open_makers(numbers).find(tag) == alone

    law()


def test_a_number_that_begins_in_one_function_and_ends_in_the_next_is_none():
    reader = PROCESSORS[Machine.X64]
    tag = int.from_bytes(b"SelR", "little")
    halves = [reader.read_numbers(code) for code in (b"\x90Se", b"lR\x90", b"", b"\x90SelR", b"\x90")]
    assert reader.open_makers(halves).find(tag) == {3}


def test_a_function_full_of_tags_may_make_any():
    reader = PROCESSORS[Machine.X64]
    code = b"".join(MOVE + struct.pack("<I", 0x41414141 + number % 32 + (number // 32 << 8)) for number in range(1025))
    crowded, one = reader.read_numbers(code), reader.read_numbers(MOVE + b"zzzz")
    assert reader.open_makers([one, crowded]).find(0x20202020) == {1}
    assert reader.open_makers([one, reader.read_numbers(code[: 5 * 1000])]).find(0x20202020) == set()


@given(some.lists(some.tuples(some.integers(-(1 << 33), 1 << 33), some.integers(0, (1 << OFFSET_BITS) - 1))))
def test_places_are_found_by_what_they_refer_to(pairs):
    index = TargetIndex(target << OFFSET_BITS | offset for target, offset in pairs)
    for target in {target + step for target, _ in pairs for step in (-1, 0, 1)}:
        assert index.find(target) == sorted(offset for other, offset in pairs if other == target)
