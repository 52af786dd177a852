"""Further drivers in forged machines: bound, started, their import calls rewritten as the kernel does it."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import forge
from dumps.forge.importcalls import rewrite_import_calls
from tests.helpers import idioms

capstone = pytest.importorskip("capstone")
pefile = pytest.importorskip("pefile")

every_architecture = pytest.mark.parametrize("architecture", idioms.ARCHITECTURES)


def module_of(machine, name):
    return next((base, size) for module, base, size, _ in machine.truth.modules if module == name)


def owner_of(machine, address):
    return next(name for name, base, size, _ in machine.truth.modules if base <= address < base + size)


@every_architecture
def test_every_import_is_bound_into_the_module_that_it_names(architecture):
    paths = idioms.image_paths(architecture, "O2")
    machine = idioms.forge_machine(architecture, paths)
    size = 4 if architecture == "x86" else 8
    for path in paths:
        base, _ = module_of(machine, path.name)
        image = pefile.PE(str(path))
        for library in image.DIRECTORY_ENTRY_IMPORT:
            for entry in library.imports:
                slot = base + entry.address - image.OPTIONAL_HEADER.ImageBase
                target = int.from_bytes(machine.read_virtual(slot, size), "little")
                assert owner_of(machine, target).lower() == library.dll.decode().lower(), entry.name


def test_without_further_drivers_only_the_usual_modules_are_loaded():
    usual = {name for name, *_ in forge("quiet").truth.modules}
    more = {name for name, *_ in idioms.forge_machine("x64", idioms.image_paths("x64", "Os")).truth.modules}
    assert more - usual == {"videoprt.sys", "WDFLDR.SYS", *(f"{name}-Os.sys" for name in idioms.DRIVERS)}


@every_architecture
def test_a_bound_framework_driver_has_the_table_of_functions(architecture):
    machine = idioms.forge_machine(architecture, idioms.image_paths(architecture, "Os"))
    base = module_of(machine, "framed-Os.sys")[0]
    framework, framework_size = module_of(machine, "Wdf01000.sys")
    code = "<I" if architecture == "x86" else "<Q"
    width = struct.calcsize(code)
    writable = machine.read_virtual(base + 0x3000, 0x100)
    pointers = [struct.unpack_from(code, writable, offset)[0] for offset in range(0, 0x100, width)]
    (table,) = {pointer for pointer in pointers if framework <= pointer < framework + framework_size}
    entries = struct.unpack(f"<444{code[1]}", machine.read_virtual(table, 444 * width))
    assert {owner_of(machine, entry) for entry in entries} == {"Wdf01000.sys"}


@pytest.mark.parametrize("retpolines", [False, True])
def test_rewritten_import_calls_still_reach_their_function(retpolines):
    machine = idioms.forge_machine("x64", idioms.image_paths("x64", "O2"))
    assert rewrite_import_calls(machine, "idioms-O2.sys", retpolines=retpolines) == 1
    base, size = module_of(machine, "idioms-O2.sys")
    site = base + idioms.call_rva("Rptp", "x64", "O2")
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    load, call = decoder.disasm(machine.read_virtual(site, 12), site)
    assert (load.mnemonic, load.op_str.split(",")[0]) == ("mov", "r10")
    slot = load.address + load.size + struct.unpack("<i", load.bytes[-4:])[0]
    function = int.from_bytes(machine.read_virtual(slot, 8), "little")
    assert function == machine.addresses["function:ExAllocatePoolWithTag"]
    assert call.mnemonic == "call"
    target = int(call.op_str, 16)
    if not retpolines:
        assert target == function
        return
    assert target == base + size
    stub = [
        f"{item.mnemonic} {item.op_str}".strip() for item in decoder.disasm(machine.read_virtual(target, 14), target)
    ]
    assert stub[0] == f"call {target + 9:#x}"
    assert stub[-2:] == ["mov qword ptr [rsp], r10", "ret"]
    assert rewrite_import_calls(machine, "idioms-O2.sys", retpolines=True) == 0
