"""Functions that a driver looks up by name when it starts, and calls through a variable of its own.

In a file the variable is empty: the name is what the code says that fills it. Other code may fill it with another one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterator, Mapping, NamedTuple, Optional, Set

from pykdext.attribution.calls.allocators import find_allocator
from pykdext.attribution.calls.callees import Callee, Fetched
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.nametables import iter_filled
from pykdext.attribution.calls.references import find_references, find_writers
from pykdext.attribution.flow.calls import FunctionFlow
from pykdext.attribution.flow.values import Atom, Constant, Returned

MAX_FUNCTIONS = 16
"""Functions of one image that look something up and are followed; drivers do it in one or two."""


class _Kept(NamedTuple):
    """What one function looks up: names by variables that then hold the function, and by calls that return it.

    ``mixed``: the variables into which it may put something else, too.
    """

    variables: Mapping[int, Set[Optional[str]]]
    calls: Mapping[int, Optional[str]]
    mixed: Set[int]


def find_fetched(followed: FollowedImage) -> Fetched:
    """The functions that take a pool tag and are looked up by name. Never fails."""
    variables: Dict[int, Set[Optional[str]]] = {}
    calls: Dict[int, Optional[str]] = {}
    fillers: Dict[int, Set[int]] = {}
    mixed: Set[int] = set()
    for flow in _iter_flows(followed):
        kept = _read_kept(followed, flow)
        calls.update(kept.calls)
        mixed |= kept.mixed
        for rva, names in kept.variables.items():
            variables.setdefault(rva, set()).update(names)
            fillers.setdefault(rva, set()).add(flow.start_rva)
    for rva, name in iter_filled(followed.image, followed.look_ups.name_pointers):
        variables[rva] = {*variables.get(rva, ()), name} - {None}  # which of its names a loop asks for no flow tells
        fillers.setdefault(rva, set())
    named = _name_callees({rva: names.pop() for rva, names in variables.items() if len(names) == 1})
    doubtful = {rva for rva in named if rva in mixed or _may_hold_other(followed, rva, fillers[rva])}
    return Fetched(
        {rva: replace(callee, doubtful_rva=rva if rva in doubtful else None) for rva, callee in named.items()},
        _name_callees(calls),
    )


def _name_callees(names: Mapping[int, Optional[str]]) -> Mapping[int, Callee]:
    known = ((rva, name) for rva, name in names.items() if name is not None and find_allocator(name))
    return {rva: Callee(name, is_looked_up=True) for rva, name in known}


def _may_hold_other(followed: FollowedImage, rva: int, fillers: Set[int]) -> bool:
    """Whether the variable has a value at first, or other functions than ``fillers`` write to it."""
    image = followed.image
    at_first = image.read(rva, image.machine.pointer_size) if image.is_file else None
    if at_first is not None and any(at_first):
        return True
    around = (followed.find_bounds(writer) for writer in find_writers(image, rva))
    return any(bounds is None or bounds.start_rva not in fillers for bounds in around)


def _read_kept(followed: FollowedImage, flow: FunctionFlow) -> _Kept:
    look_ups = followed.look_ups
    before = (0, *(site.rva for site in flow.calls))
    names = {site.rva: look_ups.read_name(site, rva) for rva, site in zip(before, flow.calls)}
    variables: Dict[int, Set[Optional[str]]] = {}
    mixed: Set[int] = set()
    for rva, value in flow.kept.items():
        for atom in value:
            if isinstance(atom, Returned):
                variables.setdefault(rva, set()).add(names.get(atom.call_rva))
            elif not _is_nothing(atom):
                mixed.add(rva)
    returned = {atom.call_rva for value in flow.kept.values() for atom in value if isinstance(atom, Returned)}
    for rva, site in zip(before, flow.calls):
        name = names[site.rva]
        filled = look_ups.find_filled(site, rva) if name is not None and site.rva not in returned else None
        if filled is not None:
            variables.setdefault(filled, set()).add(name)
    return _Kept(variables, names, mixed)


def _is_nothing(atom: Atom) -> bool:
    return isinstance(atom, Constant) and not atom.number


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
