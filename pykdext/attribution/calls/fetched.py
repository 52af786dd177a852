"""Functions that a driver looks up by name when it starts, and calls through a variable of its own.

In a file the variable is empty: the name is what the code says that fills it.
"""

from __future__ import annotations

from typing import Dict, Iterator, Mapping, Optional, Set, Tuple

from pykdext.attribution.calls.allocators import find_allocator
from pykdext.attribution.calls.callees import Callee
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.references import find_references
from pykdext.attribution.flow.values import Returned, Value

MAX_FUNCTIONS = 16
"""Functions of one image that look something up and are followed; drivers do it in one or two."""


def find_fetched(followed: FollowedImage) -> Mapping[int, Callee]:
    """The variables, by RVA, that hold functions which take a pool tag and are looked up by name. Never fails."""
    found: Dict[int, Set[Optional[str]]] = {}
    for rva, value, names in _iter_kept(followed):
        for atom in value:
            if isinstance(atom, Returned):
                found.setdefault(rva, set()).add(names.get(atom.call_rva))
    single = {rva: names.pop() for rva, names in found.items() if len(names) == 1}
    return {rva: Callee(name, "nt") for rva, name in single.items() if name is not None and find_allocator(name)}


def _iter_kept(followed: FollowedImage) -> Iterator[Tuple[int, Value, Mapping[int, Optional[str]]]]:
    """Each variable in which a function keeps something that it looked up, with the names by the calls' RVAs."""
    calls = followed.look_ups
    places = sorted(rva for rvas in find_references(followed.image, calls.slots).values() for rva in rvas)
    seen: Set[int] = set()
    for rva in places:
        bounds = followed.find_bounds(rva)
        if bounds is None or bounds.start_rva in seen or len(seen) >= MAX_FUNCTIONS:
            continue
        seen.add(bounds.start_rva)
        flow = followed.find_flow(rva)
        if flow is not None and flow.kept:
            names = {site.rva: calls.read_name(site) for site in flow.calls}
            for variable, value in flow.kept.items():
                yield variable, value, names
