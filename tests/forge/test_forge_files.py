"""The forge's files of every type, read back by the few lines of struct below and by nothing of the project."""

from __future__ import annotations

import gzip
import lzma
import struct
import zipfile
from pathlib import Path

import pytest

from dumps.forge import BUILDS_BY_ARCH, SCENARIOS, forge
from dumps.forge.containers import find_runs

ARCHES = tuple(BUILDS_BY_ARCH)
# Where the headers differ: pointers, size, type, runs, and the numbers that follow the machine's.
WIDE = {"word": 8, "size": 0x2000, "type": 0xF98, "runs": 0x88, "machine": 0x30, "kdbg": 0x80, "code": 0x38}
NARROW = {"word": 4, "size": 0x1000, "type": 0xF88, "runs": 0x64, "machine": 0x20, "kdbg": 0x60, "code": 0x28}
WIDE.update(file_bytes=0xFA0, time=0xFA8, uptime=0x1030, comment=0xFB0, attributes=0x1050)
NARROW.update(file_bytes=0xFA0, time=0xFC0, uptime=0xFB8, comment=0x820, attributes=0x8A0)


class File:
    """A dump file: its physical pages and, by a walk of the page tables, its kernel memory."""

    def __init__(self, path):
        self.data = Path(path).read_bytes()
        self.at = {b"PAGEDU64": WIDE, b"PAGEDUMP": NARROW}[self.data[:8]]
        self.word = self.at["word"]
        self.kind = self.u32(self.at["type"])
        self.machine = self.u32(self.at["machine"])
        self.root = self.number(0x10)
        self.pages, self.present = {}, None
        read = {1: self.read_runs, 2: self.read_summary, 8: self.read_ranges, 9: self.read_ranges, 10: self.read_ranges}
        self.end = read.get(self.kind, self.read_bitmap)()

    def read_runs(self):
        offset, at, word = self.at["size"], self.at["runs"], self.word
        for n in range(self.u32(at)):
            first, count = self.number(at + word * (2 + 2 * n)), self.number(at + word * (3 + 2 * n))
            for pfn in range(first, first + count):
                self.pages[pfn] = offset
                offset += 0x1000
        return offset

    def read_bitmap(self):
        at = self.at["size"] + 0x20
        first, self.present, bits = self.u64(at), self.u64(at + 8), self.u64(at + 16)
        return self.place_bits(at + 24, bits, first)

    def read_summary(self):
        at = self.at["size"]
        assert self.data[at : at + 8] == b"SDMPDUMP"
        first, bits, self.present, bits_again = struct.unpack_from("<4I", self.data, at + 0xC)
        assert bits == bits_again
        return self.place_bits(at + (0x20 if self.word == 4 else 0x28), bits, first)

    def place_bits(self, at, bits, offset):
        bitmap = self.data[at : at + bits // 8]
        for byte in range(len(bitmap)):
            for bit in range(8) if bitmap[byte] else ():
                if bitmap[byte] >> bit & 1:
                    self.pages[byte * 8 + bit] = offset
                    offset += 0x1000
        return offset

    def read_ranges(self):
        assert struct.unpack_from("<I4s4s", self.data, 0x2000) == (0x40, b"RDMP", b"DUMP")
        metadata_bytes, offset = self.u64(0x2010), self.u64(0x2018)
        assert metadata_bytes - 0x20 == offset - 0x2040
        counts = (self.u32(0x2020), self.u64(0x2028)) if self.kind == 10 else None
        ranges = pages = 0
        for at in range(0x2030, offset, 16):
            first, count = self.u64(at), self.u64(at + 8)
            if not first or counts == (ranges, pages):
                break
            for pfn in range(first, first + count):
                self.pages[pfn] = offset + (pages + pfn - first) * 0x1000
            ranges, pages = ranges + 1, pages + count
        assert counts in (None, (ranges, pages))
        return offset + pages * 0x1000

    def u32(self, offset):
        return struct.unpack_from("<I", self.data, offset)[0]

    def u64(self, offset):
        return struct.unpack_from("<Q", self.data, offset)[0]

    def number(self, offset):
        return int.from_bytes(self.data[offset : offset + self.word], "little")

    def entries(self, va):
        """The page table entries on the way to an address: (lowest address bit, entry, whether it maps a page)."""
        pae = self.word == 4 and self.data[0x5C] == 1
        if self.word == 4 and not pae:
            shifts, width, table = (22, 12), 4, self.root & ~0xFFF
        elif pae:
            shifts, width, table = (30, 21, 12), 8, self.root & ~0x1F
        else:
            shifts, width, table = (39, 30, 21, 12), 8, self.root & ~0xFFF
        for shift in shifts:
            index = va >> shift & (0x3FF if width == 4 else 3 if (pae and shift == 30) else 0x1FF)
            address = table + index * width
            at = self.pages[address >> 12] + (address & 0xFFF)
            entry = int.from_bytes(self.data[at : at + width], "little")
            if self.machine == 0xAA64:
                large = entry & 3 == 1
            else:
                large = entry & 0x80 and shift in (30, 22, 21) and not (pae and shift == 30)
            yield shift, entry
            if not entry & 1 or large:
                return
            table = entry & 0xFFFFFFFFF000

    def translate(self, va):
        shift, entry = list(self.entries(va))[-1]
        assert entry & 1, f"{va:#x} is not mapped by a valid entry"
        return entry & 0xFFFFFFFFF000 & -(1 << shift) | va & (1 << shift) - 1

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
        return int.from_bytes(self.read(va, self.word), "little")


def save(machine, folder, kind=6, **wishes):
    machine.save(folder / "m.dmp", kind=kind, **wishes)
    return File(folder / "m.dmp")


def kinds_of(arch):
    return (1, 2, 5, 6, 7) if arch.startswith("x86") else (1, 2, 5, 6, 7, 8, 9, 10)


@pytest.mark.parametrize(("arch", "kind"), [(arch, kind) for arch in ARCHES for kind in kinds_of(arch)])
def test_every_type_holds_every_page(tmp_path, arch, kind):
    machine = forge("pipo", arch=arch)
    machine.omit(machine.addresses["table:2"], 1)
    frame = machine.space.translate(machine.addresses["table:2"]) >> 12
    file = save(machine, tmp_path, kind)
    assert file.kind == kind
    assert file.u32(0xC) == 19041
    assert file.end == file.u64(file.at["file_bytes"]) == len(file.data)
    for pfn in machine.memory.present_frames():
        offset = file.pages[pfn]
        assert file.data[offset : offset + 0x1000] == machine.memory.pages[pfn]
    assert frame not in file.pages
    if kind != 1:
        assert set(file.pages) == set(machine.memory.present_frames())
        assert file.present in (None, len(file.pages))
    assert file.pointer(machine.addresses["PoolTrackTable"]) == machine.addresses["table:0"]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_header(tmp_path, scenario, arch):
    machine = forge(scenario, healthy_share=32, arch=arch)
    file, truth = save(machine, tmp_path), machine.truth
    at, word = file.at, file.word
    machine_type = {"x64": 0x8664, "arm64": 0xAA64}.get(arch, 0x14C)
    assert (file.u32(0xC), file.machine, file.u32(at["machine"] + 4)) == (19041, machine_type, 4)
    parameters = [file.number(at["code"] + word * n) for n in range(1, 5)]
    assert (file.u32(at["code"]), *parameters) == truth.bugcheck
    assert file.u64(at["uptime"]) == truth.uptime_seconds * 10_000_000
    assert (file.u64(at["time"]) - 116444736000000000) / 10_000_000 == truth.taken_at.timestamp()
    assert file.data[at["comment"] : at["comment"] + 0x80] == b"PAGE" * 32
    assert file.data[at["attributes"] :][:4] == b"PAGE"
    assert word == 8 or file.data[0x5C] == (arch == "x86pae")
    assert file.number(0x10 + 2 * word) == machine.addresses["PsLoadedModuleList"]
    assert file.number(at["kdbg"]) == machine.addresses["KDBG"]


@pytest.mark.parametrize("arch", ARCHES)
def test_only_full_dumps_have_pages_without_contents(tmp_path, arch):
    machine = forge("twins", arch=arch)
    file = save(machine, tmp_path, 1)
    limit = 86 if file.word == 4 else 42
    assert 10 < file.u32(file.at["runs"]) <= limit
    assert file.number(file.at["runs"] + file.word) == len(file.pages)
    unused = [pfn for pfn in file.pages if pfn not in machine.memory.pages]
    assert unused or file.word == 4
    assert not any(any(file.data[file.pages[pfn] :][:0x1000]) for pfn in unused)


@pytest.mark.parametrize("arch", ["x86", "x86pae"])
@pytest.mark.parametrize("kind", [8, 9, 10])
def test_range_dumps_are_of_64_bits(tmp_path, arch, kind):
    with pytest.raises(ValueError, match="64-bit"):
        save(forge("quiet", arch=arch), tmp_path, kind)


def test_unknown_types(tmp_path):
    with pytest.raises(ValueError, match="dump type 3"):
        save(forge("quiet"), tmp_path, 3)


def test_runs_keep_apart_what_is_omitted():
    assert find_runs([1, 2, 9, 11, 30], set(), 2) == [(1, 11), (30, 1)]
    assert find_runs([1, 2, 9, 11, 30], {10}, 2) == [(1, 9), (11, 20)]
    assert find_runs([4], set(), 42) == [(4, 1)]
    with pytest.raises(ValueError, match="room for 2"):
        find_runs([1, 3, 5], {2, 4}, 2)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", [1, 5, 6])
def test_live_dumps(tmp_path, arch, kind):
    file = save(forge("quiet", arch=arch), tmp_path, kind, live=True)
    assert file.u32(file.at["attributes"]) == 0x10
    assert file.u32(file.at["code"]) == 0x161
    with pytest.raises(ValueError, match="live dumps"):
        save(forge("quiet", arch=arch), tmp_path, 4, live=True)


def test_of_encrypted_dumps_only_the_header_can_be_read(tmp_path):
    machine = forge("quiet")
    plain = save(machine, tmp_path).data
    machine.save(tmp_path / "e.dmp", encrypted=True)
    encrypted = (tmp_path / "e.dmp").read_bytes()
    assert encrypted[0x1050:0x1054] == struct.pack("<I", 0x100)
    assert encrypted[:0x1050] == plain[:0x1050]
    assert len(encrypted) == len(plain)
    assert b"DUMP" not in encrypted[0x2000:0x2040]
    assert sum(a == b for a, b in zip(encrypted[0x2000:], plain[0x2000:])) < len(plain) / 100


def test_compressed_files(tmp_path):
    machine = forge("quiet")
    plain = save(machine, tmp_path).data
    for suffix in ("gz", "xz", "zip"):
        for _ in range(2):
            path = tmp_path / f"m.dmp.{suffix}"
            before = path.read_bytes() if path.exists() else None
            machine.save(path)
            assert before in (None, path.read_bytes())
    assert gzip.decompress((tmp_path / "m.dmp.gz").read_bytes()) == plain
    assert lzma.decompress((tmp_path / "m.dmp.xz").read_bytes()) == plain
    with zipfile.ZipFile(tmp_path / "m.dmp.zip") as archive:
        assert archive.namelist() == ["m.dmp"]
        assert archive.read("m.dmp") == plain
