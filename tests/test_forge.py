"""The forge: what its files say, read back by the few lines of struct below and by nothing of the project."""

from __future__ import annotations

import json
import lzma
import struct
import time
from pathlib import Path

import pytest

from dumps.forge import BUILDS, SCENARIOS, TagTruth, forge
from dumps.forge.__main__ import main
from dumps.forge.containers import find_runs
from dumps.forge.large import forge_large

PROJECT = Path(__file__).resolve().parent.parent
SAMPLE = PROJECT / "dumps" / "samples" / "pipo-19041.dmp.xz"
ROW_BYTES = {7601: 0x28, 9600: 0x28, 14393: 0x28, 17763: 0x38, 19041: 0x38, 20348: 0x50, 22000: 0x50}


class File:
    """A dump file: its physical pages and, by a walk of the page tables, its kernel memory."""

    def __init__(self, path):
        self.data = data = Path(path).read_bytes()
        self.kind = self.u32(0xF98)
        self.root = self.u64(0x10) >> 12
        self.pages = {}
        if self.kind == 1:
            offset = 0x2000
            for n in range(self.u32(0x88)):
                first, count = struct.unpack_from("<QQ", data, 0x98 + 16 * n)
                for pfn in range(first, first + count):
                    self.pages[pfn] = offset
                    offset += 0x1000
        else:
            offset, self.present, bits = struct.unpack_from("<QQQ", data, 0x2020)
            bitmap = data[0x2038 : 0x2038 + bits // 8]
            for byte in range(len(bitmap)):
                for bit in range(8) if bitmap[byte] else ():
                    if bitmap[byte] >> bit & 1:
                        self.pages[byte * 8 + bit] = offset
                        offset += 0x1000
        self.end = offset

    def u32(self, offset):
        return struct.unpack_from("<I", self.data, offset)[0]

    def u64(self, offset):
        return struct.unpack_from("<Q", self.data, offset)[0]

    def entries(self, va):
        """The page table entries on the way to an address."""
        table = self.root
        for shift in (39, 30, 21, 12):
            entry = self.u64(self.pages[table] + (va >> shift & 0x1FF) * 8)
            yield shift, entry
            if not entry & 1 or (entry & 0x80 and shift in (30, 21)):
                return
            table = entry >> 12 & 0xFFFFFFFFF

    def translate(self, va):
        shift, entry = list(self.entries(va))[-1]
        assert entry & 1, f"{va:#x} is not mapped by a valid entry"
        return entry & 0xFFFFFFFFFF000 & -(1 << shift) | va & (1 << shift) - 1

    def read(self, va, size):
        parts = []
        while size:
            n = min(size, 0x1000 - (va & 0xFFF))
            physical = self.translate(va)
            offset = self.pages[physical >> 12] + (physical & 0xFFF)
            parts.append(self.data[offset : offset + n])
            va, size = va + n, size - n
        return b"".join(parts)

    def pointer(self, va):
        return struct.unpack("<Q", self.read(va, 8))[0]


def sum_tables(file, addresses, build, processors, rows=1025):
    """The counters of every tag over ``processors`` tables, as unsigned remainders, and single negative values."""
    row_bytes = ROW_BYTES[build]
    totals, negative = {}, 0
    for number in range(processors):
        table = file.pointer(addresses["ExPoolTagTables"] + 8 * number)
        for row in range(rows):
            key, *values = parse_row(file.read(table + row * row_bytes, row_bytes))
            if key:
                totals[key] = [a + b for a, b in zip(totals.get(key, [0] * 6), values)]
                negative += values[2] >> 63 | values[5] >> 63
    return totals, negative


def parse_row(row):
    if len(row) == 0x28:
        key, na, nf, nb, pa, pf, pb = struct.unpack("<4sIIxxxxQIIQ", row)
    else:
        key, nb, na, nf, pb, pa, pf = struct.unpack("<4sxxxxQQQQQQ", row[:0x38])
    return key.strip(b"\0"), na, nf, nb, pa, pf, pb


def wrap(totals, build):
    count = 1 << (32 if ROW_BYTES[build] == 0x28 else 64)
    return {
        tag: TagTruth(*(v % (1 << 64) if n % 3 == 2 else v % count for n, v in enumerate(values)))
        for tag, values in totals.items()
        if any(v % (1 << 64) for v in values)
    }


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("build", BUILDS)
def test_tables_add_up_to_the_truth(tmp_path, build, known):
    machine = forge("pipo", build=build, known_kernel=known, processors=3)
    machine.save(tmp_path / "m.dmp")
    file = File(tmp_path / "m.dmp")
    totals, negative = sum_tables(file, machine.addresses, build, 3)
    assert wrap(totals, build) == machine.truth.tags
    assert negative > 20
    assert file.pointer(machine.addresses["ExPoolTagTables"] + 24) == 0
    last = file.read(file.pointer(machine.addresses["PoolTrackTable"]) + 1024 * ROW_BYTES[build], 4)
    assert last == b"Ovfl"


@pytest.mark.parametrize("kind", [1, 5, 6])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_header_modules_and_size(tmp_path, scenario, kind):
    machine = forge(scenario)
    machine.save(tmp_path / "m.dmp", kind=kind)
    file, truth = File(tmp_path / "m.dmp"), machine.truth
    assert file.data[:8] == b"PAGEDU64"
    assert (file.u32(0xC), file.u32(0x30), file.u32(0x34)) == (19041, 0x8664, 4)
    assert (file.u32(0x38), *struct.unpack_from("<4Q", file.data, 0x40)) == truth.bugcheck
    assert file.kind == kind
    assert file.u64(0x1030) == truth.uptime_seconds * 10_000_000
    assert (file.u64(0xFA8) - 116444736000000000) / 10_000_000 == truth.taken_at.timestamp()
    assert file.data[0xFB0:0x1030] == b"PAGE" * 32
    assert file.end == file.u64(0xFA0) == len(file.data)
    assert 0x10000 < len(machine.memory.present_frames()) * 0x1000 < 0x200000
    assert file.read(file.u64(0x80) + 0x10, 8) == b"KDBG" + struct.pack("<I", 0x380)
    assert file.pointer(file.u64(0x80) + 0x218) == machine.addresses["KiProcessorBlock"]
    assert file.pointer(file.u64(0x80) + 0x100) == 0

    head, modules = file.u64(0x20), []
    entry = file.pointer(head)
    while entry != head:
        base, size = file.pointer(entry + 0x30), file.read(entry + 0x40, 4)
        length, buffer = struct.unpack("<H6xQ", file.read(entry + 0x58, 16))
        name = file.read(buffer, length).decode("utf-16-le")
        stamp = struct.unpack("<I", file.read(entry + 0x9C, 4))[0]
        modules.append((name, base, struct.unpack("<I", size)[0], stamp))
        assert file.pointer(file.pointer(entry) + 8) == entry
        entry = file.pointer(entry)
    assert tuple(modules) == truth.modules
    assert modules[0][0] == "ntoskrnl.exe"


def test_only_bitmap_dumps_know_which_pages_are_missing(tmp_path):
    machine = forge("pipo")
    va = machine.addresses["table:2"]
    frame = machine.space.translate(va) >> 12
    machine.omit(va, 1)
    for kind in (1, 5, 6):
        machine.save(tmp_path / "m.dmp", kind=kind)
        file = File(tmp_path / "m.dmp")
        assert frame not in file.pages
        assert set(machine.memory.present_frames()) <= set(file.pages)
        assert kind == 1 or len(file.pages) == file.present == len(machine.memory.present_frames())


def test_frames_are_scattered():
    machine = forge("quiet")
    tables = [machine.space.translate(machine.addresses[f"page:{state}"]) for state in ("prototype", "transition")]
    frames = machine.memory.present_frames()
    assert all(frame for frame in tables)
    assert frames[-1] - frames[0] > 0x80000
    pool = [machine.space.translate(block.va) for block in machine.truth.blocks[b"File"]]
    assert len({physical >> 12 for physical in pool}) == 2
    gaps = sum(b - a > 1 for a, b in zip(frames, frames[1:]))
    assert gaps > len(frames) / 10


def test_full_dump_has_at_most_42_runs(tmp_path):
    machine = forge("twins")
    machine.save(tmp_path / "m.dmp", kind=1)
    file = File(tmp_path / "m.dmp")
    assert 10 < file.u32(0x88) <= 42
    assert file.u64(0x90) == len(file.pages)
    unused = next(pfn for pfn in file.pages if pfn not in machine.memory.pages)
    assert not any(file.data[file.pages[unused] :][:0x1000])


def test_runs_keep_apart_what_is_omitted():
    assert find_runs([1, 2, 9, 11, 30], set(), 2) == [(1, 11), (30, 1)]
    assert find_runs([1, 2, 9, 11, 30], {10}, 2) == [(1, 9), (11, 20)]
    assert find_runs([4], set(), 42) == [(4, 1)]
    with pytest.raises(ValueError, match="room for 2"):
        find_runs([1, 3, 5], {2, 4}, 2)


@pytest.mark.parametrize("kind", [1, 6])
def test_same_arguments_make_the_same_file(tmp_path, kind):
    paths = [tmp_path / name for name in ("a.dmp", "b.dmp", "c.dmp")]
    for path, seed in zip(paths, (1, 1, 2)):
        forge("toke", build=20348, seed=seed).save(path, kind=kind)
    first, second, other = (path.read_bytes() for path in paths)
    assert first == second
    assert first != other


def test_sample_is_what_its_command_makes(tmp_path):
    made = tmp_path / "sample.dmp.xz"
    assert main(["pipo", "--build", "19041", "--kind", "6", "-o", str(made)]) == 0
    assert lzma.decompress(SAMPLE.read_bytes()) == lzma.decompress(made.read_bytes())
    assert SAMPLE.stat().st_size < 1 << 20


def test_readme_shows_the_samples_command():
    assert f"python -m dumps.forge pipo --build 19041 --kind 6 -o dumps/samples/{SAMPLE.name}" in (
        PROJECT / "dumps" / "README.md"
    ).read_text(encoding="utf-8")


def test_command_line(tmp_path, capsys):
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SCENARIOS)
    with pytest.raises(SystemExit) as wrong:
        main(["pipo"])
    assert wrong.value.code == 2
    main(["paged", "--build", "7601", "--unknown-kernel", "-o", str(tmp_path / "p.dmp.gz")])
    assert (tmp_path / "p.dmp.gz").read_bytes()[:2] == b"\x1f\x8b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "pippo"}, "knows quiet, pipo"),
        ({"scenario": "pipo", "build": 19045}, "knows 7601"),
        ({"scenario": "pipo", "table_rows": 1000}, "power of two"),
    ],
)
def test_unknown_wishes(arguments, message):
    with pytest.raises(ValueError, match=message):
        forge(**arguments)


