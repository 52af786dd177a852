"""The PDB reader: against kernels' ISF files, what a compiler lays out, and files that are damaged."""

from __future__ import annotations

import json
import random
import struct
import sys

import pytest

from pykdext.errors import SymbolFileError
from pykdext.model import FieldLayout
from pykdext.symbols.identity import PdbName
from pykdext.symbols.isf import load_isf
from pykdext.symbols.pdbfile import load_pdb
from pykdext.symbols.profiles import load_profile
from tests.conftest import PROJECT
from tests.helpers import pdbwriter as writer
from tests.helpers.patience import ends_soon
from tests.pdbs import KERNELS, build, read_pdb, restamp

BASE = 0xFFFFF80000000000
GUID = "0123456789ABCDEF0123456789ABCDEF"
WANTED = PdbName("ntkrnlmp.pdb", GUID, 1)


def table_of_kernels():
    return json.loads((PROJECT / "pykdext" / "symbols" / "data" / "kernels.json").read_text())["kernels"]


def load(tmp_path, data, wanted=WANTED, base=BASE):
    path = tmp_path / "some.pdb"
    path.write_bytes(data)
    return load_pdb(str(path), wanted, base)


def load_compiled(tmp_path, name):
    return load(tmp_path, restamp(read_pdb(name), GUID))


def small_pdb(**changes):
    """A PDB of one structure and two variables, in streams of the writer."""
    parts = {
        "info": writer.info(GUID, 1),
        "types": writer.types([writer.field_list(writer.member("Key", 0x22, 4)), writer.structure("_ROW", 8, 0x1000)]),
        "debug": writer.debug(1, 5, sections=6),
        "symbols": writer.public("PoolTrackTable", 1, 0x20) + writer.public("Other", 2, 8),
        "sections": writer.section(0x1000, 0x800) + writer.section(0x3000, 0x800),
        **changes,
    }
    streams = [b"", parts["info"], parts["types"], parts["debug"], b"", parts["symbols"], parts["sections"]]
    return writer.msf(streams + list(changes.get("more", ())), changes.get("block", 512))


def test_kernels_are_there():
    assert len(KERNELS) == 7


@pytest.mark.parametrize("version", KERNELS)
def test_addresses_are_those_of_the_profile(tmp_path, version):
    key = next(key for key, row in table_of_kernels().items() if row[0] == version)
    profile = load_profile(key[:32], int(key[32:], 16))
    pdb = load_compiled(tmp_path, version)
    compiled = {name: pdb.find_address(name) for name in profile.rvas}
    known = {name: address for name, address in compiled.items() if address is not None}
    assert len(known) > 20
    assert known == {name: BASE + profile.rvas[name] for name in known}
    assert pdb.find_address("NoSuchVariable") is None


@pytest.mark.parametrize("version", KERNELS)
def test_profile_isf_and_pdb_agree(tmp_path, evidence, version):
    path = next(iter((evidence / "isf").glob(f"*_{version}_*.json.xz")), None)
    if path is None:
        pytest.skip(f"no symbol file of {version} in the evidence folder")
    assert_agreement(tmp_path, read_pdb(version), path, build.TYPES)


@pytest.mark.parametrize("version", KERNELS)
def test_every_type_of_a_kernel_compiled_anew_agrees(tmp_path, evidence, version):
    if not build.has_toolchain():
        pytest.skip("the Zig toolchain (ziglang) is not installed")
    path = next(iter((evidence / "isf").glob(f"*_{version}_*.json.xz")), None)
    if path is None:
        pytest.skip(f"no symbol file of {version} in the evidence folder")
    isf = build.read_isf(path)
    assert build.build_kernel(isf, build.TYPES, tmp_path) == read_pdb(version)
    names = list(isf["user_types"])
    assert len(names) > 800
    assert_agreement(tmp_path, build.build_kernel(isf, names, tmp_path), path, names)


