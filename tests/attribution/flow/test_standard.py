"""Standard addresses: to them and back, and that what a function tells does not depend on where its image lies."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as some

from pykdext.attribution.flow.standard import StandardAddresses, StandardImage
from pykdext.images.image import read_image
from pykdext.model import Module
from tests.helpers.segments import SegmentsTarget
from tests.images.test_image import CODE, CONSTANTS, PAGE, make_image

KERNEL = 0xFFFFF800_00000000
modules = some.lists(
    some.builds(
        lambda name, page, pages: Module(f"{name}.sys", KERNEL + page * PAGE, pages * PAGE),
        some.sampled_from("abcdefgh"),
        some.integers(0, 200),
        some.integers(1, 40),
    ),
    max_size=8,
)


@given(
    modules, some.lists(some.integers(-PAGE, 240 * PAGE), max_size=30), some.integers(0, 16), some.binary(max_size=7)
)
def test_what_was_moved_there_comes_back(found, offsets, rva, rest):
    addresses = StandardAddresses(found)
    numbers = [KERNEL + offset for offset in offsets]
    padding = bytes(-rva % 8)
    data = padding + struct.pack(f"<{len(numbers)}Q", *numbers) + rest
    moved = addresses.move_there(data, rva)
    assert len(moved) == len(data)
    assert moved[: len(padding)] == padding and moved.endswith(rest)
    back = struct.unpack_from(f"<{len(numbers)}Q", moved, len(padding))
    assert [addresses.move_back(number) for number in back] == numbers


@given(modules, some.integers(0, 1 << 40))
def test_an_address_in_a_module_is_the_same_wherever_it_lies(found, shift):
    """Unless modules overlap, in which case they stay."""
    shifted = [Module(module.name, module.base + shift // PAGE * PAGE, module.size) for module in found]
    here, there = StandardAddresses(found), StandardAddresses(shifted)
    for module, other in zip(found, shifted):
        standard = here.base_of(module)
        if standard != module.base:
            assert there.base_of(other) == standard
            assert here.move_back(standard) == module.base
            assert there.move_back(standard + module.size - 1) == other.base + other.size - 1


def test_modules_that_overlap_are_not_moved():
    apart, first, second = Module("a", KERNEL, PAGE), Module("b", 2 * KERNEL, 9), Module("c", 2 * KERNEL + 8, 9)
    addresses = StandardAddresses([first, apart, second, Module("empty", KERNEL, 0)])
    assert addresses.base_of(first) == first.base and addresses.base_of(second) == second.base
    assert addresses.base_of(apart) >> 47 == (1 << 17) - 1
    twins = [Module("twin.sys", KERNEL + number * PAGE, PAGE) for number in range(2)]
    assert [StandardAddresses(twins).base_of(twin) for twin in twins] == [twin.base for twin in twins]


def test_what_is_read_of_an_image_is_noted():
    base = KERNEL + 0x10000
    pointers = struct.pack("<QQ", base + 0x1234, 0x1234)
    memory = make_image((b".text", b"\xc3".ljust(PAGE, b"\xcc"), CODE), (b".rdata", pointers.ljust(PAGE), CONSTANTS))
    target = SegmentsTarget({base: memory}, modules=(Module("made.sys", base, len(memory)),))
    image = read_image(target, target.modules()[0])
    standard = StandardImage(image, StandardAddresses([image.module]))
    assert standard.sections == image.sections
    standard.begin()
    (moved, kept) = struct.unpack("<QQ", standard.read(2 * PAGE, 16))
    assert (moved - standard.module.base, kept) == (0x1234, 0x1234)
    assert standard.read(99 * PAGE, 8) is None
    assert standard.read_text(PAGE, 4) is None
    assert list(standard.iter_range(PAGE, 1)) == [(PAGE, b"\xc3")]
    assert set(standard.places_read) >= {(PAGE, 1), (PAGE, 5), (2 * PAGE, 16), (99 * PAGE, 8)}
    assert standard.digest([(PAGE, 1)]) != standard.digest([(PAGE, 2)])
    assert standard.digest([(99 * PAGE, 1)]) != standard.digest([])
    assert len({standard.digest([(rva, 8)]) for rva in (-8, -16, 1 << 64, 1 << 70)}) == 4
