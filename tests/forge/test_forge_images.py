"""The images in forged machines: drivers as they were built, stand-ins that other readers of PE files accept."""

from __future__ import annotations

import json
import lzma
import struct

import pytest

from dumps.forge import BUILDS_BY_ARCH, SCENARIOS, forge
from dumps.forge.architectures import ARCHITECTURES
from dumps.forge.kernels import add_totals
from dumps.forge.standins import MODULES as STANDINS
from dumps.forge.standins import build_standin
from tests.forge.test_forge_files import ARCHES

MACHINES = [(arch, build) for arch, builds in BUILDS_BY_ARCH.items() for build in builds]


def carries(piece, tag, arch):
    """Whether a page holds a tag: in a piece, or in the two instructions that ARM64 code builds it with."""
    low, high = struct.unpack("<HH", tag)
    halves = struct.pack("<II", 0x52800002 | low << 5, 0x72A00002 | high << 5)
    return tag in piece or (arch == "arm64" and (halves in piece or any_register(piece, low, high)))


def any_register(piece, low, high):
    words = struct.unpack(f"<{len(piece) // 4}I", piece)
    lows = {word & 0x1F for word in words if word & ~0x1F == 0x52800000 | low << 5}
    highs = {word & 0x1F for word in words if word & ~0x1F == 0x72A00000 | high << 5}
    return bool(lows & highs)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_owners_carry_their_tags_in_sections(scenario, arch):
    machine = forge(scenario, build=19041 if arch == "arm64" else 17763, arch=arch, healthy_share=32)
    modules = {name: (base, size) for name, base, size, _ in machine.truth.modules}
    for tag, owners in machine.truth.owners.items():
        for name in owners:
            if (scenario, name) == ("missing", "pippo.sys"):
                continue
            if scenario == "verifier" and tag.startswith(b"Vf"):
                continue  # Driver Verifier's records alone tell whose it is
            base, size = modules[name]
            pages = present(machine, base + 0x1000, size - 0x1000)
            assert any(carries(page, tag, arch) for page in pages), (tag, name)
    if scenario == "missing":
        base, size = modules["pippo.sys"]
        assert machine.truth.owners[b"Pipo"] == ("pippo.sys",)
        kept = [
            va
            for va in range(base, base + size, 0x1000)
            if machine.space.translate(va) and machine.space.translate(va) >> 12 not in machine.memory.omitted
        ]
        assert base in kept
        assert not any(carries(machine.read_virtual(va, 0x1000), b"Pipo", arch) for va in kept)


def present(machine, va, size):
    for page in range(va, va + size, 0x1000):
        physical = machine.space.translate(page)
        if physical is not None and physical >> 12 in machine.memory.pages:
            yield machine.read_virtual(page, 0x1000)


@pytest.mark.parametrize(("arch", "build"), MACHINES)
def test_images_are_images(arch, build):
    pefile = pytest.importorskip("pefile", reason="pefile is part of the test extra")
    machine = forge("quiet", arch=arch, build=build)
    machine_type = {"x64": 0x8664, "arm64": 0xAA64}.get(arch, 0x14C)
    checked = 0
    for name, base, size, stamp in machine.truth.modules:
        memory = bytearray(size)
        for va in range(base, base + size, 0x1000):
            physical = machine.space.translate(va)
            if physical is not None and physical >> 12 in machine.memory.pages:
                memory[va - base : va - base + 0x1000] = machine.read_virtual(va, 0x1000)
        image = pefile.PE(data=bytes(memory), fast_load=True)
        assert (image.OPTIONAL_HEADER.ImageBase, image.OPTIONAL_HEADER.SizeOfImage) == (base, size)
        assert (image.FILE_HEADER.TimeDateStamp, image.FILE_HEADER.Machine) == (stamp, machine_type)
        assert image.OPTIONAL_HEADER.Magic == (0x10B if machine_type == 0x14C else 0x20B)
        if name in ("lookas.sys", "globus.sys", "ctxreg.sys"):
            continue  # these are laid out as files; pefile cannot read them from memory
        image.parse_data_directories()
        texts, variables = image.FileInfo[0]
        assert texts.StringTable[0].entries[b"CompanyName"] == b"Microsoft Corporation"
        assert (variables.Key, variables.Var[0].entry) == (b"VarFileInfo", {b"Translation": "0x0409 0x04b0"})
        assert image.is_dll() == (name == "hal.dll")
        record = image.DIRECTORY_ENTRY_DEBUG[0].entry
        assert record.CvSignature == b"RSDS"
        if name == "ntoskrnl.exe":
            guid = f"{record.Signature_Data1:08X}{record.Signature_Data2:04X}{record.Signature_Data3:04X}"
            guid += f"{record.Signature_Data4:02X}{record.Signature_Data5:02X}" + record.Signature_Data6.hex().upper()
            assert guid == machine.truth.kernel_guid
            assert record.PdbFileName.rstrip(b"\0") == (b"ntkrpamp.pdb" if arch == "x86pae" else b"ntkrnlmp.pdb")
            exports = {symbol.name: symbol.address for symbol in image.DIRECTORY_ENTRY_EXPORT.symbols}
            assert {b"ExAllocatePoolWithTag", b"ExFreePoolWithTag", b"PsReferencePrimaryToken"} <= set(exports)
        elif arch != "x64":
            check_calls(machine, image, base)
        checked += 1
    assert checked == 16


