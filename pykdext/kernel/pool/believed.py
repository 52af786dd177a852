"""Which rows of the tag tables are believed, and why not the others.

That a page is in the dump does not make it the table's: it may have been zeroed, be another table's, or be anything.
What a table must be tells: a tag's row follows from its key's hash, a tag has one row and the same in every processor's
table, no two processors count alike, and a table has no page of zeros where its neighbours count.

Sources: public decompilations of several kernels for the hash since Vista (checked by hand with the tag ``Pool``), and
ReactOS for the one before.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import compress
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from pykdext.kernel.pool.inference import MAX_ROW_BITS, MIN_ROW_BITS
from pykdext.kernel.pool.layouts import TrackerLayout, is_printable
from pykdext.model import PROTECTED_POOL
from pykdext.targets.protocol import PAGE_BYTES

OVERFLOW_KEY = int.from_bytes(b"Ovfl", "little")
"""The key of the last row, where the kernel lumps together what found no row of its own."""

MISPLACED = "rows that their tags cannot have"
CONTRADICTED = "rows that other processors' tables contradict"
ZEROED = "a page of zeros, or without tags, where others count"
COPIED = "a page of another table"
STRANGE = "a page of what are no tags"
KEYLESS = "counters without a tag"

_FACTOR = 40543
_FEWEST_PLACED = 16
_PLACED_SHARE = 0.3
"""A hash that puts so many tags of a table where they are is the kernel's; chance puts one in twenty there."""

_FEWEST_IN_HALF = 4
_HALVES_MISSED = 3
_SURELY_PLACED_SHARE = 0.8
"""So many tags of half a table fit the right number of rows; of a wrong one every second tag does at most."""

_MISPLACED_SHARE = 0.25
"""A page with so many rows in wrong places is not the table's."""

_ZERO_BY_CHANCE = 0.01
"""A processor that used none of a page's tags by chance: less likely than this, and the page was lost."""

_EMPTY_BY_CHANCE = 0.001
"""A page that no tag hashes to by chance: less likely than this, and the page was lost."""

_PRINTABLE_SHARE = 0.5
"""A page of the expansion table has at least so many printable tags."""

_TELLING_NUMBERS = 8
"""So many numbers above a byte, not only tags, make a page that no other table has by chance, while the rest of the
two tables differs; twice as many do where the whole tables are the same."""


def hash_of_vista(key: int) -> int:
    """The hash of a tag since Windows Vista, on 64-bit and 32-bit processors."""
    product = key * _FACTOR
    return (product & 0xFFFFFFFF) ^ (product >> 32)


def hash_before_vista(key: int) -> int:
    """The hash of Windows 2000, XP and Server 2003."""
    first, second, third, fourth = key.to_bytes(4, "little")
    return ((((first << 2 ^ second) << 2 ^ third) << 2 ^ fourth) * _FACTOR & 0xFFFFFFFF) >> 2


_HASHES = (hash_of_vista, hash_before_vista)


class _Page(NamedTuple):
    """A page of a table: its bytes in the table, and the rows of which it holds at least a part.

    Attributes:
        start, end: its bytes, counted from the table's start. first, stop: the rows.
        first_key: the first row whose tag lies in the page: the one before may only end here.
    """

    start: int
    end: int
    first: int
    first_key: int
    stop: int

    @property
    def rows(self) -> range:
        """All rows that the page holds a part of."""
        return range(self.first, self.stop)


