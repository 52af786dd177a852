"""Kernels nobody has seen: the pool's variables anywhere in nt's data, in any order, among numbers like theirs.

The tables are found, or it is said that they are not: never is anything else taken for them.
"""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace

import pytest

from pykdext.kernel.kernel import Kernel, TargetSymbols
from pykdext.kernel.pool.inference import KernelData
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.model import ImageVersion, Machine, PoolKind, TargetFacts
from pykdext.symbols.chain import SymbolChain
from tests.helpers.segments import SegmentsTarget
from tests.symbols.test_pdb import table_of_kernels

NT, DATA_RVA, DATA_BYTES = 0xFFFFF80000000000, 0xC00000, 0x20000
TABLES, OLDER = 0xFFFFA00000000000, 0xFFFFA00080000000
PROCESSORS = 4
TAGS = [bytes((65 + n % 26, 97 + n // 26, 48 + n % 10, 32)) for n in range(150)]
ROW = {0x28: lambda key, n: struct.pack("<IIIxxxxQIIQ", key, 9 * n, n, 64 * n, 3, 1, 32)}
ROW[0x38] = lambda key, n: struct.pack("<IxxxxQQQQQQ", key, 64 * n, 9 * n, n, 32, 3, 1)
ROW[0x50] = lambda key, n: ROW[0x38](key, n) + bytes(0x18)


def place(row_count):
    """The row of each tag, by the hash of Windows since Vista, written here once more."""
    rows = {}
    for tag in TAGS:
        product = int.from_bytes(tag, "little") * 40543
        row = ((product & 0xFFFFFFFF) ^ (product >> 32)) & (row_count - 2)
        while row in rows:
            row = (row + 1) & (row_count - 2)
        rows[row] = tag
    return rows


def tables_of(row_bytes, row_count):
    made = []
    for processor in range(PROCESSORS):
        data = bytearray(row_bytes * row_count)
        for row, tag in place(row_count).items():
            at = row * row_bytes
            packed = ROW[row_bytes](int.from_bytes(tag, "little"), 7 + row + 1000 * processor)
            data[at : at + row_bytes] = packed
        data[-row_bytes : 4 - row_bytes] = b"Ovfl"  # the last row, which no hash leads to
        made.append(bytes(data))
    return made


def scrambled_kernel(chance, row_bytes, row_count, build, *, gone=(), copies=0, code=None, damaged=False):
    """All variables at random places; decoys: copies of the pointers, runs of other pages, counts of other things.

    ``copies`` more arrays list tables that look alike: processor 0's, and older ones. ``code`` is what the pool
    routines use: ``array``, ``copy`` or nothing. ``damaged``: all true tables but the first hold something else.
    """
    tables = [TABLES + number * 0x100000 for number in range(PROCESSORS)]
    others = [TABLES + 0x40000000 + number * 0x1000 for number in range(64)]
    data = bytearray(chance.choices(b"\0\0\0\1\2\x40\xff", k=DATA_BYTES))
    taken = set()

    def put(*words):
        while True:
            at = 8 * chance.randrange(DATA_BYTES // 8 - len(words) - 1)
            cells = set(range(at, at + 8 * (len(words) + 1), 8))
            if not cells & taken:
                break
        taken.update(cells)
        data[at : at + 8 * (len(words) + 1)] = struct.pack(f"<{len(words) + 1}Q", *words, 0)
        return NT + DATA_RVA + at

    variable = put(tables[0])
    used = {variable}
    if "array" not in gone:
        array = put(*tables)
        used |= {array} if code == "array" else set()
    older = [[tables[0], *(OLDER + (4 * n + slot) * 0x100000 for slot in range(1, 4))] for n in range(copies)]
    places = [put(*pointers) for pointers in older]
    used |= set(places[:1]) if code == "copy" else set()
    put(row_count)
    put(row_count - 2)
    for _ in range(8):
        bits = chance.randrange(6, 16)
        put((1 << bits) + 1)
        put((1 << bits) - 1)
        put(*chance.sample(others, 5))
        put(tables[chance.randrange(1, PROCESSORS)], others[0])
    put(tables[0], *chance.sample(others, 5))
    put(tables[0], 0x1234)
    segments = {NT + DATA_RVA: bytes(data)}
    for address, content in zip(tables, tables_of(row_bytes, row_count)):
        segments[address] = content if address == TABLES or not damaged else bytes(range(65, 91)) * 1000
    for pointers in older:
        segments.update(zip(pointers[1:], tables_of(row_bytes, row_count)[:3]))
    for address in others:
        segments[address] = bytes(chance.choices(b"\0\1abcXYZ \xff", k=0x1000))
    facts = TargetFacts("segments", Machine.X64, build=build, processors=PROCESSORS)
    target = SegmentsTarget(segments, symbols={"PoolTrackTable": variable}, facts=facts)
    section = SimpleNamespace(rva=DATA_RVA, size=DATA_BYTES, writable=True, known=True)
    nt = SimpleNamespace(
        sections=(section,),
        module=SimpleNamespace(base=NT),
        version=ImageVersion(),
        pdb=None,
        iter_range=lambda rva, size: [(address - NT, piece) for address, piece in target.read_present(NT + rva, size)],
    )
    return Kernel(
        target, nt, SymbolChain([TargetSymbols(target)]), follow_pool_code=lambda _: frozenset(used if code else ())
    )


def kernels():
    """Each of the 213 known kernels: its build and the rows of that build."""
    for row in table_of_kernels().values():
        build = int(row[0].split(".")[2])
        yield row[0], build, 0x28 if build <= 15063 else 0x38 if build <= 19045 else 0x50


def outcome(snapshot, row_count):
    allocs = {row.tag.raw: row.usage(PoolKind.NONPAGED).allocs for row in snapshot.tags}
    truth = {
        tag: sum(9 * (7 + row + 1000 * number) for number in range(PROCESSORS)) for row, tag in place(row_count).items()
    }
    if allocs == truth and snapshot.coverage.is_complete:
        return "right"
    is_said = not snapshot.coverage.is_complete and snapshot.warnings
    return "unknown" if is_said and set(allocs) <= set(truth) else "wrong"


def test_known_kernels_scrambled():
    outcomes = {"right": 0, "unknown": 0, "wrong": 0}
    for number, (version, build, row_bytes) in enumerate(list(kernels())[::5]):
        chance = random.Random(version)
        row_count = (513, 1025)[number % 2]
        snapshot = read_pool_snapshot(scrambled_kernel(chance, row_bytes, row_count, build))
        outcomes[outcome(snapshot, row_count)] += 1
    assert outcomes == {"right": 43, "unknown": 0, "wrong": 0}


@pytest.mark.parametrize("row_bytes", [0x28, 0x38, 0x50])
def test_without_the_array_the_other_processors_are_missed_and_said(row_bytes):
    snapshot = read_pool_snapshot(scrambled_kernel(random.Random(1), row_bytes, 513, None, gone=("array",)))
    assert snapshot.coverage.processor_tables_read == 1
    assert any("other processors" in warning for warning in snapshot.warnings)
    assert outcome(snapshot, 513) == "unknown"


@pytest.mark.parametrize("copies", [1, 3])
def test_the_code_decides_among_arrays_that_look_alike_and_this_is_told(copies):
    chance = random.Random(copies)
    snapshot = read_pool_snapshot(scrambled_kernel(chance, 0x38, 513, None, copies=copies, code="array"))
    assert outcome(snapshot, 513) == "right" and snapshot.source.symbols == "code"
    assert any("pool routines use is taken" in warning for warning in snapshot.warnings)


def test_arrays_that_look_alike_are_not_used_without_code():
    snapshot = read_pool_snapshot(scrambled_kernel(random.Random(1), 0x38, 513, None, copies=1))
    assert outcome(snapshot, 513) == "unknown"
    assert any("none is used" in warning for warning in snapshot.warnings)


def test_code_that_agrees_is_told():
    snapshot = read_pool_snapshot(scrambled_kernel(random.Random(2), 0x50, 513, None, code="array"))
    assert outcome(snapshot, 513) == "right" and snapshot.source.symbols == "inference+code"


def test_nothing_is_used_where_data_and_code_do_not_agree():
    """The only array whose tables look alike is an old one; the true one, which the routines use, leads to damage."""
    kernel = scrambled_kernel(random.Random(3), 0x38, 513, None, copies=1, code="array", damaged=True)
    snapshot = read_pool_snapshot(kernel)
    assert outcome(snapshot, 513) == "unknown"
    assert any("do not agree" in warning for warning in snapshot.warnings)


def test_data_full_of_pointers_to_one_table_end_the_search():
    """A torn page repeats the pointers of two tables: each is read once, however often it is named."""
    tables = [TABLES, TABLES + 0x100000]
    memory = {NT + DATA_RVA: struct.pack("<2Q", *tables) * 0x500, **dict(zip(tables, tables_of(0x38, 513)))}
    target, reads = SegmentsTarget(memory), []
    plain = target.read_virtual
    target.read_virtual = lambda address, size: reads.append(address) or plain(address, size)
    found = KernelData(target, NT + DATA_RVA, None).find_processor_arrays(TABLES, 2)
    assert (list(found), sorted(reads)) == ([tuple(tables)], tables)
