"""Driver files as targets: the same bytes as the loader's mapping, and one line for what is no driver."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykdext.errors import ImageFormatError, MemoryReadError, PykdextError, TargetError
from pykdext.images.image import read_image
from pykdext.images.imagefile import MAX_ZERO_BYTES, open_image_file
from pykdext.model import Machine
from tests.helpers.patience import ends_soon
from tests.helpers.peimages import ARM64, CODE, CONSTANTS, PAGE, VARIABLES, X64, X86, Part, build_file

BASE = 0x140000000
DRIVER = Path(__file__).resolve().parent.parent.parent / "dumps" / "drivers" / "images" / "x64" / "pippo.sys"
TEXT = Part(b".text", PAGE, b"\xc3" * 0x300, CODE)
DATA = Part(b".data", 3 * PAGE, b"\x11" * 0x200, VARIABLES, virtual_bytes=2 * PAGE)


@pytest.fixture
def save(tmp_path):
    def save_file(data, name="made.sys"):
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return save_file


def test_a_file_is_mapped_by_its_section_table(save):
    path = save(build_file(TEXT, DATA))
    with open_image_file(path) as target:
        assert target.read_virtual(BASE, 2) == b"MZ"
        assert target.read_virtual(BASE + PAGE, PAGE) == TEXT.data.ljust(PAGE, b"\0"), "zeros to the end of the page"
        with pytest.raises(MemoryReadError):
            target.read_virtual(BASE + 2 * PAGE - 4, 8)
        assert target.read_virtual(BASE + 3 * PAGE, 2 * PAGE) == DATA.data.ljust(2 * PAGE, b"\0")
        (module,) = target.modules()
        assert (module.name, module.base, module.size) == ("made.sys", BASE, 5 * PAGE)
        assert (module.path, module.timestamp, module.checksum) == (path, 0x5F000000, 0x1234)
        assert target.facts.no_tag_tables


@pytest.mark.parametrize(("code", "machine"), [(X86, Machine.X86), (X64, Machine.X64), (ARM64, Machine.ARM64)])
def test_the_machine_is_the_drivers(save, code, machine):
    base = 0x10000 if code == X86 else BASE
    with open_image_file(save(build_file(TEXT, machine=code, base=base))) as target:
        assert target.machine is machine
        assert target.modules()[0].base == base
        image = read_image(target, target.modules()[0])
        assert (image.machine, image.warnings) == (machine, [])
        assert [section.name for section in image.sections] == [".text"]


def test_a_name_says_nothing(save):
    with open_image_file(save(build_file(TEXT), "notes.txt")) as target:
        assert target.modules()[0].name == "notes.txt"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "at 0x0: found nothing, expected 0x40 bytes of headers"),
        (b"MZ", "at 0x0: found nothing"),
        (b"PAGEDU64" * 100, "at 0x0: found b'PA', expected b'MZ'"),
        (b"MZ".ljust(0x3C, b"\0") + b"\xff\xff\xff\x7f", "at 0x3c: found offset 0x7fffffff"),
        (b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"NE".ljust(0x100, b"\0"), "expected b'PE\\0\\0'"),
        (build_file(TEXT, machine=0x1C4), "at 0x44: found machine 0x01c4, expected x86 (0x014c), x64"),
        (build_file(TEXT)[:0x100], "bytes of headers"),
        (build_file(TEXT, DATA)[:-1], "at 0x1400: found 511 bytes, expected 512 of section '.data'"),
    ],
    ids=["empty", "two bytes", "dump", "far header", "NE", "machine", "cut headers", "cut section"],
)
def test_what_is_no_driver_is_told_in_one_line(save, data, words):
    path = save(data)
    with pytest.raises(ImageFormatError) as caught:
        open_image_file(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}: at 0x")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "none.sys"):
        with pytest.raises(TargetError, match="cannot be opened"):
            open_image_file(str(path))


def test_the_file_is_closed(save):
    path = save(build_file(TEXT))
    with open_image_file(path) as target:
        pass
    with pytest.raises(TargetError):
        target.read_virtual(BASE, 2)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(10):
        with pytest.raises(ImageFormatError):
            open_image_file(save(b"no driver"))
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_sections_that_overlap_share_no_byte(save):
    file = build_file(TEXT, Part(b".over", PAGE + 0x800, b"\x22" * PAGE, CONSTANTS))
    with open_image_file(save(file)) as target:
        held = list(target.read_present(BASE, 3 * PAGE))
        assert all(first[0] + len(first[1]) <= second[0] for first, second in zip(held, held[1:]))
        assert target.read_virtual(BASE + PAGE + 0x7F8, 8) == bytes(8)
        assert target.read_virtual(BASE + 2 * PAGE, 8) == b"\x22" * 8


def test_endless_zeros_are_not_held(save):
    file = build_file(TEXT, Part(b".bss", 2 * PAGE, b"", VARIABLES, virtual_bytes=500 << 20))
    with open_image_file(save(file)) as target:
        held = sum(len(data) for _, data in target.read_present(BASE, 1 << 30))
    assert held <= MAX_ZERO_BYTES + 2 * PAGE


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@ends_soon
def test_damaged_headers_never_fail_otherwise(save, data):
    file = bytearray(DRIVER.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        offset = data.draw(st.integers(0, 0x3FF))
        file[offset : offset + 4] = data.draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\0\0\0\x80", b"\0\0\1\0"]))
    message = ""
    try:
        with open_image_file(save(bytes(file[: data.draw(st.sampled_from([len(file), 0x1800, 0x401]))]))) as target:
            (module,) = target.modules()
            image = read_image(target, module)
            for section in image.sections:
                assert all(piece for _, piece in image.iter_present(section))
    except PykdextError as error:
        message = str(error)
    assert "\n" not in message
