"""Tags that reach an allocator through members of structures and through functions that hand on a part of an object."""

from __future__ import annotations

import struct

import pytest

from pykdext.attribution.calls.functions import CodeRoom, FollowedImage
from pykdext.attribution.calls.intelnumbers import IntelMakers, IntelNumbers
from pykdext.attribution.contexts import find_context_call
from pykdext.attribution.registrations import read_context_entry
from pykdext.images.x86starts import find_x86_starts
from pykdext.model import Confidence, Machine
from tests.attribution.calls import test_callees
from tests.attribution.calls.test_callees import CODE_RVA, CONSTANTS_RVA, NARROW_BASES, SLOT, WIDE_BASES, System
from tests.attribution.test_lostproof import (
    CALL,
    CALL_SLOT,
    ENTER,
    FILLING,
    IMPORT_ADDRESSES,
    LEAVE,
    PROVEN,
    R8D,
    X64Code,
    find,
    import_section,
    slots,
)
from tests.helpers.peimages import IMPORT, PAGE

pytest.importorskip("capstone")


def is_proven(code, tag, machine=Machine.X64):
    return [item.confidence for item in find(code, tag, machine)].count(PROVEN) > 0


@pytest.fixture
def with_pools(monkeypatch):
    """The function behind the slot makes pools of NET_BUFFER_LISTs: their tag is at 8 of a structure."""
    monkeypatch.delitem(test_callees.EXPORTS, "ExAllocatePoolWithTag")
    monkeypatch.setitem(test_callees.EXPORTS, "NdisAllocateNetBufferListPool", test_callees.ALLOCATE)


@pytest.mark.parametrize(("start", "is_proof"), [(0x18, True), (0x1C, False), (0x20, False)])
def test_parameters_inside_a_larger_structure(with_pools, start, is_proof):
    """adapter->Parameters.PoolTag = TAG; NdisAllocateNetBufferListPool(adapter, &adapter->Parameters)."""
    code = X64Code()
    code.add(ENTER, b"\xc7\x41\x20Memb\x48\x8d\x51" + bytes([start]), (CALL_SLOT, SLOT), LEAVE)
    assert is_proven(code.bytes, b"Memb") is is_proof


@pytest.mark.parametrize(("offset", "is_proof"), [(8, True), (4, False)])
def test_a_function_that_fills_in_the_callers_structure(with_pools, offset, is_proof):
    """InitParameters(&parameters, TAG); NdisAllocateNetBufferListPool(adapter, &parameters)."""
    code = X64Code()
    fill = code.add(b"\x89\x51" + bytes([offset]) + b"\xc3")  # mov [rcx+8], edx; ret
    code.add(
        *(ENTER, b"\x48\x8d\x4c\x24\x20\xbaFill", (CALL, fill)),  # lea rcx, [rsp+20h]; mov edx, ...
        *(b"\x48\x8d\x54\x24\x20\x31\xc9", (CALL_SLOT, SLOT), LEAVE),  # lea rdx, [rsp+20h]; xor ecx, ecx
    )
    assert is_proven(code.bytes, b"Fill") is is_proof


@pytest.mark.parametrize(("read", "is_proof"), [(4, True), (8, False)])
def test_a_method_of_a_member_object(read, is_proof):
    """owner.Pool.Tag = TAG; owner.Take(): return Pool.Take(): ExAllocatePoolWithTag(type, n, Tag)."""
    code = X64Code()
    take = code.add(ENTER, b"\x44\x8b\x41" + bytes([read]), (CALL_SLOT, SLOT), LEAVE)  # mov r8d, [rcx+4]
    outer = code.add(ENTER, b"\x48\x83\xc1\x10", (CALL, take), LEAVE)  # add rcx, 10h
    put = b"\xc7\x44\x24\x34Nest\x48\x8d\x4c\x24\x20"  # mov dword [rsp+34h], TAG; lea rcx, [rsp+20h]
    code.add(b"\x48\x83\xec\x48", put, (CALL, outer), b"\x48\x83\xc4\x48\xc3")
    assert is_proven(code.bytes, b"Nest") is is_proof


