"""Reading by field names: who answers, absent fields, sizes, bits, nested fields and arrays, one record and many."""

from __future__ import annotations

import json
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.errors import MemoryReadError, StructSizeError
from pykdext.kernel.kernel import Kernel, TargetSymbols
from pykdext.kernel.structs import iter_records, read_record
from pykdext.model import FieldLayout, Machine, Struct, TargetFacts, TypeLayout
from pykdext.model.layouts import find_field
from pykdext.model.structtables import StructTable, list_layouts
from pykdext.symbols.chain import SymbolChain
from pykdext.symbols.identity import PdbName
from pykdext.symbols.isf import load_isf
from tests.helpers.segments import SegmentsTarget
from tests.pdbs import build as pdbs

X64 = StructTable(Machine.X64, 19041, 804)


def kernel_of(machine=Machine.X64, build=None, layouts=None, sources=(), segments=None):
    facts = TargetFacts(kind="test", machine=machine, build=build)
    target = SegmentsTarget(segments or {}, machine=machine, layouts=layouts, facts=facts)
    return Kernel(target, None, SymbolChain([TargetSymbols(target), *sources]))


class KnownTypes:
    def __init__(self, name, types):
        self.name, self._types = name, types

    def find_address(self, _):
        return None

    def find_type(self, type_name):
        return self._types.get(type_name)


def row(**fields):
    return TypeLayout(64, {name: FieldLayout(*place) for name, place in fields.items()})


def test_the_first_that_knows_answers_and_is_named():
    sources = [KnownTypes("pdb", {"_OBJECT_TYPE": row(Key=(8, 4))}), KnownTypes("isf", {"_ISF_ONLY": row(Key=(4, 4))})]
    kernel = kernel_of(build=22000, layouts={"_EPROCESS": row(Flags=(12, 4))}, sources=sources)
    for name, source in (("_EPROCESS", "target"), ("_OBJECT_TYPE", "pdb"), ("_ISF_ONLY", "isf"), ("_MDL", "table")):
        assert kernel.struct(name, "Key").source == source
    assert kernel.struct("_EPROCESS", "Flags").offset("Flags") == 12
    assert kernel.struct("_OBJECT_TYPE", "Key").offset("Key") == 8
    assert kernel.struct("_NO_SUCH_TYPE", "Key") is None


def test_a_type_without_any_fields_is_no_answer():
    kernel = kernel_of(build=22000, layouts={"_MDL": TypeLayout(0, {})})
    assert kernel.struct("_MDL", "Process").source == "table"


def test_what_a_source_has_no_field_for_is_not_asked_of_the_next():
    kernel = kernel_of(build=22000, layouts={"_EPROCESS": row(Flags=(12, 4))})
    form = kernel.struct("_EPROCESS", "Flags", "ObjectTable")
    assert form.fields["ObjectTable"] is None and form.offset("ObjectTable") is None
    assert form.has("Flags") and not form.has("Flags", "ObjectTable")
    assert form.parse(bytes(64)) == {"Flags": 0, "ObjectTable": None}


@pytest.mark.parametrize("build", [None, 1, 5000, 12345, 22100, 99999])
def test_no_neighbour_speaks_for_an_unknown_build(build):
    assert kernel_of(build=build).struct("_EPROCESS", "UniqueProcessId") is None
    assert len(list_layouts("_EPROCESS")) > 20  # but all known ones can be tried by those who can tell


def test_kernels_of_a_build_that_differ_leave_a_field_in_doubt():
    known = StructTable(Machine.X64, 19041, 508).make("_MI_SYSTEM_INFORMATION", "Vs.NonPagedPoolCommit")
    older = StructTable(Machine.X64, 19041, 450).make("_MI_SYSTEM_INFORMATION", "Vs.NonPagedPoolCommit")
    assert (known.offset("Vs.NonPagedPoolCommit"), older.offset("Vs.NonPagedPoolCommit")) == (0x26A0, 0x2660)
    for revision in (None, 9000):
        either = StructTable(Machine.X64, 19045, revision).make(
            "_MI_SYSTEM_INFORMATION", "Vs.NonPagedPoolCommit", "Pools.AllocatedNonPagedPool", "NoSuchField"
        )
        assert (either.offset("Vs.NonPagedPoolCommit"), either.size) == (None, None)
        assert either.doubtful == ("Vs.NonPagedPoolCommit",)
        assert either.offset("Pools.AllocatedNonPagedPool") == 8


