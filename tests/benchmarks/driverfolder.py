"""``poolleak find TAG --images FOLDER``: 100 drivers, and a tag that none of them has.

The drivers are libwine's kernel modules, which nobody here wrote, and those of ``dumps/drivers``; each file has bytes
of its own in what its sections leave free, so that none is known from another. Cold: nothing is kept from an earlier
search; warm: the same files were searched before, for another tag. The peer is grep for the tag's bytes, which is
findstr's method.
"""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Sequence

from tests.benchmarks.results import MILLISECONDS, Report, Work
from tests.benchmarks.rounds import ContestantError, run_in_turns, run_process
from tests.helpers.realdrivers import WINE

FILES = 100
COLD_SECONDS, WARM_SECONDS = 4.0, 1.0  # of one processor
MANY_TAGS, MANY_SECONDS = 167, 20.0

_SAMPLES = Path(__file__).resolve().parent.parent.parent / "dumps" / "drivers" / "images"
_COLD, _WARM, _MANY, _GREP = "poolleak find: cold", "poolleak find: warm", "poolleak find: 167 tags, cold", "grep -rl"


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure processor time of whole processes, workers included; neither ``quick`` nor ``slow`` has a meaning."""
    drivers = folder / "drivers"
    size_bytes = _make_folder(drivers)
    cache, bytecode = folder / "indexes", folder / "bytecode"
    report = Report(notes=[f"{FILES} driver files, {size_bytes / 1e6:.1f} MB"])
    numbers = itertools.count()
    entrants: Dict[str, Callable[[], Dict[str, float]]] = {
        _COLD: partial(_find, drivers, cache, bytecode, numbers, is_cold=True),
        _WARM: partial(_find, drivers, cache, bytecode, numbers),
        _MANY: partial(_find, drivers, cache, bytecode, numbers, count=MANY_TAGS, is_cold=True),
    }
    if shutil.which("grep"):
        entrants[_GREP] = partial(run_process, [_path_of("grep"), "-rl", "Zq00", str(drivers)], bytecode)
    limits = {_COLD: COLD_SECONDS, _WARM: WARM_SECONDS, _MANY: MANY_SECONDS}
    works = {
        name: Work(f"folder of drivers: {name}", MILLISECONDS, limit=limits.get(name), ours=name) for name in entrants
    }
    entrants[_COLD]()  # compiles the modules
    for name, answer in run_in_turns(entrants, rounds):
        if answer["status"] and name != _GREP:
            raise ContestantError(f"{name}: exit status {answer['status']}")
        works[name].add(name, answer["cpu_seconds"])
    report.works += works.values()
    shutil.rmtree(drivers)
    return report


def _path_of(program: str) -> str:
    return shutil.which(program) or program


def _make_folder(folder: Path) -> int:
    """Fill ``folder``; the bytes in it."""
    folder.mkdir()
    samples = sorted(_SAMPLES.glob("*/*.sys"))
    sources: List[Path] = [path for pair in zip(itertools.cycle(WINE), samples) for path in pair] if WINE else samples
    size_bytes = 0
    for number, source in zip(range(FILES), itertools.cycle(sources)):
        content = _mark(source.read_bytes(), b"%04d" % number)
        (folder / f"d{number:03d}.sys").write_bytes(content)
        size_bytes += len(content)
    return size_bytes


def _mark(content: bytes, mark: bytes) -> bytes:
    """The driver with ``mark`` at the end of each section that ends in zeros, and behind its last byte."""
    marked = bytearray(content + mark)
    (header,) = struct.unpack_from("<I", content, 0x3C)
    sections, optional_bytes = struct.unpack_from("<6xH12xH", content, header)
    for number in range(sections):
        size, start = struct.unpack_from("<II", content, header + 0x18 + optional_bytes + 0x28 * number + 0x10)
        end = start + size
        if size and not any(content[end - len(mark) : end]):
            marked[end - len(mark) : end] = mark
    return bytes(marked)


def _find(
    drivers: Path,
    cache: Path,
    bytecode: Path,
    numbers: itertools.count[int],
    *,
    count: int = 1,
    is_cold: bool = False,
) -> Dict[str, float]:
    """Look for tags that no driver has and nobody asked for before."""
    if is_cold:
        shutil.rmtree(cache, ignore_errors=True)
    tags: Sequence[str] = [_make_tag(next(numbers)) for _ in range(count)]
    command = [sys.executable, "-m", "pykdext", "find", *tags, "--images", str(drivers), "-o", os.devnull]
    return run_process(command, bytecode, POOLLEAK_CACHE=str(cache))


def _make_tag(number: int) -> str:
    letters = "QXZJKVW"
    return letters[number % 7] + "q" + letters[number // 7 % 7] + chr(0x30 + number // 49 % 10)
