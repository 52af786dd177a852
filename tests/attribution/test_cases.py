"""Idioms of real drivers that proof has lost, as the three processors have them: machine code and its grade."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess

import pytest

from pykdext.model import Confidence, Machine, PoolTag
from pykdext.pipeline.driverfiles import search_files
from tests.attribution.calls.test_callees import CODE_RVA, NARROW_BASES, OTHER_SLOT, SLOT, VARIABLES_RVA, WIDE_BASES
from tests.attribution.test_lostproof import find
from tests.helpers.encodings import ENCODINGS
from tests.helpers.machinecode import PROGRAMS, Arm64Program, X86Program
from tests.helpers.peimages import ARM64, CODE, IMPORT, VARIABLES, X64, X86, Part, build_file

pytest.importorskip("capstone")

PROVEN, LIKELY, POSSIBLE = Confidence.PROVEN, Confidence.LIKELY, Confidence.POSSIBLE
VARIABLE = VARIABLES_RVA + 0x40
MACHINE_CODES = {Machine.X64: X64, Machine.X86: X86, Machine.ARM64: ARM64}
TRIPLES = {Machine.X64: "x86_64", Machine.X86: "i386", Machine.ARM64: "aarch64"}
MACHINES = (Machine.X64, Machine.X86, Machine.ARM64)
every_machine = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.value)


@every_machine
@pytest.mark.skipif(not shutil.which("llvm-mc"), reason="llvm-mc is not installed")
def test_bytes_are_the_assemblers(machine):
    lines = ENCODINGS[machine]
    syntax = [] if machine is Machine.ARM64 else [".intel_syntax noprefix"]
    command = ["llvm-mc", f"-triple={TRIPLES[machine]}", "--show-encoding"]
    result = subprocess.run(command, input="\n".join([*syntax, *lines, ""]), text=True, capture_output=True)
    found = re.findall(r"encoding: \[(.*?)\]", result.stdout)
    assert ["".join(byte[2:] for byte in encoding.split(",")) for encoding in found] == list(lines.values())


def grades(program, tag, **options):
    return [item.confidence for item in find(program.bytes, tag, program.machine, **options)]


def add_allocating(program, *before, slot=SLOT):
    """A function that allocates with its last argument: the third on 64-bit processors, on x86 the second of two."""
    if program.machine is Machine.X86:
        push = ("push [esp + 8]", "push 0x40", "push 1")
        return program.add(*before, *push, program.call_slot(slot), "ret 8")
    return program.add(*before, *program.enter, *program.first_arguments, program.call_slot(slot), *program.leave)


def add_calling(program, tag, callee, *before):
    """A function that calls one with a tag."""
    if program.machine is Machine.X86:
        return program.add(*before, program.push(tag), "push 0x80", program.call(callee), "ret")
    hand_over = program.tag(program.tag_register, tag)
    return program.add(*before, *program.enter, hand_over, program.call(callee), *program.leave)


def open_program(machine):
    return PROGRAMS[machine]()


# switch: nine and more cases, one call


def many_cases(machine, tags):
    program = open_program(machine)
    if machine is Machine.X86:
        size, join = 15, 15 * len(tags)
        cases = b"".join(
            b"\x83\xf9"
            + bytes([n])
            + b"\x75\x0a"
            + program.tag("eax", tag)
            + b"\xe9"
            + struct.pack("<i", join - (n + 1) * size)
            for n, tag in enumerate(tags)
        )  # cmp ecx, n; jne; mov eax, tag; jmp join
        program.add(cases, "push eax", "push 0x40", "push 1", program.call_slot(SLOT), "ret")
    elif machine is Machine.X64:
        size, join = 16, 16 * len(tags)
        cases = b"".join(
            b"\x83\xf9"
            + bytes([n])
            + b"\x75\x0b"
            + program.tag("r8", tag)
            + b"\xe9"
            + struct.pack("<i", join - (n + 1) * size)
            for n, tag in enumerate(tags)
        )
        program.add(*program.enter, cases, *program.first_arguments, program.call_slot(SLOT), *program.leave)
    else:
        cases = b"".join(
            struct.pack("<II", 0x7100001F | n << 10, 0x54000081)
            + program.tag("x2", tag)
            + struct.pack("<I", 0x14000000 | 5 * (len(tags) - n) - 4)
            for n, tag in enumerate(tags)
        )  # cmp w0, #n; b.ne; movz; movk; b join
        program.add(*program.enter, cases, *program.first_arguments, program.call_slot(SLOT), *program.leave)
    return program


@every_machine
def test_each_of_many_cases_is_proven(machine):
    tags = [b"Sw%02d" % number for number in range(20)]
    program = many_cases(machine, tags)
    for tag in (tags[0], tags[8]):
        assert grades(program, tag) == [PROVEN], tag


# a table of tags on the stack, the entry by a random index


@every_machine
def test_a_table_of_twenty_in_the_frame(machine):
    tags = [b"Rn%02d" % number for number in range(20)]
    program = open_program(machine)
    if machine is Machine.X64:
        stores = b"".join(b"\xc7\x44\x24" + bytes([0x20 + 4 * n]) + tag for n, tag in enumerate(tags))
        program.add(
            *("sub rsp, 0x88", stores, "mov r8d, dword ptr [rsp + 4*rcx + 0x20]", *program.first_arguments),
            *(program.call_slot(SLOT), "add rsp, 0x88", "ret"),
        )
    elif machine is Machine.X86:
        stores = b"".join(b"\xc7\x44\x24" + bytes([4 * n]) + tag for n, tag in enumerate(tags))
        program.add(
            *("mov ecx, dword ptr [esp + 4]", "sub esp, 0x50", stores, "push [esp + 4*ecx]", "push 0x40", "push 1"),
            *(program.call_slot(SLOT), "add esp, 0x50", "ret 4"),
        )
    else:
        stores = [
            part
            for n, tag in enumerate(tags)
            for part in (program.tag("x9", tag), struct.pack("<I", 0xB90003E9 | n << 10))  # str w9, [sp, #4n]
        ]
        program.add(
            *("stp x29, x30, [sp, #-0x10]!", "sub sp, sp, #0x50", *stores, "ldr w2, [sp, w0, uxtw #2]"),
            *(*program.first_arguments, program.call_slot(SLOT), "add sp, sp, #0x50", *program.leave),
        )
    (item,) = find(program.bytes, tags[19], machine)
    assert item.confidence is PROVEN
    assert "one of 20 that it may get" in item.detail


# wrappers: realloc, three deep


@every_machine
def test_a_wrapper_that_frees_before_it_allocates(machine):
    """if (p) ExFreePoolWithTag(p, tag); return ExAllocatePoolWithTag(pool, n, tag)."""
    program = open_program(machine)
    if machine is Machine.X64:
        wrapper = program.add(
            *("push rbx", "sub rsp, 0x20", "mov ebx, r8d", "test rcx, rcx", b"\x74\x08", "mov edx, ebx"),
            *(program.call_slot(OTHER_SLOT), *program.first_arguments, "mov r8d, ebx", program.call_slot(SLOT)),
            *("add rsp, 0x20", "pop rbx", "ret"),
        )
    elif machine is Machine.X86:
        free = ("push [esp + 8]", "push eax", program.call_slot(SLOT + 8))
        wrapper = program.add(
            *("mov eax, dword ptr [esp + 4]", "test eax, eax", b"\x74\x0b", *free),
            *("push [esp + 8]", "push 0x40", "push 1", program.call_slot(SLOT), "ret 8"),
        )
    else:
        wrapper = program.add(
            *("stp x19, x30, [sp, #-0x10]!", "mov w19, w2", struct.pack("<I", 0xB40000A0), "mov w1, w2"),
            *(program.call_slot(OTHER_SLOT), *program.first_arguments, "mov w2, w19", program.call_slot(SLOT)),
            *("ldp x19, x30, [sp], #0x10", "ret"),
        )
    add_calling(program, b"Rlc1", wrapper)
    (item,) = find(program.bytes, b"Rlc1", machine)
    assert (item.confidence, item.kind) == (PROVEN, "call")
    assert "ExAllocatePoolWithTag" in item.detail


@every_machine
def test_wrappers_of_wrappers(machine):
    program = open_program(machine)
    callee = add_allocating(program)
    for _ in range(2):
        if machine is Machine.X86:
            callee = program.add("push [esp + 8]", "push [esp + 8]", program.call(callee), "ret 8")
        else:
            callee = program.add(*program.enter, program.call(callee), *program.leave)
    add_calling(program, b"Dep3", callee)
    (item,) = find(program.bytes, b"Dep3", machine)
    assert item.confidence is PROVEN
    assert item.detail.count(" and +0x") == 2


# hot patching, incremental linking, security cookies


@every_machine
@pytest.mark.parametrize("kind", ["hot patch", "long nop", "jump thunk"])
def test_what_linkers_and_compilers_put_before_a_function(machine, kind):
    """mov edi, edi behind five bytes of filling; a nop of eight bytes; a table of jumps (ILT) that calls go through."""
    program = open_program(machine)
    nops = {"hot patch": {Machine.X86: ("mov edi, edi",), Machine.X64: ("xchg ax, ax",), Machine.ARM64: ("nop",)}}
    long_nop = {Machine.ARM64: ("nop", "nop")}.get(machine, (b"\x0f\x1f\x84\0\0\0\0\0",))
    before = {"hot patch": nops["hot patch"][machine], "long nop": long_nop, "jump thunk": ()}[kind]
    program.add("ret")
    wrapper = add_allocating(program, *before)
    if kind == "jump thunk":
        other = program.add("ret")
        program.add(program.jump(other), align=1)
        wrapper = program.add(program.jump(wrapper), align=1)
        program.add(program.jump(other))
    add_calling(program, b"Thnk", wrapper, *before)
    assert grades(program, b"Thnk") == [PROVEN]


@every_machine
def test_a_frame_with_a_security_cookie(machine):
    """The tag waits behind the cookie's setting and a call; the check of the cookie follows on the allocation."""
    program = open_program(machine)
    use = program.add("ret" if machine is not Machine.X86 else "ret 4")
    if machine is Machine.X64:
        check = program.add(program.load("rax", VARIABLE, is_wide=True), "cmp rcx, rax", b"\x75\x01", "ret", "int3")
        program.add(
            *("push rbx", "sub rsp, 0x60", program.load("rax", VARIABLE, is_wide=True), "xor rax, rsp"),
            *(
                "mov qword ptr [rsp + 0x50], rax",
                program.tag("rbx", b"Cook"),
                "lea rcx, [rsp + 0x20]",
                program.call(use),
            ),
            *(*program.first_arguments, "mov r8d, ebx", program.call_slot(SLOT), "mov rcx, qword ptr [rsp + 0x50]"),
            *("xor rcx, rsp", program.call(check), "add rsp, 0x60", "pop rbx", "ret"),
        )
    elif machine is Machine.X86:
        check = program.add(b"\x3b\x0d" + struct.pack("<I", program.base + VARIABLE) + b"\x75\x01", "ret", "int3")
        program.add(
            *("push ebp", "mov ebp, esp", "sub esp, 0x24", program.load("eax", VARIABLE), "xor eax, ebp"),
            *("mov dword ptr [ebp - 4], eax", "push esi", program.tag("esi", b"Cook"), "lea eax, [ebp - 0x24]"),
            *("push eax", program.call(use), "push esi", "push 0x40", "push 1", program.call_slot(SLOT)),
            *("mov ecx, dword ptr [ebp - 4]", "pop esi", "xor ecx, ebp", program.call(check), "leave", "ret"),
        )
    else:
        # __security_push_cookie and __security_pop_cookie move the caller's stack pointer
        push = program.add(
            "sub sp, sp, #0x10",
            program.load("x17", VARIABLE, is_wide=True),
            "sub x17, sp, x17",
            "str x17, [sp, #8]",
            "ret",
        )
        pop = program.add("ldr x17, [sp, #8]", program.load("x16", VARIABLE, is_wide=True), "add sp, sp, #0x10", "ret")
        program.add(
            *("stp x19, x30, [sp, #-0x10]!", program.call(push), "sub sp, sp, #0x40", program.tag("x19", b"Cook")),
            *("mov x0, sp", program.call(use), *program.first_arguments, "mov w2, w19", program.call_slot(SLOT)),
            *("add sp, sp, #0x40", program.call(pop), "ldp x19, x30, [sp], #0x10", "ret"),
        )
    assert grades(program, b"Cook") == [PROVEN]