def test_page_states(tmp_path):
    machine = forge("quiet")
    machine.save(tmp_path / "m.dmp")
    file = File(tmp_path / "m.dmp")
    addresses, space = machine.addresses, machine.space
    last = {
        state: list(file.entries(addresses[f"page:{state}"]))[-1]
        for state in (
            [
                "transition",
                "swizzled",
                "prototype",
                "prototype-transition",
                "pagefile",
                "demand-zero",
                "unmapped",
                "2M",
                "1G",
            ]
        )
    }
    assert last["2M"][0] == 21
    assert last["1G"][0] == 30
    assert last["transition"][1] & 0xC11 == 0x810
    assert last["swizzled"][1] & 0xC11 == 0x800
    assert last["swizzled"][1] >> 45 & 1
    assert (last["swizzled"][1] & ~(1 << 45)) >> 12 << 12 == space.translate(addresses["page:swizzled"])
    for state, low_bits in (("prototype", 1), ("prototype-transition", 0x800)):
        entry = last[state][1]
        assert entry & 0x401 == 0x400
        target = file.pointer(0xFFFF000000000000 | entry >> 16)
        assert target & 0x801 & low_bits == low_bits
        assert target & 0x7FFFFFFFFFFFF000 == space.translate(addresses[f"page:{state}"])
    assert last["pagefile"][1] & 0xC01 == 0
    assert last["pagefile"][1] >> 32 == 0x1F23
    assert last["demand-zero"][1] & 0xC01 == 0
    assert last["demand-zero"][1] >> 32 == 0
    assert last["unmapped"][1] == 0


