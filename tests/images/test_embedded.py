"""Drivers that a program carries in its resources are searched like files; packed ones are named."""

from __future__ import annotations

import json
import struct

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
