"""Tags in ARM64 code: halves by every kind of pair. Words are built by the Arm manual's fields, not by the reader's."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.attribution.places import search as tagsearch
from pykdext.attribution.places.arm64 import ARM64_CODE
from pykdext.attribution.places.bytesearch import ExactSearch
from pykdext.attribution.places.search import Piece
from pykdext.attribution.places.tagencodings import Position
from pykdext.images.image import Section
from pykdext.model import Confidence

LIKELY, POSSIBLE = Confidence.LIKELY, Confidence.POSSIBLE
SECTION = Section(".text", 0x1000, 0x1000, True, False, True, False)
NOP = 0xD503201F


def movz(register, half, shift=0, wide=0):
    return int(f"{wide}10100101{shift:02b}{half:016b}{register:05b}", 2)


def movk(register, half, shift=0, wide=0):
    return int(f"{wide}11100101{shift:02b}{half:016b}{register:05b}", 2)


def store(register, base, slot):
    return int(f"1011100100{slot:012b}{base:05b}{register:05b}", 2)


def code_of(*words):
    return struct.pack(f"<{len(words)}I", *words)


def halves(tag):
    return struct.unpack("<HH", tag)


LOW, HIGH = halves(b"Pipo")


def places(code):
    return [(offset, tag, encoding) for offset, tag, encoding in ARM64_CODE.iter_immediates(code)]


def test_literal_words_of_a_compiler():
    # clang for aarch64-windows: mov w2, #0x6950; movk w2, #0x6f70, lsl #16
    code = bytes.fromhex("022a8d52 012e8052 02eead72")
    ((offset, tag, encoding),) = places(code)
    assert (offset, tag, encoding.form, encoding.position) == (
        8,
        b"Pipo",
        "movz, movk w2, {tag}",
        Position.THIRD_ARGUMENT,
    )


@pytest.mark.parametrize("tag", [b"Pipo", b"Pip\xef", b"~ !A", b"    "])
@pytest.mark.parametrize("apart", [0, 1, 11, 23])
@pytest.mark.parametrize("reverse", [False, True])
def test_pairs(tag, apart, reverse):
    low, high = halves(tag)
    first, last = (movz(2, high, 1), movk(2, low)) if reverse else (movz(2, low), movk(2, high, 1))
    code = code_of(NOP, first, *[movz(3, 7)] * apart, last, NOP)
    assert [(offset, found) for offset, found, _ in places(code)] == [(8 + 4 * apart, tag)]


@pytest.mark.parametrize(
    ("register", "position", "confidence"),
    [
        (0, Position.FIRST_ARGUMENT, LIKELY),
        (1, Position.SECOND_ARGUMENT, LIKELY),
        (2, Position.THIRD_ARGUMENT, LIKELY),
        (3, Position.FOURTH_ARGUMENT, LIKELY),
        (5, Position.OTHER_ARGUMENT, LIKELY),
        (6, Position.OTHER_ARGUMENT, LIKELY),
        (8, Position.REGISTER, POSSIBLE),
        (19, Position.REGISTER, LIKELY),
        (28, Position.REGISTER, LIKELY),
    ],
)
def test_registers(register, position, confidence):
    ((_, _, encoding),) = places(code_of(movz(register, LOW), movk(register, HIGH, 1)))
    assert (encoding.position, encoding.confidence) == (position, confidence)
    assert f"w{register}," in encoding.form


@pytest.mark.parametrize("base", [29, 31])
def test_store_in_the_frame(base):
    pair = movz(8, LOW), movk(8, HIGH, 1)
    ((_, _, encoding),) = places(code_of(*pair, NOP, store(8, base, 4)))
    assert (encoding.position, encoding.confidence) == (Position.FRAME, POSSIBLE)
    ((_, _, encoding),) = places(code_of(*pair, store(9, base, 4), store(8, 20, 4)))
    assert encoding.position is Position.REGISTER


def test_both_tags_of_a_64_bit_constant():
    other_low, other_high = halves(b"Glob")
    code = code_of(movz(9, LOW, 0, 1), movk(9, HIGH, 1, 1), movk(9, other_low, 2, 1), movk(9, other_high, 3, 1))
    assert [(offset, tag) for offset, tag, _ in places(code)] == [(4, b"Pipo"), (12, b"Glob")]
    assert {encoding.confidence for _, _, encoding in places(code)} == {POSSIBLE}


@pytest.mark.parametrize(
    "words",
    [
        (movz(2, LOW), movk(3, HIGH, 1)),
        (movz(2, LOW), movz(2, 7, 1), movk(2, HIGH, 1)),
        (movz(2, LOW, 0, 1), movk(2, HIGH, 1)),
        (movz(2, LOW), *[NOP] * 24, movk(2, HIGH, 1)),
        (movz(2, 7), movk(2, HIGH, 1)),
        (movz(2, LOW), movz(2, HIGH, 1)),
        (movk(2, HIGH, 1),),
    ],
    ids=["other register", "cleared", "other size", "too far", "a number", "two movz", "alone"],
)
def test_what_is_no_tag(words):
    assert places(code_of(*words)) == []


def test_only_aligned_words_are_instructions():
    code = code_of(movz(2, LOW), movk(2, HIGH, 1))
    assert places(b"\0\0" + code + b"\0\0") == []
    section = Piece(SECTION, 0x1002, b"\0\0" + code)
    assert [offset for offset, _, _ in tagsearch.iter_immediates(section, ARM64_CODE)] == [6]


@given(st.integers(0, 40), st.integers(0, 24), st.sampled_from([4, 8, 32, 64]))
def test_nothing_is_lost_or_doubled_between_windows(before, apart, window_bytes):
    code = code_of(*[NOP] * before, movz(2, LOW), *[NOP] * apart, movk(2, HIGH, 1), *[NOP] * 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tagsearch, "WINDOW_BYTES", window_bytes)
        found = list(tagsearch.iter_immediates(Piece(SECTION, 0x1000, code), ARM64_CODE))
    assert [offset for offset, _, _ in found] == ([4 * (before + apart + 1)] if apart < 24 else [])


def test_exact_search():
    number = b"Ab\x01\x02"
    low, high = halves(number)
    code = code_of(movz(1, low), movk(1, high, 1)) + b"Pipo" + b"\0Pipo\0\0\0" + number
    found = ARM64_CODE.iter_exact(code, ExactSearch([b"Pipo", number]))
    assert sorted((offset, tag, encoding.kind) for offset, tag, encoding in found) == [
        (4, number, "immediate"),
        (8, b"Pipo", "bytes"),
        (20, number, "bytes"),
    ]
