"""Who reads a variable: instructions written out by hand, and the code of the sample drivers against a disassembler."""

from __future__ import annotations

import struct

import pytest

from pykdext.attribution.calls import references
from pykdext.attribution.calls.references import find_references, is_written
from pykdext.images.image import read_image
from pykdext.model import Machine, Module
from tests.helpers.segments import SegmentsTarget
from tests.images.test_image import (
    BASE,
    CODE,
    DRIVERS,
    PAGE,
    VARIABLES,
    make_image,
    map_file,
    needs_drivers,
    open_image,
)

MACHINE_CODES = {Machine.X86: 0x14C, Machine.X64: 0x8664, Machine.ARM64: 0xAA64}
BASE32 = 0x8F400000
VARIABLE = 2 * PAGE + 0x10
NOPS = 4

X64_READS = [
    "8B 05 DISP",  # mov eax, [rip+d]
    "44 8B 05 DISP",  # mov r8d, [rip+d]
    "4C 8D 05 DISP",  # lea r8, [rip+d]
    "48 8D 0D DISP",
    "3B 0D DISP",
    "39 0D DISP",
    "44 03 05 DISP",
    "FF 15 DISP",
    "48 FF 15 DISP",
    "48 63 0D DISP",
    "0F B6 05 DISP",  # movzx
    "44 0F 44 05 DISP",  # cmove r8d
    "0F 10 05 DISP",  # movups xmm0
    "0F 28 0D DISP",  # movaps
    "66 0F 6F 05 DISP",  # movdqa
    "F3 0F 7E 05 DISP",  # movq
    "F3 44 0F 6F 05 DISP",
    "81 3D DISP 50 69 70 6F",  # cmp dword [rip+d], imm32: relative to the end of the immediate
    "83 3D DISP 00",
    "80 3D DISP 00",
    "0F BA 25 DISP 03",  # bt
]
X64_OTHERS = [
    "89 05 DISP",  # stores
    "48 89 05 DISP",
    "C7 05 DISP 50 69 70 6F",
    "0F 11 05 DISP",
    "8B 45 DISP",  # another modrm
    "E8 DISP",  # a call
    "0F 84 DISP",
]
X86_READS = [
    "A1 ADDR",
    "8B 0D ADDR",
    "68 ADDR",
    "B9 ADDR",
    "BF ADDR",
    "FF 35 ADDR",
    "3B 05 ADDR",
    "81 FE ADDR",  # cmp esi, offset
    "0F B6 05 ADDR",
    "66 0F 6F 05 ADDR",
    "8B 04 85 ADDR",  # mov eax, [table+eax*4]
    "8B 81 ADDR",  # mov eax, [ecx+table]
    "83 3D ADDR 00",
    "C7 06 ADDR",  # the address, stored
    "C7 45 F8 ADDR",
    "C7 04 24 ADDR",
    "C7 44 24 08 ADDR",
]
X86_OTHERS = ["A3 ADDR", "89 0D ADDR", "C7 05 ADDR 50 69 70 6F"]


def image_of(code, machine, base=BASE, data=b"\1" * 64, **options):
    memory = make_image((b".text", code, CODE), (b".data", data, VARIABLES), machine=MACHINE_CODES[machine], **options)
    target = SegmentsTarget({base: memory}, machine=machine)
    return read_image(target, Module("made.sys", base, len(memory)))


def assemble_relative(text, variable=VARIABLE, rva=PAGE + NOPS):
    before, after = (bytes.fromhex(part) for part in text.split("DISP"))
    end = rva + len(before) + 4 + len(after)
    return b"\x90" * NOPS + before + struct.pack("<i", variable - end) + after + b"\x90" * 8


def assemble_absolute(text):
    before, after = (bytes.fromhex(part) for part in text.split("ADDR"))
    return b"\x90" * NOPS + before + struct.pack("<I", BASE32 + VARIABLE) + after + b"\x90" * 8


@pytest.mark.parametrize("text", X64_READS)
def test_x64_reads(text):
    image = image_of(assemble_relative(text), Machine.X64)
    assert find_references(image, [VARIABLE]) == {VARIABLE: (PAGE + NOPS,)}
    assert find_references(image, [VARIABLE - 4, VARIABLE, VARIABLE + 4]) == {VARIABLE: (PAGE + NOPS,)}