@pytest.mark.parametrize(("arch", "build"), MACHINES, ids=str)
def test_checksums(arch, build):
    """The loader's list has what the image's header says."""
    machine = forge("pipo", arch=arch, build=build)
    for name, base, *_ in machine.truth.modules:
        start = struct.unpack("<I", machine.read_virtual(base + 0x3C, 4))[0]
        checksum = machine.read_virtual(base + start + 0x58, 4)
        entry = machine.addresses[f"entry:{name}"] + (0x40 if arch.startswith("x86") else 0x78)
        assert machine.read_virtual(entry, 4) == checksum != bytes(4), name


@pytest.mark.parametrize("arch", ARCHES)
def test_checksum_of_a_file(arch):
    """What the module was before it was loaded and bound, laid out as a file: pefile agrees with its checksum."""
    pefile = pytest.importorskip("pefile", reason="pefile is part of the test extra")
    image = build_standin(STANDINS[0], ARCHITECTURES[arch], 0x82345000, (10, 0, 19041, 1), ())
    file = bytearray(image.size)
    for rva, piece in image.pieces:
        file[rva : rva + len(piece)] = piece
    assert pefile.PE(data=bytes(file)).verify_checksum()


def check_calls(machine, image, base):
    """The first routine of a stand-in ends in a call through a slot that is bound to nt's allocator."""
    narrow = image.OPTIONAL_HEADER.Magic == 0x10B
    code = machine.read_virtual(base + 0x1000, 0x30)
    if narrow:
        slot = struct.unpack_from("<I", code, code.index(b"\xff\x15") + 2)[0]
    else:
        adrp, load, call = struct.unpack_from("<III", code, 20)
        assert call == 0xD63F0100
        pages = (adrp >> 5 & 0x7FFFF) << 2 | adrp >> 29 & 3
        slot = base + 0x1000 + (pages << 12) + (load >> 10 & 0xFFF) * 8
        assert (adrp & 0x9F00001F, load & 0xFFC003FF) == (0x90000008, 0xF9400108)
    target = int.from_bytes(machine.read_virtual(slot, 4 if narrow else 8), "little")
    assert target == machine.addresses["nt"] + machine.kernel.functions["ExAllocatePoolWithTag"]


@pytest.mark.parametrize("arch", ARCHES)
def test_driver_is_bound_to_nt(arch):
    build = 19041 if arch == "arm64" else 9600
    machine = forge("pipo", arch=arch, build=build)
    nt, functions = machine.addresses["nt"], machine.kernel.functions
    word = "I" if arch.startswith("x86") else "Q"
    slots = {
        value
        for page in present(machine, machine.addresses["module:pippo.sys"], 0x10000)
        for (value,) in struct.iter_unpack(f"<{word}", page)
    }
    assert {nt + functions["ExAllocatePoolWithTag"], nt + functions["ExFreePoolWithTag"]} <= slots
    if arch == "x64":
        assert functions["ExAllocatePoolWithTag"] == 0x28BBF0


def test_symbols_are_those_of_the_public_kernel(evidence):
    for path in sorted((evidence / "isf").glob("*.json.xz")):
        build = int(path.name.split("_")[1].split(".")[2])
        symbols = json.loads(lzma.decompress(path.read_bytes()))["symbols"]
        machine = forge("quiet", build=build)
        for name in ("PoolTrackTable", "ExPoolTagTables", "PoolBigPageTable", "PsLoadedModuleList"):
            assert machine.addresses[name] - machine.addresses["nt"] == symbols[name]["address"]
        totals = add_totals(machine.kernel).variables
        assert {name: rva for name, rva in totals.items() if symbols[name]["address"] != rva} == {}
        assert {"KiWaitNever", "KiWaitAlways", "KdpDataBlockEncoded"} < set(totals)
        assert machine.truth.kernel_guid in path.name