def test_damage(tmp_path):
    machine = forge("pipo")
    nt = machine.addresses["nt"]
    machine.write_virtual(nt, b"XX")
    assert machine.read_virtual(nt, 2) == b"XX"
    table = machine.addresses["table:1"]
    before = machine.read_virtual(table + 0x1000, 0x100)
    machine.unmap(table, 0x1000)
    with pytest.raises(ValueError, match="not mapped"):
        machine.read_virtual(table, 4)
    assert machine.read_virtual(table + 0x1000, 0x100) == before
    machine.header.directory_table_base = 0
    machine.header.attributes = 4
    machine.save(tmp_path / "m.dmp")
    data = (tmp_path / "m.dmp").read_bytes()
    assert data[0x10:0x18] == bytes(8)
    assert data[0x1050:0x1054] == b"\x04\0\0\0"
    with pytest.raises(ValueError, match="dump type 2"):
        machine.save(tmp_path / "m.dmp", kind=2)


def test_expansion_table():
    machine = forge("twins", build=17763)
    rows = [machine.read_virtual(machine.addresses["expansion"] + 0x38 * n, 0x38) for n in range(3)]
    assert [row[:4] for row in rows] == [b"Xp01", b"Xp02", bytes(4)]
    assert TagTruth(*parse_row(rows[0])[1:]) == machine.truth.tags[b"Xp01"]
    assert "expansion" not in forge("pipo").addresses


