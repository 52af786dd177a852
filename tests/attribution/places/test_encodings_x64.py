"""Tags in x64 code: every encoding, and the whole against what stands at each offset."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.attribution.places import search as tagsearch
from pykdext.attribution.places.bytesearch import ExactSearch
from pykdext.attribution.places.search import Piece
from pykdext.attribution.places.tagencodings import Position, is_plausible
from pykdext.attribution.places.x64 import X64_CODE
from pykdext.images.image import Section
from pykdext.model import Confidence

LIKELY, POSSIBLE = Confidence.LIKELY, Confidence.POSSIBLE
SECTION = Section(".text", 0x1000, 0x1000, True, False, True, False)

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
    ("C7 44 24 20 TAG", "[rsp+20h]", Position.OTHER_ARGUMENT, LIKELY),
    ("C7 44 24 28 TAG", "[rsp+28h]", Position.OTHER_ARGUMENT, LIKELY),
    ("C7 44 24 30 TAG", "[rsp+30h]", Position.OTHER_ARGUMENT, LIKELY),
    ("48 C7 44 24 28 TAG", "[rsp+28h]", Position.OTHER_ARGUMENT, LIKELY),
    ("C7 44 24 58 TAG", "[rsp+disp8]", Position.FRAME, POSSIBLE),
    ("C7 04 24 TAG", "[rsp]", Position.FRAME, POSSIBLE),
    ("C7 84 24 A0 00 00 00 TAG", "[rsp+disp32]", Position.FRAME, POSSIBLE),
    ("C7 45 F8 TAG", "[rbp+disp8]", Position.FRAME, POSSIBLE),
    ("C7 85 40 01 00 00 TAG", "[rbp+disp32]", Position.FRAME, POSSIBLE),
    ("C7 05 44 33 22 11 TAG", "[rip+disp32]", Position.GLOBAL, POSSIBLE),
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
    ("41 81 C8 TAG", "or r8d", Position.REGISTER, POSSIBLE),
    ("81 CA TAG", "or edx", Position.REGISTER, POSSIBLE),
    ("81 F3 TAG", "xor ebx", Position.REGISTER, POSSIBLE),
]


def assemble(text, tag):
    return bytes.fromhex(text.replace("TAG", tag.hex()))


def code_places(code):
    return {offset: encoding for offset, _, encoding in X64_CODE.iter_immediates(code)}


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
def test_windows_find_what_stands_at_each_offset(code, window_bytes):
    expected = {}
    for offset in range(len(code) - 3):
        tag = code[offset : offset + 4]
        encoding = X64_CODE._classify(code, offset) if is_plausible(tag) else None
        if encoding:
            expected[offset] = (tag, encoding)
    assert {offset: (tag, encoding) for offset, tag, encoding in X64_CODE.iter_immediates(code)} == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tagsearch, "WINDOW_BYTES", window_bytes)
        found = list(tagsearch.iter_immediates(Piece(SECTION, 0x1000, code), X64_CODE))
    assert found == [(offset, *expected[offset]) for offset in sorted(expected)]


def exact(code, *tags):
    return [(offset, tag, encoding.form) for offset, tag, encoding in X64_CODE.iter_exact(code, ExactSearch(tags))]


def test_exact_search_gives_what_the_index_does_not():
    code = assemble("41 B8 TAG", b"Pipo") + b"\x90\x90" + b"Pipo\x90" + assemble("81 F9 TAG", b"Pip\xef")
    assert exact(code, b"Pipo") == [(8, b"Pipo", "bytes {tag}"), (15, b"Pipo", "cmp ecx, {tag}")]
    assert exact(assemble("3D TAG", b"Pipo"), b"Pipo") == [(1, b"Pipo", "cmp eax, {tag}")]
    assert exact(assemble("41 81 F8 TAG", b"Pipo"), b"Pipo") == [(3, b"Pipo", "cmp r8d, {tag}")]
    assert exact(assemble("BA TAG", b"Ab\x01\x02"), b"Ab\x01\x02") == [(1, b"Ab\x01\x02", "mov edx, {tag}")]
    assert exact(b"\x90\\Device\\PipoDevice\0", b"Pipo") == []


@given(
    st.lists(st.sampled_from([b"abab", b"baba", b"aba\x01", b"\0\0a\0", b"H$Pi"]), min_size=1, unique=True),
    st.lists(st.sampled_from(b"abH$Pi\0\x01\xe1\xe2\x81"), max_size=60).map(bytes),
)
def test_exact_offsets_are_all_occurrences(tags, data):
    expected = {
        (offset, tag)
        for tag in tags
        for offset in range(len(data) - 3)
        if data[offset : offset + 3] == tag[:3] and data[offset + 3] & 0x7F == tag[3]
    }
    found = list(ExactSearch(tags).iter_offsets(data))
    assert len(found) == len(set(found))
    assert set(found) == expected