@pytest.mark.parametrize("text", X64_OTHERS)
def test_x64_instructions_that_do_not_read(text):
    assert find_references(image_of(assemble_relative(text), Machine.X64), [VARIABLE]) == {}


def test_x64_before_the_code_and_far_away():
    code = b"\x90" * 0x1100000 + assemble_relative("8B 05 DISP", rva=PAGE + 0x1100000 + NOPS, variable=PAGE + 1)
    assert find_references(image_of(code, Machine.X64), [PAGE + 1]) == {PAGE + 1: (PAGE + 0x1100000 + NOPS,)}


@pytest.mark.parametrize("text", X86_READS)
def test_x86_reads(text):
    image = image_of(assemble_absolute(text), Machine.X86, BASE32)
    assert find_references(image, [VARIABLE]) == {VARIABLE: (PAGE + NOPS,)}


@pytest.mark.parametrize("text", X86_OTHERS)
def test_x86_instructions_that_do_not_read(text):
    assert find_references(image_of(assemble_absolute(text), Machine.X86, BASE32), [VARIABLE]) == {}


def adrp(register, pages):
    immediate = pages & 0x1FFFFF
    return int(f"1{immediate & 3:02b}10000{immediate >> 2:019b}{register:05b}", 2)


def add(target, base, offset):
    return int(f"1001000100{offset:012b}{base:05b}{target:05b}", 2)


def load(size, target, base, slot, vector=0, operation="01"):
    return int(f"{size:02b}111{vector}01{operation}{slot:012b}{base:05b}{target:05b}", 2)


NOP = 0xD503201F


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([adrp(8, 1), add(0, 8, 0x10)], 1),
        ([adrp(8, 1), NOP, NOP, load(2, 2, 8, 4)], 3),  # ldr w2, [x8, #0x10]
        ([adrp(8, 1), load(3, 2, 8, 2)], 1),
        ([adrp(8, 1), load(0, 2, 8, 16)], 1),  # ldrb
        ([adrp(8, 1), load(2, 2, 8, 4, operation="10")], 1),  # ldrsw
        ([adrp(8, 1), load(0, 2, 8, 1, vector=1, operation="11")], 1),  # ldr q2
        ([adrp(8, 1), load(3, 2, 8, 2, vector=1)], 1),  # ldr d2
        ([adrp(8, 1), add(9, 8, 8), load(2, 2, 9, 2)], 2),  # behind another variable
        ([adrp(8, 1), adrp(9, 0), load(2, 2, 8, 4)], 2),
    ],
)
def test_arm64_reads(words, place):
    image = image_of(struct.pack(f"<{len(words)}I", *words), Machine.ARM64)
    assert find_references(image, [VARIABLE]) == {VARIABLE: (PAGE + 4 * place,)}


@pytest.mark.parametrize(
    "words",
    [
        [adrp(8, 1), load(2, 2, 8, 4, operation="00")],  # str
        [adrp(8, 1), adrp(8, 0), load(2, 2, 8, 4)],
        [adrp(8, 1), load(3, 8, 8, 0), load(2, 2, 8, 4)],
        [adrp(8, 1), load(2, 2, 9, 4)],
        [adrp(8, 1), *[NOP] * 64, load(2, 2, 8, 4)],
    ],
    ids=["store", "another page", "loaded", "another register", "too far"],
)
def test_arm64_instructions_that_do_not_read(words):
    assert find_references(image_of(struct.pack(f"<{len(words)}I", *words), Machine.ARM64), [VARIABLE]) == {}


def test_arm64_page_before_the_code():
    image = image_of(struct.pack("<1025I", *[NOP] * 1024, adrp(3, -1)) + struct.pack("<I", add(3, 3, 8)), Machine.ARM64)
    assert find_references(image, [PAGE + 8]) == {PAGE + 8: (2 * PAGE + 4,)}


