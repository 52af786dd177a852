"""Finding the tag tables' variables without symbols, from the address of ``PoolTrackTable`` alone.

The linker keeps the pool's variables within a few pages of each other in all 213 x64 kernels of
JPCERTCC/Windows-Symbol-Tables (never more than 4088h bytes apart), but in ever-changing order, and kernels that nobody
has seen may keep them anywhere. So all data of nt that can be written is searched for values that only these variables
have; and what the pointers lead to must look like tables of the same tags.
"""

from __future__ import annotations

import struct
from typing import Dict, Iterator, List, Optional, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.images.image import Image
from pykdext.model import Machine
from pykdext.targets.protocol import PAGE_BYTES, Target

NEIGHBOURHOOD_BYTES = 0x5000
MIN_ROW_BITS, MAX_ROW_BITS = 6, 20
"""A table has 2^k + 1 rows; Windows accepts 64 and more in the registry's PoolTrackTableSize (default: 4096)."""
ROW_COUNTS = tuple((1 << bits) + 1 for bits in range(MIN_ROW_BITS, MAX_ROW_BITS + 1))
MAX_PROCESSORS = 2048
"""Slots of ExPoolTagTables in the newest kernels."""


_HEAD_BYTES = 4 * PAGE_BYTES
_FEWEST_COMMON_TAGS = 8
"""Two tables of one kernel have more tags than these in the same places of their first pages."""

MAX_DATA_BYTES = 64 << 20
"""Of nt's data that is searched; real kernels have a few megabytes."""

MAX_ARRAYS = 256
"""Of different arrays that begin with one table; where data hold more, nothing tells which is the right one."""

MAX_TABLES_COMPARED = 1 << 14


class KernelData:
    """The kernel's variables, as far as they are in memory: those around one of them, and all others."""

    def __init__(self, target: Target, variable: int, nt: Optional[Image]) -> None:
        self._target = target
        self._machine = target.machine
        self._pointer_size = target.pointer_size
        self._variable = variable
        self._nt = nt
        start = variable - NEIGHBOURHOOD_BYTES
        self._near = list(target.read_present(start, 2 * NEIGHBOURHOOD_BYTES))
        self._likeness: Dict[Tuple[int, int], Optional[bool]] = {}

    def find_processor_arrays(self, first_table: int, processors: Optional[int]) -> Dict[Tuple[int, ...], Set[int]]:
        """The runs of pointers that could be ``ExPoolTagTables``, and where each of them stands.

        A run starts with processor 0's table and has one pointer for each processor, each to a table with the same
        tags. One that is the beginning of another is left out: it stands for the same tables.
        """
        wanted = processors or 1
        runs: Dict[Tuple[int, ...], Set[int]] = {}
        for address, data in self._iter_data():
            for at in self._find_pointers(address, data, first_table):
                run = self._confirm(self._table_pointers(data, at), wanted)
                if len(run) >= wanted and (run in runs or len(runs) < MAX_ARRAYS):
                    runs.setdefault(run, set()).add(address + at)
        longest = [run for run in runs if not any(run != other and other[: len(run)] == run for other in runs)]
        return {run: set().union(*(runs[part] for part in runs if run[: len(part)] == part)) for run in longest}

    def _iter_data(self) -> Iterator[Tuple[int, bytes]]:
        """The sections of nt that can be written; what is near the variable where they are not known."""
        if self._nt is None or not any(section.writable and section.known for section in self._nt.sections):
            return iter(self._near)
        return iter_written(self._nt)

    def _find_pointers(self, address: int, data: bytes, pointer: int) -> Iterator[int]:
        """Where in ``data`` the pointer stands, the variable of processor 0's table itself left out."""
        pattern = pointer.to_bytes(self._pointer_size, "little")
        at = data.find(pattern)
        while at >= 0:
            if (address + at) % self._pointer_size == 0 and address + at != self._variable:
                yield at
            at = data.find(pattern, at + 1)

    def _table_pointers(self, data: bytes, at: int) -> List[int]:
        """The pointers from a place on, each once: no two processors have one table."""
        run: Dict[int, None] = {}
        size = self._pointer_size
        while len(run) < MAX_PROCESSORS:
            word = int.from_bytes(data[at : at + size], "little")
            if len(data) - at < size or not is_table_pointer(word, self._machine) or word in run:
                break
            run[word] = None
            at += size
        return list(run)

    def _confirm(self, run: List[int], wanted: int) -> Tuple[int, ...]:
        """The run up to the first pointer that leads to no table, or beyond the processors to what none confirms."""
        if not run:  # the pointer that was looked for is none to a table: it is damaged
            return ()
        confirmed = [run[0]]
        for number, table in enumerate(run[1:], 1):
            likeness = self._compare(run[0], table)
            if likeness is False or (likeness is None and number >= wanted):
                break
            confirmed.append(table)
        return tuple(confirmed)

    def _compare(self, first: int, table: int) -> Optional[bool]:
        """Whether two tables are alike; each pair is read once, and of very many nothing is known of the last."""
        pair = (first, table)
        if pair not in self._likeness and len(self._likeness) < MAX_TABLES_COMPARED:
            self._likeness[pair] = _compare_tables(self._read_head(first), self._read_head(table))
        return self._likeness.get(pair)

    def _read_head(self, table: int) -> bytes:
        try:
            return self._target.read_virtual(table, _HEAD_BYTES)
        except MemoryReadError:
            return next((data for at, data in self._target.read_present(table, _HEAD_BYTES) if at == table), b"")

    def find_row_counts(self) -> Tuple[int, ...]:
        """Row counts 2^k + 1 that stand near the variable together with their hash mask 2^k - 1, ascending."""
        code = "<Q" if self._pointer_size == 8 else "<I"
        values: Set[int] = set()
        for address, data in self._near:
            skip = -address % self._pointer_size
            end = len(data) - (len(data) - skip) % self._pointer_size
            values.update(word for (word,) in struct.iter_unpack(code, data[skip:end]))
        return tuple(count for count in ROW_COUNTS if count in values and count - 2 in values)


