"""The forge against two other readers of dump files, kdmp-parser and volatility3, and the public symbol tables."""

from __future__ import annotations

import sys

import pytest

from dumps.forge import BUILDS, BUILDS_BY_ARCH, SCENARIOS, TagTruth, forge
from tests.helpers.forgedumps import unchanged_machine

VALID_STATES = ("nt", "KDBG", "ExPoolTagTables", "table:0", "bigpages", "page:2M", "page:1G", "unloaded")


@pytest.fixture(scope="module")
def kdmp_parser():
    return pytest.importorskip("kdmp_parser", reason="kdmp-parser (oracles extra) cannot be imported")


@pytest.fixture(scope="module")
def open_context():
    """Return a function that opens a dump as one of volatility3's crash layers, named crash."""
    pytest.importorskip("volatility3", reason="volatility3 (oracles extra) cannot be imported")
    from volatility3.framework import contexts
    from volatility3.framework.layers import crash, physical

    def open_dump(path, layer="WindowsCrashDump64Layer"):
        context = contexts.Context()
        context.config["base.location"] = path.as_uri()
        context.add_layer(physical.FileLayer(context, "base", "base"))
        context.config["crash.base_layer"] = "base"
        context.add_layer(getattr(crash, layer)(context, "crash", "crash"))
        return context

    return open_dump


@pytest.fixture(scope="module")
def open_kernel(open_context, evidence):
    """Return a function that gives volatility3's module nt of a dump, with the symbol tables of the real kernel."""
    from volatility3.framework.layers import intel
    from volatility3.framework.symbols.windows import WindowsKernelIntermedSymbols

    def open_module(path, machine):
        context = open_context(path)
        context.config["kernel.memory_layer"] = "crash"
        context.config["kernel.page_map_offset"] = machine.header.directory_table_base & ~0xFFF
        context.add_layer(intel.WindowsIntel32e(context, "kernel", "kernel"))
        table = next((evidence / "isf").glob(f"*{machine.truth.kernel_guid}*"))
        context.symbol_space.append(WindowsKernelIntermedSymbols(context, "nt", "nt_symbols", table.as_uri()))
        return context.module("nt_symbols", "kernel", machine.addresses["nt"])

    return open_module


@pytest.mark.parametrize("kind", [1, 5, 6, 8, 9, 10])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_kdmp_parser_reads_every_page(kdmp_parser, tmp_path, scenario, kind):
    machine = unchanged_machine(scenario, healthy_share=32)
    machine.save(tmp_path / "m.dmp", kind=kind)
    dump = kdmp_parser.KernelDumpParser(tmp_path / "m.dmp")
    assert int(dump.type) == kind
    assert dump.directory_table_base == machine.header.directory_table_base & ~0xFFF
    header = dump.header
    assert header.MachineImageType == 0x8664
    assert (header.BugCheckCode, *header.BugCheckCodeParameter) == machine.truth.bugcheck
    assert header.KdDebuggerDataBlock == machine.addresses["KDBG"]
    assert header.PsLoadedModuleList == machine.addresses["PsLoadedModuleList"]
    assert header.PsActiveProcessHead == machine.addresses["PsActiveProcessHead"]
    assert dump.context.Rip == machine.header.instruction_pointer
    for frame in machine.memory.present_frames():
        assert dump.read_physical_page(frame << 12) == machine.memory.pages[frame]
    for frame in machine.memory.omitted:
        assert dump.read_physical_page(frame << 12) is None


@pytest.mark.parametrize("build", BUILDS)
def test_kdmp_parser_walks_the_page_tables(kdmp_parser, tmp_path, build):
    machine = forge("quiet", build=build)
    machine.save(tmp_path / "m.dmp")
    dump = kdmp_parser.KernelDumpParser(tmp_path / "m.dmp")
    assert dump.header.MinorVersion == build
    for name in VALID_STATES:
        if name in machine.addresses:
            va = machine.addresses[name]
            assert dump.translate_virtual(va) == machine.space.translate(va)


@pytest.mark.parametrize("kind", [1, 5])
@pytest.mark.parametrize("scenario", ["pipo", "missing"])
def test_volatility_reads_every_page(open_context, tmp_path, scenario, kind):
    machine = forge(scenario, healthy_share=32, build=17763)
    path = tmp_path / "m.dmp"
    machine.save(path, kind=kind)
    layer = open_context(path).layers["crash"]
    assert layer.dtb == machine.header.directory_table_base
    for frame in machine.memory.present_frames():
        assert layer.read(frame << 12, 0x1000) == machine.memory.pages[frame]
    for frame in machine.memory.omitted:
        assert not layer.is_valid(frame << 12, 0x1000)


