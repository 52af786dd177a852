"""What a caller may wish of a machine: encoded debugger data, swizzled entries, totals, no tags, filtered pages."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import BUILDS, BUILDS_BY_ARCH, forge
from tests.forge.test_forge_files import ARCHES, save

WORD = 0xFFFFFFFFFFFFFFFF
MASK = 1 << 45
MIB = 1 << 20


def decode(block, never, always, flag_va):
    """The reading of QEMU and of debuggers, word by word."""
    return b"".join(decode_word(word, never, always, flag_va) for (word,) in struct.iter_unpack("<Q", block))


def decode_word(word, never, always, flag_va):
    turn, hidden = never & 0x3F, word ^ never
    turned = (hidden << turn | hidden >> (64 - turn)) & WORD
    swapped = int.from_bytes((turned ^ (flag_va | 0xFFFF << 48)).to_bytes(8, "little"), "big")
    return struct.pack("<Q", swapped ^ always)


@pytest.mark.parametrize("build", [build for build in BUILDS if build > 7601])
def test_encoded_debugger_data(build):
    plain = forge("pipo", build=build)
    hidden = forge("pipo", build=build, encoded_kdbg=True)
    va = hidden.addresses["KDBG"]
    size = hidden.kernel.sizes.debugger_data
    block = hidden.read_virtual(va, size)
    assert block != plain.read_virtual(va, size)
    assert b"KDBG" not in block
    base, variables = hidden.addresses["nt"], hidden.kernel.variables
    flag_va = base + variables["KdpDataBlockEncoded"]
    assert hidden.read_virtual(flag_va, 1) == b"\1"
    never, always = (
        struct.unpack("<Q", hidden.read_virtual(base + variables[name], 8))[0]
        for name in ("KiWaitNever", "KiWaitAlways")
    )
    assert decode(block, never, always, flag_va) == plain.read_virtual(va, size)


@pytest.mark.parametrize("build", BUILDS)
def test_swizzled_entries(tmp_path, build):
    machine = forge("quiet", build=build, swizzle=True)
    file, space = save(machine, tmp_path), machine.space
    entries = {
        name: list(file.entries(va))[-1][1]
        for name, va in machine.addresses.items()
        if name.startswith("page:") and name[-1] not in "MG"
    }
    assert entries.pop("page:unmapped") == 0
    for name, entry in entries.items():
        assert entry & 0x11 == 0, name
        assert entry & MASK, name
        meant = entry & ~MASK
        if "prototype" in name:
            target = file.pointer(0xFFFF << 48 | meant >> 16)
            assert target & 0x11 == (1 if name == "page:prototype" else 0)
            assert (target & ~MASK & 0xFFFFFFFFF000) == space.translate(machine.addresses[name])
        elif name in ("page:transition", "page:swizzled"):
            assert meant & 0xFFFFFFFFF000 == space.translate(machine.addresses[name])
        else:
            assert meant >> 32 == (0x1F23 if name == "page:pagefile" else 0)
    place = machine.kernel.variables.get("MiInvalidPteMask")
    if place is None:
        offset = {14393: 0x5C0, 17763: 0x1680, 19041: 0x1680, 20348: 0x16C0, 22000: 0x1740}[build]
        place = machine.kernel.variables["MiState"] + offset
    assert file.pointer(machine.addresses["nt"] + place) == MASK


def test_prototypes_whose_address_has_the_masks_bit_stay_raw():
    machine = forge("quiet", swizzle=True)
    space, va = machine.space, machine.addresses["page:transition"]
    frame = space.frame_of(va)
    space.turn_into_prototype(va, 0xFFFFB10020000000)
    assert space.frame_of(va) == frame


@pytest.mark.parametrize(("arch", "build"), [(arch, build) for arch in ARCHES for build in BUILDS_BY_ARCH[arch]])
@pytest.mark.parametrize("pool_totals", [False, True])
def test_totals(arch, build, pool_totals):
    machine = forge("pipo", arch=arch, build=build, pool_totals=pool_totals)
    truth, base, variables = machine.truth, machine.addresses["nt"], machine.kernel.variables
    known, narrow = arch == "x64" and build in BUILDS, arch.startswith("x86")
    usage = build < 10240 or known
    sums = {
        "nonpaged": sum(tag.nonpaged_bytes for tag in truth.tags.values()),
        "paged": sum(tag.paged_bytes for tag in truth.tags.values()),
    }
    for pool, tagged in sums.items():
        used, limit = truth.limits[pool]
        present = usage if pool == "nonpaged" else usage and (pool_totals or not known)
        assert (used is not None) == present
        assert used is None or tagged < used < tagged + 8 * MIB
        assert (limit is not None) == (pool == "paged" or usage)
        assert used is None or used < limit
    assert truth.limits["paged"][1] == truth.paged_limit_bytes
    assert truth.limits["nonpaged"][1] in (None, truth.nonpaged_limit_bytes)

    def number(va):
        return int.from_bytes(machine.read_virtual(va, 4 if narrow else 8), "little")

    assert number(base + variables["MmSizeOfPagedPoolInBytes"]) == truth.paged_limit_bytes
    if build < 10240:
        assert number(base + variables["MmMaximumNonPagedPoolInBytes"]) == truth.limits["nonpaged"][1]
        assert number(base + variables["MmAllocatedNonPagedPool"]) * 0x1000 == truth.limits["nonpaged"][0]
        if pool_totals or not known:
            offset = {2600: 0x20, 3790: 0x1C}.get(build, 0x34) if narrow else 0x38 if build == 3790 else 0x60
            assert number(base + variables["MmPagedPoolInfo"] + offset) * 0x1000 == truth.limits["paged"][0]
            assert number(base + variables["MmTotalCommittedPages"]) * 0x1000 == truth.limits["commit"][0]
            assert number(base + variables["MmTotalCommitLimit"]) * 0x1000 == truth.limits["commit"][1]
    elif known:
        maximum = {14393: 0x1420, 17763: 0x2550, 19041: 0x2630, 20348: 0x4230, 22000: 0x4430}[build]
        allocated = 0x18 if build <= 17763 else 8
        state = base + variables["MiState"]
        assert number(state + allocated) * 0x1000 == truth.limits["nonpaged"][0]
        assert number(state + maximum) * 0x1000 == truth.limits["nonpaged"][1]
        assert number(state + maximum + 8) * 0x1000 == truth.limits["paged"][1]
        if pool_totals:
            partition = {14393: 0x1880, 17763: 0x1BC0, 19041: 0x1B00, 20348: 0x4140, 22000: 0x4140}[build]
            partition += base + variables["MiSystemPartition"]
            assert number(state + maximum - 8) * 0x1000 == truth.limits["paged"][0]
            committed = partition + (0x3A8 if build == 14393 else 0x228)
            assert number(committed) * 0x1000 == truth.limits["commit"][0]
            assert number(partition + 0x10) == 0x100000 - 0x62


@pytest.mark.parametrize("arch", ["x86", "x86pae"])
def test_untagged_xp(tmp_path, arch):
    machine = forge("pipo", arch=arch, build=2600, untagged=True)
    file = save(machine, tmp_path)
    assert machine.truth.tags == machine.truth.blocks == {}
    assert file.pointer(machine.addresses["PoolTrackTable"]) == 0
    assert file.pointer(machine.addresses["PoolBigPageTable"]) == 0
    assert len(machine.truth.modules) == 20


@pytest.mark.parametrize("arch", ARCHES)
def test_filtered_pages(tmp_path, arch):
    build = 19041
    machine = forge("pipo", arch=arch, build=build, user_pages=True)
    whole = save(machine, tmp_path)
    assert len(machine.user_frames) == 24
    assert len(machine.free_frames) == 40
    assert machine.user_frames | machine.free_frames <= set(whole.pages)
    assert machine.space.frame_of(machine.addresses["user"]) in machine.user_frames
    machine.filter_pages(without_tables_of=(1, 3))
    filtered = save(machine, tmp_path, live=True)
    gone = set(whole.pages) - set(filtered.pages)
    tables = {
        machine.space.frame_of(va)
        for number in (1, 3)
        for va in range(
            machine.addresses[f"table:{number}"], machine.addresses[f"table:{number}"] + machine.table_bytes, 0x1000
        )
    }
    assert gone == machine.user_frames | machine.free_frames | tables
    assert filtered.u32(filtered.at["attributes"]) == 0x50
    rows = 1025
    assert machine.table_bytes == rows * (0x30 if filtered.word == 4 else 0x38)
