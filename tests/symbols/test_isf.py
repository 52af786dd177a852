"""The reader of volatility3's symbol files: real kernels', and damaged ones."""

from __future__ import annotations

import copy
import gzip
import json
import lzma
import random

import pytest

from pykdext.errors import SymbolFileError
from pykdext.model import FieldLayout
from pykdext.symbols import isf
from pykdext.symbols.identity import PdbName
from pykdext.symbols.isf import load_isf
from pykdext.symbols.profiles import load_profile

BASE = 0xFFFFF80000000000
GUID = "0123456789ABCDEF0123456789ABCDEF"
WANTED = PdbName("ntkrnlmp.pdb", GUID, 1)


def base(name):
    return {"kind": "base", "name": name}


DOCUMENT = {
    "base_types": {"pointer": {"size": 8}, "unsigned long": {"size": 4}, "void": {"size": 0}},
    "enums": {"_POOL_TYPE": {"size": 4, "base": "int", "constants": {"Paged": 1}}},
    "metadata": {"format": "6.1.0", "windows": {"pdb": {"GUID": GUID, "age": 1, "database": "ntkrnlmp.pdb"}}},
    "symbols": {"PoolTrackTable": {"address": 0x1234}, "Typed": {"address": 8, "type": base("unsigned long")}},
    "user_types": {
        "_ROW": {
            "kind": "struct",
            "size": 96,
            "fields": {
                "Key": {"offset": 0, "type": base("unsigned long")},
                "Kind": {"offset": 4, "type": {"kind": "enum", "name": "_POOL_TYPE"}},
                "Next": {"offset": 8, "type": {"kind": "pointer", "subtype": base("void")}},
                "Inner": {"offset": 16, "type": {"kind": "struct", "name": "_INNER"}},
                "Table": {
                    "offset": 32,
                    "type": {
                        "kind": "array",
                        "count": 3,
                        "subtype": {"kind": "array", "count": 2, "subtype": {"kind": "union", "name": "_INNER"}},
                    },
                },
                "Bits": {
                    "offset": 80,
                    "type": {
                        "kind": "bitfield",
                        "bit_length": 3,
                        "bit_position": 5,
                        "type": base("unsigned long"),
                    },
                },
                "Unknown": {"offset": 88, "type": {"kind": "struct", "name": "_NOWHERE"}},
                "Code": {"offset": 90, "type": {"kind": "function"}},
            },
        },
        "_INNER": {"kind": "union", "size": 8, "fields": {}},
    },
}


def load(tmp_path, content, wanted=WANTED, name="some.json"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return load_isf(str(path), wanted, BASE)


def test_addresses_and_layouts(tmp_path):
    symbols = load(tmp_path, DOCUMENT)
    assert (symbols.name, symbols.path) == ("isf", str(tmp_path / "some.json"))
    assert symbols.find_address("PoolTrackTable") == BASE + 0x1234
    assert symbols.find_address("NoSuchVariable") is None
    assert symbols.find_enumeration("_POOL_TYPE") == {"Paged": 1} and symbols.find_enumeration("_NONE") is None
    row = symbols.find_type("_ROW")
    assert row.size == 96
    assert row.fields == {
        "Key": FieldLayout(0, 4),
        "Kind": FieldLayout(4, 4),
        "Next": FieldLayout(8, 8),
        "Inner": FieldLayout(16, 8, type_name="_INNER"),
        "Table": FieldLayout(32, 48, type_name="_INNER", count=6),
        "Bits": FieldLayout(80, 4, bits=(5, 3)),
        "Unknown": FieldLayout(88, None),
        "Code": FieldLayout(90, None),
    }
    assert symbols.find_type("_NOWHERE") is None


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress], ids=["plain", "xz", "gzip"])
def test_the_packing_is_told_by_content_not_by_name(tmp_path, pack):
    packed = pack(json.dumps(DOCUMENT).encode())
    assert load(tmp_path, packed, name="any.name").find_address("PoolTrackTable") == BASE + 0x1234


def test_the_guid_may_be_in_small_letters(tmp_path):
    document = copy.deepcopy(DOCUMENT)
    document["metadata"]["windows"]["pdb"]["GUID"] = GUID.lower()
    assert load(tmp_path, document).find_address("PoolTrackTable") == BASE + 0x1234


@pytest.mark.parametrize("wanted", [PdbName("x.pdb", GUID, 2), PdbName("x.pdb", "F" * 32, 1)])
def test_another_build_is_refused_with_both_identities(tmp_path, wanted):
    with pytest.raises(SymbolFileError) as refused:
        load(tmp_path, DOCUMENT, wanted)
    expected = f"found GUID {GUID} age 1, expected GUID {wanted.guid} age {wanted.age}"
    assert str(refused.value) == f"{tmp_path}/some.json: {expected}"


def changed(*path, value):
    document = copy.deepcopy(DOCUMENT)
    part = document
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return document


