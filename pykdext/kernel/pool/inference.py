"""Finding the tag tables' variables without symbols, from the address of ``PoolTrackTable`` alone.

The linker keeps the pool's variables within a few pages of each other in all 213 x64 kernels of
JPCERTCC/Windows-Symbol-Tables (never more than 4088h bytes apart), but in ever-changing order. So the neighbourhood
is searched for values that only these variables have.
"""

from __future__ import annotations

import struct
from typing import Dict, List, Optional, Tuple

from pykdext.model import Machine
from pykdext.targets.protocol import PAGE_BYTES, Target

NEIGHBOURHOOD_BYTES = 0x5000
MIN_ROW_BITS, MAX_ROW_BITS = 6, 20
"""A table has 2^k + 1 rows; Windows accepts 64 and more in the registry's PoolTrackTableSize (default: 4096)."""
MAX_PROCESSORS = 2048
"""Slots of ExPoolTagTables in the newest kernels."""


class Neighbourhood:
    """The pointer-sized words around a variable, as far as they are in memory."""

    def __init__(self, target: Target, variable: int) -> None:
        size = target.pointer_size
        pattern = "<Q" if size == 8 else "<I"
        self._variable = variable
        self._machine = target.machine
        self._pointer_size = size
        self._words: Dict[int, int] = {}
        start = variable - NEIGHBOURHOOD_BYTES
        for address, data in target.read_present(start, 2 * NEIGHBOURHOOD_BYTES):
            skip = -address % size
            end = len(data) - (len(data) - skip) % size
            for index, (word,) in enumerate(struct.iter_unpack(pattern, data[skip:end])):
                self._words[address + skip + index * size] = word

    def find_processor_tables(self, first_table: int, processors: Optional[int]) -> Optional[Tuple[int, ...]]:
        """The pointers of ``ExPoolTagTables``, or None if they are not here or several runs could be them.

        They are a run that starts with processor 0's table and has one pointer for each processor.
        """
        wanted = processors or 1
        runs = set()
        for address, word in self._words.items():
            if word == first_table and address != self._variable:
                run = self._table_pointers(address)
                if len(run) >= wanted:
                    runs.add(run)
        return runs.pop() if len(runs) == 1 else None

    def _table_pointers(self, address: int) -> Tuple[int, ...]:
        run: List[int] = []
        while len(run) < MAX_PROCESSORS and is_table_pointer(self._words.get(address, 0), self._machine):
            run.append(self._words[address])
            address += self._pointer_size
        return tuple(run)

    def find_row_counts(self) -> Tuple[int, ...]:
        """Row counts 2^k + 1 that stand here together with their hash mask 2^k - 1, ascending."""
        values = set(self._words.values())
        counts = ((1 << bits) + 1 for bits in range(MIN_ROW_BITS, MAX_ROW_BITS + 1))
        return tuple(count for count in counts if count in values and count - 2 in values)


def is_table_pointer(word: int, machine: Machine) -> bool:
    """Tag tables lie on whole pages of system space."""
    return word >= machine.kernel_start and word % PAGE_BYTES == 0


def is_row_count(value: int) -> bool:
    """2^k + 1, within what Windows accepts."""
    power = value - 1
    return (1 << MIN_ROW_BITS) <= power <= (1 << MAX_ROW_BITS) and power & (power - 1) == 0
