"""Tags that are stored before a driver allocates with them: machine code and its grade."""

from __future__ import annotations

import struct

import pytest

from pykdext.model import Confidence, Machine
from tests.attribution.calls.test_callees import CONSTANTS_RVA, NARROW_BASES, PAGE, SLOT, VARIABLES_RVA, WIDE_BASES
from tests.attribution.test_lostproof import CALL, CALL_SLOT, ENTER, FILLING, LEAVE, R8D, X64Code, find, slots

pytest.importorskip("capstone")

PROVEN, LIKELY, POSSIBLE = Confidence.PROVEN, Confidence.LIKELY, Confidence.POSSIBLE
VARIABLE = VARIABLES_RVA + 0x40
STORE = b"\xc7\x05"  # mov dword [rip+n], imm32: the distance counts from behind the number
LOAD_R8D = b"\x44\x8b\x05"  # mov r8d, [rip+n]
ADDRESS_RCX = b"\x48\x8d\x0d"  # lea rcx, [rip+n]


def grades(code, tag, **options):
    return [item.confidence for item in find(getattr(code, "bytes", code), tag, **options)]


def store(code, rva, tag):
    """mov dword [rva], tag; ret."""
    code.add(STORE + struct.pack("<i", rva - (code.rva + 10)) + tag + b"\xc3")


def test_a_variable_that_is_set_when_the_driver_starts():
    code = X64Code()
    store(code, VARIABLE, b"Late")
    code.add(ENTER, (LOAD_R8D, VARIABLE), (CALL_SLOT, SLOT), LEAVE)
    (item,) = find(code.bytes, b"Late")
    assert (item.confidence, item.kind) == (PROVEN, "call")
    assert f"kept at +0x{VARIABLE:x}" in item.detail and "'Late'" in item.detail


@pytest.mark.parametrize("writers", [1, 2])
def test_a_variable_that_is_set_at_two_places(writers):
    code = X64Code()
    for tag in (b"Late", b"Else")[:writers]:
        store(code, VARIABLE, tag)
    code.add(ENTER, (LOAD_R8D, VARIABLE), (CALL_SLOT, SLOT), LEAVE)
    (item,) = find(code.bytes, b"Late")
    assert item.confidence is PROVEN
    assert ("unless other code that writes there puts another one there" in item.detail) == (writers == 2)


def test_another_variable_than_the_one_that_is_read():
    code = X64Code()
    store(code, VARIABLE, b"Magi")
    code.add(ENTER, (LOAD_R8D, VARIABLE + 4), (CALL_SLOT, SLOT), LEAVE)
    assert grades(code, b"Magi") == [POSSIBLE]


def test_a_function_that_sets_the_variable_for_its_callers():
    code = X64Code()
    setter = code.add((b"\x89\x0d", VARIABLE), b"\xc3")  # mov [rip+n], ecx
    code.add(ENTER, (LOAD_R8D, VARIABLE), (CALL_SLOT, SLOT), LEAVE)
    code.add(ENTER, b"\xb9Setr", (CALL, setter), LEAVE)
    assert grades(code, b"Setr") == [PROVEN]


def object_code():
    """A method that allocates with the tag of its object, a constructor that puts it there."""
    code = X64Code()
    method = code.add(ENTER, b"\x44\x8b\x41\x0c", (CALL_SLOT, SLOT), LEAVE)  # mov r8d, [rcx+0ch]
    constructor = code.add(b"\x44\x89\x41\x0c\x89\x51\x08\xc3")  # mov [rcx+0ch], r8d; mov [rcx+8], edx
    return code, method, constructor


def test_an_object_in_data_that_is_made_at_run_time():
    code, method, constructor = object_code()
    code.add(ENTER, R8D + b"Obj1", (ADDRESS_RCX, VARIABLE), (CALL, constructor), LEAVE)
    code.add(ENTER, (ADDRESS_RCX, VARIABLE), (CALL, method), LEAVE)
    assert grades(code, b"Obj1") == [PROVEN]


def test_an_object_in_data_with_its_first_value():
    code, method, _ = object_code()
    code.add(ENTER, (ADDRESS_RCX, VARIABLE), (CALL, method), LEAVE)
    variables = bytes(0x40) + struct.pack("<QI", 0, 1) + b"Obj2"
    assert grades(code, b"Obj2", variables=variables) == [PROVEN]
    assert grades(code, b"Obj2", variables=bytes(8) + variables) == [POSSIBLE], "at another place of the object"


OBJECT = VARIABLES_RVA + 0x60


def object_in_data(tag, tag_offset=12, pointer_offset=0, user=OBJECT):
    """Code with a method, and variables with an object at OBJECT that points to it; its address goes to a list."""
    code, method, _ = object_code()
    code.add((b"\x48\x8d\x05", user), (b"\x48\x89\x05", VARIABLES_RVA), b"\xc3")  # lea rax, object; mov [n], rax
    variables = bytearray(0x140)
    variables[0x60 + tag_offset : 0x60 + tag_offset + len(tag)] = tag
    struct.pack_into("<Q", variables, 0x60 + pointer_offset, WIDE_BASES[1] + method)
    return grades(code, tag[:4], variables=bytes(variables))


