"""Small memory dumps: two real ones against the symbols of their kernels, and hand-made ones of both widths."""

from __future__ import annotations

import json
import lzma
import random
import struct

import pytest

from pykdext.attribution.places.index import ImageIndex
from pykdext.errors import DumpFormatError, MemoryReadError, PykdextError, SymbolNotFoundError
from pykdext.images.image import read_image
from pykdext.model import BugCheck, Machine, PoolTag
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.dump.triage import NO_TAG_TABLES, TriageDump
from tests.helpers.dumpbytes import TriageBytes, debugger_data
from tests.helpers.indexcoverage import coverage_of

NT64, NT32 = 0xFFFFF80020000000, 0x80400000


@pytest.fixture(params=[64, 32])
def width(request):
    return request.param


@pytest.fixture
def open_bytes(tmp_path):
    opened = []

    def open_(dump):
        path = tmp_path / "mini.dmp"
        path.write_bytes(bytes(dump.data))
        target = open_crashdump(str(path))
        opened.append(target)
        assert isinstance(target, TriageDump)
        return target

    yield open_
    for target in opened:
        target.close()


def make(width, **parts):
    """A dump with everything that it can have; ``parts`` replaces some of it."""
    nt = NT64 if width == 64 else NT32
    sign = 0 if width == 64 else 0xFFFFFFFF00000000  # pointers of 32-bit kernels are sign-extended
    content = {
        "drivers": (
            ("\\SystemRoot\\system32\\ntoskrnl.exe", nt, 0x1046000, 0x0D8333E6, 0xA5938C),
            ("\\SystemRoot\\system32\\hal.dll", nt + 0x2000000, 0x6000, 0x1A7BE8E9, 0xCE9F),
            ("pippo.sys", nt + 0x3000000, 0x7000, 0x60000000, 0x1234),
        ),
        "unloaded": (
            ("dam.sys", nt + 0x4000000, nt + 0x4010000),
            ("dump_storport.sys", nt + 0x5000000, nt + 0x5001000),
        ),
        "blocks": ((nt + 0x9000, b"block two"), (nt + 0x100, b"block one "), (nt + 0x10A, b"joined")),
        "stack": (nt + 0x7000000, bytes(range(256))),
        "page": (nt + 0x8000000, b"page" * 0x400),
        "kdbg": debugger_data(0x290, {0x18: sign | nt, 0x48: sign | (nt + 0xA390), 0x1B8: sign | (nt + 0x168A8)}),
        "kdbg_address": nt + 0xC00B20,
        **parts,
    }
    return TriageBytes(width, **content)


def names(modules, *, unloaded=False):
    return [module.name for module in modules if module.unloaded is unloaded]


# --- real dumps -----------------------------------------------------------------------------------------------

REAL = {
    "triage_x64.dmp": (Machine.X64, 19041, 16, 151, 4, 0x1000007E),
    "triage_arm64.dmp": (Machine.ARM64, 22000, 8, 245, 11, 0x1C8),
}


@pytest.mark.parametrize("name", REAL)
def test_real_dumps_tell_their_system_and_modules(evidence, name):
    machine, build, processors, loaded, unloaded, bugcheck = REAL[name]
    with open_crashdump(str(evidence / "dumps" / name)) as dump:
        facts = dump.facts
        assert (facts.kind, facts.machine, facts.build) == ("small memory dump (type 4)", machine, build)
        assert (facts.processors, facts.bugcheck.code, facts.warnings) == (processors, bugcheck, ())
        assert facts.pages_present is facts.pages_expected is None
        modules = dump.modules()
        assert (len(names(modules)), len(names(modules, unloaded=True))) == (loaded, unloaded)
        nt = modules[0]
        assert (nt.name, nt.path, nt.base) == (
            "ntoskrnl.exe",
            "\\SystemRoot\\system32\\ntoskrnl.exe",
            dump.kernel_base,
        )
        assert dump.facts.warnings == ()
        assert dump.read_virtual(dump.symbol("NtBuildLab"), 8).decode("ascii") == f"{build}.1."[:8].ljust(8, "a")