# a tag in a structure, for a callback from a table of types


@every_machine
def test_a_callback_from_a_table_of_types_gets_the_tag_in_a_structure(machine):
    """create_object(slot, size, tag, type) puts size and tag into a structure; types[type](&structure) allocates."""
    program = open_program(machine)
    if machine is Machine.X64:
        callback = program.add(
            *program.enter,
            "mov r8d, dword ptr [rcx + 8]",
            "mov edx, dword ptr [rcx]",
            "mov ecx, 1",
            program.call_slot(SLOT),
            *program.leave,
        )
        create = program.add(
            *("sub rsp, 0x38", "mov dword ptr [rsp + 0x20], edx", "mov dword ptr [rsp + 0x28], r8d"),
            *(program.address("rax", VARIABLE), "lea rcx, [rsp + 0x20]", "call [rax + 8*r9]", "add rsp, 0x38", "ret"),
        )
        program.add(
            *program.enter,
            "mov edx, 0x80",
            program.address("rcx", VARIABLE + 0x80),
            program.tag("r8", b"Type"),
            "mov r9d, 1",
            program.call(create),
            *program.leave,
        )
        table = struct.pack("<QQ", 0, WIDE_BASES[1] + callback)
    elif machine is Machine.X86:
        callback = program.add(
            "mov eax, dword ptr [esp + 4]", "push [eax + 8]", "push [eax]", "push 1", program.call_slot(SLOT), "ret 4"
        )
        create = program.add(
            *("sub esp, 0xc", "mov eax, dword ptr [esp + 0x14]", "mov dword ptr [esp], eax"),
            *("mov eax, dword ptr [esp + 0x18]", "mov dword ptr [esp + 8], eax", "mov ecx, dword ptr [esp + 0x1c]"),
            *("mov eax, esp", "push eax", program.absolute(b"\xff\x14\x8d", VARIABLE), "add esp, 0xc", "ret 0x10"),
        )
        slot = program.absolute(b"\x68", VARIABLE + 0x80)
        program.add("push 1", program.push(b"Type"), "push 0x80", slot, program.call(create), "ret")
        table = struct.pack("<II", 0, NARROW_BASES[1] + callback)
    else:
        callback = program.add(
            *program.enter, "ldr w2, [x0, #8]", "ldr w1, [x0]", "mov w0, #1", program.call_slot(SLOT), *program.leave
        )
        create = program.add(
            *(*program.enter, "sub sp, sp, #0x10", "str w1, [sp]", "str w2, [sp, #8]", program.address("x9", VARIABLE)),
            *("ldr x9, [x9, x3, lsl #3]", "mov x0, sp", "blr x9", "add sp, sp, #0x10", *program.leave),
        )
        program.add(
            *program.enter,
            "mov w1, #0x80",
            program.address("x0", VARIABLE + 0x80),
            program.tag("x2", b"Type"),
            "mov x3, #1",
            program.call(create),
            *program.leave,
        )
        table = struct.pack("<QQ", 0, WIDE_BASES[1] + callback)
    (item,) = find(program.bytes, b"Type", machine, variables=bytes(0x40) + table)
    assert item.confidence is PROVEN
    assert "through a pointer that is set at run time" in item.detail


