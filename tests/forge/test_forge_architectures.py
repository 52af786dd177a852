"""What forged machines of every architecture and build hold: tag tables, modules, blocks, page states, code."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import BUILDS, BUILDS_BY_ARCH, TagTruth, forge
from tests.forge.test_forge_files import ARCHES, save

MACHINES = [(arch, build) for arch, builds in BUILDS_BY_ARCH.items() for build in builds]
SINGLE_TABLE = (2600, 3790)
MASKS = {4: 0xFFFFFFFF, 8: 0xFFFFFFFFFFFFFFFF}


def row_bytes(arch, build):
    if arch.startswith("x86"):
        return 0x1C if build <= 15063 else 0x30
    return 0x28 if build <= 15063 else 0x38 if build <= 19045 else 0x50


def parse_row(row):
    if len(row) in (0x1C, 0x28):
        key, na, nf, nb, pa, pf, pb = struct.unpack("<4s6I" if len(row) == 0x1C else "<4sIIxxxxQIIQ", row)
    elif len(row) == 0x30:
        key, nb, na, nf, pb, pa, pf = struct.unpack("<4sIQQIxxxxQQ", row)
    else:
        key, nb, na, nf, pb, pa, pf = struct.unpack("<4sxxxxQQQQQQ", row[:0x38])
    return key.strip(b"\0"), na, nf, nb, pa, pf, pb


def sum_tables(file, tables, rows, size):
    """The counters of every tag over all tables, and how many single values are negative."""
    counts = MASKS[4 if size in (0x1C, 0x28) else 8]
    sizes = MASKS[4 if size in (0x1C, 0x30) else 8]
    totals, negative = {}, 0
    for table in tables:
        for row in range(rows):
            key, *values = parse_row(file.read(table + row * size, size))
            if key:
                totals[key] = [a + b for a, b in zip(totals.get(key, [0] * 6), values)]
                negative += sum(values[n] > sizes // 2 for n in (2, 5))
    wrapped = {
        tag: TagTruth(*(value & (sizes if n % 3 == 2 else counts) for n, value in enumerate(values)))
        for tag, values in totals.items()
    }
    return {tag: truth for tag, truth in wrapped.items() if any(truth)}, negative


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_tables_add_up_to_the_truth(tmp_path, arch, build, known):
    machine = forge("pipo", arch=arch, build=build, known_kernel=known, processors=3)
    file, addresses = save(machine, tmp_path), machine.addresses
    size, rows = row_bytes(arch, build), 2049 if build in SINGLE_TABLE else 1025
    first = file.pointer(addresses["PoolTrackTable"])
    if build in SINGLE_TABLE:
        assert "ExPoolTagTables" not in addresses
        tables = [first]
    else:
        tables = [file.pointer(addresses["ExPoolTagTables"] + file.word * n) for n in range(3)]
        assert file.pointer(addresses["ExPoolTagTables"] + file.word * 3) == 0
        assert tables[0] == first
        assert abs(addresses["ExPoolTagTables"] - addresses["PoolTrackTable"]) < 0x5000
    totals, negative = sum_tables(file, tables, rows, size)
    assert totals == machine.truth.tags
    assert (negative > 20) == (len(tables) > 1)
    assert file.read(first + (rows - 1) * size, 4) == b"Ovfl"


@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_modules_and_debugger_data(tmp_path, arch, build):
    machine = forge("pipo", arch=arch, build=build)
    file, truth = save(machine, tmp_path), machine.truth
    word, block = file.word, file.number(file.at["kdbg"])
    base, size, name, stamp = (0x18, 0x20, 0x2C, 0x58) if word == 4 else (0x30, 0x40, 0x58, 0x9C)
    head = file.number(0x10 + 2 * word)
    entry, modules = file.pointer(head), []
    while entry != head:
        length = struct.unpack("<H", file.read(entry + name, 2))[0]
        text = file.read(file.pointer(entry + name + word), length).decode("utf-16-le")
        image_bytes, timestamp = (struct.unpack("<I", file.read(entry + at, 4))[0] for at in (size, stamp))
        modules.append((text, file.pointer(entry + base), image_bytes, timestamp))
        assert file.pointer(file.pointer(entry) + word) == entry
        entry = file.pointer(entry)
    assert len(modules) == 20
    expected = truth.modules if build >= 10240 else tuple((*module[:3], 0) for module in truth.modules)
    assert tuple(modules) == expected
    assert modules[0][:2] == ("ntoskrnl.exe", machine.addresses["nt"])

    def member(offset):
        return struct.unpack("<Q", file.read(block + offset, 8))[0]

    def wide(name):
        return machine.addresses[name] | (0xFFFFFFFF << 32 if word == 4 else 0)

    sizes = {2600: 0x290, 3790: 0x318, 6002: 0x330, 7601: 0x340, 9600: 0x360, 14393: 0x368, 15063: 0x368}
    assert file.read(block + 0x10, 8) == b"KDBG" + struct.pack("<I", sizes.get(build, 0x380))
    assert member(0x18) == wide("nt")
    assert member(0x48) == wide("PsLoadedModuleList")
    assert member(0x1B8) == wide("PoolTrackTable")
    assert member(0x218) == wide("KiProcessorBlock")
    assert file.read(block + 0x36, 2) == struct.pack("<H", arch == "x86pae")
    assert (member(0x250) == 0) == (build > 9600)


@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_unloaded_drivers(arch, build):
    machine = forge("quiet", arch=arch, build=build)
    ring, word = machine.addresses["unloaded"], 4 if arch.startswith("x86") else 8
    step = 0x18 if word == 4 else 0x28
    layout = "<HHIIIQ" if word == 4 else "<HH4xQQQQ"
    for n, (name, start, end) in enumerate(machine.truth.unloaded):
        length, _, buffer, low, high, _ = struct.unpack(layout, machine.read_virtual(ring + step * n, step))
        assert (machine.read_virtual(buffer, length).decode("utf-16-le"), low, high) == (name, start, end)
    assert machine.read_virtual(ring + step * len(machine.truth.unloaded), step) == bytes(step)


def big_page_layout(arch, build):
    """Size of a row and the format of address, tag, kind or pages, size of it; 'x' where there is none."""
    if build == 2600:
        return 0xC, "<I4sI"
    if build == 3790:
        return (0x10, "<I4sI4x") if arch.startswith("x86") else (0x18, "<Q4sI8x")
    if arch.startswith("x86"):
        return 0x10, "<I4sII"
    return (0x20, "<Q4sIQ8x") if build >= 20348 else (0x18, "<Q4sIQ")


@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_big_pages(arch, build):
    machine = forge("paged", arch=arch, build=build)
    size, layout = big_page_layout(arch, build)
    table = machine.read_virtual(machine.addresses["bigpages"], 1024 * size)
    rows = list(struct.iter_unpack(layout, table))
    used = {row[0]: row[1:] for row in rows if row[0] and not row[0] & 1}
    for tag, paged in ((b"Pgla", True), (b"CM31", True), (b"EtwB", False)):
        blocks = machine.truth.blocks[tag]
        assert blocks
        for block in blocks:
            assert block.is_big
            row = used[block.va]
            assert row[0] == tag
            if len(row) == 2:
                assert row[1] == block.size // 0x1000
            else:
                kind = row[1] if build < 10240 else row[1] >> 8 & 0xFFF
                assert row[2] == block.size
                assert kind & 1 == paged
                assert paged or kind == (0x200 if build > 7601 else 0)
    assert sum(row[1] == b"Pgla" for row in rows if row[0] & 1) == sum(row[0] == b"Pgla" for row in used.values()) // 5


def walk_pool_page(machine, page_va, word):
    """The blocks of a classic pool page: (address, bytes, tag, in use), by the chain of their headers."""
    page, offset, previous = machine.read_virtual(page_va, 0x1000), 0, 0
    while offset < 0x1000:
        if word == 4:
            first, second, tag = struct.unpack_from("<HH4s", page, offset)
            before, units, kind, unit = first & 0x1FF, second & 0x1FF, second >> 9, 8
        else:
            before, _, units, kind, tag = struct.unpack_from("<4B4s", page, offset)
            unit = 0x10
        assert before * unit == previous
        yield page_va + offset, units * unit, tag, kind
        previous = units * unit
        offset += previous
    assert offset == 0x1000


@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_pool_blocks(arch, build):
    machine = forge("pipo", arch=arch, build=build)
    word = 4 if arch.startswith("x86") else 8
    base, image_bytes = next((base, size) for name, base, size, _ in machine.truth.modules if name == "pippo.sys")
    small = {tag: [block for block in blocks if not block.is_big] for tag, blocks in machine.truth.blocks.items()}
    assert len(small[b"Pipo"]) > 80
    for block in small[b"Pipo"]:
        pointers = struct.unpack("<2I" if word == 4 else "<2Q", machine.read_virtual(block.va + 4 * word, 2 * word))
        assert all(base < pointer < base + image_bytes for pointer in pointers)
    if build >= 18362:
        assert all(machine.read_virtual(block.va + 4, 4) == b"Pipo" for block in small[b"Pipo"])
        return
    for tag, blocks in small.items():
        paged = tag == b"Ctxr"
        in_use = 1 + paged if build < 6000 else 2 | paged
        walked = [
            block
            for page in sorted({block.va & ~0xFFF for block in blocks})
            for block in walk_pool_page(machine, page, word)
        ]
        assert [(va, size) for va, size, found, kind in walked if found == tag and kind == in_use] == [
            (block.va, block.size) for block in blocks
        ]
        assert not blocks or any(not kind for *_, kind in walked)


def states_of(machine, file):
    return {name: list(file.entries(va))[-1] for name, va in machine.addresses.items() if name.startswith("page:")}


@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_page_states(tmp_path, arch, build):
    machine = forge("quiet", arch=arch, build=build)
    file, space = save(machine, tmp_path), machine.space
    states = states_of(machine, file)
    wide, narrow_pte = file.word == 8, arch == "x86"
    frame_mask = 0xFFFFF000 if narrow_pte else 0x3FFFFFF000 if arch == "x86pae" else 0xFFFFFFFFF000

    def where(name):
        return space.translate(machine.addresses[name])

    def frame(entry):
        return entry & frame_mask

    assert ("page:swizzled" in states) == (build in BUILDS and arch == "x64")
    assert states["page:transition"][1] & 0xC01 == 0x800
    assert frame(states["page:transition"][1]) == where("page:transition")
    for name, low_bits in (("page:prototype", 1), ("page:prototype-transition", 0x800)):
        entry = states[name][1]
        assert entry & 0x401 == 0x400
        if wide:
            prototype = 0xFFFF << 48 | entry >> 16
        elif arch == "x86pae":
            prototype = entry >> 32
        elif build < 6000:
            prototype = 0xE1000000 + ((entry >> 11 << 9) | (entry >> 1 & 0x7F) << 2)
        else:
            prototype = 0x80000000 | entry >> 1 & 0x7FFFFC00 | entry << 1 & 0x3FF
        width = 4 if narrow_pte else 8
        target = int.from_bytes(file.read(prototype, width), "little")
        assert target & 0x801 & low_bits == low_bits
        assert frame(target) == where(name)
    pagefile, demand_zero = states["page:pagefile"][1], states["page:demand-zero"][1]
    index_bits = 12 if narrow_pte else 32
    assert pagefile & 0xC01 == demand_zero & 0xC01 == 0
    assert pagefile >> index_bits == 0x1F23
    assert demand_zero >> index_bits == 0
    assert states["page:unmapped"][1] == 0
    for name, shift in (("page:4M", 22), ("page:2M", 21), ("page:1G", 30)):
        if name in states:
            assert states[name][0] == shift
            assert file.translate(machine.addresses[name]) == where(name)
    assert ("page:1G" in states) == (wide and build >= 17763)


@pytest.mark.parametrize("arch", ARCHES)
def test_large_pages_are_in_use_somewhere(arch):
    wanted = "page:4M" if arch == "x86" else "page:2M"
    assert any(wanted in forge("quiet", arch=arch, build=build).addresses for build in BUILDS_BY_ARCH[arch])


def test_frames_of_pae_lie_above_4_gib_too():
    machine = forge("quiet", arch="x86pae", build=7601)
    frames = machine.memory.present_frames()
    assert frames[0] < 0x100000 < frames[-1]
    assert machine.header.directory_table_base % 0x1000 == 0x320


@pytest.mark.parametrize("arch", ["x86", "x86pae"])
def test_counters_of_32_bit_systems_fit(arch):
    for build in BUILDS_BY_ARCH[arch]:
        for scenario in ("pipo", "toke", "paged"):
            truth = forge(scenario, arch=arch, build=build).truth
            assert sum(tag.nonpaged_bytes for tag in truth.tags.values()) < truth.nonpaged_limit_bytes < 1 << 32
            assert sum(tag.paged_bytes for tag in truth.tags.values()) < truth.paged_limit_bytes < 1 << 32
            for name in (b"Toke", b"Hldr") if scenario == "toke" else ():
                tag = truth.tags[name]
                assert sum(tag[0::3]) - sum(tag[1::3]) == -(-3_708_367 // 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "ia64"}, "knows x64, x64la57, x86, x86pae, arm64"),
        ({"arch": "arm64", "build": 7601}, "knows 19041, 22000"),
        ({"arch": "x86", "build": 22000}, "knows 2600"),
    ],
)
def test_unknown_architectures_and_builds(arguments, message):
    with pytest.raises(ValueError, match=message):
        forge("quiet", **arguments)