def test_names_and_bugcheck_of_the_real_x64_dump(evidence):
    with open_crashdump(str(evidence / "dumps" / "triage_x64.dmp")) as dump:
        modules = dump.modules()
        assert names(modules)[:4] == ["ntoskrnl.exe", "hal.dll", "kd.dll", "CLFS.SYS"]
        assert names(modules)[-1] == "rdpbus.sys"
        assert names(modules, unloaded=True) == ["dam.sys", "WdBoot.sys", "hwpolicy.sys", "mcupdate.dll"]
        nt = modules[0]
        assert (nt.base, nt.size, nt.timestamp, nt.checksum) == (0xFFFFF8047BA00000, 0x1046000, 0x0D8333E6, 0xA5938C)
        parameters = (0xFFFFFFFFC0000005, 0xFFFFF8048B58334C, 0xFFFF850429891EE8, 0xFFFF850429891720)
        assert dump.facts.bugcheck == BugCheck(0x1000007E, parameters)
        assert [module.name for module in modules if parameters[1] in module] == ["amdppm.sys"]


def test_debugger_data_of_the_real_x64_dump_agrees_with_its_kernels_symbols(evidence):
    (table,) = (evidence / "isf").glob("*MATCHES-triage_x64*.json.xz")
    symbols = json.loads(lzma.decompress(table.read_bytes()))["symbols"]
    with open_crashdump(str(evidence / "dumps" / "triage_x64.dmp")) as dump:
        assert dump.symbol("PoolTrackTable") - dump.kernel_base == 0xC168A8
        for name in ("PoolTrackTable", "PsLoadedModuleList", "KiProcessorBlock", "MmUnloadedDrivers", "MmPfnDatabase"):
            assert dump.symbol(name) - dump.kernel_base == symbols[name]["address"], name


@pytest.mark.parametrize("name", REAL)
def test_real_dumps_hold_no_tag_table(evidence, name):
    with open_crashdump(str(evidence / "dumps" / name)) as dump:
        variable = dump.symbol("PoolTrackTable")
        try:
            table = int.from_bytes(dump.read_virtual(variable, 8), "little")
        except MemoryReadError:
            return
        with pytest.raises(MemoryReadError):
            dump.read_virtual(table, 0x50)


@pytest.mark.parametrize("name", REAL)
def test_real_dumps_hold_hardly_anything_of_the_images(evidence, name):
    with open_crashdump(str(evidence / "dumps" / name)) as dump:
        images = [read_image(dump, module) for module in dump.modules() if not module.unloaded]
        index = ImageIndex(images, [PoolTag(b"File")])
        assert coverage_of(index).modules_total == REAL[name][3]
        assert coverage_of(index).modules_scanned < 30
        assert coverage_of(index).resident_fraction < 0.005
        assert any("no page can be read" in warning for warning in index.warnings)


@pytest.mark.parametrize("name", REAL)
def test_real_dumps_cut_anywhere_end_well(evidence, tmp_path, name):
    data = (evidence / "dumps" / name).read_bytes()
    path = tmp_path / "cut.dmp"
    with open_crashdump(str(evidence / "dumps" / name)) as whole:
        for size in [*range(0x2000, 0x30000, 0x1357), *range(0x30000, len(data), 0x17777)]:
            path.write_bytes(data[:size])
            try:
                cut = open_crashdump(str(path))
            except DumpFormatError:
                assert size < 0x2080
                continue
            with cut:
                modules = cut.modules()
                text = "; ".join(cut.facts.warnings)
                assert "truncated" in text or size > 0xAC46C
                known = {module.base: module for module in whole.modules() if not module.unloaded}
                for module in modules:
                    if not module.unloaded:
                        assert (module.base, module.size) == (known[module.base].base, known[module.base].size)
                        assert module.name in (known[module.base].name, f"module_{module.base:x}")


# --- hand-made dumps ------------------------------------------------------------------------------------------