def iter_written(nt: Image) -> Iterator[Tuple[int, bytes]]:
    """What is in memory of nt's sections that can be written, by address."""
    room = MAX_DATA_BYTES
    for section in nt.sections:
        if section.writable and section.known and room > 0:
            for rva, data in nt.iter_range(section.rva, min(section.size, room)):
                yield nt.module.base + rva, data
            room -= section.size


def iter_variables(target: Target, nt: Optional[Image]) -> Iterator[Tuple[int, int]]:
    """Address and value of every pointer-sized word in nt's data that can be written."""
    size = target.pointer_size
    code = "<Q" if size == 8 else "<I"
    for address, data in iter_written(nt) if nt is not None else ():
        skip = -address % size
        end = len(data) - (len(data) - skip) % size
        for number, (word,) in enumerate(struct.iter_unpack(code, data[skip:end])):
            if word:
                yield address + skip + number * size, word


def _compare_tables(one: bytes, other: bytes) -> Optional[bool]:
    """Whether two tables have tags in the same places; None where one of them is not there, or holds nothing."""
    size = min(len(one), len(other)) & ~3
    if not any(one[:size]) or not any(other[:size]):
        return None
    tags = set(_iter_tags(one[:size]))
    common = sum(1 for tag in set(_iter_tags(other[:size])) if tag in tags)
    return common >= min(_FEWEST_COMMON_TAGS, len({word for _, word in tags}))


def _iter_tags(data: bytes) -> Iterator[Tuple[int, int]]:
    """Place and value of every word of four printable characters."""
    for place, (word,) in enumerate(struct.iter_unpack("<I", data)):
        if word and all(0x20 <= byte < 0x7F for byte in (word & 0x7FFFFFFF).to_bytes(4, "little")):
            yield place, word


def is_table_pointer(word: int, machine: Machine) -> bool:
    """Tag tables lie on whole pages of system space."""
    return word >= machine.kernel_start and word % PAGE_BYTES == 0


def is_row_count(value: int) -> bool:
    """2^k + 1, within what Windows accepts."""
    power = value - 1
    return (1 << MIN_ROW_BITS) <= power <= (1 << MAX_ROW_BITS) and power & (power - 1) == 0