def test_references_are_limited(monkeypatch):
    monkeypatch.setattr(references, "MAX_REFERENCES", 3)
    code = b"".join(assemble_relative("8B 05 DISP", rva=PAGE + 18 * number + NOPS) for number in range(9))
    assert len(find_references(image_of(code, Machine.X64), [VARIABLE])[VARIABLE]) == 3


@pytest.mark.parametrize("machine", Machine)
def test_nothing_asked_and_torn_code(machine):
    image = image_of(bytes(range(256)) * 8, machine)
    assert find_references(image, []) == {}
    assert set(find_references(image, range(PAGE, 3 * PAGE))) <= set(range(PAGE, 3 * PAGE))
    memory = make_image((b".text", bytes(range(256)) * 32, CODE), machine=MACHINE_CODES[machine])
    assert find_references(open_image(memory, missing=[PAGE], machine=machine), [4 * PAGE]) == {}


def disassembled_reads(machine, code, rva):
    """``{address: instructions}`` of every memory operand that is read or whose address is taken, by capstone."""
    capstone = pytest.importorskip("capstone")
    from capstone import x86

    mode = capstone.CS_MODE_64 if machine is Machine.X64 else capstone.CS_MODE_32
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, mode)
    disassembler.detail = disassembler.skipdata = True
    found = {}
    for instruction in disassembler.disasm(code, rva):
        for operand in instruction.operands if instruction.id else ():
            is_read = operand.type == x86.X86_OP_MEM and operand.access & capstone.CS_AC_READ
            if not is_read:
                continue
            address = None
            if operand.mem.base == x86.X86_REG_RIP:
                address = instruction.address + instruction.size + operand.mem.disp
            elif machine is Machine.X86 and not (operand.mem.base or operand.mem.index):
                address = operand.mem.disp & 0xFFFFFFFF
            if address is not None:
                found.setdefault(address, set()).add(instruction.address)
    return found


@needs_drivers
@pytest.mark.parametrize("machine", [Machine.X64, Machine.X86])
def test_sample_drivers_against_a_disassembler(machine):
    compared = 0
    for path in sorted((DRIVERS / machine.value).glob("*.sys")):
        pe, memory = map_file(path)
        base = pe.OPTIONAL_HEADER.ImageBase
        image = read_image(SegmentsTarget({base: memory}, machine=machine), Module(path.name, base, len(memory)))
        for section in (section for section in image.sections if section.executable):
            code = memory[section.rva : section.rva + section.size]
            shift = base if machine is Machine.X86 else 0
            for address, instructions in disassembled_reads(machine, code, section.rva).items():
                variable = address - shift
                found = find_references(image, [variable]).get(variable, ())
                for start in instructions:
                    # the byte before may look like a prefix
                    assert any(start - 2 <= place <= start for place in found), (path.name, hex(variable), hex(start))
                    compared += 1
    assert compared > 100


@pytest.mark.parametrize("text", ["89 05 DISP", "44 89 05 DISP", "C7 05 DISP 50 69 70 6F", "88 05 DISP", "31 05 DISP"])
def test_x64_stores(text):
    image = image_of(assemble_relative(text), Machine.X64)
    assert is_written(image, VARIABLE, 4)
    assert is_written(image, VARIABLE - 3, 4), "one byte of it"
    assert not is_written(image, VARIABLE + 1, 4)


@pytest.mark.parametrize("text", [text for text in X64_READS if not text.startswith("48 FF")])
def test_x64_reads_are_no_stores(text):
    assert not is_written(image_of(assemble_relative(text), Machine.X64), VARIABLE, 4)


@pytest.mark.parametrize(("text", "writes"), [*((text, True) for text in X86_OTHERS), ("A1 ADDR", False)])
def test_x86_stores(text, writes):
    assert is_written(image_of(assemble_absolute(text), Machine.X86, BASE32), VARIABLE, 4) == writes


@pytest.mark.parametrize("operation", ["00", "01"])
def test_arm64_stores(operation):
    words = [adrp(8, 1), load(2, 2, 8, 4, operation=operation)]
    image = image_of(struct.pack("<2I", *words), Machine.ARM64)
    assert is_written(image, VARIABLE, 4) == (operation == "00")
