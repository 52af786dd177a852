"""Functions by address, in PDBs and ISF files: against llvm-pdbutil, and what is damaged."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess

import pytest

from pykdext.errors import SymbolFileError
from pykdext.symbols.identity import PdbName
from pykdext.symbols.isf import load_isf
from pykdext.symbols.pdbfile import load_pdb
from tests.helpers import pdbwriter as writer
from tests.helpers.patience import ends_soon
from tests.pdbs import read_pdb, restamp
from tests.symbols.test_isf import DOCUMENT

BASE = 0xFFFFF80000000000
GUID = "0123456789ABCDEF0123456789ABCDEF"
PROCEDURE = re.compile(r"S_[GL]PROC32 \[size = \d+\] `(\w+)`\s+parent.* addr = (\d+):(\d+), code size = (\d+)")
PUBLIC = re.compile(r"S_PUB32 \[size = \d+\] `(\S+)`\s+flags = function, addr = (\d+):(\d+)")
SECTION = re.compile(r"^ +([0-9A-F]+) virtual address", re.M)

ARCHITECTURES = ("x64", "x86", "arm64")


def load(tmp_path, data):
    path = tmp_path / "some.pdb"
    path.write_bytes(restamp(data, GUID))
    return load_pdb(str(path), PdbName("some.pdb", GUID, 1), BASE)


def write_pdb(procedures=(), publics=(), modules=None, symbol_bytes=None, machine=0x8664):
    stream = struct.pack("<I", 4) + b"".join(procedures)
    listed = writer.object_file(7, len(stream) if symbol_bytes is None else symbol_bytes) if procedures else b""
    debug = writer.debug(1, 5, machine, sections=6, modules=listed if modules is None else modules)
    sections = writer.section(0x1000, 0x8000) + writer.section(0x9000, 0x800)
    parts = [b"", writer.info(GUID, 1), writer.types(), debug, b"", b"".join(publics), sections, stream]
    return writer.msf(parts, 512)


def function(name, offset, segment=1):
    return writer.public(name, segment, offset, flags=2)


@pytest.fixture
def ask_llvm(tmp_path):
    program = shutil.which("llvm-pdbutil")
    if program is None:
        pytest.skip("llvm-pdbutil is not installed")

    def ask(*words):
        command = [program, "dump", *words, str(tmp_path / "some.pdb")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return ask


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_llvm_reads_the_same_functions(tmp_path, ask_llvm, architecture):
    pdb = load(tmp_path, read_pdb(f"idioms-O2-{architecture}"))
    sections = [int(rva, 16) for rva in SECTION.findall(ask_llvm("-section-headers"))]
    found = PROCEDURE.findall(ask_llvm("-symbols"))
    assert len(found) > 20
    ends = set()
    for name, segment, offset, size in found:
        start = BASE + sections[int(segment) - 1] + int(offset)
        ends.add(start + int(size))
        assert pdb.find_function(start) == (name, 0)
        assert pdb.find_function(start + int(size) - 1) == (name, int(size) - 1)
    starts = {BASE + sections[int(segment) - 1] + int(offset) for _, segment, offset, _ in found}
    assert [pdb.find_function(end) for end in ends - starts] == [None] * len(ends - starts)
    publics = PUBLIC.findall(ask_llvm("-publics"))
    assert publics
    for decorated, segment, offset in publics:
        name = re.sub(r"^_|@\d+$", "", decorated) if architecture == "x86" else decorated
        assert pdb.find_function(BASE + sections[int(segment) - 1] + int(offset)) == (name, 0)


def test_publics_alone_name_the_nearest_code_before(tmp_path):
    pdb = load(
        tmp_path, write_pdb(publics=[function("Second", 0x200), function("First", 0x100), writer.public("D", 1, 0x180)])
    )
    assert pdb.find_function(BASE + 0x10FF) is None
    assert pdb.find_function(BASE + 0x1100) == ("First", 0)
    assert pdb.find_function(BASE + 0x11FF) == ("First", 0xFF)
    assert pdb.find_function(BASE + 0x1234) == ("Second", 0x34)
    assert pdb.find_address("D") == BASE + 0x1180


def test_what_the_compiler_says_of_a_function_is_better_than_its_public(tmp_path):
    pdb = load(
        tmp_path, write_pdb([writer.procedure("Read", 1, 0x100, 0x20)], [function("_Read@8", 0x100)], machine=0x14C)
    )
    assert pdb.find_function(BASE + 0x111F) == ("Read", 0x1F)
    assert pdb.find_function(BASE + 0x1120) is None
    assert pdb.find_address("Read") == BASE + 0x1100


def test_publics_of_x86_lose_their_decoration(tmp_path):
    pdb = load(tmp_path, write_pdb(publics=[function("_Read@8", 0), function("@Fast@4", 0x10)], machine=0x14C))
    assert pdb.find_function(BASE + 0x1004) == ("Read", 4)
    assert pdb.find_function(BASE + 0x1010) == ("Fast", 0)


def test_code_that_is_in_no_section_has_no_name(tmp_path):
    pdb = load(tmp_path, write_pdb(publics=[function("Absolute", 0x10, 9), function("Zero", 0x10, 0)]))
    assert pdb.find_function(BASE + 0x1010) is None


@pytest.mark.parametrize(
    "modules",
    [
        b"\xff" * 200,
        writer.object_file(7, 1 << 31),
        writer.object_file(7, 0),
        writer.object_file(0xFFFF, 0xFFFFFFFF),
        writer.object_file(3000, 16),
        bytes(64) + b"no end of a name",
        b"short",
    ],
)
def test_a_list_of_object_files_that_lies_leaves_the_publics(tmp_path, modules):
    pdb = load(tmp_path, write_pdb([writer.procedure("Read", 1, 0, 8)], [function("Public", 0)], modules))
    assert pdb.find_function(BASE + 0x1004) == ("Public", 4)


@ends_soon
def test_an_object_file_that_is_listed_often_is_read_once(tmp_path):
    procedures = [writer.procedure(f"Function{number}", 1, number, 1) for number in range(30_000)]
    whole = struct.pack("<I", 4) + b"".join(procedures)
    pdb = load(tmp_path, write_pdb(procedures, modules=writer.object_file(7, len(whole)) * 2000))
    assert pdb.find_function(BASE + 0x1000 + 29_999) == ("Function29999", 0)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_record_that_does_not_end_is_said(tmp_path, cut):
    records = [writer.procedure("Read", 1, 0, 8), writer.procedure("Write", 1, 8, 8)]
    size = 4 + sum(map(len, records)) - cut
    with pytest.raises(SymbolFileError, match="a record outside"):
        load(tmp_path, write_pdb(records, symbol_bytes=size)).find_function(BASE + 0x1000)


@ends_soon
def test_every_function_of_a_large_pdb_is_found(tmp_path):
    pdb = load(tmp_path, writer.large_pdb(GUID, names=60_000))
    for number in range(60_000):
        assert pdb.find_function(BASE + 0x1003 + 16 * number) == (f"Function{number}", 3)


def test_isf_files_name_the_nearest_symbol(tmp_path):
    document = json.loads(json.dumps(DOCUMENT))
    document["symbols"] = {"Later": {"address": 0x2000}, "Sooner": {"address": 0x1000}}
    pdb = document["metadata"]["windows"]["pdb"]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(document))
    isf = load_isf(str(path), PdbName("some.pdb", pdb["GUID"].upper(), pdb["age"]), BASE)
    assert isf.find_function(BASE + 0xFFF) is None
    assert isf.find_function(BASE + 0x1FFF) == ("Sooner", 0xFFF)
    assert isf.find_function(BASE + 0x2004) == ("Later", 4)


@pytest.mark.parametrize("entry", [7, {}, {"address": "1"}, {"address": -1}, {"address": 1 << 40}])
def test_a_damaged_isf_file_is_said(tmp_path, entry):
    document = json.loads(json.dumps(DOCUMENT))
    document["symbols"]["Broken"] = entry
    pdb = document["metadata"]["windows"]["pdb"]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(document))
    isf = load_isf(str(path), PdbName("some.pdb", pdb["GUID"].upper(), pdb["age"]), BASE)
    with pytest.raises(SymbolFileError):
        isf.find_function(BASE + 0x1000)
