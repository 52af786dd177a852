"""Tags in 32-bit code: every encoding, written out by hand from the processor manuals."""

from __future__ import annotations

import pytest

from pykdext.attribution.places.bytesearch import ExactSearch
from pykdext.attribution.places.tagencodings import Position
from pykdext.attribution.places.x86 import X86_CODE
from pykdext.model import Confidence

LIKELY, POSSIBLE = Confidence.LIKELY, Confidence.POSSIBLE

ENCODINGS = [
    ("68 TAG", "push", Position.OTHER_ARGUMENT, LIKELY),
    ("B8 TAG", "mov eax", Position.REGISTER, POSSIBLE),
    ("B9 TAG", "mov ecx", Position.FIRST_ARGUMENT, LIKELY),
    ("BA TAG", "mov edx", Position.SECOND_ARGUMENT, LIKELY),
    ("BB TAG", "mov ebx", Position.REGISTER, LIKELY),
    ("BE TAG", "mov esi", Position.REGISTER, LIKELY),
    ("BF TAG", "mov edi", Position.REGISTER, LIKELY),
    ("41 B8 TAG", "mov eax", Position.REGISTER, POSSIBLE),  # inc ecx; mov
    ("48 B9 TAG", "mov ecx", Position.FIRST_ARGUMENT, LIKELY),  # dec eax; mov
    ("C7 C1 TAG", "mov ecx", Position.FIRST_ARGUMENT, LIKELY),
    ("C7 04 24 TAG", "[esp]", Position.FIRST_ARGUMENT, LIKELY),
    ("C7 44 24 04 TAG", "[esp+4h]", Position.OTHER_ARGUMENT, LIKELY),
    ("C7 44 24 08 TAG", "[esp+8h]", Position.OTHER_ARGUMENT, LIKELY),
    ("C7 44 24 1C TAG", "[esp+1ch]", Position.OTHER_ARGUMENT, LIKELY),
    ("C7 44 24 20 TAG", "[esp+disp8]", Position.FRAME, POSSIBLE),
    ("C7 84 24 A0 00 00 00 TAG", "[esp+disp32]", Position.FRAME, POSSIBLE),
    ("C7 45 F8 TAG", "[ebp+disp8]", Position.FRAME, POSSIBLE),
    ("C7 85 40 FF FF FF TAG", "[ebp+disp32]", Position.FRAME, POSSIBLE),
    ("C7 05 00 30 40 00 TAG", "[disp32]", Position.GLOBAL, POSSIBLE),
    ("C7 06 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),
    ("41 C7 45 F8 TAG", "[ebp+disp8]", Position.FRAME, POSSIBLE),  # inc ecx; mov
    ("C7 43 18 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),
    ("C7 44 88 18 TAG", "[reg+disp]", Position.STRUCTURE, POSSIBLE),
    ("05 TAG", "add eax", Position.REGISTER, POSSIBLE),
    ("81 C1 TAG", "add ecx", Position.REGISTER, POSSIBLE),
    ("81 CA TAG", "or edx", Position.REGISTER, POSSIBLE),
    ("81 F3 TAG", "xor ebx", Position.REGISTER, POSSIBLE),
]


@pytest.mark.parametrize("tag", [b"Pipo", b"Pip\xef", b"hhhh"])
@pytest.mark.parametrize(("text", "operand", "position", "confidence"), ENCODINGS, ids=[row[0] for row in ENCODINGS])
def test_encoding(text, operand, position, confidence, tag):
    code = b"\x90" * 9 + bytes.fromhex(text.replace("TAG", tag.hex())) + b"\x90" * 9
    ((offset, found, encoding),) = X86_CODE.iter_immediates(code)
    assert code[offset : offset + 4] == found == tag
    assert operand in encoding.form
    assert (encoding.position, encoding.confidence) == (position, confidence)


def test_no_64_bit_constants():
    assert list(X86_CODE.iter_immediates(b"\x48\xb8\x10\0\0\0Pipo\x90")) == []


def test_comparisons_are_hints():
    code = b"\x90\x3dPipo\x90\x81\xf9Pipo\x90"
    assert list(X86_CODE.iter_immediates(code)) == []
    found = list(X86_CODE.iter_exact(code, ExactSearch([b"Pipo"])))
    assert [(offset, encoding.form, encoding.is_hint) for offset, _, encoding in found] == [
        (2, "cmp eax, {tag}", True),
        (9, "cmp ecx, {tag}", True),
    ]
