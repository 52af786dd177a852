"""Where the pool tag tables of a kernel are: by symbols where they are known, else by inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import FrozenSet, List, Optional, Tuple

from pykdext.errors import MemoryReadError, SymbolNotFoundError, TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.inference import MAX_PROCESSORS, ROW_COUNTS, KernelData, is_row_count, is_table_pointer
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

_FIRST_BUILD_OF_VISTA = 6000


@dataclass(frozen=True)
class TableLocation:
    """Where the tables are.

    Attributes:
        tables: address of each processor's table, processor 0 first, no address twice.
        expected: how many tables there should be; None if neither the target nor the kernel says.
        row_count: rows of each table; None if it must be derived from the rows themselves.
        is_count_certain: a symbol gave it, not a search for such numbers.
        expansion: address of the expansion table: 0 if the kernel has none, None if it is not known.
        expansion_rows: its length, None if it is not known.
        located_by: the source of symbols that led to the processors' tables.
        warnings: what is uncertain, in words.
    """

    tables: Tuple[int, ...]
    expected: Optional[int]
    row_count: Optional[int]
    is_count_certain: bool
    expansion: Optional[int]
    expansion_rows: Optional[int]
    located_by: str
    warnings: Tuple[str, ...]


def locate_tag_tables(kernel: Kernel) -> TableLocation:
    """Find the tables.

    Raises:
        SymbolNotFoundError: nothing tells where ``PoolTrackTable`` is.
        TargetError: the variable is not in memory, or the kernel has no table (tagging is off).
    """
    if kernel.target.facts.no_tag_tables:
        raise TargetError(kernel.target.facts.no_tag_tables)
    variable = kernel.find_symbol("PoolTrackTable")
    if variable is None:
        raise SymbolNotFoundError("nt!PoolTrackTable", _symbol_hint(kernel))
    try:
        first_table = kernel.read_pointer(variable.address)
    except MemoryReadError:
        raise TargetError(
            f"nt!PoolTrackTable at 0x{variable.address:x}: found no such page, expected a pointer to the tag table. "
            "Hint: the dump leaves out the kernel's data; take a kernel dump (CrashDumpEnabled=2) instead"
        ) from None
    if first_table == 0:
        raise TargetError(
            f"nt!PoolTrackTable at 0x{variable.address:x}: found 0, expected a pointer to the tag table. "
            "Hint: pool tagging was off; on Windows XP and older switch it on with 'gflags /r +ptg' and reboot"
        )
    return _Locator(kernel, variable.address, variable.source, first_table).locate()


def _symbol_hint(kernel: Kernel) -> str:
    if kernel.pdb is None:
        return "the debugger data block and the kernel's debug directory are both unreadable in this target"
    return f"give the kernel's PDB with --symbols: {kernel.pdb.file_name} {kernel.pdb.key}"


class _Locator:
    """The steps of ``locate_tag_tables`` once processor 0's table is known."""

    def __init__(self, kernel: Kernel, variable: int, source: str, first_table: int) -> None:
        self._kernel = kernel
        self._variable = variable
        self._source = source
        self._first = first_table
        self._processors = kernel.target.facts.processors
        self._data: Optional[KernelData] = None
        self._warnings: List[str] = []

    def locate(self) -> TableLocation:
        tables, located_by = self._processor_tables()
        row_count = self._known_row_count()
        return TableLocation(
            tables=tuple(dict.fromkeys(tables)),
            expected=self._expected_tables(len(tables)),
            row_count=row_count or self._likely_row_count(),
            is_count_certain=row_count is not None,
            expansion=self._kernel.find_variable("PoolTrackTableExpansion"),
            expansion_rows=self._kernel.find_variable("PoolTrackTableExpansionSize"),
            located_by=located_by,
            warnings=tuple(self._warnings),
        )

    def _processor_tables(self) -> Tuple[Tuple[int, ...], str]:
        array = self._kernel.find_symbol("ExPoolTagTables")
        if array is not None:
            tables = self._read_table_pointers(array.address)
            if tables and tables[0] == self._first:
                return tables, array.source
            self._warnings.append(
                f"nt!ExPoolTagTables at 0x{array.address:x} ({array.source}) does not begin with processor 0's table: "
                "not used"
            )
        inferred = self._infer_tables()
        if inferred is not None:
            return inferred
        if self._processors != 1 and not self._is_single_table_kernel:
            self._warnings.append("the other processors' tag tables were not found: counts are processor 0's alone")
        return (self._first,), self._source

    def _infer_tables(self) -> Optional[Tuple[Tuple[int, ...], str]]:
        """What nt's data show, if nt's code does not contradict, and what located it; None if that is not certain.

        Where several arrays could be the tables, the one that nt's pool routines use is taken, and this is told.
        """
        runs = self._kernel_data().find_processor_arrays(self._first, self._processors)
        code = self._kernel.pool_code_variables if runs else frozenset()
        used = [run for run, places in runs.items() if places & code]
        if len(runs) == 1:
            (run,) = runs
            if used:
                return run, "inference+code"
            other = self._find_other_array(code)
            if other is None and not any(map(self._is_gone, code)):
                return run, "inference"
            if other is None:
                self._warnings.append(
                    "variables that nt's pool routines use are not in memory: the processors' tag tables seem to be "
                    f"listed at 0x{min(runs[run]):x}, which no code confirms: not used"
                )
                return None
            self._warnings.append(
                f"nt's data and nt's code do not agree: the processors' tag tables seem to be listed at "
                f"0x{min(runs[run]):x}, and the pool routines use the array at 0x{other:x}: neither is used"
            )
        elif len(used) == 1:
            self._warnings.append(
                f"{count_things(len(runs), 'array')} in nt's data could list the processors' tag tables: the one "
                f"that nt's pool routines use is taken (0x{min(runs[used[0]] & code):x})"
            )
            return used[0], "code"
        elif runs:
            self._warnings.append(
                f"{count_things(len(runs), 'array')} in nt's data could list the processors' tag tables: none is used"
            )
        return None

    def _is_gone(self, address: int) -> bool:
        """Whether a variable's page is not in memory, or nothing but zeros."""
        page = address - address % PAGE_BYTES
        return not any(any(data) for _, data in self._kernel.target.read_present(page, PAGE_BYTES))

    def _find_other_array(self, code: FrozenSet[int]) -> Optional[int]:
        """Another variable than nt!PoolTrackTable that pool routines use and that holds processor 0's table."""
        for address in sorted(code - {self._variable}):
            if self._kernel.read_word(address) == self._first:
                return address
        return None

    @property
    def _is_single_table_kernel(self) -> bool:
        """Windows XP and Server 2003 count all processors in one table."""
        build = self._kernel.target.facts.build
        return build is not None and build < _FIRST_BUILD_OF_VISTA

    def _expected_tables(self, found: int) -> Optional[int]:
        if self._is_single_table_kernel:
            return found
        return None if self._processors is None else max(self._processors, found)

    def _read_table_pointers(self, array: int) -> Tuple[int, ...]:
        """The array's pointers, empty slots left out, until the first one that is not a table's."""
        pointer_size = self._kernel.target.pointer_size
        tables: List[int] = []
        for slot in range(MAX_PROCESSORS):
            try:
                word = self._kernel.read_pointer(array + slot * pointer_size)
            except MemoryReadError:
                break
            if is_table_pointer(word, self._kernel.target.machine):
                tables.append(word)
            elif word != 0 or slot >= (self._processors or 1):
                break
        return tuple(tables)

    def _known_row_count(self) -> Optional[int]:
        count = self._kernel.find_variable("PoolTrackTableSize")
        if count is not None and is_row_count(count):
            return count
        if count is not None:
            self._warnings.append(f"nt!PoolTrackTableSize: found {count}, expected a power of two plus one: not used")
        return None

    def _likely_row_count(self) -> Optional[int]:
        """Of numbers like it near the variable the only one, or the only one that nt's pool routines use."""
        counts = self._kernel_data().find_row_counts()
        if len(counts) != 1:
            values = {self._kernel.read_word(address) for address in self._kernel.pool_code_variables}
            counts = tuple(count for count in ROW_COUNTS if count in values and count - 2 in values)
        return counts[0] if len(counts) == 1 else None

    def _kernel_data(self) -> KernelData:
        if self._data is None:
            self._data = KernelData(self._kernel.target, self._variable, self._kernel.nt)
        return self._data
