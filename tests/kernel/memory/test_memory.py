"""The commit sheet and pages by use of forged machines: equal to what the forge wrote, whole, sampled, damaged."""

from __future__ import annotations

from functools import cache

import pytest

from dumps.forge import forge
from dumps.forge.memorymanager import MemoryPlan
from dumps.forge.pageframes import RECORD_BYTES, plan_frames
from pykdext.kernel.memory.commit import read_commit_sheet
from pykdext.kernel.memory.frames import read_page_frames
from pykdext.kernel.memory.processmemory import ProcessMemoryReader
from pykdext.kernel.memory.regions import read_regions
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.model.memory import CommitPart, FrameUse
from pykdext.pipeline.sources import open_source

BUILDS = (7601, 9600, 14393, 17763, 19041, 20348, 22000)
WITH_REGIONS = BUILDS[2:]
PAGE = 0x1000
DATABASE = 0xFFFFFA8000000000
FRAMES = 0x40000

USES = {
    "zeroed": FrameUse.ZEROED,
    "free": FrameUse.FREE,
    "standby": FrameUse.STANDBY,
    "modified": FrameUse.MODIFIED,
    "modified no write": FrameUse.MODIFIED,
    "transition": FrameUse.PRIVATE,
    "private": FrameUse.PRIVATE,
    "shareable": FrameUse.SHAREABLE,
    "tables": FrameUse.PAGE_TABLES,
    "large": FrameUse.LARGE_PAGES,
    "nonpaged": FrameUse.NONPAGED_POOL,
    "paged": FrameUse.PAGED_POOL,
    "cache": FrameUse.FILE_CACHE,
    "PTEs": FrameUse.SYSTEM_PTES,
    "stacks": FrameUse.KERNEL_STACKS,
    "images": FrameUse.DRIVER_IMAGES,
    "hyperspace": FrameUse.HYPERSPACE,
    "no PTE": FrameUse.NO_PTE,
}
LINES = {
    "MDL pages": "Pages For MDLs",
    "contiguous pages": "ContigMem Pages",
    "AWE pages": "Pages For AWE",
    "driver commit": "Driver Commit",
    "boot commit": "Boot Commit",
    "PFN array commit": "PFN Array Commit",
    "system page tables": "System PageTables",
    "shared commit": "Shared Commit",
    "process commit": "Process Commit",
    "locked file pages": "ProcessLockedFilePages",
    "special pool": "Special Pool",
}


@cache
def machine_of(build):
    return forge(
        "quiet", build=build, memory=MemoryPlan(system_pte_failures=7, pool_failures=3), page_frames=plan_frames(FRAMES)
    )


@pytest.fixture(params=BUILDS)
def machine(request):
    return machine_of(request.param)


def ask(machine, path, question):
    machine.save(path)
    with open_source(str(path)) as source:
        return question(source.kernel)


def expected_uses(build, truth):
    counts = dict.fromkeys(FrameUse, 0)
    for use, frames in truth.items():
        known = USES[use]
        if build == 14393 and known is FrameUse.KERNEL_STACKS:
            known = FrameUse.OTHER  # this build has no region for stacks
        counts[known] += frames
    return {use: frames for use, frames in counts.items() if frames}


class TestCommitSheet:
    def test_equals_the_truth(self, machine, tmp_path):
        sheet = ask(machine, tmp_path / "m.dmp", read_commit_sheet)
        truth = machine.truth.memory
        assert {line.name: line.bytes // PAGE for line in sheet.lines if line.name in LINES.values()} == {
            LINES[name]: pages for name, pages in truth.items() if name in LINES
        }
        assert sheet.available_bytes == truth["available"] * PAGE
        assert sheet.resident_available_bytes == truth["resident available"] * PAGE
        assert sheet.peak_bytes == truth["peak commit"] * PAGE
        assert sheet.system_pte_bytes == truth["system PTEs"] * PAGE
        assert sheet.system_pte_free_bytes == truth["system PTEs free"] * PAGE
        assert (sheet.committed_bytes, sheet.limit_bytes) == machine.truth.limits["commit"]
        assert {failure.name: failure.count for failure in sheet.failures}["system PTE allocations"] == 7
        assert {failure.name: failure.count for failure in sheet.failures}["pool allocations"] == 3
        assert not sheet.doubtful

    @pytest.mark.parametrize("build", [14393, 17763])
    def test_refused_requests_are_told_with_their_reasons(self, build, tmp_path):
        machine = forge("quiet", build=build, memory=MemoryPlan())
        place = machine.kernel.base + machine.kernel.variables["MiState"] + 0x54
        machine.write_virtual(place, b"".join(number.to_bytes(4, "little") for number in (0, 0, 41, *[0] * 6, 7, 0)))
        sheet = ask(machine, tmp_path / "m.dmp", read_commit_sheet)
        told = {failure.name: failure.count for failure in sheet.failures}
        assert told["nonpaged pool requests for want of pages"] == 41
        assert told["nonpaged pool requests for want of resident available pages"] == 7

    def test_what_no_line_counts_is_said(self, machine, tmp_path):
        sheet = ask(machine, tmp_path / "m.dmp", read_commit_sheet)
        assert sheet.unexplained_bytes == sheet.committed_bytes - sum(line.bytes for line in sheet.lines)
        assert sheet.part_bytes(CommitPart.DRIVERS) >= machine.truth.memory["MDL pages"] * PAGE

    @pytest.mark.parametrize("build", [7601, 19041])
    def test_a_line_above_all_that_is_committed_is_doubted(self, build, tmp_path):
        machine = forge("quiet", build=build, memory=MemoryPlan(mdl_pages=1 << 38))
        sheet = ask(machine, tmp_path / "m.dmp", read_commit_sheet)
        assert sheet.doubtful == ("Pages For MDLs",)
        assert "Pages For MDLs" not in [line.name for line in sheet.lines]

    def test_a_limit_is_told_though_the_charge_is_zero(self, tmp_path):
        machine = forge("quiet", build=7601, memory=MemoryPlan())
        machine.write_virtual(machine.kernel.base + machine.kernel.variables["MmTotalCommittedPages"], bytes(8))
        sheet = ask(machine, tmp_path / "m.dmp", read_commit_sheet)
        assert (sheet.committed_bytes, sheet.limit_bytes) == (None, machine.truth.limits["commit"][1])
        assert sheet.lines and not sheet.doubtful

    @pytest.mark.parametrize(("arch", "build"), [("x86", 7601), ("arm64", 22000)])
    def test_kernels_whose_counters_nobody_knows_have_no_invented_lines(self, arch, build, tmp_path):
        sheet = ask(forge("quiet", build=build, arch=arch), tmp_path / "m.dmp", read_commit_sheet)
        assert sheet is None or "Pages For MDLs" not in [line.name for line in sheet.lines]