@pytest.mark.parametrize("kind", [1, 5])
@pytest.mark.parametrize(
    ("arch", "build"), [(arch, build) for arch in ("x86", "x86pae") for build in BUILDS_BY_ARCH[arch]]
)
def test_volatility_reads_32_bit_dumps(open_context, tmp_path, arch, build, kind):
    """The crash layer of volatility3 reads every page; its Intel layers walk the tables, but know no prototypes."""
    from volatility3.framework.layers import intel

    builds = BUILDS_BY_ARCH[arch]
    if kind == 5 and sys.version_info < (3, 10) and build not in (min(builds), max(builds)):
        pytest.skip("volatility reads bitmaps slowly: on the oldest Python those of the first and the last kernel")
    machine = forge("pipo", arch=arch, build=build)
    machine.memory.page(machine.space.root_pfn + 1)  # volatility reads 4 KB from the start of the top table on
    path = tmp_path / "m.dmp"
    machine.save(path, kind=kind)
    context = open_context(path, "WindowsCrashDump32Layer")
    layer = context.layers["crash"]
    assert layer.dtb == machine.header.directory_table_base
    for frame in machine.memory.present_frames():
        assert layer.read(frame << 12, 0x1000) == machine.memory.pages[frame]
    context.config["kernel.memory_layer"] = "crash"
    context.config["kernel.page_map_offset"] = machine.header.directory_table_base
    kind_of_layer = intel.WindowsIntelPAE if arch == "x86pae" else intel.WindowsIntel
    context.add_layer(kind_of_layer(context, "kernel", "kernel"))
    kernel = context.layers["kernel"]
    for name, va in machine.addresses.items():
        if machine.space.translate(va) is None:
            assert not kernel.is_valid(va)
        elif not name.startswith("page:prototype"):
            assert kernel.translate(va)[0] == machine.space.translate(va)


@pytest.mark.parametrize("build", BUILDS)
def test_volatility_and_public_symbols_find_the_truth(open_kernel, tmp_path, build):
    machine = forge("twins", build=build, processors=2, table_rows=513)
    machine.save(tmp_path / "m.dmp", kind=5)
    nt = open_kernel(tmp_path / "m.dmp", machine)
    assert tuple(walk_modules(nt)) == tuple((name, base, size) for name, base, size, _ in machine.truth.modules)
    assert sum_tag_tables(nt, machine.truth.processors) == machine.truth.tags
    big_pages = array(nt, "PoolBigPageTable", "_BIG_PAGES")
    big = {int(row.Va) | 0xFFFF << 48: (row.Key, row.NumberOfBytes) for row in big_pages}
    for tag, blocks in machine.truth.blocks.items():
        for block in blocks:
            assert not block.is_big or big[block.va] == (int.from_bytes(tag, "little"), block.size)
    layer = nt.context.layers["kernel"]
    for state in (*VALID_STATES, "page:transition", "page:swizzled"):
        if state in machine.addresses:
            va = machine.addresses[state]
            assert layer.translate(va)[0] == machine.space.translate(va)
    for state in ("page:pagefile", "page:unmapped"):
        assert not layer.is_valid(machine.addresses[state])


def walk_modules(nt):
    head = nt.object("_LIST_ENTRY", offset=nt.get_symbol("PsLoadedModuleList").address)
    # Up to Windows 8.1 the public symbols have only the user's form, whose first members are the same.
    entry_type = "_KLDR_DATA_TABLE_ENTRY" if nt.has_type("_KLDR_DATA_TABLE_ENTRY") else "_LDR_DATA_TABLE_ENTRY"
    for entry in head.to_list(f"nt_symbols!{entry_type}", "InLoadOrderLinks"):
        assert entry.FullDllName.get_string().endswith(entry.BaseDllName.get_string())
        yield entry.BaseDllName.get_string(), int(entry.DllBase) | 0xFFFF << 48, int(entry.SizeOfImage)


def number(nt, symbol):
    return int(nt.object("unsigned long long", offset=nt.get_symbol(symbol).address))


def rows_at(nt, va, count, type_name):
    return nt.object("array", offset=va, subtype=nt.get_type(type_name), count=count, absolute=True)


def array(nt, symbol, suffix):
    return rows_at(nt, number(nt, symbol), number(nt, symbol + "Size"), "_POOL_TRACKER" + suffix)


def sum_tag_tables(nt, processors):
    tables = nt.object(
        "array",
        offset=nt.get_symbol("ExPoolTagTables").address,
        subtype=nt.get_type("unsigned long long"),
        count=processors,
    )
    sources = [rows_at(nt, int(va), number(nt, "PoolTrackTableSize"), "_POOL_TRACKER_TABLE") for va in tables]
    sources.append(array(nt, "PoolTrackTableExpansion", "_TABLE"))
    fields = ("NonPagedAllocs", "NonPagedFrees", "NonPagedBytes", "PagedAllocs", "PagedFrees", "PagedBytes")
    totals = {}
    for rows in sources:
        for row in rows:
            tag = (int(row.Key) & 0xFFFFFFFF).to_bytes(4, "little")
            limits = [1 << 8 * getattr(row, field).vol.size for field in fields]
            values = [int(getattr(row, field)) for field in fields]
            sums = totals.setdefault(tag, [0] * 6)
            totals[tag] = [(a + b) % limit for a, b, limit in zip(sums, values, limits)]
    return {tag: TagTruth(*values) for tag, values in totals.items() if any(values)}
