"""Driver Verifier on 32-bit kernels whose symbols are at hand: its drivers, what they have, and who allocated it."""

from __future__ import annotations

import struct

import pytest

from pykdext.kernel.kernel import Kernel, TargetSymbols
from pykdext.kernel.objects.pages import PageReader
from pykdext.kernel.objects.pooltraces import read_pool_traces
from pykdext.kernel.objects.verifier import read_verifier
from pykdext.model import Machine, Module, PoolTag, TargetFacts
from pykdext.symbols.chain import SymbolChain
from tests.helpers.segments import SegmentsTarget

NT, DRIVER = 0x82800000, 0x91230000
PAGE, DATA = 0x8A000000, 0x8A010000
TAG = b"Vf32"
# build: size of a table; TablesNo and Tables in the tree; VerifiedData; page headers, counts and bytes in the data
LAYOUTS = {
    7601: (0x3C, 0x14, 0x10, 0x14, 0x18, 0x28, 0x38),
    9600: (0x80, 0xC, 8, 0x18, 0x18, 0x28, 0x38),
    17763: (0x80, 0xC, 8, 0x1C, 0x20, 0x30, 0x40),
}


def kernel_of(build):
    table_bytes, count_at, tables_at, verified_at, pages_at, counts_at, bytes_at = LAYOUTS[build]
    memory = bytearray(0x2000)

    def put(offset, form, *values):
        struct.pack_into(f"<{form}", memory, offset, *values)

    tree, tables, node, suspect, log = 0x10, 0x80, 0x200, 0x280, 0x400
    put(0, "I", 0x9)  # MmVerifierData: special pool, pool tracking
    put(tree + tables_at, "I", DATA + tables)
    put(tree + count_at, "I", 2)
    put(tables + table_bytes, "4I", DATA + tables + table_bytes, 0, DATA + node, 0)
    put(node, "4I", DATA + tables, 0, DATA + node, 0)  # its right child is itself
    put(node + 0x10, "2I", DRIVER, 0x8000)
    put(node + 0x10 + verified_at, "I", DATA + 0x300)
    put(suspect + 0x10, "HHI", 18, 20, DATA + suspect + 0x20)
    memory[suspect + 0x20 : suspect + 0x32] = "other.sys".encode("utf-16-le")
    put(0x300, "I", DATA + suspect)
    put(0x300 + pages_at, "I", PAGE)
    put(0x300 + counts_at, "4I", 0, 2_500, 0, 2_600)
    put(0x300 + bytes_at, "4I", 0, 500_000, 0, 0)
    block = log + 0x200
    put(log, "3I3I", DATA + block + 8, 0x30, 0, NT + 0x1234, DRIVER + 0x150, 0)
    put(block, "HH4s", 0, 7 | 2 << 9, TAG)
    put(0xFF0, "3I", DATA + log, 4, 0)
    page = struct.pack("<4I", 0, DATA + 0x300, 0x21455256, 0)
    for number in range(255):
        caller = DRIVER + (0x150 if number % 3 else 0x1F0)
        page += struct.pack("<3I4s", 0x8B000000 + 0x40 * number if number % 5 else 0, caller, 0x30, TAG)
    symbols = {"MmVerifierData": DATA, "ViTargetDriversAvl": DATA + tree}
    symbols.update(VfPoolTraces=DATA + 0xFF0, VfPoolTracesLength=DATA + 0xFF4, VfPoolTracesIndex=DATA + 0xFF8)
    modules = (Module("nt", NT, 0x400000), Module("leaky.sys", DRIVER, 0x8000))
    facts = TargetFacts("segments", Machine.X86, build=build)
    segments = {PAGE: page.ljust(0x1000, b"\0"), DATA: bytes(memory)}
    target = SegmentsTarget(segments, machine=Machine.X86, modules=modules, symbols=symbols, facts=facts)
    return Kernel(target, None, SymbolChain([TargetSymbols(target)]))


@pytest.mark.parametrize("build", LAYOUTS)
def test_drivers_and_their_allocations(build):
    kernel = kernel_of(build)
    report = read_verifier(kernel, PageReader(kernel.target))
    (driver,) = report.drivers
    assert (report.level, driver.name, driver.nonpaged_allocations, driver.nonpaged_bytes) == (
        9,
        "leaky.sys",
        2_500,
        500_000,
    )
    assert {(caller.rva, caller.tag.raw, caller.blocks) for caller in driver.callers} == {
        (0x150, TAG, 136),
        (0x1F0, TAG, 68),
    }
    log = read_pool_traces(kernel, PageReader(kernel.target))
    (caller,) = log.find_callers([PoolTag(TAG)])
    assert (caller.module, caller.rva, caller.blocks, caller.bytes) == ("leaky.sys", 0x150, 1, 0x30)
