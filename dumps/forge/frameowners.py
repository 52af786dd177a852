"""Whose private pages are: page tables of processes in the page frame database, from the top table down.

Each process has a top table, one of each level below, and two of the last level. A record of
_MMPFN tells the frame of the table above its own frame (u4.PteFrame), and that of the top table tells itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Dict, List, Tuple

from dumps.forge.entryformats import EntryFormat
from dumps.forge.physical import PAGE_BYTES

_FIRST_FRAME = 0x40
_MOST_PROCESSES = 48
_HEAP = 0x1234_5600_0000


@dataclass
class FrameOwners:
    """The processes that have page tables of their own, by PID: the number of each in the order of their making."""

    entries: EntryFormat
    numbers: Dict[int, int] = field(default_factory=dict)

    @property
    def table_pages(self) -> int:
        """How many page tables each process has."""
        return len(self.entries.shifts) + 1

    def claim_root(self, pid: int) -> int:
        """Return the address of a new process's top page table; 0 where no more of them are to be told apart."""
        if len(self.numbers) >= _MOST_PROCESSES:
            return 0
        number = self.numbers[pid] = len(self.numbers)
        return (_FIRST_FRAME + self.table_pages * number) * PAGE_BYTES

    def choose_parent(self, chance: random.Random) -> Tuple[int, int]:
        """Return a process, the first ones more often than the last, and the frame of a last table of it."""
        pids = list(self.numbers)
        pid = pids[min(chance.randrange(len(pids)), chance.randrange(len(pids)))]
        last = self.table_pages - 2
        return pid, _FIRST_FRAME + self.table_pages * self.numbers[pid] + last + chance.randrange(2)

    def list_tables(self) -> Dict[int, Tuple[int, int]]:
        """Return PteAddress and PteFrame by the frames of all page tables."""
        found: Dict[int, Tuple[int, int]] = {}
        for number in self.numbers.values():
            root = _FIRST_FRAME + self.table_pages * number
            places: List[int] = []
            entry = self.entries.pte_va(_HEAP)
            for _ in self.entries.shifts:
                entry = self.entries.pte_va(entry & -PAGE_BYTES)
                places.append(entry)
            found[root] = places[-1], root
            for level, place in enumerate(reversed(places[:-1]), start=1):
                found[root + level] = place, root + level - 1
            last = root + len(places) - 1
            found[last + 1] = places[0] + 8, last - 1
        return found
