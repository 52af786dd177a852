"""One contract for every Target: the same memory gives the same answers and the same errors."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest

from dumps.forge import forge
from pykdext.errors import MemoryReadError, SymbolNotFoundError
from pykdext.images.imagefile import open_image_file
from pykdext.model import Machine, Module
from pykdext.targets.dump.crashdump import open_crashdump
from tests.helpers.forgedumps import memory_kinds
from tests.helpers.peimages import ARM64, CODE, X64, X86, Part, build_file
from tests.helpers.segments import SegmentsTarget

PAGE = 0x1000


BUILDS = {"x64": 19041, "x86": 7601, "x86pae": 17763, "arm64": 22000}


@functools.cache
def forged(arch):
    machine = forge("pipo", build=BUILDS[arch], processors=2, seed=3, arch=arch)
    # A hole in the middle of a driver, so that every target has one at the same place.
    machine.unmap(machine.addresses["module:tcpip.sys"] + PAGE, PAGE)
    return machine


class DriverFile:
    """A driver in a file, told as a forged machine tells of itself: it holds one module and no variables."""

    def __init__(self, arch):
        code, base = {"x86": (X86, 0x400000), "x64": (X64, 0x140000000), "arm64": (ARM64, 0x140000000)}[arch]
        data = b"".join(bytes([page]) * PAGE for page in range(1, 121))
        part = Part(b".text", 2 * PAGE, data, CODE)  # a page behind the headers is missing
        self._file = build_file(part, machine=code, base=base, timestamp=0x5F000000)
        self._pages = {base: self._file[:PAGE]}
        self._pages.update((base + part.rva + page, data[page : page + PAGE]) for page in range(0, len(data), PAGE))
        self.truth = SimpleNamespace(modules=[("tcpip.sys", base, part.rva + len(data), 0x5F000000)], unloaded=[])
        self.addresses = {"module:tcpip.sys": base}

    def read_virtual(self, address, size):
        if address not in self._pages:
            raise ValueError("a hole")
        return self._pages[address]

    def open(self, folder):
        path = folder / "tcpip.sys"
        path.write_bytes(self._file)
        return open_image_file(str(path))


@pytest.fixture(
    scope="module",
    params=[(arch, kind) for arch in BUILDS for kind in ("segments", *memory_kinds(arch))]
    + [(arch, "driver file") for arch in ("x64", "x86", "arm64")],
)
def case(request):
    """The architecture and the kind of target: ``segments``, the type of a dump, or a driver file."""
    return request.param


@pytest.fixture(scope="module")
def machine(case):
    return DriverFile(case[0]) if case[1] == "driver file" else forged(case[0])


@pytest.fixture(scope="module")
def regions(machine):
    """Ranges of 4 KiB pages, present or not, as (address, size).

    Without nt: it lies in large pages, and a complete dump holds zeros where their frames were never written.
    """
    modules = [(base, size) for name, base, size, _ in machine.truth.modules if name != "ntoskrnl.exe"]
    tables = [machine.addresses.get(f"table:{number}") for number in range(2)]
    return modules + [(address & -PAGE, 0x8000) for address in tables if address is not None]


@pytest.fixture(scope="module")
def pages(machine, regions):
    """The truth: {page address: bytes}."""
    found = {}
    for address, size in regions:
        for page in range(address & -PAGE, address + size, PAGE):
            try:
                found[page] = bytes(machine.read_virtual(page, PAGE))
            except ValueError:
                continue
    return found


def open_segments(machine, pages):
    modules = [Module(name, base, size, timestamp=stamp) for name, base, size, stamp in machine.truth.modules]
    modules += [Module(n, s, e - s, unloaded=True) for n, s, e in reversed(machine.truth.unloaded)]
    symbols = {"PoolTrackTable": machine.addresses["PoolTrackTable"]}
    return SegmentsTarget(pages, machine=Machine(machine.truth.machine), modules=tuple(modules), symbols=symbols)


@pytest.fixture(scope="module")
def target(case, machine, pages, tmp_path_factory):
    kind = case[1]
    if kind == "segments":
        yield open_segments(machine, pages)
        return
    if kind == "driver file":
        with machine.open(tmp_path_factory.mktemp("contract")) as driver:
            yield driver
        return
    path = tmp_path_factory.mktemp("contract") / "memory.dmp"
    machine.save(path, kind=kind)
    with open_crashdump(str(path)) as dump:
        yield dump


NOWHERE_32 = [(0, 1), (0x1000, 0x1000), (0x7FFFF000, 0x1000), (0xFFFFFFF8, 16), (1 << 32, 8), (0x81000000, 1 << 45)]
NOWHERE_64 = [
    (0, 1),
    (0x1000, 0x1000),
    (0x00008000_00000000, 8),
    (0xFFFF7FFF_FFFFF000, 0x1000),
    (0xFFFFFFFF_FFFFFFF8, 16),
    (0xFFFFF804_00000000, 1 << 45),
]


class TestTargetContract:
    def test_architecture(self, target, case):
        arch = case[0]
        assert target.machine is {"x64": Machine.X64, "arm64": Machine.ARM64}.get(arch, Machine.X86)
        assert target.pointer_size == (4 if target.machine is Machine.X86 else 8)
        assert target.facts.machine is target.machine
        assert target.facts.kind

    def test_every_page_reads_the_same(self, target, pages):
        assert len(pages) > 100
        for address, data in pages.items():
            assert target.read_virtual(address, PAGE) == data

    def test_reads_at_any_place_and_of_any_size(self, target, pages):
        for address in list(pages)[::7]:
            for offset, size in ((0, 1), (1, 8), (0xFF8, 8), (0x123, 0x456), (0xFFF, 1)):
                assert target.read_virtual(address + offset, size) == pages[address][offset : offset + size]

    def test_reads_across_pages(self, target, pages):
        neighbours = [address for address in pages if address + PAGE in pages]
        assert neighbours
        for address in neighbours:
            expected = pages[address][-5:] + pages[address + PAGE][:6]
            assert target.read_virtual(address + PAGE - 5, 11) == expected

    def test_no_bytes(self, target, pages):
        assert target.read_virtual(next(iter(pages)), 0) == b""
        assert target.read_virtual(0, 0) == b""
        assert list(target.read_present(next(iter(pages)), 0)) == []

    def test_there_are_no_partial_answers(self, target, pages):
        last = next(address for address in pages if address + PAGE not in pages)
        with pytest.raises(MemoryReadError) as caught:
            target.read_virtual(last + PAGE - 8, 9)
        assert (caught.value.address, caught.value.size) == (last + PAGE - 8, 9)

    def test_what_is_not_there_is_an_error_or_nothing(self, target):
        for address, size in NOWHERE_32 if target.pointer_size == 4 else NOWHERE_64:
            with pytest.raises(MemoryReadError) as caught:
                target.read_virtual(address, size)
            assert (caught.value.address, caught.value.size) == (address, size)
            if size < 1 << 40:
                assert list(target.read_present(address, size)) == []

    def test_present_parts_are_all_that_can_be_read(self, target, pages, regions):
        for address, size in regions:
            covered = {}
            reached = address
            for start, data in target.read_present(address, size):
                assert data
                assert start >= reached
                reached = start + len(data)
                assert reached <= address + size
                covered[start] = data
            expected = b"".join(pages[p] for p in range(address & -PAGE, address + size, PAGE) if p in pages)
            assert b"".join(covered.values())[:size] == expected[: len(b"".join(covered.values()))]
            assert sum(map(len, covered.values())) == sum(
                min(p + PAGE, address + size) - p for p in range(address & -PAGE, address + size, PAGE) if p in pages
            )

    def test_present_parts_begin_and_end_where_asked(self, target, machine, pages):
        base = machine.addresses["module:tcpip.sys"]
        parts = list(target.read_present(base + 0xFF0, PAGE + 0x20))
        assert parts == [(base + 0xFF0, pages[base][-0x10:]), (base + 2 * PAGE, pages[base + 2 * PAGE][:0x10])]

    def test_modules(self, target, machine):
        loaded = [module for module in target.modules() if not module.unloaded]
        assert [(m.name, m.base, m.size, m.timestamp) for m in loaded] == list(machine.truth.modules)
        unloaded = [module for module in target.modules() if module.unloaded]
        assert {(m.name, m.base, m.base + m.size) for m in unloaded} == set(machine.truth.unloaded)
        assert list(target.modules()) == loaded + unloaded

    def test_symbols(self, target, machine):
        known = machine.addresses.get("PoolTrackTable")
        if known is not None:
            assert target.symbol("PoolTrackTable") == known
        for name in ("NoSuchVariable", *(() if known else ("PoolTrackTable",))):
            with pytest.raises(SymbolNotFoundError) as caught:
                target.symbol(name)
            assert caught.value.name == name

    def test_layouts_that_are_not_known(self, target):
        with pytest.raises(SymbolNotFoundError):
            target.field_layout("_NO_SUCH_TYPE")
