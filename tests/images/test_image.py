"""Images in memory: against pefile on real files, with holes, and with headers that lie."""

from __future__ import annotations

import importlib.util
import struct
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.images.headers import MAX_SECTIONS
from pykdext.images.image import MAX_IMAGE_BYTES, read_image
from pykdext.images.versioninfo import parse_version, read_version
from pykdext.model import ImageVersion, Machine, Module
from tests.helpers.patience import ends_soon
from tests.helpers.segments import SegmentsTarget

PAGE = 0x1000
BASE = 0xFFFFF80412340000
DRIVERS = Path(__file__).resolve().parent.parent.parent / "dumps" / "drivers" / "images"
CODE, CONSTANTS, VARIABLES, INIT = 0x68000020, 0x48000040, 0xC8000040, 0x62000020

needs_drivers = pytest.mark.skipif(not DRIVERS.is_dir(), reason="the sample drivers are not built")


def make_image(*sections, machine=0x8664, directories=(), timestamp=0x5F000000):
    """A 64-bit image as it lies in memory; ``sections`` are (name, bytes, characteristics)."""
    table, body, rva = b"", bytearray(), PAGE
    for name, data, characteristics in sections:
        table += struct.pack("<8sIIIIIIHHI", name, len(data), rva, len(data), 0, 0, 0, 0, 0, characteristics)
        body += data.ljust(-(-len(data) // PAGE) * PAGE, b"\0")
        rva += -(-len(data) // PAGE) * PAGE
    directory = b"".join(struct.pack("<II", *entry) for entry in directories).ljust(128, b"\0")
    optional = struct.pack("<H54xII44xI", 0x20B, rva, PAGE, 16) + directory
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    header = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, len(sections), timestamp, 0, 0, len(optional), 0x22)
    return (dos + header + optional + table).ljust(PAGE, b"\0") + bytes(body)


def map_file(path):
    """A file as the loader maps it, by pefile."""
    pefile = pytest.importorskip("pefile")
    pe = pefile.PE(str(path))
    size = -(-pe.OPTIONAL_HEADER.SizeOfImage // PAGE) * PAGE
    return pe, bytes(pe.get_memory_mapped_image()).ljust(size, b"\0")[:size]


def target_of(memory, *, missing=(), name="made.sys", machine=Machine.X64):
    """A target with one image at BASE, page by page, without the pages whose RVAs are ``missing``."""
    pages = {
        BASE + rva: memory[rva : rva + PAGE]
        for rva in range(0, len(memory), PAGE)
        if rva not in {hole - hole % PAGE for hole in missing}
    }
    return SegmentsTarget(pages, machine=machine, modules=(Module(name, BASE, len(memory)),))


def open_image(memory, **options):
    target = target_of(memory, **options)
    return read_image(target, target.modules()[0])


class Counting(SegmentsTarget):
    """Counts how often each page is read; hands out one page at a time, as a dump may."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.reads = {}

    def read_present(self, address, size):
        assert address % PAGE == 0 == size % PAGE
        for page in range(address, address + size, PAGE):
            self.reads[page] = self.reads.get(page, 0) + 1
            yield from super().read_present(page, PAGE)


def real_files():
    files = sorted(DRIVERS.glob("*/*.sys"))
    found = importlib.util.find_spec("pydivert")
    if found and found.origin:
        files += sorted(Path(found.origin).parent.rglob("*.sys"))
    return files


@pytest.mark.parametrize("path", real_files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_headers_agree_with_pefile(path):
    pe, memory = map_file(path)
    image = open_image(memory)
    assert image.warnings == []
    assert image.machine is {0x14C: Machine.X86, 0x8664: Machine.X64, 0xAA64: Machine.ARM64}[pe.FILE_HEADER.Machine]
    assert image.timestamp == pe.FILE_HEADER.TimeDateStamp
    assert [(s.name, s.rva, s.size, s.executable, s.writable, s.discardable) for s in image.sections] == [
        (
            section.Name.rstrip(b"\0").decode(),
            section.VirtualAddress,
            section.Misc_VirtualSize,
            bool(section.IMAGE_SCN_MEM_EXECUTE),
            bool(section.IMAGE_SCN_MEM_WRITE),
            bool(section.IMAGE_SCN_MEM_DISCARDABLE),
        )
        for section in pe.sections
    ]
    codeview = next(entry.entry for entry in pe.DIRECTORY_ENTRY_DEBUG if entry.struct.Type == 2)
    assert image.pdb.file_name == codeview.PdbFileName.rstrip(b"\0").decode().rpartition("\\")[2]
    guid = f"{codeview.Signature_Data1:08X}{codeview.Signature_Data2:04X}{codeview.Signature_Data3:04X}"
    assert image.pdb.guid.startswith(guid)
    assert image.pdb.key.upper() == codeview.Signature_String.upper()


@pytest.mark.parametrize("path", real_files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_version_agrees_with_pefile(path):
    pe, memory = map_file(path)
    texts = {
        key.decode(): value.decode()
        for info in pe.FileInfo[0]
        if info.Key == b"StringFileInfo"
        for table in info.StringTable
        for key, value in table.entries.items()
    }
    fixed = pe.VS_FIXEDFILEINFO[0]
    numbers = [half for whole in (fixed.FileVersionMS, fixed.FileVersionLS) for half in (whole >> 16, whole & 0xFFFF)]
    assert replace(open_image(memory).version, built_at=None) == ImageVersion(
        company=texts["CompanyName"],
        product=texts["ProductName"],
        description=texts["FileDescription"],
        file_version=".".join(map(str, numbers)),
        **identity_of(pe),
    )


def identity_of(pe):
    """What symbol servers file an image and its PDB under, by pefile."""
    codeview = next(entry.entry for entry in pe.DIRECTORY_ENTRY_DEBUG if entry.struct.Type == 2)
    return {
        "timestamp": pe.FILE_HEADER.TimeDateStamp,
        "image_bytes": pe.OPTIONAL_HEADER.SizeOfImage,
        "checksum": pe.OPTIONAL_HEADER.CheckSum or None,
        "pdb_file": codeview.PdbFileName.rstrip(b"\0").decode().rpartition("\\")[2],
        "pdb_guid": codeview.Signature_String.upper()[:32],
        "pdb_age": codeview.Age,
    }


def test_the_time_stamp_is_a_time_unless_it_cannot_be_one():
    def built_at(timestamp, *debug_types):
        entries = b"".join(struct.pack("<12xIII4x", kind, 0, 0) for kind in debug_types)
        debug = (PAGE, len(entries)) if entries else (0, 0)
        data = entries.ljust(PAGE, b"\0")
        directories = [(0, 0)] * 6 + [debug]
        return open_image(
            make_image((b".rdata", data, CONSTANTS), directories=directories, timestamp=timestamp)
        ).version.built_at

    linked_at = datetime(2021, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
    stamp = int(linked_at.timestamp())
    assert built_at(stamp) == built_at(stamp, 2, 13) == linked_at
    assert built_at(stamp, 2, 16) is None, "a reproducible build"
    soon = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=12)
    assert built_at(int(soon.timestamp())) == soon, "clocks differ"
    assert built_at(int((soon + timedelta(days=2)).timestamp())) is None
    assert built_at(0) is built_at(0xFFFFFFFF) is built_at(0x2A000000) is None


@needs_drivers
def test_every_byte_of_every_section_is_present():
    for path in real_files():
        _, memory = map_file(path)
        image = open_image(memory)
        for section in image.sections:
            assert list(image.iter_present(section)) == [(section.rva, memory[section.rva :][: section.size])], path


@needs_drivers
def test_a_page_is_read_once_and_released():
    _, memory = map_file(DRIVERS / "x64" / "pippo.sys")
    target = Counting({BASE: memory}, modules=(Module("pippo.sys", BASE, len(memory)),))
    image = read_image(target, target.modules()[0])
    assert set(target.reads) == {BASE}, "opening an image reads its headers and nothing else"
    for _ in range(2):
        assert image.version.company
        assert image.pdb
        assert all(list(image.iter_present(section)) for section in image.sections)
    assert set(target.reads.values()) == {1}
    image.release()
    assert image.version.company, "what was parsed stays"
    assert set(target.reads.values()) == {1}


@given(st.sets(st.integers(0, 7)), st.integers(0, 3 * PAGE), st.integers(0, 3 * PAGE))
def test_pieces_are_what_the_holes_leave(missing, skip, length):
    data = bytes(range(1, 129)) * (8 * PAGE // 128)
    image = open_image(make_image((b".text", data, CODE)), missing=[PAGE + PAGE * page for page in missing])
    section = image.sections[0]
    image.read(section.rva + skip, length)  # an earlier read must not change what comes later
    pieces = list(image.iter_present(section))
    held = {rva + index for rva, piece in pieces for index in (0, len(piece) - 1)}
    assert b"".join(piece for _, piece in pieces) == b"".join(
        data[PAGE * page : PAGE * page + PAGE] for page in range(8) if page not in missing
    )
    assert all(piece == data[rva - PAGE : rva - PAGE + len(piece)] for rva, piece in pieces)
    assert all(earlier[0] + len(earlier[1]) < later[0] for earlier, later in zip(pieces, pieces[1:])), "joined"
    assert not any((rva - PAGE) // PAGE in missing for rva in held)


def test_read_is_all_or_nothing():
    image = open_image(make_image((b".text", b"x" * 3 * PAGE, CODE)), missing=[2 * PAGE])
    assert image.read(PAGE, PAGE) == b"x" * PAGE
    assert image.read(PAGE, PAGE + 1) is None
    assert image.read(3 * PAGE, PAGE) == b"x" * PAGE
    assert image.read(3 * PAGE + 1, PAGE) is None, "behind the end"
    assert image.read(0xFFFFF000, 8) is None


@pytest.mark.parametrize(("held", "is_missing"), [(0x16C, True), (0x20, False)])
def test_the_end_of_code_that_reads_as_zeros_is_missing(held, is_missing):
    """A page that could not be read is written as zeros; a few zeros behind the last function are none."""
    code = b"\x90" * PAGE + bytes(held)
    image = open_image(make_image((b".text", code, CODE)))
    (section,) = image.sections
    assert sum(len(data) for _, data in image.iter_present(section)) == (PAGE if is_missing else len(code))


@needs_drivers
def test_missing_pages_leave_the_rest():
    pe, memory = map_file(DRIVERS / "x64" / "pippo.sys")
    resources = next(section for section in pe.sections if section.Name.startswith(b".rsrc"))
    debug = pe.OPTIONAL_HEADER.DATA_DIRECTORY[6].VirtualAddress
    without_resources = open_image(memory, missing=[resources.VirtualAddress])
    assert without_resources.version == ImageVersion(**identity_of(pe))
    assert without_resources.pdb is not None
    assert open_image(memory, missing=[debug]).pdb is None


def test_unreadable_headers_leave_one_unknown_section():
    image = open_image(make_image((b".text", b"x" * PAGE, CODE)), missing=[0])
    assert [(section.rva, section.size, section.known) for section in image.sections] == [(0, 2 * PAGE, False)]
    assert list(image.iter_present(image.sections[0])) == [(PAGE, b"x" * PAGE)]
    assert not image.has_headers
    assert "made.sys: headers not usable" in image.warnings[0]


@pytest.mark.parametrize(
    ("offset", "damage", "words"),
    [
        (0, b"ZM", "expected b'MZ'"),
        (0x3C, b"\xff\xff\xff\x7f", "offset 0x7fffffff"),
        (0x3C, b"\xf0\x0f\0\0", "headers not usable"),
        (0x40, b"NE", "expected b'PE"),
        (0x54, b"\xff\xff", "headers not usable"),
        (0x44, b"\x34\x12", "unknown machine 0x1234"),
        (0x46, b"\xff\xff", "65,535 sections announced, 96 read"),
        (0x46, b"\0\0", "no usable section"),
        (0x90, b"\0\0\0\xf0", "SizeOfImage 0xf0000000"),
    ],
)
def test_headers_that_lie_are_said(offset, damage, words):
    memory = bytearray(make_image((b".text", b"x" * PAGE, CODE), (b".data", b"y" * PAGE, VARIABLES)))
    memory[offset : offset + len(damage)] = damage
    image = open_image(bytes(memory))
    assert any(words in warning for warning in image.warnings), image.warnings
    assert_sound(image, len(memory))


def assert_sound(image, size):
    """Sections are disjoint, ascending, within the image, and everything can be asked for."""
    assert 0 < len(image.sections) <= MAX_SECTIONS
    end = 0
    for section in image.sections:
        assert end <= section.rva < section.rva + section.size <= size
        end = section.rva + section.size
        assert sum(len(piece) for _, piece in image.iter_present(section)) <= section.size
    assert image.pdb is None or len(image.pdb.guid) == 32
    assert isinstance(image.version, ImageVersion)


def test_overlapping_sections_share_no_byte():
    memory = bytearray(make_image((b".text", b"x" * PAGE, CODE), (b".data", b"y" * PAGE, VARIABLES)))
    first_header = memory.index(b".text")
    struct.pack_into("<II", memory, first_header + 8, 0xFFFFFFFF, PAGE + 0x10)
    image = open_image(bytes(memory))
    assert [(section.name, section.rva, section.size) for section in image.sections] == [
        (".text", PAGE + 0x10, 2 * PAGE - 0x10)
    ]
    assert len(image.warnings) == 2
    assert_sound(image, len(memory))


@ends_soon
def test_absurd_size_is_bounded():
    for size in (0, 0xFFFFFFFF):
        target = SegmentsTarget({BASE: make_image((b".text", b"x" * PAGE, CODE))})
        image = read_image(target, Module("huge.sys", BASE, size))
        assert image.size <= MAX_IMAGE_BYTES
        assert [section.name for section in image.sections] == [".text"]
        unreadable = read_image(SegmentsTarget({}), Module("gone.sys", BASE, size))
        assert [piece for section in unreadable.sections for piece in unreadable.iter_present(section)] == []


@needs_drivers
@given(st.data())
def test_damaged_images_never_fail(data):
    _, memory = map_file(DRIVERS / "x64" / "pippo.sys")
    damaged = bytearray(memory)
    # the first 0x400 bytes are the headers; the pages behind the code hold debug and resource directories
    for _ in range(data.draw(st.integers(1, 8))):
        offset = data.draw(st.one_of(st.integers(0, 0x3FF), st.integers(0x2000, len(memory) - 5)))
        damaged[offset : offset + 4] = data.draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\0\0\0\x80"]))
    assert_sound(open_image(bytes(damaged)), len(memory))


def resource_directory(entry):
    return struct.pack("<12xHHII", 0, 1, *entry)


def read_from(memory):
    return lambda rva, size: memory[rva : rva + size] if rva + size <= len(memory) else None


def test_resource_tree_that_refers_to_itself_ends():
    cyclic = resource_directory((16, 0x80000000)).ljust(0x100, b"\0")
    assert read_version(read_from(cyclic), 0) == ImageVersion()
    leaf_too_early = resource_directory((16, 24)) + struct.pack("<II", 0, 0xFFFFFFFF)
    assert read_version(read_from(leaf_too_early), 0) == ImageVersion()


@given(st.binary(max_size=200))
def test_version_block_of_any_bytes(data):
    header = struct.pack("<HHH", 6 + 32 + len(data), len(data) & 0x3F, 0) + "VS_VERSION_INFO\0".encode("utf-16-le")
    assert isinstance(parse_version(header + data), ImageVersion)


def test_version_texts_are_cleaned_and_bounded():
    def node(key, value, *children):
        head = key.encode("utf-16-le") + b"\0\0"
        head += b"\0" * (-(6 + len(head)) % 4)
        body = head + value + b"\0" * (-len(value) % 4) + b"".join(children)
        return struct.pack("<HHH", 6 + len(body), len(value) // 2, 1) + body

    def text(key, value):
        return node(key, (value + "\0").encode("utf-16-le"))

    entries = node("040904b0", b"", text("CompanyName", "Evil\x1b[31m\nCorp"), text("ProductName", "x" * 9000))
    version = parse_version(node("VS_VERSION_INFO", b"", node("StringFileInfo", b"", entries)))
    assert version.company == "Evil [31m Corp"
    assert version.product == "x" * 256
    assert version.file_version is None
