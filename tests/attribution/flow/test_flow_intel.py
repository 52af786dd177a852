"""The flow engine on x64 and x86: single idioms, the sample drivers against GNU objdump, and hostile code."""

from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.attribution.flow import controlflow, function
from pykdext.attribution.flow.cells import MAX_CELLS, Cells
from pykdext.attribution.flow.function import follow_function
from pykdext.attribution.flow.state import State
from pykdext.attribution.flow.values import (
    UNKNOWN,
    Constant,
    FieldRead,
    ImageRead,
    Location,
    Parameter,
    StackAddress,
    constant,
    numbers,
)
from pykdext.images.functiontable import FunctionBounds, FunctionTable
from pykdext.images.image import read_image
from pykdext.model import Machine, Module
from tests.helpers.flowsnippets import X64, X86, code_of
from tests.helpers.patience import ends_soon
from tests.helpers.segments import SegmentsTarget
from tests.images.test_image import CODE, CONSTANTS, DRIVERS, PAGE, VARIABLES, make_image, needs_drivers

pytest.importorskip("capstone")

BASES = {Machine.X64: 0xFFFFF80412340000, Machine.X86: 0x82340000}
PIPO, ALTR, TERZ = (int.from_bytes(tag, "little") for tag in (b"Pipo", b"Altr", b"Terz"))
SLOT, GUARD, VARIABLE = 0x2000, 0x2010, 0x3000
VECTOR = struct.pack("<8I", 1, 2, PIPO, 4, 5, 6, ALTR, 8)


def place(data, offset, piece):
    data[offset : offset + len(piece)] = piece


def image_of(code, machine=Machine.X64, missing=()):
    """An image of a code page, a page of constants with an import table, and a page of variables."""
    constants = bytearray(PAGE)
    place(constants, 0x100, VECTOR)
    place(constants, 0x200, struct.pack("<3i", *(arm - 0x2200 for arm in X64_ARMS)))
    place(constants, 0x300, struct.pack("<2I", *(BASES[Machine.X86] + arm for arm in X86_ARMS)))
    memory = make_image(
        (b".text", code.ljust(PAGE, b"\xcc"), CODE),
        (b".rdata", bytes(constants), CONSTANTS),
        (b".data", b"\x11" * PAGE, VARIABLES),
        machine={Machine.X64: 0x8664, Machine.X86: 0x14C}[machine],
        directories=[(0, 0)] * 12 + [(0x2000, 0x40)],
    )
    base = BASES[machine]
    pages = {base + rva: memory[rva : rva + PAGE] for rva in range(0, len(memory), PAGE) if rva not in missing}
    target = SegmentsTarget(pages, machine=machine, modules=(Module("made.sys", base, len(memory)),))
    return read_image(target, target.modules()[0])


def arms_of(code, opcode):
    """Where the arms of a switch begin: each loads or pushes its tag."""
    tags = [opcode + tag.to_bytes(4, "little") for tag in (PIPO, ALTR, TERZ)]
    return [0x1000 + code.index(tag) for tag in tags if tag in code]


X64_ARMS = arms_of(code_of(X64["switch_relative"]), b"\x41\xb8")
X86_ARMS = arms_of(code_of(X86["switch"]), b"\x68")


def follow(code, machine=Machine.X64, **options):
    bounds = FunctionBounds(0x1000, ((0x1000, 0x1000 + len(code)),), "flow")
    return follow_function(image_of(code, machine, **options), bounds)


def calls_of(flow, slot=SLOT):
    return [
        call for call in flow.calls if any(isinstance(atom, ImageRead) and atom.rva == slot for atom in call.target)
    ]


def argument(name, location, machine=Machine.X64, size=4):
    """What the last call through SLOT in the snippet gets."""
    flow = follow(code_of((X64 if machine is Machine.X64 else X86)[name]), machine)
    assert flow.lost is None
    return calls_of(flow)[-1].frame.argument(location, size)


