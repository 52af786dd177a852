"""The function that evidence stands in: named as in the driver's source, by whoever knows it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from dumps.drivers import build
from dumps.forge import forge
from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.places.index import ImageIndex
from pykdext.cli.main import main
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.model import Confidence, Evidence, EvidenceKind, PoolTag
from pykdext.pipeline.functionnames import ENTRY_POINT, MAX_NAMED, FunctionNames
from pykdext.targets.session.session import Session
from pykdext.targets.session.words import parse_debugger_data_address, parse_nearest
from tests.helpers import idioms
from tests.helpers.fakepykd import FakePykd
from tests.helpers.windbgscreens import type_command
from tests.pdbs import read_pdb, restamp
from tests.symbols.test_symbolpath import server  # noqa: F401 - a fixture

pytest.importorskip("capstone")

DRIVER = "idioms-O2"
OTHER_GUID = "0123456789ABCDEF0123456789ABCDEF"
UNSUITABLE = {"Tab1", "Tab2", "Tab3"}
"""Their tags stand in data, so that no code of theirs is likely."""

every_architecture = pytest.mark.parametrize("architecture", idioms.ARCHITECTURES)


@pytest.fixture(autouse=True)
def no_symbol_path(monkeypatch):
    monkeypatch.delenv("_NT_SYMBOL_PATH", raising=False)


def functions_in_source():
    """Tag -> the functions whose text has it, read from the driver's C."""
    found, function = {"Glbl": {"IdiomsFromGlobal"}}, None
    for line in (build.SOURCES / "idioms.c").read_text(encoding="ascii").splitlines():
        begun = re.match(r"[\w ].*?(\w+)\([^;]*$", line)
        function = begun[1] if begun else None if line.startswith("}") else function
        for reversed_tag in re.findall(r"'(\w{4})'", line) if function else ():
            found.setdefault(reversed_tag[::-1], set()).add(function)
    return found


def find(capsys, *words):
    """Tag -> its likely and proven evidence in the idioms driver, and the warnings."""
    main(["find", *map(str, words), "--format", "json", "--jobs", "1"])
    document = json.loads(capsys.readouterr().out)
    items = {
        entry["tag"]: [
            item
            for owner in entry["owners"]
            if owner["module"].startswith("idioms")
            for item in owner["evidence"]
            if item["confidence"] != "possible"
        ]
        for entry in document["tags"]
    }
    return items, " ".join(document["warnings"])


def put_driver(folder, architecture):
    return shutil.copy(build.IMAGES / architecture / f"{DRIVER}.sys", folder)


def put_pdb(folder, architecture, *, guid=None):
    pdb = read_pdb(f"{DRIVER}-{architecture}")
    path = folder / f"{DRIVER}.pdb"
    path.write_bytes(restamp(pdb, guid) if guid else pdb)
    return path


def assert_named_as_in_source(found):
    expected = functions_in_source()
    named = 0
    for tag, items in found.items():
        for item in items:
            if item["kind"] == "data":  # it stands in no function
                assert item["function"] is None
                continue
            name, _, offset = item["function"].partition("+")
            assert name in expected[tag], (tag, item)
            assert int(offset or "0", 16) <= item["rva"]
            named += 1
    assert named >= 19


@every_architecture
def test_a_pdb_beside_the_driver(tmp_path, capsys, architecture):
    put_pdb(tmp_path, architecture)
    driver = put_driver(tmp_path, architecture)
    found, warnings = find(capsys, *idioms.all_tags(), "--images", driver)
    assert_named_as_in_source(found)
    assert warnings == ""
    call = idioms.call_rva("Drct", architecture, "O2")
    (item,) = (item for item in found["Drct"] if item["rva"] == call)
    assert re.fullmatch(r"IdiomsDirect\+0x[0-9a-f]{1,2}", item["function"])


@every_architecture
def test_the_driver_in_a_dump(tmp_path, capsys, architecture):
    idioms.forge_machine(architecture, [build.IMAGES / architecture / f"{DRIVER}.sys"]).save(tmp_path / "m.dmp")
    symbols = tmp_path / "symbols"
    symbols.mkdir()
    put_pdb(symbols, architecture)
    found, _ = find(capsys, *idioms.all_tags(), tmp_path / "m.dmp", "--symbols", symbols)
    assert_named_as_in_source(found)
    assert main(["find", "Drct", str(tmp_path / "m.dmp"), "--symbols", str(symbols)]) == 0
    assert re.search(r"\(in\s+IdiomsDirect\+0x[0-9a-f]+\)", capsys.readouterr().out)


@every_architecture
def test_without_symbols_nothing_is_made_up(tmp_path, capsys, architecture):
    found, warnings = find(capsys, *idioms.all_tags(), "--images", put_driver(tmp_path, architecture))
    assert sum(map(len, found.values())) >= 19
    assert {item["function"] for items in found.values() for item in items} == {None}
    assert warnings == ""