# a method by a pair of pointers, as Rust has it; a function that returns what it gets


@every_machine
def test_a_method_through_a_table_beside_the_object(machine):
    """through(object, table, n) jumps to table[3](object, n), which allocates with a member of its object."""
    program = open_program(machine)
    if machine is Machine.X64:
        method = program.add(
            *program.enter,
            *("mov r8d, dword ptr [rcx + 8]", "mov ecx, 1", program.call_slot(SLOT), *program.leave),
        )
        through = program.add("mov rax, qword ptr [rdx + 0x18]", "mov rdx, r8", "jmp rax")
        program.add(
            *("sub rsp, 0x38", b"\xc7\x44\x24\x28Dyn1", "lea rcx, [rsp + 0x20]", program.address("rdx", VARIABLE)),
            *(program.call(through), "add rsp, 0x38", "ret"),
        )
    elif machine is Machine.X86:
        method = program.add(
            "mov eax, dword ptr [esp + 4]",
            "push [eax + 8]",
            "push [esp + 0xc]",
            "push 1",
            program.call_slot(SLOT),
            "ret 8",
        )
        through = program.add(
            *("mov eax, dword ptr [esp + 8]", "push [esp + 0xc]", "push [esp + 8]", "call [eax + 0xc]", "ret 0xc"),
        )
        program.add(
            *("sub esp, 0x10", b"\xc7\x44\x24\x08Dyn1", "mov eax, esp", "push 0x40"),
            *(program.absolute(b"\x68", VARIABLE), "push eax", program.call(through), "add esp, 0x10", "ret"),
        )
    else:
        method = program.add(*program.enter, "ldr w2, [x0, #8]", "mov w0, #1", program.call_slot(SLOT), *program.leave)
        through = program.add("ldr x3, [x1, #0x18]", "mov x1, x2", "br x3")
        program.add(
            *(*program.enter, "sub sp, sp, #0x10", program.tag("x9", b"Dyn1"), "str w9, [sp, #8]", "mov x0, sp"),
            *(program.address("x1", VARIABLE), program.call(through), "add sp, sp, #0x10", *program.leave),
        )
    width = machine.pointer_size
    base = NARROW_BASES[1] if machine is Machine.X86 else WIDE_BASES[1]
    table = bytes(3 * width) + (base + method).to_bytes(width, "little")
    assert grades(program, b"Dyn1", variables=bytes(0x40) + table) == [PROVEN]


