"""Functions that a driver looks up with code of its own, by the name of an allocator: machine code and its grade."""

from __future__ import annotations

import struct

import pytest

from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.places.index import ImageIndex
from pykdext.model import Confidence, Machine, PoolTag
from tests.attribution.calls.test_callees import CODE_RVA, CONSTANTS_RVA, NARROW_BASES, WIDE_BASES, System
from tests.attribution.test_lostproof import CALL, CALL_SLOT, ENTER, LEAVE, R8D, X64Code, import_section
from tests.helpers.peimages import IMPORT, PAGE

pytest.importorskip("capstone")

TEXT, STRING, OTHER_TEXT, VARIABLE = (
    CONSTANTS_RVA + 0x400,
    CONSTANTS_RVA + 0x500,
    CONSTANTS_RVA + 0x600,
    3 * PAGE + 0x40,
)
ASCII, WIDE = b"ExAllocatePoolWithTag\0", "ExAllocatePoolWithTag\0".encode("utf-16-le")
LOOKED_UP = "through a pointer that it looked up by this name"


def find(code, tag, text=ASCII, machine=Machine.X64, pointer=0):
    """``text`` at TEXT; at STRING a UNICODE_STRING of it."""
    base = (NARROW_BASES if machine is Machine.X86 else WIDE_BASES)[1]
    constants = bytearray(PAGE)
    if machine is Machine.X64:  # an imported allocator, whose name is one of a hundred that nobody asks for
        imports = import_section({"ExAllocatePoolWithTag": CONSTANTS_RVA + 0x10}, CONSTANTS_RVA)
        constants[: len(imports)] = imports
    constants[0x400 : 0x400 + len(text)] = text
    constants[0x600:0x60A] = b"KeBugSome\0"
    size = machine.pointer_size
    constants[0x500 : 0x500 + 2 * size] = struct.pack("<HH", 42, 44).ljust(size, b"\0") + (base + TEXT).to_bytes(
        size, "little"
    )
    directories = {IMPORT: (CONSTANTS_RVA, 40), 12: (CONSTANTS_RVA + 0x10, 16)} if machine is Machine.X64 else {}
    system = System(machine, code=code, constants=bytes(constants), directories=directories)
    return list(CodeAttributor(ImageIndex(system.images, [PoolTag(tag)])).evidence(PoolTag(tag)))


def add_search(code):
    """A function of the driver that searches the exports of a module: xor eax, eax; ret."""
    return code.add(b"\x33\xc0\xc3")


ARGUMENTS = b"\xb9\x40\0\0\0\xba\x80\0\0\0" + R8D  # mov ecx, 40h; mov edx, 80h; mov r8d, TAG


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        (ASCII, (b"\x33\xd2", (b"\x4c\x8d\x05", TEXT))),  # xor edx, edx; lea r8, text
        (WIDE, ((b"\x48\x8d\x0d", TEXT),)),  # lea rcx, text
        (WIDE, ((b"\x48\x8d\x0d", STRING),)),  # lea rcx, string
    ],
)
def test_what_its_own_search_returns_for_a_name_is_that_function(text, passed):
    """variable = search(..., name); elsewhere variable(pool, n, TAG)."""
    code = X64Code()
    search = add_search(code)
    code.add(ENTER, *passed, (CALL, search), (b"\x48\x89\x05", VARIABLE), LEAVE)
    code.add(ENTER, ARGUMENTS, b"Srch", (CALL_SLOT, VARIABLE), LEAVE)
    (item,) = find(code.bytes, b"Srch", text)
    assert item.confidence is Confidence.PROVEN
    assert item.detail.startswith(f"call ExAllocatePoolWithTag with tag 'Srch', {LOOKED_UP}")


def test_a_variable_that_its_own_search_fills_is_that_function():
    """search(name, &variable); elsewhere variable(pool, n, TAG)."""
    code = X64Code()
    search = add_search(code)
    code.add(ENTER, (b"\x48\x8d\x0d", TEXT), (b"\x48\x8d\x15", VARIABLE), (CALL, search), LEAVE)
    code.add(ENTER, ARGUMENTS, b"Fill", (CALL_SLOT, VARIABLE), LEAVE)
    (item,) = find(code.bytes, b"Fill")
    assert item.confidence is Confidence.PROVEN and LOOKED_UP in item.detail


def test_what_was_looked_up_is_called_at_once():
    """search(name)(pool, n, TAG)."""
    code = X64Code()
    search = add_search(code)
    code.add(ENTER, (b"\x48\x8d\x0d", TEXT), (CALL, search), ARGUMENTS, b"Once", b"\xff\xd0", LEAVE)
    (item,) = find(code.bytes, b"Once")
    assert item.confidence is Confidence.PROVEN and LOOKED_UP in item.detail


def test_the_name_of_an_import_is_no_look_up():
    """What the loader reads in the import tables: the same call with no name outside of them."""
    code = X64Code()
    search = add_search(code)
    code.add(ENTER, (b"\x48\x8d\x0d", CONSTANTS_RVA + 0x202), (CALL, search), (b"\x48\x89\x05", VARIABLE), LEAVE)
    code.add(ENTER, ARGUMENTS, b"Impo", (CALL_SLOT, VARIABLE), LEAVE)
    assert all(item.confidence is not Confidence.PROVEN for item in find(code.bytes, b"Impo", b""))


def narrow_code(*names):
    """variable = search(0, name) for each, the stack cleared only at the end; then each variable(pool, n, TAG)."""
    base = NARROW_BASES[1]
    search, code = CODE_RVA, b"\x33\xc0\xc3".ljust(16, b"\xcc")
    for number, name in enumerate(names):
        code += b"\x68" + struct.pack("<I", base + name) + b"\x6a\0"  # push name; push 0
        code += b"\xe8" + struct.pack("<i", search - (CODE_RVA + len(code) + 5))
        code += b"\xa3" + struct.pack("<I", base + VARIABLE + 4 * number)  # mov [variable], eax
    code += b"\x83\xc4" + bytes([8 * len(names)]) + b"\xc3"
    for number in range(len(names)):
        code = code.ljust(-(-len(code) // 16) * 16, b"\xcc")
        code += b"\x68Sta" + bytes([0x30 + number]) + b"\x68\x80\1\0\0\x6a\0"  # push TAG; push 180h; push 0
        code += b"\xff\x15" + struct.pack("<I", base + VARIABLE + 4 * number) + b"\xc3"
    return code


def test_a_name_that_an_earlier_call_left_on_the_stack_is_not_asked_for():
    """push name; push 0; call search; mov [a], eax; push other; push 0; call search; mov [b], eax; add esp, 16."""
    code = narrow_code(TEXT, OTHER_TEXT)
    (item,) = find(code, b"Sta0", machine=Machine.X86)
    assert item.confidence is Confidence.PROVEN and LOOKED_UP in item.detail
    assert all(item.confidence is not Confidence.PROVEN for item in find(code, b"Sta1", machine=Machine.X86))
