"""The flow through ARM64 code: each instruction that may bring a tag, whole functions, the sample drivers, junk."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.attribution.flow.function import follow_function
from pykdext.attribution.flow.values import (
    UNKNOWN,
    Constant,
    FieldRead,
    ImageRead,
    Location,
    Parameter,
    StackAddress,
    Unknown,
    numbers,
)
from pykdext.images.functiontable import FunctionBounds, FunctionTable
from pykdext.model import Machine
from tests.helpers.patience import ends_soon
from tests.images.test_image import (
    BASE,
    CODE,
    CONSTANTS,
    DRIVERS,
    VARIABLES,
    make_image,
    map_file,
    needs_drivers,
    open_image,
)

PIPO = 0x6F706950
CODE_RVA, CONSTANTS_RVA, VARIABLES_RVA = 0x1000, 0x2000, 0x3000
IMPORT_SLOT, GUARD_POINTER = 0x2100, 0x2200

# Instruction words, by the Arm manual; test_words_are_the_assemblers compares them with llvm-mc.
WORDS = {
    "mov w2, #0x6950": 0x528D2A02,
    "movk w2, #0x6f70, lsl #16": 0x72ADEE02,
    "movz x9, #0x6950": 0xD28D2A09,
    "movk x9, #0x6f70, lsl #16": 0xF2ADEE09,
    "movk x9, #0x1, lsl #32": 0xF2C00029,
    "movk x9, #0x2, lsl #48": 0xF2E00049,
    "mov w2, #-0x6951": 0x128D2A02,
    "mov w3, #0x7000": 0x528E0003,
    "orr w2, w3, #0xff": 0x32001C62,
    "orr w2, w2, #0x80000000": 0x32010042,
    "eor w2, w2, #0x20000000": 0x52030042,
    "and w2, w2, #0x7fffffff": 0x12007842,
    "mov w3, #0x6950": 0x528D2A03,
    "mov w4, #0x6f70": 0x528DEE04,
    "orr w2, w3, w4, lsl #16": 0x2A044062,
    "bfi w2, w4, #16, #16": 0x33103C82,
    "mov w2, w3": 0x2A0303E2,
    "lsl w4, w4, #16": 0x53103C84,
    "add w2, w3, w4": 0x0B040062,
    "sub w2, w4, w3": 0x4B030082,
    "bfxil w2, w4, #0, #16": 0x33003C82,
    "ubfx w2, w2, #16, #16": 0x53107C42,
    "lsr w2, w2, #16": 0x53107C42,
    "rev w2, w2": 0x5AC00842,
    "csel w2, w3, w4, eq": 0x1A840062,
    "csinc w2, w3, w4, eq": 0x1A840462,
    "csinv w2, w3, w4, eq": 0x5A840062,
    "csneg w2, w3, w4, eq": 0x5A840462,
    "cset w2, ne": 0x1A9F07E2,
    "csetm w5, ne": 0x5A9F03E5,
    "and w5, w5, #0x1000000": 0x120800A5,
    "add w2, w2, w5": 0x0B050042,
    "mul w2, w3, w4": 0x1B047C62,
    "madd w2, w3, w4, w2": 0x1B040862,
    "mvn w2, w3": 0x2A2303E2,
    "neg w2, w3": 0x4B0303E2,
    "bl #0x400": 0x94000100,
    "blr x8": 0xD63F0100,
    "blr x15": 0xD63F01E0,
    "br x8": 0xD61F0100,
    "b #0x400": 0x14000100,
    "b #-8": 0x17FFFFFE,
    "b.ne #-12": 0x54FFFFA1,
    "cbz x0, #8": 0xB4000040,
    "cbz x0, #12": 0xB4000060,
    "tbnz w0, #3, #12": 0x37180060,
    "ret": 0xD65F03C0,
    "nop": 0xD503201F,
    "brk #0xf000": 0xD43E0000,
    "brk #0xf003": 0xD43E0060,
    "sub sp, sp, #0x40": 0xD10103FF,
    "mov x29, sp": 0x910003FD,
    "stp x29, x30, [sp, #-0x20]!": 0xA9BE7BFD,
    "str w2, [sp]": 0xB90003E2,
    "str w2, [sp, #8]": 0xB9000BE2,
    "str w2, [x29, #0x18]": 0xB9001BA2,
    "ldr w2, [x29, #0x18]": 0xB9401BA2,
    "ldr w2, [sp], #0x10": 0xB84107E2,
    "str w2, [sp, #-0x10]!": 0xB81F0FE2,
    "str x9, [sp, #8]": 0xF90007E9,
    "stur x9, [sp, #4]": 0xF80043E9,
    "stp w2, w3, [sp, #0x10]": 0x29020FE2,
    "ldp w2, w3, [sp, #0x10]": 0x29420FE2,
    "strb w3, [sp, #8]": 0x390023E3,
    "ldr w2, #0x10": 0x18000082,
    "adrp x8, #0x1000": 0xB0000008,
    "adrp x8, #0x2000": 0xD0000008,
    "ldr w2, [x8, #0x20]": 0xB9402102,
    "ldr w2, [x8]": 0xB9400102,
    "ldr x8, [x8, #0x100]": 0xF9408108,
    "ldr x8, [x0, #0x10]": 0xF9400808,
    "ldr x8, [x8, #8]": 0xF9400508,
    "ldr q0, [x8]": 0x3DC00100,
    "str q0, [sp, #0x10]": 0x3D8007E0,
    "stp q0, q1, [sp, #0x10]": 0xAD0087E0,
    "dup v0.4s, w2": 0x4E040C40,
    "movi v0.2d, #0000000000000000": 0x6F00E400,
    "fmov d0, x9": 0x9E670120,
    "str d0, [sp, #8]": 0xFD0007E0,
    "mov v0.s[1], w2": 0x4E0C1C40,
    "mov w2, v0.s[1]": 0x0E0C3C02,
    "mov v1.16b, v0.16b": 0x4EA01C01,
    "str q1, [sp, #0x10]": 0x3D8007E1,
    "mov x1, sp": 0x910003E1,
    "add x1, sp, #8": 0x910023E1,
    "mov w19, w2": 0x2A0203F3,
    "mov w2, w19": 0x2A1303E2,
    "mov w9, w2": 0x2A0203E9,
    "mov w2, w9": 0x2A0903E2,
    "mov w2, w1": 0x2A0103E2,
    "mov x15, x8": 0xAA0803EF,
    "adrp x9, #0x1000": 0xB0000009,
    "ldr x9, [x9, #0x200]": 0xF9410129,
    "blr x9": 0xD63F0120,
    "mov x20, x1": 0xAA0103F4,
    "mov x1, x20": 0xAA1403E1,
    "crc32w w2, w2, w3": 0x1AC34842,
    "cas w2, w3, [x0]": 0x88A27C03,
    "ldadd w3, w2, [x0]": 0xB8230002,
    "udiv w2, w2, w3": 0x1AC30842,
    "st1 {v0.16b}, [sp]": 0x4C0073E0,
    "stlr w3, [sp]": 0x889FFFE3,
    "and sp, x9, #0xfffffffffffffff0": 0x927CED3F,
    "sub x9, sp, #0x30": 0xD100C3E9,
    "str w3, [sp, w0, uxtw #2]": 0xB8205BE3,
    "ldrb w9, [x8, x0]": 0x38606909,
    "add x8, x8, w9, sxtw #2": 0x8B29C908,
    "adr x8, #0x10": 0x10000088,
    "mov w2, wzr": 0x2A1F03E2,
    "ldrsw x2, [x8]": 0xB9800102,
    "ldrsb w2, [x8]": 0x39C00102,
    "ldrh w2, [x8]": 0x79400102,
    "mov x15, #0x4": 0xD280008F,
    "sub sp, sp, x15, lsl #4": 0xCB2F73FF,
    "subs w19, w19, #1": 0x71000673,
    "mov x3, #0x20": 0xD2800403,
    "ldr w2, [x8, x3]": 0xB8636902,
    "umull x2, w3, w4": 0x9BA47C62,
    "umaddl x2, w3, w4, x2": 0x9BA40862,
    "umnegl x2, w3, w4": 0x9BA4FC62,
    "smull x2, w3, w4": 0x9B247C62,
    "smsubl x2, w3, w4, x2": 0x9B248862,
    "mov w3, #-2": 0x12800023,
}

PIPO_IN_W2 = ("mov w2, #0x6950", "movk w2, #0x6f70, lsl #16")
HALVES = ("mov w3, #0x6950", "mov w4, #0x6f70")
CALL = "bl #0x400"


def assemble(*lines):
    return b"".join(WORDS[line].to_bytes(4, "little") if line in WORDS else bytes.fromhex(line) for line in lines)


def follow(*lines, constants=b"", variables=b"", is_guard_told=False):
    """The flow of one function that consists of these instructions (or bytes, as hex).

    ``is_guard_told``: the load configuration, in the variables, says where the pointer to the guard's check is.
    """
    code = assemble(*lines)
    constants = constants.ljust(IMPORT_SLOT - CONSTANTS_RVA + 8, b"\0").ljust(GUARD_POINTER - CONSTANTS_RVA, b"\0")
    constants += (BASE + CODE_RVA).to_bytes(8, "little")
    memory = make_image(
        (b".text", code, CODE),
        (b".rdata", constants, CONSTANTS),
        (b".data", variables.ljust(16, b"\0"), VARIABLES),
        machine=0xAA64,
        directories=[*[(0, 0)] * 10, (VARIABLES_RVA if is_guard_told else 0, 0x78), (0, 0), (IMPORT_SLOT, 8)],
    )
    image = open_image(memory, machine=Machine.ARM64)
    return follow_function(image, FunctionBounds(CODE_RVA, ((CODE_RVA, CODE_RVA + len(code)),), "pdata"))


def at_call(*lines, location="x2", size=4, **data):
    """What the last call of the function gets."""
    where = Location(location) if isinstance(location, str) else Location("", location)
    return follow(*lines, **data).calls[-1].frame.argument(where, size)


def on_stack(*lines, location="x1", offset=0, **data):
    """The dword at ``offset`` in the structure on the stack whose address the last call gets."""
    frame = follow(*lines, **data).calls[-1].frame
    (address,) = frame.argument(Location(location), 8)
    return frame.stack(address.offset + offset, 4)


@pytest.mark.skipif(not shutil.which("llvm-mc"), reason="llvm-mc is not installed")
def test_words_are_the_assemblers():
    result = subprocess.run(
        ["llvm-mc", "-triple=aarch64", "-mattr=+crc,+lse", "--show-encoding"],
        input="\n".join(WORDS),
        text=True,
        capture_output=True,
    )
    found = re.findall(r"encoding: \[(.*?)\]", result.stdout)
    assert [int.from_bytes(bytes(int(byte, 16) for byte in word.split(",")), "little") for word in found] == list(
        WORDS.values()
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (PIPO_IN_W2, {PIPO}),
        (("mov w2, #-0x6951", "movk w2, #0x6f70, lsl #16"), {0x6F7096AF}),
        (("mov w3, #0x7000", "orr w2, w3, #0xff"), {0x70FF}),
        ((*PIPO_IN_W2, "orr w2, w2, #0x80000000"), {PIPO | 0x80000000}),
        ((*PIPO_IN_W2, "orr w2, w2, #0x80000000", "and w2, w2, #0x7fffffff"), {PIPO}),
        ((*PIPO_IN_W2, "eor w2, w2, #0x20000000"), {PIPO ^ 0x20000000}),
        ((*HALVES, "orr w2, w3, w4, lsl #16"), {PIPO}),
        ((*HALVES, "mov w2, w3", "bfi w2, w4, #16, #16"), {PIPO}),
        ((*HALVES, "lsl w4, w4, #16", "add w2, w3, w4"), {PIPO}),
        ((*HALVES, "lsl w4, w4, #16", "sub w2, w4, w3"), {0x6F700000 - 0x6950}),
        ((*PIPO_IN_W2, "mov w4, #0x6f70", "bfxil w2, w4, #0, #16"), {0x6F706F70}),
        ((*PIPO_IN_W2, "ubfx w2, w2, #16, #16"), {0x6F70}),
        ((*PIPO_IN_W2, "lsr w2, w2, #16"), {0x6F70}),
        ((*PIPO_IN_W2, "rev w2, w2"), {0x5069706F}),
        ((*HALVES, "csel w2, w3, w4, eq"), {0x6950, 0x6F70}),
        ((*HALVES, "csinc w2, w3, w4, eq"), {0x6950, 0x6F71}),
        ((*HALVES, "csinv w2, w3, w4, eq"), {0x6950, 0xFFFF908F}),
        ((*HALVES, "csneg w2, w3, w4, eq"), {0x6950, 0xFFFF9090}),
        (("cset w2, ne",), {0, 1}),
        (
            (*PIPO_IN_W2, "csetm w5, ne", "and w5, w5, #0x1000000", "add w2, w2, w5"),
            {PIPO, PIPO + 0x1000000},
        ),
        ((*HALVES, "mul w2, w3, w4"), {0x6950 * 0x6F70}),
        ((*HALVES, *PIPO_IN_W2, "madd w2, w3, w4, w2"), {PIPO + 0x6950 * 0x6F70}),
        ((*HALVES, "umull x2, w3, w4"), {0x6950 * 0x6F70}),
        ((*HALVES, *PIPO_IN_W2, "umaddl x2, w3, w4, x2"), {PIPO + 0x6950 * 0x6F70}),
        ((*HALVES, "umnegl x2, w3, w4"), {-0x6950 * 0x6F70 & 0xFFFFFFFF}),
        (("mov w3, #-2", "mov w4, #0x6f70", "smull x2, w3, w4"), {-2 * 0x6F70 & 0xFFFFFFFF}),
        ((*PIPO_IN_W2, "mov w3, #-2", "mov w4, #0x6f70", "smsubl x2, w3, w4, x2"), {PIPO + 2 * 0x6F70}),
        (("mov w3, #0x6950", "mvn w2, w3"), {0xFFFF96AF}),
        (("mov w3, #0x6950", "neg w2, w3"), {0xFFFF96B0}),
        (("mov w3, #0x6950", "mov w2, w3"), {0x6950}),
        (("mov w2, wzr",), {0}),
        ((*PIPO_IN_W2, "mov w19, w2", "mov w2, wzr", CALL, "mov w2, w19"), {PIPO}),
        ((*PIPO_IN_W2, "dup v0.4s, w2", "mov w2, wzr", "mov w2, v0.s[1]"), {PIPO}),
        ((*PIPO_IN_W2, "movi v0.2d, #0000000000000000", "mov v0.s[1], w2", "mov w2, wzr", "mov w2, v0.s[1]"), {PIPO}),
    ],
    ids=lambda case: case[-1] if isinstance(case, tuple) else "",
)
def test_a_number_is_computed(lines, expected):
    assert numbers(at_call(*lines, CALL)) == expected


@pytest.mark.parametrize("line", ["crc32w w2, w2, w3", "udiv w2, w2, w3", "cas w2, w3, [x0]", "ldadd w3, w2, [x0]"])
def test_what_is_not_modelled_is_unknown(line):
    assert at_call(*PIPO_IN_W2, line, CALL) == UNKNOWN


def test_a_number_has_its_place_and_text():
    flow = follow(*PIPO_IN_W2, CALL)
    (tag,) = flow.calls[0].frame.argument(Location("x2"), 4)
    assert tag.origin_rva == CODE_RVA + 4
    assert flow.instruction_text[CODE_RVA + 4] == "movk w2, #0x6f70, lsl #16"
    assert flow.instruction_text[CODE_RVA + 8] == "bl #0x1408"
    assert numbers(flow.calls[0].target) == {BASE + 0x1408}


def test_parameters_arrive_and_are_handed_on():
    assert at_call("mov w2, w1", CALL) == {Parameter(Location("x1"))}
    assert at_call("sub sp, sp, #0x40", CALL, location=0x40) == {Parameter(Location("", 0))}


def test_a_kept_register_survives_a_call_and_a_volatile_one_does_not():
    assert numbers(at_call(*PIPO_IN_W2, "mov w19, w2", CALL, "mov w2, w19", CALL)) == {PIPO}
    assert at_call(*PIPO_IN_W2, "mov w9, w2", CALL, "mov w2, w9", CALL) == UNKNOWN


@pytest.mark.parametrize(
    "lines",
    [
        ("sub sp, sp, #0x40", *PIPO_IN_W2, "str w2, [sp]", "mov w2, wzr", "ldr w2, [sp], #0x10"),
        (*PIPO_IN_W2, "str w2, [sp, #-0x10]!", "mov w2, wzr", "ldr w2, [sp], #0x10"),
        ("sub sp, sp, #0x40", *PIPO_IN_W2, "stp w2, w3, [sp, #0x10]", "ldp w2, w3, [sp, #0x10]"),
        (
            "stp x29, x30, [sp, #-0x20]!",
            "mov x29, sp",
            *PIPO_IN_W2,
            "str w2, [x29, #0x18]",
            CALL,
            "ldr w2, [x29, #0x18]",
        ),
    ],
    ids=["post-index", "pre-index", "pair", "frame pointer"],
)
def test_the_frame_keeps_what_was_stored(lines):
    assert numbers(at_call(*lines, CALL)) == {PIPO}


def test_stack_arguments_are_above_the_stack_pointer():
    assert numbers(at_call("sub sp, sp, #0x40", *PIPO_IN_W2, "str w2, [sp, #8]", CALL, location=8)) == {PIPO}


def test_a_store_in_the_middle_of_a_slot_changes_it():
    lines = ("sub sp, sp, #0x40", *PIPO_IN_W2, "str w2, [sp, #8]", "mov w3, #0x7000", "strb w3, [sp, #8]")
    assert numbers(at_call(*lines, CALL, location=8)) == {PIPO & ~0xFF}


@pytest.mark.parametrize(
    "store", ["st1 {v0.16b}, [sp]", "stlr w3, [sp]", "str w3, [sp, w0, uxtw #2]"], ids=["vector", "release", "index"]
)
def test_a_store_that_may_hit_a_slot_is_not_overlooked(store):
    lines = ("sub sp, sp, #0x40", *PIPO_IN_W2, "str w2, [sp]", "str w2, [sp, #8]", store)
    assert numbers(at_call(*lines, CALL, location=0)) is None


def test_the_stack_pointer_moves_behind_a_transfer():
    lines = ("sub sp, sp, #0x40", *PIPO_IN_W2, "str w2, [sp, #8]", "ldr w2, [sp], #0x10", "mov x1, sp")
    assert at_call(*lines, CALL, location="x1", size=8) == {StackAddress(-0x30)}


def test_an_aligned_stack_pointer_is_still_one():
    lines = ("mov x29, sp", "sub x9, sp, #0x30", "and sp, x9, #0xfffffffffffffff0", *PIPO_IN_W2, "str w2, [sp, #8]")
    assert numbers(at_call(*lines, CALL, location=8)) == {PIPO}


def test_a_probed_frame_is_still_one():
    lines = ("mov x15, #0x4", CALL, "sub sp, sp, x15, lsl #4", *PIPO_IN_W2, "str w2, [sp, #8]")
    assert numbers(at_call(*lines, CALL, location=8)) == {PIPO}
    assert at_call("mov x15, #0x4", CALL, "sub sp, sp, x15, lsl #4", CALL, location="sp", size=8) != UNKNOWN


WIDE = ("movz x9, #0x6950", "movk x9, #0x6f70, lsl #16", "movk x9, #0x1, lsl #32", "movk x9, #0x2, lsl #48")
STRUCTURE = bytes.fromhex("80011000 00010000 5069706F 78563412")


@pytest.mark.parametrize(
    ("lines", "offset"),
    [
        ((*WIDE, "str x9, [sp, #8]", "add x1, sp, #8"), 0),
        ((*WIDE, "stur x9, [sp, #4]", "mov x1, sp"), 4),
        ((*WIDE, "fmov d0, x9", "str d0, [sp, #8]", "mov x1, sp"), 8),
        (("adrp x8, #0x1000", "ldr q0, [x8]", "str q0, [sp, #0x10]", "mov x1, sp"), 0x18),
        (("adrp x8, #0x1000", "ldr q0, [x8]", "mov v1.16b, v0.16b", "str q1, [sp, #0x10]", "mov x1, sp"), 0x18),
        ((*PIPO_IN_W2, "dup v0.4s, w2", "stp q0, q1, [sp, #0x10]", "mov x1, sp"), 0x1C),
        ((*PIPO_IN_W2, "movi v0.2d, #0000000000000000", "mov v0.s[1], w2", "str q0, [sp, #0x10]", "mov x1, sp"), 0x14),
    ],
    ids=["x register", "across slots", "d register", "constant", "copied", "each lane", "one lane"],
)
def test_a_structure_on_the_stack_holds_the_tag(lines, offset):
    assert numbers(on_stack("sub sp, sp, #0x40", *lines, CALL, offset=offset, constants=STRUCTURE)) == {PIPO}


def test_what_a_callee_may_write_can_be_anything_afterwards():
    lines = ("sub sp, sp, #0x40", *PIPO_IN_W2, "str w2, [sp, #8]", "add x1, sp, #8", "mov x20, x1", CALL, "mov x1, x20")
    assert on_stack(*lines, CALL) == {Constant(PIPO), Unknown()}


def test_read_only_data_is_a_number_and_a_variable_is_a_place():
    constants = bytes(0x20) + PIPO.to_bytes(4, "little")
    assert numbers(at_call("adrp x8, #0x1000", "ldr w2, [x8, #0x20]", CALL, constants=constants)) == {PIPO}
    assert at_call("adrp x8, #0x2000", "ldr w2, [x8]", CALL) == {ImageRead(VARIABLES_RVA, 4)}
    assert numbers(at_call("adrp x8, #0x1000", "mov x3, #0x20", "ldr w2, [x8, x3]", CALL, constants=constants)) == {
        PIPO
    }
    assert numbers(at_call("ldr w2, #0x10", CALL, "ret", "nop", "5069706F")) == {PIPO}


@pytest.mark.parametrize(
    ("load", "expected"), [("ldrsb w2, [x8]", 0xFFFFFF80), ("ldrh w2, [x8]", 0x180), ("ldrsw x2, [x8]", 0x100180)]
)
def test_short_loads_are_extended(load, expected):
    assert numbers(at_call("adrp x8, #0x1000", load, CALL, constants=STRUCTURE)) == {expected}


def test_pointers_are_followed_by_name():
    flow = follow(
        "ldr x8, [x0, #0x10]", "ldr x8, [x8, #8]", "blr x8", "adrp x8, #0x1000", "ldr x8, [x8, #0x100]", "blr x8"
    )
    assert flow.calls[0].target == {FieldRead(FieldRead(Parameter(Location("x0")), 0x10, 8), 8, 8)}
    assert flow.calls[1].target == {ImageRead(IMPORT_SLOT, 8)}


GUARDED = ("ldr x8, [x0, #0x10]", "adrp x9, #0x1000", "ldr x9, [x9, #0x200]", "mov x15, x8", *PIPO_IN_W2, "blr x9")


@pytest.mark.parametrize("call", ["blr x8", "blr x15"])
def test_the_check_of_control_flow_guard_is_no_call(call):
    (site,) = follow(*GUARDED, call, "ret").calls
    assert site.target == {FieldRead(Parameter(Location("x0")), 0x10, 8)}
    assert numbers(site.frame.argument(Location("x2"), 4)) == {PIPO}


@pytest.mark.parametrize(("is_told", "expected"), [(True, {PIPO}), (False, None)])
def test_the_check_of_a_pointer_of_which_nothing_is_known(is_told, expected):
    """The load configuration tells where the check is; else it could be any function."""
    configuration = struct.pack("<I108xQ", 0x78, BASE + GUARD_POINTER)
    lines = (CALL, "mov x15, x8", "adrp x9, #0x1000", "ldr x9, [x9, #0x200]", *PIPO_IN_W2, "blr x9", "blr x15", "ret")
    *others, site = follow(*lines, variables=configuration, is_guard_told=is_told).calls
    assert len(others) == (1 if is_told else 2)
    assert numbers(site.frame.argument(Location("x2"), 4)) == expected


def test_an_import_is_a_call_whatever_x15_holds():
    lines = ("ldr x8, [x0, #0x10]", "mov x15, x8", "adrp x8, #0x1000", "ldr x8, [x8, #0x100]", *PIPO_IN_W2, "blr x8")
    first, second = follow(*lines, CALL, "ret").calls
    assert first.target == {ImageRead(IMPORT_SLOT, 8)}
    assert second.frame.argument(Location("x2"), 4) == UNKNOWN


def test_a_size_for_the_stack_probe_is_no_target():
    lines = ("mov x15, #0x4", CALL, "adrp x8, #0x2000", "ldr x8, [x8, #8]", *PIPO_IN_W2, "blr x8", CALL, "ret")
    assert [call.rva for call in follow(*lines).calls] == [CODE_RVA + 4, CODE_RVA + 24, CODE_RVA + 28]


def test_paths_are_joined():
    assert numbers(at_call("mov w2, #0x6950", "cbz x0, #8", "mov w2, wzr", CALL)) == {0x6950, 0}
    assert numbers(at_call("mov w2, #0x6950", "tbnz w0, #3, #12", "mov w2, wzr", "b #-8", CALL)) == {0x6950, 0}


def test_a_loop_ends():
    lines = (*PIPO_IN_W2, "mov w19, w2", "mov w2, w19", CALL, "subs w19, w19, #1", "b.ne #-12", CALL, "ret")
    flow = follow(*lines)
    assert flow.lost is None
    assert [call.rva for call in flow.calls] == [CODE_RVA + 16, CODE_RVA + 28]


def test_jumps_out_of_the_function_are_calls():
    jump, register_jump = follow(*PIPO_IN_W2, "b #0x400"), follow(*PIPO_IN_W2, "br x8")
    for site in (*jump.calls, *register_jump.calls):
        assert site.is_jump
        assert numbers(site.frame.argument(Location("x2"), 4)) == {PIPO}
    assert numbers(jump.calls[0].target) == {BASE + CODE_RVA + 8 + 0x400}


@pytest.mark.parametrize("end", ["ret", "brk #0xf003"])
def test_nothing_goes_on_behind_an_end(end):
    assert numbers(at_call("mov w2, #0x6950", "cbz x0, #12", "mov w2, wzr", end, CALL)) == {0x6950}
    assert numbers(at_call("mov w2, #0x6950", "cbz x0, #12", "mov w2, wzr", "brk #0xf000", CALL)) == {0x6950, 0}


def test_arms_of_a_switch_are_found_with_the_registers_at_the_switch():
    flow = follow(
        *PIPO_IN_W2,
        "mov w19, w2",
        "adrp x8, #0x1000",
        "ldrb w9, [x8, x0]",
        "adr x8, #0x10",
        "add x8, x8, w9, sxtw #2",
        "br x8",
        *("mov w2, w19", CALL, "ret"),
        *("nop", "mov w2, wzr", CALL, "ret"),
    )
    assert [numbers(call.frame.argument(Location("x2"), 4)) for call in flow.calls] == [{PIPO}, {0}]
    assert flow.lost is None


EXPECTED = {
    ("pippo.sys", 0x10E4): {b"Pipo"},
    ("pippo.sys", 0x1214): {b"Pipo"},
    ("twinone.sys", 0x10E4): {b"Dupl"},
    ("twinone.sys", 0x1180): {b"Dupl"},
    ("twintwo.sys", 0x1028): {b"Dupl"},
    ("holder.sys", 0x104C): {b"Hldr"},
}
"""Driver and place of a call that gets the tag in w1 or w2: read off what llvm-objdump prints."""


@needs_drivers
@pytest.mark.parametrize(("driver", "rva"), EXPECTED)
def test_sample_drivers_hand_over_their_tags(driver, rva):
    image = open_driver(driver)
    flow = follow_function(image, FunctionTable(image).find(rva))
    (site,) = [call for call in flow.calls if call.rva == rva]
    found = [numbers(site.frame.argument(Location(name), 4)) for name in ("x1", "x2")]
    tags = {number.to_bytes(4, "little") for value in found if value for number in value}
    assert EXPECTED[driver, rva] <= tags


@needs_drivers
def test_a_wrapper_hands_its_parameter_on():
    image = open_driver("pagella.sys")
    (section,) = [section for section in image.sections if section.name == "PAGE"]
    calls = follow_function(image, FunctionTable(image).find(section.rva)).calls
    assert Parameter(Location("x0")) in {atom for call in calls for atom in call.frame.argument(Location("x2"), 4)}


@needs_drivers
@pytest.mark.skipif(not shutil.which("llvm-objdump"), reason="llvm-objdump is not installed")
@pytest.mark.parametrize("driver", sorted(path.name for path in DRIVERS.glob("arm64/*.sys")))
def test_every_call_that_a_disassembler_shows_is_followed(driver):
    path = DRIVERS / "arm64" / driver
    pe, _ = map_file(path)
    listing = subprocess.run(["llvm-objdump", "-d", str(path)], text=True, capture_output=True).stdout
    shown = {
        int(match[1], 16) - pe.OPTIONAL_HEADER.ImageBase
        for match in re.finditer(r"^\s*([0-9a-f]+): .*\t(?:bl|blr)\t", listing, re.MULTILINE)
    }
    image = open_driver(driver)
    table = FunctionTable(image)
    flows = {bounds.start_rva: follow_function(image, bounds) for bounds in map(table.find, sorted(shown))}
    assert all(flow.lost is None for flow in flows.values())
    followed = {call.rva for flow in flows.values() for call in flow.calls}
    checks = {rva for rva in shown - followed if driver.startswith("framed")}  # control-flow guard's are left out
    assert shown - checks <= followed
    assert len(checks) <= 4


def open_driver(name):
    _, memory = map_file(DRIVERS / "arm64" / name)
    return open_image(memory, name=name, machine=Machine.ARM64)


@settings(max_examples=60)
@given(st.lists(st.one_of(st.integers(0, 0xFFFFFFFF), st.sampled_from(sorted(WORDS.values()))), max_size=120))
def test_any_words_are_followed(words):
    flow = follow(b"".join(word.to_bytes(4, "little") for word in words).hex() or "00")
    assert [call.rva for call in flow.calls] == sorted({call.rva for call in flow.calls})


@ends_soon
def test_junk_ends_in_time():
    code = b"".join((number * 0x9E3779B1 & 0xFFFFFFFF).to_bytes(4, "little") for number in range(30_000))
    follow(code.hex())


def test_the_stack_pointer_at_the_entry_is_the_origin():
    assert at_call("sub sp, sp, #0x40", "mov x1, sp", CALL, location="x1", size=8) == {StackAddress(-0x40)}