WHOLE = json.dumps(DOCUMENT).encode()
DAMAGED = {
    "empty": (b"", "no JSON"),
    "no JSON": (b"{]", "no JSON"),
    "no object": (b"[1]", "no 'metadata'"),
    "deep": (b"[" * 200_000, "no JSON"),
    "not UTF-8": (b'{"a": "\xff\xfe"}', "no JSON"),
    "cut": (WHOLE[:-9], "no JSON"),
    "cut xz": (lzma.compress(WHOLE)[:-20], "damaged compression"),
    "cut gzip": (gzip.compress(WHOLE)[:-20], "damaged compression"),
    "damaged gzip": (gzip.compress(WHOLE)[:30] + b"\xff" * 20, "damaged compression"),
    "gzip of nothing": (b"\x1f\x8bXX", "damaged compression"),
    "a Linux kernel's": (changed("metadata", "windows", value=None), "no 'windows'"),
    "a GUID that is none": (changed("metadata", "windows", "pdb", "GUID", value="x\ny"), r"GUID 'x\\ny'"),
    "no age": (changed("metadata", "windows", "pdb", "age", value="1"), "age '1'"),
    "no table": (changed("user_types", value=[]), "no 'user_types'"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_line_with_what_was_found(tmp_path, name):
    content, found = DAMAGED[name]
    with pytest.raises(SymbolFileError, match=found) as refused:
        load(tmp_path, content)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [None, -1, 1 << 32, "4660", True, 1.5])
def test_numbers_that_are_none_are_said(tmp_path, value):
    with pytest.raises(SymbolFileError, match="as address, expected a number"):
        load(tmp_path, changed("symbols", "PoolTrackTable", "address", value=value)).find_address("PoolTrackTable")
    for part in (("size",), ("fields", "Key", "offset"), ("fields", "Table", "type", "count")):
        with pytest.raises(SymbolFileError, match=f"as {part[-1]}, expected a number"):
            load(tmp_path, changed("user_types", "_ROW", *part, value=value)).find_type("_ROW")


def test_parts_that_are_missing_are_said(tmp_path):
    with pytest.raises(SymbolFileError, match="no 'fields'"):
        load(tmp_path, changed("user_types", "_ROW", "fields", value=3)).find_type("_ROW")
    with pytest.raises(SymbolFileError, match="no 'type'"):
        load(tmp_path, changed("user_types", "_ROW", "fields", "Key", "type", value=None)).find_type("_ROW")
    with pytest.raises(SymbolFileError, match="no 'subtype'"):
        load(tmp_path, changed("user_types", "_ROW", "fields", "Table", "type", "subtype", value=0)).find_type("_ROW")
    with pytest.raises(SymbolFileError, match="no 'PoolTrackTable'"):
        load(tmp_path, changed("symbols", "PoolTrackTable", value=4)).find_address("PoolTrackTable")


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(isf, "MAX_JSON_BYTES", 1 << 20)
    bomb = lzma.compress(bytes(8 << 20), preset=0)
    assert len(bomb) < 1 << 16
    with pytest.raises(SymbolFileError, match="more than 1048576 bytes"):
        load(tmp_path, bomb)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SymbolFileError, match="cannot be read"):
        load_isf(str(tmp_path / "none.json"), WANTED, BASE)


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress], ids=["plain", "xz", "gzip"])
def test_flipped_bytes_never_raise_anything_else(tmp_path, pack):
    whole = pack(WHOLE)
    draw = random.Random(3)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 4))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            symbols = load(tmp_path, bytes(damaged))
            symbols.find_address("PoolTrackTable")
            symbols.find_type("_ROW")
        except SymbolFileError:
            refused += 1
    assert refused > 300


def kernels(evidence):
    files = sorted((evidence / "isf").glob("*.json.xz"))
    if not files:
        pytest.skip("no symbol files in the evidence folder")
    for path in files:
        guid, age = path.name[: -len(".json.xz")].rsplit("_", 1)[1].split("-")
        yield path, load_isf(str(path), PdbName("ntkrnlmp.pdb", guid, int(age)), BASE)


def test_real_kernels_have_the_addresses_of_the_profiles(evidence):
    count = 0
    for path, symbols in kernels(evidence):
        guid, age = path.name[: -len(".json.xz")].rsplit("_", 1)[1].split("-")
        profile = load_profile(guid, int(age))
        assert {name: symbols.find_address(name) for name in profile.rvas} == {
            name: BASE + rva for name, rva in profile.rvas.items()
        }, path.name
        count += 1
    assert count == 7


def test_real_kernels_tell_the_kinds_of_regions_since_windows_10(evidence):
    told = [symbols.find_enumeration("_MI_ASSIGNED_REGION_TYPES") for _, symbols in kernels(evidence)]
    pool = [kinds["AssignedRegionNonPagedPool"] for kinds in told if kinds]
    assert (told.count(None), sorted(pool)) == (2, [0, 0, 0, 1, 1])


ROW_BYTES = {7601: 0x28, 9600: 0x28, 14393: 0x28, 17763: 0x38, 19041: 0x38, 20348: 0x50, 22000: 0x50}


def test_real_kernels_have_the_known_layouts(evidence):
    """Against the layouts that were collected from the same kernels by another program."""
    table = evidence.parent / "reference" / "data" / "struct_layouts_by_build.json"
    if not table.is_file():
        pytest.skip("the table of layouts by build is not beside this checkout")
    collected = json.loads(table.read_text())["isf_JPCERTCC"]
    compared = 0
    for path, symbols in kernels(evidence):
        version = path.name.split("_")[1]
        build = int(version.split(".")[2])
        assert symbols.find_type("_POOL_TRACKER_TABLE").size == ROW_BYTES[build]
        for name, expected in collected.get(f"{version} x64", {}).items():
            found = symbols.find_type(name)
            assert found.size == expected["size"], (version, name)
            offsets = {field: offset for offset, field, _ in expected["fields"]}
            assert {field: place.offset for field, place in found.fields.items()} == offsets, (version, name)
            compared += 1
    assert compared > 20
