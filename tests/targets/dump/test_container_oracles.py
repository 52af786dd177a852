"""The same files read by others and by our containers: both must know the same pages, byte for byte.

kdmp-parser reads 64-bit dumps of types 1, 5, 6, 8, 9, A; volatility3 those of types 1 and 5, 32-bit ones too.
"""

from __future__ import annotations

import random

import pytest

from dumps.forge import forge
from pykdext.errors import MemoryReadError
from pykdext.targets.dump.compressed import open_file
from pykdext.targets.dump.containers import open_container
from pykdext.targets.dump.header import parse_header
from tests.helpers.dumpbytes import PAGE, bitmap_dump, full_dump, range_dump

SPAN = 600


@pytest.fixture(scope="module")
def kdmp_parser():
    return pytest.importorskip("kdmp_parser", reason="kdmp-parser (oracles extra) cannot be imported")


def random_runs(seed):
    """Runs of pages below SPAN with gaps, as ``(first page, pages)``."""
    numbers = random.Random(seed)
    runs, page = [], 1
    while page < SPAN - 40:
        count = numbers.randint(1, 20)
        runs.append((page, count))
        page += count + numbers.randint(1, 20)
    return runs


def build(dump_type, seed, width=64):
    runs = random_runs(seed)
    pages = [page + at for page, count in runs for at in range(count)]
    if dump_type == 1:
        return full_dump(runs[:42], width=width)
    if dump_type in (5, 6):
        signature = b"FDMP" if dump_type == 5 else b"SDMP"
        return bitmap_dump(pages, SPAN, signature=signature, dump_type=dump_type, width=width)
    random.Random(seed).shuffle(runs)
    return range_dump(runs, dump_type=dump_type, metadata=0x1000)


@pytest.fixture(scope="module")
def open_volatility():
    """Return a function that opens a dump of a width as volatility3's crash layer."""
    pytest.importorskip("volatility3", reason="volatility3 (oracles extra) cannot be imported")
    from volatility3.framework import contexts
    from volatility3.framework.layers import crash, physical

    layers = {32: crash.WindowsCrashDump32Layer, 64: crash.WindowsCrashDump64Layer}

    def open_dump(path, width):
        context = contexts.Context()
        context.config["base.location"] = path.as_uri()
        context.add_layer(physical.FileLayer(context, "base", "base"))
        context.config["crash.base_layer"] = "base"
        context.add_layer(layers[width](context, "crash", "crash"))
        return context.layers["crash"]

    return open_dump


def assert_same_pages(kdmp_parser, path, pages):
    oracle = kdmp_parser.KernelDumpParser(path)
    with open_file(str(path)) as file:
        header = parse_header(file)
        container = open_container(file, header)
        assert int(oracle.type) == header.dump_type
        assert oracle.directory_table_base == header.directory_table_base & ~(PAGE - 1)
        known = 0
        for page in pages:
            expected = oracle.read_physical_page(page * PAGE)
            known += expected is not None
            try:
                found = container.read_physical(page * PAGE, PAGE)
            except MemoryReadError:
                found = None
            assert found == expected, f"page 0x{page:x}"
        assert known == container.present_pages == container.pages_expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dump_type", [1, 5, 6, 8, 9, 10])
def test_kdmp_parser_knows_the_same_pages_of_hand_made_files(kdmp_parser, tmp_path, dump_type, seed):
    path = tmp_path / "memory.dmp"
    path.write_bytes(build(dump_type, seed))
    assert_same_pages(kdmp_parser, path, range(SPAN))


@pytest.mark.parametrize("kind", [1, 5, 6])
def test_kdmp_parser_knows_the_same_pages_of_forged_files(kdmp_parser, tmp_path, kind):
    path = tmp_path / "memory.dmp"
    machine = forge("quiet")
    machine.save(path, kind=kind)
    near = {page + offset for page in machine.memory.present_frames() for offset in (-1, 0, 1)}
    if kind == 1:  # its runs also hold the pages between
        near = range(max(near) + 1)
    assert_same_pages(kdmp_parser, path, sorted(near))


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("dump_type", [1, 5])
def test_volatility_knows_the_same_pages(open_volatility, tmp_path, dump_type, width):
    path = tmp_path / "memory.dmp"
    path.write_bytes(build(dump_type, 5, width))
    oracle = open_volatility(path, width)
    with open_file(str(path)) as file:
        container = open_container(file, parse_header(file))
        known = [page for page in range(SPAN) if oracle.is_valid(page * PAGE, PAGE)]
        assert len(known) == container.present_pages > 100
        for page in known:
            assert container.read_physical(page * PAGE, PAGE) == oracle.read(page * PAGE, PAGE)
