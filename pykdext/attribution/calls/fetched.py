"""Functions that a driver looks up by name when it starts, and calls through a variable of its own.

In a file the variable is empty: the name is what the code says that fills it.
"""

from __future__ import annotations

from typing import Dict, Iterator, Mapping, NamedTuple, Optional, Set

from pykdext.attribution.calls.allocators import find_allocator
from pykdext.attribution.calls.callees import Callee, Fetched
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.references import find_references
from pykdext.attribution.flow.calls import FunctionFlow
from pykdext.attribution.flow.values import Returned

MAX_FUNCTIONS = 16
"""Functions of one image that look something up and are followed; drivers do it in one or two."""


class _Kept(NamedTuple):
    """What one function looks up: names by variables that then hold the function, and by calls that return it."""

    variables: Mapping[int, Set[Optional[str]]]
    calls: Mapping[int, Optional[str]]


def find_fetched(followed: FollowedImage) -> Fetched:
    """The functions that take a pool tag and are looked up by name. Never fails."""
    variables: Dict[int, Set[Optional[str]]] = {}
    calls: Dict[int, Optional[str]] = {}
    for flow in _iter_flows(followed):
        kept = _read_kept(followed, flow)
        calls.update(kept.calls)
        for rva, names in kept.variables.items():
            variables.setdefault(rva, set()).update(names)
    return Fetched(
        _name_callees({rva: names.pop() for rva, names in variables.items() if len(names) == 1}), _name_callees(calls)
    )


def _name_callees(names: Mapping[int, Optional[str]]) -> Mapping[int, Callee]:
    known = ((rva, name) for rva, name in names.items() if name is not None and find_allocator(name))
    return {rva: Callee(name, is_looked_up=True) for rva, name in known}


def _read_kept(followed: FollowedImage, flow: FunctionFlow) -> _Kept:
    look_ups = followed.look_ups
    before = (0, *(site.rva for site in flow.calls))
    names = {site.rva: look_ups.read_name(site, rva) for rva, site in zip(before, flow.calls)}
    variables: Dict[int, Set[Optional[str]]] = {}
    for rva, value in flow.kept.items():
        for atom in value:
            if isinstance(atom, Returned):
                variables.setdefault(rva, set()).add(names.get(atom.call_rva))
    returned = {atom.call_rva for value in flow.kept.values() for atom in value if isinstance(atom, Returned)}
    for rva, site in zip(before, flow.calls):
        name = names[site.rva]
        filled = look_ups.find_filled(site, rva) if name is not None and site.rva not in returned else None
        if filled is not None:
            variables.setdefault(filled, set()).add(name)
    return _Kept(variables, names)


def _iter_flows(followed: FollowedImage) -> Iterator[FunctionFlow]:
    """The functions that refer to what looks functions up, or to names of such."""
    places = sorted(rva for rvas in find_references(followed.image, followed.look_ups.places).values() for rva in rvas)
    seen: Set[int] = set()
    for rva in places:
        bounds = followed.find_bounds(rva)
        if bounds is None or bounds.start_rva in seen or len(seen) >= MAX_FUNCTIONS:
            continue
        seen.add(bounds.start_rva)
        flow = followed.find_flow(rva)
        if flow is not None:
            yield flow
