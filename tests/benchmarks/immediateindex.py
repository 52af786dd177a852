"""The index of all immediates of driver images, against tools that search the same code for given tags."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from pykdext.attribution.places.cache import IndexCache
from pykdext.attribution.places.index import ImageIndex, ImmediateAttributor
from pykdext.attribution.places.search import CODE_TABLES, Piece, iter_immediates
from pykdext.attribution.taglists import load_knowntags
from pykdext.images.image import Image, Section
from pykdext.model import Evidence, Machine, PoolTag
from tests.benchmarks.peimages import (
    MIN_CODE_BYTES,
    MappedFile,
    find_images_folder,
    find_launchers_folder,
    load_images,
    open_images,
)
from tests.benchmarks.results import MICROSECONDS_A_PIECE, MILLISECONDS, OURS, Report, Work, rate_of
from tests.benchmarks.rounds import ContestantError, run_in_turns, time_seconds

RATE_LIMITS = {Machine.X64: 190e6, Machine.X86: 150e6, Machine.ARM64: 100e6}  # bytes a second
TAG_COUNTS = (10, 50)


@dataclass
class Counted:
    """Seconds of one search, and the occurrences it found."""

    seconds: float
    places: int


def run(folder: Path, rounds: int, *, quick: bool, slow: bool, images: Optional[Path] = None) -> Report:
    """Measure the code of the PE files in ``images``; neither ``quick`` nor ``slow`` has a meaning here."""
    source = images or find_images_folder()
    files = load_images(source) if source else []
    code = [part for file in files for part in file.code]
    size_bytes = sum(map(len, code))
    if size_bytes < MIN_CODE_BYTES:
        return Report([], ["no folder with enough x64 code: install Debian's libwine, or name one by --images"])
    joined = folder / "code.bin"
    joined.write_bytes(b"".join(code))
    tags = _known_tags(max(TAG_COUNTS))
    report = Report(_measure_index(files, rounds))
    report.works += _measure_cache(files, rounds, folder)
    for machine in (Machine.X86, Machine.ARM64):
        report.works += _measure_machine(machine, source, rounds, report.notes)
    for count in TAG_COUNTS:
        report.works.append(_measure_tags(files, code, joined, tags[:count], rounds, report.notes))
    report.works += _measure_look_ups(files, tags, rounds)
    report.notes.append(f"code: {len(files)} x64 images, {size_bytes / 1e6:.1f} MB in executable sections")
    joined.unlink()
    return report


def _known_tags(count: int) -> List[PoolTag]:
    """Tags that real kernels use, in no order: those of kernel objects first, which code names most."""
    rows = sorted(load_knowntags(), key=lambda row: row.pattern)
    random.Random("tags").shuffle(rows)
    rows.sort(key=lambda row: row.tag_class != "object")
    names = dict.fromkeys(row.pattern for row in rows if not set(row.pattern) & set("*? "))
    return [PoolTag.from_text(name) for name in names][:count]


def _measure_index(files: Sequence[MappedFile], rounds: int) -> List[Work]:
    """The index without any tag named: of code alone, and of code and data; MB/s of the bytes that are searched."""
    works: List[Work] = []
    for name, code_only in (("index every immediate of code", True), ("index code and data sections", False)):
        samples: List[float] = []
        searched_bytes = 0
        for _ in range(rounds):
            images = open_images(files, code_only=code_only)
            indexes: List[ImageIndex] = []
            samples.append(time_seconds(partial(_append_index, images, indexes)))
            searched_bytes = sum(module.present_bytes for module in indexes[0].modules)
        limit = searched_bytes / RATE_LIMITS[Machine.X64] if code_only else None
        works.append(Work(name, rate_of(searched_bytes), {OURS: samples}, limit))
    return works


def _append_index(images: Sequence[Image], indexes: List[ImageIndex]) -> None:
    indexes.append(ImageIndex(images))


def _measure_cache(files: Sequence[MappedFile], rounds: int, folder: Path) -> List[Work]:
    """The index of code and data when it is kept from an earlier run; the rate is of the bytes that it is about."""
    cache = IndexCache(folder / "indexes")
    kept = ImageIndex(open_images(files, code_only=False), cache=cache)
    work = Work("load the index of code and data", rate_of(sum(module.present_bytes for module in kept.modules)))
    for _ in range(rounds):
        images = open_images(files, code_only=False)
        work.add(OURS, time_seconds(partial(ImageIndex, images, cache=cache)))
    return [work]


def _measure_machine(machine: Machine, source: Optional[Path], rounds: int, notes: List[str]) -> List[Work]:
    """The immediates of another machine's code: the folder's or, where it has too little, that of small programs."""
    folders = [folder for folder in (source, find_launchers_folder()) if folder]
    code = next((code for folder in folders for code in [_load_code(folder, machine)] if code), b"")
    if not code:
        notes.append(f"no {machine.value} code: left out")
        return []
    whole = (code * (MIN_CODE_BYTES // len(code) + 1))[: max(MIN_CODE_BYTES, len(code))]
    notes.append(f"code: {len(code) / 1e6:.1f} MB for {machine.value}, {len(whole) / 1e6:.1f} MB searched")
    piece = Piece(Section(".text", 0, len(whole), True, False, True, False), 0, whole)
    work = Work(f"index every immediate of {machine.value} code", rate_of(len(whole)))
    work.limit = len(whole) / RATE_LIMITS[machine]
    for _ in range(rounds):
        work.add(OURS, time_seconds(lambda: sum(1 for _ in iter_immediates(piece, CODE_TABLES[machine]))))
    return [work]


def _load_code(folder: Path, machine: Machine) -> bytes:
    """All code of a machine, each part filled up to whole instructions."""
    parts = [part for file in load_images(folder, machine) for part in file.code]
    return b"".join(part.ljust(-(-len(part) // 4) * 4, b"\0") for part in parts)


def _measure_tags(
    files: Sequence[MappedFile],
    code: Sequence[bytes],
    joined: Path,
    tags: Sequence[PoolTag],
    rounds: int,
    notes: List[str],
) -> Work:
    """Everything about some tags: ours indexes all immediates as well, the others search for the bytes only."""
    size_bytes = sum(map(len, code))
    work = Work(f"find {len(tags)} tags in code", rate_of(size_bytes))
    entrants: Dict[str, Callable[[], Counted]] = {
        OURS: partial(_index_and_find, files, tags),
        "bytes.find": partial(_find_each, code, tags),
        "re alternation": partial(_find_alternation, code, tags),
    }
    yara = _compile_yara(tags)
    if yara is None:
        notes.append("yara-python is not installed: left out")
    else:
        entrants["yara-python"] = partial(_match_yara, yara, code)
    if shutil.which("grep") is None:
        notes.append("grep is not installed: left out")
    else:
        entrants["grep -F"] = partial(_grep, joined, tags)
    places: Dict[str, int] = {}
    for tool, counted in run_in_turns(entrants, rounds):
        work.add(tool, counted.seconds)
        places[tool] = counted.places
    if places[OURS] > places["bytes.find"]:
        raise ContestantError(f"places found: {places}")
    notes.append(f"{len(tags)} tags, places found: " + ", ".join(f"{tool} {n:,}" for tool, n in places.items()))
    return work


def _index_and_find(files: Sequence[MappedFile], tags: Sequence[PoolTag]) -> Counted:
    images = open_images(files, code_only=True)
    found: List[int] = []

    def search() -> None:
        index = ImageIndex(images, tags)
        found.extend(places.total for tag in tags for _, places in index.find_places(tag))

    return Counted(time_seconds(search), sum(found))


def _find_each(code: Sequence[bytes], tags: Sequence[PoolTag]) -> Counted:
    """One pass for each tag, and for its form with the bit of PROTECTED_POOL."""
    return _count(lambda: sum(_count_finds(part, form) for part in code for form in _forms(tags)))


def _count_finds(part: bytes, form: bytes) -> int:
    count, at = 0, part.find(form)
    while at >= 0:
        count, at = count + 1, part.find(form, at + 1)
    return count


def _find_alternation(code: Sequence[bytes], tags: Sequence[PoolTag]) -> Counted:
    pattern = re.compile(b"|".join(map(re.escape, _forms(tags))))
    return _count(lambda: sum(1 for part in code for _ in pattern.finditer(part)))


def _compile_yara(tags: Sequence[PoolTag]) -> Any:
    """Rules that match all tags at once; None if yara-python is not installed."""
    try:
        import yara
    except ImportError:
        return None
    strings = "\n".join(f"$t{n} = {{ {form.hex()} }}" for n, form in enumerate(_forms(tags)))
    return yara.compile(source=f"rule tags {{ strings: {strings} condition: any of them }}")


def _match_yara(rules: Any, code: Sequence[bytes]) -> Counted:
    return _count(
        lambda: sum(
            len(string.instances) for part in code for match in rules.match(data=part) for string in match.strings
        )
    )


def _grep(joined: Path, tags: Sequence[PoolTag]) -> Counted:
    """Includes the start of a process, and reading a file that is in the system's cache."""
    words = [option for form in _forms(tags) for option in (b"-e", form)]

    def search() -> int:
        # -a and -b: an offset in each line of output, so that lines count places
        command = [b"grep", b"-F", b"-o", b"-a", b"-b", *words, os.fsencode(joined)]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=False, env={**os.environ, "LC_ALL": "C"})
        return output.stdout.count(b"\n")

    return _count(search)


