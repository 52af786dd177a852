"""Tag tables from bytes written by hand: every generation, several processors, damage."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.errors import LayoutNotFoundError, SymbolNotFoundError, TargetError
from pykdext.kernel.kernel import Kernel, TargetSymbols
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.model import ExpansionState, FieldLayout, Machine, PoolKind, TargetFacts, TypeLayout
from pykdext.symbols.chain import SymbolChain
from tests.helpers.segments import SegmentsTarget

VARIABLES = 0xFFFFF80000C10000
TABLES = 0xFFFFA00000000000
EXPANSION = 0xFFFFB00000000000
ROWS = 513

# Rows as Microsoft's PDBs describe them, written here once more: key, then (allocs, frees, bytes) of both pools.
GENERATIONS = {
    9600: (0x28, 32, lambda k, na, nf, nb, pa, pf, pb: struct.pack("<IIIIQIIQ", k, na, nf, 0, nb, pa, pf, pb)),
    19041: (0x38, 64, lambda k, na, nf, nb, pa, pf, pb: struct.pack("<IIQQQQQQ", k, 0, nb, na, nf, pb, pa, pf)),
    20348: (0x50, 64, lambda k, na, nf, nb, pa, pf, pb: struct.pack("<IIQQQQQQ24s", k, 0, nb, na, nf, pb, pa, pf, b"")),
}
PLAIN = dict.fromkeys((b"File", b"Irp ", b"Mdl ", b"Pool", b"Thre", b"CM31"), (900, 400, 64000, 30, 10, 4096))


def table(build, rows, count=ROWS):
    """``rows``: {slot: (tag bytes, six counters)}, counters reduced to the width of their fields."""
    size, bits, pack = GENERATIONS[build]
    data = bytearray(size * count)
    for slot, (tag, counters) in rows.items():
        na, nf, nb, pa, pf, pb = counters
        masked = (na % 2**bits, nf % 2**bits, nb % 2**64, pa % 2**bits, pf % 2**bits, pb % 2**64)
        data[slot * size : (slot + 1) * size] = pack(int.from_bytes(tag, "little"), *masked)
    return bytes(data)


def kernel_of(build, tables, *, processors=None, variables=None, expansion=None, holes=(), symbols=None, layouts=None):
    """A kernel whose variables follow each other: table, size, expansion, expansion size, array of tables."""
    count = len(tables)
    segments = {}
    addresses = [TABLES + number * 0x1000000 for number in range(count)]
    for number, (address, data) in enumerate(zip(addresses, tables)):
        for offset in range(0, len(data), 0x1000):
            if (number, offset // 0x1000) not in holes:
                segments[address + offset] = data[offset : offset + 0x1000]
    if expansion is not None:
        segments[EXPANSION] = expansion
    expansion_rows = len(expansion) // GENERATIONS[build][0] if expansion else 0
    words = variables or [addresses[0], ROWS, EXPANSION if expansion else 0, expansion_rows, *addresses, 0, 0]
    segments[VARIABLES] = struct.pack(f"<{len(words)}Q", *words)
    names = ("PoolTrackTable", "PoolTrackTableSize", "PoolTrackTableExpansion", "PoolTrackTableExpansionSize")
    known = {name: VARIABLES + 8 * index for index, name in enumerate((*names, "ExPoolTagTables"))}
    target = SegmentsTarget(
        segments,
        facts=TargetFacts("segments", Machine.X64, build=build, processors=processors or count),
        symbols=known if symbols is None else {name: known[name] for name in symbols},
        layouts=layouts,
    )
    return Kernel(target, None, SymbolChain([TargetSymbols(target)]))


def plain_rows(**extra):
    rows = {slot: (tag, counters) for slot, (tag, counters) in enumerate(PLAIN.items())}
    rows.update({int(slot[1:]): row for slot, row in extra.items()})
    return rows


def usage(snapshot, tag, pool=PoolKind.NONPAGED):
    return next(row.usage(pool) for row in snapshot.tags if row.tag.raw == tag)


@pytest.mark.parametrize("build", GENERATIONS)
def test_processors_are_summed_modulo_the_counter(build):
    first = plain_rows(r100=(b"Pipo", (10, 0, 640, 0, 0, 0)))
    second = plain_rows(r100=(b"Pipo", (5, 9, -128, 3, 1, 96)))
    snapshot = read_pool_snapshot(kernel_of(build, [table(build, first), table(build, second)]), "two.dmp")
    pipo = usage(snapshot, b"Pipo")
    assert (pipo.allocs, pipo.frees, pipo.outstanding, pipo.bytes) == (15, 9, 6, 512)
    assert usage(snapshot, b"Pipo", PoolKind.PAGED).outstanding == 2
    assert usage(snapshot, b"File").allocs == 1800
    assert snapshot.total_bytes(PoolKind.NONPAGED) == 512 + 2 * 64000 * len(PLAIN)
    assert snapshot.coverage.is_complete and snapshot.coverage.processor_tables_read == 2
    assert snapshot.coverage.rows_read == snapshot.coverage.rows_expected == 2 * ROWS
    assert snapshot.coverage.expansion_table is ExpansionState.ABSENT
    assert snapshot.source.path == "two.dmp" and snapshot.source.symbols == "target"
    assert not snapshot.warnings


def test_a_wrapped_count_keeps_its_difference():
    rows = plain_rows(r7=(b"Wrap", (5, 2**32 - 10, 4096, 0, 0, 0)))
    wrapped = usage(read_pool_snapshot(kernel_of(9600, [table(9600, rows)])), b"Wrap")
    assert (wrapped.outstanding, wrapped.clamped, wrapped.freed_share) == (15, False, None)


@pytest.mark.parametrize("build", GENERATIONS)
def test_negative_sums_are_shown_as_zero_and_marked(build):
    rows = plain_rows(r9=(b"Torn", (4, 6, -64, 0, 0, 0)))
    snapshot = read_pool_snapshot(kernel_of(build, [table(build, rows)]))
    torn = usage(snapshot, b"Torn")
    assert (torn.outstanding, torn.bytes, torn.clamped) == (0, 0, True)
    assert any("Torn" in warning for warning in snapshot.warnings)


@pytest.mark.parametrize("build", GENERATIONS)
@pytest.mark.parametrize("freed", [1 << 40, 1 << 62, (1 << 63) - 1])
def test_more_freed_than_a_drift_explains_is_no_number_of_bytes(build, freed):
    """The tables are whole, so that the row itself is wrong: neither 0 nor 2^64 less what was freed."""
    rows = plain_rows(r9=(b"Neg1", (900, 400, -freed, 0, 0, 0)), r10=(b"Neg2", (0, 0, 0, 900, 400, -freed)))
    snapshot = read_pool_snapshot(kernel_of(build, [table(build, rows)]))
    sides = usage(snapshot, b"Neg1"), usage(snapshot, b"Neg2", PoolKind.PAGED)
    assert [side.bytes for side in sides] == [None, None]
    assert any("2 tags with more freed than allocated" in text and "left out" in text for text in snapshot.warnings)
    assert snapshot.coverage.rows_read == ROWS - 2 and not snapshot.coverage.lacks_counts
    assert snapshot.total_bytes(PoolKind.NONPAGED) == 64000 * len(PLAIN)


def test_a_protected_tag_joins_its_plain_form():
    rows = plain_rows(r8=(b"Prot", (2, 0, 32, 0, 0, 0)), r9=(b"Pro\xf4", (1, 0, 16, 0, 0, 0)))
    assert usage(read_pool_snapshot(kernel_of(19041, [table(19041, rows)])), b"Prot").bytes == 48


def test_the_expansion_and_the_overflow_row_count():
    rows = {**plain_rows(), ROWS - 1: (b"Ovfl", (3, 1, 4096, 0, 0, 0))}
    expansion = table(19041, {0: (b"Late", (7, 0, 700, 0, 0, 0))}, count=73)
    snapshot = read_pool_snapshot(kernel_of(19041, [table(19041, rows)], expansion=expansion))
    assert usage(snapshot, b"Late").bytes == 700
    assert usage(snapshot, b"Ovfl").outstanding == 2
    assert snapshot.coverage.expansion_table is ExpansionState.READ
    assert any("Ovfl" in warning for warning in snapshot.warnings)


def test_one_table_named_twice_counts_once():
    data = table(19041, plain_rows())
    kernel = kernel_of(19041, [data], variables=[TABLES, ROWS, 0, 0, TABLES, TABLES, 0], processors=2)
    snapshot = read_pool_snapshot(kernel)
    assert usage(snapshot, b"File").allocs == 900


def test_missing_pages_are_counted_and_said():
    tables = [table(19041, plain_rows(r400=(b"Tail", (1, 0, 16, 0, 0, 0)))) for _ in range(3)]
    snapshot = read_pool_snapshot(kernel_of(19041, tables, holes={(1, 5), (2, 0), (2, 1)}))
    assert not snapshot.coverage.is_complete
    missing = snapshot.coverage.rows_expected - snapshot.coverage.rows_read
    assert 0x3000 // 0x38 <= missing <= 0x3000 // 0x38 + 4
    assert usage(snapshot, b"File").allocs == 1800  # the third table's first page is away
    assert sum("not in the target" in warning for warning in snapshot.warnings) == 2


def test_a_whole_table_that_is_away_is_counted():
    tables = [table(19041, plain_rows()) for _ in range(2)]
    pages = {(1, page) for page in range(ROWS * 0x38 // 0x1000 + 1)}
    snapshot = read_pool_snapshot(kernel_of(19041, tables, holes=pages))
    assert (snapshot.coverage.processor_tables_read, snapshot.coverage.processor_tables_expected) == (1, 2)


@pytest.mark.parametrize("build", GENERATIONS)
@pytest.mark.parametrize("claimed", [None, 7601, 17763, 22000, 99999])
def test_the_data_outrank_the_build(build, claimed):
    kernel = kernel_of(build, [table(build, plain_rows(r6=(b"Ntff", (1, 0, 16, 0, 0, 0))))])
    kernel.target._facts = TargetFacts("segments", Machine.X64, build=claimed, processors=1)
    assert usage(read_pool_snapshot(kernel), b"Ntff").bytes == 16


@pytest.mark.parametrize("build", GENERATIONS)
def test_without_symbols_the_neighbourhood_tells(build):
    tables = [table(build, plain_rows()) for _ in range(3)]
    addresses = [TABLES + number * 0x1000000 for number in range(3)]
    words = [addresses[0], 0, ROWS, 77, ROWS - 2, 5, *addresses, 0]
    kernel = kernel_of(build, tables, variables=words, symbols=["PoolTrackTable"])
    snapshot = read_pool_snapshot(kernel)
    assert usage(snapshot, b"File").allocs == 2700
    assert snapshot.source.symbols == "inference"
    assert snapshot.coverage.rows_read == 3 * ROWS
    assert snapshot.coverage.expansion_table is ExpansionState.ABSENT  # the table has free rows
    assert snapshot.coverage.is_complete


def test_a_full_table_may_have_an_expansion_that_was_not_found():
    full = {slot: (b"%04x" % slot, (1, 0, 16, 0, 0, 0)) for slot in range(ROWS - 1)}
    words = [TABLES, 0, ROWS, 77, ROWS - 2, 5, TABLES, 0]
    snapshot = read_pool_snapshot(kernel_of(19041, [table(19041, full)], variables=words, symbols=["PoolTrackTable"]))
    assert snapshot.coverage.expansion_table is ExpansionState.UNKNOWN
    assert any("expansion" in warning for warning in snapshot.warnings)
    assert not snapshot.coverage.is_complete


def test_one_table_serves_all_processors_of_old_kernels():
    words = [TABLES, ROWS, 0, 0, 0]
    kernel = kernel_of(9600, [table(9600, plain_rows())], variables=words, symbols=["PoolTrackTable"])
    kernel.target._facts = TargetFacts("segments", Machine.X64, build=3790, processors=8)
    snapshot = read_pool_snapshot(kernel)
    assert snapshot.coverage.processor_tables_expected == 1
    assert snapshot.source.symbols == "target"


def test_symbols_that_point_elsewhere_are_not_believed():
    tables = [table(19041, plain_rows()) for _ in range(2)]
    words = [TABLES, ROWS, 0, 0, 0xFFFFC00000000000, 0, TABLES, TABLES + 0x1000000, 0]
    snapshot = read_pool_snapshot(kernel_of(19041, tables, variables=words))
    assert usage(snapshot, b"File").allocs == 1800
    assert any("not used" in warning for warning in snapshot.warnings)


def test_an_unknown_row_count_is_derived_and_said():
    kernel = kernel_of(19041, [table(19041, plain_rows())], variables=[TABLES, 12345, 0, 0, TABLES, 0])
    snapshot = read_pool_snapshot(kernel)
    assert usage(snapshot, b"File").allocs == 900
    assert any("12345" in warning for warning in snapshot.warnings)
    assert any("number of rows" in warning for warning in snapshot.warnings)


def test_the_targets_own_types_are_used():
    """A row that no shipped table has: 48h bytes, the key in its middle."""
    names = ("PagedFrees", "PagedAllocs", "PagedBytes", "NonPagedFrees", "NonPagedAllocs", "NonPagedBytes")
    places = {"Key": FieldLayout(0x30, 4), **{name: FieldLayout(8 * index, 8) for index, name in enumerate(names)}}
    described = TypeLayout(0x48, places)
    data = bytearray(ROWS * 0x48)
    for slot, (tag, counters) in plain_rows().items():
        na, nf, nb, pa, pf, pb = counters
        struct.pack_into("<6Q4s", data, slot * 0x48, pf, pa, pb, nf, na, nb, tag)
    kernel = kernel_of(19041, [bytes(data)], layouts={"_POOL_TRACKER_TABLE": described})
    found = usage(read_pool_snapshot(kernel), b"File")
    assert (found.allocs, found.frees, found.bytes) == (900, 400, 64000)


def test_tagging_switched_off_is_said():
    with pytest.raises(TargetError, match="pool tagging was off"):
        read_pool_snapshot(kernel_of(19041, [table(19041, {})], variables=[0] * 6))


def test_no_symbol_is_one_line():
    with pytest.raises(SymbolNotFoundError, match="nt!PoolTrackTable"):
        read_pool_snapshot(kernel_of(19041, [table(19041, {})], symbols=[]))


def test_an_absent_table_is_one_line():
    with pytest.raises(TargetError, match="found no first page of it"):
        read_pool_snapshot(kernel_of(19041, [b""]))


def test_garbage_fits_no_layout():
    garbage = bytes(range(256)) * 200
    with pytest.raises(LayoutNotFoundError, match="build 19041"):
        read_pool_snapshot(kernel_of(19041, [garbage]))


counters = st.integers(min_value=0, max_value=2**31 - 1)


@given(
    parts=st.lists(st.tuples(*[counters] * 6), min_size=1, max_size=5),
    build=st.sampled_from(list(GENERATIONS)),
)
def test_the_sum_over_processors_is_kept(parts, build):
    tables = [table(build, plain_rows(r50=(b"Sums", part))) for part in parts]
    snapshot = read_pool_snapshot(kernel_of(build, tables))
    bits = GENERATIONS[build][1]
    for side, pool in enumerate(PoolKind):
        allocs, frees, used = (sum(part[3 * side + field] for part in parts) for field in range(3))
        expected = (allocs - frees) % 2**bits
        expected = expected - 2**bits if expected >= 2 ** (bits - 1) else expected
        found = [row.usage(pool) for row in snapshot.tags if row.tag.raw == b"Sums"]
        if not found:
            assert not any(map(sum, parts))
            continue
        assert found[0].outstanding == max(0, expected)
        assert found[0].bytes == used
        assert found[0].allocs == allocs % 2**bits