def test_public_listings_are_marked():
    assert StructTable(Machine.X64, 26100).find("_EPROCESS").is_stated
    assert not X64.find("_EPROCESS").is_stated
    assert StructTable(Machine.X64, 26100).make("_EPROCESS", "ObjectTable").offset("ObjectTable") == 0x300


def test_a_wrong_size_names_both():
    with pytest.raises(StructSizeError, match=r"_MDL: found ByteCount of 4 bytes, expected 8"):
        kernel_of(build=22000).struct("_MDL", "ByteCount", sizes={"ByteCount": 8})
    with pytest.raises(StructSizeError, match=r"_X: found Tail that ends at 0x48, expected at most 0x40"):
        kernel_of(layouts={"_X": row(Tail=(0x40, 8))}).struct("_X", "Tail")
    form = kernel_of(layouts={"_X": row(Tail=(0x38, None))}).struct("_X", "Tail", sizes={"Tail": 8})
    assert form.parse(bytes(0x38) + b"\1" + bytes(7)) == {"Tail": 1}  # a size that nobody knows is the caller's
    with pytest.raises(StructSizeError, match=r"found bytes 0x0 to 0x39, expected 0x38 to 0x40"):
        form.parse(bytes(0x39))
    with pytest.raises(StructSizeError, match="expected 0x40 or more"):
        form.iter_unpack(bytes(128), stride=0x20)
    with pytest.raises(StructSizeError, match="found no known size"):
        Struct("_X", "pdb", None, {"Tail": FieldLayout(0, 4)}).iter_unpack(bytes(64))


def test_nested_fields_elements_and_bits():
    form = X64.make(
        "_EPROCESS",
        "Pcb.DirectoryTableBase",
        "ActiveProcessLinks.Blink",
        "ProcessQuotaUsage[1]",
        "ImageFileName",
        "ImageFileName[2]",
        "Token.RefCnt",
        "ProcessQuotaUsage[2]",
    )
    offsets = [form.offset(path) for path in form.fields]
    assert offsets == [0x28, 0x450, 0x478, 0x5A8, 0x5AA, 0x4B8, None]
    data = bytearray(form.end)
    data[0x28:0x30] = struct.pack("<Q", 0x1AD000)
    data[0x450:0x458] = struct.pack("<Q", 0xFFFF800012345678)
    data[0x478:0x480] = struct.pack("<Q", 77)
    data[0x5A8:0x5B7] = b"poolleak.exe\0\0\0"
    data[0x4B8:0x4C0] = struct.pack("<Q", 0xFFFF80000000000B)
    assert list(form.parse(data).values()) == [
        0x1AD000,
        0xFFFF800012345678,
        77,
        b"poolleak.exe\0\0\0",
        ord("o"),
        0xB,
        None,
    ]


def test_pointers_are_of_the_kernels_width():
    forms = [
        StructTable(machine, 19041).make("_UNICODE_STRING", "Length", "Buffer")
        for machine in (Machine.X86, Machine.X64)
    ]
    assert [form.fields["Buffer"] for form in forms] == [FieldLayout(4, 4), FieldLayout(8, 8)]
    assert [form.size for form in forms] == [8, 16]
    assert StructTable(Machine.X86, 7601).make("_EPROCESS", "ActiveProcessLinks.Blink").fields == {
        "ActiveProcessLinks.Blink": FieldLayout(0xBC, 4)
    }


def test_signed_fields_are_those_that_the_caller_calls_so():
    form = X64.make("_HANDLE_TABLE_FREE_LIST", "HandleCount", "HighWaterMark", signed=("HandleCount",))
    data = bytes(0x18) + struct.pack("<iI", -3, 2**32 - 3) + bytes(0x20)
    assert form.parse(data) == {"HandleCount": -3, "HighWaterMark": 2**32 - 3}
    assert list(form.iter_unpack(2 * data)) == [(-3, 2**32 - 3)] * 2


