"""Microsoft's own debugger engine as the judge of the forge: it has to show what was written.

The engine is of 2017 and knows nothing of later Windows; what it refuses for that reason is said where it matters.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from dumps.forge import BUILDS, SCENARIOS, forge
from dumps.forge.large import forge_large
from tests.engine.answers import (
    parse_address,
    parse_bugcheck,
    parse_bytes,
    parse_details,
    parse_fields,
    parse_identity,
    parse_modules,
    parse_pointers,
    parse_symbols,
    parse_system,
    parse_value,
)
from tests.engine.machines import (
    AFTER_THE_ENGINE,
    engine_name,
    engine_number,
    iter_absent_pages,
    iter_filled_frames,
    iter_present_ranges,
    read_checksum,
)
from tests.engine.winengine import DumpRefused, EngineUnavailable, open_engine, windows_path

pytestmark = pytest.mark.engine

PAGE_BYTES = 0x1000
PROCESSORS = 6
BUGCHECK = (0xC5, 0x10, 2, 0, 0xFFFFF80112345678)
KINDS = {1: "Complete", 2: "Summary", 5: "Bitmap", 6: "Bitmap"}
WITHOUT_FRAME = ("page:pagefile", "page:demand-zero", "page:unmapped")
# What the engine prints because it has neither its extensions nor the frame pointers of optimized x86 code.
NOT_OF_THE_DUMP = ("Unable to add extension DLL", "The call to LoadLibrary", "WARNING: Stack unwind information")
MACHINES = {"x64": "x64", "x86": "x86 compatible", "x86pae": "x86 compatible", "arm64": "ARM 64-bit (AArch64)"}
MACHINE_NUMBERS = {"x64": 0x8664, "x86": 0x14C, "x86pae": 0x14C, "arm64": 0xAA64}
SERVICE_PACKS = {2600: 3, 3790: 2, 6002: 2, 7601: 1}
FIRST_INSTRUCTIONS = {"x64": "sub     rsp,28h", "x86": "xor     eax,eax", "x86pae": "xor     eax,eax"}
FIRST_INSTRUCTIONS["arm64"] = "mov         w0,#0"
CASES = [
    *(("missing", "x64", build, kind, True) for build in BUILDS for kind in (1, 5, 6)),
    *((scenario, "x64", 19041, 6, True) for scenario in SCENARIOS if scenario != "missing"),
    ("twins", "x64", 20348, 5, False),
    *(("missing", *machine, True) for machine in [("x64", 3790, 1), ("x64", 6002, 2), ("x64", 7601, 2)]),
    # Without PAE, the engine reads every prototype entry in the form that came with Vista.
    *(("missing", "x86", build, kind, True) for build, kind in [(6002, 1), (7601, 2), (15063, 5), (19041, 6)]),
    *(("missing", "x86pae", build, kind, True) for build, kind in [(2600, 2), (3790, 1), (9600, 6), (17763, 5)]),
    *(("missing", "arm64", build, kind, True) for build, kind in [(19041, 1), (22000, 5), (22000, 6)]),
]
SMALL = [("x64", 3790), ("x64", 7601), ("x64", 19041), ("x86", 6002), ("x86pae", 2600), ("x86pae", 19041)]
SMALL += [("arm64", 22000)]


@pytest.fixture(scope="session")
def engine():
    try:
        with open_engine() as ready:
            yield ready
    except EngineUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case[:4])))
def judged(request, engine, tmp_path_factory):
    """A forged machine and what the engine says about its dump, asked in one run."""
    scenario, arch, build, kind, known_kernel = request.param
    wishes = {"processors": PROCESSORS, "known_kernel": known_kernel, "healthy_share": 32}
    machine = forge(scenario, build=build, arch=arch, **wishes)
    machine.header.bugcheck = bugcheck(arch)
    folder = tmp_path_factory.mktemp("judged")
    machine.save(folder / "memory.dmp", kind=kind)
    ranges = list(iter_present_ranges(machine))
    questions = {
        "system": "vertarget",
        "bugcheck": ".bugcheck",
        "header": ".dumpdebug",
        "modules": "lm",
        "identity": "!lmi nt",
        "exports": "x nt!*",
        "exception": ".exr -1",
        "instruction": "? $ip",
        "registers": "r",
        "process": "? $proc",
        "track table": f"? poi({machine.addresses['PoolTrackTable']:x})",
        **{f"details:{name}": f"lmvm {engine_name(name)}" for name, *_ in machine.truth.modules},
        **{f"page:{va:x}": f"db {va:x} L20" for va in iter_absent_pages(machine)},
        **{f"state:{name}": f"db {va:x} L20" for name, va in machine.addresses.items()},
        **{f"frame:{frame:x}": f"db /p {engine_number(address)} L10" for frame, address in iter_filled_frames(machine)},
        **{
            f"range:{va:x}": f".writemem {windows_path(folder / f'{va:x}.bin')} {va:x} L?{len(data):x}"
            for va, data in ranges
        },
    }
    if "ExPoolTagTables" in machine.addresses:
        questions["tag tables"] = f"dp {machine.addresses['ExPoolTagTables']:x} L{PROCESSORS + 1:x}"
    for number in reversed(range(PROCESSORS)):
        questions[f"switch:{number}"] = f"~{number}s"
        questions[f"thread:{number}"], questions[f"stack:{number}"] = "? $thread", "? $csp"
    answers = engine.ask(folder / "memory.dmp", questions)
    return SimpleNamespace(machine=machine, arch=arch, kind=kind, folder=folder, ranges=ranges, **answers._asdict())


def bugcheck(arch):
    """The words of a bugcheck, as wide as the machine's."""
    return tuple(word & 0xFFFFFFFF for word in BUGCHECK) if arch.startswith("x86") else BUGCHECK


