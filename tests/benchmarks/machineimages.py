"""Find the kernel in images of virtual machines, and read their pages, against volatility3's layers and LeechCore."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Callable, Dict, List

from dumps.forge import forge
from dumps.forge.virtual import STUB_PAGE
from dumps.forge.vmfiles import elfcores, kdumps, plain, savedstates, vmware
from pykdext.targets.dump.crashdump import open_crashdump
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.machine.memory import FileRanges, MemoryRange
from pykdext.targets.machine.pagetables import Search
from tests.benchmarks.results import MICROSECONDS_A_PIECE, MILLISECONDS, OURS, Report, Work
from tests.benchmarks.rounds import ContestantError

_PAGE = 0x1000
_SPARSE_BYTES = 16 << 30
_SEARCHED = "16 GB by search"
_SEARCH_SECONDS, _USUAL_SECONDS = 60.0, 0.1
_DENSE_BYTES = 1 << 30
_DENSE_SECONDS = _SEARCH_SECONDS / (_SPARSE_BYTES / _DENSE_BYTES)


def _add(work: Work, tool: str, task: Callable[[], object], rounds: int, pieces: int = 1) -> None:
    """Add the time of each round, a piece."""
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        work.add(tool, (time.perf_counter() - start) / pieces)


def _write(folder: Path) -> Dict[str, Path]:
    machine = forge("pipo", virtual=True)
    paths = {name: folder / name for name in ("raw", "server.vmem", "elf", "kdump", "vmrs", _SEARCHED)}
    plain.save_raw(machine, paths["raw"])
    vmware.save_vmem(machine, paths["server.vmem"])
    vmware.save_state(machine, folder / "server.vmsn")
    elfcores.save_core(machine, paths["elf"])
    kdumps.save_kdump(machine, paths["kdump"])
    savedstates.save_state(machine, paths["vmrs"])
    machine.memory.pages.pop(STUB_PAGE)
    page = machine.memory.pages.pop(machine.space.root_pfn)
    for number in range(12):
        machine.memory.pages.pop(machine.addresses[f"root:{number}"] >> 12)
    far = (_SPARSE_BYTES >> 12) - 2
    page[0x1ED * 8 : 0x1ED * 8 + 8] = (far << 12 | 0x63).to_bytes(8, "little")
    machine.memory.pages[far] = page
    plain.save_raw(machine, paths[_SEARCHED])
    with open(paths[_SEARCHED], "r+b") as file:
        file.seek(far * _PAGE)
        file.write(page)
        file.truncate(_SPARSE_BYTES)
    return paths


def _search_dense(folder: Path, rounds: int) -> Work:
    """Processor time for the search of memory without holes: code, noise and page tables, none of them the kernel's."""
    path = folder / "dense"
    chance = random.Random(0)
    machine = forge("pipo", virtual=True)
    code = b"".join(bytes(page) for _, page in sorted(machine.memory.pages.items()))[: 4 << 20]
    with open(path, "wb") as file:
        while file.tell() < _DENSE_BYTES:
            file.write(code if chance.random() < 0.5 else chance.randbytes(1 << 20))
        file.truncate(_DENSE_BYTES)
    work = Work("search a GB without holes (processor)", MILLISECONDS, limit=_DENSE_SECONDS)
    for _ in range(rounds):
        with open(path, "rb", buffering=0) as stream:
            memory = FileRanges(FileBytes(stream, str(path)), (MemoryRange(0, 0, _DENSE_BYTES),), is_padded=True)
            search = Search(memory)
            start = time.process_time()
            list(search.find())
            work.add(OURS, time.process_time() - start)
        if not search.complete:
            raise ContestantError("the machine is too busy: the search ended early")
    return work


def _read_by_leechcore(path: Path, numbers: List[int]) -> Callable[[], object]:
    import leechcorepyc

    other = leechcorepyc.LeechCore(f"file://{path}")
    return lambda: [other.read(number * _PAGE, _PAGE) for number in numbers]


def _read_by_volatility(path: Path, numbers: List[int]) -> Callable[[], object]:
    from volatility3.framework import contexts
    from volatility3.framework.layers import elf, physical

    context = contexts.Context()
    context.config["base.location"] = path.as_uri()
    context.layers.add_layer(physical.FileLayer(context, "base", "base"))
    context.config["top.base_layer"] = "base"
    layer = elf.Elf64Layer(context, "top", "top")
    return lambda: [layer.read(number * _PAGE, _PAGE) for number in numbers]


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure opening each container up to the list of modules, then the pages of an ELF core."""
    del slow
    report = Report([])
    paths = _write(folder)
    if quick:
        paths.pop(_SEARCHED)
    for name, path in paths.items():
        limit = _SEARCH_SECONDS if name == _SEARCHED else _USUAL_SECONDS
        work = Work(f"find the kernel: {name}", MILLISECONDS, limit=limit)
        _add(work, OURS, lambda path=path: open_crashdump(str(path)).close(), rounds)
        report.works.append(work)
    if not quick:
        report.works.append(_search_dense(folder, rounds))
    numbers = sorted(forge("pipo", virtual=True).memory.pages)
    pages = Work("4 KiB pages of an ELF core", MICROSECONDS_A_PIECE, ratio_limits={"LeechCore": 1.0})
    with open_crashdump(str(paths["elf"])) as dump:
        read = dump._container.read_physical
        _add(pages, OURS, lambda: [read(number * _PAGE, _PAGE) for number in numbers], rounds, len(numbers))
    for peer, make in (("LeechCore", _read_by_leechcore), ("volatility3", _read_by_volatility)):
        try:
            _add(pages, peer, make(paths["elf"], numbers), rounds, len(numbers))
        except (ImportError, RuntimeError) as error:
            report.notes.append(f"{peer} is left out: {error}")
    report.works.append(pages)
    return report