@pytest.mark.parametrize(
    ("change", "is_proof"),
    [
        (b"\x41\x81\xc8\0\0\0\x80", True),  # or r8d, 80000000h
        (b"\x41\x0f\xba\xe8\x1f", True),  # bts r8d, 31
        (b"\x41\x81\xf0\0\0\0\x01", False),  # xor r8d, 1000000h: another tag
        (b"\x41\x81\xe0\xff\xff\xff\0", False),  # and r8d, 0ffffffh
    ],
    ids=["or", "bts", "xor", "and"],
)
def test_a_wrapper_that_protects_its_blocks(change, is_proof):
    code = X64Code()
    wrapper = code.add(ENTER, change, (CALL_SLOT, SLOT), LEAVE)
    code.add(ENTER, R8D + b"Bit1", (CALL, wrapper), LEAVE)
    assert is_proven(code.bytes, b"Bit1") is is_proof


def test_an_argument_beside_which_the_same_word_waits_in_the_frame():
    """x86: a copy of the structure that holds the tag lies where a seventh argument would."""
    base = NARROW_BASES[1]
    call = b"\xff\x15" + struct.pack("<I", base + SLOT)
    wrapper = b"\xff\x74\x24\x0c\x6a\x20\x6a\x01" + call + b"\xc2\x0c\0" + FILLING  # push [esp+0ch]; push; push; call
    wrapper = wrapper.ljust(48, b"\xcc")
    put = b"\x83\xec\x20\xb8Copy\x89\x44\x24\x18\x89\x44\x24\x08"  # sub esp; mov eax, TAG; mov [esp+18h], eax; [esp+8]
    caller = put + b"\xe8" + struct.pack("<i", -48 - len(put) - 5) + b"\x83\xc4\x14\xc3" + FILLING
    assert is_proven(wrapper + caller, b"Copy", Machine.X86)


def test_functions_without_filling_that_only_data_point_to():
    """x86, for size: one behind the return of another, and behind a jump; no arm of a switch, no exception handler."""
    base = NARROW_BASES[1] + CODE_RVA
    switch = CONSTANTS_RVA + 0x80
    code = b"\x31\xc0\xc2\x08\x00"  # 0: xor eax, eax; ret 8
    code += b"\x83\xf8\x01\x77\x0a\xff\x24\x85" + struct.pack("<I", NARROW_BASES[1] + switch)  # 5: cmp; ja; jmp [table]
    code += b"\x31\xc9\xc3\x31\xd2\xc3"  # 17: xor ecx, ecx; ret; 20: xor edx, edx; ret
    code += b"\x40\xc3\x8b\x65\xe8\xc3"  # 23: inc eax; ret; 25: a handler: mov esp, [ebp-18h]; ret
    code += b"\xb0\x01\xe9\0\0\0\0\x90\x90\x31\xf6\xc3"  # 29: mov al, 1; jmp; filling; 38: xor esi, esi; ret
    constants = bytearray(0x100)
    struct.pack_into("<5I", constants, 0x40, base + 5, base + 23, base + 29, base + 38, base + 1)
    struct.pack_into("<2I", constants, 0x80, base + 17, base + 20)
    struct.pack_into("<3I", constants, 0xA0, 0xFFFFFFFE, base + 23, base + 25)
    system = System(Machine.X86, code=code, constants=bytes(constants))
    assert find_x86_starts(system.driver) == [CODE_RVA + offset for offset in (0, 5, 23, 29, 38)]


def test_a_tag_from_which_lea_makes_another_one():
    """sbb edx, edx; and edx, 1000100h; lea r8d, [rdx + 'QA05']."""
    makers = IntelMakers([IntelNumbers.read(b"\x19\xd2\x81\xe2\x00\x01\x00\x01\x44\x8d\x82QA05\xc3")])
    assert makers.find(int.from_bytes(b"QB06", "little")) == {0}
    assert makers.find(int.from_bytes(b"QB16", "little")) == set()


