"""Idioms of real drivers that proof has lost before, and words that only look like tags: machine code and its grade."""

from __future__ import annotations

import struct

import pytest

from dumps.drivers import build
from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.owners import register_attributor
from pykdext.attribution.places.index import ImageIndex
from pykdext.images.functionstarts import find_arm64_call_targets, find_arm64_starts
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.model import Confidence, Evidence, EvidenceKind, Machine, Module, PoolTag
from pykdext.pipeline.driverfiles import search_files
from tests.attribution.calls.test_callees import (
    ALLOCATE,
    CODE_RVA,
    CONSTANTS_RVA,
    FREE,
    NARROW_BASES,
    OTHER_SLOT,
    SLOT,
    WIDE_BASES,
    System,
    export_section,
    pointer_at,
)
from tests.helpers.peimages import (
    CODE,
    CONSTANTS,
    EXPORT,
    IMPORT,
    PAGE,
    VARIABLES,
    X64,
    X86,
    Part,
    build_file,
    build_memory,
)
from tests.helpers.segments import SegmentsTarget

pytest.importorskip("capstone")

PROVEN, LIKELY, POSSIBLE = Confidence.PROVEN, Confidence.LIKELY, Confidence.POSSIBLE
FILLING = b"\xcc" * 16


def slots(machine):
    """Live pointers to the allocator and, behind it, to the function that frees."""
    kernel = NARROW_BASES[0] if machine is Machine.X86 else WIDE_BASES[0]
    first = pointer_at(SLOT, kernel + ALLOCATE, machine.pointer_size).ljust(OTHER_SLOT - 2 * PAGE, b"\0")
    return first + (kernel + FREE).to_bytes(machine.pointer_size, "little")


def find(code, tag, machine=Machine.X64, *, more_constants=b"", **options):
    """``more_constants``: the constants instead, with the pointers at their place."""
    system = System(machine, code=code, constants=more_constants or slots(machine), **options)
    return list(CodeAttributor(ImageIndex(system.images, [PoolTag(tag)])).evidence(PoolTag(tag)))


class X64Code:
    """Functions one behind another, each at a multiple of 16."""

    def __init__(self):
        self.bytes = b""

    @property
    def rva(self):
        return CODE_RVA + len(self.bytes)

    def add(self, *parts):
        """``bytes`` as they are; ``(opcode, rva)``: an instruction that ends with the distance to ``rva``."""
        start = self.rva
        for part in parts:
            self.bytes += part if isinstance(part, bytes) else self._relative(*part)
        self.bytes += FILLING
        self.bytes += b"\xcc" * (-len(self.bytes) % 16)
        return start

    def _relative(self, opcode, rva):
        return opcode + struct.pack("<i", rva - (self.rva + len(opcode) + 4))


CALL_SLOT, CALL = b"\xff\x15", b"\xe8"
ENTER, LEAVE = b"\x48\x83\xec\x28", b"\x48\x83\xc4\x28\xc3"  # sub rsp, 28h ... add rsp, 28h; ret
R8D = b"\x41\xb8"


def test_a_tag_that_a_register_still_holds_is_pushed_all_the_same():
    """x86: mov ecx, TAG; ...; push line; push ecx; push size; push pool; call W, a wrapper by the stack alone."""
    pool = bytes.fromhex("6a80 51 6880010000 6a00")  # push line; push ecx; push 180h; push 0
    wrapper = b"\x55\x8b\xec\xff\x75\x10\xff\x75\x0c\xff\x75\x08\xff\x15"
    wrapper += struct.pack("<I", NARROW_BASES[1] + SLOT) + b"\x5d\xc2\x10\0"
    caller = b"\xb9Twic" + pool
    code = caller + b"\xe8" + struct.pack("<i", 0x40 - len(caller) - 5) + b"\xc3"
    code = code.ljust(0x40, b"\xcc") + wrapper
    (item,) = find(code, b"Twic", Machine.X86)
    assert item.confidence is PROVEN
    assert item.detail.startswith("call +0x1040, which hands tag 'Twic' to ExAllocatePoolWithTag")