def assert_agreement(tmp_path, compiled, isf_path, names):
    raw = build.read_isf(isf_path)
    identity = raw["metadata"]["windows"]["pdb"]
    wanted = PdbName("ntkrnlmp.pdb", identity["GUID"], identity["age"])
    isf = load_isf(str(isf_path), wanted, BASE)
    pdb = load(tmp_path, restamp(compiled, wanted.guid, wanted.age), wanted)
    profile = load_profile(wanted.guid, wanted.age)
    for name, rva in profile.rvas.items():
        assert (isf.find_address(name), pdb.find_address(name)) == (BASE + rva, BASE + rva), name
    for name in names:
        expected = isf.find_type(name)
        found = pdb.find_type(build.identifier(name))
        if expected is None:
            assert found is None, name
            continue
        kept = {field: place for field, place in found.fields.items() if not field.startswith(("__whole", "__skipped"))}
        assert (found.size, set(kept)) == (expected.size, set(expected.fields)), name
        for field, place in kept.items():
            told = expected.fields[field]
            assert (place.offset, place.size, place.bits, place.count) == (
                told.offset,
                told.size,
                told.bits,
                told.count,
            ), (name, field)
            inner = None if place.type_name is None else pdb.find_type(place.type_name)
            isf_inner = None if told.type_name is None else isf.find_type(told.type_name)
            assert (inner and inner.size) == (isf_inner and isf_inner.size), (name, field)


@pytest.mark.parametrize(("source", "machine"), build.SHAPES)
def test_the_compiled_shapes_are_those_of_the_sources(tmp_path, source, machine):
    if not build.has_toolchain():
        pytest.skip("the Zig toolchain (ziglang) is not installed")
    name = f"{source.split('.')[0]}-{machine}"
    assert build.build_shapes(source, machine, tmp_path) == read_pdb(name)


# What the C rules of Windows say: natural alignment; a bit field lies in a unit of its declared type.
POINTERS = {
    "x64": {"pointer": (128, 8), "to_announced": (136, 8), "function": (144, 8), "colour": (152, 4)},
    "x86": {"pointer": (128, 4), "to_announced": (132, 4), "function": (136, 4), "colour": (140, 4)},
}
TAILS = {
    "x64": {"floating": (160, 8), "truth": (168, 1), "name": (170, 8)},
    "x86": {"floating": (144, 8), "truth": (152, 1), "name": (154, 8)},
}
SIZES = {"x64": 184, "x86": 168}
HEAD = {
    "letter": (0, 1),
    "nested": (4, 8),
    "array": (12, 48),
    "word": (64, 8),
    "named": (72, 12),
    "anonymous_int": (88, 4),
    "anonymous_char": (96, 1),
    "anonymous_double": (96, 8),
    "one": (104, 4),
    "seven": (104, 4),
    "rest": (104, 4),
    "byte_bits": (108, 1),
    "wide_bits": (112, 8),
    "qualified": (120, 8),
}


def places(layout):
    return {name: (place.offset, place.size) for name, place in layout.fields.items()}


@pytest.mark.parametrize("machine", ["x64", "x86"])
def test_shapes_are_laid_out_as_the_compiler_does(tmp_path, machine):
    pdb = load_compiled(tmp_path, f"shapes-{machine}")
    shapes = pdb.find_type("shapes")
    assert shapes.size == SIZES[machine]
    assert places(shapes) == {**HEAD, **POINTERS[machine], **TAILS[machine]}
    word = pdb.find_type("word")
    assert (word.size, places(word)) == (8, {"whole": (0, 8), "low": (0, 4), "high": (4, 4), "bytes": (0, 8)})
    assert pdb.find_type("announced_only") is None
    assert pdb.find_type("COLOUR") is None


@pytest.mark.parametrize("machine", ["x64", "x86"])
def test_a_list_of_fields_goes_on_behind_64_kb(tmp_path, machine):
    crowded = load_compiled(tmp_path, f"shapes-{machine}").find_type("crowded")
    assert crowded.size == 20008
    expected = {"first": (0, 1), "last": (20004, 1)}
    expected.update({f"field_{number}": (4 * (number - 999), 4) for number in range(1000, 6000)})
    assert places(crowded) == expected


