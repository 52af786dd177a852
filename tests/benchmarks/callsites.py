"""What it costs to follow functions to their calls: in large images, for tags with many places, in hostile code."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

from pykdext.attribution.calls.callees import CalleeResolver
from pykdext.attribution.calls.callsites import CallSites
from pykdext.attribution.calls.functions import CodeRoom, FollowedImage
from pykdext.attribution.flow.function import follow_function
from pykdext.attribution.places.search import CODE_TABLES, iter_immediates, iter_pieces
from pykdext.images.functiontable import FunctionBounds, FunctionTable
from pykdext.images.image import Image, read_image
from pykdext.model import Machine, Module, PoolTag
from tests.benchmarks.peimages import MappedFile, find_images_folder, find_launchers_folder, load_images, open_images
from tests.benchmarks.results import MILLISECONDS, OURS, Report, Work, rate_of
from tests.benchmarks.rounds import time_seconds
from tests.helpers.peimages import CODE, PAGE, Part, build_memory
from tests.helpers.segments import SegmentsTarget

DRIVERS = Path(__file__).resolve().parent.parent.parent / "dumps" / "drivers" / "images"

MAX_FILES = 12
FUNCTIONS_AN_IMAGE = 20
MIN_PLACES, MAX_PLACES = 6, 16  # of a word in one image, as a tag of a large driver has them

TAGS, WORDS_AN_IMAGE = 10, 3

HOSTILE_BYTES = 1 << 16
HOSTILE_SECONDS = 1.0
TAGS_SECONDS = 2.0  # ten tags with many places each, in large images

_BASES = {Machine.X64: 0xFFFFF80000000000, Machine.X86: 0x82340000, Machine.ARM64: 0xFFFFF80000000000}


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Measure all machines that PE files are at hand for; no argument but ``rounds`` has a meaning here."""
    report = Report()
    for machine in (Machine.X64, Machine.X86, Machine.ARM64):
        images = _open_images(machine)
        functions = [(image, bounds) for image in images for bounds in _choose_functions(image)]
        if functions:
            report.works += _measure_functions(machine, functions, rounds)
            report.notes.append(f"followed: {len(functions)} functions of {len(images)} {machine.value} images")
    report.works.append(_measure_tags(_open_images(Machine.X64), rounds, report.notes))
    report.works += _measure_hostile(rounds)
    return report


def _open_images(machine: Machine) -> List[Image]:
    """The images with most code of the system's folder, of the launchers and of the sample drivers."""
    sources = [find_images_folder(), find_launchers_folder(), DRIVERS / machine.value]
    folders = [source for source in sources if source and source.is_dir()]
    return [_open_image(file, machine) for one in folders for file in load_images(one, machine)[:MAX_FILES]]


def _open_image(file: MappedFile, machine: Machine) -> Image:
    if machine is Machine.X64:
        return open_images([file], code_only=False)[0]
    base = _BASES[machine]
    return read_image(SegmentsTarget({base: file.memory}, machine=machine), Module(file.name, base, len(file.memory)))


def _find_words(image: Image) -> Dict[bytes, List[int]]:
    """Where code has what looks like a tag."""
    words: Dict[bytes, List[int]] = defaultdict(list)
    for section in image.sections:
        for piece in iter_pieces(image, section) if section.executable else ():
            for offset, word, _ in iter_immediates(piece, CODE_TABLES[image.machine]):
                words[word].append(piece.rva + offset)
    return words


def _choose_functions(image: Image) -> Sequence[FunctionBounds]:
    """Those around tag-like words, evenly over the image; without such words those around any code."""
    table = FunctionTable(image)
    places = sorted(rva for rvas in _find_words(image).values() for rva in rvas)
    if len(places) < FUNCTIONS_AN_IMAGE:
        code = (section for section in image.sections if section.executable)
        places = [rva for section in code for rva in range(section.rva, section.rva + section.size, 64)]
    chosen = places[:: max(1, len(places) // FUNCTIONS_AN_IMAGE)]
    found = {bounds.start_rva: bounds for bounds in map(table.find, chosen) if bounds}
    return list(found.values())


def _measure_functions(machine: Machine, functions: Sequence[Tuple[Image, FunctionBounds]], rounds: int) -> List[Work]:
    size_bytes = sum(bounds.size_bytes for _, bounds in functions)
    whole = Work(f"follow {size_bytes / 1e3:.0f} kB of {machine.value} functions", rate_of(size_bytes))
    worst = Work(f"the {machine.value} function that takes longest", MILLISECONDS, limit=1.0)
    for _ in range(rounds):
        seconds = [time_seconds(partial(follow_function, image, bounds)) for image, bounds in functions]
        whole.add(OURS, sum(seconds))
        worst.add(OURS, max(seconds))
    return [whole, worst]


def _measure_tags(images: Sequence[Image], rounds: int, notes: List[str]) -> Work:
    """Ten words with many places in one image each, as notable tags of Windows' own have: all of them are followed."""
    sought: List[Tuple[Image, bytes, List[int]]] = []
    for image in images:
        words = [word for word in sorted(_find_words(image).items()) if len(word[1]) >= MIN_PLACES]
        sought += [(image, word, rvas[:MAX_PLACES]) for word, rvas in words[:WORDS_AN_IMAGE]]
    work = Work("search ten tags with many places for calls", MILLISECONDS, limit=TAGS_SECONDS)
    places = 0
    for _ in range(rounds):
        resolver = CalleeResolver(images)
        seconds = 0.0
        for image, word, rvas in sought[:TAGS]:
            call_sites = CallSites(FollowedImage(image, CodeRoom()), resolver)
            seconds += time_seconds(partial(call_sites.find_uses, PoolTag(word), rvas, ()))
        work.add(OURS, seconds)
        places = sum(len(rvas) for _, _, rvas in sought[:TAGS])
    notes.append(f"words searched as tags: {len(sought[:TAGS])}, at {places} places")
    return work


def _measure_hostile(rounds: int) -> List[Work]:
    """Functions of 64 KiB that are nothing but branches, ends, or calls with a frame that grows."""
    codes = {
        "nothing but branches": b"".join(_iter_branches(HOSTILE_BYTES // 6)),
        "nothing but ends": b"\xc3" * HOSTILE_BYTES,
        "jumps that nobody understands": bytes.fromhex("ffe0e80000000050") * (HOSTILE_BYTES // 8),
        "pushes and branches": bytes.fromhex("5070fd") * (HOSTILE_BYTES // 3),
    }
    works: List[Work] = []
    for name, code in codes.items():
        work = Work(f"64 KiB, {name}", MILLISECONDS, limit=HOSTILE_SECONDS)
        image = _make_image(code)
        bounds = FunctionBounds(PAGE, ((PAGE, PAGE + len(code)),), "pdata")
        for _ in range(rounds):
            work.add(OURS, time_seconds(partial(follow_function, image, bounds)))
        works.append(work)
    return works


def _iter_branches(count: int) -> Iterator[bytes]:
    """Conditional jumps, each to any other one."""
    chosen = random.Random(7)
    for number in range(count):
        distance = 6 * (chosen.randrange(count) - number - 1)
        yield b"\x0f\x85" + distance.to_bytes(4, "little", signed=True)


def _make_image(code: bytes) -> Image:
    memory = build_memory(Part(b".text", PAGE, code, CODE))
    base = _BASES[Machine.X64]
    return read_image(SegmentsTarget({base: memory}, machine=Machine.X64), Module("made.sys", base, len(memory)))