class TestPageFrames:
    def test_equal_the_truth(self, machine, tmp_path):
        frames = ask(machine, tmp_path / "m.dmp", lambda kernel: read_page_frames(kernel))
        found = {count.use: count.frames for count in frames.uses}
        expected = expected_uses(machine.truth.build, machine.truth.frames)
        if machine.truth.build not in WITH_REGIONS:
            assert not frames.has_regions
            system = {use for use in expected if use not in found}
            assert found.pop(FrameUse.OTHER) == sum(expected.pop(use) for use in system)
            found.pop(FrameUse.BAD, None)  # beyond the records stands pool in these kernels
        else:
            assert frames.has_regions and frames.read == FRAMES
            assert found == expected
        assert not frames.is_sampled

    def test_regions_do_not_overlap(self, machine, tmp_path):
        regions = ask(machine, tmp_path / "m.dmp", read_regions)
        assert all(first.end <= second.start for first, second in zip(regions, regions[1:]))

    @pytest.mark.parametrize("build", WITH_REGIONS)
    def test_a_sample_says_its_error_and_keeps_it(self, build, tmp_path):
        machine = machine_of(build)
        sample = ask(machine, tmp_path / "m.dmp", lambda kernel: read_page_frames(kernel, chunks=24))
        assert sample.is_sampled and sample.read <= FRAMES // 2
        truth = expected_uses(build, machine.truth.frames)
        # three times the half width of a 95 % interval: what is outside of it is no chance
        for count in sample.uses:
            assert abs(count.frames - truth[count.use]) <= 3 * count.error_frames + 0.05 * truth[count.use], count

    @pytest.mark.parametrize("build", [7601, 19041, 22000])
    def test_private_pages_are_told_by_process(self, build, tmp_path):
        machine = forge("zombies", build=build, leaked=12, healthy_share=32, page_frames=plan_frames(0x8000))
        machine.save(tmp_path / "m.dmp")
        with open_source(str(tmp_path / "m.dmp")) as source:
            processes = ObjectSpace(source.kernel).processes.processes
            roots = ProcessMemoryReader(source.kernel).find_roots(processes)
            frames = read_page_frames(source.kernel, roots=roots)
        told = {process.pid: process for process in frames.private if process.bytes}
        assert {pid: process.bytes // PAGE for pid, process in told.items()} == machine.truth.private_frames
        assert all(process.table_bytes == 5 * PAGE for process in told.values())
        assert any(process.has_exited for process in told.values())

    def test_missing_records_are_counted(self, tmp_path):
        machine = forge("quiet", page_frames=plan_frames(FRAMES))
        machine.unmap(DATABASE, 0x1000 * RECORD_BYTES)
        frames = ask(machine, tmp_path / "m.dmp", lambda kernel: read_page_frames(kernel))
        assert frames.read == FRAMES - 0x1000
        assert frames.expected > frames.read

    def test_no_database_is_not_an_answer(self, tmp_path):
        assert ask(forge("quiet"), tmp_path / "m.dmp", lambda kernel: read_page_frames(kernel)) is None

    def test_regions_that_lie_are_left_out(self, tmp_path):
        machine = forge("quiet", build=22000, page_frames=plan_frames(FRAMES))
        machine.write_virtual(machine.addresses["nt"] + 0xC4F080 + 0x4400 + 0xBD0, b"\xff" * 16 * 14)
        frames = ask(machine, tmp_path / "m.dmp", lambda kernel: read_page_frames(kernel))
        assert not frames.has_regions
        assert frames.bytes_of(FrameUse.SYSTEM_PTES) == 0

    @pytest.mark.parametrize("fill", [b"\0", b"\xff"])
    def test_rubbish_is_counted_and_ends(self, fill, tmp_path):
        machine = forge("quiet", page_frames=plan_frames(0x4000))
        for start in range(DATABASE, DATABASE + 0x4000 * RECORD_BYTES, PAGE):
            machine.write_virtual(start, fill * PAGE)
        frames = ask(machine, tmp_path / "m.dmp", lambda kernel: read_page_frames(kernel))
        assert frames.read == 0x4000


def test_a_damaged_count_of_physical_pages_is_not_believed(tmp_path):
    machine = machine_of(19041)
    place = machine.addresses["nt"] + machine.kernel.variables["MmPhysicalMemoryBlock"]
    block = int.from_bytes(machine.read_virtual(place, 8), "little")
    kept = machine.read_virtual(block + 8, 8)
    machine.write_virtual(block + 8, b"\xff" * 8)
    frames = ask(machine, tmp_path / "damaged.dmp", lambda kernel: read_page_frames(kernel, chunks=4))
    machine.write_virtual(block + 8, kept)
    assert frames.expected == FRAMES