def test_names_of_x86_are_found_without_their_decoration(tmp_path):
    pdb = load_compiled(tmp_path, "shapes-x86")
    data = pdb.find_address("initialized")
    assert pdb.find_address("PoolTrackTable") == pdb.find_address("_PoolTrackTable") == data + 8
    code = pdb.find_address("plain")
    assert [pdb.find_address(name) - code for name in ("_plain", "standard", "_standard@4", "fast", "@fast@4")] == [
        *(0, 0x20, 0x20, 0x40, 0x40),
    ]


def test_names_of_x64_stay_as_they_are(tmp_path):
    assert load_compiled(tmp_path, "shapes-x64").find_address("_PoolTrackTable") is None
    pdb = load(tmp_path, small_pdb(symbols=writer.public("_Data", 1, 0)), base=0)
    assert (pdb.find_address("_Data"), pdb.find_address("Data")) == (0x1000, None)


def test_what_cpp_adds_is_passed_over(tmp_path):
    pdb = load_compiled(tmp_path, "methods-x64")
    assert (pdb.find_type("derived").size, places(pdb.find_type("derived"))) == (
        48,
        {"what": (24, 4), "pair": (28, 4), "tail": (32, 1)},
    )
    assert places(pdb.find_type("base")) == {"base_field": (8, 4)}
    assert (pdb.find_type("scope::derived").size, pdb.find_type("derived::inner").size) == (3, 4)


def test_the_age_is_that_of_the_image_not_of_later_writers(tmp_path):
    data = restamp(read_pdb(KERNELS[0]), GUID, age=2, info_age=9)
    assert load(tmp_path, data, PdbName("ntkrnlmp.pdb", GUID, 2)).find_address("PoolTrackTable")
    with pytest.raises(SymbolFileError, match=f"found GUID {GUID} age 2, expected GUID {GUID} age 9$"):
        load(tmp_path, data, PdbName("ntkrnlmp.pdb", GUID, 9))


def test_a_pdb_of_types_alone_has_the_age_of_its_info_stream(tmp_path):
    pdb = load(tmp_path, small_pdb(info=writer.info(GUID, 4), debug=b""), PdbName("x.pdb", GUID, 4))
    assert pdb.find_type("_ROW").size == 8
    assert pdb.find_address("PoolTrackTable") is None


def test_another_build_is_refused_with_both_identities(tmp_path):
    other = "5278AFF86C341677D7D7835C85B7B844"
    with pytest.raises(SymbolFileError) as refused:
        load(tmp_path, restamp(read_pdb(KERNELS[0]), other))
    assert str(refused.value) == f"{tmp_path}/some.pdb: found GUID {other} age 1, expected GUID {GUID} age 1"


def test_the_writer_writes_what_the_reader_reads(tmp_path):
    pdb = load(tmp_path, small_pdb(), base=0x1000000)
    assert (pdb.name, pdb.path) == ("pdb", str(tmp_path / "some.pdb"))
    assert pdb.find_address("PoolTrackTable") == 0x1001020
    assert pdb.find_address("Other") == 0x1003008
    assert pdb.find_type("_ROW").fields == {"Key": FieldLayout(4, 4)}
    assert pdb.find_type("_NONE") is None


def test_a_rearranged_image_has_its_addresses_moved(tmp_path):
    names = {"first": (1, 0), "removed": (1, 0x18), "moved": (1, 0x24), "last": (2, 4), "before": (3, 0)}
    symbols = b"".join(writer.public(name, *place) for name, place in names.items())
    omap = struct.pack("<8I", 0x1000, 0x5000, 0x1010, 0, 0x1020, 0x4000, 0x2000, 0x7000)
    original = b"".join(writer.section(rva, 0x800) for rva in (0x1000, 0x2000, 0x200))
    debug = writer.debug(1, 5, omap=7, sections=6, original_sections=8)
    pdb = load(tmp_path, small_pdb(symbols=symbols, debug=debug, more=[omap, original]), base=0)
    assert {name: pdb.find_address(name) for name in names} == {
        "first": 0x5000,
        "removed": None,
        "moved": 0x4004,
        "last": 0x7004,
        "before": None,
    }


