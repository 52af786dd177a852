"""Machines that run Windows as it is today, page tables of five levels and ARM64 among them, against their truth."""

from __future__ import annotations

import random
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from json import loads
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from dumps.forge import BUILDS_OF_TODAY, forge
from dumps.forge.kernels import KernelBuild
from dumps.forge.machine import ForgedMachine
from dumps.forge.memorymanager import MemoryPlan
from dumps.forge.pageframes import plan_frames
from pykdext.cli.main import main
from pykdext.model import Machine
from pykdext.pipeline.mappings import find_mappers
from pykdext.pipeline.sources import open_source
from pykdext.work import UNWATCHED
from tests.helpers.kernelpdbs import kernel_pdb

FRAMES = 0x2000
MAPPED_PAGES = 48
_LEAKED = 300
SCENARIOS = {"zombies": "Proc", "handles": "Even", "keys": "Key "}
"""Each with the tag that its leak shows by."""

_USES = {
    "zeroed": "zeroed", "free": "free", "standby": "standby", "modified": "modified", "modified no write": "modified",
    "transition": "process private", "private": "process private", "shareable": "shareable", "tables": "page tables",
    "large": "large pages", "nonpaged": "nonpaged pool", "paged": "paged pool", "cache": "file cache",
    "PTEs": "system PTEs", "stacks": "kernel stacks", "images": "driver images", "hyperspace": "hyperspace",
    "no PTE": "no PTE",
}  # fmt: skip
_OF_SYSTEM_SPACE = {"nonpaged pool", "paged pool", "file cache", "system PTEs", "kernel stacks", "driver images"} | {
    "hyperspace"
}


class Newest(NamedTuple):
    """One machine of today: ``arch`` as the forge names it, and what leaks."""

    arch: str
    build: int
    scenario: str


def list_newest(seed: int) -> List[Newest]:
    """Every architecture with every build of today and each frame database that has one, in an order of the seed."""
    pairs = [(arch, build) for arch, builds in BUILDS_OF_TODAY.items() for build in builds]
    pairs += [("arm64", 22000)]
    chance = random.Random(seed)
    chance.shuffle(pairs)
    return [Newest(arch, build, chance.choice(list(SCENARIOS))) for arch, build in pairs]


def compare_newest(newest: Newest, seed: int, folder: Path) -> Iterator[Tuple[str, object, object]]:
    """What was compared, what was read, and the truth: with the kernel's PDB where nothing else tells."""
    machine, kernel = _forge_machine(newest, seed)
    dump = folder / "today.dmp"
    machine.save(dump)
    truth, objects = machine.truth, machine.truth.objects
    assert objects is not None
    used = _ask("used", dump)
    yield "tables located by", used["source"]["symbols"].split("+")[0], "inference"
    yield "tags", _tags_of(used), {tag: (row.nonpaged_bytes, row.paged_bytes) for tag, row in truth.tags.items()}
    blocks = {block["address"] for block in _ask("blocks", dump, tag="Look")["blocks"]}
    yield "small blocks", blocks, {block.va for block in truth.blocks[b"Look"]}
    listed = {block["address"] for block in _ask("blocks", dump, tag="CM31")["blocks"]}
    yield "big blocks", bool(listed) and listed <= set(truth.big_blocks), True
    tag = SCENARIOS[newest.scenario]
    if (newest.arch, newest.build) != ("arm64", 26100):  # whose EPROCESS nobody has told
        yield "holder", _ask("holders", dump, tag=tag)["processes"][0]["process"]["pid"], _leaker(machine)

    pdb = kernel_pdb(
        newest.build,
        kernel.guid,
        kernel.variables,
        machine=Machine.ARM64 if newest.arch == "arm64" else Machine.X64,
    )
    (folder / kernel.pdb_name).write_bytes(pdb)
    symbols = ("--symbols", str(folder))
    yield "tags by the PDB", _tags_of(_ask("used", dump, *symbols)), _tags_of(used)
    listed_processes = _ask("processes", dump, *symbols, "--top", "1000")["processes"]
    living = {each.pid: each.handles for each in objects.processes if not each.exited_at}
    yield "processes", _handles_of(listed_processes), living
    memory = _ask("memory", dump, "--whole", *symbols)
    frames = memory["frames"]
    yield "frames", {row["use"]: row["frames"] for row in frames["uses"]}, _expected_uses(machine, frames)
    private = {row["pid"]: row["bytes"] >> 12 for row in frames["private_by_process"] if row["bytes"]}
    yield "private pages", private, truth.private_frames
    lines = {row["name"]: row["bytes"] >> 12 for row in memory["commit"]["lines"]}
    yield "MDL pages", lines["Pages For MDLs"], truth.memory["MDL pages"]
    if frames["has_regions"]:
        with open_source(str(dump), symbol_path=str(folder)) as source:
            assert source.kernel is not None
            found = find_mappers(source.kernel, source.snapshot, UNWATCHED)
        yield "mappings", [(each.name, each.most_bytes >> 12) for each in found], [("lookas.sys", MAPPED_PAGES)]


