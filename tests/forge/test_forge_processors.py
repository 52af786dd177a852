"""The processors of forged machines, followed as a debugger follows them: by what the debugger data block says."""

from __future__ import annotations

import json
import lzma
import struct
from types import SimpleNamespace

import pytest

from dumps.forge import BUILDS_BY_ARCH, forge
from dumps.forge.kdbg import build_debugger_data
from tests.forge.test_forge_files import save

MACHINES = [(arch, build) for arch, builds in BUILDS_BY_ARCH.items() for build in builds]
SEGMENTED = [(arch, build) for arch, build in MACHINES if arch != "arm64"]
PROCESSORS = 3
BUGCHECK = (0xC5, 0x10, 2, 0, 0x12345678)

# Where the debugger data block tells offsets in KTHREAD, KPROCESS, KPRCB and KPCR, 16 bits each.
MEMBERS = {"next_processor": 0x298, "kernel_stack": 0x29C, "initial_stack": 0x29E, "apc_process": 0x2A0}
MEMBERS.update(state=0x2A2, root=0x2AE, thread=0x2B4, context=0x2BC, number=0x2BE, prcb_in_pcr=0x2E6, special=0x2F2)
# XP's block is too short for them: debuggers know these.
XP = {"next_processor": 0x12B, "kernel_stack": 0x28, "initial_stack": 0x18, "apc_process": 0x44, "state": 0x2D}
XP.update(root=0x18, thread=0x4, context=0x1C, number=0x10, prcb_in_pcr=0x120, special=0x2E8)


def forge_machine(arch, build):
    machine = forge("quiet", arch=arch, build=build, processors=PROCESSORS)
    machine.header.bugcheck = BUGCHECK
    return machine


class Walk:
    """The processors of a machine in memory, and where the members of its structures are."""

    def __init__(self, machine, arch):
        self.machine = machine
        self.word = 4 if arch.startswith("x86") else 8
        block = build_debugger_data(machine.kernel)
        self.at = XP if len(block) < 0x298 else {name: self.u16(block, at) for name, at in MEMBERS.items()}
        blocks = machine.read_virtual(machine.addresses["KiProcessorBlock"], self.word * (PROCESSORS + 1))
        *self.prcbs, self.end = struct.unpack(f"<{PROCESSORS + 1}{'I' if self.word == 4 else 'Q'}", blocks)

    @staticmethod
    def u16(data, at):
        return struct.unpack_from("<H", data, at)[0]

    def pointer(self, va):
        return int.from_bytes(self.machine.read_virtual(va, self.word), "little")

    def byte(self, va):
        return self.machine.read_virtual(va, 1)[0]


@pytest.fixture(params=MACHINES, ids=str)
def walked(request):
    arch, build = request.param
    machine = forge_machine(arch, build)
    return SimpleNamespace(machine=machine, arch=arch, build=build, walk=Walk(machine, arch))


def test_every_processor_runs_a_thread_of_the_process(walked):
    machine, walk, at = walked.machine, walked.walk, walked.walk.at
    assert walk.end == 0
    stacks, threads = set(), set()
    for number, prcb in enumerate(walk.prcbs):
        assert walk.byte(prcb + at["number"]) == number
        thread = walk.pointer(prcb + at["thread"])
        assert (walk.byte(thread), walk.byte(thread + at["state"])) == (6, 2)  # a thread object, running
        assert walk.byte(thread + at["next_processor"]) == number
        process = walk.pointer(thread + at["apc_process"])
        assert walk.byte(process) == 3
        assert walk.pointer(process + at["root"]) == machine.header.directory_table_base & ~2
        base, stack = (walk.pointer(thread + at[name]) for name in ("initial_stack", "kernel_stack"))
        assert base % 0x1000 == 0
        assert base - 0x1000 <= stack < base
        stacks.add(stack)
        threads.add(thread)
    assert len(stacks) == len(threads) == PROCESSORS


def test_stacks_hold_addresses_of_code(walked):
    machine, walk = walked.machine, walked.walk
    thread = walk.pointer(walk.prcbs[0] + walk.at["thread"])
    stack = walk.pointer(thread + walk.at["kernel_stack"])
    data = machine.read_virtual(stack, walk.pointer(thread + walk.at["initial_stack"]) - stack)
    words = struct.unpack(f"<{len(data) // walk.word}{'I' if walk.word == 4 else 'Q'}", data)
    modules = machine.truth.modules
    assert {next(name for name, base, size, _ in modules if base < word < base + size) for word in words} == {
        name for name, *_ in modules
    }