def test_an_absolute_symbol_has_no_address(tmp_path):
    pdb = load(tmp_path, small_pdb(symbols=writer.public("absolute", 3, 0x20) + writer.public("nowhere", 0, 0x20)))
    assert pdb.find_address("absolute") is None
    assert pdb.find_address("nowhere") is None


def test_other_records_between_the_publics_are_passed_over(tmp_path):
    symbols = writer.public("PoolTrackTable", 1, 1, kind=0x110D) + writer.public("PoolTrackTable", 1, 2)
    assert load(tmp_path, small_pdb(symbols=symbols), base=0).find_address("PoolTrackTable") == 0x1002


def test_a_type_that_is_only_announced_takes_its_size_from_the_definition(tmp_path):
    records = [
        writer.structure("_INNER", 0, 0, properties=0x80),  # 0x1000
        writer.structure("__unnamed", 0, 0, properties=0x280, unique="first"),  # 0x1001
        writer.structure("_NOWHERE", 0, 0, properties=0x80),  # 0x1002
        writer.field_list(*(writer.member(name, 0x1000 + at, at) for at, name in enumerate("abc"))),  # 0x1003
        writer.structure("_OUTER", 40, 0x1003),
        writer.structure("_INNER", 24, 0),
        writer.structure("__unnamed", 5, 0, properties=0x200, unique="second"),
        writer.structure("__unnamed", 7, 0, properties=0x200, unique="first"),
    ]
    outer = load(tmp_path, small_pdb(types=writer.types(records))).find_type("_OUTER")
    assert places(outer) == {"a": (0, 24), "b": (1, 7), "c": (2, None)}


@ends_soon
def enumeration_pdb(*parts, properties=0):
    return small_pdb(
        types=writer.types([writer.field_list(*parts), writer.enumeration("_KIND", 0x1000, 3, properties)])
    )


def test_enumerators_are_found_with_their_values(tmp_path):
    parts = [writer.enumerator(name, value) for name, value in (("Below", -2), ("One", 1), ("Large", 0x12345))]
    pdb = load(tmp_path, enumeration_pdb(*parts))
    assert pdb.find_enumeration("_KIND") == {"Below": -2, "One": 1, "Large": 0x12345}
    assert pdb.find_enumeration("_OTHER") is None and pdb.find_type("_KIND") is None
    assert load(tmp_path, enumeration_pdb(*parts, properties=0x80)).find_enumeration("_KIND") is None


@pytest.mark.parametrize(
    "parts", [[writer.member("Key", 0x22, 4)], [writer.continued(0x1000)], [writer.enumerator("Cut", 1)[:6]]]
)
def test_damaged_enumerations_are_said(tmp_path, parts):
    with pytest.raises(SymbolFileError):
        load(tmp_path, enumeration_pdb(*parts)).find_enumeration("_KIND")


def test_variables_and_types_of_a_large_pdb_are_found(tmp_path):
    data = writer.large_pdb(GUID)
    assert len(data) > 10_000_000
    pdb = load(tmp_path, data, base=0)
    assert pdb.find_address("Function59999") == 0x1000 + 16 * 59_999
    assert all(len(pdb.find_type(f"_STRUCTURE_{number}").fields) == 12 for number in range(0, 20_000, 2000))


@pytest.mark.parametrize("block", [512, 1024, 2048, 4096, 8192, 32768])
def test_every_size_of_blocks_is_read(tmp_path, block):
    assert load(tmp_path, small_pdb(block=block), base=0).find_address("PoolTrackTable") == 0x1020


