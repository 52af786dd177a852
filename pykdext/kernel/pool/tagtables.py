"""Reading the pool tag tables and adding up the processors.

Since Windows 7 at the latest each processor counts in a table of its own, so that a block allocated on one processor
and freed on another leaves a negative number on the second: only the sum of all tables means something. Sums are
taken modulo the counter's width and then read as signed, as the kernel itself does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterable, List, Tuple

from pykdext.errors import TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.believed import (
    TableRows,
    doubt_rows,
    doubt_strange_rows,
    gather_rows,
)
from pykdext.kernel.pool.layouts import TrackerLayout, find_described_layout, find_known_layout, find_tracker_layout
from pykdext.kernel.pool.plausible import Weighed, doubt_counters
from pykdext.kernel.pool.provenpages import prove_table_pages, prove_table_pointers
from pykdext.kernel.pool.tablelength import OVERFLOW_TAG, find_table_length
from pykdext.kernel.pool.tablelocation import TableLocation, locate_tag_tables
from pykdext.kernel.structs import iter_row_runs
from pykdext.kernel.systemmemory import list_inferred, read_commit, read_system_memory
from pykdext.model import (
    PROTECTED_POOL,
    ExpansionState,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    SnapshotSource,
    SystemMemory,
    TableCoverage,
    TagUsage,
    TargetFacts,
    TimeOrigin,
)
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import choose_form, count_things, say_rest
from pykdext.work import UNWATCHED, Work

_HEAD_BYTES = 4 * PAGE_BYTES
"""Read first, to recognise the layout; no table of default size is smaller."""

_MAX_EXPANSION_ROWS = 1 << 20
_MAX_DOUBTFUL_TOLD = 8
_LARGEST_DRIFT_BYTES = 1 << 28
"""Counters that are read while they change come out below zero by a few blocks."""

_LIVE_TABLES = "Windows adds the tag tables to a live dump whole: what is missing of them is no design"


def read_pool_snapshot(
    kernel: Kernel,
    path: str = "",
    work: Work = UNWATCHED,
) -> PoolSnapshot:
    """The pools of ``kernel`` as its tag tables have them; ``path`` is what the user called the target.

    Parts that cannot be read are counted in ``coverage`` and named in ``warnings``; so are those that were not read
    yet when the user ended the work, if it keeps results.

    Raises:
        SymbolNotFoundError, TargetError, LayoutNotFoundError: the tables cannot be found or not one row be read.
    """
    prove_table_pointers(kernel)
    location = locate_tag_tables(kernel)
    reader = _TableReader(kernel, location)
    with work.hold():
        reader.read(work)
    tags = reader.tag_usages()
    memory = SystemMemory()
    if work.cause is not None:
        reader.warnings.append("interrupted while the tag tables were read: the counts are incomplete")
    else:
        with work.hold():
            tags, memory = reader.weigh_counters(tags)
    facts = kernel.target.facts  # the last question: its warnings tell of all that was read before
    coverage = reader.coverage()
    if facts.is_live and not coverage.is_complete:
        reader.warnings.append(f"{_LIVE_TABLES}; {facts.why_missing}")
    warnings = (*facts.warnings, *kernel.notes, *kernel.symbols.notes, *reader.warnings)
    state = _state_of(facts, SnapshotSource(facts.kind, path, location.located_by), warnings)
    return replace(state, tags=tags, memory=memory, coverage=coverage)


def read_located_tables(
    kernel: Kernel, location: TableLocation, work: Work = UNWATCHED
) -> Tuple[Tuple[TagUsage, ...], TableCoverage, Tuple[str, ...]]:
    """The tags of tables at a known place, what was read of them, and what was missing.

    Raises:
        TargetError, LayoutNotFoundError: not one row can be read.
    """
    reader = _TableReader(kernel, location, is_alone=True)
    with work.hold():
        reader.read(work)
    tags = reader.tag_usages()
    return tags, reader.coverage(), tuple(reader.warnings)


def state_without_tags(kernel: Kernel, path: str = "") -> PoolSnapshot:
    """What ``kernel`` tells of its machine where its tag tables cannot be read: no tags, and no totals."""
    facts = kernel.target.facts
    warnings = (*facts.warnings, *kernel.notes, *kernel.symbols.notes)
    return _state_of(facts, SnapshotSource(facts.kind, path, None if path else ""), warnings)


def _state_of(facts: TargetFacts, source: SnapshotSource, warnings: Tuple[str, ...]) -> PoolSnapshot:
    return PoolSnapshot(
        source=source,
        tags=(),
        taken_at=facts.taken_at,
        build=facts.build,
        machine=facts.machine,
        processors=facts.processors,
        uptime_seconds=facts.uptime_seconds,
        bugcheck=facts.bugcheck,
        time_from=None if facts.taken_at is None else TimeOrigin.CLOCK_TICK if facts.image else TimeOrigin.HEADER,
        image=facts.image,
        boot_id=facts.boot_id,
        warnings=warnings,
    )


class _TableReader:
    """One reading of all tables: sums by key, and what was missing."""

    def __init__(self, kernel: Kernel, location: TableLocation, *, is_alone: bool = False) -> None:
        """``is_alone``: no table of another processor has the same tags, to compare with."""
        self._is_alone = is_alone
        self._kernel = kernel
        self._target = kernel.target
        self._build = kernel.target.facts.build
        self._location = location
        self._sums: Dict[int, List[int]] = {}
        self._tables_read = 0
        self._rows_read = 0
        self._expansion_state = ExpansionState.UNKNOWN
        self._has_free_row = False
        self._negative: List[str] = []
        self.warnings = list(location.warnings)
        self._heads = self._read_heads()
        self._layout = self._find_layout()
        if location.row_count is not None:
            prove_table_pages(self._target, location.tables, self._layout, location.row_count)
        length = find_table_length(self._target, location, self._layout)
        self._row_count, self._is_end_known = length.rows, length.is_known
        self.warnings += length.warnings
        prove_table_pages(self._target, location.tables, self._layout, self._row_count)
        self._heads = self._read_heads()

    def _read_heads(self) -> List[Tuple[Tuple[int, bytes], ...]]:
        return [tuple(self._target.read_present(table, _HEAD_BYTES)) for table in self._location.tables]

    def _find_layout(self) -> TrackerLayout:
        if self._is_alone and (known := find_known_layout(self._kernel)) is not None:
            return known
        tables = self._location.tables
        samples = [head[0][1] for table, head in zip(tables, self._heads) if head and head[0][0] == table]
        if not samples:
            raise TargetError(
                f"tag table at 0x{tables[0]:x}: found no first page of it, expected the rows of "
                f"{count_things(len(tables), 'processor')}. "
                "Hint: the dump does not hold the tag tables"
            )
        described = find_described_layout(self._kernel)
        if described is not None and any(map(described.count_plausible_rows, samples)):
            return described
        layout = find_tracker_layout(self._target.machine, self._build, samples)
        if not layout.fits_build(self._target.machine, self._build):
            self.warnings.append(f"the tag tables have {layout.name}, which build {self._build} is not known for")
        return layout

    def read(self, work: Work) -> None:
        """Read every table, weigh what was read, and add up what is believed."""
        size = self._row_count * self._layout.row_bytes
        tables: List[TableRows] = []
        try:
            for number, (table, head) in enumerate(zip(self._location.tables, self._heads)):
                work.report(number, len(self._heads), "tag tables")
                rest = self._target.read_present(table + _HEAD_BYTES, max(0, size - _HEAD_BYTES))
                tables.append(self._gather((*head, *rest), table, self._row_count))
            work.report(len(self._heads), len(self._heads), "tag tables")
        finally:  # an end by the user leaves what was read before it
            doubt_rows(self._layout, tables)
            for gathered in tables if self._is_alone else ():
                doubt_strange_rows(self._layout, gathered, is_hashed=True)
            for number, gathered in enumerate(tables):
                self._add_table(number, gathered)
        if self._location.expected is not None and len(self._heads) < self._location.expected:
            self.warnings.append(f"{len(self._heads)} of {self._location.expected} processors' tag tables were found")
        self._read_expansion()
        self._check_overflow()

    def _gather(self, pieces: Iterable[Tuple[int, bytes]], base: int, row_count: int) -> TableRows:
        runs = iter_row_runs(pieces, base, self._layout.row_bytes, row_count)
        return gather_rows(self._layout, base, row_count, runs)

    def _add_table(self, number: int, table: TableRows) -> None:
        """Add the believed rows of one processor's table, and say what is missing."""
        count = self._row_count
        rows = table.believed_rows
        self._add(table)
        # The last row is no free one: nothing is ever hashed to it.
        self._has_free_row |= rows == count and len(self._sums) < count - 1
        self._rows_read += rows
        self._tables_read += rows > 0
        absent = count - sum(table.present)
        if absent:
            self.warnings.append(
                f"tag table {number} at 0x{table.address:x}: {absent} of "
                f"{count_things(count, 'row')} {choose_form(absent, 'is', 'are')} "
                "not in the target; the counts of their tags are incomplete"
            )
        if table.doubts:
            self.warnings.append(
                f"tag table {number} at 0x{table.address:x}: {len(table.doubts)} of "
                f"{count_things(count, 'row')} not believed "
                f"({table.describe_doubts()}); the counts of their tags are incomplete"
            )

    def _add(self, table: TableRows) -> None:
        """Add the believed rows of a table to the sums."""
        sums = self._sums
        for row, (stored_key, *counters) in enumerate(self._layout.form.iter_unpack(table.data)):
            if stored_key and row not in table.doubts:
                key = stored_key & ~PROTECTED_POOL
                total = sums.get(key)
                sums[key] = counters if total is None else [a + b for a, b in zip(total, counters)]

    def _read_expansion(self) -> None:
        base, count = self._location.expansion, self._location.expansion_rows
        if base is None or (base and count is None):
            if self._has_free_row:
                self._expansion_state = ExpansionState.ABSENT  # the kernel makes one only when the table is full
                return
            self.warnings.append("the expansion of the tag table was not found: tags in it are missing, if it exists")
            return
        if base == 0 or not count:
            self._expansion_state = ExpansionState.ABSENT
            return
        bounded = min(count, _MAX_EXPANSION_ROWS)
        table = self._gather(self._target.read_present(base, bounded * self._layout.row_bytes), base, bounded)
        doubt_strange_rows(self._layout, table)
        self._add(table)
        rows = table.believed_rows
        self._expansion_state = ExpansionState.READ if rows == count else ExpansionState.UNREADABLE
        if rows < count:
            self.warnings.append(
                f"expansion table at 0x{base:x}: {count - rows} of {count_things(count, 'row')} "
                f"{choose_form(count - rows, 'is', 'are')} "
                f"{'not believed' if table.doubts else 'not in the target'}; their tags are missing"
            )

    def _check_overflow(self) -> None:
        if any(self._sums.get(OVERFLOW_TAG.key, ())):
            self.warnings.append("the tag table overflowed: tag Ovfl lumps together tags that found no row")

    def coverage(self) -> TableCoverage:
        """What was read of what there is."""
        expected = self._location.expected
        return TableCoverage(
            processor_tables_read=self._tables_read,
            processor_tables_expected=expected,
            rows_read=self._rows_read,
            rows_expected=self._row_count * (expected or len(self._heads)) if self._is_end_known else None,
            expansion_table=self._expansion_state,
        )

    def tag_usages(self) -> Tuple[TagUsage, ...]:
        """The sums as values, without tags that were never used, in the order of the tags."""
        lacks_counts = self.coverage().lacks_counts
        usages = (
            self._tag_usage(PoolTag.from_key(key), counters, lacks_counts=lacks_counts)
            for key, counters in self._sums.items()
        )
        used = tuple(
            sorted(
                (usage for usage in usages if not (usage.nonpaged.is_idle and usage.paged.is_idle)),
                key=lambda usage: usage.tag,
            )
        )
        clamped = [row.tag.text for row in used if row.nonpaged.clamped or row.paged.clamped]
        self._note_negative(clamped, "with more frees than allocations, shown as 0")
        self._note_negative(
            sorted(set(self._negative)),
            "with more freed than allocated in the tables that were read, "
            + ("what they hold is not known" if lacks_counts else "doubtful and left out"),
        )
        if not lacks_counts:  # the tables are whole, so that the row of each is wrong
            self._rows_read -= len(set(self._negative))
        return used

    def _note_negative(self, names: List[str], what: str) -> None:
        """Name tags whose sums are below zero."""
        if names:
            more = " ..." if len(names) > _MAX_DOUBTFUL_TOLD else ""
            shown = ", ".join(names[:_MAX_DOUBTFUL_TOLD])
            self.warnings.append(f"{count_things(len(names), 'tag')} {what}: {shown}{more}")

    def weigh_counters(self, tags: Tuple[TagUsage, ...]) -> Tuple[Tuple[TagUsage, ...], SystemMemory]:
        """The rows without what their counters cannot be, and what the memory manager says of the pools.

        The memory manager's layout is recognised by the sums of the tags: a tag that is wrong would hide it. So where
        no reading fits, the largest tag of each pool is put aside before another try.
        """
        machine = self._target.machine
        weighed = doubt_counters(tags, machine, read_commit(self._kernel))
        self._note_doubtful(weighed)
        memory = read_system_memory(self._kernel, *_sum_pools(weighed.tags))
        if memory.nonpaged_bytes is None or memory.paged_bytes is None:
            other = read_system_memory(self._kernel, *_sum_pools(weighed.tags, but_largest=True))
            if doubt_counters(weighed.tags, machine, other).doubtful:
                memory = other
        self.warnings += list_inferred(self._kernel, memory)
        weighed = doubt_counters(weighed.tags, machine, memory)
        self._note_doubtful(weighed)
        return weighed.tags, memory

    def _note_doubtful(self, weighed: Weighed) -> None:
        """A tag with a doubtful counter is a row that was not read."""
        self._rows_read -= len(weighed.doubtful)
        self.warnings += weighed.warnings[:_MAX_DOUBTFUL_TOLD]
        if len(weighed.warnings) > _MAX_DOUBTFUL_TOLD:
            self.warnings.append(say_rest(len(weighed.warnings), _MAX_DOUBTFUL_TOLD, "doubtful counter"))

    def _tag_usage(self, tag: PoolTag, counters: List[int], *, lacks_counts: bool) -> TagUsage:
        values = dict(zip(self._layout.columns, counters))
        sides = []
        for side in ("NonPaged", "Paged"):
            allocs, frees, used = (values[f"{side}{counter}"] for counter in ("Allocs", "Frees", "Bytes"))
            usage = _sum_usage(allocs, frees, used, self._layout, lacks_counts=lacks_counts)
            if usage.outstanding is None or usage.bytes is None:
                self._negative.append(tag.text)
            sides.append(usage)
        return TagUsage(tag, *sides)


def _sum_pools(tags: Tuple[TagUsage, ...], *, but_largest: bool = False) -> Tuple[int, int]:
    """Bytes of the nonpaged and of the paged pool by their tags."""
    sums = []
    for pool in PoolKind:
        counted = sorted(row.usage(pool).bytes or 0 for row in tags)
        sums.append(sum(counted[:-1] if but_largest else counted))
    return sums[0], sums[1]


def _sum_usage(allocs: int, frees: int, used_bytes: int, layout: TrackerLayout, *, lacks_counts: bool) -> PoolUsage:
    """One side of a tag. A sum below zero is 0 only if counters that were read while they changed explain it."""
    outstanding = _signed(allocs - frees, layout.count_bits)
    used = _signed(used_bytes, layout.bytes_bits)
    is_below = outstanding < 0 or used < 0
    is_unknown = is_below and lacks_counts
    return PoolUsage(
        allocs=allocs % (1 << layout.count_bits),
        frees=frees % (1 << layout.count_bits),
        outstanding=None if is_unknown else max(0, outstanding),
        bytes=None if is_unknown or used < -_LARGEST_DRIFT_BYTES else max(0, used),
        clamped=is_below and not is_unknown,
    )


def _signed(value: int, bits: int) -> int:
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value