@dataclass
class TableRows:
    """One table as it was read.

    Attributes:
        address: where it is.
        data: its bytes, zeros where nothing was read.
        present: for each row 1 if all its bytes were read, else 0.
        keys: the key of each row, without the bit of protected pool.
        doubts: why rows are not believed, by row.
    """

    address: int
    data: bytes
    present: bytearray
    keys: array[int]
    doubts: Dict[int, str] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Every row was read."""
        return all(self.present)

    @property
    def believed_rows(self) -> int:
        """How many rows were read and are believed."""
        return sum(self.present) - len(self.doubts)

    def is_used(self, row: int) -> bool:
        """A row that was read, is believed so far, and has a tag."""
        return bool(self.keys[row]) and row not in self.doubts

    def used_rows(self) -> List[int]:
        """The ascending numbers of the rows that :meth:`is_used` is true of."""
        return [row for row in compress(range(len(self.keys)), self.keys) if row not in self.doubts]

    def doubt(self, rows: Iterable[int], reason: str) -> None:
        """Believe no row of ``rows`` any more that was read."""
        for row in rows:
            if self.present[row]:
                self.doubts.setdefault(row, reason)

    def describe_doubts(self) -> str:
        """The reasons, the most frequent first."""
        return ", ".join(reason for reason, _ in Counter(self.doubts.values()).most_common())


def gather_rows(layout: TrackerLayout, address: int, row_count: int, runs: Iterable[Tuple[int, bytes]]) -> TableRows:
    """A table out of runs of whole rows, each with the number of its first row."""
    row_bytes = layout.row_bytes
    data = bytearray(row_count * row_bytes)
    present = bytearray(row_count)
    for first, run in runs:
        data[first * row_bytes : first * row_bytes + len(run)] = run
        rows = len(run) // row_bytes
        present[first : first + rows] = b"\1" * rows
    table = TableRows(address, bytes(data), present, array("I", bytes(4 * row_count)))
    for row, values in enumerate(layout.form.iter_unpack(table.data)):
        if values[0]:
            table.keys[row] = values[0] & ~PROTECTED_POOL
        elif any(values):
            table.doubts[row] = KEYLESS
    return table


def doubt_rows(layout: TrackerLayout, tables: Sequence[TableRows]) -> None:
    """Note in ``tables``, all of one kernel and of the same length, which rows are not believed."""
    if tables:
        _Weighing(layout, tables).weigh()


def find_hashed_row_count(read_table: Callable[[int], TableRows]) -> Optional[int]:
    """How many rows a table has whose tags stand where a hash of that many rows puts them; None if no hash does.

    ``read_table`` gives the first rows of the table, as many as asked for. The upper half of a table tells: its tags
    would be elsewhere in a longer one, and in the lower half of a shorter one.
    """
    best, missed = None, 0
    for bits in range(MIN_ROW_BITS, MAX_ROW_BITS + 1):
        count = (1 << bits) + 1
        table = read_table(count)
        half = range(count // 2, count - 1)
        used = [(row, table.keys[row]) for row in half if table.keys[row]]
        if not any(table.present[row] for row in half):
            break
        reach = _find_reach([table], count - 2)
        placed = max(sum((row - hash_key(key) & count - 2) <= reach[row] for row, key in used) for hash_key in _HASHES)
        if len(used) >= _FEWEST_IN_HALF and placed >= _SURELY_PLACED_SHARE * len(used):
            best, missed = count, 0
        elif best is not None:  # a page may be damaged, or the table has ended
            missed += 1
            if missed == _HALVES_MISSED:
                break
    return best


def doubt_strange_rows(layout: TrackerLayout, table: TableRows, *, is_hashed: bool = False) -> None:
    """Note which rows of a table that stands alone are not believed: pages of what are no tags.

    The expansion table has no hash, it is filled row by row: a page of it without tags between others was lost.
    """
    used = [row for row, key in enumerate(table.keys) if key]
    rows_in_page = PAGE_BYTES // layout.row_bytes
    for start in range(0, len(table.keys), rows_in_page):
        rows = range(start, min(start + rows_in_page, len(table.keys)))
        keys = [table.keys[row] for row in rows if table.keys[row]]
        if not keys and not is_hashed and used and start < used[-1]:
            table.doubt(rows, ZEROED)
        elif sum(map(is_printable, keys)) < _PRINTABLE_SHARE * len(keys):
            table.doubt(rows, STRANGE)


class _Weighing:
    """The tables of one kernel compared with what tables are, and with each other."""

    def __init__(self, layout: TrackerLayout, tables: Sequence[TableRows]) -> None:
        self._row_bytes = layout.row_bytes
        self._tables = tables
        self._row_count = len(tables[0].keys)
        self._mask = self._row_count - 2

    def weigh(self) -> None:
        """All checks: first those that make whole pages go, for what is on these misleads the others."""
        self._doubt_copies()
        hash_key = self._find_hash()
        if hash_key is not None:
            self._doubt_misplaced(hash_key, whole_pages_only=True)
            self._doubt_misplaced(hash_key, whole_pages_only=False)
        self._doubt_contradicted(is_hashed=hash_key is not None)
        self._doubt_zeros(is_hashed=hash_key is not None)

    def _pages(self, table: TableRows) -> Iterator[_Page]:
        size = len(table.data)
        for page in range(-(table.address % PAGE_BYTES), size, PAGE_BYTES):
            start, end = max(page, 0), min(page + PAGE_BYTES, size)
            first, first_key = start // self._row_bytes, -(-start // self._row_bytes)
            yield _Page(start, end, first, first_key, -(-end // self._row_bytes))

    def _doubt_copies(self) -> None:
        """No two processors count alike: of pages with the same bytes only the first is believed."""
        seen: Dict[Tuple[int, bytes], TableRows] = {}
        for table in self._tables:
            for number, page in enumerate(self._pages(table)):
                data = table.data[page.start : page.end]
                if not any(data):
                    continue
                first = seen.setdefault((number, data), table)
                if first is not table:
                    numbers = _count_numbers(data)
                    if numbers >= _TELLING_NUMBERS * (2 if first.data == table.data else 1):
                        table.doubt(page.rows, COPIED)

    def _find_hash(self) -> Optional[Callable[[int], int]]:
        """The hash that puts the tags where they are; None if none of the known ones does."""
        pairs = {(row, table.keys[row]) for table in self._tables for row in table.used_rows() if row <= self._mask}
        reach = self._reach()
        best, most = None, 0
        for hash_key in _HASHES:
            placed = sum(self._is_placed(hash_key, reach, row, key) for row, key in pairs)
            if placed > most:
                best, most = hash_key, placed
        return best if most >= max(_FEWEST_PLACED, _PLACED_SHARE * len(pairs)) else None

    def _reach(self) -> List[int]:
        return _find_reach(self._tables, self._mask)

    def _is_placed(self, hash_key: Callable[[int], int], reach: List[int], row: int, key: int) -> bool:
        if row > self._mask:
            return key == OVERFLOW_KEY
        return (row - hash_key(key) & self._mask) <= reach[row]

    def _doubt_misplaced(self, hash_key: Callable[[int], int], *, whole_pages_only: bool) -> None:
        reach = self._reach()
        placed: Dict[Tuple[int, int], bool] = {}
        for table in self._tables:
            misplaced = set()
            for row in table.used_rows():
                pair = row, table.keys[row]
                if pair not in placed:
                    placed[pair] = self._is_placed(hash_key, reach, *pair)
                if not placed[pair]:
                    misplaced.add(row)
            self._doubt_pages(table, misplaced, MISPLACED)
            if not whole_pages_only:
                table.doubt(misplaced, MISPLACED)

    def _doubt_pages(self, table: TableRows, wrong: Set[int], reason: str) -> None:
        """Doubt the pages of which a good part of the used rows is wrong; a single row makes no page wrong."""
        if not wrong:
            return
        for page in list(self._pages(table)):
            used = sum(map(table.is_used, page.rows))
            found = len(wrong.intersection(page.rows))
            if found > 1 and found >= _MISPLACED_SHARE * used:
                table.doubt(page.rows, reason)

    def _doubt_contradicted(self, *, is_hashed: bool) -> None:
        """A row has the same tag in all tables, and by its hash a tag one row: what most have counts, or the first."""
        keys_of_row: Dict[int, List[int]] = {}
        rows_of_key: Dict[int, List[int]] = {}
        for table in self._tables:
            for row in table.used_rows():
                keys_of_row.setdefault(row, []).append(table.keys[row])
                rows_of_key.setdefault(table.keys[row], []).append(row)
        right_key = {row: _choose(keys) for row, keys in keys_of_row.items() if keys.count(keys[0]) < len(keys)}
        right_row = {
            key: _choose(rows) for key, rows in rows_of_key.items() if is_hashed and rows.count(rows[0]) < len(rows)
        }
        if not right_key and not right_row:
            return
        for table in self._tables:
            wrong = {
                row
                for row in table.used_rows()
                if right_key.get(row, table.keys[row]) != table.keys[row] or right_row.get(table.keys[row], row) != row
            }
            self._doubt_pages(table, wrong, CONTRADICTED)
            table.doubt(wrong, CONTRADICTED)

    def _doubt_zeros(self, *, is_hashed: bool) -> None:
        """Pages without tags where others let expect some, or a hash does that spreads them evenly."""
        used_rows = {row for table in self._tables for row in table.used_rows() if row <= self._mask}
        filled = self._filled_rows(used_rows)
        share = len(used_rows) / filled if filled else 0.0
        for table in self._tables:
            zeros = [page for page in self._pages(table) if self._is_zero(table, page)]
            zero_rows = {row for page in zeros for row in range(page.first_key, page.stop)}
            own = sum(row <= self._mask for row in table.used_rows())
            expected = len(used_rows - zero_rows)
            own_share = own / max(own, expected + 1)
            if used_rows and not own:
                table.doubt(range(self._row_count), ZEROED)
                continue
            for page in zeros:
                rows = range(page.first_key, min(page.stop, self._mask + 1))
                others = len(used_rows.intersection(rows))
                is_lost = others > 0 and (1 - own_share) ** others < _ZERO_BY_CHANCE
                if is_lost or (is_hashed and not others and (1 - share) ** len(rows) < _EMPTY_BY_CHANCE):
                    table.doubt(page.rows, ZEROED)

    def _filled_rows(self, used: Set[int]) -> int:
        """Rows of the pages that hold a tag in any table: what a page that was not lost is like."""
        return sum(
            page.stop - page.first_key
            for page in self._pages(self._tables[0])
            if not used.isdisjoint(range(page.first_key, page.stop))
        )

    def _is_zero(self, table: TableRows, page: _Page) -> bool:
        """The page was read and has no tag; the last row of a table, which has its tag always, does not count.

        The end of a row whose tag lies in the page before is no sign of life: any page has something there.
        """
        rows = range(page.first_key, min(page.stop, self._mask + 1))
        inside = range(page.first_key, min(page.end, (self._mask + 1) * self._row_bytes) // self._row_bytes)
        return (
            len(inside) > 0
            and all(table.present[row] for row in inside)
            and not any(table.keys[row] for row in rows)
            and not all(row in table.doubts for row in inside)
        )


def _find_reach(tables: Sequence[TableRows], mask: int) -> List[int]:
    """For each row how many rows right before it hold tags, or may: so far it may stand from its hash."""
    unknown, used = set(range(mask + 1)), set()
    for table in tables:
        believed = set(compress(range(mask + 1), table.present)) - table.doubts.keys()
        unknown -= believed
        used |= believed.intersection(compress(range(mask + 1), table.keys))
    taken = unknown | used
    length = next((mask - row for row in range(mask, -1, -1) if row not in taken), mask)
    reach = []
    for row in range(mask + 1):
        reach.append(min(length, mask))
        length = length + 1 if row in taken else 0
    return reach


def _choose(values: List[int]) -> int:
    """The value that occurs most often, of several the first."""
    return Counter(values).most_common(1)[0][0]


def _count_numbers(data: bytes) -> int:
    """How many different numbers stand in a page that are more than a byte, and no tags."""
    words = memoryview(data)[: len(data) & ~3].cast("I")
    return sum(0x100 <= word < 0x20000000 for word in set(words))