@every_machine
@pytest.mark.parametrize("is_same", [True, False])
def test_a_function_that_returns_what_it_is_called_with(machine, is_same):
    """tag = checked(TAG); ExAllocatePoolWithTag(..., tag)."""
    program = open_program(machine)
    if machine is Machine.X86:
        same = program.add("mov eax, dword ptr [esp + 4]" if is_same else "mov eax, dword ptr [esp + 8]", "ret 8")
        tag = ("push 1", program.push(b"Same"), program.call(same))
        program.add(*tag, "push eax", "push 0x40", "push 1", program.call_slot(SLOT), "ret")
    else:
        x64 = machine is Machine.X64
        copies = {True: ("mov eax, ecx" if x64 else "nop"), False: ("mov eax, edx" if x64 else "mov w0, w1")}
        same = program.add(copies[is_same], "ret")
        tag = (
            program.tag("rcx" if x64 else "x0", b"Same"),
            program.call(same),
            "mov r8d, eax" if x64 else "mov w2, w0",
        )
        program.add(*program.enter, *tag, *program.first_arguments, program.call_slot(SLOT), *program.leave)
    assert (grades(program, b"Same") == [PROVEN]) == is_same


# a tag in .data that is overwritten once


@every_machine
@pytest.mark.parametrize("writes", [False, True])
def test_a_variable_that_is_overwritten_at_start(machine, writes):
    program = open_program(machine)
    if machine is Machine.X86:
        program.add(program.load("eax", VARIABLE), "push eax", "push 0x40", "push 1", program.call_slot(SLOT), "ret")
    else:
        tag = program.load(program.tag_register, VARIABLE)
        program.add(*program.enter, tag, *program.first_arguments, program.call_slot(SLOT), *program.leave)
    if writes:
        program.add(
            program.store({Machine.ARM64: "x0"}.get(machine, "ecx" if machine is Machine.X86 else "rcx"), VARIABLE),
            "ret",
        )
    found = find(program.bytes, b"Vary", machine, variables=bytes(0x40) + b"Vary" + bytes(12))
    assert [item.confidence for item in found] == [PROVEN]
    assert f"the tag is read from +0x{VARIABLE:x}" in found[0].detail


