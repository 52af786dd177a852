"""Images of user mode: whatever their code holds, they own no pool."""

from __future__ import annotations

import struct

import pytest

from dumps.drivers import build
from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.places.index import ImageIndex
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.model import Confidence, PoolTag
from tests.helpers.peimages import CODE, PAGE, X64, X86, Part, build_file

pytest.importorskip("capstone")

NEW_HEADER_OFFSET, SUBSYSTEM_OFFSET = 0x3C, 24 + 68
UNKNOWN, NATIVE, CONSOLE = 0, 1, 3
KERNEL_BASE = {X64: 0xFFFFF80010000000, X86: 0x82000000}
PIPO = PoolTag(b"Pipo")
CALL = bytes.fromhex("BA 00 10 00 00  41 B8") + b"Pipo" + bytes.fromhex("B9 00 02 00 00  E8 00 01 00 00  C3")


def with_subsystem(file, subsystem):
    data = bytearray(file)
    (header,) = struct.unpack_from("<I", data, NEW_HEADER_OFFSET)
    struct.pack_into("<H", data, header + SUBSYSTEM_OFFSET, subsystem)
    return bytes(data)


def find(path, tag=PIPO):
    with open_image_file(str(path)) as target:
        return list(CodeAttributor(ImageIndex([read_image(target, target.modules()[0])], [tag])).evidence(tag))


@pytest.fixture
def save(tmp_path):
    def save_file(data, name="made.dll"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return save_file


@pytest.mark.parametrize("subsystem", [2, CONSOLE, 7, 9, 10, 16])
def test_the_best_that_a_library_gets_is_possible(save, subsystem):
    path = save(with_subsystem(build_file(Part(b".text", PAGE, CALL, CODE)), subsystem))
    (item,) = find(path)
    assert item.confidence is Confidence.POSSIBLE
    assert item.detail.endswith("; a user-mode image, which has no pool")


@pytest.mark.parametrize("subsystem", [UNKNOWN, NATIVE])
def test_an_image_that_may_be_of_the_kernel_is_judged_by_its_code(save, subsystem):
    (item,) = find(save(with_subsystem(build_file(Part(b".text", PAGE, CALL, CODE)), subsystem)))
    assert item.confidence is Confidence.LIKELY
    assert "user-mode" not in item.detail


@pytest.mark.parametrize("architecture", ["x64", "x86", "arm64"])
def test_a_driver_that_was_linked_as_a_program_is_one_by_its_imports(save, architecture):
    file = (build.IMAGES / architecture / "pippo.sys").read_bytes()
    path = save(with_subsystem(file, CONSOLE), "pippo.sys")
    assert Confidence.PROVEN in [item.confidence for item in find(path)]


@pytest.mark.parametrize("machine", [X64, X86])
def test_what_is_in_the_kernels_half_is_of_the_kernel(save, machine):
    for base, is_user_mode in ((0x10000000, True), (KERNEL_BASE[machine], False)):
        file = build_file(Part(b".text", PAGE, CALL, CODE), machine=machine, base=base)
        with open_image_file(str(save(with_subsystem(file, CONSOLE)))) as target:
            assert read_image(target, target.modules()[0]).is_user_mode is is_user_mode