@pytest.mark.parametrize(("build", "row_bytes"), [(7601, 0x18), (19041, 0x18), (20348, 0x20)])
def test_big_pages(build, row_bytes):
    machine = forge("paged", build=build)
    rows = [machine.read_virtual(machine.addresses["bigpages"] + row_bytes * n, 0x18) for n in range(1024)]
    rows = [struct.unpack("<Q4s4xQ", row) for row in rows]
    used = {va: (tag, size) for va, tag, size in rows if va and not va & 1}
    blocks = machine.truth.blocks[b"Pgla"]
    assert all(used[block.va] == (b"Pgla", block.size) and block.is_big for block in blocks)
    assert sum(tag == b"Pgla" for tag, _ in used.values()) == 256
    assert any(va & 1 and tag == b"Pgla" for va, tag, _ in rows)


@pytest.mark.parametrize("build", [7601, 19041])
def test_blocks_carry_the_tag_and_point_into_the_driver(build):
    machine = forge("pipo", build=build)
    base, size = next((base, size) for name, base, size, _ in machine.truth.modules if name == "pippo.sys")
    blocks = machine.truth.blocks[b"Pipo"]
    assert len(blocks) > 80
    for block in blocks:
        header = machine.read_virtual(block.va, 0x40)
        assert header[4:8] == b"Pipo"
        assert header[2] * 0x10 == block.size == 0x1B0
        assert header[3] == 2
        pointers = struct.unpack_from("<2Q", header, 0x20)
        assert all(base < pointer < base + size for pointer in pointers)


def test_unloaded_drivers():
    machine = forge("quiet")
    ring = machine.addresses["unloaded"]
    for n, (name, start, end) in enumerate(machine.truth.unloaded):
        length, buffer, low, high, _ = struct.unpack("<H6xQQQQ", machine.read_virtual(ring + 0x28 * n, 0x28))
        assert (machine.read_virtual(buffer, length).decode("utf-16-le"), low, high) == (name, start, end)
    assert machine.read_virtual(ring + 0x28 * len(machine.truth.unloaded), 0x28) == bytes(0x28)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_owners_carry_their_tags_in_sections(scenario):
    machine = forge(scenario, build=17763)
    modules = {name: (base, size) for name, base, size, _ in machine.truth.modules}
    for tag, owners in machine.truth.owners.items():
        for name in owners:
            if (scenario, name) == ("missing", "pippo.sys"):
                continue
            base, size = modules[name]
            assert any(tag in piece for piece in present(machine, base + 0x1000, size - 0x1000)), (tag, name)
    if scenario == "missing":
        base, size = modules["pippo.sys"]
        assert machine.truth.owners[b"Pipo"] == ("pippo.sys",)
        kept = [
            va
            for va in range(base, base + size, 0x1000)
            if machine.space.translate(va) and machine.space.translate(va) >> 12 not in machine.memory.omitted
        ]
        assert base in kept
        assert not any(b"Pipo" in machine.read_virtual(va, 0x1000) for va in kept)


def present(machine, va, size):
    for page in range(va, va + size, 0x1000):
        physical = machine.space.translate(page)
        if physical is not None and physical >> 12 in machine.memory.pages:
            yield machine.read_virtual(page, 0x1000)


