"""Read virtual ranges of a dump, against plain reads of the same pages from the file."""

from __future__ import annotations

import os
import random
import struct
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

from dumps.forge import ForgedMachine, forge
from pykdext.targets.dump.crashdump import open_crashdump
from tests.benchmarks.largedumps import PAGE_BYTES, open_descriptor
from tests.benchmarks.results import OURS, Report, Work, rate_of
from tests.benchmarks.rounds import ContestantError, run_in_turns, time_seconds

SCATTERED_BYTES = 64 << 20  # of images, on frames in no order

_SCATTERED_VA = 0xFFFFF70000000000
_PREAD = "os.pread, a page each"
_FIRST_PAGE_FIELD = 0x2020

Range = Tuple[int, int]
"""A virtual address and a size in bytes."""

ReadPage = Callable[[int], bytes]
"""Reads the page at a virtual address."""


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure the modules of a small machine, and a large scattered range; neither option has a meaning here."""
    machine = forge("quiet")
    content = random.Random("image").getrandbits(8 * SCATTERED_BYTES).to_bytes(SCATTERED_BYTES, "little")
    machine.space.store(_SCATTERED_VA, content)
    path = folder / "images.dmp"
    machine.save(path)
    modules = [(base, size) for _, base, size, _ in machine.truth.modules]
    notes = ["kdmp-parser is left out of the modules: it does not read pages in transition"]
    works = [
        _measure("read_present: all modules", path, machine, modules, rounds, {}),
        _measure(
            f"read_present: {SCATTERED_BYTES >> 20} MiB of scattered pages",
            path,
            machine,
            [(_SCATTERED_VA, SCATTERED_BYTES)],
            rounds,
            _open_peers(path, notes),
        ),
    ]
    path.unlink()
    return Report(works, notes)


def _open_peers(path: Path, notes: List[str]) -> Dict[str, ReadPage]:
    """How other tools read a virtual page of the dump."""
    try:
        from kdmp_parser import KernelDumpParser
    except ImportError as error:
        notes.append(f"kdmp-parser is left out of virtual reads: not installed ({error})")
        return {}
    return {"kdmp-parser, a page each": KernelDumpParser(str(path)).read_virtual_page}


def _measure(
    name: str,
    path: Path,
    machine: ForgedMachine,
    ranges: Sequence[Range],
    rounds: int,
    peers: Dict[str, ReadPage],
) -> Work:
    pages = _present_pages(path, machine, ranges)
    expected = b"".join(machine.memory.pages[frame] for _, frame, _ in pages)
    work = Work(name, rate_of(len(expected)))
    entrants: Dict[str, Callable[[], float]] = {
        OURS: partial(_read_present, path, ranges, expected),
        _PREAD: partial(_read_plainly, path, [offset for _, _, offset in pages], expected),
    }
    for tool, read_page in peers.items():
        entrants[tool] = partial(_read_by_pages, read_page, [va for va, _, _ in pages], expected)
    for tool, seconds in run_in_turns(entrants, rounds):
        work.add(tool, seconds)
    return work


def _present_pages(path: Path, machine: ForgedMachine, ranges: Sequence[Range]) -> List[Tuple[int, int, int]]:
    """Virtual address, frame and file offset of each page of the ranges that the dump holds."""
    with open(path, "rb") as file:
        file.seek(_FIRST_PAGE_FIELD)
        (first_page,) = struct.unpack("<Q", file.read(8))
    ranks = {frame: rank for rank, frame in enumerate(machine.memory.present_frames())}
    found: List[Tuple[int, int, int]] = []
    for base, size in ranges:
        for va in range(base, base + size, PAGE_BYTES):
            address = machine.space.translate(va)
            frame = -1 if address is None else address // PAGE_BYTES
            if frame in ranks:
                found.append((va, frame, first_page + ranks[frame] * PAGE_BYTES))
    return found


def _read_present(path: Path, ranges: Sequence[Range], expected: bytes) -> float:
    """A target opened anew each time: page tables are read as well."""
    pieces: List[bytes] = []

    def read() -> None:
        for base, size in ranges:
            pieces.extend(data for _, data in target.read_present(base, size))

    with open_crashdump(str(path)) as target:
        return _checked(time_seconds(read), pieces, expected)


def _read_plainly(path: Path, offsets: Sequence[int], expected: bytes) -> float:
    pieces: List[bytes] = []
    descriptor = open_descriptor(str(path))
    try:
        seconds = time_seconds(lambda: pieces.extend(os.pread(descriptor, PAGE_BYTES, offset) for offset in offsets))
    finally:
        os.close(descriptor)
    return _checked(seconds, pieces, expected)


def _read_by_pages(read_page: ReadPage, addresses: Sequence[int], expected: bytes) -> float:
    pieces: List[bytes] = []
    seconds = time_seconds(lambda: pieces.extend(read_page(va) for va in addresses))
    return _checked(seconds, pieces, expected)


def _checked(seconds: float, pieces: Sequence[bytes], expected: bytes) -> float:
    found = b"".join(pieces)
    if found != expected:
        raise ContestantError(f"read {len(found):,} bytes that are not the {len(expected):,} that were written")
    return seconds
