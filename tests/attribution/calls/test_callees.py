"""What a call reaches: imports, live pointers, exports, thunks, dispatchers, KMDF's table."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.attribution.calls.allocators import find_allocator
from pykdext.attribution.calls.callees import Callee, CalleeResolver
from pykdext.attribution.calls.kmdf import find_framework_table
from pykdext.attribution.flow.calls import CallSite
from pykdext.attribution.flow.function import follow_function
from pykdext.attribution.flow.thunks import read_thunk
from pykdext.attribution.flow.values import (
    UNKNOWN,
    Constant,
    FieldRead,
    ImageRead,
    Location,
    Parameter,
    Unknown,
    numbers,
)
from pykdext.images.functiontable import FunctionTable
from pykdext.images.image import read_image
from pykdext.model import Machine, Module
from tests.helpers.patience import ends_soon
from tests.helpers.peimages import ARM64, CODE, CONSTANTS, EXPORT, IMPORT, PAGE, VARIABLES, X64, X86, Part, build_memory
from tests.helpers.segments import SegmentsTarget
from tests.images.test_image import DRIVERS, map_file, needs_drivers

MACHINES = {Machine.X86: X86, Machine.X64: X64, Machine.ARM64: ARM64}
WIDE_BASES = (0xFFFFF80010000000, 0xFFFFF80010400000)
NARROW_BASES = (0x82000000, 0x82400000)

CODE_RVA, CONSTANTS_RVA, VARIABLES_RVA = PAGE, 2 * PAGE, 3 * PAGE
SLOT, OTHER_SLOT = CONSTANTS_RVA + 0x100, CONSTANTS_RVA + 0x108
ALLOCATE, FREE, NAMELESS = 0x1010, 0x1020, 0x1030
EXPORTS = {"AlsoCalledThis": ALLOCATE, "ExAllocatePoolWithTag": ALLOCATE, "ExFreePoolWithTag": FREE}


def export_section(names, rva=CONSTANTS_RVA):
    """An export table at ``rva``."""
    count = len(names)
    functions, texts = rva + 40, rva + 40 + 10 * count
    text, name_rvas = b"", []
    for name in names:
        name_rvas.append(texts + len(text))
        text += name.encode() + b"\0"
    header = struct.pack("<16xIIIIII", 1, count, count, functions, functions + 4 * count, functions + 8 * count)
    rvas = b"".join(struct.pack("<I", place) for place in names.values())
    ordinals = b"".join(struct.pack("<H", index) for index in range(count))
    return header + rvas + b"".join(struct.pack("<I", place) for place in name_rvas) + ordinals + text


class System:
    """A kernel image with exports, and a driver whose bytes the test says."""

    def __init__(self, machine=Machine.X64, *, code=b"", constants=b"", variables=b"", directories=None, missing=()):
        self.kernel_base, self.base = NARROW_BASES if machine is Machine.X86 else WIDE_BASES
        self.pointer_size = machine.pointer_size
        exports = export_section(EXPORTS)
        kernel = build_memory(
            Part(b".text", CODE_RVA, b"\xc3" * PAGE, CODE),
            Part(b".edata", CONSTANTS_RVA, exports, CONSTANTS),
            machine=MACHINES[machine],
            base=self.kernel_base,
            directories={EXPORT: (CONSTANTS_RVA, len(exports))},
        )
        driver = build_memory(
            Part(b".text", CODE_RVA, code.ljust(PAGE, b"\xcc"), CODE),
            Part(b".rdata", CONSTANTS_RVA, constants.ljust(PAGE, b"\0"), CONSTANTS),
            Part(b".data", VARIABLES_RVA, variables.ljust(PAGE, b"\0"), VARIABLES),
            machine=MACHINES[machine],
            base=self.base,
            directories=directories or {},
        )
        pages = {self.kernel_base: kernel}
        pages.update(
            (self.base + rva, driver[rva : rva + PAGE]) for rva in range(0, len(driver), PAGE) if rva not in missing
        )
        modules = (Module("ntoskrnl.exe", self.kernel_base, len(kernel)), Module("made.sys", self.base, len(driver)))
        self.target = SegmentsTarget(pages, machine=machine, modules=modules)
        self.images = [read_image(self.target, module) for module in modules]
        self.driver = self.images[1]

    def resolve(self, *target, dispatched=UNKNOWN):
        site = CallSite(CODE_RVA, frozenset(target), frozenset(dispatched), None)
        return CalleeResolver(self.images).resolve(self.driver, site)

    def slot(self, rva=SLOT):
        return ImageRead(rva, self.pointer_size)


def pointer_at(rva, address, size=8):
    return bytes(rva - CONSTANTS_RVA) + address.to_bytes(size, "little")


KERNEL = WIDE_BASES[0]
DRIVER = WIDE_BASES[1]
ALLOCATES = Callee("ExAllocatePoolWithTag", "ntoskrnl.exe")
TO_ALLOCATE = pointer_at(SLOT, KERNEL + ALLOCATE)


def imports_section(machine):
    """An import table of one library at CONSTANTS_RVA, with its pointers at SLOT not filled in."""
    width = machine.pointer_size
    name, library, lookup = CONSTANTS_RVA + 0x40, CONSTANTS_RVA + 0x60, CONSTANTS_RVA + 0x80
    data = bytearray(0x200)
    data[:20] = struct.pack("<I8xII", lookup, library, SLOT)
    data[0x40:0x57] = b"\1\0ExAllocatePoolWithTag"
    data[0x60:0x6C] = b"ntoskrnl.exe"
    for place in (lookup, SLOT):
        data[place - CONSTANTS_RVA : place - CONSTANTS_RVA + width] = name.to_bytes(width, "little")
    return bytes(data)


@pytest.mark.parametrize("machine", MACHINES)
def test_an_import_has_the_name_of_its_table(machine):
    system = System(machine, constants=imports_section(machine), directories={IMPORT: (CONSTANTS_RVA, 40)})
    assert system.resolve(system.slot()) == ALLOCATES


@pytest.mark.parametrize("machine", MACHINES)
def test_without_a_table_the_live_pointer_tells(machine):
    kernel = NARROW_BASES[0] if machine is Machine.X86 else KERNEL
    system = System(machine, constants=pointer_at(SLOT, kernel + ALLOCATE, machine.pointer_size))
    assert system.resolve(system.slot()) == ALLOCATES


def test_of_several_names_the_one_that_takes_a_tag_is_chosen():
    names = list(EXPORTS)
    assert names.index("AlsoCalledThis") < names.index("ExAllocatePoolWithTag")
    assert System().resolve(Constant(KERNEL + ALLOCATE)) == ALLOCATES


def test_a_function_looked_up_at_run_time_is_in_a_variable():
    system = System(variables=(KERNEL + FREE).to_bytes(8, "little"))
    assert system.resolve(ImageRead(VARIABLES_RVA, 8)) == Callee("ExFreePoolWithTag", "ntoskrnl.exe")


def test_only_exact_places_of_exports_count():
    assert System().resolve(Constant(KERNEL + ALLOCATE + 4)) is None
    assert System().resolve(Constant(KERNEL + NAMELESS)) is None


def test_a_function_of_the_driver_is_its_place():
    assert System(code=b"\x48\x83\xec\x28").resolve(Constant(DRIVER + CODE_RVA)) == Callee(None, "made.sys", CODE_RVA)


def test_a_function_that_the_driver_exports_has_name_and_place():
    exports = export_section({"ExAllocatePool2": CODE_RVA})
    system = System(code=b"\x48\x83\xec\x28", constants=exports, directories={EXPORT: (CONSTANTS_RVA, len(exports))})
    assert system.resolve(Constant(DRIVER + CODE_RVA)) == Callee("ExAllocatePool2", "made.sys", CODE_RVA)


def relative(target_rva, end):
    return struct.pack("<i", target_rva - CODE_RVA - end)


# Jumps at CODE_RVA by the processor manuals, to where the pointer at SLOT points or to CODE_RVA + 0x40.
TO_SLOT = {
    "jmp [rip]": (Machine.X64, b"\xff\x25" + relative(SLOT, 6)),
    "rex jmp [rip]": (Machine.X64, b"\x48\xff\x25" + relative(SLOT, 7)),
    "endbr64": (Machine.X64, b"\xf3\x0f\x1e\xfa\xff\x25" + relative(SLOT, 10)),
    "mov rax": (Machine.X64, b"\x48\x8b\x05" + relative(SLOT, 7) + b"\xff\xe0"),
    "mov r10": (Machine.X64, b"\x4c\x8b\x15" + relative(SLOT, 7) + b"\xe9\0\0\0\0"),
    "jmp [abs]": (Machine.X86, b"\xff\x25" + struct.pack("<I", NARROW_BASES[1] + SLOT)),
    "mov eax": (Machine.X86, b"\xa1" + struct.pack("<I", NARROW_BASES[1] + SLOT) + b"\xff\xe0"),
    # adrp x16, +1 page; ldr x16, [x16, #0x100]; br x16
    "adrp ldr br": (Machine.ARM64, struct.pack("<III", 0xB0000010, 0xF9408210, 0xD61F0200)),
    "bti": (Machine.ARM64, struct.pack("<IIII", 0xD503245F, 0xB0000010, 0xF9408210, 0xD61F0200)),
}
TO_CODE = {
    "jmp rel32": (Machine.X64, b"\xe9" + relative(CODE_RVA + 0x40, 5)),
    "jmp rel8": (Machine.X64, b"\xeb\x3e"),
    "x86 jmp rel32": (Machine.X86, b"\xe9" + relative(CODE_RVA + 0x40, 5)),
    "b": (Machine.ARM64, struct.pack("<I", 0x14000010)),
    # adrp x16, this page; add x16, x16, #0x40; br x16
    "adrp add br": (Machine.ARM64, struct.pack("<III", 0x90000010, 0x91010210, 0xD61F0200)),
}
NO_THUNKS = {
    "call [rip]": (Machine.X64, b"\xff\x15" + relative(SLOT, 6)),
    "mov rcx": (Machine.X64, b"\x48\x8b\x0d" + relative(SLOT, 7) + b"\xe9\0\0\0\0"),
    "bl": (Machine.ARM64, struct.pack("<I", 0x94000010)),
    "other register": (Machine.ARM64, struct.pack("<III", 0xB0000010, 0xF9408210, 0xD61F0220)),
    "ret": (Machine.ARM64, struct.pack("<I", 0xD65F03C0)),
}


@pytest.mark.parametrize("name", TO_SLOT)
def test_a_thunk_of_an_import_is_followed(name):
    machine, code = TO_SLOT[name]
    kernel = NARROW_BASES[0] if machine is Machine.X86 else KERNEL
    system = System(machine, code=code, constants=pointer_at(SLOT, kernel + ALLOCATE, machine.pointer_size))
    assert system.resolve(Constant(system.base + CODE_RVA)) == ALLOCATES


@pytest.mark.parametrize("name", TO_CODE)
def test_a_jump_to_a_function_is_followed(name):
    machine, code = TO_CODE[name]
    system = System(machine, code=code)
    assert system.resolve(Constant(system.base + CODE_RVA)) == Callee(None, "made.sys", CODE_RVA + 0x40)


@pytest.mark.parametrize("name", NO_THUNKS)
def test_other_code_is_a_function(name):
    machine, code = NO_THUNKS[name]
    system = System(machine, code=code)
    assert read_thunk(system.driver, CODE_RVA) is None
    assert system.resolve(Constant(system.base + CODE_RVA)) == Callee(None, "made.sys", CODE_RVA)


def test_a_jump_to_itself_leads_nowhere():
    system = System(code=b"\xeb\xfe")
    assert system.resolve(Constant(DRIVER + CODE_RVA)) is None


@pytest.mark.parametrize(
    ("machine", "code"),
    [(Machine.X64, b"\xff\xe0"), (Machine.X64, b"\x41\xff\xe2"), (Machine.ARM64, b"\xe0\x01\x1f\xd6")],
)
def test_a_dispatcher_calls_what_the_register_holds(machine, code):
    system = System(machine, code=code, constants=TO_ALLOCATE + (DRIVER + CODE_RVA).to_bytes(8, "little"))
    assert read_thunk(system.driver, CODE_RVA) == Unknown()
    for dispatcher in (Constant(DRIVER + CODE_RVA), ImageRead(OTHER_SLOT, 8)):
        assert system.resolve(dispatcher, dispatched={system.slot()}) == ALLOCATES
        assert system.resolve(dispatcher) is None


def test_a_retpoline_stub_of_the_kernel_calls_what_the_register_holds():
    assert (
        System(constants=TO_ALLOCATE).resolve(Constant(KERNEL + NAMELESS), dispatched={ImageRead(SLOT, 8)}) == ALLOCATES
    )


def test_a_register_means_nothing_where_a_function_is_called():
    system = System(code=b"\x48\x83\xec\x28", constants=TO_ALLOCATE)
    dispatched = {system.slot()}
    assert system.resolve(Constant(DRIVER + CODE_RVA), dispatched=dispatched).rva == CODE_RVA
    assert system.resolve(Constant(KERNEL + FREE), dispatched=dispatched).name == "ExFreePoolWithTag"
    assert system.resolve(FieldRead(Parameter(Location("rcx")), 8, 8), dispatched=dispatched) is None
    assert system.resolve(Unknown(), dispatched=dispatched) is None


def test_of_several_possibilities_the_one_that_takes_a_tag():
    system = System(constants=TO_ALLOCATE, code=b"\x48\x83\xec\x28")
    own = Constant(DRIVER + CODE_RVA)
    assert system.resolve(system.slot(), Unknown()) == ALLOCATES
    assert system.resolve(system.slot(), own) == ALLOCATES
    assert system.resolve(Constant(KERNEL + ALLOCATE), Constant(KERNEL + FREE)) is None
    assert system.resolve(own, Constant(DRIVER + CODE_RVA + 1)) is None


def bind_info(machine, *, version=(1, 15, 0), count=444, table=VARIABLES_RVA, name="KmdfLibrary", size=None, base=None):
    """A WDF_BIND_INFO at CONSTANTS_RVA and the name of the library behind it."""
    base = base if base is not None else NARROW_BASES[1] if machine is Machine.X86 else DRIVER
    text = base + CONSTANTS_RVA + 0x40
    if machine is Machine.X86:
        data = struct.pack("<7I4x", size or 0x20, text, *version, count, base + table)
    else:
        data = struct.pack("<I4xQ4IQ8x", size or 0x30, text, *version, count, base + table)
    return data.ljust(0x40, b"\0") + (name + "\0").encode("utf-16-le")


@pytest.mark.parametrize("machine", MACHINES)
def test_kmdf_functions_are_called_through_a_pointer(machine):
    system = System(machine, constants=bind_info(machine))
    size = machine.pointer_size
    for index, name in ((192, "WdfMemoryCreate"), (198, "WdfLookasideListCreate"), (116, "WdfDriverCreate")):
        call = FieldRead(ImageRead(VARIABLES_RVA, size), index * size, size)
        assert system.resolve(call) == Callee(name, "Wdf01000.sys")
        assert find_allocator(name) is not None
    other = system.resolve(FieldRead(ImageRead(VARIABLES_RVA, size), 193 * size, size))
    assert other == Callee("function 193 of the framework", "Wdf01000.sys") and find_allocator(other.name) is None
    assert system.resolve(FieldRead(ImageRead(VARIABLES_RVA, size), 192 * size + 1, size)) is None
    assert system.resolve(FieldRead(ImageRead(VARIABLES_RVA + size, size), 192 * size, size)) is None


@pytest.mark.parametrize("machine", MACHINES)
def test_kmdf_functions_before_1_15_are_in_the_driver(machine):
    system = System(machine, constants=bind_info(machine, version=(1, 11, 0)))
    size = machine.pointer_size
    assert system.resolve(ImageRead(VARIABLES_RVA + 192 * size, size)) == Callee("WdfMemoryCreate", "Wdf01000.sys")
    assert system.resolve(FieldRead(ImageRead(VARIABLES_RVA, size), 192 * size, size)) is None


@pytest.mark.parametrize(
    "lie",
    [
        {"version": (2, 15, 0)},
        {"count": 0},
        {"count": 1 << 20},
        {"table": 1 << 20},
        {"size": 8},
        {"name": "UmdfLibrary"},
        {"base": DRIVER + 8},
    ],
    ids=str,
)
def test_what_is_no_bind_info_is_not_believed(lie):
    assert find_framework_table(System(constants=bind_info(Machine.X64)).driver) is not None
    assert find_framework_table(System(constants=bind_info(Machine.X64, **lie)).driver) is None


def test_a_table_has_no_functions_behind_its_end():
    system = System(constants=bind_info(Machine.X64, count=192))
    last = system.resolve(FieldRead(ImageRead(VARIABLES_RVA, 8), 191 * 8, 8))
    assert last == Callee("function 191 of the framework", "Wdf01000.sys")
    assert system.resolve(FieldRead(ImageRead(VARIABLES_RVA, 8), 192 * 8, 8)) is None


def test_pages_that_are_missing_are_no_functions():
    system = System(constants=TO_ALLOCATE, missing=(CONSTANTS_RVA,))
    assert system.resolve(system.slot()) is None
    assert system.resolve(system.slot(), dispatched={system.slot()}) is None


@pytest.mark.parametrize("machine", MACHINES)
@settings(max_examples=40)
@given(st.binary(max_size=64), st.integers(-(1 << 33), 1 << 33), st.integers(0, 1 << 64), st.integers(0, 16))
def test_any_target_is_survived(machine, code, rva, address, size):
    system = System(machine, code=code, constants=address.to_bytes(9, "little"))
    resolver = CalleeResolver(system.images)
    for atom in (
        Constant(address),
        Constant(system.base + rva),
        Constant(system.base + CODE_RVA),
        ImageRead(rva, size),
        FieldRead(ImageRead(rva, size), rva, size),
    ):
        callee = resolver.resolve(system.driver, CallSite(0, frozenset({atom}), frozenset({atom}), None))
        assert callee is None or callee.module in {"made.sys", "ntoskrnl.exe"}


@ends_soon
def test_names_of_the_library_without_end_are_bounded():
    text = "KmdfLibrary\0".encode("utf-16-le") * 100_000
    image = System(variables=text).driver
    assert find_framework_table(image) is None


@needs_drivers
@pytest.mark.parametrize("machine", MACHINES)
def test_a_sample_driver_calls_kmdf(machine):
    path = DRIVERS / machine.value / "framed-O2.sys"
    if not path.is_file():
        pytest.skip("framed is not built")
    pe, memory = map_file(path)
    base = pe.OPTIONAL_HEADER.ImageBase
    target = SegmentsTarget({base: memory}, machine=machine, modules=(Module("framed.sys", base, len(memory)),))
    image = read_image(target, target.modules()[0])
    resolver, table = CalleeResolver([image]), FunctionTable(image)
    (section,) = [section for section in image.sections if section.name == ".text"]
    tags = {}
    flows = {
        bounds.start_rva: bounds
        for rva in range(section.rva, section.rva + section.size, 4)
        if (bounds := table.find(rva))
    }
    for bounds in flows.values():
        for site in follow_function(image, bounds).calls:
            callee = resolver.resolve(image, site)
            allocator = find_allocator(callee.name) if callee and callee.name else None
            if allocator and allocator.structure is None:
                tags[callee.name] = numbers(site.frame.argument(allocator.tag_location(machine), 4))
    assert tags == {
        "WdfMemoryCreate": {int.from_bytes(b"FrmM", "little")},
        "WdfLookasideListCreate": {int.from_bytes(b"FrmL", "little")},
    }