# words that only look like tags


@every_machine
def test_constants_in_local_variables(machine):
    """The constants of ChaCha, whose address goes to a function that mixes them."""
    words = (b"expa", b"nd 3", b"2-by", b"te k")
    program = open_program(machine)
    if machine is Machine.X64:
        mix = program.add("mov eax, dword ptr [rcx]", "xor eax, dword ptr [rcx + 4]", "ret")
        stores = b"".join(b"\xc7\x45" + bytes([0xE0 + 4 * n]) + word for n, word in enumerate(words))  # [rbp-20h+4n]
        program.add(
            *("push rbp", "mov rbp, rsp", "sub rsp, 0x40", stores, "lea rcx, [rbp - 0x20]", program.call(mix)),
            *("leave", "ret"),
        )
    elif machine is Machine.X86:
        mix = program.add(
            "mov ecx, dword ptr [esp + 4]", "mov eax, dword ptr [ecx]", "xor eax, dword ptr [ecx + 4]", "ret 4"
        )
        stores = b"".join(b"\xc7\x45" + bytes([0xE0 + 4 * n]) + word for n, word in enumerate(words))
        program.add(
            *("push ebp", "mov ebp, esp", "sub esp, 0x20", stores, "lea eax, [ebp - 0x20]", "push eax"),
            *(program.call(mix), "leave", "ret"),
        )
    else:
        mix = program.add("ldp w8, w9, [x0]", "eor w0, w8, w9", "ret")
        stores = [
            part
            for n, word in enumerate(words)
            for part in (program.tag("x9", word), struct.pack("<I", 0xB90003E9 | n << 10))
        ]
        program.add(
            *("stp x29, x30, [sp, #-0x10]!", "sub sp, sp, #0x50", *stores, "mov x0, sp", program.call(mix)),
            *("add sp, sp, #0x50", *program.leave),
        )
    found = find(program.bytes, b"te k", machine)
    assert found and all(item.confidence is POSSIBLE for item in found)
    assert all("NET_BUFFER" not in item.detail for item in found)


