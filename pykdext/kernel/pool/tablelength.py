"""How many rows a tag table has: by its symbol, else by the hash that its tags fit, else by what reads as rows."""

from __future__ import annotations

from typing import NamedTuple, Tuple

from pykdext.kernel.pool.believed import TableRows, find_hashed_row_count, gather_rows
from pykdext.kernel.pool.inference import MAX_ROW_BITS, MIN_ROW_BITS
from pykdext.kernel.pool.layouts import TrackerLayout
from pykdext.kernel.pool.tablelocation import TableLocation
from pykdext.kernel.structs import iter_row_runs, iter_whole_rows
from pykdext.model import PoolTag
from pykdext.targets.protocol import Target
from pykdext.units import count_things

OVERFLOW_TAG = PoolTag(b"Ovfl")
"""The tag of the last row, where the kernel lumps together what found no row of its own."""


class TableLength(NamedTuple):
    """The rows of each table. ``is_known`` is false where there may be more; ``warnings`` say what was assumed."""

    rows: int
    is_known: bool = True
    warnings: Tuple[str, ...] = ()


def find_table_length(target: Target, location: TableLocation, layout: TrackerLayout) -> TableLength:
    """The length by the symbol that tells it; else by what the first table has, and what stands near its pointer."""
    if location.row_count is not None and location.is_count_certain:
        return TableLength(location.row_count)
    first = _FirstTable(target, location, layout)
    hashed, likely = find_hashed_row_count(first.read), location.row_count
    if hashed is None:
        return first.derive_length() if likely is None else TableLength(likely)
    if likely is not None and hashed < likely and first.may_go_on(hashed, likely):
        return TableLength(likely)
    if likely is None and first.may_go_on(hashed, 2 * hashed - 1) and first.lacks(hashed, 2 * hashed - 1):
        return TableLength(
            hashed,
            False,
            (
                f"the number of rows is not known: tags are in places of {count_things(hashed, 'row')}, as the first "
                "of a longer table are, and what is behind these rows is not in memory",
            ),
        )
    if likely in (None, hashed):
        return TableLength(hashed)
    warning = (
        f"the number of rows is not known: {likely} stands near nt!PoolTrackTable, and the tags "
        f"are in places of {count_things(hashed, 'row')}, which is taken"
    )
    return TableLength(hashed, warnings=(warning,))


class _FirstTable:
    """The table of the first processor, read as if it had so many rows."""

    def __init__(self, target: Target, location: TableLocation, layout: TrackerLayout) -> None:
        self._target = target
        self._base = location.tables[0]
        self._layout = layout

    def read(self, rows: int) -> TableRows:
        """The first rows, as far as they are in memory."""
        row_bytes = self._layout.row_bytes
        pieces = self._target.read_present(self._base, rows * row_bytes)
        return gather_rows(self._layout, self._base, rows, iter_row_runs(pieces, self._base, row_bytes, rows))

    def may_go_on(self, rows: int, likely: int) -> bool:
        """Whether a table that fits a hash of few rows may be the beginning of one of ``likely`` rows.

        The first rows of a large table stand where a small one would have them, too, and what is behind them may be
        left out here, or be other pages than it seems. The last row of a whole table tells.
        """
        return self.read(likely).keys[rows - 1] != OVERFLOW_TAG.key

    def lacks(self, start: int, end: int) -> bool:
        """Whether any of these rows is not in memory."""
        return not all(self.read(end).present[start:end])

    def derive_length(self) -> TableLength:
        """The largest 2^k + 1 rows that are in memory and read as rows."""
        row_bytes = self._layout.row_bytes
        best = (1 << MIN_ROW_BITS) + 1
        for bits in range(MIN_ROW_BITS + 1, MAX_ROW_BITS + 1):
            start, rows = self._base + best * row_bytes, (1 << bits) + 1 - best
            added = b"".join(
                iter_whole_rows(self._target.read_present(start, rows * row_bytes), start, row_bytes, rows)
            )
            if not self._layout.count_plausible_rows(added):
                break
            best = (1 << bits) + 1
        return TableLength(best, False, (f"the number of rows is not known: {best} were found that read as rows",))
