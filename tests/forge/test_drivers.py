"""The committed sample drivers hold their tags where, and only where, their sources promise."""

from __future__ import annotations

import importlib.metadata
import re
import struct

import pytest

from dumps.drivers import build

pefile = pytest.importorskip("pefile")

ARCHITECTURES = ("x64", "x86", "arm64")
MACHINES = {"x64": 0x8664, "x86": 0x14C, "arm64": 0xAA64}
TAGS = {
    "pippo": b"Pipo",
    "pagella": b"Pgla",
    "lookas": b"Look",
    "globus": b"Glob",
    "ctxreg": b"Ctxr",
    "twinone": b"Dupl",
    "twintwo": b"Dupl",
    "holder": b"Hldr",
}
TAG_IN_CODE = sorted(set(TAGS) - {"globus", "ctxreg"})
ALLOCATORS = {
    "pippo": {"ExAllocatePoolWithTag", "ExFreePoolWithTag"},
    "pagella": {"ExAllocatePoolWithTag", "ExFreePoolWithTag"},
    "lookas": {"ExInitializeNPagedLookasideList", "ExInitializeLookasideListEx"},
    "globus": {"ExAllocatePoolWithTag", "ExFreePoolWithTag"},
    "ctxreg": {"FltRegisterFilter", "FltAllocateContext"},
    "twinone": {"ExAllocatePoolWithTag", "ExFreePoolWithTag"},
    "twintwo": {"ExAllocatePool2", "ExFreePoolWithTag"},
    "holder": {"ExAllocatePoolWithTag", "ExFreePoolWithTag", "PsReferencePrimaryToken"},
}
IDIOM_ALLOCATORS = {
    "idioms": {
        "ExAllocatePoolWithTag",
        "ExAllocatePool2",
        "ExInitializePagedLookasideList",
        "MmGetSystemRoutineAddress",
    },
    "ports": {"NdisAllocateMemoryWithTag", "StorPortExtendedFunction", "VideoPortAllocatePool", "FltRegisterFilter"},
    "framed": {"WdfVersionBind"},
    "innocent": {"ExAllocatePoolWithTag", "DbgPrint"},
    "byways": {"ExAllocatePoolWithTag", "ExFreePoolWithTag"},
    "depots": {"ExAllocatePoolWithTag", "ExFreePoolWithTag"},
    "shelves": {"ExAllocatePoolWithTag", "MmGetSystemRoutineAddress"},
    "lanes": {"ExInitializeNPagedLookasideList", "MmGetSystemRoutineAddress", "RtlInitUnicodeString"},
}
NAMES = (*TAGS, *(f"{name}-{level}" for name in IDIOM_ALLOCATORS for level in build.LEVELS))
LIBRARIES = {
    "ctxreg": {"fltmgr.sys"},
    "ports": {"ntoskrnl.exe", "fltmgr.sys", "NDIS.SYS", "storport.sys", "videoprt.sys"},
    "framed": {"WDFLDR.SYS"},
}
PADDING_WARNING = re.compile(r"Byte 0x(00|cc) makes up")
EXECUTE, DISCARDABLE, WRITE = 0x20000000, 0x02000000, 0x80000000

every_image = pytest.mark.parametrize(
    ("architecture", "name"), [(architecture, name) for architecture in ARCHITECTURES for name in NAMES]
)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def open_image(architecture, name):
    return pefile.PE(str(build.IMAGES / architecture / f"{name}.sys"))


def sections(image):
    return {section.Name.rstrip(b"\0").decode(): section for section in image.sections}


def section_bytes(section):
    return section.get_data()[: section.Misc_VirtualSize]


def sections_with(image, content):
    return {name for name, section in sections(image).items() if content in section.get_data()}


def code(image):
    return b"".join(section_bytes(section) for section in image.sections if section.Characteristics & EXECUTE)