@pytest.mark.parametrize("wrappers", [3, 6])
def test_wrappers_many_deep_are_followed(wrappers):
    code = X64Code()
    callee = code.add(ENTER, (CALL_SLOT, SLOT), LEAVE)
    for _ in range(wrappers - 1):
        callee = code.add(ENTER, (CALL, callee), LEAVE)
    code.add(ENTER, R8D + b"Dep1", (CALL, callee), LEAVE)
    (item,) = find(code.bytes, b"Dep1")
    assert item.confidence is PROVEN
    assert item.detail.count("+0x") >= wrappers


def test_of_wrappers_that_are_too_deep_nothing_is_said():
    code = X64Code()
    callee = code.add(ENTER, (CALL_SLOT, SLOT), LEAVE)
    for _ in range(6):
        callee = code.add(ENTER, (CALL, callee), LEAVE)
    code.add(ENTER, R8D + b"Dep9", (CALL, callee), LEAVE)
    (item,) = find(code.bytes, b"Dep9")
    assert item.confidence is LIKELY
    assert "no tag" not in item.detail and "no call" not in item.detail


@pytest.mark.parametrize(
    ("callee", "grade"),
    [
        (b"\xc7\x01Chg2\xc3", LIKELY),  # mov dword [rcx], 'Chg2'; ret
        (b"\x89\x11\xc3", LIKELY),  # mov [rcx], edx; ret
        (b"\x8b\x05\x00\x10\x00\x00\x89\x01\xc3", LIKELY),  # mov eax, [rip+1000h]; mov [rcx], eax; ret
        (b"\x89\x51\x04\xc3", PROVEN),  # mov [rcx+4], edx; ret
        (b"\x8b\x01\xc3", PROVEN),  # mov eax, [rcx]; ret
    ],
    ids=["number", "parameter", "variable", "neighbour", "reads"],
)
def test_a_tag_whose_address_a_function_got_may_be_another(callee, grade):
    """ULONG tag = 'Chg1'; SetTag(&tag); ExAllocatePoolWithTag(..., tag): proven if SetTag leaves it alone."""
    code = X64Code()
    setter = code.add(callee)
    put, take = b"\xc7\x44\x24\x20Chg1\x48\x8d\x4c\x24\x20", b"\x44\x8b\x44\x24\x20"  # [rsp+20h]; lea rcx; mov r8d
    code.add(ENTER, put, (CALL, setter), take, (CALL_SLOT, SLOT), LEAVE)
    (item,) = find(code.bytes, b"Chg1")
    assert (item.confidence, item.kind) == (grade, "call")
    assert ("which gets its address" in item.detail) == (grade is LIKELY)


def test_a_kind_of_device_that_goes_through_two_functions_is_no_tag():
    """mov ecx, 'Vol'; call create, which hands it on to create_secure: that compares it, and hands it to nobody."""
    code = X64Code()
    secure = code.add(b"\x31\xc0\x81\xf9Mup\0\x0f\x94\xc0\xc3")
    create = code.add(ENTER, (CALL, secure), LEAVE)
    code.add(ENTER, b"\xb9Vol\0", (CALL, create), LEAVE)
    (item,) = find(code.bytes, b"Vol\0")
    assert item.confidence is POSSIBLE
    code.add(b"\x4c\x89\x01\xff\xe1")  # nothing is said of a function that jumps to what it was called with
    unknown = code.add(ENTER, b"\xff\xd2", LEAVE)  # call rdx
    code.add(ENTER, b"\xb9Unkn", (CALL, unknown), LEAVE)
    assert [item.confidence for item in find(code.bytes, b"Unkn")] == [LIKELY]