@pytest.mark.parametrize("build", BUILDS)
def test_images_are_images(build):
    pefile = pytest.importorskip("pefile", reason="pefile is part of the test extra")
    machine = forge("quiet", build=build)
    checked = 0
    for name, base, size, stamp in machine.truth.modules:
        memory = bytearray(size)
        for va in range(base, base + size, 0x1000):
            physical = machine.space.translate(va)
            if physical is not None and physical >> 12 in machine.memory.pages:
                memory[va - base : va - base + 0x1000] = machine.read_virtual(va, 0x1000)
        image = pefile.PE(data=bytes(memory), fast_load=True)
        assert (image.OPTIONAL_HEADER.ImageBase, image.OPTIONAL_HEADER.SizeOfImage) == (base, size)
        assert image.FILE_HEADER.TimeDateStamp == stamp
        if name in ("lookas.sys", "globus.sys", "ctxreg.sys"):
            continue  # these are laid out as files; pefile cannot read them from memory
        image.parse_data_directories()
        strings = image.FileInfo[0][0].StringTable[0].entries
        assert strings[b"CompanyName"] == b"Microsoft Corporation"
        record = image.DIRECTORY_ENTRY_DEBUG[0].entry
        assert record.CvSignature == b"RSDS"
        if name == "ntoskrnl.exe":
            guid = f"{record.Signature_Data1:08X}{record.Signature_Data2:04X}{record.Signature_Data3:04X}"
            guid += f"{record.Signature_Data4:02X}{record.Signature_Data5:02X}" + record.Signature_Data6.hex().upper()
            assert guid == machine.truth.kernel_guid
            exports = {symbol.name: symbol.address for symbol in image.DIRECTORY_ENTRY_EXPORT.symbols}
            assert {b"ExAllocatePoolWithTag", b"ExFreePoolWithTag", b"PsReferencePrimaryToken"} <= set(exports)
        checked += 1
    assert checked == 16


def test_driver_is_bound_to_nt():
    machine = forge("pipo", build=9600)
    nt = machine.addresses["nt"]
    slots = [
        struct.unpack_from("<Q", page, at)[0]
        for page in present(machine, machine.addresses["module:pippo.sys"], 0x10000)
        for at in range(0, 0x1000, 8)
    ]
    assert nt + 0x28BBF0 in slots  # ExAllocatePoolWithTag of this build
    assert nt + 0x28B000 in slots  # ExFreePoolWithTag


def test_symbols_are_those_of_the_public_kernel(evidence):
    for path in sorted((evidence / "isf").glob("*.json.xz")):
        build = int(path.name.split("_")[1].split(".")[2])
        symbols = json.loads(lzma.decompress(path.read_bytes()))["symbols"]
        machine = forge("quiet", build=build)
        for name in ("PoolTrackTable", "ExPoolTagTables", "PoolBigPageTable", "PsLoadedModuleList"):
            assert machine.addresses[name] - machine.addresses["nt"] == symbols[name]["address"]
        assert machine.truth.kernel_guid in path.name


@pytest.mark.parametrize("build", BUILDS)
def test_unknown_kernel_keeps_its_globals_near_but_elsewhere(build):
    known, unknown = forge("quiet", build=build), forge("quiet", build=build, known_kernel=False)
    assert known.truth.kernel_guid != unknown.truth.kernel_guid
    for name in ("ExPoolTagTables", "PoolBigPageTable"):
        distance, other = (m.addresses[name] - m.addresses["PoolTrackTable"] for m in (unknown, known))
        assert distance != other
        assert abs(distance) < 0x5000


def test_more_rows():
    machine = forge("quiet", table_rows=4097)
    assert machine.addresses["table:1"] - machine.addresses["table:0"] > 4097 * 0x38


def test_large_dump(tmp_path):
    path = tmp_path / "large.dmp"
    begin = time.perf_counter()
    machine = forge_large(path, present_gib=1, span_gib=8)
    assert time.perf_counter() - begin < 10
    with open(path, "rb") as file:
        file.seek(0x2020)
        first, present_pages, bits = struct.unpack("<QQQ", file.read(24))
        bitmap = int.from_bytes(file.read(bits // 8), "little")
        assert bin(bitmap).count("1") == present_pages
        assert present_pages == pytest.approx(1 << 18, rel=0.05)
        assert path.stat().st_size == first + present_pages * 0x1000
        for frame in machine.memory.present_frames()[::17]:
            rank = bin(bitmap & (1 << frame) - 1).count("1")
            file.seek(first + rank * 0x1000)
            assert file.read(0x1000) == machine.memory.pages[frame]
    with pytest.raises(ValueError, match="fewer pages"):
        forge_large(path, present_gib=9, span_gib=8)