def test_deleted_streams_are_empty(tmp_path):
    pdb = load(tmp_path, small_pdb(debug=writer.debug(1, 5, sections=6, omap=7), more=[None, b"x"]), base=0)
    assert pdb.find_address("PoolTrackTable") == 0x1020
    assert load(tmp_path, small_pdb(types=None)).find_type("_ROW") is None


def test_a_directory_over_several_lists_of_blocks(tmp_path):
    # 20,000 more streams: a directory of 160 blocks, whose numbers need two blocks of 512 bytes.
    pdb = load(tmp_path, small_pdb(more=[b""] * 20_000), base=0)
    assert pdb.find_address("PoolTrackTable") == 0x1020


DAMAGED = {
    "empty": (b"", "an empty file"),
    "another file": (b"MZ" + bytes(100), "the first bytes b'MZ"),
    "old": (b"Microsoft C/C++ program database 2.00\r\n\x1aJG\0\0" + bytes(100), "a PDB 2.00"),
    "short head": (small_pdb()[:40], "the first bytes"),
    "cut": (small_pdb()[:-512], "bytes, expected"),
    "block size": (small_pdb()[:32] + struct.pack("<I", 777) + small_pdb()[36:], "blocks of 777 bytes"),
    "no directory": (small_pdb()[:44] + bytes(4) + small_pdb()[48:], "a directory of 0 bytes"),
    "huge directory": (small_pdb()[:44] + b"\xff" * 4 + small_pdb()[48:], "a directory of 4,294,967,295 bytes"),
    "directory elsewhere": (small_pdb()[:52] + b"\xff" * 4 + small_pdb()[56:], "0 bytes of a stream"),
    "no version": (small_pdb(info=writer.info(GUID, 1, 19990604)), "PDB version 19990604"),
    "short info": (small_pdb(info=b"\x94\x2e\x31\x01"), "an info stream of 4 bytes"),
    "short debug": (small_pdb(debug=b"\xff" * 30), "a DBI stream of 30 bytes"),
    "negative part": (small_pdb(debug=writer.debug(1, 5)[:24] + b"\xff" * 4 + writer.debug(1, 5)[28:]), "parts of"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_line_with_what_was_found(tmp_path, name):
    data, found = DAMAGED[name]
    with pytest.raises(SymbolFileError) as refused:
        load(tmp_path, data)
    assert found in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("word", "value"), [(0, 70_000), (0, 9), (1, 0x7FFFFFFF), (2, 600)])
def test_a_directory_that_lists_less_than_it_says_is_refused(tmp_path, word, value):
    data = bytearray(small_pdb())
    at = data.index(struct.pack("<3I", 7, 0, 28)) + 4 * word  # number of streams, sizes of the first two
    data[at : at + 4] = struct.pack("<I", value)
    with pytest.raises(SymbolFileError, match=r"streams of [\d,]+ blocks, expected no more than the file's 10"):
        load(tmp_path, bytes(data))


def test_streams_that_share_a_block_with_themselves_are_refused(tmp_path):
    data = bytearray(small_pdb(info=writer.info(GUID, 1) + bytes(1000)))
    # The info stream's three blocks are the first of all streams': 3, 4, 5.
    at = data.index(struct.pack("<3I", 3, 4, 5))
    data[at : at + 12] = struct.pack("<3I", 3, 4, 3)
    with pytest.raises(SymbolFileError, match="2 different blocks for 1,028 bytes"):
        load(tmp_path, bytes(data))


TYPE_DAMAGE = {
    "short stream": b"\0" * 20,
    "count": writer.types([writer.structure("_ROW", 8, 0)])[:8] + struct.pack("<II", 0x1000, 0x1005) + bytes(40),
    "a record that ends early": writer.types([struct.pack("<HHHI", 0x1505, 0, 0, 0)]),
    "field list elsewhere": writer.types([writer.structure("_ROW", 8, 0x1055)]),
    "field list of another kind": writer.types([writer.structure("_ROW", 8, 0x1000)]),
    "list in itself": writer.types([writer.field_list(writer.continued(0x1000)), writer.structure("_ROW", 8, 0x1000)]),
    "unknown part": writer.types([writer.field_list(b"\x77\x77\0\0"), writer.structure("_ROW", 8, 0x1000)]),
    "unknown number": writer.types(
        [writer.field_list(struct.pack("<HHIH", 0x150D, 3, 0x22, 0x8010) + b"x\0"), writer.structure("_ROW", 8, 0x1000)]
    ),
    "negative offset": writer.types(
        [
            writer.field_list(struct.pack("<HHIHh", 0x150D, 3, 0x22, 0x8001, -4) + b"x\0\xf2\xf1"),
            writer.structure("_ROW", 8, 0x1000),
        ]
    ),
    "name without an end": writer.types([writer.structure("_ROW", 8, 0x1001), writer.field_list(b"\x0d\x15" * 7)]),
    "endless modifiers": writer.types(
        [
            struct.pack("<HIHH", 0x1001, 0x1000, 1, 0xF1F2),
            writer.field_list(writer.member("x", 0x1000, 0)),
            writer.structure("_ROW", 8, 0x1001),
        ]
    ),
}


@pytest.mark.parametrize("name", TYPE_DAMAGE)
def test_damaged_types_are_said_and_leave_the_addresses(tmp_path, name):
    pdb = load(tmp_path, small_pdb(types=TYPE_DAMAGE[name]), base=0)
    with pytest.raises(SymbolFileError, match="expected whole type records"):
        pdb.find_type("_ROW")
    assert pdb.find_address("PoolTrackTable") == 0x1020


def test_damaged_publics_are_said(tmp_path):
    pdb = load(tmp_path, small_pdb(symbols=writer.public("PoolTrackTable", 1, 0) + b"\xff\xff\x0e\x11"))
    with pytest.raises(SymbolFileError, match="a record outside of it at 0x20"):
        pdb.find_address("PoolTrackTable")
    with pytest.raises(SymbolFileError, match="no section headers"):
        load(tmp_path, small_pdb(debug=writer.debug(1, 5))).find_address("PoolTrackTable")


def assert_ends_well(tmp_path, data):
    said = ""
    try:
        pdb = load(tmp_path, data)
        for name in ("PoolTrackTable", "_POOL_TRACKER_TABLE", "_ROW"):
            pdb.find_address(name)
            pdb.find_type(name)
            pdb.find_enumeration(name)
        pdb.find_function(BASE + 0x1004)
    except SymbolFileError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 500


@pytest.mark.parametrize("source", ["written", "compiled"])
@ends_soon
def test_flipped_bytes_never_raise_anything_else(tmp_path, source):
    whole = small_pdb() if source == "written" else restamp(read_pdb(KERNELS[0]), GUID)
    used = [at for at in range(len(whole)) if whole[at]]
    draw = random.Random(2)
    for _ in range(2000 if source == "written" else 300):
        damaged = bytearray(whole)
        for at in draw.sample(used, draw.choice((1, 1, 3, 20))):
            damaged[at] = draw.choice((0, 0xFF, damaged[at] ^ (1 << draw.randrange(8)), draw.randrange(256)))
        assert_ends_well(tmp_path, bytes(damaged))


def test_cut_files_never_raise_anything_else(tmp_path):
    whole = small_pdb()
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        with pytest.raises(SymbolFileError):
            load(tmp_path, whole[:length])


def test_a_file_that_vanishes_after_it_was_opened(tmp_path):
    pdb = load(tmp_path, small_pdb())
    (tmp_path / "some.pdb").unlink()
    with pytest.raises(SymbolFileError, match="cannot be read"):
        pdb.find_type("_ROW")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are another matter there")
def test_a_folder_is_no_pdb(tmp_path):
    with pytest.raises(SymbolFileError, match="Is a directory"):
        load_pdb(str(tmp_path), WANTED, BASE)