def test_the_environment_names_a_folder(tmp_path, capsys, monkeypatch):
    symbols = tmp_path / "symbols"
    symbols.mkdir()
    put_pdb(symbols, "x64")
    driver = put_driver(tmp_path, "x64")
    monkeypatch.setenv("_NT_SYMBOL_PATH", str(symbols))
    found, _ = find(capsys, "Drct", "--images", driver)
    assert found["Drct"][0]["function"].startswith("IdiomsDirect+")
    found, _ = find(capsys, "Drct", "--images", driver, "--symbols", "")
    assert found["Drct"][0]["function"] is None


def test_a_pdb_of_another_build_is_said_once(tmp_path, capsys):
    path = put_pdb(tmp_path, "x64", guid=OTHER_GUID)
    found, warnings = find(capsys, "Drct", "Pol2", "Prot", "--images", put_driver(tmp_path, "x64"))
    assert {item["function"] for items in found.values() for item in items} == {None}
    assert warnings.count(str(path)) == 1
    assert f"found GUID {OTHER_GUID}" in warnings


def test_a_damaged_pdb_is_said_and_the_owner_stays(tmp_path, capsys):
    pdb = bytearray(read_pdb(f"{DRIVER}-x64"))
    at = pdb.index(b"IdiomsDirect\0")
    while at >= 0:  # the name is in several streams, a record that claims too much only where symbols are
        pdb[at - 39 : at - 37] = b"\xff\xff"
        at = pdb.find(b"IdiomsDirect\0", at + 1)
    (tmp_path / f"{DRIVER}.pdb").write_bytes(pdb)
    found, warnings = find(capsys, "Drct", "Pol2", "--images", put_driver(tmp_path, "x64"))
    assert [items[0]["confidence"] for items in found.values()] == ["proven", "proven"]
    assert {items[0]["function"] for items in found.values()} == {None}
    assert warnings.count("whole records") == 1


def test_a_server_that_the_path_names_is_asked_for_foreign_drivers_alone(tmp_path, capsys, server):  # noqa: F811
    with open_image_file(str(build.IMAGES / "x64" / f"{DRIVER}.sys")) as target:
        identity = read_image(target, target.modules()[0]).pdb
    place = f"/{identity.file_name}/{identity.key}/{identity.file_name}"
    server.answer(read_pdb(f"{DRIVER}-x64"), place)
    idioms.forge_machine("x64", [build.IMAGES / "x64" / f"{DRIVER}.sys"]).save(tmp_path / "m.dmp")
    path = f"srv*{tmp_path / 'cache'}*{server.url}"
    for _ in range(2):
        found, _ = find(capsys, "Drct", tmp_path / "m.dmp", "--symbols", path)
        assert found["Drct"][0]["function"].startswith("IdiomsDirect+")
    assert server.requests.count(place) == 1
    kernel = [request for request in server.requests if request.startswith("/nt")]
    assert len(kernel) + 1 == len(server.requests)


def test_a_silent_server_is_waited_for_once(tmp_path, capsys, monkeypatch, server):  # noqa: F811
    from pykdext.pipeline import functionnames

    monkeypatch.setattr(functionnames, "MAX_VAIN_SECONDS", -1)
    drivers = [build.IMAGES / "x64" / f"{name}.sys" for name in ("pippo", "pagella", "lookas")]
    idioms.forge_machine("x64", [build.IMAGES / "x64" / f"{DRIVER}.sys", *drivers]).save(tmp_path / "m.dmp")
    words = ["Pipo", "Pgla", "Look", "Drct", tmp_path / "m.dmp", "--symbols", f"srv*{tmp_path}*{server.url}"]
    find(capsys, *words)
    assert sum(not request.startswith("/nt") for request in server.requests) == 1


@pytest.fixture
def names():
    """Names in a driver without any symbols."""
    with open_image_file(str(build.IMAGES / "x64" / "pippo.sys")) as target:
        index = ImageIndex([read_image(target, target.modules()[0])], (PoolTag(b"Pipo"),))
        yield FunctionNames(index, target, CodeAttributor(index), "", None), index.modules[0].image


def some_evidence(rva, confidence=Confidence.PROVEN, module="pippo.sys"):
    return Evidence(PoolTag(b"Pipo"), module, EvidenceKind.CALL, confidence, "", rva)


def test_the_entry_point_is_known_without_symbols(names):
    named, image = names
    items = [some_evidence(image.entry_rva), some_evidence(image.entry_rva + 9), some_evidence(image.sections[0].rva)]
    assert [item.function for item in named.add_to(items)] == [ENTRY_POINT, f"{ENTRY_POINT}+0x9", None]


