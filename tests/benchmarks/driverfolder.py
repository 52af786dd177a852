"""``poolleak find TAG --images FOLDER``: 100 drivers, and a tag that none of them has; a folder as large as Windows'.

The drivers are libwine's kernel modules, which nobody here wrote, and those of ``dumps/drivers``; the large folder has
libwine's libraries too, marked as what runs in the kernel. Each file has bytes of its own in what its sections leave
free, so that none is known from another. Cold: nothing is kept from an earlier search; warm: the same files were
searched before, for another tag. The peer is grep for the tag's bytes, which is findstr's method.
"""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Sequence

from tests.benchmarks.results import MILLISECONDS, Report, Work
from tests.benchmarks.rounds import ContestantError, run_in_turns, run_process
from tests.helpers.realdrivers import WINE

FILES = 100
COLD_SECONDS, WARM_SECONDS = 4.0, 1.0  # of one processor
MANY_TAGS, MANY_SECONDS = 167, 20.0
LARGE_FILES = 450  # of about 150 MB
INDEXED_BYTES_A_SECOND, SWEPT_BYTES_A_SECOND = 190e6, 10e6  # of one processor

_LIBRARY_BYTES = range(160_000, 640_000)
_SUBSYSTEM_OFFSET, _NATIVE = 0x5C, 1

_SAMPLES = Path(__file__).resolve().parent.parent.parent / "dumps" / "drivers" / "images"
_COLD, _WARM, _MANY, _GREP = "poolleak find: cold", "poolleak find: warm", "poolleak find: 167 tags, cold", "grep -rl"
_LARGE, _LARGE_GREP = "poolleak find: 450 files, cold", "grep -rl, 450 files"


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure processor time of whole processes, workers included; neither ``quick`` nor ``slow`` has a meaning."""
    drivers, large = folder / "drivers", folder / "large"
    samples = sorted(_SAMPLES.glob("*/*.sys"))
    mixed: List[Path] = [path for pair in zip(itertools.cycle(WINE), samples) for path in pair] if WINE else samples
    size_bytes = _make_folder(drivers, itertools.islice(itertools.cycle(mixed), FILES))
    cache, bytecode = folder / "indexes", folder / "bytecode"
    report = Report(notes=[f"{FILES} driver files, {size_bytes / 1e6:.1f} MB"])
    numbers = itertools.count()
    entrants: Dict[str, Callable[[], Dict[str, float]]] = {
        _COLD: partial(_find, drivers, cache, bytecode, numbers, is_cold=True),
        _WARM: partial(_find, drivers, cache, bytecode, numbers),
        _MANY: partial(_find, drivers, cache, bytecode, numbers, count=MANY_TAGS, is_cold=True),
    }
    limits = {_COLD: COLD_SECONDS, _WARM: WARM_SECONDS, _MANY: MANY_SECONDS}
    if WINE:
        large_bytes = _make_folder(large, itertools.islice(itertools.cycle(_list_large()), LARGE_FILES))
        report.notes.append(f"{LARGE_FILES} files, {large_bytes / 1e6:.1f} MB")
        entrants[_LARGE] = partial(_find, large, cache, bytecode, numbers, is_cold=True)
        limits[_LARGE] = large_bytes / INDEXED_BYTES_A_SECOND + large_bytes / SWEPT_BYTES_A_SECOND
    for name, where in ((_GREP, drivers), (_LARGE_GREP, large)) if shutil.which("grep") else ():
        if where.is_dir():
            entrants[name] = partial(run_process, [_path_of("grep"), "-rl", "Zq00", str(where)], bytecode)
    works = {
        name: Work(f"folder of drivers: {name}", MILLISECONDS, limit=limits.get(name), ours=name) for name in entrants
    }
    entrants[_COLD]()  # compiles the modules
    for name, answer in run_in_turns(entrants, rounds):
        if answer["status"] and name not in (_GREP, _LARGE_GREP):
            raise ContestantError(f"{name}: exit status {answer['status']}")
        works[name].add(name, answer["cpu_seconds"])
    report.works += works.values()
    for made in (drivers, large):
        shutil.rmtree(made, ignore_errors=True)
    return report


def _path_of(program: str) -> str:
    return shutil.which(program) or program


def _list_large() -> List[Path]:
    """libwine's kernel modules, and libraries of such sizes that LARGE_FILES have about 150 MB."""
    libraries = sorted(path for path in WINE[0].parent.glob("*.dll") if path.stat().st_size in _LIBRARY_BYTES)
    return [*WINE, *libraries]


def _make_folder(folder: Path, sources: Iterable[Path]) -> int:
    """Fill ``folder``; the bytes in it."""
    folder.mkdir()
    size_bytes = 0
    for number, source in enumerate(sources):
        content = _mark(source.read_bytes(), b"%04d" % number)
        (folder / f"d{number:03d}.sys").write_bytes(content)
        size_bytes += len(content)
    return size_bytes


def _mark(content: bytes, mark: bytes) -> bytes:
    """A driver of the file, with ``mark`` at the end of each section that ends in zeros, and behind its last byte."""
    marked = bytearray(content + mark)
    (header,) = struct.unpack_from("<I", content, 0x3C)
    sections, optional_bytes = struct.unpack_from("<6xH12xH", content, header)
    for number in range(sections):
        size, start = struct.unpack_from("<II", content, header + 0x18 + optional_bytes + 0x28 * number + 0x10)
        end = start + size
        if size and not any(content[end - len(mark) : end]):
            marked[end - len(mark) : end] = mark
    struct.pack_into("<H", marked, header + _SUBSYSTEM_OFFSET, _NATIVE)
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