def test_text_among_x86_code_is_no_push():
    """The 'h' of a text has the byte of push imm32."""
    code = b"\xb8\x05\0\0\0\xc3PsGetThreadId\0\0Wait for thread \0" + FILLING
    for word in (b"read", b"Thre"):
        assert find(code, word, Machine.X86) == [], "what can be no tag is not worth reading"
    pushed = b"\x68Pipo\x6a\x20\x6a\x00\xff\x15" + struct.pack("<I", NARROW_BASES[1] + SLOT) + b"\xc3"
    (item,) = find(pushed + FILLING, b"Pipo", Machine.X86)
    assert item.confidence is PROVEN


def test_one_removal_for_several_calls_of_the_run_time():
    """call memset; call memset; add esp, 18h: what is pushed behind it is still the allocator's."""
    base = NARROW_BASES[1]
    directories = {1: (PAGE * 2, 40), 12: (SLOT, 8)}
    constants = bytearray(0x200)
    struct.pack_into("<I8xII", constants, 0, 0x2080, 0x2060, SLOT)
    struct.pack_into("<II", constants, 0x80, 0x2040, 0x20A0)
    constants[0x40:0x57] = b"\1\0ExAllocatePoolWithTag"
    constants[0xA0:0xA9] = b"\1\0memset\0"
    constants[0x60:0x6C] = b"ntoskrnl.exe"
    struct.pack_into("<II", constants, SLOT - 2 * PAGE, 0x2040, 0x20A0)
    pointer = struct.pack("<I", base + SLOT)
    memset = b"\x6a\x10\x6a\x00\x57\xff\x15" + struct.pack("<I", base + SLOT + 4)  # push 10h; push 0; push edi; call
    code = memset + memset + b"\x83\xc4\x18\x68Pipo\x83\xc7\x0c\x57\x6a\x01\xff\x15" + pointer + b"\xc3"
    system = System(Machine.X86, code=code + FILLING, constants=bytes(constants), directories=directories)
    (item,) = CodeAttributor(ImageIndex(system.images, [PoolTag(b"Pipo")])).evidence(PoolTag(b"Pipo"))
    assert item.confidence is PROVEN


@pytest.mark.parametrize("inner", [b"RtlLengthSid", b"NobodyKnowsIt"])
def test_a_call_whose_result_is_an_argument_beside_the_tag(inner):
    """push tag; push 5; call RtlLengthSid; push eax; push 1; call ExAllocatePoolWithTag: the inner call removes one.

    What it removes stands in a table, or follows from what the outer call needs.
    """
    base = NARROW_BASES[1]
    directories = {1: (PAGE * 2, 40), 12: (SLOT, 8)}
    constants = bytearray(0x200)
    struct.pack_into("<I8xII", constants, 0, 0x2080, 0x2060, SLOT)
    struct.pack_into("<II", constants, 0x80, 0x2040, 0x20A0)
    constants[0x40:0x57] = b"\1\0ExAllocatePoolWithTag"
    constants[0xA0 : 0xA3 + len(inner)] = b"\1\0" + inner + b"\0"
    constants[0x60:0x6C] = b"ntoskrnl.exe"
    struct.pack_into("<II", constants, SLOT - 2 * PAGE, 0x2040, 0x20A0)
    call, other = (b"\xff\x15" + struct.pack("<I", base + SLOT + 4 * number) for number in range(2))
    code = b"\x56\x68Pipo\x6a\x05" + other + b"\x50\x6a\x01" + call + b"\x5e\xc3"
    system = System(Machine.X86, code=code + FILLING, constants=bytes(constants), directories=directories)
    (item,) = CodeAttributor(ImageIndex(system.images, [PoolTag(b"Pipo")])).evidence(PoolTag(b"Pipo"))
    assert item.confidence is PROVEN


