"""Layouts of POOL_TRACKER_TABLE rows: what symbols say, or the shipped layout that reads the data as rows.

The build alone decides nothing without symbols: headers of dumps are damaged, and newer kernels are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Iterator, List, Optional, Sequence, Tuple

from pykdext.errors import LayoutNotFoundError, StructSizeError
from pykdext.kernel.kernel import Kernel
from pykdext.model import PROTECTED_POOL, Machine, Struct
from pykdext.model.layouts import TypeLayout, make_struct
from pykdext.model.structtables import SOURCE, Kernels, list_layouts

TYPE_NAME = "_POOL_TRACKER_TABLE"

_COLUMNS = ("NonPagedAllocs", "NonPagedFrees", "NonPagedBytes", "PagedAllocs", "PagedFrees", "PagedBytes")

_PLAUSIBLE_SHARE = 0.9
"""The right layout shows at least this share of its used rows with a printable key (the rest: odd tags of drivers)."""

_PIECE_ROWS = 64

_FEWEST_ROWS = 4
"""A table with fewer used rows than this proves no layout; every kernel uses dozens of tags before its first driver."""


@dataclass(frozen=True)
class TrackerLayout:
    """One layout of POOL_TRACKER_TABLE.

    Attributes:
        form: Key, then the six counters in memory order; its source says who knew it.
        kernels: of which kernels it is known; empty if symbols told it.
    """

    form: Struct
    kernels: Tuple[Kernels, ...] = ()

    @property
    def name(self) -> str:
        """For reports: the size of a row."""
        return f"{self.row_bytes:X}h rows"

    @cached_property
    def row_bytes(self) -> int:
        """Distance of two rows."""
        return self.form.stride

    @cached_property
    def columns(self) -> Tuple[str, ...]:
        """The counters' names, in Microsoft's spelling, in memory order."""
        return tuple(self.form.fields)[1:]

    @cached_property
    def count_bits(self) -> int:
        """Width of a count: 32-bit counts wrap on busy servers, and sums over processors are modulo this width."""
        return self._bits("NonPagedAllocs")

    @cached_property
    def bytes_bits(self) -> int:
        """Width of a byte counter: that of SIZE_T."""
        return self._bits("NonPagedBytes")

    def _bits(self, column: str) -> int:
        field = self.form.fields[column]
        return 8 * (field.size or 0) if field is not None else 0

    def iter_rows(self, table: bytes) -> Iterator[Tuple[int, ...]]:
        """Every whole row of ``table`` that is in use (Key not 0): Key, then the counters as ``columns`` names them."""
        return (row for row in self.form.iter_unpack(table) if row[0])

    def fits_build(self, machine: Machine, build: Optional[int]) -> bool:
        """Kernels of this build are known to use this layout."""
        if not self.kernels:
            return True
        return build is not None and any(kernels.covers(machine, build) for kernels in self.kernels)

    def count_plausible_rows(self, table: bytes) -> int:
        """How many used rows have four printable characters as their key, among others of which nearly all have.

        It goes piece by piece: a part of the table that is damaged says nothing of the rest.
        """
        keys = [row[0] for row in self.form.iter_unpack(table)]
        found = 0
        for start in range(0, len(keys), _PIECE_ROWS):
            used = [key for key in keys[start : start + _PIECE_ROWS] if key]
            plausible = sum(map(is_printable, used))
            found += plausible if len(used) > 1 and plausible >= _PLAUSIBLE_SHARE * len(used) else 0
        return found if found >= _FEWEST_ROWS else 0


def is_printable(key: int) -> bool:
    """Whether a key is a tag of four printable characters."""
    return all(0x20 <= byte < 0x7F for byte in (key & ~PROTECTED_POOL).to_bytes(4, "little"))


def list_tracker_layouts(pointer_size: int) -> List[TrackerLayout]:
    """Every shipped layout of kernels with pointers of this size."""
    layouts = []
    for shipped in list_layouts(TYPE_NAME):
        if any(kernels.machine.pointer_size == pointer_size for kernels in shipped.kernels):
            layouts.append(TrackerLayout(_make_form(shipped.layout), shipped.kernels))
    return layouts


def _make_form(layout: TypeLayout) -> Struct:
    paths = ("Key", *sorted(_COLUMNS, key=lambda name: layout.fields[name].offset))
    return make_struct(TYPE_NAME, SOURCE, layout, paths, lambda _: None)


def find_described_layout(kernel: Kernel) -> Optional[TrackerLayout]:
    """The layout by the target's, a PDB's or an ISF file's types; None if they do not have it as a row of counters."""
    try:
        form = kernel.symbols.make_struct(TYPE_NAME, ("Key", *_COLUMNS), sizes={"Key": 4})
        if form is None or not form.has(*form.fields):
            return None
        places = {name: form.offset(name) or 0 for name in _COLUMNS}
        order = sorted(_COLUMNS, key=places.__getitem__)
        form = kernel.symbols.make_struct(TYPE_NAME, ("Key", *order), sizes={"Key": 4})
    except StructSizeError:
        return None
    layout = None if form is None else TrackerLayout(form)
    return layout if layout is not None and layout.count_bits in (32, 64) and layout.bytes_bits in (32, 64) else None


def find_known_layout(kernel: Kernel) -> Optional[TrackerLayout]:
    """The layout by types, else the shipped one of this build, whatever the tables hold; None: nothing tells it."""
    described = find_described_layout(kernel)
    if described is not None:
        return described
    facts = kernel.target.facts
    shipped = list_tracker_layouts(facts.machine.pointer_size)
    return next((layout for layout in shipped if layout.fits_build(facts.machine, facts.build)), None)


def find_tracker_layout(machine: Machine, build: Optional[int], samples: Sequence[bytes]) -> TrackerLayout:
    """The shipped layout of the rows in the beginnings of the tables: it reads the most rows of one of them as rows.

    The build decides only between layouts that the data fit equally well. Reading rows of 28h bytes as rows of 50h
    gives sensible keys too, but only half as many: hence the most, not the first.

    Raises:
        LayoutNotFoundError: the data fit no layout.
    """
    candidates = list_tracker_layouts(machine.pointer_size)
    fitting = {
        layout.name: (max(map(layout.count_plausible_rows, samples)), layout.fits_build(machine, build))
        for layout in candidates
    }
    best = max(candidates, key=lambda layout: fitting[layout.name])
    if not fitting[best.name][0]:
        tried = ", ".join(layout.name for layout in candidates)
        raise LayoutNotFoundError(build, "POOL_TRACKER_TABLE", f"not one of {tried}")
    return best