def imports(image):
    """Address of the import table's slot to the imported name."""
    return {entry.address: entry.name.decode() for library in image.DIRECTORY_ENTRY_IMPORT for entry in library.imports}


def calls_after(image, instruction):
    """The imported function that is called next after each such instruction (x64, x86); None without one."""
    called = []
    slots = imports(image)
    base = image.OPTIONAL_HEADER.ImageBase
    wide = image.FILE_HEADER.Machine == MACHINES["x64"]
    for section in image.sections:
        content = section_bytes(section) if section.Characteristics & EXECUTE else b""
        for match in re.finditer(re.escape(instruction), content):
            call = content.find(b"\xff\x15", match.end(), match.end() + 48)
            if call < 0:
                called.append(None)
                continue
            (operand,) = struct.unpack_from("<i" if wide else "<I", content, call + 2)
            address = base + section.VirtualAddress + call + 6 + operand if wide else operand
            called.append(slots[address])
    return called


def movz_movk_pairs(image, tag):
    """How often the ARM64 code loads the tag: ``movz wN, low`` and, soon after, ``movk wN, high, lsl 16``."""
    low, high = struct.unpack("<HH", tag)
    words = [word for (word,) in struct.iter_unpack("<I", code(image))]
    return sum(
        word & 0xFFFFFFE0 == 0x52800000 | low << 5
        and 0x72A00000 | high << 5 | word & 0x1F in words[index + 1 : index + 12]
        for index, word in enumerate(words)
    )


def version_strings(image):
    return {
        key.decode(): value.decode()
        for info in image.FileInfo[0]
        if info.Key == b"StringFileInfo"
        for table in info.StringTable
        for key, value in table.entries.items()
    }


def test_every_driver_has_its_image_on_every_architecture():
    files = (path for path in build.IMAGES.rglob("*") if path.is_file())
    present = {path.relative_to(build.IMAGES).as_posix() for path in files}
    assert present == {f"{architecture}/{name}.sys" for architecture in ARCHITECTURES for name in NAMES}
    assert {driver.name for driver in build.DRIVERS} == set(NAMES)


@every_image
def test_image_is_a_native_driver(architecture, name):
    image = open_image(architecture, name)
    assert image.FILE_HEADER.Machine == MACHINES[architecture]
    assert image.OPTIONAL_HEADER.Subsystem == 1
    assert image.verify_checksum()
    assert not [text for text in image.get_warnings() if not PADDING_WARNING.match(text)]
    assert len(image.__data__) < 16 * 1024


@every_image
def test_sections_are_those_of_a_driver(architecture, name):
    image = open_image(architecture, name)
    by_name = sections(image)
    assert by_name["INIT"].Characteristics & EXECUTE
    assert by_name["INIT"].Characteristics & DISCARDABLE
    assert by_name["INIT"].contains_rva(image.OPTIONAL_HEADER.AddressOfEntryPoint)
    assert by_name["PAGE"].Characteristics & EXECUTE
    assert not by_name["PAGE"].Characteristics & DISCARDABLE
    assert by_name[".data"].Characteristics & WRITE
    assert not by_name[".rdata"].Characteristics & WRITE
    assert (".pdata" in by_name) == (architecture != "x86")
    exceptions = image.OPTIONAL_HEADER.DATA_DIRECTORY[3]
    assert (exceptions.Size > 0) == (architecture != "x86")
    assert any(entry.type != 0 for block in image.DIRECTORY_ENTRY_BASERELOC for entry in block.entries)


@every_image
def test_imports_are_undecorated_functions_of_the_right_modules(architecture, name):
    image = open_image(architecture, name)
    libraries = {library.dll.decode() for library in image.DIRECTORY_ENTRY_IMPORT}
    source = name.split("-")[0]
    assert libraries == LIBRARIES.get(source, {"ntoskrnl.exe"})
    names = set(imports(image).values())
    assert names >= {**ALLOCATORS, **IDIOM_ALLOCATORS}[source]
    assert not [imported for imported in names if not imported.isidentifier()]