def test_modules_and_variables(open_bytes, width):
    dump = open_bytes(make(width))
    nt = NT64 if width == 64 else NT32
    assert (dump.machine, dump.pointer_size) == (Machine.X64 if width == 64 else Machine.X86, width // 8)
    modules = dump.modules()
    assert names(modules) == ["ntoskrnl.exe", "hal.dll", "pippo.sys"]
    assert [(module.base, module.size) for module in modules[:2]] == [(nt, 0x1046000), (nt + 0x2000000, 0x6000)]
    assert (modules[0].timestamp, modules[0].checksum) == (0x0D8333E6, 0xA5938C)
    assert modules[1].path == "\\SystemRoot\\system32\\hal.dll"
    assert [(module.name, module.base, module.size) for module in modules[3:]] == [
        ("dam.sys", nt + 0x4000000, 0x10000),
        ("dump_storpor", nt + 0x5000000, 0x1000),
    ]
    assert dump.kernel_base == nt
    assert dump.symbol("PoolTrackTable") == nt + 0x168A8
    assert dump.symbol("PsLoadedModuleList") == nt + 0xA390
    assert dump.symbol("KdDebuggerDataBlock") == nt + 0xC00B20
    for name in ("MmPfnDatabase", "nonsense"):
        with pytest.raises(SymbolNotFoundError):
            dump.symbol(name)
    with pytest.raises(SymbolNotFoundError):
        dump.field_layout("_POOL_TRACKER_TABLE")
    assert dump.facts.warnings == ()


def test_memory_is_joined_from_all_parts(open_bytes, width):
    dump = open_bytes(make(width))
    nt = NT64 if width == 64 else NT32
    assert dump.read_virtual(nt + 0x102, 12) == b"ock one join"
    assert dump.read_virtual(nt + 0x9000, 9) == b"block two"
    assert dump.read_virtual(nt + 0x7000010, 4) == bytes((16, 17, 18, 19))
    assert dump.read_virtual(nt + 0x8000FFC, 4) == b"page"
    assert dump.read_virtual(nt + 0xC00B30, 4) == b"KDBG"
    assert dump.read_virtual(nt, 0) == b""
    for address, size in ((nt + 0xFF, 2), (nt + 0x10F, 2), (nt + 0x9008, 2), (nt, 1), (nt + 0x100, 1 << 40)):
        with pytest.raises(MemoryReadError) as caught:
            dump.read_virtual(address, size)
        assert (caught.value.address, caught.value.size) == (address, size)
    assert list(dump.read_present(nt + 0x105, 0x8F00)) == [(nt + 0x105, b" one joined"), (nt + 0x9000, b"block")]
    assert list(dump.read_present(nt + 0x200, 0x100)) == []


@pytest.mark.parametrize("stride", [0x90, 0x98, 0xA8])
def test_driver_entries_may_be_longer(open_bytes, stride):
    assert names(open_bytes(make(64, stride=stride)).modules()) == ["ntoskrnl.exe", "hal.dll", "pippo.sys"]


@pytest.mark.parametrize("stride", [0x4C, 0x54, 0x5C])
def test_driver_entries_of_32_bit_may_be_longer(open_bytes, stride):
    for count in (1, 2, 3):
        drivers = tuple((f"driver{number}.sys", NT32 + number * 0x10000, 0x4000, 1, 2) for number in range(count))
        dump = open_bytes(make(32, stride=stride, drivers=drivers))
        assert names(dump.modules()) == [f"driver{number}.sys" for number in range(count)]


def test_nt_goes_first(open_bytes, width):
    nt = NT64 if width == 64 else NT32
    drivers = (("hal.dll", nt + 0x100000, 0x1000, 1, 2), ("ntkrnlpa.exe", nt, 0x1000, 1, 2))
    assert names(open_bytes(make(width, drivers=drivers)).modules()) == ["ntkrnlpa.exe", "hal.dll"]


def test_overlapping_pieces_read_as_one(open_bytes, width):
    nt = NT64 if width == 64 else NT32
    content = bytes(range(256))
    blocks = tuple((nt + start, content[start:end]) for start, end in ((0x40, 0x80), (0, 0x50), (0x60, 0x100), (8, 9)))
    dump = open_bytes(make(width, blocks=blocks))
    assert dump.read_virtual(nt, 0x100) == content
    assert list(dump.read_present(nt, 0x1000)) == [(nt, content)]


def test_parts_that_the_dump_does_not_have_are_not_believed(open_bytes, width):
    dump = open_bytes(make(width, parts=0))
    nt = NT64 if width == 64 else NT32
    assert names(dump.modules()) == []
    assert list(dump.read_present(nt, 0x10000000)) == []
    assert dump.kernel_base is None
    text = "; ".join(dump.facts.warnings)
    assert "no list of loaded modules" in text
    assert "no copy of the kernel's debugger data" in text


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0x34, 0xFFFFFFFF, "counts 4,294,967,295 modules"),
        (0x34, 4000, "of its 4,000 modules are in the file"),
        (0x30, 0xFFFFFF00, "0 of its 3 modules are in the file"),
        (0x18, 0xFFFFFF00, None),
        (0x08, 0xFFFFFF00, "end mark"),
        (0x08, 0x10, "no end mark at 0x10"),
    ],
)
def test_damaged_fields_are_told(open_bytes, width, offset, value, words):
    dump = open_bytes(make(width).set(offset, value))
    dump.modules()
    text = "; ".join(dump.facts.warnings)
    assert text == "" if words is None else words in text


