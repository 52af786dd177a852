"""Images of user mode: whatever their code holds, they own no pool."""

from __future__ import annotations

import json
import struct

import pytest

from dumps.drivers import build
from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.places.index import ImageIndex
from pykdext.cli.main import main
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.model import Confidence, PoolTag
from tests.attribution.calls.test_callees import export_section
from tests.helpers.peimages import CODE, CONSTANTS, EXPORT, IMPORT, PAGE, X64, X86, Part, build_file

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
def test_a_library_owns_nothing_and_that_is_said(save, subsystem, capsys):
    path = save(with_subsystem(build_file(Part(b".text", PAGE, CALL, CODE)), subsystem))
    assert find(path) == []
    main(["find", "Pipo", "--images", str(path), "--format", "json"])
    (entry,) = json.loads(capsys.readouterr().out)["tags"]
    assert entry["owners"] == []
    assert entry["notes"] == ["made.dll has the bytes, and runs in user mode, where no pool is"]


@pytest.mark.parametrize(
    ("libraries", "exports", "is_user_mode"),
    [
        (("WUDFx02000.dll",), (), True),
        (("ntdll.dll",), (), True),
        (("api-ms-win-core-synch-l1-1-0.dll", "ucrtbase.dll"), (), True),
        ((), ("FxDriverEntryUm",), True),
        (("KERNEL32.dll", "ntoskrnl.exe"), ("FxDriverEntryUm",), False),
        (("WDFLDR.SYS",), (), False),
        (("ext-ms-win-ntos-werkernel-l1-1-0.dll",), ("DriverEntry",), False),
    ],
)
def test_a_driver_of_the_user_mode_framework_names_nobody(save, libraries, exports, is_user_mode):
    """Whatever its subsystem is: by its imports and exports."""
    table = import_tables(libraries) if libraries else b""
    names = export_section(dict.fromkeys(exports, PAGE), 3 * PAGE) if exports else b""
    file = build_file(
        Part(b".text", PAGE, CALL, CODE),
        Part(b".rdata", 2 * PAGE, table.ljust(16, b"\0"), CONSTANTS),
        Part(b".edata", 3 * PAGE, names.ljust(16, b"\0"), CONSTANTS),
        directories={
            **({IMPORT: (2 * PAGE, 20)} if table else {}),
            **({EXPORT: (3 * PAGE, len(names))} if names else {}),
        },
    )
    found = find(save(with_subsystem(file, NATIVE)))
    assert [item.confidence for item in found] == ([] if is_user_mode else [Confidence.LIKELY])


def import_tables(libraries):
    """At 2000h: one function of each."""
    data = bytearray(0x400)
    for number, library in enumerate(libraries):
        name, lookup, function = 0x100 + 0x40 * number, 0x200 + 0x20 * number, 0x300 + 0x20 * number
        data[20 * number : 20 * number + 20] = struct.pack(
            "<I8xII", 2 * PAGE + lookup, 2 * PAGE + name, 2 * PAGE + lookup + 0x10
        )
        data[name : name + len(library)] = library.encode()
        data[function : function + 8] = b"\0\0Func" + bytes([0x30 + number, 0])
        for place in (lookup, lookup + 0x10):
            data[place : place + 8] = struct.pack("<Q", 2 * PAGE + function)
    return bytes(data)


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