@every_machine
def test_a_name_for_a_function_that_looks_for_it(machine):
    """mov ecx, 'BERT'; call find_table."""
    program = open_program(machine)
    if machine is Machine.X86:
        look = program.add("xor eax, eax", b"\x81\x7c\x24\x04APIC", "sete al", "ret 4")
        program.add(program.push(b"BERT"), program.call(look), "ret")
    else:
        if machine is Machine.X64:
            first, compare = "rcx", ("xor eax, eax", b"\x81\xf9APIC", "sete al")
        else:
            first, compare = "x0", (program.tag("x9", b"APIC"), "cmp w0, w9", "cset w0, eq")
        look = program.add(*compare, "ret")
        program.add(*program.enter, program.tag(first, b"BERT"), program.call(look), *program.leave)
    for word in (b"BERT", b"APIC"):
        found = find(program.bytes, word, machine)
        assert all(item.confidence is POSSIBLE for item in found), word


@every_machine
def test_the_fifth_argument_of_a_logger(machine):
    """A local function that is followed and allocates nothing: it stores what it gets."""
    program = open_program(machine)
    if machine is Machine.X64:
        log = program.add("mov eax, dword ptr [rsp + 0x28]", "mov dword ptr [rcx], eax", "ret")
        fifth = b"\xc7\x44\x24\x20Logr"  # mov dword [rsp+20h], tag
        program.add(*program.enter, fifth, program.address("rcx", VARIABLE), program.call(log), *program.leave)
    elif machine is Machine.X86:
        log = program.add(
            "mov eax, dword ptr [esp + 0x14]", "mov ecx, dword ptr [esp + 4]", "mov dword ptr [ecx], eax", "ret 0x14"
        )
        program.add(
            program.push(b"Logr"), *["push 1"] * 3, program.absolute(b"\x68", VARIABLE), program.call(log), "ret"
        )
    else:
        log = program.add("str w4, [x0]", "ret")
        tag = program.tag("x4", b"Logr")
        program.add(*program.enter, tag, program.address("x0", VARIABLE), program.call(log), *program.leave)
    assert grades(program, b"Logr") == [POSSIBLE]


