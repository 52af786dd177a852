"""Whose private pages are: page tables of processes in the page frame database, from the top table down.

Each process has five of them: the top table, one of each level below, and two of the last level. A record of
_MMPFN tells the frame of the table above its own frame (u4.PteFrame), and that of the top table tells itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Dict, List, Tuple

from dumps.forge.entryformats import X64
from dumps.forge.physical import PAGE_BYTES

_FIRST_FRAME = 0x40
_TABLES = 5
_MOST_PROCESSES = 48
_HEAP = 0x1234_5600_0000


@dataclass
class FrameOwners:
    """The processes that have page tables of their own, by PID: the number of each in the order of their making."""

    numbers: Dict[int, int] = field(default_factory=dict)
    table_pages: int = _TABLES

    def claim_root(self, pid: int) -> int:
        """Return the address of a new process's top page table; 0 where no more of them are to be told apart."""
        if len(self.numbers) >= _MOST_PROCESSES:
            return 0
        number = self.numbers[pid] = len(self.numbers)
        return (_FIRST_FRAME + _TABLES * number) * PAGE_BYTES

    def choose_parent(self, chance: random.Random) -> Tuple[int, int]:
        """Return a process, the first ones more often than the last, and the frame of a last table of it."""
        pids = list(self.numbers)
        pid = pids[min(chance.randrange(len(pids)), chance.randrange(len(pids)))]
        return pid, _FIRST_FRAME + _TABLES * self.numbers[pid] + 3 + chance.randrange(2)

    def list_tables(self) -> Dict[int, Tuple[int, int]]:
        """Return PteAddress and PteFrame by the frames of all page tables."""
        found = {}
        for number in self.numbers.values():
            root = _FIRST_FRAME + _TABLES * number
            places: List[int] = []
            entry = X64.pte_base + (_HEAP >> 12) * 8
            for _ in range(4):
                page = entry & -PAGE_BYTES
                entry = X64.pte_base + ((page & 0xFFFFFFFFFFFF) >> 12) * 8
                places.append(entry)
            last, middle, upper, top = places
            found[root] = top, root
            found[root + 1] = upper, root
            found[root + 2] = middle, root + 1
            found[root + 3] = last, root + 2
            found[root + 4] = last + 8, root + 2
        return found
