"""Layouts of the kernel's structures by build and processor, for kernels whose symbols are not at hand.

The tables were computed from Microsoft's public symbols: 213 x64 kernels of JPCERTCC/Windows-Symbol-Tables
(BSD-3-Clause) and the 48 kernels of volatility's overlays, x86 and x64. Of newer kernels they have what public listings
state; such rows are marked. What is the same in x64 and ARM64 kernels wherever both were seen stands for both.

Kernels of one build number differ by their revision. Where the revision is not known, only what all of them have in
one place is told; the rest is doubtful, and so is every other build: nothing is guessed from a neighbour.
"""

from __future__ import annotations

import json
import pkgutil
import re
from dataclasses import dataclass
from functools import cache
from typing import Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional, Tuple

from pykdext.model.layouts import FieldLayout, Struct, TypeLayout, make_struct
from pykdext.model.target import Machine

_TABLE = "data/structs.json"

_FIELD = re.compile(
    r"(?P<name>[^:]+):(?P<offset>[0-9a-f]+)"
    r"(?::(?P<size>\d*)(?:/(?P<bit>\d+)\+(?P<bits>\d+))?(?P<type>_\w+?)?(?:\*(?P<count>\d+))?)?"
)

SOURCE = "table"
"""The name of these tables as a source of layouts."""


@dataclass(frozen=True)
class Kernels:
    """The kernels that a row is of: a processor, builds from first to last, and revisions of these (None: all)."""

    machine: Machine
    first_build: int
    last_build: int
    revisions: Optional[Tuple[int, int]]
    is_stated: bool
    """The row is from a public listing of a kernel, not from its symbols."""

    def covers(self, machine: Machine, build: int) -> bool:
        """Whether kernels of this build are among them."""
        return machine is self.machine and self.first_build <= build <= self.last_build


@dataclass(frozen=True)
class ShippedLayout:
    """One layout of a structure, and the kernels that have it."""

    kernels: Tuple[Kernels, ...]
    layout: TypeLayout


@dataclass(frozen=True)
class BuildLayout:
    """What the tables say of a structure in one build.

    ``layout`` has the fields that all kernels of the build have in one place, ``doubtful`` names the others.
    ``is_stated``: from a public listing only.
    """

    layout: TypeLayout
    doubtful: FrozenSet[str]
    is_stated: bool


class StructTable:
    """The layouts of one build. ``revision``: the last part of the kernel's version; None: not known."""

    name = SOURCE

    def __init__(self, machine: Machine, build: Optional[int], revision: Optional[int] = None) -> None:
        self._machine = machine
        self._build = build
        self._revision = revision

    def find(self, type_name: str) -> Optional[BuildLayout]:
        """What is known of a structure; None for a build or a structure that is not in the tables."""
        if self._build is None:
            return None
        return _find(type_name, self._machine, self._build, self._revision)

    def find_type(self, type_name: str) -> Optional[TypeLayout]:
        """The layout of a structure as far as it is certain."""
        found = self.find(type_name)
        return None if found is None else found.layout

    def make(
        self, type_name: str, *paths: str, signed: Iterable[str] = (), sizes: Optional[Mapping[str, int]] = None
    ) -> Optional[Struct]:
        """The struct of some fields; None for a build or a structure that is not in the tables.

        Raises:
            StructSizeError: a field is of another size than ``sizes`` says.
        """
        found = self.find(type_name)
        if found is None:
            return None
        return make_struct(type_name, SOURCE, found.layout, paths, self.find_type, tuple(signed), sizes, found.doubtful)


@cache
def list_layouts(type_name: str) -> Tuple[ShippedLayout, ...]:
    """Every known layout of a structure, for callers that find out from the data which one fits."""
    return tuple(ShippedLayout(kernels, _parse_layout(body)) for kernels, body in _list_rows(type_name))


@cache
def _list_rows(type_name: str) -> Tuple[Tuple[Tuple[Kernels, ...], str], ...]:
    """Which kernels have which layout, whose text is parsed when it is needed."""
    rows = _load().get(type_name, ())
    return tuple((tuple(map(_parse_kernels, where.split())), body) for where, body in rows)


@cache
def _load() -> Mapping[str, List[Tuple[str, str]]]:
    structures: Mapping[str, List[Tuple[str, str]]] = json.loads(pkgutil.get_data(__package__, _TABLE) or b"")[
        "structures"
    ]
    return structures


def _parse_kernels(text: str) -> Kernels:
    """``x64/19041-19045/508-3570``: processor, builds, revisions or the word ``stated``."""
    machine, builds, *rest = text.split("/")
    first, _, last = builds.partition("-")
    is_stated = rest == ["stated"]
    revisions = None
    if rest and not is_stated:
        low, _, high = rest[0].partition("-")
        revisions = (int(low), int(high))
    return Kernels(Machine(machine), int(first), int(last or first), revisions, is_stated)


@cache
def _parse_layout(text: str) -> TypeLayout:
    """``38 Key:0:4 ...``: size and offsets hexadecimal, sizes of fields decimal.

    Behind a field's size stand ``/first+count`` of a bit field, the name of a structure, ``*count`` of an array.
    """
    size, *fields = text.split(" ")
    return TypeLayout(None if size == "?" else int(size, 16), dict(map(_parse_field, fields)))


def _parse_field(text: str) -> Tuple[str, FieldLayout]:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise ValueError(f"table of structures: found field {text!r}")
    size, bit, count = match["size"], match["bit"], match["count"]
    elements = int(count) if count else None
    return match["name"], FieldLayout(
        int(match["offset"], 16),
        int(size) * (1 if elements is None else elements) if size else None,
        (int(bit), int(match["bits"])) if bit else None,
        match["type"],
        elements,
    )


@cache
def _find(type_name: str, machine: Machine, build: int, revision: Optional[int]) -> Optional[BuildLayout]:
    rows = list(_iter_rows(type_name, machine, build))
    exact = [
        row for row in rows if revision is not None and row[0].revisions and _is_inside(revision, row[0].revisions)
    ]
    layouts = [layout for _, layout in exact or rows]
    if not layouts:
        return None
    fields: Dict[str, FieldLayout] = {}
    doubtful = set()
    for name in dict.fromkeys(name for layout in layouts for name in layout.fields):
        field = _agreed([layout.fields.get(name) for layout in layouts])
        if field is None:
            doubtful.add(name)
        else:
            fields[name] = field
    sizes = {layout.size for layout in layouts}
    size = sizes.pop() if len(sizes) == 1 else None
    is_stated = all(kernels.is_stated for kernels, _ in exact or rows)
    return BuildLayout(TypeLayout(size, fields), frozenset(doubtful), is_stated)


def _iter_rows(type_name: str, machine: Machine, build: int) -> Iterator[Tuple[Kernels, TypeLayout]]:
    for having, body in _list_rows(type_name):
        for kernels in having:
            if kernels.covers(machine, build):
                yield kernels, _parse_layout(body)


def _is_inside(number: int, bounds: Tuple[int, int]) -> bool:
    return bounds[0] <= number <= bounds[1]


def _agreed(fields: List[Optional[FieldLayout]]) -> Optional[FieldLayout]:
    """What rows of one build say of a field, if they do not contradict each other.

    Tables that hold only some fields of a structure are no witnesses that it has no others.
    """
    known = {field for field in fields if field is not None}
    if len({field.offset for field in known}) != 1:
        return None
    told = [field for field in known if field.size is not None]
    if len({(field.size, field.bits, field.count) for field in told}) > 1:
        return None
    return max(known, key=lambda field: (field.size is not None, field.type_name is not None))
