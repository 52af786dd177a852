"""Layouts of POOL_TRACKER_TABLE rows, by build and checked against the data.

Sources: the types in Microsoft's public PDBs, as collected in JPCERTCC/Windows-Symbol-Tables and in the volatility
overlays (48 builds, x86 and x64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Iterator, Optional, Tuple

from pykdext.errors import LayoutNotFoundError
from pykdext.model import PROTECTED_POOL, TypeLayout

_COUNTS_FIRST = ("NonPagedAllocs", "NonPagedFrees", "NonPagedBytes", "PagedAllocs", "PagedFrees", "PagedBytes")
_BYTES_FIRST = ("NonPagedBytes", "NonPagedAllocs", "NonPagedFrees", "PagedBytes", "PagedAllocs", "PagedFrees")

_PLAUSIBLE_SHARE = 0.9
"""The right layout shows at least this share of its used rows with a printable key (the rest: odd tags of drivers)."""

_FEWEST_ROWS = 4
"""A table with fewer used rows than this proves no layout; every kernel uses dozens of tags before its first driver."""


@dataclass(frozen=True)
class TrackerLayout:
    """One generation of POOL_TRACKER_TABLE.

    Attributes:
        name: for reports.
        pointer_size, first_build, last_build: where it applies (builds inclusive; last_build None: still current).
        row_format: ``struct`` format of a row: Key, then the six counters in the order of ``columns``.
        columns: the counters' names, in Microsoft's spelling, in memory order.
    """

    name: str
    pointer_size: int
    first_build: int
    last_build: Optional[int]
    row_format: str
    columns: Tuple[str, ...]

    @property
    def row_bytes(self) -> int:
        """Distance of two rows."""
        return struct.calcsize(self.row_format)

    @property
    def count_bits(self) -> int:
        """Width of a count: 32-bit counts wrap on busy servers, and sums over processors are modulo this width."""
        return 64 if "Q" in self.row_format and self.columns == _BYTES_FIRST else 32

    @property
    def bytes_bits(self) -> int:
        """Width of a byte counter: that of SIZE_T."""
        return 8 * self.pointer_size

    def iter_rows(self, table: bytes) -> Iterator[Tuple[int, ...]]:
        """Every whole row of ``table`` that is in use (Key not 0): Key, then the counters as ``columns`` names them."""
        whole = memoryview(table)[: len(table) - len(table) % self.row_bytes]
        return (row for row in struct.iter_unpack(self.row_format, whole) if row[0])

    def fits_build(self, build: Optional[int]) -> bool:
        """Kernels of this build are known to use this layout."""
        return build is not None and self.first_build <= build and (self.last_build is None or build <= self.last_build)

    def count_plausible_rows(self, table: bytes) -> int:
        """How many used rows have four printable characters as their key; 0 if that is not true of nearly all."""
        keys = [row[0] for row in self.iter_rows(table)]
        plausible = sum(map(_is_printable, keys))
        return plausible if len(keys) >= _FEWEST_ROWS and plausible >= _PLAUSIBLE_SHARE * len(keys) else 0


def _is_printable(key: int) -> bool:
    return all(0x20 <= byte < 0x7F for byte in (key & ~PROTECTED_POOL).to_bytes(4, "little"))


TRACKER_LAYOUTS = (
    # 64-bit counts came with 16299 (version 1709); the limit fields at the end of the row with 20348 / 22000.
    TrackerLayout("28h rows", 8, 3790, 15063, "<III4xQIIQ", _COUNTS_FIRST),
    TrackerLayout("38h rows", 8, 16299, 19045, "<I4x6Q", _BYTES_FIRST),
    TrackerLayout("50h rows", 8, 20348, None, "<I4x6Q24x", _BYTES_FIRST),
    TrackerLayout("1Ch rows", 4, 2600, 15063, "<7I", _COUNTS_FIRST),
    TrackerLayout("30h rows", 4, 16299, 19045, "<IIQQI4xQQ", _BYTES_FIRST),
)


def match_tracker_type(layout: TypeLayout) -> Optional[TrackerLayout]:
    """The known layout that symbols of the target describe, by its size; None if it is none of them."""
    return next((known for known in TRACKER_LAYOUTS if known.row_bytes == layout.size), None)


def find_tracker_layout(pointer_size: int, build: Optional[int], table: bytes) -> TrackerLayout:
    """The layout of the rows in ``table`` (its first kilobytes are enough): the one that reads the most rows as rows.

    The build decides only between layouts that the data fit equally well. Reading rows of 28h bytes as rows of 50h
    gives sensible keys too, but only half as many: hence the most, not the first.

    Raises:
        LayoutNotFoundError: the data fit no layout.
    """
    candidates = [layout for layout in TRACKER_LAYOUTS if layout.pointer_size == pointer_size]
    best = max(candidates, key=lambda layout: (layout.count_plausible_rows(table), layout.fits_build(build)))
    if not best.count_plausible_rows(table):
        tried = ", ".join(layout.name for layout in candidates)
        raise LayoutNotFoundError(build, "POOL_TRACKER_TABLE", f"not one of {tried}")
    return best