def test_kind_of_dump(judged):
    assert f"Kernel {KINDS[judged.kind]} Dump File" in judged.opening


def test_engine_misses_nothing(judged):
    """What the engine wants to know of a system is in the dump, but for the pages that the scenario leaves out."""
    left_out = {f"Page {frame:x} not present" for frame in judged.machine.memory.omitted}
    complaints = [
        line
        for line in re.findall(r"^.*(?:not present in the dump|Unable to|failed|WARNING: ).*$", judged.opening, re.M)
        if not line.startswith(NOT_OF_THE_DUMP) and line.partition(" in the dump")[0] not in left_out
    ]
    assert complaints == []


def test_system(judged):
    machine, truth = judged.machine, judged.machine.truth
    system = parse_system(judged.outputs["system"])
    assert (system.build, system.service_pack) == (truth.build, SERVICE_PACKS.get(truth.build, 0))
    assert (system.machine, system.processors) == (MACHINES[judged.arch], PROCESSORS)
    assert system.build_lab == machine.kernel.build_lab
    assert system.kernel_base == machine.addresses["nt"]
    assert system.module_list == machine.addresses["PsLoadedModuleList"]
    assert system.taken_at == truth.taken_at
    assert system.uptime.total_seconds() == truth.uptime_seconds


def test_bugcheck(judged):
    assert parse_bugcheck(judged.outputs["bugcheck"]) == bugcheck(judged.arch)


def test_header(judged):
    header = judged.machine.header
    fields = parse_fields(judged.outputs["header"])
    assert fields["MinorVersion"] == judged.machine.truth.build
    assert fields["DirectoryTableBase"] == header.directory_table_base
    assert fields["PfnDataBase"] == header.pfn_database
    assert fields["PsActiveProcessHead"] == header.active_process_head
    assert fields["MachineImageType"] == MACHINE_NUMBERS[judged.arch]
    assert fields["NumberProcessors"] == PROCESSORS
    assert fields["KdDebuggerDataBlock"] == judged.machine.addresses["KDBG"]
    if judged.kind != 1:
        assert fields["Pages"] == len(judged.machine.memory.present_frames())


def test_processor_blocks(judged):
    wanted = tuple(judged.machine.addresses[f"processor:{number}"] for number in range(PROCESSORS))
    listed = judged.outputs["header"].partition("KiProcessorBlock entries:")[2]
    assert tuple(map(parse_address, listed.split())) == wanted


def test_modules(judged):
    truth = judged.machine.truth
    loaded, unloaded = parse_modules(judged.outputs["modules"])
    assert set(loaded) == {(engine_name(name), base, base + size) for name, base, size, _ in truth.modules}
    assert set(unloaded) == set(truth.unloaded)


def test_module_details(judged):
    for name, _, size, timestamp in judged.machine.truth.modules:
        details = parse_details(judged.outputs[f"details:{name}"])
        assert details["Timestamp"].endswith(f"({timestamp:08X})"), name
        assert int(details["ImageSize"], 16) == size, name


def test_checksums(judged):
    """Windows writes them into every module; drivers that were not linked for release have none."""
    for name, base, *_ in judged.machine.truth.modules:
        shown = int(parse_details(judged.outputs[f"details:{name}"])["CheckSum"], 16)
        assert shown == read_checksum(judged.machine, base) != 0, name


def test_names_of_images(judged):
    """The kernel is called after its PDB."""
    for name, *_ in judged.machine.truth.modules:
        details = parse_details(judged.outputs[f"details:{name}"])
        kernel_name = judged.machine.kernel.pdb_name.replace(".pdb", ".exe")
        assert details["Image name"] == (kernel_name if name == "ntoskrnl.exe" else name)


