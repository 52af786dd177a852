"""Tables of tags that are members of structures: how each processor's compilers reach an entry."""

from __future__ import annotations

import struct

import pytest

from pykdext.model import Confidence, Machine
from tests.attribution.calls.test_callees import NARROW_BASES, SLOT, VARIABLES_RVA
from tests.attribution.test_lostproof import find
from tests.helpers.machinecode import Arm64Program, X64Program, X86Program

pytest.importorskip("capstone")

LIKELY = Confidence.LIKELY
STRUCTURE = VARIABLES_RVA + 0x40
TABLE = 12

X64_WAYS = {
    "array in the index": ("shl rax, 3", b"\x44\x8b\x44\x08"),  # mov r8d, [rax+rcx+n]
    "sum": ("shl rax, 3", "add rcx, rax", b"\x44\x8b\x41"),  # mov r8d, [rcx+n]
    "address": ("lea rcx, [rcx + 8*rax]", b"\x44\x8b\x41"),
    "twice indexed": ("lea rcx, [rcx + 8*rax]", b"\x44\x8b\x44\x91"),  # mov r8d, [rcx+rdx*4+n]
}
X86_WAYS = {
    "offset": b"\xc1\xe1\x03\x8b\x81",  # shl ecx, 3; mov eax, [ecx+n]
    "scaled": b"\x8b\x04\xcd",  # mov eax, [ecx*8+n]
}
ARM64_WAYS = {
    "pair": ("add x8, x8, w0, uxtw #3", lambda n: 0x29400901 | (n - 4) // 4 << 15),  # ldp w1, w2, [x8, #n-4]
    "load": ("add x8, x8, w0, uxtw #3", lambda n: 0xB9400102 | n // 4 << 10),  # ldr w2, [x8, #n]
    "product": ("mov w9, #8", "umaddl x8, w0, w9, x8", lambda n: 0xB9400102 | n // 4 << 10),
}


def x64_program(way, place):
    program = X64Program()
    *before, load = X64_WAYS[way]
    address = program.address("rcx", STRUCTURE)
    call = program.call_slot(SLOT)
    program.add(*program.enter, "mov eax, ecx", address, *before, load + bytes([place]), call, *program.leave)
    return program


def x86_program(way, place):
    program = X86Program()
    load = program.absolute(X86_WAYS[way], STRUCTURE + place)
    allocate = ("push eax", "push 0x40", "push 1", program.call_slot(SLOT), "ret")
    program.add("mov ecx, dword ptr [esp + 4]", load, *allocate)
    return program


def arm64_program(way, place):
    program = Arm64Program()
    *before, load = ARM64_WAYS[way]
    loaded = struct.pack("<I", load(place))
    address, call = program.address("x8", STRUCTURE), program.call_slot(SLOT)
    program.add(*program.enter, address, *before, loaded, "mov w0, #1", call, *program.leave)
    return program


CASES = [
    *((x64_program, way) for way in X64_WAYS),
    *((x86_program, way) for way in X86_WAYS),
    *((arm64_program, way) for way in ARM64_WAYS),
]


@pytest.mark.parametrize(("make", "way"), CASES, ids=lambda case: getattr(case, "__name__", case))
@pytest.mark.parametrize(("place", "expected"), [(TABLE, [LIKELY]), (TABLE + 8, []), (TABLE - 8, [])])
def test_an_entry_that_is_reached_through_the_structure(make, way, place, expected):
    """The structure has two members and three rows of a size and a tag; only the place of the first tag counts."""
    rows = b"".join(struct.pack("<I4s", 0x40 << n, b"Row%d" % n) for n in range(3))
    variables = bytes(0x40) + struct.pack("<II", 3, 1) + rows + bytes(16)
    program = make(way, place)
    found = find(program.bytes, b"Row1", program.machine, variables=variables)
    likely = [item for item in found if item.confidence is LIKELY]
    assert [item.confidence for item in likely] == expected
    assert all("one of 3 in a table of tags" in item.detail for item in likely)


def test_a_pointer_behind_tags_side_by_side_is_no_text():
    """x86: the first byte of a pointer behind the table is a letter."""
    pointer = struct.pack("<I", NARROW_BASES[1] + VARIABLES_RVA + 0x61)
    program = X86Program()
    load = program.absolute(b"\x8b\x04\x8d", STRUCTURE)  # mov eax, [ecx*4+n]
    call = ("push eax", "push 0x40", "push 1", program.call_slot(SLOT), "ret")
    program.add("mov ecx, dword ptr [esp + 4]", load, *call)
    for behind, expected in ((pointer, [LIKELY]), (b"a\0\0\0", [])):
        variables = bytes(0x40) + b"TgtATgtBTgtC" + behind + bytes(16)
        found = find(program.bytes, b"TgtB", Machine.X86, variables=variables)
        assert [item.confidence for item in found if item.confidence is LIKELY] == expected


def test_a_pointer_behind_a_tag_is_no_text():
    """x86: rows of a tag and a pointer whose first byte is a letter."""
    pointer = NARROW_BASES[1] + VARIABLES_RVA + 0x61
    rows = b"".join(b"Ptr%d" % n + struct.pack("<I", pointer) for n in range(3))
    found = find(x86_program("scaled", 0).bytes, b"Ptr1", Machine.X86, variables=bytes(0x40) + rows + bytes(16))
    assert [item.confidence for item in found] == [LIKELY]