@pytest.mark.parametrize(("kind", "is_found"), [(0x10, True), (8, False)])
def test_a_context_of_a_type_that_a_wrapper_gets(kind, is_found):
    """FltAllocateContext(Filter, type, ...) in a function that gets the type from its callers."""
    code = X64Code()
    wrapper = code.add(ENTER, b"\x0f\xb7\xd1", (CALL_SLOT, SLOT), LEAVE)  # movzx edx, cx
    code.add(ENTER, b"\xb9" + struct.pack("<I", kind), (CALL, wrapper), LEAVE)
    base, array = WIDE_BASES[1], CONSTANTS_RVA + 0x400
    constants = bytearray(PAGE)
    imports = import_section({"FltAllocateContext": SLOT}, CONSTANTS_RVA)
    constants[: len(imports)] = imports
    for number, (its_kind, tag) in enumerate(((0x10, b"Ctx1"), (0xFFFF, bytes(4)))):
        struct.pack_into("<HH4xQQ4s", constants, 0x400 + 0x38 * number, its_kind, 0, 0, 0x90, tag)
    struct.pack_into("<HHIQ", constants, 0x500, 0x70, 0x203, 0, base + array)
    directories = {IMPORT: (CONSTANTS_RVA, 40), IMPORT_ADDRESSES: (SLOT, 8)}
    system = System(code=code.bytes, constants=bytes(constants), directories=directories)
    entry = read_context_entry(system.driver, array + 0x18)
    assert (find_context_call(FollowedImage(system.driver, CodeRoom()), entry) is not None) is is_found


def test_calls_of_the_framework_that_take_no_tag():
    """Its other functions are known by their numbers: a word for one of them is no likely tag."""
    code = X64Code()
    code.add(ENTER, (b"\x48\x8b\x05", 3 * PAGE), b"\x41\xb9Word\xff\x90" + struct.pack("<I", 8 * 203), LEAVE)
    bind_info = test_callees.bind_info(Machine.X64, base=WIDE_BASES[1])
    found = find(code.bytes, b"Word", more_constants=bind_info)
    assert [item.confidence for item in found] == [Confidence.POSSIBLE]
    assert "goes to function 203 of the framework" in found[0].detail


@pytest.mark.parametrize(
    ("use", "is_proof"),
    [
        (b"\x41\x89\xc0", True),  # mov r8d, eax
        (b"\x0f\xba\xe8\x1f\x41\x89\xc0", False),  # bts eax, 31: of a result nothing is known then
        (b"\x3d\0\0\0\1\x44\x8b\x44\x24\x20", False),  # cmp eax, 1000000h; mov r8d, [rsp+20h]
    ],
)
def test_a_tag_that_a_function_returns(use, is_proof):
    """ExAllocatePoolWithTag(pool, n, TagOf(kind)): either of two."""
    code = X64Code()
    giver = code.add(b"\x85\xc9\xb8Giv1\x74\x05\xb8Giv2\xc3")  # test ecx, ecx; mov eax, ...; je; mov eax, ...; ret
    code.add(ENTER, (CALL, giver), use, (CALL_SLOT, SLOT), LEAVE)
    found = find(code.bytes, b"Giv2")
    assert [item.confidence for item in found].count(PROVEN) is int(is_proof)
    if is_proof:
        assert "one of 2 that it may get" in found[0].detail and f"given by +0x{giver:x}" in found[0].detail


@pytest.mark.parametrize(("place", "is_proof"), [(0x28, True), (0x2C, False)])
def test_a_tag_that_a_function_stores_where_its_caller_says(place, is_proof):
    """GetParameters(&tag); ExAllocatePoolWithTag(pool, n, tag)."""
    code = X64Code()
    giver = code.add(b"\xc7\x01Outp\xc3")  # mov dword [rcx], TAG; ret
    ask = b"\x48\x8d\x4c\x24\x28"  # lea rcx, [rsp+28h]
    code.add(ENTER, ask, (CALL, giver), b"\x44\x8b\x44\x24" + bytes([place]), (CALL_SLOT, SLOT), LEAVE)
    assert is_proven(code.bytes, b"Outp") is is_proof


@pytest.mark.parametrize(("read", "is_proof"), [(4, True), (8, False)])
def test_a_structure_that_one_function_fills_in_and_another_allocates_by(read, is_proof):
    code = X64Code()
    fill = code.add(b"\xc7\x41\x04Desc\xc3")  # mov dword [rcx+4], TAG; ret
    take = code.add(ENTER, b"\x44\x8b\x41" + bytes([read]), (CALL_SLOT, SLOT), LEAVE)  # mov r8d, [rcx+4]
    address = b"\x48\x8d\x4c\x24\x20"  # lea rcx, [rsp+20h]
    code.add(ENTER, address, (CALL, fill), address, (CALL, take), LEAVE)
    assert is_proven(code.bytes, b"Desc") is is_proof