@every_machine
def test_a_list_of_tags_to_compare_with(machine):
    """if (tag == 'Hot1' || tag == 'Hot2') hot = 1: a comparison is no use."""
    program = open_program(machine)
    if machine is Machine.ARM64:
        for tag in (b"Hot1", b"Hot2"):
            program.add(program.tag("x9", tag), "cmp w2, w9", "cset w0, eq", "ret")
    else:
        for tag in (b"Hot1", b"Hot2"):
            program.add("xor eax, eax", b"\x81\xf9" + tag, "sete al", "ret")
    for tag in (b"Hot1", b"Hot2"):
        assert all(item.confidence is POSSIBLE for item in find(program.bytes, tag, machine))


# sections that begin inside a page


@every_machine
@pytest.mark.parametrize("alignment", [0x80, 0x200])
def test_imports_in_a_section_that_begins_inside_a_page(machine, alignment, tmp_path):
    """SectionAlignment below a page: zeros behind .data end where INIT begins, which has the import directory."""
    data_rva = CODE_RVA + 2 * alignment
    init_rva = data_rva + alignment
    slot = init_rva + 0x60
    program = X86Program(0x10000) if machine is Machine.X86 else open_program(machine)
    if machine is Machine.X86:
        program.add(program.push(b"Algn"), "push 0x40", "push 1", program.call_slot(slot), "ret")
    else:
        tag = program.tag(program.tag_register, b"Algn")
        program.add(*program.enter, tag, *program.first_arguments, program.call_slot(slot), *program.leave)
    width = machine.pointer_size
    imports = bytearray(0x80)
    imports[:20] = struct.pack("<I8xII", init_rva + 0x50, init_rva + 0x30, slot)
    imports[0x30:0x3D] = b"ntoskrnl.exe\0"
    for place in (0x50, 0x60):
        imports[place : place + width] = (init_rva + 0x70).to_bytes(width, "little")
    imports = bytes(imports[:0x70]) + b"\0\0ExAllocatePoolWithTag\0"
    content = bytearray(
        build_file(
            Part(b".text", CODE_RVA, program.bytes.ljust(alignment, b"\xcc"), CODE),
            Part(b".data", data_rva, b"\x11" * 0x20, VARIABLES, virtual_bytes=0x30),
            Part(b"INIT", init_rva, imports, CODE),
            machine=MACHINE_CODES[machine],
            base=0x10000 if machine is Machine.X86 else 0x140000000,
            directories={IMPORT: (init_rva, 40)},
        )
    )
    struct.pack_into("<II", content, 0x40 + 24 + 32, alignment, alignment)
    (tmp_path / "old.sys").write_bytes(content)
    (item,) = search_files([str(tmp_path / "old.sys")], [PoolTag(b"Algn")]).evidence[PoolTag(b"Algn")]
    assert item.confidence is PROVEN
    assert item.detail.startswith("call ExAllocatePoolWithTag with tag 'Algn'")