@pytest.mark.parametrize("size", [0x5C, 0x40])
def test_the_check_of_control_flow_guard_leaves_what_was_pushed_on_x86(size):
    """push tag; ... mov ecx, esi; call [check]; call esi. Of a shorter load configuration the pointer is not known."""
    base, check = NARROW_BASES[1], 2 * PAGE + 0x80
    constants = bytearray(slots(Machine.X86).ljust(0x200, b"\0"))
    struct.pack_into("<I", constants, 0x80, NARROW_BASES[0] + 0x123)
    struct.pack_into("<I68xI", constants, 0x180, size, base + check)
    code = b"\x68Pipo\x6a\x20\x6a\x01\x8b\x35" + struct.pack("<I", base + SLOT) + b"\x8b\xce\xff\x15"
    code += struct.pack("<I", base + check) + b"\xff\xd6\xc3"
    directories = {10: (2 * PAGE + 0x180, 0x40)}
    system = System(Machine.X86, code=code + FILLING, constants=bytes(constants), directories=directories)
    (item,) = CodeAttributor(ImageIndex(system.images, [PoolTag(b"Pipo")])).evidence(PoolTag(b"Pipo"))
    assert item.confidence is (PROVEN if size > 0x48 else LIKELY)


def test_a_name_of_an_import_among_the_code_of_x86_is_no_push():
    """INIT of old kits has code and import tables: what is taken for a function ends at once."""
    code = b"\xb8\x05\0\0\0\xc3" + FILLING + b"\x55\x8b\xec\xff\xff\x12\x01KeBugCheckEx\0" + FILLING
    assert LIKELY not in [item.confidence for item in find(code, b"eckE", Machine.X86)]
    code = code.replace(b"KeBugCheckEx", b"RtlLengthSecurityDescriptor")
    assert LIKELY not in [item.confidence for item in find(code, b"Secu", Machine.X86)]
    code = b"\x55\x8b\xec\xff\xff\x90SVWhPipoWj\0\x90" + FILLING  # not decoded either, but too short for a text
    assert [item.confidence for item in find(code, b"Pipo", Machine.X86)] == [LIKELY]


def words(*numbers):
    return struct.pack(f"<{len(numbers)}I", *numbers)


RET, NOP = 0xD65F03C0, 0xD503201F


def test_a_tag_in_an_arm64_literal_pool_is_followed_from_the_load():
    """The pool lies behind another function: ldr w2, pool; adrp x8; ldr x8, [x8, slot]; blr x8."""
    pages = (SLOT >> 12) - (CODE_RVA >> 12)
    adrp = 0x90000000 | (pages & 3) << 29 | pages >> 2 << 5 | 8
    load = 0xF9400000 | (SLOT & 0xFFF) // 8 << 10 | 8 << 5 | 8
    first = [0xA9BF7BFD, 0, 0x52800020, 0x52800401, adrp, load, 0xD63F0100, 0xA8C17BFD, RET]  # stp ... blr x8, ldp, ret
    other = [0x52800000, RET]
    pool_index = len(first) + len(other)
    first[1] = 0x18000000 | (pool_index - 1) << 5 | 2
    code = words(*first, *other) + b"Litr" + words(RET)
    found = find(code, b"Litr", Machine.ARM64)
    assert [item.confidence for item in found if item.kind == "call"] == [PROVEN]


def test_a_constant_among_arm64_code_is_told_where_an_instruction_reads_it():
    load = 0x18000000 | 2 << 5 | 2  # ldr w2, the word behind the return
    (item,) = find(words(load, RET) + b"Litr" + words(RET), b"Litr", Machine.ARM64)
    assert item.confidence is POSSIBLE
    assert find(words(NOP, RET) + b"Litr" + words(RET), b"Litr", Machine.ARM64) == []
    assert find(words(load, RET) + b"Litr" + b"eral" + words(0, RET), b"Litr", Machine.ARM64) == [], "a text"


def test_bytes_of_several_instructions_are_no_place():
    """push r14; push r13; push r12; push rdi; sub rsp, 20h: all characters."""
    code = b"AVAUATWH\x83\xec\x20\x48\x83\xc4\x20_A\\A]A^\xc3"
    assert [find(code + FILLING, word) for word in (b"ATWH", b"AUAT", b"TWH\x83")] == [[], [], []]


