"""The index of immediates: borders and holes, texts, hints, and the drivers whose source is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.attribution.places import index as immediates
from pykdext.attribution.places.index import MAX_PLACES, ImageIndex, ImmediateAttributor
from pykdext.images.image import read_image
from pykdext.model import Confidence, ImageCoverage, Machine, Module, PoolTag
from pykdext.work import Work
from tests.helpers.indexcoverage import coverage_of
from tests.helpers.realdrivers import fetch_windivert
from tests.helpers.segments import SegmentsTarget
from tests.images.test_image import (
    BASE,
    CODE,
    CONSTANTS,
    DRIVERS,
    INIT,
    PAGE,
    VARIABLES,
    Counting,
    make_image,
    map_file,
    needs_drivers,
    open_image,
)

PIPO = PoolTag(b"Pipo")
LIKELY, POSSIBLE = Confidence.LIKELY, Confidence.POSSIBLE


def assemble(text, tag):
    return bytes.fromhex(text.replace("TAG", tag.hex()))


def evidence_of(memory, tag=PIPO, *, named=(), **options):
    index = ImageIndex([open_image(memory, **options)], named)
    return list(ImmediateAttributor(index).evidence(tag))


@given(st.integers(-9, 9))
def test_nothing_is_lost_or_doubled_at_a_page_border(shift):
    place = 2 * PAGE + shift
    memory = bytearray(make_image((b".text", b"\x90" * 3 * PAGE, CODE)))
    memory[place - 2 : place + 4] = assemble("41 B8 TAG", b"Pipo")
    assert [item.rva for item in evidence_of(bytes(memory))] == [place]
    torn = evidence_of(bytes(memory), missing=[2 * PAGE])
    assert len(torn) == (1 if place + 4 <= 2 * PAGE else 0)
    beheaded = evidence_of(bytes(memory), missing=[PAGE])
    assert [(item.kind, item.rva) for item in beheaded] == (
        [("immediate", place)] * (place >= 2 * PAGE + 1) if shift != 0 else [("bytes", place)]
    )


def tags_in_data(*parts):
    return make_image((b".text", b"\x90" * 16, CODE), (b".data", b"".join(parts), VARIABLES))


def test_data_dwords():
    global_variable = tags_in_data(b"\0" * 8, b"Pipo", b"\0" * 8)
    (item,) = evidence_of(global_variable)
    assert (item.kind, item.confidence, item.rva, item.module) == ("data", POSSIBLE, 2 * PAGE + 8, "made.sys")
    assert "'Pipo'" in item.detail
    assert len(evidence_of(tags_in_data(b"Pipo", b"@\0\0\0"))) == 1, "a size of 40h behind it"
    assert len(evidence_of(tags_in_data(b"\xff\xff\xff\xffPip\xef"))) == 1, "PROTECTED_POOL"


@pytest.mark.parametrize(
    "parts",
    [
        (b"\0\0\0\0", b"PipoDevice\0"),
        (b"InMyPipo00\0\0",),
        (b"\0\0InPipo\0\0",),
        (b"\0\0", b"Pipo\0\0"),
        ("Pipo".encode("utf-16-le"), b"\0\0"),
    ],
    ids=["begin of a text", "amid a text", "end of a text", "not aligned", "UTF-16"],
)
def test_text_is_no_data_evidence(parts):
    assert evidence_of(tags_in_data(*parts)) == []


def test_resources_and_discarded_data_are_not_searched():
    sections = [(b".text", b"\x90", CODE), (b".rsrc", b"\0\0\0\0Pipo\0", CONSTANTS), (b".reloc", b"Pipo", 0x42000040)]
    directories = [(0, 0), (0, 0), (2 * PAGE, 9)]
    assert evidence_of(make_image(*sections, directories=directories)) == []
    assert len(evidence_of(make_image(*sections))) == 1, "without the directory .rsrc is data like any other"


def test_bytes_in_code_that_are_no_text():
    compare = b"\x90\x3d" + b"Pipo" + b"\x0f\x84\0\0\0\0"  # cmp eax, imm32
    (item,) = evidence_of(make_image((b".text", compare, CODE)))
    assert (item.kind, item.confidence, item.rva) == ("bytes", POSSIBLE, PAGE + 2)
    assert evidence_of(make_image((b".text", b"\x90\0\\Device\\PipoDevice\0", CODE))) == []


@pytest.mark.parametrize("raw", [b"Ab\x01\x02", b"\xfe\0.*", b"[?\\\x80"])
def test_tag_of_any_bytes_is_found_exactly(raw):
    tag = PoolTag(raw)
    memory = make_image(
        (b".text", b"\x90" + assemble("41 B8 TAG", raw) + b"\x90" * 5 + raw + b"\x90", CODE),
        (b".data", b"\1\2\3\4" + raw + b"\0" + raw, VARIABLES),
    )
    named_before = evidence_of(memory, tag, named=[tag])
    assert [(item.kind, item.rva) for item in named_before] == [("immediate", PAGE + 3), ("data", 2 * PAGE + 4)]
    assert evidence_of(memory, tag) == named_before, "a tag that is first asked for later"


def test_halves_of_pointers_are_no_tags():
    pointer = b"Pipo\x02\xf8\xff\xff"
    assert evidence_of(tags_in_data(b"\0" * 8, pointer)) == []
    assert len(evidence_of(tags_in_data(b"\0" * 4, pointer))) == 1, "not aligned as a pointer"
    assert len(evidence_of(tags_in_data(b"\0" * 8, b"Pipo\xff\xff\xff\xff"))) == 1
    assert len(evidence_of(tags_in_data(b"\0" * 8, b"Pipo"))) == 1


def test_the_last_row_of_a_table_with_a_text_behind_it():
    rows = (b"\x40\0\0\0Tab1", b"\0\2\0\0Tab2", b"\0\x10\0\0Tab3")
    (item,) = evidence_of(tags_in_data(*rows, b"driver: started\n\0"), PoolTag(b"Tab3"))
    assert (item.confidence, item.rva) == (POSSIBLE, 2 * PAGE + 20)
    assert evidence_of(tags_in_data(*rows[:2], b"\0\x10\0\0Word", b"driver: started\n\0"), PoolTag(b"Word")) == []
    assert evidence_of(tags_in_data(*rows, b"Tab4, text\0"), PoolTag(b"Tab4")) == [], "text before it"


@pytest.mark.parametrize("tag", [b"TagA", b"TagB", b"TagC"])
def test_tags_side_by_side(tag):
    table = tags_in_data(b"\0" * 4, b"TagATagBTagC", b"\1\0\0\0")
    assert [item.kind for item in evidence_of(table, PoolTag(tag))] == ["data"], "no text: no zero ends it"
    ended = tags_in_data(b"\0" * 4, b"TagATagBTagC", b"\0\0\0\0")
    (item,) = evidence_of(ended, PoolTag(tag))
    assert "a text, or a table" in item.detail
    assert item.confidence is POSSIBLE
    long_text = tags_in_data(b"\0" * 4, b"TagATagBTagC" * 6, b"\0\0\0\0")
    assert evidence_of(long_text, PoolTag(tag)) == []


def test_hints_are_silent_where_a_tag_is_likely():
    hints = make_image((b".text", b"\x90\x3dPipo\x90", CODE), (b".rdata", b"TagAPipo\0", CONSTANTS))
    likely = make_image((b".text", assemble("41 B8 TAG", b"Pipo"), CODE), (b".rdata", b"TagAPipo\0", CONSTANTS))
    for named in ([PIPO], []):
        assert [item.kind for item in evidence_of(hints, named=named)] == ["bytes", "data"]
        assert [item.kind for item in evidence_of(likely, named=named)] == ["immediate"]
        both = ImageIndex([open_image(hints), open_image(likely, name="other.sys")], named)
        found = list(ImmediateAttributor(both).evidence(PIPO))
        assert [(item.module, item.kind) for item in found] == [("other.sys", "immediate")]


def test_a_tag_backwards():
    memory = make_image((b".text", assemble("41 B8 TAG", b"opiP"), CODE), (b".data", b"\1\0\0\0opiP\0", VARIABLES))
    (item,) = evidence_of(memory)
    assert (item.kind, item.confidence, item.rva) == ("reversed", POSSIBLE, PAGE + 2)
    assert "backwards" in item.detail
    assert [item.kind for item in evidence_of(memory, PoolTag(b"opiP"))] == ["immediate", "data"]
    assert evidence_of(make_image((b".text", assemble("41 B8 TAG", b"abba"), CODE)), PoolTag(b"abab")) == []


def test_places_are_capped_and_the_best_kept():
    code = assemble("C7 43 18 TAG", b"Pipo") * 50 + assemble("41 B8 TAG", b"Pipo")
    items = evidence_of(make_image((b".text", code, CODE)))
    assert len(items) == MAX_PLACES
    assert items[0].detail.startswith("mov r8d, 'Pipo' (third argument")
    assert all("51 places in this module" in item.detail for item in items)


def test_limits_are_said(monkeypatch):
    memory = make_image((b".text", assemble("41 B8 TAG", b"Pipo") * 9, CODE))
    monkeypatch.setattr(immediates, "MAX_INDEXED_PLACES", 5)
    index = ImageIndex([open_image(memory), open_image(memory, name="other.sys")])
    assert coverage_of(index).modules_scanned == 1
    assert any("made.sys: 5 places look like tags" in line for line in index.warnings)
    assert any("other.sys: the images before it reached the limit" in line for line in index.warnings)


def test_coverage_counts_what_was_there():
    memory = make_image(
        (b".text", b"\x90" * 4 * PAGE, CODE), (b".data", b"\1" * 3 * PAGE, VARIABLES), (b"INIT", b"\x90" * PAGE, INIT)
    )
    half = open_image(memory, missing=[PAGE, 2 * PAGE, 5 * PAGE, 8 * PAGE])
    gone = read_image(SegmentsTarget({}), Module("win32k.sys", BASE, 4 * PAGE))
    index = ImageIndex([half, gone])
    assert coverage_of(index) == ImageCoverage(1, 2, 4 / 7)
    assert [name for name, _ in index.unscanned] == ["win32k.sys"]
    assert [line for line in index.warnings if "win32k.sys" in line] == [
        "not searched: win32k.sys: no page can be read (a session driver, or paged out)"
    ]
    assert coverage_of(ImageIndex([])) == ImageCoverage(0, 0, None)


def test_unknown_sections_only_make_possible_owners():
    memory = make_image((b".text", b"\x90" * 7 + assemble("41 B8 TAG", b"Pipo"), CODE), (b".data", b"Pipo", VARIABLES))
    items = evidence_of(memory, missing=[0])
    assert [(item.kind, item.confidence) for item in items] == [("immediate", POSSIBLE), ("data", POSSIBLE)]


def test_progress_and_one_read_of_each_page():
    memory = make_image((b".text", assemble("41 B8 TAG", b"Pipo") * 900, CODE), (b".data", b"Pipo" * 2000, VARIABLES))
    target = Counting({BASE: memory}, modules=(Module("made.sys", BASE, len(memory)),))
    calls = []
    images = [read_image(target, module) for module in target.modules()]
    index = ImageIndex(images, [PIPO], Work(lambda *call: calls.append(call)))
    assert calls == [(0, 1, "driver images (made.sys)"), (1, 1, "driver images")]
    assert coverage_of(index).resident_fraction == 1.0
    assert list(ImmediateAttributor(index).evidence(PIPO))
    assert set(target.reads.values()) == {1}


def driver_evidence(machine, name, tag):
    _, memory = map_file(DRIVERS / machine / name)
    return evidence_of(memory, PoolTag.from_text(tag), name=name, machine=Machine(machine))


THIRD_ARGUMENT = {"x64": "mov r8d, '{}' (third argument", "x86": "push '{}'", "arm64": "movk w2, '{}' (third argument"}
LOOKASIDE = {"x64": "argument 6 on the stack", "x86": "push 'Look'", "arm64": "movk w5, 'Look' (argument 6"}


@needs_drivers
@pytest.mark.parametrize("machine", ["x64", "x86", "arm64"])
@pytest.mark.parametrize(
    ("name", "tag", "kinds", "confidence", "words"),
    [
        ("pippo.sys", "Pipo", {"immediate"}, LIKELY, THIRD_ARGUMENT),
        ("pagella.sys", "Pgla", {"immediate"}, LIKELY, {"x64": "argument", "x86": "argument", "arm64": "argument"}),
        ("lookas.sys", "Look", {"immediate"}, LIKELY, LOOKASIDE),
        ("globus.sys", "Glob", {"data"}, POSSIBLE, dict.fromkeys(THIRD_ARGUMENT, "variable")),
        ("ctxreg.sys", "Ctxr", {"data"}, POSSIBLE, dict.fromkeys(THIRD_ARGUMENT, "registration table")),
        ("twinone.sys", "Dupl", {"immediate"}, LIKELY, THIRD_ARGUMENT),
        ("twintwo.sys", "Dupl", {"immediate"}, LIKELY, THIRD_ARGUMENT),
        ("holder.sys", "Hldr", {"immediate"}, LIKELY, THIRD_ARGUMENT),
    ],
)
def test_drivers_of_known_source(machine, name, tag, kinds, confidence, words):
    items = driver_evidence(machine, name, tag)
    assert {item.kind for item in items} == kinds
    assert items[0].confidence is confidence
    assert words[machine].format(tag) in items[0].detail
    if machine != "arm64" or kinds == {"data"}:
        _, memory = map_file(DRIVERS / machine / name)
        assert all(memory[item.rva :][:4] == tag.encode() for item in items)
    other = "Hldr" if tag != "Hldr" else "Pipo"
    assert driver_evidence(machine, name, other) == []


@pytest.mark.parametrize(
    ("name", "machine", "forms"),
    [
        ("WinDivert64.sys", Machine.X64, {"mov r8d, 'WDiv'", "mov edx, 'WDiv'"}),
        ("WinDivert32.sys", Machine.X86, {"push 'WDiv'"}),
    ],
)
def test_a_real_driver(name, machine, forms, tmp_path):
    files = [path for path in fetch_windivert(tmp_path, "2.1.0") if path.name == name]
    _, memory = map_file(files[0])
    items = evidence_of(memory, PoolTag(b"WDiv"), machine=machine)
    assert items[0].confidence is LIKELY
    assert forms <= {item.detail.partition(" (")[0] for item in items}
