"""Limits of kernels whose symbols nobody has: found in nt's data where they agree with what else is known, or not."""

from __future__ import annotations

import struct

import pytest

from dumps.forge import forge
from pykdext.kernel import kernel as kernel_module
from pykdext.kernel.kernel import open_kernel
from pykdext.kernel.memory.commit import read_commit_sheet
from pykdext.kernel.pool import limitinference
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.targets.dump.crashdump import open_crashdump

INFERRED = "the pools' limits were inferred"
COMMIT_INFERRED = "the commit limit was inferred"
MOST_NONPAGED = {14393: 0x1420, 17763: 0x2550, 19041: 0x2630, 20348: 0x4230, 22000: 0x4430}
"""Where MiState has the most pages of nonpaged pool; those of paged pool are behind it, what that holds before it."""

PARTITIONS = {14393: (0x1880, 0x3A8, 0x428), 19041: (0x1B00, 0x228, 0x2A8), 22000: (0x4140, 0x228, 0x318)}
"""Where MiSystemPartition has Vp; from there the committed pages and their limit. At 10h are the machine's pages."""


@pytest.fixture(autouse=True)
def _no_symbols(monkeypatch):
    monkeypatch.setattr(kernel_module, "load_profile", lambda *_: None)


@pytest.fixture(params=[19041])
def machine(request):
    return forge("quiet", build=request.param, pool_totals=True)


def read(machine, tmp_path):
    dump = tmp_path / "m.dmp"
    machine.save(dump)
    target = open_crashdump(str(dump))
    try:
        kernel = open_kernel(target)
        return read_pool_snapshot(kernel, str(dump)), read_commit_sheet(kernel)
    finally:
        target.close()


def limits_of(snapshot):
    memory = snapshot.memory
    return memory.nonpaged_limit_bytes, memory.paged_bytes, memory.paged_limit_bytes


def place(machine, offset, variable="MiState"):
    return machine.addresses["nt"] + machine.kernel.variables[variable] + offset


def put(machine, va, *words):
    machine.write_virtual(va, struct.pack(f"<{len(words)}Q", *words))


@pytest.mark.parametrize("machine", MOST_NONPAGED, indirect=True)
def test_limits_are_found_without_symbols(machine, tmp_path):
    snapshot, sheet = read(machine, tmp_path)
    truth = machine.truth.limits
    assert limits_of(snapshot) == (truth["nonpaged"][1], *truth["paged"])
    assert (snapshot.memory.commit_bytes, snapshot.memory.commit_limit_bytes) == truth["commit"]
    assert (sheet.committed_bytes, sheet.limit_bytes) == truth["commit"]
    assert [line for line in snapshot.warnings if line.startswith(INFERRED)]
    assert [line for line in snapshot.warnings if line.startswith(COMMIT_INFERRED)]


def test_limits_across_two_windows_are_found(machine, tmp_path, monkeypatch):
    """The data are looked at in windows; wherever one ends, the numbers beside each other are seen together."""
    monkeypatch.setattr(limitinference, "_WINDOW_WORDS", 7)
    snapshot, _ = read(machine, tmp_path)
    assert limits_of(snapshot)[0] == machine.truth.limits["nonpaged"][1]


def test_limits_that_symbols_tell_are_not_called_inferred(machine, tmp_path, monkeypatch):
    monkeypatch.undo()
    snapshot, _ = read(machine, tmp_path)
    assert snapshot.memory.nonpaged_limit_bytes == machine.truth.limits["nonpaged"][1]
    assert not [line for line in snapshot.warnings if line.startswith((INFERRED, COMMIT_INFERRED))]


@pytest.mark.parametrize(
    ("offset", "pages"),
    [
        (-8, 40),  # the paged pool's count: less than its tags hold
        (-8, 1 << 24),  # more than they can take
        (0, 0x1000),  # less nonpaged pool than a quarter of the machine's memory
        (0, 1 << 33),  # more than any Windows allows
        (8, 0x100),
        (8, 1 << 22),  # not what MmSizeOfPagedPoolInBytes says
        (0x70, 7),  # the commit of nonpaged pool is below what its tags hold
    ],
)
def test_one_number_that_does_not_agree_makes_no_limit(machine, tmp_path, offset, pages):
    put(machine, place(machine, MOST_NONPAGED[19041] + offset), pages)
    snapshot, _ = read(machine, tmp_path)
    nonpaged, used, paged = limits_of(snapshot)
    assert (nonpaged, used) == (None, None)
    assert paged == machine.truth.limits["paged"][1], "a variable of its own tells that one"
    assert not [line for line in snapshot.warnings if line.startswith(INFERRED)]


def test_of_two_places_none_is_chosen(machine, tmp_path):
    start = place(machine, MOST_NONPAGED[19041] - 8)
    words = list(struct.unpack("<18Q", machine.read_virtual(start, 18 * 8)))
    words[1] //= 2
    put(machine, place(machine, 0x400), *words)
    assert limits_of(read(machine, tmp_path)[0])[:2] == (None, None)
    words[1] *= 2  # the same numbers twice are one answer
    put(machine, place(machine, 0x400), *words)
    assert limits_of(read(machine, tmp_path)[0])[0] == machine.truth.limits["nonpaged"][1]


def test_without_the_machines_memory_nothing_is_inferred(machine, tmp_path):
    machine.unmap(int.from_bytes(machine.read_virtual(place(machine, 0, "MmPhysicalMemoryBlock"), 8), "little"), 24)
    snapshot, sheet = read(machine, tmp_path)
    assert limits_of(snapshot)[:2] == (None, None)
    assert (snapshot.memory.commit_limit_bytes, sheet) == (None, None)


@pytest.mark.parametrize("machine", PARTITIONS, indirect=True)
@pytest.mark.parametrize(("which", "pages"), [(1, 0), (1, 1 << 30), (2, 0x1000), (0, 0xFFFF)])
def test_commit_is_not_inferred_from_numbers_that_disagree(machine, tmp_path, which, pages):
    vp, *others = PARTITIONS[machine.kernel.build]
    put(machine, place(machine, vp + (0x10, *others)[which], "MiSystemPartition"), pages)
    snapshot, sheet = read(machine, tmp_path)
    assert (snapshot.memory.commit_limit_bytes, sheet) == (None, None)


def test_of_two_partitions_none_is_chosen(machine, tmp_path):
    start = place(machine, 0x1B10, "MiSystemPartition")
    other = place(machine, 0x5000, "MiState")
    machine.write_virtual(other, machine.read_virtual(start, 0x2A8))
    snapshot, sheet = read(machine, tmp_path)
    assert (snapshot.memory.commit_limit_bytes, sheet) == (None, None)


@pytest.mark.parametrize(("arch", "build"), [("x64", 7601), ("x86", 7601), ("x86", 19041), ("arm64", 22000)])
def test_other_kernels_say_what_their_variables_say(arch, build, tmp_path):
    machine = forge("quiet", arch=arch, build=build, pool_totals=True)
    snapshot, _ = read(machine, tmp_path)
    truth = machine.truth.limits
    assert snapshot.memory.nonpaged_limit_bytes == truth["nonpaged"][1]
    assert snapshot.memory.paged_limit_bytes == truth["paged"][1]
    assert not [line for line in snapshot.warnings if line.startswith((INFERRED, COMMIT_INFERRED))]