def test_a_jump_to_a_register_ends_an_arm64_function():
    """Leaf wrappers one behind another: adrp x8; ldr x8, [x8]; mov w2, ...; br x8."""
    leaf = (0x90000008, 0xF9400108, 0x52800022, 0xD61F0100)
    code = words(*leaf, *leaf, *leaf)
    assert find_arm64_starts(code, PAGE) == [PAGE, PAGE + 16, PAGE + 32]
    switch = (0x10000089, 0x38606928, 0x8B080928, 0xD61F0100, 0x52800020, RET)  # adr, ldrb, add, br: its arms follow
    assert find_arm64_starts(words(*switch, *leaf), PAGE) == [PAGE, PAGE + 24]


def test_calls_lead_to_arm64_functions():
    code = words(0x94000003, RET, NOP, RET)
    assert find_arm64_call_targets([(PAGE, code)]) == [PAGE + 12]


def test_sections_that_begin_inside_a_page_keep_their_bytes(tmp_path):
    """SectionAlignment 80h, as old kits have it: the zeros behind a section end where the next one begins."""
    variables = Part(b".data", 0x1900, b"\x11" * 0x80, VARIABLES, virtual_bytes=0x90)
    code = Part(b"INIT", 0x1A00, b"\x68Pipo\xc3" + b"\x90" * 0x3A, CODE)
    path = tmp_path / "old.sys"
    path.write_bytes(
        build_file(Part(b".text", 0x1000, b"\xc3" * 0x900, CODE), variables, code, machine=X86, base=0x10000)
    )
    with open_image_file(str(path)) as target:
        (module,) = target.modules()
        image = read_image(target, module, zeros_are_code=True)
        assert image.read(0x1A00, 6) == b"\x68Pipo\xc3"
        assert image.read(0x1980, 0x10) == bytes(0x10), "zeros up to the size in memory"
        assert image.read(0x1000, 2) == b"\xc3\xc3"


def test_a_word_inside_a_text_of_data_is_not_shown():
    """An aligned dword of a text says nothing, unless code reads it from there."""
    assert find(FILLING, b"Thre", variables=b"\0\0\0\0WaitThreadsX\0\0\0\0") == []
    (item,) = find(FILLING, b"Glob", variables=b"\0\0\0\0Glob\0\0\0\0")
    assert item.confidence is POSSIBLE


def test_an_attributor_from_outside_is_asked(tmp_path):
    """A kind of evidence that is added beside the package: registered, asked, and weighed with the others."""

    class Birthday:
        name = "birthday"

        def __init__(self, images):
            self.images = images

        def evidence(self, tag):
            yield Evidence(tag, self.images[0].module.name, EvidenceKind.OTHER, LIKELY, "born on the same day")

    path = tmp_path / "made.sys"
    path.write_bytes(build_file(Part(b".text", 0x1000, b"\xc3" * 0x100, CODE)))
    tag = PoolTag(b"Bday")
    with register_attributor(lambda target, images: Birthday(images)):
        (item,) = search_files([str(path)], [tag]).evidence[tag]
    assert (item.module, item.kind.value, item.confidence) == ("made.sys", "other", LIKELY)
    assert search_files([str(path)], [tag]).evidence[tag] == ()


def test_paths_that_disagree_on_the_stack_hide_no_later_argument():
    """Calls through a pointer in a loop whose arguments are removed once behind the last one: nobody knows by whom."""
    base = NARROW_BASES[1]
    code = bytes.fromhex("55 8bec 56 57 be03000000")  # push ebp; mov ebp, esp; push esi; push edi; mov esi, 3
    code += 3 * bytes.fromhex("6a01 ff750c ff5508")  # loop: three times push 1; push [ebp+0ch]; call [ebp+8]
    code += bytes.fromhex("83c418 4e 75e2")  # add esp, 18h; dec esi; jnz loop
    code += b"\x68Lost" + bytes.fromhex("83c70c 57 6a01 ff15") + (base + SLOT).to_bytes(4, "little")
    code += bytes.fromhex("5f 5e c9 c20800")
    (item,) = find(code + FILLING, b"Lost", Machine.X86)
    assert (item.confidence, item.kind) == (PROVEN, EvidenceKind.CALL)