def test_registers(walked):
    """The header has the first processor's registers, with the words of the bugcheck where they go in registers."""
    machine, walk = walked.machine, walked.walk
    ip_at, sp_at, arguments_at = {
        "x64": (0xF8, 0x98, (0x80, 0x88, 0xB8, 0xC0)),
        "arm64": (0x108, 0x100, (0x8, 0x10, 0x18, 0x20, 0x28)),
    }.get(walked.arch, (0xB8, 0xC4, ()))
    header = machine.header.pack(6, 0)
    context_at = 0x320 if walk.word == 4 else 0x348

    def register(data, at):
        return int.from_bytes(data[at : at + walk.word], "little")

    for number, prcb in enumerate(walk.prcbs):
        context = machine.read_virtual(prcb + walk.at["context"], 0x390 if walked.arch == "arm64" else 0x2CC)
        thread = walk.pointer(prcb + walk.at["thread"])
        assert register(context, sp_at) == walk.pointer(thread + walk.at["kernel_stack"])
        assert register(context, ip_at) == machine.header.instruction_pointer
        wanted = (0,) * len(arguments_at) if number else machine.truth.bugcheck
        assert all(register(context, at) == word for at, word in zip(arguments_at, wanted))
    stack = machine.addresses["stack:0"]
    wanted = (machine.header.instruction_pointer, stack, *BUGCHECK[: len(arguments_at)])
    assert tuple(register(header, context_at + at) for at in (ip_at, sp_at, *arguments_at)) == wanted


def test_exception_record(walked):
    """Code, flags, no further record, address, no parameters; the rest is not set."""
    word = walked.walk.word
    at = 0x7D0 if word == 4 else 0xF00
    record = walked.machine.header.pack(6, 0)[at : at + (0x50 if word == 4 else 0x98)]
    pointer = walked.machine.header.instruction_pointer.to_bytes(word, "little")
    start = struct.pack("<II", 0x80000003, 1) + bytes(word) + pointer + bytes(4)
    assert record[: len(start)] == start
    assert set(struct.unpack(f"<{(len(record) - len(start)) // 4}I", record[len(start) :])) == {0x45474150}


def descriptor(data, selector):
    """Base, limit in bytes, and the byte of type and rights of an entry of a descriptor table."""
    low, high = struct.unpack_from("<II", data, selector & ~7)
    limit = low & 0xFFFF | high & 0xF0000
    base = low >> 16 | (high & 0xFF) << 16 | high & 0xFF000000
    return base, limit << 12 | 0xFFF if high & 1 << 23 else limit, high >> 8 & 0xFF, bool(high & 1 << 21)


@pytest.mark.parametrize(("arch", "build"), SEGMENTED, ids=str)
def test_special_registers_and_descriptors(arch, build):
    machine = forge_machine(arch, build)
    walk, narrow = Walk(machine, arch), arch != "x64"
    flat = (0, 0xFFFFFFFF)
    for prcb in walk.prcbs:
        special = machine.read_virtual(prcb + walk.at["special"], 0x54 if narrow else 0xE0)
        cr3_at, limit_at, base_at, task_at = (0x8, 0x2A, 0x2C, 0x38) if narrow else (0x10, 0x56, 0x58, 0x70)
        assert int.from_bytes(special[cr3_at : cr3_at + walk.word], "little") == machine.space.root_address
        limit, task = walk.u16(special, limit_at), walk.u16(special, task_at)
        table = machine.read_virtual(int.from_bytes(special[base_at : base_at + walk.word], "little"), limit + 1)
        assert limit == (0x3FF if narrow else 0x57)
        pcr = prcb - walk.at["prcb_in_pcr"]
        if narrow:
            assert descriptor(table, 0x8) == (*flat, 0x9B, False)
            assert descriptor(table, 0x10) == (*flat, 0x93, False)
            assert descriptor(table, 0x23) == (*flat, 0xF3, False)
            assert descriptor(table, 0x30) == (pcr, 0x1FFF, 0x93, False)
            task_state = descriptor(table, task)[0]
        else:
            assert struct.unpack_from("<QQ", table, 0x10) == (0x00209B0000000000, 0x00CF93000000FFFF)
            assert descriptor(table, 0x2B) == (*flat, 0xF3, False)
            assert descriptor(table, 0x33)[2:] == (0xFB, True)
            task_state = descriptor(table, task)[0] | struct.unpack_from("<Q", table, task + 8)[0] << 32
        assert descriptor(table, task)[1:3] == (0x67, 0x8B)
        assert machine.read_virtual(task_state, 0x68) == bytes(0x68)
        self_at, current_at, table_in_pcr, task_in_pcr = (0x1C, 0x20, 0x3C, 0x40) if narrow else (0x18, 0x20, 0x0, 0x8)
        wanted = (pcr, prcb, int.from_bytes(special[base_at : base_at + walk.word], "little"), task_state)
        assert tuple(walk.pointer(pcr + at) for at in (self_at, current_at, table_in_pcr, task_in_pcr)) == wanted


