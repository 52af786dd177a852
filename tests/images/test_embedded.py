"""Drivers that a program carries in its resources are searched like files; packed ones are named."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumps.drivers import build
from pykdext.cli.main import main
from pykdext.images.embedded import iter_embedded
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from tests.helpers.peimages import CODE, CONSTANTS, PAGE, Part, build_file

RESOURCES = 2 * PAGE
RCDATA = 10


def resource_section(resources):
    """A resource directory at ``RESOURCES``: one type, a name and a language for each of ``resources``."""
    flag, count = 0x80000000, len(resources)
    names_at = 24
    languages_at = names_at + 16 + 8 * count
    entries_at = languages_at + 24 * count
    texts_at = entries_at + 16 * count
    names = struct.pack("<12xHH", count, 0)
    languages = entries = texts = data = b""
    data_at = (texts_at + sum(2 + 2 * len(name) for name in resources) + 15) & ~15
    for number, (name, content) in enumerate(resources.items()):
        names += struct.pack("<II", flag | texts_at + len(texts), flag | languages_at + 24 * number)
        languages += struct.pack("<12xHHII", 0, 1, 1033, entries_at + 16 * number)
        entries += struct.pack("<IIII", RESOURCES + data_at + len(data), len(content), 0, 0)
        texts += struct.pack("<H", len(name)) + name.encode("utf-16-le")
        data += content.ljust(-(-len(content) // 16) * 16, b"\0")
    root = struct.pack("<12xHHII", 0, 1, RCDATA, flag | names_at)
    return (root + names + languages + entries + texts).ljust(data_at, b"\0") + data


def build_carrier(resources):
    section = resource_section(resources)
    return build_file(
        Part(b".text", PAGE, b"\xc3" * 16, CODE),
        Part(b".rsrc", RESOURCES, section, CONSTANTS),
        directories={2: (RESOURCES, len(section))},
        subsystem=3,
    )


def find(capsys, *words):
    status = main(["find", *map(str, words), "--format", "json"])
    return status, json.loads(capsys.readouterr().out)


def test_drivers_in_resources_are_searched(tmp_path, capsys):
    pagella = (build.IMAGES / "x64" / "pagella.sys").read_bytes()
    globus = (build.IMAGES / "arm64" / "globus.sys").read_bytes()
    resources = {"TUN-AMD64.SYS": pagella, "TUN-ARM64.SYS": globus, "README": b"MZ of no image", "ICON": b"\0\1\2\3"}
    (tmp_path / "tun.dll").write_bytes(build_carrier(resources))
    status, document = find(capsys, "Pgla", "Glob", "--images", tmp_path)
    owners = [[(owner["module"], owner["confidence"]) for owner in entry["owners"]] for entry in document["tags"]]
    assert status == 0
    assert owners == [[("tun.dll/TUN-AMD64.SYS", "proven")], [("tun.dll/TUN-ARM64.SYS", "proven")]]
    coverage = document["tags"][0]["coverage"]
    assert (coverage["modules_scanned"], coverage["modules_total"]) == (3, 3)


def test_cabinets_are_named(tmp_path, capsys):
    (tmp_path / "setup.exe").write_bytes(build_carrier({"DRIVERS": b"MSCF" + bytes(60)}))
    status, document = find(capsys, "Pgla", "--images", tmp_path)
    assert status == 1
    (line,) = (line for line in document["warnings"] if "cabinet" in line)
    assert line.startswith("setup.exe/DRIVERS: a cabinet, which was not looked into")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_resources_end(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("made") / "made.dll"
    content = bytearray(build_carrier({"A": b"MZ", "B": b"MSCF"}))
    for _ in range(data.draw(st.integers(1, 8))):
        content[-data.draw(st.integers(1, 200))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with open_image_file(str(path)) as target:
        assert len(list(iter_embedded(read_image(target, target.modules()[0], zeros_are_code=True)))) <= 256


def carrier_of(*resources, data_at=0x800):
    """A program whose resources are ``(type, name, language, content)``, all names numbers, each in its directory."""
    flag, tree, contents = 0x80000000, b"", b""
    tree = struct.pack("<12xHH", 0, len(resources)) + bytes(8 * len(resources))
    for number, (kind, name, language, content) in enumerate(resources):
        place = len(tree)
        tree = bytearray(tree)
        struct.pack_into("<II", tree, 16 + 8 * number, kind, flag | place)
        entry = place + 48
        tree += struct.pack("<12xHHII", 0, 1, name, flag | place + 24)
        tree += struct.pack("<12xHHII", 0, 1, language, entry)
        tree += struct.pack("<IIII", RESOURCES + data_at + len(contents), len(content), 0, 0)
        contents += content.ljust(-(-len(content) // 16) * 16, b"\0")
    section = bytes(tree).ljust(data_at, b"\0") + contents
    return build_file(
        Part(b".text", PAGE, b"\xc3" * 16, CODE),
        Part(b".rsrc", RESOURCES, section, CONSTANTS),
        directories={2: (RESOURCES, len(section))},
        subsystem=3,
    )


def owners_of(document):
    return [(owner["module"], owner["confidence"]) for owner in document["tags"][0]["owners"]]


PAGELLA = build.IMAGES / "x64" / "pagella.sys"


def test_a_driver_in_a_library_in_a_program(tmp_path, capsys):
    inner = build_carrier({"DRIVER": PAGELLA.read_bytes()})
    (tmp_path / "setup.exe").write_bytes(build_carrier({"HELPER.DLL": inner}))
    status, document = find(capsys, "Pgla", "--images", tmp_path)
    assert (status, owners_of(document)) == (0, [("setup.exe/HELPER.DLL/DRIVER", "proven")])


def test_images_are_not_unpacked_for_ever(tmp_path, capsys):
    content = PAGELLA.read_bytes()
    for _ in range(6):
        content = build_carrier({"N": content})
    (tmp_path / "deep.exe").write_bytes(content)
    status, document = find(capsys, "Pgla", "--images", tmp_path)
    assert owners_of(document) == []
    assert status == 1
    told = "deep.exe/N/N/N: holds images that were not looked into: it is itself 3 images deep"
    assert told in document["warnings"]


def test_one_name_in_several_languages_and_types(tmp_path, capsys):
    driver = PAGELLA.read_bytes()
    resources = [(10, 7, 1033, driver), (10, 7, 1031, driver), (11, 7, 1033, driver), (10, 8, 1033, driver)]
    (tmp_path / "many.dll").write_bytes(carrier_of(*resources))
    _, document = find(capsys, "Pgla", "--images", tmp_path)
    assert sorted(name for name, _ in owners_of(document)) == [
        "many.dll/#10/#7/#1033",
        "many.dll/#11/#7/#1033",
        "many.dll/#7/#1031",
        "many.dll/#8",
    ]


@pytest.mark.parametrize(
    ("magic", "packing"),
    [
        (b"PK\3\4\x14\0", "a ZIP archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"\x1f\x8b\x08\0", "gzip data"),
        (b"\xfd7zXZ\0", "XZ data"),
        (b"\x28\xb5\x2f\xfd", "Zstandard data"),
        (b"SZDD\x88\xf0\x27\x33", "data of COMPRESS.EXE"),
    ],
)
def test_packed_resources_are_named(magic, packing, tmp_path, capsys):
    (tmp_path / "setup.exe").write_bytes(build_carrier({"PAYLOAD": magic + bytes(60)}))
    status, document = find(capsys, "Pgla", "--images", tmp_path)
    assert status == 1
    assert [line for line in document["warnings"] if "PAYLOAD" in line] == [
        f"setup.exe/PAYLOAD: {packing}, which was not looked into. Hint: unpack it, and give the folder"
    ]


CABINET = b"MSCF" + struct.pack("<IIIIIBBHH", 0, 0x200, 0, 44, 0, 3, 1, 1, 1)


@pytest.mark.parametrize(
    ("appended", "packing"),
    [
        (CABINET, "a cabinet"),
        (b"stub data" * 20 + CABINET, "a cabinet"),
        (b"\0\0\0\0\xef\xbe\xad\xdeNullsoftInst", "data of an NSIS installer"),
        (b"zlb\x1a" + bytes(20), "data of an Inno Setup installer"),
        (b"PK\3\4" + bytes(40), "a ZIP archive"),
        (b"MSCF\0\0\0\0 is where a cabinet would begin", None),
        (b"\x30\x82\x10\0 a signature", None),
    ],
)
def test_what_an_installer_has_behind_its_last_section(appended, packing, tmp_path, capsys):
    (tmp_path / "setup.exe").write_bytes(build_carrier({"ICON": b"\0"}) + appended)
    status, document = find(capsys, "Pgla", "--images", tmp_path)
    lines = [line for line in document["warnings"] if "not looked into" in line]
    assert [line.partition(", which")[0] for line in lines] == (
        [f"setup.exe (behind its last section): {packing}"] if packing else []
    )
    assert status == bool(packing)


def test_more_images_than_are_looked_at_are_counted(tmp_path, capsys):
    driver = (build.IMAGES / "x64" / "holder.sys").read_bytes()
    (tmp_path / "full.exe").write_bytes(carrier_of(*((10, number, 0, driver) for number in range(1, 21))))
    status, document = find(capsys, "Pgla", "--images", tmp_path)
    assert status == 1
    assert "full.exe: 4 more images and archives in it not looked into" in document["warnings"]


def test_an_image_that_is_cut_short_is_named(tmp_path, capsys):
    content = bytearray(carrier_of((10, 1, 0, PAGELLA.read_bytes())))
    place = content.index(struct.pack("<II", RESOURCES + 0x800, PAGELLA.stat().st_size))
    struct.pack_into("<I", content, place + 4, 0x7FFFFFFF)
    (tmp_path / "torn.exe").write_bytes(content)
    status, document = find(capsys, "Pgla", "--images", tmp_path)
    assert status == 1
    assert any(line.startswith("torn.exe/#1: an image that is cut short") for line in document["warnings"])


def test_trees_that_lead_back_end(tmp_path):
    """Directories of 256 entries that all lead to the next, and to the root."""
    flag, count = 0x80000000, 64
    size = 16 + 8 * count
    directory = b"".join(
        struct.pack("<12xHH", 0, count)
        + b"".join(struct.pack("<II", n, flag | size * ((index + n) % 100)) for n in range(count))
        for index in range(100)
    )
    file = build_file(
        Part(b".text", PAGE, b"\xc3" * 16, CODE),
        Part(b".rsrc", RESOURCES, directory, CONSTANTS),
        directories={2: (RESOURCES, len(directory))},
    )
    (tmp_path / "loop.exe").write_bytes(file)
    with open_image_file(str(tmp_path / "loop.exe")) as target:
        assert list(iter_embedded(read_image(target, target.modules()[0], zeros_are_code=True))) == []