def test_a_wrapper_that_another_driver_exports_is_followed():
    """made.sys: mov ecx, 40h; mov edx, TAG; call [helper.sys!HelperAllocate], which allocates with its second one."""
    own = X64Code()
    own.add(ENTER, b"\xb9\x40\0\0\0\xbaXprt", (CALL_SLOT, OTHER_SLOT), LEAVE)
    helper = X64Code()
    wrapper = helper.add(ENTER, bytes.fromhex("448bc2 488bd1 33c9"), (CALL_SLOT, SLOT), LEAVE)
    base = 0xFFFFF80010800000
    kernel, made = WIDE_BASES
    exports = export_section({"HelperAllocate": wrapper}, 3 * PAGE)
    parts = (
        Part(b".text", CODE_RVA, helper.bytes, CODE),
        Part(b".rdata", 2 * PAGE, slots(Machine.X64), CONSTANTS),
        Part(b".edata", 3 * PAGE, exports, CONSTANTS),
    )
    memory = build_memory(*parts, machine=X64, base=base, directories={EXPORT: (3 * PAGE, len(exports))})
    pointers = pointer_at(SLOT, kernel + ALLOCATE).ljust(OTHER_SLOT - 2 * PAGE, b"\0") + struct.pack(
        "<Q", base + wrapper
    )
    system = System(code=own.bytes, constants=pointers)
    segments = {kernel: read_all(system, 0), made: read_all(system, 1), base: memory}
    modules = (*system.target.modules(), Module("helper.sys", base, len(memory)))
    target = SegmentsTarget(segments, machine=Machine.X64, modules=modules)
    images = [read_image(target, module) for module in modules]
    (item,) = CodeAttributor(ImageIndex(images, [PoolTag(b"Xprt")])).evidence(PoolTag(b"Xprt"))
    assert (item.module, item.confidence) == ("made.sys", PROVEN)
    assert f"call helper.sys+0x{wrapper:x}, which hands tag 'Xprt' to ExAllocatePoolWithTag" in item.detail


def read_all(system, number):
    module = system.images[number].module
    return system.target.read_virtual(module.base, module.size)


@pytest.mark.parametrize("architecture", ["x64", "x86", "arm64"])
def test_in_a_file_the_name_that_is_looked_up_tells_what_a_variable_holds(architecture):
    """MmGetSystemRoutineAddress(L"ExAllocatePool2"), kept in a variable that the file has as zero."""
    path = build.IMAGES / architecture / "idioms-O2.sys"
    (item,) = search_files([str(path)], [PoolTag(b"Dyna")]).evidence[PoolTag(b"Dyna")]
    assert (item.confidence, item.kind) == (PROVEN, EvidenceKind.CALL)
    assert item.detail.startswith("call ExAllocatePool2 with tag 'Dyna'")


