"""Which variables nt's own pool routines use: its exported routines are followed into what they call.

``ExAllocatePoolWithTag`` and ``ExFreePoolWithTag`` lead to the routines that count a tag (ExpInsertPoolTracker and
ExpRemovePoolTracker in public symbols) and to those that list big allocations. In which order these stand, and how
deep, differs by build: all that is called is followed, a few levels down.
"""

from __future__ import annotations

from typing import FrozenSet, List, Optional, Set

from pykdext.attribution.calls.functions import CodeRoom, FollowedImage
from pykdext.attribution.flow.calls import CallSite
from pykdext.attribution.flow.standard import StandardAddresses
from pykdext.attribution.flow.thunks import read_thunk
from pykdext.attribution.flow.values import Constant
from pykdext.attribution.places.cache import IndexCache
from pykdext.images.exports import read_exports
from pykdext.images.image import Image

EXPORTED_ROUTINES = (
    "ExFreePoolWithTag",
    "ExFreePool",
    "ExAllocatePool2",
    "ExAllocatePoolWithTag",
    "ExAllocatePoolWithQuotaTag",
    "ExAllocatePool",
)
MAX_LEVELS = 6
"""Calls between an exported routine and the one that counts."""

MAX_FUNCTIONS = 96
"""Functions followed; the counting stands near the exported routines."""

_MAX_JUMPS = 4


def find_pool_variables(nt: Image, cache: Optional[IndexCache] = None) -> FrozenSet[int]:
    """The addresses in nt's writable data that its pool routines read or write, of arrays where they begin.

    Empty where its code is not in memory. What was followed is kept in the ``cache``. Bounded and never fails.
    """
    followed = FollowedImage(nt, CodeRoom(), StandardAddresses([nt.module]), cache)
    exports = read_exports(nt).rvas
    waiting = [exports[name] for name in EXPORTED_ROUTINES if name in exports]
    seen: Set[int] = set()
    variables: Set[int] = set()
    for _ in range(MAX_LEVELS + 1):
        called: List[int] = []
        for entry in (_skip_jumps(followed, entry) for entry in waiting):
            if entry in seen or len(seen) >= MAX_FUNCTIONS:
                continue
            seen.add(entry)
            flow = followed.find_flow_from(entry)
            if flow is not None:
                variables |= flow.variables
                called += [rva for site in flow.calls for rva in _find_targets(nt, site)]
        waiting = called
    written = [(part.rva, part.rva + part.size) for part in nt.sections if part.writable and part.known]
    base = nt.module.base
    return frozenset(base + rva for rva in variables if any(start <= rva < stop for start, stop in written))


def _skip_jumps(followed: FollowedImage, entry: int) -> int:
    """Where a call of ``entry`` ends up: x64's function tables tell nothing of a lone jump."""
    for _ in range(_MAX_JUMPS):
        thunk = read_thunk(followed.image, entry)
        if not isinstance(thunk, Constant):
            break
        entry = thunk.number - followed.image.module.base
    return entry


def _find_targets(nt: Image, site: CallSite) -> List[int]:
    """Where in nt a call goes, as far as it is known."""
    targets = (atom.number - nt.module.base for atom in site.target if isinstance(atom, Constant))
    return [rva for rva in targets if 0 <= rva < nt.size]
