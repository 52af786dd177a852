"""Functions that a driver looks up by name and keeps in a variable: what else may put a function there."""

from __future__ import annotations

import struct

import pytest

from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.places.index import ImageIndex
from pykdext.model import Confidence, PoolTag
from pykdext.pipeline.driverfiles import search_files
from tests.attribution.calls.test_callees import ALLOCATE, CODE_RVA, CONSTANTS_RVA, FREE, PAGE, SLOT, WIDE_BASES, System
from tests.attribution.test_lostproof import (
    CALL,
    CALL_SLOT,
    ENTER,
    IMPORT_ADDRESSES,
    LEAVE,
    R8D,
    X64Code,
    import_section,
)
from tests.helpers.peimages import CODE, CONSTANTS, IMPORT, VARIABLES, Part, build_file

pytest.importorskip("capstone")

PROVEN = Confidence.PROVEN
POINTER, STRING = 3 * PAGE + 0x40, 3 * PAGE + 0x80
LOOK_UP = SLOT + 0x10
NAME = "ExAllocatePoolWithTag".encode("utf-16-le")
STORE = b"\x48\x89\x05"  # mov [rip+n], rax
PROVISO = f"; the pointer is kept at +0x{POINTER:x}, unless other code that writes there puts another one there"


def constants():
    data = bytearray(PAGE)
    imports = import_section({"MmGetSystemRoutineAddress": LOOK_UP}, CONSTANTS_RVA)
    data[: len(imports)] = imports
    data[0x400 : 0x400 + len(NAME)] = NAME
    return bytes(data)


def variables(base, pointer=0):
    string = struct.pack("<HHIQ", len(NAME), len(NAME) + 2, 0, base + CONSTANTS_RVA + 0x400)
    return bytes(0x40) + struct.pack("<Q", pointer).ljust(0x40, b"\0") + string


def driver_code(*, writer=b"", fallback=False, wrapped=False):
    """The look-up when it starts, a function that allocates, and one more that writes to the pointer."""
    code = X64Code()
    other = code.add(b"\x31\xc0\xc3")
    keep = ((b"\x48\x8d\x0d", other), b"\x48\x85\xc0\x48\x0f\x44\xc1") if fallback else ()  # lea; test; cmove rax, rcx
    code.add(ENTER, (b"\x48\x8d\x0d", STRING), (CALL_SLOT, LOOK_UP), *keep, (STORE, POINTER), LEAVE)
    callee = (CALL_SLOT, POINTER)
    if wrapped:
        callee = (CALL, code.add(ENTER, callee, LEAVE))
    code.add(ENTER, b"\xb9\x40\0\0\0\xba\x80\0\0\0" + R8D + b"Late", callee, LEAVE)
    if writer:
        code.add((writer, POINTER), b"\xc3")
    return code.bytes


def find_in_file(path, code, pointer=0):
    base = 0x140000000
    content = build_file(
        Part(b".text", CODE_RVA, code, CODE),
        Part(b".rdata", CONSTANTS_RVA, constants(), CONSTANTS),
        Part(b".data", 3 * PAGE, variables(base, pointer), VARIABLES),
        directories={IMPORT: (CONSTANTS_RVA, 40), IMPORT_ADDRESSES: (LOOK_UP, 16)},
        base=base,
    )
    path.write_bytes(content)
    return search_files([str(path)], [PoolTag(b"Late")]).evidence[PoolTag(b"Late")]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("options", "pointer", "proviso"),
    [
        ({}, 0, False),
        ({"writer": b"\x48\x89\x0d"}, 0, True),  # mov [pointer], rcx
        ({"fallback": True}, 0, True),
        ({}, 0x140001000, True),
    ],
    ids=["only the look-up", "a writer", "a fallback", "a first value"],
)
def test_what_else_may_be_called_is_said(options, pointer, proviso, wrapped, tmp_path):
    (item,) = find_in_file(tmp_path / "made.sys", driver_code(**options, wrapped=wrapped), pointer)
    assert item.confidence is PROVEN
    assert "ExAllocatePoolWithTag" in item.detail
    assert (PROVISO in item.detail) == proviso


@pytest.mark.parametrize(
    ("pointer", "grade", "proviso"),
    [
        (WIDE_BASES[0] + ALLOCATE, PROVEN, False),
        (0, PROVEN, True),
        (0xFFFFA00012345678, PROVEN, True),  # nobody knows what is there
        (WIDE_BASES[1] + CODE_RVA, None, False),  # a function of its own, which allocates nothing
        (WIDE_BASES[0] + FREE, None, False),
    ],
    ids=["the allocator", "not yet", "elsewhere", "its own", "another one of the kernel"],
)
def test_in_memory_the_pointers_value_counts(pointer, grade, proviso):
    code = driver_code(writer=b"\x48\x89\x0d")
    directories = {IMPORT: (CONSTANTS_RVA, 40), IMPORT_ADDRESSES: (LOOK_UP, 16)}
    data = variables(WIDE_BASES[1], pointer)
    system = System(code=code, constants=constants(), variables=data, directories=directories)
    (item,) = CodeAttributor(ImageIndex(system.images, [PoolTag(b"Late")])).evidence(PoolTag(b"Late"))
    assert item.confidence is (grade or Confidence.POSSIBLE)
    assert (PROVISO in item.detail) == proviso
    assert ("ExAllocatePoolWithTag" in item.detail) == (grade is PROVEN)