@pytest.mark.parametrize("pointer_offset", [0, 0x20, 0x78])
def test_an_object_in_data_with_a_pointer_to_its_method(pointer_offset):
    """Nobody is seen to call the method, which reads the tag at 12 of its object."""
    assert object_in_data(b"Obj5", pointer_offset=pointer_offset) == [LIKELY]


@pytest.mark.parametrize(
    "other",
    [
        {"tag_offset": 8},  # another member
        {"tag_offset": 20},
        {"pointer_offset": -8},  # the pointer stands before the object
        {"pointer_offset": 0x80},  # or far behind it
        {"user": OBJECT + 8},  # nobody has the address of such an object
        {"tag": b"Obj5ects"},  # the beginning of a text
    ],
)
def test_what_is_no_object_with_a_method(other):
    assert {*object_in_data(**{"tag": b"Obj5", **other})} <= {POSSIBLE}


def test_an_object_in_data_with_a_pointer_to_what_reads_no_tag_of_it():
    code, *_ = object_code()
    other = code.add(ENTER, b"\x44\x8b\x42\x08", (CALL_SLOT, SLOT), LEAVE)  # mov r8d, [rdx+8]
    variables = bytes(0x60) + struct.pack("<QI", WIDE_BASES[1] + other, 0) + b"Obj6"
    assert grades(code, b"Obj6", variables=variables) == [POSSIBLE]


def test_an_object_that_nobody_knows_is_likely():
    """Only the place of the member is the same."""
    code, _, constructor = object_code()
    code.add(ENTER, R8D + b"Obj3", (CALL, constructor), LEAVE)
    (item,) = find(code.bytes, b"Obj3")
    assert (item.confidence, item.kind) == (LIKELY, "call")
    assert "stored at 0xc of a structure" in item.detail


def test_an_object_that_its_maker_hands_on():
    """The function that has the tag stored in it hands the same pointer to what allocates with the member."""
    code, method, constructor = object_code()
    keep, give = b"\x53\x48\x83\xec\x20\x48\x89\xcb", b"\x48\x89\xd9"  # push rbx; sub rsp, 20h; mov rbx, rcx
    leave = b"\x48\x83\xc4\x20\x5b\xc3"
    code.add(keep, R8D + b"Obj4", (CALL, constructor), give, (CALL, method), leave)
    assert grades(code, b"Obj4") == [PROVEN]


def test_a_signature_at_another_place_of_a_structure_is_no_tag():
    code, *_ = object_code()
    code.add(b"\xc7\x41\x08Sgnr\xc3")  # mov dword [rcx+8], ...
    assert grades(code, b"Sgnr") == [POSSIBLE]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_function_to_which_a_variable_points(depth):
    """mov [pointer], function; ... call [pointer] or call [[table]+8]."""
    code = X64Code()
    wrapper = code.add(ENTER, b"\x41\x89\xd0", (CALL_SLOT, SLOT), LEAVE)  # mov r8d, edx
    code.add(ENTER, b"\xbaPntr", *call_through(depth), LEAVE)
    if depth == 1:
        code.add((b"\x48\x8d\x05", wrapper), (b"\x48\x89\x05", VARIABLE), b"\xc3")  # lea rax, f; mov [rip+n], rax
        variables = b""
    else:
        code.add((b"\x48\x8d\x05", VARIABLE + 8), (b"\x48\x89\x05", VARIABLE), b"\xc3")
        variables = bytes(0x40) + struct.pack("<QQQ", 0, 0, WIDE_BASES[1] + wrapper)
    (item,) = find(code.bytes, b"Pntr", variables=variables)
    assert item.confidence is PROVEN
    assert "through a pointer that is set at run time" in item.detail


def call_through(depth):
    if depth == 1:
        return ((b"\xff\x15", VARIABLE),)
    return ((b"\x48\x8b\x05", VARIABLE), b"\xff\x50\x08")  # mov rax, [rip+n]; call [rax+8]


@pytest.mark.parametrize(("displacement", "expected"), [(12, [LIKELY]), (16, []), (4, [])])
def test_a_table_in_a_structure_whose_address_code_has(displacement, expected):
    """lea rax, [structure]; mov r8d, [rax+rcx*4+12]: the table begins at 12 of it."""
    code = X64Code()
    load = b"\x44\x8b\x44\x88" + bytes([displacement])
    code.add(ENTER, (b"\x48\x8d\x05", VARIABLE), load, (CALL_SLOT, SLOT), LEAVE)
    variables = bytes(0x40) + struct.pack("<QI", 3, 1) + b"Mlt0Mlt1Mlt2" + bytes(16)
    found = find(code.bytes, b"Mlt1", variables=variables)
    assert [item.confidence for item in found] == expected
    assert all("one of 3 in a table of tags" in item.detail for item in found)


def test_a_pointer_to_what_takes_no_tag_proves_nothing():
    code = X64Code()
    other = code.add(b"\x31\xc0\xc3")
    code.add(ENTER, b"\xbaNone", *call_through(1), LEAVE)
    code.add((b"\x48\x8d\x05", other), (b"\x48\x89\x05", VARIABLE), b"\xc3")
    assert PROVEN not in grades(code, b"None")