R8, R9, FIFTH, SIXTH = Location("r8"), Location("r9"), Location("", 0x20), Location("", 0x28)


@pytest.mark.parametrize(
    ("name", "location", "expected"),
    [
        ("immediate", R8, {PIPO}),
        ("conditional_move", R8, {PIPO, ALTR}),
        ("borrow_and_mask", R8, {PIPO, ALTR}),
        ("set_and_negate", R8, {PIPO, ALTR}),
        ("set_low_byte", R8, {PIPO, PIPO + 1}),
        ("computed", R8, {PIPO}),
        ("bytes_swapped", R8, {PIPO}),
        ("spilled", R8, {PIPO}),
        ("kept_in_nonvolatile", R8, {PIPO}),
        ("stack_argument", SIXTH, {PIPO}),
        ("vector_store", SIXTH, {PIPO}),
        ("vector_ymm", Location("", 0x38), {ALTR}),
        ("vector_broadcast", Location("", 0x2C), {PIPO}),
        ("vector_built", SIXTH, {PIPO}),
        ("copied_block", SIXTH, {PIPO}),
        ("overwritten_block", SIXTH, {0}),
        ("loop", R8, {PIPO}),
        ("tail_call", R8, {PIPO}),
        ("tail_call_stack", FIFTH, {PIPO}),
        ("constant_global", R8, {PIPO}),
        ("probed_frame", SIXTH, {PIPO}),
        ("data_between", R8, {PIPO}),
        ("handler_behind_return", SIXTH, {PIPO}),
        ("partial_write", R8, {PIPO & ~0xFF | 0x58}),
        ("switch_relative", R8, {PIPO, ALTR, TERZ}),
        ("switch_unknown", SIXTH, {PIPO}),
        ("sum_of_parts", R8, {PIPO}),
        ("exchanged", R8, {PIPO}),
        ("aligned_frame", SIXTH, {PIPO}),
    ],
)
def test_numbers_reach_the_call_on_x64(name, location, expected):
    assert numbers(argument(name, location)) == expected


@pytest.mark.parametrize(
    ("name", "location", "expected"),
    [
        ("pushed", Location("", 8), {PIPO}),
        ("pushed", Location("", 4), {0x40}),
        ("moved", Location("", 8), {ALTR}),
        ("nested_internal", Location("", 8), {PIPO}),
        ("nested_cdecl", Location("", 8), {PIPO}),
        ("after_stdcall", Location("", 8), {PIPO}),
        ("frame_slot", Location("", 8), {PIPO}),
        ("fastcall", Location("edx"), {PIPO}),
        ("register_call", Location("", 8), {ALTR}),
        ("frame_helper", Location("", 8), {PIPO}),
        ("switch", Location("", 8), {PIPO, ALTR}),
        ("by_string", Location("", 8), {PIPO}),
    ],
)
def test_numbers_reach_the_call_on_x86(name, location, expected):
    assert numbers(argument(name, location, Machine.X86)) == expected


@pytest.mark.parametrize(
    ("name", "location", "expected"),
    [
        ("lost_in_volatile", R8, UNKNOWN),
        ("unknown_instruction", R8, UNKNOWN),
        ("escaped", R8, constant(PIPO) | UNKNOWN),
        ("wrapper", R8, {Parameter(Location("rcx"))}),
        ("wrapper", Location("rax"), {Parameter(Location("", 0x20))}),
        ("global", R8, {ImageRead(VARIABLE, 4)}),
        ("behind_pointer", R8, {FieldRead(Parameter(Location("rcx")), 0x18, 4)}),
        ("lost_in_volatile", Location("rbx"), {Parameter(Location("rbx"))}),
    ],
)
def test_what_is_no_number_says_what_it_is(name, location, expected):
    assert argument(name, location) == expected