def test_records_in_memory():
    at = 0xFFFFA00000001000
    form = X64.make("_POOL_TRACKER_TABLE", "PagedBytes", "Key")
    rows = b"".join(struct.pack("<I4xQQQQQQ", key, 0, 0, 0, key * 100, 0, 0) for key in range(1, 6))
    target = SegmentsTarget({at: rows[: 2 * 56 + 8], at + 3 * 56: rows[3 * 56 :]})
    assert read_record(target, form, at + 56) == {"PagedBytes": 200, "Key": 2}
    with pytest.raises(MemoryReadError):
        read_record(target, form, at + 2 * 56)
    assert list(iter_records(target, form, at, 5)) == [(100, 1), (200, 2), (400, 4), (500, 5)]


def test_only_the_bytes_of_the_fields_are_read():
    at = 0xFFFFA00000001000
    form = X64.make("_EPROCESS", "UniqueProcessId", "ActiveProcessLinks.Flink")
    target = SegmentsTarget({at + 0x440: struct.pack("<QQ", 4, at)})
    assert read_record(target, form, at) == {"UniqueProcessId": 4, "ActiveProcessLinks.Flink": at}


FIELDS = st.tuples(
    st.integers(0, 40), st.sampled_from([1, 2, 3, 4, 8, 12]), st.booleans(), st.none() | st.integers(0, 7)
)


@given(st.lists(FIELDS, min_size=1, max_size=8), st.data())
def test_every_layout_reads_as_its_bytes_say(places, data):
    size = max(offset + size for offset, size, _, _ in places) + data.draw(st.integers(0, 9))
    rows = data.draw(st.lists(st.binary(min_size=size, max_size=size), min_size=1, max_size=3))
    fields, signed = {}, []
    for number, (offset, width, is_signed, bit) in enumerate(places):
        bits = (bit, min(5, 8 * width - bit)) if bit is not None and width in (1, 2, 4, 8) else None
        fields[f"f{number}"] = FieldLayout(offset, width, bits)
        if is_signed:
            signed.append(f"f{number}")
    form = Struct("_LAW", "test", size, fields, signed)
    expected = [tuple(plain_value(record, field, name in signed) for name, field in fields.items()) for record in rows]
    assert list(form.iter_unpack(b"".join(rows) + b"x" * (size - 1))) == expected
    assert [tuple(form.parse(record).values()) for record in rows] == expected


def plain_value(record, field, is_signed):
    raw = record[field.offset : field.offset + field.size]
    if field.size not in (1, 2, 4, 8):
        return raw
    value = int.from_bytes(raw, "little")
    width = 8 * field.size
    if field.bits:
        first, width = field.bits
        value = value >> first & (1 << width) - 1
    return value - (1 << width) if is_signed and value >> (width - 1) else value


# The shipped tables against the symbols that they were computed from.


def reference(evidence, name):
    path = evidence.parent / "reference" / "data" / name
    if not path.exists():
        pytest.skip(f"{name} is not beside the evidence")
    return json.loads(path.read_text())


def test_the_tables_are_those_of_the_symbols(evidence):
    """Every field that the tables have stands where the symbols of 57 kernels have it."""
    checked = 0
    layouts = reference(evidence, "struct_layouts_by_build.json")
    for key, structures in layouts["isf_JPCERTCC"].items():
        _, build, revision = re.fullmatch(r"(.+)\.(\d+)\.(\d+) x64", key).groups()
        table = StructTable(Machine.X64, int(build), int(revision))
        for name, described in structures.items():
            found = table.find_type(name)
            if found is None:
                continue
            assert found.size in (None, described["size"])
            for offset, field, _ in described["fields"]:
                if field in found.fields:
                    assert found.fields[field].offset == offset, (key, name, field)
                    checked += 1
    assert checked > 700


OVERLAY_BUILDS = {
    "xp": 2600,
    "win2003": 3790,
    "vista_sp0": 6000,
    "vista_sp1": 6001,
    "vista_sp2": 6002,
    "win7_sp0": 7600,
    "win7_sp1": 7601,
    "win8_sp0": 9200,
    "win8_sp1": 9600,
    "win81": 9600,
    "win10_x64_1AC738FB": 10586,
    "win10_x86_44B89EEA": 10586,
    "win10_x64_DD08DD42": 14393,
    "win10_x86_9619274A": 14393,
}