def test_a_string_that_is_put_together_at_run_time_names_a_function():
    """RtlInitUnicodeString(&local, text); MmGetSystemRoutineAddress(&local), kept in a variable."""
    pointers = {name: SLOT + 0x10 + 8 * number for number, name in enumerate(LOOKED_UP)}
    variable, text = 3 * PAGE + 0x40, 2 * PAGE + 0x400
    code = X64Code()
    code.add(
        *(ENTER, b"\x48\x8d\x4c\x24\x10", (b"\x48\x8d\x15", text), (CALL_SLOT, pointers["RtlInitUnicodeString"])),
        *(b"\x48\x8d\x4c\x24\x10", (CALL_SLOT, pointers["MmGetSystemRoutineAddress"])),
        *((b"\x48\x89\x05", variable), LEAVE),
    )
    code.add(ENTER, b"\xb9\x40\0\0\0\xba\x80\0\0\0\x41\xb8Late", (CALL_SLOT, variable), LEAVE)
    constants = bytearray(PAGE)
    imports = import_section(pointers, CONSTANTS_RVA)
    constants[: len(imports)] = imports
    constants[0x400:0x42C] = "ExAllocatePoolWithTag\0".encode("utf-16-le")
    directories = {IMPORT: (CONSTANTS_RVA, 40), IMPORT_ADDRESSES: (SLOT + 0x10, 24)}
    system = System(code=code.bytes, constants=bytes(constants), directories=directories)
    (item,) = CodeAttributor(ImageIndex(system.images, [PoolTag(b"Late")])).evidence(PoolTag(b"Late"))
    assert item.confidence is PROVEN
    assert item.detail.startswith("call ExAllocatePoolWithTag with tag 'Late'")


IMPORT_ADDRESSES = 12
LOOKED_UP = ("RtlInitUnicodeString", "MmGetSystemRoutineAddress")


def import_section(pointers, rva):
    """An import table at ``rva`` of functions of the kernel, with their pointers not filled in."""
    names, texts = {}, b""
    for name in pointers:
        names[name] = rva + 0x200 + len(texts)
        texts += b"\0\0" + name.encode() + b"\0"
    first = min(pointers.values())
    data = bytearray(0x300)
    data[:20] = struct.pack("<I8xII", rva + 0x80, rva + 0x60, first)
    data[0x60:0x6C] = b"ntoskrnl.exe"
    for place in (0x80, first - rva):
        data[place : place + 8 * len(names)] = b"".join(struct.pack("<Q", hint) for hint in names.values())
    data[0x200 : 0x200 + len(texts)] = texts
    return bytes(data)


FIRST_ONLY = ": the file has only what is there at first"


@pytest.mark.parametrize(
    ("section", "writes", "proviso"),
    [
        (VARIABLES, True, ", which the driver writes, too" + FIRST_ONLY),
        (VARIABLES, False, ", in memory that can be written" + FIRST_ONLY),  # by a copy, an index, a pointer
        (CONSTANTS, False, ""),
    ],
)
def test_of_a_variable_that_may_be_written_a_file_has_only_the_first_value(section, writes, proviso, tmp_path):
    """mov ecx, 200h; mov edx, 40h; mov r8d, [variable]; call ... and, perhaps elsewhere, mov [variable], eax."""
    code = X64Code()
    code.add(ENTER, b"\xb9\0\2\0\0\xba\x40\0\0\0", (b"\x44\x8b\x05", 3 * PAGE + 0x40), (CALL_SLOT, SLOT + 0x10), LEAVE)
    if writes:
        code.add((b"\x89\x05", 3 * PAGE + 0x40), b"\xc3")
    constants = import_section({"ExAllocatePoolWithTag": SLOT + 0x10}, CONSTANTS_RVA)
    variables = bytes(0x40) + b"Vary" + bytes(12)
    content = build_file(
        Part(b".text", CODE_RVA, code.bytes, CODE),
        Part(b".rdata", CONSTANTS_RVA, constants, CONSTANTS),
        Part(b".data", 3 * PAGE, variables, section),
        directories={IMPORT: (CONSTANTS_RVA, 40), IMPORT_ADDRESSES: (SLOT + 0x10, 16)},
    )
    (tmp_path / "made.sys").write_bytes(content)
    found = search_files([str(tmp_path / "made.sys")], [PoolTag(b"Vary")]).evidence[PoolTag(b"Vary")]
    (item,) = (item for item in found if item.kind is EvidenceKind.CALL)
    assert item.confidence is PROVEN
    assert item.detail.endswith(proviso) and item.detail.count(FIRST_ONLY) == bool(proviso)