def test_wrappers_of_x86_hand_on_their_stack_arguments():
    assert argument("wrapper", Location("", 8), Machine.X86) == {Parameter(Location("", 0))}
    assert argument("wrapper", Location("", 4), Machine.X86) == {Parameter(Location("", 4))}
    assert argument("frame_helper", Location("", 4), Machine.X86) == {Parameter(Location("", 0))}


def test_both_calls_after_a_callee_that_removed_its_arguments():
    for name, expected in (("moved", [PIPO, ALTR]), ("register_call", [PIPO, ALTR])):
        flow = follow(code_of(X86[name]), Machine.X86)
        values = [call.frame.argument(Location("", 8), 4) for call in calls_of(flow)]
        assert [numbers(value) for value in values] == [{tag} for tag in expected]


def test_tail_calls_are_told_and_end_the_function():
    (call,) = follow(code_of(X64["tail_call"])).calls
    assert call.is_jump
    assert call.target == {ImageRead(SLOT, 8)}
    code = bytes.fromhex("41b8") + PIPO.to_bytes(4, "little") + bytes.fromhex("e900100000")
    (call,) = follow(code).calls
    assert call.is_jump
    assert numbers(call.target) == {BASES[Machine.X64] + 0x1000 + len(code) + 0x1000}
    assert numbers(call.frame.argument(R8, 4)) == {PIPO}


def test_an_entry_of_a_function_table_is_a_field():
    entry = FieldRead(ImageRead(VARIABLE, 8), 0x648, 8)
    (call,) = follow(code_of(X64["function_table"])).calls
    assert call.target == {entry}
    assert call.frame.argument(Location("rcx"), 8) == {ImageRead(VARIABLE + 8, 8)}
    (call,) = follow(code_of(X64["guarded"])).calls
    assert call.target == {ImageRead(GUARD, 8)}
    assert call.dispatched == {entry}
    assert numbers(call.frame.argument(R9, 4)) == {PIPO}


def test_texts_explain_constants_and_calls():
    flow = follow(code_of(X64["immediate"]))
    (call,) = flow.calls
    (tag,) = call.frame.argument(R8, 4)
    assert flow.instruction_text[tag.origin_rva] == "mov r8d, 0x6f706950"
    assert flow.instruction_text[call.rva] == "call qword ptr [rip + 0xfea]"
    flow = follow(code_of(X64["set_and_negate"]))
    origins = {atom.number: atom.origin_rva for atom in calls_of(flow)[0].frame.argument(R8, 4)}
    assert flow.instruction_text[origins[PIPO]] == "add r8d, 0x6f706950"


def test_a_loop_does_not_blur_what_it_leaves_alone():
    flow = follow(code_of(X64["loop"]))
    (call,) = flow.calls
    assert call.frame.argument(Location("rdx"), 4) >= UNKNOWN, "the counter"
    assert numbers(call.frame.argument(R8, 4)) == {PIPO}


def test_code_that_is_missing_is_said():
    code = code_of(X64["immediate"])
    flow = follow(code, missing=[0x1000])
    assert flow.calls == ()
    assert flow.lost == "code at 0x1000 is not in memory"
    assert follow(b"\x06" + code).lost == "no instruction at 0x1000"


def test_parts_far_away_belong_to_the_function():
    code = bytes.fromhex("e9fb000000").ljust(0x100, b"\xcc") + code_of(X64["immediate"]).replace(
        b"\xea\x0f", b"\xea\x0e"
    )
    bounds = FunctionBounds(0x1000, ((0x1000, 0x1005), (0x1100, 0x1000 + len(code))), "pdata")
    flow = follow_function(image_of(code), bounds)
    assert [call.rva for call in calls_of(flow)] == [0x1110]
    assert not any(call.is_jump for call in flow.calls)


# --- the sample drivers -------------------------------------------------------------------------------------------