def test_companies(judged):
    for name, company in (
        ("ntoskrnl.exe", "Microsoft Corporation"),
        ("tcpip.sys", "Microsoft Corporation"),
        ("lookas.sys", "poolleak sample drivers"),
    ):
        details = parse_details(judged.outputs[f"details:{name}"])
        assert (details["CompanyName"], details["Translations"]) == (company, "0409.04b0")


def test_identity_of_the_kernel(judged):
    kernel = judged.machine.kernel
    assert parse_identity(judged.outputs["identity"]) == (kernel.guid, 1, kernel.pdb_name)


def test_exports_of_the_kernel(judged):
    found = parse_symbols(judged.outputs["exports"])
    kernel = judged.machine.kernel
    wanted = {name: kernel.base + rva for name, rva in kernel.functions.items()}
    assert {name: found.get(name) for name in wanted} == wanted


def test_instruction_pointer(judged):
    assert parse_value(judged.outputs["instruction"]) == judged.machine.header.instruction_pointer


def test_exception(judged):
    shown = parse_details(judged.outputs["exception"])
    assert shown["ExceptionCode"].startswith("80000003")
    assert int(shown["NumberParameters"]) == 0
    assert int(shown["ExceptionAddress"].split()[0], 16) == judged.machine.header.instruction_pointer


def test_code_at_the_instruction_pointer(judged):
    assert "nt!KeBugCheckEx:" in judged.outputs["registers"]
    assert FIRST_INSTRUCTIONS[judged.arch] in judged.outputs["registers"]


def test_words_of_the_bugcheck_in_registers(judged):
    """As KeBugCheckEx got them on the first processor; 32-bit code passes everything on the stack."""
    names = {"x64": ("rcx", "rdx", "r8", "r9"), "arm64": ("x0", "x1", "x2", "x3", "x4")}.get(judged.arch, ())
    shown = dict(re.findall(r"\b(\w+)=([0-9a-f]+)", judged.outputs["registers"]))
    assert [int(shown[name], 16) for name in names] == list(judged.machine.truth.bugcheck[: len(names)])


def test_threads_and_stacks_of_all_processors(judged):
    addresses = judged.machine.addresses
    names = [f"{what}:{number}" for what in ("thread", "stack") for number in range(PROCESSORS)]
    assert {name: parse_value(judged.outputs[name]) for name in names} == {name: addresses[name] for name in names}
    assert parse_value(judged.outputs["process"]) == addresses["process"]


def test_tag_tables(judged):
    addresses = judged.machine.addresses
    assert parse_value(judged.outputs["track table"]) == addresses["table:0"]
    if "ExPoolTagTables" in addresses:
        tables = (addresses[f"table:{number}"] for number in range(PROCESSORS))
        assert parse_pointers(judged.outputs["tag tables"]) == (*tables, 0)


def test_memory_in_every_state(judged):
    """4 KB, 2 MB and 1 GB pages, pages in transition and prototypes are read; those without a frame are not."""
    addresses = judged.machine.addresses
    unreadable = {*WITHOUT_FRAME, *AFTER_THE_ENGINE}
    for name, va in addresses.items():
        shown = parse_bytes(judged.outputs[f"state:{name}"])
        assert shown == ("??" * 0x20 if name in unreadable else judged.machine.read_virtual(va, 0x20).hex()), name


def test_all_readable_memory(judged):
    assert sum(len(data) for _, data in judged.ranges) > 100 * PAGE_BYTES
    for va, data in judged.ranges:
        assert (judged.folder / f"{va:x}.bin").read_bytes() == data, judged.outputs[f"range:{va:x}"]


def test_pages_that_are_not_in_the_dump(judged):
    pages = list(iter_absent_pages(judged.machine))
    assert pages
    for va in pages:
        assert parse_bytes(judged.outputs[f"page:{va:x}"]) == "??" * 0x20


def test_every_physical_page(judged):
    for frame, address in iter_filled_frames(judged.machine):
        offset = address & PAGE_BYTES - 1
        wanted = judged.machine.memory.pages[frame][offset : offset + 16].hex()
        assert parse_bytes(judged.outputs[f"frame:{frame:x}"]) == wanted, hex(frame)


@pytest.mark.parametrize(
    "break_machine",
    [
        lambda machine: setattr(machine.header, "directory_table_base", 0),
        lambda machine: machine.write_virtual(machine.addresses["KiProcessorBlock"], bytes(8)),
    ],
    ids=["no page tables", "no processors"],
)
def test_engine_refuses_what_no_kernel_writes(engine, tmp_path, break_machine):
    machine = forge("quiet")
    break_machine(machine)
    machine.save(tmp_path / "m.dmp")
    with pytest.raises(DumpRefused):
        engine.ask(tmp_path / "m.dmp", {"system": "vertarget"})