def overlay_kernel(profile):
    machine = Machine.X86 if "_x86" in profile else Machine.X64
    by_number = re.fullmatch(r"win10_x\d\d_(1[5-9]\d{3})", profile)
    if by_number:
        return machine, int(by_number[1])
    return machine, next((build for name, build in OVERLAY_BUILDS.items() if profile.startswith(name)), 10240)


@pytest.mark.parametrize(
    ("file", "part"), [("struct_layouts_by_build.json", "volatility2_overlays"), ("object_layouts.json", "overlays")]
)
def test_old_and_32_bit_kernels_are_in_the_tables(evidence, file, part):
    checked = 0
    for profile, structures in reference(evidence, file)[part].items():
        machine, build = overlay_kernel(profile)
        for name, described in structures.items():
            rows = [
                shipped.layout
                for shipped in list_layouts(name)
                if any(kernels.covers(machine, build) for kernels in shipped.kernels)
            ]
            fields = described["fields"]
            places = fields if isinstance(fields, dict) else {field: offset for offset, field, _ in fields}
            told = {field: offset for row in rows for field, offset in offsets_of(row).items()}
            for field, offset in places.items():
                if field in told:
                    assert any(offsets_of(row).get(field) == offset for row in rows), (profile, name, field)
                    checked += 1
    assert checked > 2000


def offsets_of(layout):
    return {name: field.offset for name, field in layout.fields.items()}


def test_the_revisions_of_a_build_are_told_apart(evidence):
    checked = 0
    for name, lines in reference(evidence, "object_layouts.json")["isf_x64_by_build_line"].items():
        for build, ranges in lines.items():
            for described in ranges:
                for revision in described["revisions"]:
                    found = StructTable(Machine.X64, int(build), revision).find_type(name)
                    if described.get("absent"):
                        assert found is None, (name, build)
                        continue
                    assert found.size == described["size"], (name, build, revision)
                    places = offsets_of(found)
                    assert {field: places[field] for field in described["fields"]} == described["fields"]
                    checked += len(described["fields"])
    assert checked > 4000


def test_the_symbol_files_of_seven_kernels_say_the_same(evidence):
    files = sorted((evidence / "isf").glob("*.json.xz"))
    if not files:
        pytest.skip("no symbol files in the evidence folder")
    names = shipped_names()
    checked = 0
    for path in files:
        build, revision = map(int, re.match(r"ntkrnlmp_[\d.]*?(\d+)\.(\d+)_", path.name).groups())
        guid = re.search(r"[0-9A-F]{32}", path.name)[0]
        isf = load_isf(str(path), PdbName("ntkrnlmp.pdb", guid, 1), 0)
        table = StructTable(Machine.X64, build, revision)
        for name in names:
            shipped, told = table.find_type(name), isf.find_type(name)
            if shipped is None or told is None:
                assert shipped is None or name in ("_KLDR_DATA_TABLE_ENTRY",), (path.name, name)
                continue
            assert shipped.size in (None, told.size), (path.name, name)
            for field, place in shipped.fields.items():
                expected = find_field(isf.find_type, told, field)
                assert expected is not None and place.offset == expected.offset, (path.name, name, field)
                if place.size is not None:
                    assert (place.size, place.count) == (expected.size, expected.count), (path.name, name, field)
                if place.bits is not None:
                    assert place.bits == expected.bits, (path.name, name, field)
                checked += 1
    assert checked > 3000


def shipped_names():
    from pykdext.model.structtables import _load

    return sorted(_load())


@pytest.mark.parametrize("version", ["6.1.7601.24540", "10.0.14393.4583", "10.0.22000.2538"])
def test_pdbs_say_the_same(tmp_path, version):
    from tests.symbols.test_pdb import load_compiled

    _, build, revision = version.rsplit(".", 2)
    table = StructTable(Machine.X64, int(build), int(revision))
    pdb = load_compiled(tmp_path, version)
    checked = 0
    for name in pdbs.TYPES:
        shipped, told = table.find_type(name), pdb.find_type(name)
        if shipped is None or told is None:
            continue
        kernel = kernel_of(build=int(build), sources=[pdb])
        form = kernel.struct(name, *shipped.fields)
        assert form.source == "pdb"
        for field, place in shipped.fields.items():
            if form.fields[field] is not None:
                assert form.offset(field) == place.offset
                checked += 1
    assert checked > 20