ALLOCATORS = {
    "ExAllocatePoolWithTag": {Machine.X64: R8, Machine.X86: Location("", 8)},
    "ExAllocatePool2": {Machine.X64: R8, Machine.X86: Location("", 12)},
    "ExInitializeNPagedLookasideList": {Machine.X64: SIXTH, Machine.X86: Location("", 20)},
    "ExInitializeLookasideListEx": {Machine.X64: Location("", 0x30), Machine.X86: Location("", 24)},
}


def open_driver(path):
    """A driver where its file wants to be, so that its absolute addresses are right; and its import table."""
    pefile = pytest.importorskip("pefile")
    pe = pefile.PE(str(path))
    base = pe.OPTIONAL_HEADER.ImageBase
    memory = bytes(pe.get_memory_mapped_image())
    memory = memory.ljust(-(-len(memory) // PAGE) * PAGE, b"\0")
    machine = Machine.X64 if pe.FILE_HEADER.Machine == 0x8664 else Machine.X86
    target = SegmentsTarget({base: memory}, machine=machine, modules=(Module(path.name, base, len(memory)),))
    slots = {
        entry.address - base: entry.name.decode() for library in pe.DIRECTORY_ENTRY_IMPORT for entry in library.imports
    }
    return read_image(target, target.modules()[0]), slots


def flows_of(image):
    """Every function of an image."""
    table, starts = FunctionTable(image), {}
    for section in image.sections:
        if section.executable:
            for rva in range(section.rva, section.rva + section.size, 4):
                bounds = table.find(rva)
                if bounds:
                    starts[bounds.start_rva] = bounds
    return [follow_function(image, bounds) for bounds in starts.values()]


def named_calls(flows, slots):
    for flow in flows:
        for call in flow.calls:
            for atom in call.target:
                if isinstance(atom, ImageRead) and atom.rva in slots:
                    yield slots[atom.rva], call


def objdump_calls(path, base, slots):
    """RVAs of the calls and jumps through the import table, by GNU objdump."""
    text = subprocess.run(["objdump", "-d", "-w", path], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*([0-9a-f]+):.*\s(?:call|jmp)\S*\s+\*(?:0x[0-9a-f]+$|.*#\s)", line)
        if match:
            slot = int(re.search(r"(?:#\s*|\*)0x([0-9a-f]+)[^#]*$", line).group(1), 16) - base
            if slot in slots:
                found[int(match.group(1), 16) - base] = slots[slot]
    return found


@needs_drivers
@pytest.mark.skipif(not shutil.which("objdump"), reason="GNU objdump is not here")
@pytest.mark.parametrize("machine", ["x64", "x86"])
@pytest.mark.parametrize("name", ["pippo", "pagella", "lookas", "globus", "holder", "twinone", "twintwo", "ctxreg"])
def test_calls_are_those_that_objdump_sees(machine, name):
    path = DRIVERS / machine / f"{name}.sys"
    image, slots = open_driver(path)
    flows = flows_of(image)
    if machine == "x64":  # where functions end on x86 is concluded, not known: some may be cut within an instruction
        assert [flow.lost for flow in flows] == [None] * len(flows)
    expected = objdump_calls(path, image.module.base, slots)
    assert len(expected) > 3
    told = {call.rva: slot for slot, call in named_calls(flows, slots)}
    assert {rva: told.get(rva) for rva in expected} == expected


@needs_drivers
@pytest.mark.parametrize("machine", [Machine.X64, Machine.X86])
@pytest.mark.parametrize(
    ("name", "tag", "sites"),
    [
        ("pippo", b"Pipo", 1),
        ("lookas", b"Look", 2),
        ("holder", b"Hldr", 1),
        ("twinone", b"Dupl", 1),
        ("twintwo", b"Dupl", 1),
    ],
)
def test_the_tag_reaches_the_allocator(machine, name, tag, sites):
    image, slots = open_driver(DRIVERS / machine.value / f"{name}.sys")
    tags = [
        numbers(call.frame.argument(ALLOCATORS[slot][machine], 4))
        for slot, call in named_calls(flows_of(image), slots)
        if slot in ALLOCATORS
    ]
    assert tags == [{int.from_bytes(tag, "little")}] * sites


@needs_drivers
@pytest.mark.parametrize("machine", [Machine.X64, Machine.X86])
def test_a_tag_in_a_global_is_named_by_its_place(machine):
    image, slots = open_driver(DRIVERS / machine.value / "globus.sys")
    (value,) = [
        call.frame.argument(ALLOCATORS[slot][machine], 4)
        for slot, call in named_calls(flows_of(image), slots)
        if slot == "ExAllocatePoolWithTag"
    ]
    (read,) = value
    assert image.read(read.rva, read.size) == b"Glob"


@needs_drivers
@pytest.mark.parametrize("machine", [Machine.X64, Machine.X86])
def test_wrappers_hand_on_a_parameter(machine):
    image, slots = open_driver(DRIVERS / machine.value / "pagella.sys")
    flows = flows_of(image)
    values = [
        (flow.start_rva, call.frame.argument(ALLOCATORS["ExAllocatePoolWithTag"][machine], 4))
        for flow in flows
        for slot, call in named_calls([flow], slots)
        if slot == "ExAllocatePoolWithTag"
    ]
    places = {start: {atom.location for atom in value if isinstance(atom, Parameter)} for start, value in values}
    assert places
    assert all(places.values()), "each function that allocates has its tag from its caller"
    handed = [
        numbers(call.frame.argument(location, 4))
        for flow in flows
        for call in flow.calls
        for start, locations in places.items()
        if Constant(image.module.base + start) in call.target
        for location in locations
    ]
    assert {int.from_bytes(b"Pgla", "little")} in handed


# --- cells and states ---------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 255))), st.data())
def test_cells_are_memory(writes, data):
    cells, memory = Cells(), [None] * 64
    for offset, size, byte in writes:
        cells.write(offset, size, constant(int.from_bytes(bytes([byte]) * size, "little")))
        memory[offset : offset + size] = [byte] * size
    offset, size = data.draw(st.integers(0, 40)), data.draw(st.sampled_from([1, 2, 4, 8, 16]))
    held = memory[offset : offset + size]
    value = cells.read(offset, size)
    if all(byte is None for byte in held):
        assert value is None
    elif None in held:
        assert value == UNKNOWN
    else:
        assert numbers(value) == {int.from_bytes(bytes(held), "little")}


def test_cells_are_bounded():
    cells = Cells()
    for offset in range(2 * MAX_CELLS):
        cells.write(4 * offset, 4, constant(offset))
    assert len(cells) == MAX_CELLS


def test_a_copied_structure_keeps_the_field_that_is_known():
    cells = Cells()
    cells.write(0, 8, frozenset({Parameter(Location("rcx"))}))
    cells.write(12, 4, constant(PIPO))
    cells.paste(32, 16, cells.cut(0, 16))
    assert cells.read(32, 8) == {Parameter(Location("rcx"))}
    assert cells.read(40, 4) == UNKNOWN
    assert cells.read(44, 4) == constant(PIPO)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=8), st.booleans())
def test_joining_again_tells_nothing_new(writes, widen):
    states = [State({}, 8), State({"a": constant(9)}, 8)]
    for index, (name, number) in enumerate(writes):
        states[index % 2].registers[name] = constant(number)
        states[index % 2].write_frame(-8 * number - 8, 8, constant(ord(name)))
    mine, theirs = states
    mine.write_frame(-64, 8, frozenset({StackAddress(-16)}))
    mine.merge(theirs, widen)
    assert not mine.merge(theirs, widen)
    assert mine.escaped == -16
    for name in "abc":
        assert mine.read_register(name) >= theirs.read_register(name) or mine.read_register(name) >= UNKNOWN


# --- hostile code -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.binary(max_size=600), st.sampled_from([Machine.X64, Machine.X86]))
@ends_soon
def test_any_bytes_end(code, machine):
    follow(code + b"\xc3", machine)


HOSTILE = {
    "jumps everywhere": lambda random: bytes(random.choice([0x70, 0x50, 0xFF, 0xC0, 0xEB, 0x05]) for _ in range(PAGE)),
    "growing stack": lambda random: bytes.fromhex("5070fd") * 1300,
    "calls of the next": lambda random: bytes.fromhex("e800000000") * 800,
    "ends of paths": lambda random: b"\xc3" * PAGE,
    "unreached parts": lambda random: bytes.fromhex("ffe0e80000000050") * 500,
    "loops in loops": lambda random: b"".join(
        bytes.fromhex("48ffc0500f85") + struct.pack("<i", random.randrange(-10 * index - 10, 0)) for index in range(400)
    ),
}


@pytest.mark.parametrize("machine", [Machine.X64, Machine.X86])
@pytest.mark.parametrize("name", HOSTILE)
@ends_soon
def test_hostile_code_is_bounded(name, machine):
    code = HOSTILE[name](random.Random(7))[:PAGE]
    follow(code, machine)


def test_a_known_allocator_removes_its_own_arguments_only():
    """``push Pipo; push Altr; push eax; call [free]; push eax; push 0; call [allocate]`` as compilers nest calls."""
    base = BASES[Machine.X86]
    free, allocate = base + 0x2000, base + 0x2004
    code = b"\x68" + PIPO.to_bytes(4, "little") + b"\x68" + ALTR.to_bytes(4, "little") + b"\x50"
    code += b"\xff\x15" + free.to_bytes(4, "little") + b"\x50\x6a\x00"
    code += b"\xff\x15" + allocate.to_bytes(4, "little") + b"\xc3"
    constants = bytearray(PAGE)
    for offset in (0x000, 0x020):  # the pointers and the names they had
        place(constants, offset, struct.pack("<III", 0x2100, 0x2140, 0))
    place(constants, 0x040, struct.pack("<5I", 0x2020, 0, 0, 0x2180, 0x2000))
    place(constants, 0x102, b"ExFreePoolWithTag\0")
    place(constants, 0x142, b"ExAllocatePoolWithTag\0")
    place(constants, 0x180, b"ntoskrnl.exe\0")
    memory = make_image(
        (b".text", code.ljust(PAGE, b"\xcc"), CODE),
        (b".rdata", bytes(constants), CONSTANTS),
        machine=0x14C,
        directories=[(0, 0), (0x2040, 40), *[(0, 0)] * 10, (0x2000, 12)],
    )
    target = SegmentsTarget({base: memory}, machine=Machine.X86, modules=(Module("made.sys", base, len(memory)),))
    bounds = FunctionBounds(0x1000, ((0x1000, 0x1000 + len(code)),), "flow")
    image = read_image(target, target.modules()[0])
    freed, allocated = follow_function(image, bounds, {0x2000: 8, 0x2004: 12}).calls
    assert numbers(freed.frame.argument(Location("", 4), 4)) == {ALTR}
    assert numbers(allocated.frame.argument(Location("", 8), 4)) == {PIPO}


def test_limits_are_said(monkeypatch):
    monkeypatch.setattr(controlflow, "MAX_INSTRUCTIONS", 3)
    assert follow(code_of(X64["immediate"])).lost == "more than 3 instructions"
    monkeypatch.undo()
    monkeypatch.setattr(function, "MAX_STEPS", 3)
    assert follow(code_of(X64["immediate"])).lost == "more than 3 steps"
    monkeypatch.undo()
    monkeypatch.setattr(function, "MAX_CALLS", 1)
    flow = follow(code_of(X64["spilled"]))
    assert flow.lost == "more than 1 calls"
    assert len(flow.calls) == 1