ASK, READ = b"\x48\x8d\x4c\x24\x28", b"\x44\x8b\x44\x24\x28"  # lea rcx, [rsp+28h]; mov r8d, [rsp+28h]


@pytest.mark.parametrize(
    ("order", "proven"),
    [("first second use", ["Sec2"]), ("first use second", ["Frs1"]), ("first use", ["Frs1"]), ("use first second", [])],
)
def test_of_two_that_store_a_tag_in_the_same_place_the_last_one_before_the_call_counts(order, proven):
    """GetFirst(&tag); GetSecond(&tag); ExAllocatePoolWithTag(pool, n, tag): no block has the first one's."""
    code = X64Code()
    first, second = code.add(b"\xc7\x01Frs1\xc3"), code.add(b"\xc7\x01Sec2\xc3")  # mov dword [rcx], TAG; ret
    steps = {"first": (ASK, (CALL, first)), "second": (ASK, (CALL, second)), "use": (READ, (CALL_SLOT, SLOT))}
    code.add(ENTER, *(part for step in order.split() for part in steps[step]), LEAVE)
    assert [tag for tag in ("Frs1", "Sec2") if is_proven(code.bytes, tag.encode())] == proven


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_structure_into_which_another_function_puts_a_tag_of_its_own(is_changed):
    code = X64Code()
    fill, change = code.add(b"\xc7\x41\x04Desc\xc3"), code.add(b"\xc7\x41\x04Othr\xc3")  # mov dword [rcx+4], TAG; ret
    take = code.add(ENTER, b"\x44\x8b\x41\x04", (CALL_SLOT, SLOT), LEAVE)  # mov r8d, [rcx+4]
    changes = (ASK, (CALL, change)) if is_changed else ()
    code.add(ENTER, ASK, (CALL, fill), *changes, ASK, (CALL, take), LEAVE)
    assert is_proven(code.bytes, b"Desc") is not is_changed
    if is_changed:
        assert "unless the call at" in " ".join(item.detail for item in find(code.bytes, b"Desc"))


def grades(found):
    return {item.confidence for item in found}


TABLE = CONSTANTS_RVA + 0x200
SIZES_AND_TAGS = struct.pack("<I4sI4sI4s", 0x20, b"TbA1", 0x40, b"TbB2", 0x80, b"TbC3")


@pytest.mark.parametrize("tag", [b"TbA1", b"TbB2", b"TbC3"])
@pytest.mark.parametrize("way", ["wrapper", "giver"])
def test_a_table_whose_entries_go_through_other_functions(tag, way):
    """Init(list, Classes[n].Size, Classes[n].Tag), and ExAllocatePoolWithTag(pool, n, TagOf(n)): one of so many."""
    code = X64Code()
    entry = (b"\x48\x8d\x05", TABLE)  # lea rax, [table]
    if way == "wrapper":
        wrapper = code.add(ENTER, (CALL_SLOT, SLOT), LEAVE)
        code.add(ENTER, entry, b"\x44\x8b\x44\xc8\x04", (CALL, wrapper), LEAVE)  # mov r8d, [rax+rcx*8+4]
    else:
        giver = code.add(entry, b"\x8b\x44\xc8\x04\xc3")  # mov eax, [rax+rcx*8+4]; ret
        code.add(ENTER, (CALL, giver), b"\x41\x89\xc0", (CALL_SLOT, SLOT), LEAVE)
    constants = slots(Machine.X64).ljust(0x200, b"\0") + SIZES_AND_TAGS
    (item,) = find(code.bytes, tag, more_constants=constants)
    assert item.confidence is Confidence.LIKELY and "one of 3 in a table" in item.detail


def test_a_table_whose_entries_are_compared():
    """return Classes[n].Tag == tag."""
    code = X64Code()
    code.add((b"\x48\x8d\x05", TABLE), b"\x39\x54\xc8\x04\x0f\x94\xc0\xc3")  # cmp [rax+rcx*8+4], edx; sete al; ret
    code.add(ENTER, R8D + b"Othr", (CALL_SLOT, SLOT), LEAVE)
    constants = slots(Machine.X64).ljust(0x200, b"\0") + SIZES_AND_TAGS
    assert grades(find(code.bytes, b"TbB2", more_constants=constants)) <= {Confidence.POSSIBLE}


