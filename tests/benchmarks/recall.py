"""Which ways from a tag to an allocator are found and proven, and how many owners are named wrongly.

The drivers of ``dumps/drivers`` are loaded in a forged dump, and ``poolleak find`` is asked for all their tags. The
peer is a search for the tag's bytes in the driver files, as findstr does it: it knows no grades.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from tabulate import tabulate

from dumps.drivers import mingw
from tests.benchmarks.results import Report
from tests.helpers import idioms

LEAST_FOUND, LEAST_PROVEN = 13, 9  # of the 14 classical idioms, on each architecture

_GRADES = ("proven", "likely", "possible")


class Variant(NamedTuple):
    """The idiom drivers as one compiler made them, and in which form their import calls stand in memory."""

    compiler: str
    architecture: str
    level: str
    paths: Sequence[Path]
    retpolines: Optional[bool] = None


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Grade every variant once; neither ``rounds`` nor ``quick`` nor ``slow`` has a meaning here."""
    report = Report()
    found: List[List[str]] = []
    named: List[List[str]] = []
    lost: List[Tuple[str, str]] = []
    for variant in _iter_variants(folder, report.notes):
        dump = folder / "drivers.dmp"
        idioms.forge_machine(variant.architecture, variant.paths, retpolines=variant.retpolines).save(dump)
        owners = idioms.find_owners(folder, dump)
        label = [variant.compiler, variant.architecture, f"-{variant.level}"]
        classical = [idiom for idiom in idioms.IDIOMS if idiom.classical]
        grades = _count_grades(owners, classical)
        if sum(grades.values()) - grades[None] < LEAST_FOUND or grades["proven"] < LEAST_PROVEN:
            report.missed.append(f"{' '.join(label)}: MISSED {LEAST_FOUND} found, {LEAST_PROVEN} proven")
        every = idioms.idioms_of(variant.architecture)
        found.append(
            [*label, *_grade_cells(grades), *_grade_cells(_count_grades(owners, every)), _count_bytes(variant, every)]
        )
        named.append([*label, *_precision_cells(owners), _precision_of_bytes(variant)])
        lost += [(" ".join(label), f"{idiom.tag} ({idiom.name})") for idiom in every if not _grade(owners, idiom)]
    report.tables = [_render_found(found), _render_named(named)]
    report.notes += [f"not found, {label}: {idiom}" for label, idiom in lost]
    return report


def _iter_variants(folder: Path, notes: List[str]) -> Iterator[Variant]:
    for architecture in idioms.ARCHITECTURES:
        for level in idioms.LEVELS:
            yield Variant("clang", architecture, level, idioms.image_paths(architecture, level))
    for retpolines, form in ((False, "clang, direct calls"), (True, "clang, retpolines")):
        yield Variant(form, "x64", "O2", idioms.image_paths("x64", "O2"), retpolines)
    if not mingw.is_available():
        notes.append("MinGW's gcc for x64 is not installed: left out")
        return
    for level in idioms.LEVELS:
        yield Variant("gcc", "x64", level, mingw.build_images(folder, level))


def _grade(owners: Dict[str, Any], idiom: idioms.Idiom) -> Optional[str]:
    grade: Optional[str] = idioms.grade_of(owners, idiom)
    return grade


def _count_grades(owners: Dict[str, Any], wanted: Sequence[idioms.Idiom]) -> Counter[Optional[str]]:
    return Counter(_grade(owners, idiom) for idiom in wanted)


def _grade_cells(grades: Counter[Optional[str]]) -> List[str]:
    total = sum(grades.values())
    return [f"{total - grades[None]}/{total}", *(str(grades[grade]) for grade in _GRADES)]


def _precision_cells(owners: Dict[str, Any]) -> List[str]:
    """For each grade: the owners named, and how many of them are right. Tags of static libraries have no right one."""
    named: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for idiom in (*idioms.IDIOMS, *idioms.LOOK_ALIKES):
        for module, owner in owners[idiom.tag].items():
            named[owner["confidence"]] += 1
            right[owner["confidence"]] += idiom in idioms.IDIOMS and module == idiom.driver
    return [f"{right[grade]}/{named[grade]}" for grade in _GRADES]


def _count_bytes(variant: Variant, wanted: Sequence[idioms.Idiom]) -> str:
    files = {path.name.split("-")[0]: path.read_bytes() for path in variant.paths}
    return f"{sum(idiom.tag.encode() in files[idiom.driver] for idiom in wanted)}/{len(wanted)}"


def _precision_of_bytes(variant: Variant) -> str:
    """The same for the byte search, which names every file with the bytes."""
    named = right = 0
    for path in variant.paths:
        content, driver = path.read_bytes(), path.name.split("-")[0]
        for idiom in (*idioms.IDIOMS, *idioms.LOOK_ALIKES):
            if idiom.tag.encode() in content:
                named += 1
                right += idiom in idioms.IDIOMS and driver == idiom.driver
    return f"{right}/{named}"


def _render_found(rows: List[List[str]]) -> str:
    grades = ["found", *_GRADES]
    headers = ["compiler", "for", "level", *(f"{name}\n(14 idioms)" for name in grades)]
    headers += [*(f"{name}\n(all ways)" for name in grades), "bytes in\nthe file"]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left",) * 3 + ("right",) * 9)


def _render_named(rows: List[List[str]]) -> str:
    headers = ["compiler", "for", "level", *(f"{grade}:\nright/named" for grade in _GRADES), "bytes in the\nfile"]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left",) * 3 + ("right",) * 4)