def _forge_machine(newest: Newest, seed: int) -> Tuple[ForgedMachine, KernelBuild]:
    """A machine with system PTE mappings that a driver's data point at."""
    kernels: List[KernelBuild] = []

    def keep(kernel: KernelBuild) -> KernelBuild:
        kernels.append(kernel)
        return kernel

    machine = forge(
        newest.scenario,
        build=newest.build,
        arch=newest.arch,
        seed=seed,
        known_kernel=False,
        leaked=_LEAKED,
        healthy_share=32,
        memory=MemoryPlan(),
        page_frames=plan_frames(FRAMES),
        change_kernel=keep,
    )
    start = machine.addresses["region:PTEs"] + 0x7000
    for number in range(MAPPED_PAGES):
        machine.space.map_page(start + (number << 12), machine.space.frames.take())
    driver = next(base for name, base, *_ in machine.truth.modules if name == "lookas.sys")
    machine.write_virtual(driver + _data_rva(machine, driver), start.to_bytes(8, "little"))
    return machine, kernels[0]


def _data_rva(machine: ForgedMachine, base: int) -> int:
    """Where a driver's writable data end, by its section table."""
    header = machine.read_virtual(base, 0x1000)
    new = int.from_bytes(header[0x3C:0x40], "little")
    sections = new + 0x18 + int.from_bytes(header[new + 0x14 : new + 0x16], "little")
    place = header.index(b".data\0\0\0", sections)
    size, start = (int.from_bytes(header[place + at : place + at + 4], "little") for at in (8, 12))
    return start + (size - 8 & -8)


def _ask(command: str, dump: Path, *options: str, tag: str = "") -> Dict[str, Any]:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([command, *([tag] if tag else []), str(dump), *options, "--format", "json"])
    assert status == 0, err.getvalue()
    document: Dict[str, Any] = loads(out.getvalue())
    return document


def _tags_of(document: Dict[str, Any]) -> Dict[bytes, Tuple[int, int]]:
    return {bytes.fromhex(row["hex"]): (row["nonpaged"]["bytes"], row["paged"]["bytes"]) for row in document["tags"]}


def _handles_of(processes: List[Dict[str, Any]]) -> Dict[int, int]:
    return {row["pid"]: row["handles"] or 0 for row in processes}


def _leaker(machine: ForgedMachine) -> int:
    """The process with most handles of the leaking type."""
    objects = machine.truth.objects
    assert objects is not None
    return max(objects.processes, key=lambda each: max(each.handle_types.values(), default=0)).pid


def _expected_uses(machine: ForgedMachine, frames: Dict[str, Any]) -> Dict[str, int]:
    found: Dict[str, int] = {}
    for name, count in machine.truth.frames.items():
        use = _USES[name]
        if not frames["has_regions"] and use in _OF_SYSTEM_SPACE:
            use = "other system space"
        found[use] = found.get(use, 0) + count
    return {use: count for use, count in found.items() if count}