@pytest.mark.parametrize(("read", "grade"), [(8, Confidence.LIKELY), (0xC, Confidence.POSSIBLE)])
def test_an_object_whose_methods_stand_in_a_table(read, grade):
    """A C++ object in data: pointer to its methods, tag; one of them allocates with the tag."""
    code = X64Code()
    method = code.add(ENTER, b"\x44\x8b\x41" + bytes([read]), (CALL_SLOT, SLOT), LEAVE)  # mov r8d, [rcx+8]
    code.add((b"\x48\x8d\x0d", 3 * PAGE), b"\x48\x8b\x01\xff\x20")  # lea rcx, [object]; mov rax, [rcx]; jmp [rax]
    constants = slots(Machine.X64).ljust(0x200, b"\0") + struct.pack("<Q", WIDE_BASES[1] + method)
    variables = struct.pack("<Q4s", WIDE_BASES[1] + TABLE, b"Objc")
    assert grades(find(code.bytes, b"Objc", more_constants=constants, variables=variables)) == {grade}


def test_what_stands_first_in_one_structure_is_no_tag_of_another():
    """this->Signature = ...; elsewhere ExAllocatePoolWithTag(type, n, request->Tag): both first behind a parameter."""
    code = X64Code()
    code.add(b"\xc7\x01Sgn1\xc3")  # mov dword [rcx], ...; ret
    code.add(ENTER, b"\x44\x8b\x01", (CALL_SLOT, SLOT), LEAVE)  # mov r8d, [rcx]
    assert grades(find(code.bytes, b"Sgn1")) == {Confidence.POSSIBLE}


@pytest.mark.parametrize(
    ("rows", "is_proof"),
    [
        ("N1 V1 N2 V2", True),
        ("0 V1 N1 V2 N2", True),
        ("0 V2 N1 V1 N2", False),  # the variable stands before its name: this one gets the other function
        ("V2 N2 V1 N1", True),
        ("V1 N1 V2 N2 V2", False),  # either way
        ("N1 0 V1 N2", False),
    ],
)
def test_a_table_of_what_is_looked_up(rows, is_proof):
    """{L"ExAllocatePoolWithTag", &Allocate}, {L"ZwClose", &Close}: a loop looks them up."""
    base, look_up = WIDE_BASES[1], SLOT + 0x10
    words = {"N1": CONSTANTS_RVA + 0x400, "N2": CONSTANTS_RVA + 0x440, "V1": 3 * PAGE + 0x40, "V2": 3 * PAGE + 0x48}
    code = X64Code()
    code.add(ENTER, (CALL_SLOT, look_up), LEAVE)
    code.add(ENTER, R8D + b"Tabl", (CALL_SLOT, words["V1"]), LEAVE)
    constants = bytearray(PAGE)
    imports = import_section({"MmGetSystemRoutineAddress": look_up}, CONSTANTS_RVA)
    constants[: len(imports)] = imports
    constants[0x400:0x42C] = "ExAllocatePoolWithTag\0".encode("utf-16-le")
    constants[0x440:0x450] = "ZwClose\0".encode("utf-16-le")
    for number, word in enumerate(rows.split()):
        struct.pack_into("<Q", constants, 0x500 + 8 * number, base + words[word] if word in words else 0)
    directories = {IMPORT: (CONSTANTS_RVA, 40), IMPORT_ADDRESSES: (look_up, 8)}
    found = find(code.bytes, b"Tabl", more_constants=bytes(constants), directories=directories)
    assert (PROVEN in grades(found)) is is_proof


def test_what_stands_in_another_structure_is_no_tag_because_of_parameters(with_pools):
    """reply->Magic = ... at the place of a tag; elsewhere a pool is made with parameters that are a parameter."""
    code = X64Code()
    code.add(b"\xc7\x41\x08Mgic\xc3")  # mov dword [rcx+8], ...; ret
    code.add(ENTER, b"\x31\xc9", (CALL_SLOT, SLOT), LEAVE)  # xor ecx, ecx; call, with rdx as it came
    assert grades(find(code.bytes, b"Mgic")) == {Confidence.POSSIBLE}