def _forms(tags: Sequence[PoolTag]) -> List[bytes]:
    """Each tag as it is, and as a driver of protected allocations writes it."""
    return [form for tag in tags for form in (tag.raw, tag.raw[:3] + bytes([tag.raw[3] | 0x80]))]


def _count(search: Callable[[], int]) -> Counted:
    found: List[int] = []
    seconds = time_seconds(lambda: found.append(search()))
    return Counted(seconds, found[0])


def _measure_look_ups(files: Sequence[MappedFile], tags: Sequence[PoolTag], rounds: int) -> List[Work]:
    """What one more tag costs when the index is there: named before, and not named."""
    index = ImageIndex(open_images(files, code_only=True), tags)
    attributor = ImmediateAttributor(index)
    named = Work("one more tag, named before the index", MICROSECONDS_A_PIECE)
    new = Work("one more tag, first named after it", MILLISECONDS)
    for number in range(rounds):
        named.add(OURS, time_seconds(partial(_evidence, attributor, tags)) / len(tags))
        new.add(OURS, time_seconds(partial(_evidence, attributor, [PoolTag(b"Zq%02d" % (number % 100))])))
    return [named, new]


def _evidence(attributor: ImmediateAttributor, tags: Sequence[PoolTag]) -> List[Evidence]:
    return [evidence for tag in tags for evidence in attributor.evidence(tag)]