@pytest.fixture(scope="module", params=SMALL, ids=lambda case: "-".join(map(str, case)))
def small(request, engine, tmp_path_factory):
    """A forged machine and what the engine says about its small dump."""
    arch, build = request.param
    machine = forge("pipo", build=build, arch=arch, processors=PROCESSORS)
    machine.header.bugcheck = bugcheck(arch)
    path = tmp_path_factory.mktemp("small") / "memory.dmp"
    machine.save(path, kind=4)
    pieces = {name: machine.addresses[name] for name in machine.addresses if name.startswith(("entry:", "processor:"))}
    pieces.update(
        (name, machine.addresses[name]) for name in ("nt", "PsLoadedModuleList", "KiProcessorBlock", "stack:0")
    )
    questions = {
        "system": "vertarget",
        "bugcheck": ".bugcheck",
        "modules": "lm",
        "exception": ".exr -1",
        "instruction": "? $ip",
        "thread": "? $thread",
        "process": "? $proc",
        "stack": "? $csp",
        **{f"details:{name}": f"lmvm {engine_name(name)}" for name, *_ in machine.truth.modules},
        **{f"piece:{name}": f"db {va:x} L8" for name, va in pieces.items()},
    }
    answers = engine.ask(path, questions)
    return SimpleNamespace(machine=machine, arch=arch, pieces=pieces, **answers._asdict())


def test_small_dump(small):
    machine, truth = small.machine, small.machine.truth
    assert "Mini Kernel Dump File" in small.opening
    assert (
        re.findall(r"^.*(?:not present in the dump|zero-sized|does not have|failed, 0x8).*$", small.opening, re.M) == []
    )
    system = parse_system(small.outputs["system"])
    assert (system.build, system.machine, system.processors) == (truth.build, MACHINES[small.arch], PROCESSORS)
    assert (system.build_lab, system.taken_at) == (machine.kernel.build_lab, truth.taken_at)
    assert parse_bugcheck(small.outputs["bugcheck"]) == bugcheck(small.arch)


def test_modules_of_a_small_dump(small):
    truth = small.machine.truth
    loaded, unloaded = parse_modules(small.outputs["modules"])
    assert set(loaded) == {(engine_name(name), base, base + size) for name, base, size, _ in truth.modules}
    assert set(unloaded) == {(name[:12], start, end) for name, start, end in truth.unloaded}
    for name, base, _, timestamp in truth.modules:
        details = parse_details(small.outputs[f"details:{name}"])
        assert details["Timestamp"].endswith(f"({timestamp:08X})"), name
        assert int(details["CheckSum"], 16) == read_checksum(small.machine, base), name


def test_thread_of_a_small_dump(small):
    addresses = small.machine.addresses
    shown = {name: parse_value(small.outputs[name]) for name in ("instruction", "thread", "process", "stack")}
    assert shown == {
        "instruction": small.machine.header.instruction_pointer,
        "thread": addresses["thread:0"],
        "process": addresses["process"],
        "stack": addresses["stack:0"],
    }
    address = parse_details(small.outputs["exception"])["ExceptionAddress"].split()[0]
    assert int(address, 16) == small.machine.header.instruction_pointer


def test_memory_of_a_small_dump(small):
    for name, va in small.pieces.items():
        assert parse_bytes(small.outputs[f"piece:{name}"]) == small.machine.read_virtual(va, 8).hex(), name


@pytest.mark.parametrize(("arch", "build"), [*(("x64", build) for build in BUILDS), ("x86", 2600), ("x86", 3790)])
def test_loader_entries_alone(engine, tmp_path, arch, build):
    """Without an image's header in the dump, the engine takes names, addresses and sizes from the loader's list."""
    machine = forge("quiet", build=build, arch=arch)
    for _, base, *_ in machine.truth.modules[1:]:
        machine.omit(base, PAGE_BYTES)
    machine.save(tmp_path / "m.dmp")
    loaded, _ = parse_modules(engine.ask(tmp_path / "m.dmp", {"modules": "lm"}).outputs["modules"])
    assert set(loaded) == {(engine_name(name), base, base + size) for name, base, size, _ in machine.truth.modules}


def test_large_dump(engine, tmp_path):
    """Six gigabytes of pages; the tag is found in the second processor's table of 1025 rows of 38h bytes."""
    machine = forge_large(tmp_path / "large.dmp", present_gib=6, span_gib=16)
    table = machine.addresses["table:1"]
    answers = engine.ask(tmp_path / "large.dmp", {"modules": "lm", "search": f"s -a {table:x} L?{1025 * 0x38:x} Pipo"})
    loaded, _ = parse_modules(answers.outputs["modules"])
    assert len(loaded) == len(machine.truth.modules)
    assert parse_bytes(answers.outputs["search"])[:8] == b"Pipo".hex()