def test_what_is_not_in_code_or_only_possible_has_no_function(names):
    named, image = names
    data = next(section for section in image.sections if section.holds_data)
    items = [
        some_evidence(data.rva),
        some_evidence(None),
        some_evidence(0x7FFFFFFF),
        some_evidence(image.entry_rva, Confidence.POSSIBLE),
        some_evidence(image.entry_rva, module="other.sys"),
    ]
    assert {item.function for item in named.add_to(items)} == {None}


def test_only_the_first_places_are_named(names):
    named, image = names
    items = named.add_to(some_evidence(image.entry_rva) for _ in range(MAX_NAMED + 3))
    assert [item.function for item in items] == [ENTRY_POINT] * MAX_NAMED + [None] * 3


def test_exports_name_functions_of_windows():
    machine = forge("pipo")
    base = {name: base for name, base, *_ in machine.truth.modules}["ntoskrnl.exe"]
    rva = machine.addresses["function:ExAllocatePoolWithTag"] - base
    fake = FakePykd.of_machine(machine)
    session = Session(fake)
    nt = session.modules()[0]
    index = ImageIndex([read_image(session, nt)], (PoolTag(b"Pipo"),))
    (item,) = FunctionNames(index, session, CodeAttributor(index), "", None).add_to(
        [some_evidence(rva, module=nt.name)]
    )
    assert item.function == "ExAllocatePoolWithTag"
    assert not any(command.startswith("ln") for command in fake.commands)


@pytest.mark.parametrize("arch", ["x64", "x86pae"])
def test_the_debugger_names_functions_in_its_session(arch):
    machine = forge("pipo", build=7601, arch=arch)
    base = {name: base for name, base, *_ in machine.truth.modules}["pippo.sys"]
    fake = FakePykd.of_machine(machine)
    fake.functions = {(base + 0x1080, base + 0x1110): "pippo!PippoSubmit"}
    text = type_command("poolleak find Pipo", fake).text
    assert re.search(r"proven.*?\(in\s+PippoSubmit\+0x[0-9a-f]+\)", text, re.S)
    assert text.count("(in") == 1  # the one behind the end is not
    asked = [command for command in fake.commands if command.startswith("ln")]
    assert 0 < len(asked) < 5


NEAREST = {
    "begins": ("(fffff804`bbe91080)   pippo!PippoSubmit   |  (fffff804`bbe91160)   pippo!PippoForget\nExact matches:\n"
               "    pippo!PippoSubmit (struct DEVICE_OBJECT *, unsigned int *)\n", 0x80, ("PippoSubmit", 0)),
    "inside": ("(fffff804`bbe91080)   pippo!PippoSubmit+0x2a   |  (fffff804`bbe91160)   pippo!PippoForget\n",
               0xAA, ("PippoSubmit", 0x2A)),
    "noise": ("No .natvis files found at C:\\x.\n(fffff804`bbe91080)   pippo!PippoSubmit+0x2a   |  (fffff804`bbe91160)"
              "   pippo!PippoForget\n", 0xAA, ("PippoSubmit", 0x2A)),
    "last": ("(fffff804`bbe91080)   pippo!OpenOrCloseDevice+0x1e0   \n", 0x260, ("OpenOrCloseDevice", 0x1E0)),
    "text": ("(fffff804`bbe91080)   pippo!`string'+0x8   |  (fffff804`bbe91160)   pippo!X\n", 0x88, ("`string'", 8)),
    "behind": ("(fffff804`bbe91080)   pippo!PippoSubmit+0xffffffff`ffffffff   |  (fffff804`bbe91160)   pippo!X\n",
               0x10, None),
    "ended": ("(fffff804`bbe91080)   pippo!PippoForget+0xffffffff`ffffffff   |  (fffff804`bbe92010)   pippo!`string'\n",
              0xF00, None),
    "complaint": ("*** ERROR: Module load completed but symbols could not be loaded for pippo.sys\n", 0, None),
    "nothing": ("", 0, None),
}  # fmt: skip
"""What the engine of Windows 10 1703 printed for ``ln``."""


@pytest.mark.parametrize(("text", "offset", "expected"), NEAREST.values(), ids=NEAREST)
def test_the_words_of_ln(text, offset, expected):
    assert parse_nearest(text, 0xFFFFF804BBE91000 + offset) == expected


def test_the_words_of_ln_on_x86():
    text = "(88661080)   pippo!PippoSubmit+0x2a   |  (88661130)   pippo!PippoForget\n"
    assert parse_nearest(text, 0x886610AA) == ("PippoSubmit", 0x2A)


def test_numbers_without_digits_are_none_in_what_a_debugger_prints():
    assert parse_nearest("(fffff800`00000000)   nt!Name+0x`   |  (more)\n", 0xFFFFF80000000000) != ("Name", 0)
    assert parse_debugger_data_address("KdDebuggerDataBlock ```\n") is None