# x86 alone


def test_a_cdecl_thunk_in_a_loop_and_one_removal_behind_it():
    """call thunk (jmp [memcpy]) three times, then add esp, 24h, and back; behind it a plain push of a tag."""
    program = X86Program()
    thunk = program.add(program.jump_slot(SLOT + 0x40))
    copy = ("push 0x40", "push esi", "push edi", program.call(thunk))
    loop = ("push ebp", "mov ebp, esp", "push esi", "push edi", "push ebx", "mov ebx, 3")
    body = (*copy, *copy, *copy, "add esp, 0x24", "dec ebx")
    sizes = len(b"".join(part(0) if callable(part) else program.encode(part) for part in body)) + 2
    behind = (program.push(b"Loop"), "add edi, 0xc", "push edi", "push 1", program.call_slot(SLOT))
    program.add(*loop, *body, b"\x75" + bytes([256 - sizes]), *behind, "pop ebx", "pop edi", "pop esi", "leave", "ret")
    assert grades(program, b"Loop") == [PROVEN]


def test_a_function_without_a_caller_behind_another():
    """ret 4, and right behind it push 0Ch; push table; call __SEH_prolog4: a function that nothing calls."""
    program = X86Program()
    prologue = program.add("mov eax, dword ptr [esp + 8]", "ret")
    program.add("mov eax, dword ptr [esp + 4]", "inc dword ptr [eax]", "ret 4", align=1)
    start = program.add(
        *("push 0xc", program.absolute(b"\x68", VARIABLE), program.call(prologue), "mov edi, dword ptr [ebp + 8]"),
        *(program.push(b"Sehp"), "push edi", "push 1", program.call_slot(SLOT), "ret 4"),
    )
    assert (start - CODE_RVA) % 16
    assert grades(program, b"Sehp") == [PROVEN]


def test_arguments_that_are_stored_instead_of_pushed():
    """As gcc does: mov dword [esp+8], tag; mov dword [esp+4], 40h; mov dword [esp], 1; call; sub esp, 0Ch."""
    program = X86Program()
    stores = (b"\xc7\x44\x24\x08Gcc1", "mov dword ptr [esp + 4], 0x40", "mov dword ptr [esp], 1")
    program.add("sub esp, 0x1c", *stores, program.call_slot(SLOT), "sub esp, 0xc", "add esp, 0x1c", "ret")
    assert grades(program, b"Gcc1") == [PROVEN]


# ARM64 alone


@pytest.mark.parametrize("distance", [0, 0x200])
def test_a_literal_for_a_wrapper_that_is_jumped_to(distance):
    """ldr w2, label; b wrapper: the pool lies behind the functions."""
    program = Arm64Program()
    wrapper = add_allocating(program)
    start = program.rva
    pool = start + 16 + distance
    load = struct.pack("<I", 0x18000000 | (pool - start) // 4 << 5 | 2)
    program.add(load, program.jump(wrapper))
    program.bytes += program.filler * ((pool - program.rva) // 4) + b"Litw"
    found = find(program.bytes, b"Litw", Machine.ARM64)
    assert PROVEN in [item.confidence for item in found]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_leaf_wrappers_that_jump_to_a_register_one_after_another(number):
    """mov w2, tag; adrp x8; ldr x8, [x8]; br x8; the same again 20h further, of which none has an entry in .pdata."""
    program = Arm64Program()
    tags = [b"Lea%d" % n for n in range(3)]
    for tag in tags:
        program.add(program.tag("x2", tag), *program.first_arguments, program.jump_slot(SLOT), align=1)
    (item,) = find(program.bytes, tags[number], Machine.ARM64)
    assert item.confidence is PROVEN
