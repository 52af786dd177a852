"""The index of immediates: every encoding, borders and holes, texts, and the drivers whose source is known."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.attribution import immediates
from pykdext.attribution.immediates import MAX_PLACES, ImageIndex, ImmediateAttributor
from pykdext.attribution.tagencodings import CODE_TABLES, Position, classify_x64, find_x64_offsets, is_plausible
from pykdext.kernel.image import read_image
from pykdext.model import Confidence, ImageCoverage, Machine, Module, PoolTag
from tests.segments import SegmentsTarget
from tests.test_image import (
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

# Instruction bytes by the processor manuals, written out by hand; TAG stands for the immediate.
ENCODINGS = [
    ("B8 TAG", "mov eax", Position.REGISTER, POSSIBLE),
    ("B9 TAG", "mov ecx", Position.FIRST_ARGUMENT, LIKELY),
    ("BA TAG", "mov edx", Position.SECOND_ARGUMENT, LIKELY),
    ("BB TAG", "mov ebx", Position.REGISTER, LIKELY),
    ("BD TAG", "mov ebp", Position.REGISTER, LIKELY),
    ("BE TAG", "mov esi", Position.REGISTER, LIKELY),
    ("BF TAG", "mov edi", Position.REGISTER, LIKELY),
    ("41 B8 TAG", "mov r8d", Position.THIRD_ARGUMENT, LIKELY),
    ("41 B9 TAG", "mov r9d", Position.FOURTH_ARGUMENT, LIKELY),
    ("41 BA TAG", "mov r10d", Position.REGISTER, POSSIBLE),
    ("41 BC TAG", "mov r12d", Position.REGISTER, LIKELY),
    ("41 BF TAG", "mov r15d", Position.REGISTER, LIKELY),
    ("C7 C2 TAG", "mov edx", Position.SECOND_ARGUMENT, LIKELY),
    ("49 C7 C0 TAG", "mov r8,", Position.THIRD_ARGUMENT, LIKELY),
    ("49 C7 C1 TAG", "mov r9,", Position.FOURTH_ARGUMENT, LIKELY),
    ("48 C7 C1 TAG", "mov rcx", Position.FIRST_ARGUMENT, LIKELY),
    ("48 B8 TAG 01 00 00 00", "mov rax", Position.REGISTER, POSSIBLE),
    ("48 B9 10 00 00 00 TAG", "mov rcx", Position.REGISTER, POSSIBLE),
    ("49 BB 10 00 00 00 TAG", "mov r11,", Position.REGISTER, POSSIBLE),
    ("C7 44 24 20 TAG", "[rsp+20h]", Position.STACK_ARGUMENT, LIKELY),
    ("C7 44 24 28 TAG", "[rsp+28h]", Position.STACK_ARGUMENT, LIKELY),
    ("C7 44 24 30 TAG", "[rsp+30h]", Position.STACK_ARGUMENT, LIKELY),
    ("48 C7 44 24 28 TAG", "[rsp+28h]", Position.STACK_ARGUMENT, LIKELY),
    ("C7 44 24 58 TAG", "[rsp+disp8]", Position.FRAME, LIKELY),
    ("C7 04 24 TAG", "[rsp]", Position.FRAME, LIKELY),
    ("C7 84 24 A0 00 00 00 TAG", "[rsp+disp32]", Position.FRAME, LIKELY),
    ("C7 45 F8 TAG", "[rbp+disp8]", Position.FRAME, LIKELY),
    ("C7 85 40 01 00 00 TAG", "[rbp+disp32]", Position.FRAME, LIKELY),
    ("C7 05 44 33 22 11 TAG", "[rip+disp32]", Position.GLOBAL, LIKELY),
    ("C7 00 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),
    ("C7 43 18 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),
    ("C7 83 18 01 00 00 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),
    ("C7 44 C8 18 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),
    ("C7 84 C8 18 01 00 00 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),
    ("41 C7 44 24 28 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),  # r12
    ("41 C7 45 28 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),  # r13
    ("05 TAG", "add eax", Position.REGISTER, POSSIBLE),
    ("41 81 C0 TAG", "add r8d", Position.REGISTER, POSSIBLE),
    ("81 C1 TAG", "add ecx", Position.REGISTER, POSSIBLE),
]


def assemble(text, tag):
    return bytes.fromhex(text.replace("TAG", tag.hex()))


def code_places(code):
    return {offset: encoding for offset in find_x64_offsets(code) if (encoding := classify_x64(code, offset))}


def evidence_of(memory, tag=PIPO, *, named=(), **options):
    index = ImageIndex([open_image(memory, **options)], named)
    return list(ImmediateAttributor(index).evidence(tag))


@pytest.mark.parametrize("tag", [b"Pipo", b"Pip\xef", b"~ !A"])
@pytest.mark.parametrize(("text", "operand", "position", "confidence"), ENCODINGS, ids=[row[0] for row in ENCODINGS])
def test_encoding(text, operand, position, confidence, tag):
    code = b"\x90" * 9 + assemble(text, tag) + b"\x90" * 9
    (offset, encoding), *others = code_places(code).items()
    assert not others
    assert code[offset : offset + 4] == tag
    assert operand in encoding.form
    assert (encoding.position, encoding.confidence) == (position, confidence)


def test_both_tags_of_a_64_bit_constant():
    assert set(code_places(b"\x90" + assemble("48 B8 TAG 50676C61", b"Pipo"))) == {3, 7}


@pytest.mark.parametrize("tag", [b"Pip\x05", b"\0\0\0\0", b"Pi\xf0o", b"Pip\xff", b"Pip\x80"])
def test_numbers_are_no_tags(tag):
    assert not is_plausible(tag)
    assert code_places(b"\x90\x41\xb8" + tag + b"\x90") == {}


INSTRUCTION_BYTES = st.sampled_from(
    bytes.fromhex("B8 B9 BA 41 48 49 C7 44 24 28 84 45 85 05 81 C0 C1 00 90 EF") + b"Pi~ "
)


@given(st.lists(INSTRUCTION_BYTES, max_size=80).map(bytes), st.integers(4, 40))
def test_index_finds_what_stands_at_each_offset(code, window_bytes):
    expected = {
        offset: encoding
        for offset in range(len(code) - 3)
        if is_plausible(code[offset : offset + 4]) and (encoding := classify_x64(code, offset))
    }
    assert code_places(code) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(immediates, "WINDOW_BYTES", window_bytes)
        found = list(immediates._iter_immediates(code, CODE_TABLES[Machine.X64]))
    assert found == sorted(expected.items(), key=lambda item: item[0])


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
        (b"MainPipo\0",),
        (b"\0\0", b"Pipo\0\0"),
        ("Pipo".encode("utf-16-le"), b"\0\0"),
    ],
    ids=["begin of a text", "end of a text", "not aligned", "UTF-16"],
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
    assert [(item.kind, item.rva) for item in named_before] == [
        ("immediate", PAGE + 3),
        ("bytes", PAGE + 12),
        ("data", 2 * PAGE + 4),
    ]
    assert evidence_of(memory, tag) == named_before, "a tag that is first asked for later"


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
    assert index.coverage.modules_scanned == 1
    assert any("made.sys: 5 places look like tags" in line for line in index.warnings)
    assert any("other.sys: the images before it reached the limit" in line for line in index.warnings)


def test_coverage_counts_what_was_there():
    memory = make_image(
        (b".text", b"\x90" * 4 * PAGE, CODE), (b".data", b"\1" * 3 * PAGE, VARIABLES), (b"INIT", b"\x90" * PAGE, INIT)
    )
    half = open_image(memory, missing=[PAGE, 2 * PAGE, 5 * PAGE, 8 * PAGE])
    gone = read_image(SegmentsTarget({}), Module("win32k.sys", BASE, 4 * PAGE))
    index = ImageIndex([half, gone])
    assert index.coverage == ImageCoverage(1, 2, 4 / 7)
    assert [name for name, _ in index.unscanned] == ["win32k.sys"]
    assert [line for line in index.warnings if "win32k.sys" in line] == [
        "not searched: win32k.sys: no page can be read (a session driver, or paged out)"
    ]
    assert ImageIndex([]).coverage == ImageCoverage(0, 0, None)


def test_unknown_sections_only_make_possible_owners():
    memory = make_image((b".text", b"\x90" * 7 + assemble("41 B8 TAG", b"Pipo"), CODE), (b".data", b"Pipo", VARIABLES))
    items = evidence_of(memory, missing=[0])
    assert [(item.kind, item.confidence) for item in items] == [("immediate", POSSIBLE), ("data", POSSIBLE)]


def test_progress_and_one_read_of_each_page():
    memory = make_image((b".text", assemble("41 B8 TAG", b"Pipo") * 900, CODE), (b".data", b"Pipo" * 2000, VARIABLES))
    target = Counting({BASE: memory}, modules=(Module("made.sys", BASE, len(memory)),))
    calls = []
    images = [read_image(target, module) for module in target.modules()]
    index = ImageIndex(images, [PIPO], lambda *call: calls.append(call))
    assert calls == [(0, 1, "made.sys"), (1, 1, "driver images")]
    assert index.coverage.resident_fraction == 1.0
    assert list(ImmediateAttributor(index).evidence(PIPO))
    assert set(target.reads.values()) == {1}


def driver_evidence(machine, name, tag):
    _, memory = map_file(DRIVERS / machine / name)
    return evidence_of(memory, PoolTag.from_text(tag), name=name, machine=Machine(machine))


@needs_drivers
@pytest.mark.parametrize(
    ("name", "tag", "kinds", "confidence", "words"),
    [
        ("pippo.sys", "Pipo", {"immediate"}, LIKELY, "mov r8d, 'Pipo' (third argument"),
        ("pagella.sys", "Pgla", {"immediate"}, LIKELY, "argument"),
        ("lookas.sys", "Look", {"immediate"}, LIKELY, "argument 6 on the stack"),
        ("globus.sys", "Glob", {"data"}, POSSIBLE, "variable"),
        ("ctxreg.sys", "Ctxr", {"data"}, POSSIBLE, "registration table"),
        ("twinone.sys", "Dupl", {"immediate"}, LIKELY, "third argument"),
        ("twintwo.sys", "Dupl", {"immediate"}, LIKELY, "third argument"),
        ("holder.sys", "Hldr", {"immediate"}, LIKELY, "third argument"),
    ],
)
def test_drivers_of_known_source(name, tag, kinds, confidence, words):
    items = driver_evidence("x64", name, tag)
    assert {item.kind for item in items} == kinds
    assert items[0].confidence is confidence
    assert words in items[0].detail
    _, memory = map_file(DRIVERS / "x64" / name)
    assert all(memory[item.rva :][:4] == tag.encode() for item in items)
    other = "Hldr" if tag != "Hldr" else "Pipo"
    assert driver_evidence("x64", name, other) == []


@needs_drivers
@pytest.mark.parametrize("machine", ["x86", "arm64"])
def test_other_machines_are_said_and_their_data_searched(machine):
    assert [item.kind for item in driver_evidence(machine, "globus.sys", "Glob")] == ["data"]
    _, memory = map_file(DRIVERS / machine / "pippo.sys")
    index = ImageIndex([open_image(memory, machine=Machine(machine))])
    assert f"instructions of {machine} images are not read" in index.warnings[0]


def test_a_real_driver():
    found = importlib.util.find_spec("pydivert")
    files = sorted(Path(found.origin).parent.rglob("WinDivert64.sys")) if found and found.origin else []
    if not files:
        pytest.skip("pydivert, whose wheel holds a real driver, is not installed")
    _, memory = map_file(files[0])
    items = evidence_of(memory, PoolTag(b"WDiv"))
    assert items[0].confidence is LIKELY
    assert {"mov r8d, 'WDiv'", "mov edx, 'WDiv'"} <= {item.detail.partition(" (")[0] for item in items}