def test_a_dump_for_which_the_disk_was_too_small_says_so(open_bytes, width):
    dump = make(width)
    struct.pack_into("<I", dump.data, 0x1050 if width == 64 else 0x8A0, 4)
    assert "too little room" in "; ".join(open_bytes(dump).facts.warnings)


def test_damaged_counts_of_memory_are_told(open_bytes, width):
    count = 0x7C if width == 64 else 0x64
    dump = open_bytes(make(width).set(count, 0xFFFFFFFF))
    assert "pieces of memory, more than there can be" in "; ".join(dump.facts.warnings)
    assert names(dump.modules()) == ["ntoskrnl.exe", "hal.dll", "pippo.sys"]


@pytest.mark.parametrize(
    ("kdbg", "words"),
    [
        (debugger_data(0x290, {}, tag=b"\x12\x34\x56\x78"), "no KDBG tag"),
        (debugger_data(0x290, {})[:0x100], "cut short"),
        (b"", "cut short"),
    ],
)
def test_damaged_debugger_data_is_told(open_bytes, width, kdbg, words):
    dump = open_bytes(make(width, kdbg=kdbg))
    assert words in "; ".join(dump.facts.warnings)
    assert dump.kernel_base is None
    assert names(dump.modules()) == ["ntoskrnl.exe", "hal.dll", "pippo.sys"]


def test_damaged_modules_are_counted(open_bytes, width):
    nt = NT64 if width == 64 else NT32
    drivers = (
        ("ntoskrnl.exe", nt, 0x1000, 1, 2),
        ("user.dll", 0x10000, 0x1000, 1, 2),
        ("skew.sys", nt + 0x10001, 0x1000, 1, 2),
        ("huge.sys", nt + 0x20000, 0xFFFFFFFF, 1, 2),
        ("two\nlines.sys", nt + 0x30000, 0x1000, 1, 2),
    )
    unloaded = (("good.sys", nt, nt + 0x1000), ("back.sys", nt + 0x1000, nt), ("user.sys", 0x1000, 0x2000))
    dump = open_bytes(make(width, drivers=drivers, unloaded=unloaded))
    modules = dump.modules()
    assert names(modules) == ["ntoskrnl.exe", f"module_{nt + 0x30000:x}"]
    assert names(modules, unloaded=True) == ["good.sys"]
    text = "; ".join(dump.facts.warnings)
    assert "damaged entries in the list of loaded modules: 3" in text
    assert "names are not in the dump: 1" in text
    assert "damaged entries in the list of unloaded drivers: 2" in text


def test_any_damage_ends_well(tmp_path, width):
    intact = make(width)
    path = tmp_path / "mini.dmp"
    numbers = random.Random(width)
    values = [0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x100, 0x1000]
    for _ in range(250):
        data = bytearray(intact.data)
        for _ in range(numbers.randint(1, 4)):
            field = intact.start + 4 * numbers.randrange(0x20)
            struct.pack_into("<I", data, field, numbers.choice([*values, numbers.randrange(len(data))]))
        if numbers.random() < 0.5:
            del data[numbers.randrange(len(data)) :]
        path.write_bytes(bytes(data))
        try:
            dump = open_crashdump(str(path))
        except PykdextError as error:
            assert "\n" not in str(error)  # noqa: PT017 - a good end too
            continue
        with dump:
            dump.modules()
            for start, piece in dump.read_present(NT64 if width == 64 else NT32, 0x10000000):
                assert dump.read_virtual(start, len(piece)) == piece
            assert all("\n" not in warning for warning in dump.facts.warnings)


def test_what_to_do_is_said_in_one_line():
    assert "\n" not in NO_TAG_TABLES
    assert "no pool tag tables" in NO_TAG_TABLES
    assert "CrashDumpEnabled" in NO_TAG_TABLES
