"""Tables of tags that are members of structures: how each processor's compilers reach an entry."""

from __future__ import annotations

import struct

import pytest

from pykdext.model import Confidence, Machine
from tests.attribution.calls.test_callees import NARROW_BASES, SLOT, VARIABLES_RVA
from tests.attribution.test_lostproof import CALL_SLOT, ENTER, LEAVE, X64Code, find
from tests.helpers.machinecode import ENTER as ARM64_ENTER
from tests.helpers.machinecode import LEAVE as ARM64_LEAVE
from tests.helpers.machinecode import RET, Arm64Code, X86Code, add_low, adrp, load_low, mov

pytest.importorskip("capstone")

LIKELY = Confidence.LIKELY
STRUCTURE = VARIABLES_RVA + 0x40
TABLE = 12
ADDRESS_RCX = b"\x48\x8d\x0d"  # lea rcx, [rip+n]

X64_WAYS = {
    "array in the index": (b"\x48\xc1\xe0\x03", (ADDRESS_RCX, STRUCTURE), b"\x44\x8b\x44\x08"),  # [rax+rcx+n]
    "sum": (b"\x48\xc1\xe0\x03", (ADDRESS_RCX, STRUCTURE), b"\x48\x01\xc1\x44\x8b\x41"),  # add rcx, rax; [rcx+n]
    "address": ((ADDRESS_RCX, STRUCTURE), b"\x48\x8d\x0c\xc1\x44\x8b\x41"),  # lea rcx, [rcx+rax*8]; [rcx+n]
    "twice indexed": ((ADDRESS_RCX, STRUCTURE), b"\x48\x8d\x0c\xc1\x44\x8b\x44\x91"),  # ...; [rcx+rdx*4+n]
}
X86_WAYS = {
    "offset": b"\xc1\xe1\x03\x8b\x81",  # shl ecx, 3; mov eax, [ecx+n]
    "scaled": b"\x8b\x04\xcd",  # mov eax, [ecx*8+n]
}
ARM64_WAYS = {
    "pair": (0x8B204D08, lambda n: 0x29400901 | (n - 4) // 4 << 15),  # add x8, x8, w0, uxtw #3; ldp w1, w2, [x8, #n-4]
    "load": (0x8B204D08, lambda n: 0xB9400102 | n // 4 << 10),  # add x8, x8, w0, uxtw #3; ldr w2, [x8, #n]
    "product": (0x52800109, 0x9BA92008, lambda n: 0xB9400102 | n // 4 << 10),  # mov w9, #8; umaddl x8, w0, w9, x8; ldr
}


def x64_code(way, place):
    code = X64Code()
    code.add(ENTER, b"\x89\xc8", *X64_WAYS[way], bytes([place]), (CALL_SLOT, SLOT), LEAVE)  # mov eax, ecx
    return code.bytes


def x86_code(way, place):
    code = X86Code()
    code.add(
        b"\x8b\x4c\x24\x04", (X86_WAYS[way], STRUCTURE + place), b"\x50\x6a\x40\x6a\x01", (b"\xff\x15", SLOT), b"\xc3"
    )
    return code.bytes


def arm64_code(way, place):
    *add, load = ARM64_WAYS[way]
    code = Arm64Code()
    code.add(
        *(ARM64_ENTER, adrp(8, STRUCTURE), add_low(8, STRUCTURE), *add, load(place), mov(0, 0x200)),
        *(adrp(8, SLOT), load_low(8, 8, SLOT), 0xD63F0100, ARM64_LEAVE, RET),  # blr x8
    )
    return code.bytes


CASES = [
    *((Machine.X64, x64_code, way) for way in X64_WAYS),
    *((Machine.X86, x86_code, way) for way in X86_WAYS),
    *((Machine.ARM64, arm64_code, way) for way in ARM64_WAYS),
]


@pytest.mark.parametrize(("machine", "make", "way"), CASES, ids=lambda case: getattr(case, "name", case))
@pytest.mark.parametrize(("place", "expected"), [(TABLE, [LIKELY]), (TABLE + 8, []), (TABLE - 8, [])])
def test_an_entry_that_is_reached_through_the_structure(machine, make, way, place, expected):
    """The structure has two members and three rows of a size and a tag; only the place of the first tag counts."""
    rows = b"".join(struct.pack("<I4s", 0x40 << n, b"Row%d" % n) for n in range(3))
    variables = bytes(0x40) + struct.pack("<II", 3, 1) + rows + bytes(16)
    found = find(make(way, place), b"Row1", machine, variables=variables)
    likely = [item for item in found if item.confidence is LIKELY]
    assert [item.confidence for item in likely] == expected
    assert all("one of 3 in a table of tags" in item.detail for item in likely)


def test_a_pointer_behind_a_tag_is_no_text():
    """x86: rows of a tag and a pointer whose first byte is a letter."""
    pointer = NARROW_BASES[1] + VARIABLES_RVA + 0x61
    rows = b"".join(b"Ptr%d" % n + struct.pack("<I", pointer) for n in range(3))
    code = X86Code()
    code.add(b"\x8b\x4c\x24\x04", (b"\x8b\x04\xcd", STRUCTURE), b"\x50\x6a\x40\x6a\x01", (b"\xff\x15", SLOT), b"\xc3")
    found = find(code.bytes, b"Ptr1", Machine.X86, variables=bytes(0x40) + rows + bytes(16))
    assert [item.confidence for item in found] == [LIKELY]
