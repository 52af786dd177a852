"""kdump-compressed files: every packing, pieces in any order, damage, and what an extra is needed for."""

from __future__ import annotations

import struct
import sys
import zlib

import pytest

from dumps.forge.vmfiles import kdumps
from pykdext.errors import DumpFormatError, MemoryReadError, UnsupportedDumpError
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.machine.decompression import LZO, SNAPPY, ZLIB, find_unpacker

PAGE = 0x1000
LIBRARIES = {kdumps.SNAPPY: "cramjam", kdumps.LZO: "dissect.util"}


def check(dump, machine):
    for number, data in machine.memory.pages.items():
        assert dump._container.read_physical(number * PAGE, PAGE) == data, hex(number)


@pytest.mark.parametrize("packing", [kdumps.PLAIN, kdumps.ZLIB, kdumps.LZO, kdumps.SNAPPY])
@pytest.mark.parametrize("flattened", [True, False])
def test_every_packing(machine, tmp_path, opened, packing, flattened):
    if packing in LIBRARIES:
        pytest.importorskip(LIBRARIES[packing])
    path = tmp_path / "vmcore"
    kdumps.save_kdump(machine, path, packing, flattened=flattened)
    dump = opened(path)
    check(dump, machine)
    assert dump.facts.pages_present == len(machine.memory.pages)


def test_the_header_that_windows_left(machine, tmp_path, opened):
    path = tmp_path / "vmcore"
    kdumps.save_kdump(machine, path, with_header=True)
    assert opened(path).facts.image.found_by == "a dump's header in the file"


def test_a_missing_end_mark_is_told(machine, tmp_path, opened):
    path = tmp_path / "vmcore"
    kdumps.save_kdump(machine, path, ended=False)
    dump = opened(path)
    check(dump, machine)
    assert any("no end mark" in text for text in dump.facts.warnings)


@pytest.mark.parametrize("packing", [kdumps.SNAPPY, kdumps.LZO])
def test_a_missing_library_is_named(machine, tmp_path, monkeypatch, packing):
    path = tmp_path / "vmcore"
    kdumps.save_kdump(machine, path, packing)
    for name in ("cramjam", "dissect.util.compression.lzo"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedDumpError, match=r'pip install "pykdext\[vm\]"'):
        open_crashdump(str(path))


def test_zstandard_is_named(machine, tmp_path):
    path = tmp_path / "vmcore"
    kdumps.save_kdump(machine, path, kdumps.ZSTANDARD)
    with pytest.raises(UnsupportedDumpError, match="Zstandard"):
        open_crashdump(str(path))


def descriptor_at(data, machine, number):
    """Where the descriptor of a page stands in a file that is not flattened."""
    _, sub_blocks, bitmap_blocks = struct.unpack_from("<III", data, 0x1AC)
    place = sorted(machine.memory.pages).index(number)
    return (1 + sub_blocks + bitmap_blocks) * PAGE + 0x18 * place


@pytest.mark.parametrize(
    "descriptor",
    [
        struct.pack("<QII", 1 << 50, 100, 1),
        struct.pack("<QII", 0, 0xFFFFFFFF, 1),
        struct.pack("<QII", 0, 0, 1),
        struct.pack("<QII", 0x1000, 100, 1),
        struct.pack("<QII", 0x1000, 100, 0),
        struct.pack("<QII", 0x1000, 100, 0x20),
    ],
)
def test_a_descriptor_that_lies_costs_its_page_only(machine, tmp_path, opened, descriptor):
    path = tmp_path / "vmcore"
    kdumps.save_kdump(machine, path, flattened=False)
    data = bytearray(path.read_bytes())
    number = machine.space.translate(machine.addresses["page:swizzled"]) >> 12
    at = descriptor_at(data, machine, number)
    data[at : at + 16] = descriptor
    path.write_bytes(data)
    dump = opened(path)
    with pytest.raises(MemoryReadError):
        dump._container.read_physical(number * PAGE, 8)
    assert any("pages that cannot be unpacked: 1" in text for text in dump.facts.warnings)


def test_a_page_that_unpacks_without_end_is_cut(machine, tmp_path, opened):
    path = tmp_path / "vmcore"
    kdumps.save_kdump(machine, path, flattened=False)
    bomb = zlib.compress(bytes(1 << 20), 9)
    data = bytearray(path.read_bytes())
    number = machine.space.translate(machine.addresses["page:swizzled"]) >> 12
    at = descriptor_at(data, machine, number)
    data[at : at + 16] = struct.pack("<QII", len(data), len(bomb), 1)
    path.write_bytes(data + bomb)
    assert len(opened(path)._container.read_physical(number * PAGE, PAGE)) == PAGE


@pytest.mark.parametrize(("flag", "library"), [(SNAPPY, "cramjam"), (LZO, "dissect.util"), (ZLIB, "zlib")])
def test_damaged_pages_are_none(flag, library):
    pytest.importorskip(library)
    unpack = find_unpacker(flag)
    for data in (b"", b"\0", b"\xff" * 100, b"\x80\x20" + b"\xfe" * 50, b"\x11" * 4000, bytes(range(256))):
        page = unpack(data, PAGE)
        assert page is None or len(page) <= 1 << 20


@pytest.mark.parametrize(
    ("offset", "value", "word"),
    [
        (0x1AC, struct.pack("<I", 0x2000), "blocks of"),
        (0x1B0, struct.pack("<I", 1 << 30), "bitmaps"),
        (0x1B4, struct.pack("<I", 1 << 31), "bitmaps"),
        (0x1B4, struct.pack("<I", 0), "bitmaps"),
        (0x100C, struct.pack("<I", 1), "one part of a split dump"),
    ],
)
def test_headers_that_cannot_be_true(machine, tmp_path, offset, value, word):
    path = tmp_path / "vmcore"
    kdumps.save_kdump(machine, path, flattened=False)
    data = bytearray(path.read_bytes())
    data[offset : offset + len(value)] = value
    path.write_bytes(data)
    with pytest.raises((DumpFormatError, UnsupportedDumpError), match=word):
        open_crashdump(str(path))