@pytest.mark.parametrize("tag", [b"Stk0", b"Stk1", b"Stk2"])
def test_a_table_in_the_frame(tag):
    """mov dword [rsp+20h+4n], TAGn ... mov r8d, [rsp+rcx*4+20h]."""
    stores = b"".join(b"\xc7\x44\x24" + bytes([0x20 + 4 * n]) + b"Stk%d" % n for n in range(3))
    code = X64Code()
    code.add(b"\x48\x83\xec\x38", stores, b"\x44\x8b\x44\x8c\x20", (CALL_SLOT, SLOT), b"\x48\x83\xc4\x38\xc3")
    (item,) = find(code.bytes, tag)
    assert item.confidence is PROVEN
    assert "one of 3 that it may get" in item.detail
    assert grades(code, b"Stk3") == []


@pytest.mark.parametrize(("is_handed", "expected"), [(False, [LIKELY]), (True, [])])
def test_tags_side_by_side_that_code_indexes(is_handed, expected):
    """lea rdx, table; mov r8d, [rdx+rcx*4]. What is handed to a call, too, is a text."""
    table = CONSTANTS_RVA + 0x200
    code = X64Code()
    other = code.add(b"\x31\xc0\xc3")
    code.add(
        b"\x53" + ENTER[:3] + b"\x20\x89\xcb",  # push rbx; sub rsp, 20h; mov ebx, ecx
        *(((ADDRESS_RCX, table), (CALL, other)) if is_handed else ()),
        (b"\x48\x8d\x15", table),
        b"\x44\x8b\x04\x9a",
        (CALL_SLOT, SLOT),
        b"\x48\x83\xc4\x20\x5b\xc3",
    )
    constants = slots(Machine.X64).ljust(0x200, b"\0") + b"TagATagBTagC\0\0\0\0"
    assert grades(code, b"TagB", more_constants=constants) == expected


def test_an_argument_in_a_register_that_the_linker_chose():
    """x86: mov esi, TAG; call f, and f pushes esi."""
    wrapper = b"\x56\x6a\x40\x6a\x01\xff\x15" + struct.pack("<I", NARROW_BASES[1] + SLOT) + b"\xc3"
    padded = wrapper.ljust(32, b"\xcc")
    caller = b"\x56\xbeRegs\xe8" + struct.pack("<i", -(len(padded) + 11)) + b"\x5e\xc3"
    found = find(padded + caller + FILLING, b"Regs", Machine.X86)
    assert [item.confidence for item in found] == [PROVEN]


def x86_importer():
    """What lies in the constants of an x86 image that imports ExAllocatePoolWithTag, and the code that calls it."""
    constants = bytearray(0x200)
    struct.pack_into("<I8xII", constants, 0, 0x2080, 0x2060, SLOT)
    struct.pack_into("<I", constants, 0x80, 0x2040)
    constants[0x40:0x57] = b"\1\0ExAllocatePoolWithTag"
    constants[0x60:0x6C] = b"ntoskrnl.exe"
    struct.pack_into("<I", constants, SLOT - 2 * PAGE, 0x2040)
    call = b"\x6a\x20\x6a\x00\xff\x15" + struct.pack("<I", NARROW_BASES[1] + SLOT)
    options = {"more_constants": bytes(constants), "directories": {1: (PAGE * 2, 40), 12: (SLOT, 4)}}
    return call, options


@pytest.mark.parametrize(("place", "expected"), [(VARIABLE, PROVEN), (VARIABLE + 4, LIKELY)])
def test_an_object_that_a_variable_keeps(place, expected):
    """x86: mov [eax+4], tag of a block that was just allocated; mov [variable], eax; elsewhere push [[variable]+4].

    Of another variable it is not known that the object is the same.
    """
    base = NARROW_BASES[1]
    call, options = x86_importer()
    maker = b"\x68Own1" + call + b"\xc7\x40\x04Kept\xa3" + struct.pack("<I", base + VARIABLE) + b"\xc3"
    user = b"\xa1" + struct.pack("<I", base + place) + b"\xff\x70\x04" + call + b"\xc3"
    assert grades(maker.ljust(48, b"\xcc") + user + FILLING, b"Kept", machine=Machine.X86, **options) == [expected]


def test_a_signature_in_a_block_that_was_just_allocated_is_no_tag():
    """x86: mov [eax+4], signature of a block that was just allocated; elsewhere push [object+4].

    It stands where a method takes the tag of its object from, but the block is another structure.
    """
    call, options = x86_importer()
    maker = b"\x68Blck" + call + b"\xc7\x40\x04Sign\xc3"
    user = b"\x8b\x44\x24\x04\xff\x70\x04" + call + b"\xc2\x04\x00"  # mov eax, [esp+4]; push [eax+4]
    code = maker.ljust(48, b"\xcc") + user + FILLING
    assert grades(code, b"Sign", machine=Machine.X86, **options) == [POSSIBLE]
    assert grades(code, b"Blck", machine=Machine.X86, **options) == [PROVEN]
