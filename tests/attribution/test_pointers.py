"""Pointers in blocks: into images, into unloaded drivers, to driver and device objects; in forged dumps and by hand."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import forge
from pykdext.attribution.pointers import MAX_BLOCKS, MIN_BLOCKS, choose_modules, describe_witness, read_witness
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.pool.smallblocks import find_small_blocks
from pykdext.model import Allocation, Confidence, Machine, Module, PoolKind, PoolTag
from pykdext.targets.dump.crashdump import open_crashdump
from tests.helpers.patience import ends_soon
from tests.helpers.segments import SegmentsTarget

PIPO = PoolTag(b"Pipo")
NT = Module("ntoskrnl.exe", 0xFFFFF80000000000, 0x800000)
OWNER = Module("owner.sys", 0xFFFFF80001000000, 0x8000)
OTHER = Module("other.sys", 0xFFFFF80001010000, 0x8000)
GONE = Module("oldnet.sys", 0xFFFFF80001020000, 0x8000, unloaded=True)
REUSED = Module("reused.sys", 0xFFFFF8000100C000, 0x8000, unloaded=True)
POOL, OBJECTS = 0xFFFFE00000000000, 0xFFFFB00000000000
MACHINES = [("x64", 19041), ("x64", 9600), ("x86pae", 7601), ("arm64", 22000)]


def witness(blocks, modules=(NT, OWNER, OTHER), objects=None, machine=Machine.X64, size=0x1000, pool=POOL):
    """What is said of big blocks that hold these words; None is a block that is not in memory."""
    code = "I" if machine is Machine.X86 else "Q"
    segments = dict(objects or {})
    for index, words in enumerate(blocks):
        if words is not None:
            segments[pool + 2 * size * index] = struct.pack(f"<{len(words)}{code}", *words).ljust(size, b"\0")
    target = SegmentsTarget(segments, machine=machine, modules=modules)
    allocations = [Allocation(pool + 2 * size * index, size, PIPO, None, is_big=True) for index in range(len(blocks))]
    return read_witness(target, PIPO, allocations, [])


def shares(found):
    return {driver.module: driver.share_of_blocks for driver in found.drivers}


def test_the_share_of_blocks_that_point_at_each_driver():
    found = witness(
        [[OWNER.base + 0x1000, 7, OWNER.base + 0x1000]] * 6 + [[NT.base + 4, OTHER.base]] * 2 + [[NT.base]] * 2
    )
    assert found.blocks_sampled == 10
    assert shares(found) == {"owner.sys": 0.6, "other.sys": 0.2, "ntoskrnl.exe": 0.4}
    assert [driver.module for driver in found.drivers] == ["owner.sys", "other.sys", "ntoskrnl.exe"]  # nt tells least
    (place,) = found.drivers[0].places
    assert (place.what, place.rva, place.share_of_blocks) == ("image", 0x1000, 0.6)
    (evidence,) = describe_witness(found)
    assert (evidence.module, evidence.kind, evidence.confidence) == ("owner.sys", "contents", Confidence.POSSIBLE)
    assert evidence.detail.startswith("60% of 10 sampled blocks point at owner.sys")


def test_nt_is_never_named():
    assert list(describe_witness(witness([[NT.base + 0x1000]] * 10))) == []


def test_few_blocks_tell_nothing():
    assert list(describe_witness(witness([[OWNER.base]] * (MIN_BLOCKS - 1)))) == []
    assert len(list(describe_witness(witness([[OWNER.base]] * MIN_BLOCKS)))) == 1
    assert witness([]).blocks_sampled == 0
    assert list(describe_witness(witness([]))) == []


def test_the_first_address_behind_an_image_is_not_in_it():
    assert shares(witness([[OWNER.base + OWNER.size, OWNER.base - 8]] * 4)) == {}
    assert shares(witness([[OWNER.base + OWNER.size - 1]] * 4)) == {"owner.sys": 1.0}


def test_blocks_that_are_not_in_memory_do_not_count():
    found = witness([None, [OWNER.base], None, None, [0], [OWNER.base], [0]])
    assert (found.blocks_sampled, shares(found)) == (4, {"owner.sys": 0.5})


def test_a_sample_is_spread_over_all_blocks():
    many = 16 * MAX_BLOCKS
    found = witness([[OWNER.base] if index >= many // 2 else [0] for index in range(many)], size=0x100)
    assert found.blocks_sampled == MAX_BLOCKS
    assert shares(found)["owner.sys"] == pytest.approx(0.5, abs=0.01)


def test_headers_of_small_blocks_are_left_out():
    words = [OWNER.base, OWNER.base, 0, 0]
    target = SegmentsTarget({POOL: struct.pack("<4Q", *words)}, modules=(OWNER,))
    small = Allocation(POOL, 0x20, PIPO, PoolKind.NONPAGED, is_big=False)
    assert shares(read_witness(target, PIPO, [small], [])) == {}
    assert shares(read_witness(target, PIPO, [Allocation(POOL, 0x20, PIPO, None, is_big=True)], [])) != {}
    empty = Allocation(POOL, 0x10, PIPO, PoolKind.NONPAGED, is_big=False)
    assert read_witness(target, PIPO, [empty], []).blocks_sampled == 0


def test_an_unloaded_driver_is_said():
    found = witness([[GONE.base + 0x2000]] * 3 + [[0]] * 7, (NT, OWNER, GONE))
    (evidence,) = describe_witness(found)
    assert evidence.module == "oldnet.sys"
    assert evidence.detail == "30% of 10 sampled blocks point at oldnet.sys, which was unloaded"
    assert found.drivers[0].unloaded


def test_nothing_is_said_of_a_range_that_was_taken_again():
    pointing = [[REUSED.base + 0x1000], [OTHER.base + 0x1000]] * 5
    assert shares(witness(pointing, (NT, OTHER, REUSED))) == {"other.sys": 0.5}


def test_of_two_unloaded_drivers_in_one_range_the_last_counts():
    later = Module("later.sys", 0xFFFFF80002000000, 0x8000, unloaded=True)
    earlier = Module("earlier.sys", 0xFFFFF80002004000, 0x8000, unloaded=True)
    assert choose_modules([OWNER, later, earlier]) == [OWNER, later]
    assert choose_modules([]) == []


def driver_object(start, machine=Machine.X64):
    if machine is Machine.X86:
        return struct.pack("<HHIII", 4, 0xA8, 0, 0, start).ljust(0xA8, b"\0")
    return struct.pack("<HH4xQQQ", 4, 0x150, 0, 0, start).ljust(0x150, b"\0")


def device_object(driver, machine=Machine.X64, size=0x200):
    return struct.pack("<HHII" if machine is Machine.X86 else "<HHIQ", 3, size, 1, driver).ljust(size, b"\0")


def test_driver_and_device_objects():
    objects = {OBJECTS: driver_object(OWNER.base), OBJECTS + 0x1000: device_object(OBJECTS)}
    assert shares(witness([[OBJECTS + 0x1000]] * 4 + [[0]] * 4, objects=objects)) == {"owner.sys": 0.5}
    found = witness([[OBJECTS]] * 4, objects=objects)
    assert shares(found) == {"owner.sys": 1.0}
    assert [(place.what, place.rva) for place in found.drivers[0].places] == [("object", None)]
    (evidence,) = describe_witness(found)
    assert "its driver or device object (100%)" in evidence.detail
    assert evidence.rva is None


def test_objects_of_32_bit_kernels():
    owner = Module("owner.sys", 0x8B000000, 0x8000)
    objects = {
        0x85000000: driver_object(owner.base, Machine.X86),
        0x85001000: device_object(0x85000000, Machine.X86, 0xC0),
    }
    blocks = [[0x85001000], [owner.base + 0x1001], [0x85000000], [0x8B008000]] * 2
    assert shares(witness(blocks, (owner,), objects, Machine.X86, pool=0x86000000)) == {"owner.sys": 0.75}


@pytest.mark.parametrize(
    "damaged",
    [
        driver_object(OWNER.base + 8),
        driver_object(0),
        driver_object(OWNER.base).replace(b"\x50\x01", b"\x58\x01", 1),
        device_object(OBJECTS),  # its driver object is itself
        device_object(OBJECTS + 0x100000),
        device_object(OBJECTS + 0x1000, size=0x100),
        b"\4",
    ],
    ids=lambda data: data[:4].hex(),
)
def test_what_only_looks_like_an_object(damaged):
    objects = {OBJECTS: damaged, OBJECTS + 0x1000: driver_object(OWNER.base)}
    assert shares(witness([[OBJECTS]] * 4, objects=objects)) == {}


@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_blocks_of_a_forged_machine(arch, build, tmp_path):
    machine = forge("pipo", arch=arch, build=build)
    machine.save(tmp_path / "m.dmp")
    with open_crashdump(str(tmp_path / "m.dmp")) as target:
        kernel = open_kernel(target)
        found = read_witness(target, PIPO, find_small_blocks(target, PIPO).allocations, kernel.images)
    assert found.blocks_sampled == len(machine.truth.blocks[b"Pipo"])
    assert shares(found) == {"pippo.sys": 1.0}
    assert {place.what for place in found.drivers[0].places} == {"code", "data"}


@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_blocks_of_an_unloaded_driver_on_a_forged_machine(arch, build, tmp_path):
    machine = forge("pipo", arch=arch, build=build)
    name, start, _ = machine.truth.unloaded[3]
    pointer_bytes = 4 if arch.startswith("x86") else 8
    leaked = machine.truth.blocks[b"Pipo"][::2]
    for block in leaked:
        machine.write_virtual(block.va + 8 * pointer_bytes, (start + 0x1234).to_bytes(pointer_bytes, "little"))
    machine.save(tmp_path / "m.dmp")
    with open_crashdump(str(tmp_path / "m.dmp")) as target:
        blocks = find_small_blocks(target, PIPO).allocations
        found = read_witness(target, PIPO, blocks, [])
    assert shares(found)[name] == len(leaked) / len(machine.truth.blocks[b"Pipo"])
    assert any("which was unloaded" in item.detail for item in describe_witness(found))


@ends_soon
def test_a_full_sample_is_bounded():
    """A megabyte of pointers, the worst there can be; most blocks are smaller and hold few."""
    blocks = [
        [OWNER.base + (block * 512 + word) % OWNER.size if word % 4 else POOL + 8 * word for word in range(512)]
        for block in range(MAX_BLOCKS)
    ]
    found = witness(blocks)
    assert found.blocks_sampled == MAX_BLOCKS