@every_image
def test_version_resource_names_company_product_and_file(architecture, name):
    (driver,) = (driver for driver in build.DRIVERS if driver.name == name)
    strings = version_strings(open_image(architecture, name))
    assert strings["CompanyName"] == "poolleak sample drivers"
    assert strings["OriginalFilename"] == f"{name}.sys"
    assert strings["ProductName"] == driver.product
    assert strings["FileDescription"] == driver.description
    assert strings["FileVersion"] == strings["ProductVersion"] == ".".join(map(str, driver.version))


@every_image
def test_debug_directory_holds_a_bare_file_name(architecture, name):
    entries = [entry.entry for entry in open_image(architecture, name).DIRECTORY_ENTRY_DEBUG if entry.entry]
    assert [entry.PdbFileName.rstrip(b"\0") for entry in entries] == [f"{name}.pdb".encode()]


@pytest.mark.parametrize("architecture", ["x64", "x86"])
@pytest.mark.parametrize("name", TAG_IN_CODE)
def test_tag_stands_in_code_and_nowhere_else(architecture, name):
    image = open_image(architecture, name)
    content = image.__data__[:]
    in_import_names = sum(imported.encode().count(TAGS[name]) for imported in imports(image).values())
    assert code(image).count(TAGS[name]) >= 1
    assert content.count(TAGS[name]) == code(image).count(TAGS[name]) + in_import_names
    assert bool(in_import_names) == (name == "lookas")


@pytest.mark.parametrize("name", TAG_IN_CODE)
def test_arm64_builds_the_tag_from_halves(name):
    image = open_image("arm64", name)
    assert TAGS[name] not in code(image) + section_bytes(sections(image)[".data"])
    assert TAGS[name] not in image.__data__[:] or name == "lookas"
    assert movz_movk_pairs(image, TAGS[name]) >= 1


@pytest.mark.parametrize(
    ("name", "allocator"),
    [
        ("pippo", "ExAllocatePoolWithTag"),
        ("holder", "ExAllocatePoolWithTag"),
        ("twinone", "ExAllocatePoolWithTag"),
        ("twintwo", "ExAllocatePool2"),
    ],
)
def test_direct_callers_hand_the_tag_to_the_allocator(name, allocator):
    assert calls_after(open_image("x64", name), b"\x41\xb8" + TAGS[name]) == [allocator]
    assert calls_after(open_image("x86", name), b"\x68" + TAGS[name]).count(allocator) == 1


@pytest.mark.parametrize(("architecture", "instruction"), [("x64", b"\xbaPipo"), ("x86", b"\x68Pipo")])
def test_pippo_frees_with_its_tag(architecture, instruction):
    assert calls_after(open_image(architecture, "pippo"), instruction).count("ExFreePoolWithTag") == 1


def test_pagella_hands_the_tag_only_to_its_wrappers():
    instructions = code(open_image("x64", "pagella"))
    assert instructions.count(b"\xb9Pgla") == 2
    assert instructions.count(b"\xbaPgla") == 4
    assert instructions.count(b"Pgla") == 6
    assert b"\x41\xb8Pgla" not in instructions
    for architecture in ("x64", "x86"):
        assert b"Pgla" not in section_bytes(sections(open_image(architecture, "pagella"))["PAGE"])


def test_lookas_hands_the_tag_over_on_the_stack():
    image = open_image("x64", "lookas")
    assert calls_after(image, b"\xc7\x44\x24\x28Look") == ["ExInitializeNPagedLookasideList"]
    assert calls_after(image, b"\xc7\x44\x24\x30Look") == ["ExInitializeLookasideListEx"]
    assert code(image).count(b"Look") == 2
    assert calls_after(open_image("x86", "lookas"), b"\x68Look") == [
        "ExInitializeNPagedLookasideList",
        "ExInitializeLookasideListEx",
    ]


