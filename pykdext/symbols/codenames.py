"""The names of an image's code, found by the places in it."""

from __future__ import annotations

import bisect
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple


class CodeName(NamedTuple):
    """What begins at an RVA, and where its code ends; None: not known."""

    rva: int
    name: str
    end_rva: Optional[int] = None


class CodeNames:
    """Names by any RVA of their code. Of several names for one place the first that was given counts."""

    def __init__(self, names: Iterable[CodeName]) -> None:
        by_rva: Dict[int, CodeName] = {}
        for name in names:
            by_rva.setdefault(name.rva, name)
        self._names: List[CodeName] = sorted(by_rva.values())
        self._rvas = [name.rva for name in self._names]

    def find(self, rva: int) -> Optional[Tuple[str, int]]:
        """The nearest name at or before ``rva`` and the bytes from there; None where its code has ended before."""
        index = bisect.bisect_right(self._rvas, rva) - 1
        if index < 0:
            return None
        nearest = self._names[index]
        if nearest.end_rva is not None and rva >= nearest.end_rva:
            return None
        return nearest.name, rva - nearest.rva