def test_arm64_has_its_translation_bases():
    """Where a real dump of 22000 has TTBR0_EL1 and TTBR1_EL1."""
    machine = forge_machine("arm64", 22000)
    root = machine.space.root_address
    for prcb in Walk(machine, "arm64").prcbs:
        assert struct.unpack("<QQ", machine.read_virtual(prcb + 0x40 + 0xC8, 16)) == (root, root + 0x800)


@pytest.mark.parametrize(("arch", "build", "name"), [("x64", 19041, "x64"), ("arm64", 22000, "arm64")])
def test_debugger_data_is_that_of_a_real_dump(evidence, arch, build, name):
    """Sizes, offsets and selectors agree with the block of a real dump of the same build where the forge has any."""
    data = (evidence / "dumps" / f"triage_{name}.dmp").read_bytes()
    real = data[struct.unpack_from("<I", data, 0x2070)[0] :][:0x380]
    block = build_debugger_data(forge("quiet", arch=arch, build=build).kernel)
    assert len(block) == struct.unpack_from("<I", real, 0x14)[0]
    spans = [(0x298, 0x2B2), (0x2B4, 0x2B6), (0x2BC, 0x2C2), (0x2E0, 0x308), (0x338, 0x33A)]
    for start, end in spans:
        assert block[start:end].hex(" ", 2) == real[start:end].hex(" ", 2), hex(start)


def test_offsets_are_those_of_public_symbols(evidence):
    for path in sorted((evidence / "isf").glob("*.json.xz")):
        build = int(path.name.split("_")[1].split(".")[2])
        types = json.loads(lzma.decompress(path.read_bytes()))["user_types"]

        def offset(struct_name, *names, types=types):
            total = 0
            for name in names:
                field = types[struct_name]["fields"][name]
                total, struct_name = total + field["offset"], field["type"].get("name")
            return total

        real = {
            **{
                0x298 + 2 * n: offset("_KTHREAD", name)
                for n, name in enumerate(("NextProcessor", "Teb", "KernelStack"))
            },
            0x29E: offset("_KTHREAD", "InitialStack"),
            0x2A0: offset("_KTHREAD", "ApcState", "Process"),
            0x2A2: offset("_KTHREAD", "State"),
            0x2AE: offset("_KPROCESS", "DirectoryTableBase"),
            0x2B4: offset("_KPRCB", "CurrentThread"),
            0x2BC: offset("_KPRCB", "ProcessorState", "ContextFrame"),
            0x2E2: offset("_KPCR", "Self"),
            0x2E4: offset("_KPCR", "CurrentPrcb"),
            0x2E6: offset("_KPCR", "Prcb"),
            0x2F2: offset("_KPRCB", "ProcessorState", "SpecialRegisters"),
            0x338: offset("_KPRCB", "Context"),
        }
        for at, name in ((0x2A8, "_EPROCESS"), (0x2B0, "_KPRCB"), (0x2C0, "_ETHREAD"), (0x2E0, "_KPCR")):
            real[at] = types[name]["size"]
        block = build_debugger_data(forge("quiet", build=build).kernel)
        assert {hex(at): Walk.u16(block, at) for at in real} == {hex(at): number for at, number in real.items()}, build


@pytest.mark.parametrize(("arch", "build"), MACHINES, ids=str)
def test_what_the_debugger_data_names_is_in_the_dump(tmp_path, arch, build):
    machine = forge_machine(arch, build)
    file = save(machine, tmp_path)
    block = build_debugger_data(machine.kernel)
    mask = 0xFFFFFFFF if file.word == 4 else 0xFFFFFFFFFFFFFFFF
    nt, size = machine.truth.modules[0][1:3]
    named = [va & mask for (va,) in struct.iter_unpack("<Q", block[0x20:0x298]) if nt < va & mask < nt + size]
    assert len(named) > 20
    for va in named:
        file.read(va, 4)
    service_packs = {2600: 3, 3790: 2, 6002: 2, 7601: 1}
    version = struct.unpack_from("<Q", block, 0x268)[0] & mask
    assert file.read(version, 4) == struct.pack("<I", service_packs.get(build, 0) << 8)