@every_architecture
def test_globus_keeps_the_tag_only_in_writable_data(architecture):
    image = open_image(architecture, "globus")
    assert sections_with(image, b"Glob") == {".data"}
    assert image.__data__[:].count(b"Glob") == 1
    assert not movz_movk_pairs(image, b"Glob")


@every_architecture
def test_ctxreg_keeps_the_tag_only_in_its_registration_table(architecture):
    tag_offset, entry_bytes = (0xC, 0x1C) if architecture == "x86" else (0x18, 0x38)
    image = open_image(architecture, "ctxreg")
    assert sections_with(image, b"Ctxr") == {".rdata"}
    data = section_bytes(sections(image)[".rdata"])
    assert data.count(b"Ctxr") == 1
    entry = data.index(b"Ctxr") - tag_offset
    context_types = [struct.unpack_from("<H", data, entry + index * entry_bytes)[0] for index in range(2)]
    assert context_types == [0x0010, 0xFFFF]


@pytest.mark.parametrize("level", build.LEVELS)
def test_idioms_take_every_form_of_a_constant(level):
    """Guards the sources against an optimiser that makes one form of several."""
    instructions = code(open_image("x64", f"idioms-{level}"))
    assert b"\x41\xb8Drct" in instructions
    assert b"\xbaWrap" in instructions
    assert b"\xb9Wrp2" in instructions
    assert b"\xc7\x44\x24\x28LkNp" in instructions
    assert b"\x41\x81\xc8Ari0" in instructions
    assert b"Ari1" not in instructions
    assert b"\x41\xb8Pro" + bytes([ord("t") | 0x80]) in instructions
    assert b"\xbeKeep" in instructions
    assert instructions.count(b"Keep") == 1
    for tag in (b"Glbl", b"Tab1", b"Tab2", b"Tab3"):
        assert tag not in instructions
    assert sections_with(open_image("x64", f"ports-{level}"), b"Nblv") == {".rdata"}
    assert b"\x48\xb8\x80\x01\x0c\0Npbo" in code(open_image("x64", f"ports-{level}"))


@pytest.mark.parametrize("level", build.LEVELS)
def test_rewritable_import_calls_have_the_room_that_the_kernel_needs(level):
    assert re.search(
        rb"\x41\xb8Rptp[^\xff]{0,8}\x48\xff\x15....\x0f\x1f\x44\0\0",
        code(open_image("x64", f"idioms-{level}")),
        re.DOTALL,
    )


@every_architecture
@pytest.mark.parametrize("level", build.LEVELS)
def test_framework_calls_are_guarded_where_the_kernel_knows_guards(architecture, level):
    image = open_image(architecture, f"framed-{level}")
    if architecture == "x86":
        assert not image.OPTIONAL_HEADER.DATA_DIRECTORY[10].VirtualAddress
        return
    guards = image.DIRECTORY_ENTRY_LOAD_CONFIG.struct
    pointer = guards.GuardCFDispatchFunctionPointer or guards.GuardCFCheckFunctionPointer
    assert bool(guards.GuardCFDispatchFunctionPointer) == (architecture == "x64")
    base = image.OPTIONAL_HEADER.ImageBase
    function = image.get_data(image.get_qword_at_rva(pointer - base) - base, 4)
    assert function.startswith(b"\xff\xe0" if architecture == "x64" else b"\xc0\x03\x5f\xd6")


def test_twins_are_different_products():
    first, second = (version_strings(open_image("x64", name)) for name in ("twinone", "twintwo"))
    assert first["ProductName"] != second["ProductName"]
    assert first["ProductVersion"] != second["ProductVersion"]


def test_rebuilding_gives_the_committed_bytes(tmp_path):
    try:
        found = importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != build.ZIGLANG_VERSION:
        pytest.skip(f"the images are rebuilt only with ziglang {build.ZIGLANG_VERSION} (found {found})")
    assert build.find_differences(build.build_images(tmp_path)) == []
