"""Proof that a driver uses a tag: the code that hands it to an allocator.

The index says where a tag stands in an image. Only the functions at these places are decoded and followed to their
calls. A call of a known allocator with the tag as its tag argument is proof, and so is the call of one of the driver's
own functions, or of another driver's, that hands this argument on as the tag (a wrapper), through at most
``MAX_WRAPPERS`` of them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Callable, Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from pykdext.attribution.calls.allocators import Allocator, argument_locations, find_allocator, takes_no_tag
from pykdext.attribution.calls.callees import Callee, CalleeResolver
from pykdext.attribution.calls.codereader import TAG_MASK
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.flow.calls import CallSite, FunctionFlow
from pykdext.attribution.flow.values import (
    Atom,
    Constant,
    ImageRead,
    Location,
    Parameter,
    StackAddress,
    Value,
    join,
    numbers,
)
from pykdext.attribution.places.tagencodings import TAG_BYTES
from pykdext.images.functiontable import FunctionBounds
from pykdext.images.image import Image
from pykdext.model import PoolTag

MAX_WRAPPERS = 3
"""Functions of the driver between the tag and the allocator."""

ENOUGH_CALLS = 4
"""Calls that prove a tag's use: more than so many tell a reader nothing new."""


class Wrapper(NamedTuple):
    """A function between the tag and the allocator: its module's file name and its entry there."""

    module: str
    rva: int


@dataclass(frozen=True)
class TagUse:
    """A call that gets the tag.

    Attributes:
        call_rva: of the call. source: what brings the tag in, a constant or a variable of the image.
        allocator: what it reaches as a tag; None: no allocator. callee: what is called, as far as it is known.
        wrappers: the functions on the way, the outermost first. origin_text: the instruction that
        brings in a constant, with the tag in quotes. is_dead_end: the callee was followed, and
        hands the tag to no call.
    """

    call_rva: int
    source: Atom
    callee: Optional[Callee]
    allocator: Optional[Allocator] = None
    wrappers: Tuple[Wrapper, ...] = ()
    origin_text: str = ""
    is_dead_end: bool = False

    @property
    def is_proof(self) -> bool:
        """Whether the call shows that blocks with this tag are the image's."""
        return self.allocator is not None and self.allocator.action.is_proof

    @property
    def origin_rva(self) -> Optional[int]:
        """Where the tag comes from: the instruction of a constant, or the place of a variable."""
        if isinstance(self.source, Constant):
            return self.source.origin_rva
        return self.source.rva if isinstance(self.source, ImageRead) else None


class Sight(enum.Enum):
    """What is known of the code at a place."""

    NOT_FOLLOWED = "its function was not followed, or not to the end"
    NO_CODE = "no path through a function leads there"
    FOLLOWED = "its function was followed, and the instruction there"


@dataclass(frozen=True)
class TagUses:
    """The calls that get a tag, by ascending RVA; ``sights``: of the places that were followed, or have no code."""

    calls: Tuple[TagUse, ...]
    sights: Mapping[int, Sight]

    def sight(self, rva: int) -> Sight:
        """What is known of the code at a place."""
        return self.sights.get(rva, Sight.NOT_FOLLOWED)


class CallSites:
    """The calls of one image that get a tag. ``open_others``: those of the images whose functions it calls."""

    def __init__(
        self,
        followed: FollowedImage,
        resolver: CalleeResolver,
        open_others: Optional[Callable[[Image], CallSites]] = None,
    ) -> None:
        self._open_others = open_others
        self._followed = followed
        self._image = followed.image
        self._resolver = resolver
        self._machine = followed.image.machine
        self._handed_on: Dict[Tuple[int, Location, int], Optional[_HandedOn]] = {}

    def find_uses(
        self, tag: PoolTag, rvas: Sequence[int], variables: Sequence[int], enough: int = ENOUGH_CALLS
    ) -> TagUses:
        """The calls that get ``tag`` in the functions around ``rvas``, small functions first.

        ``variables`` are the RVAs where the tag stands in data: what is read from there is the tag. When ``enough``
        calls prove that the tag is used, no further function is followed.
        """
        sought = _SoughtTag(tag, frozenset(variables))
        calls: Dict[Tuple[int, Atom], TagUse] = {}
        groups = self._group_by_function(rvas)
        known = {rva for places in groups for rva in places}
        sights = {rva: Sight.NO_CODE for rva in rvas if rva not in known}
        for places in groups:
            flow = self._followed.find_flow(places[0])
            if flow is None:
                continue
            if flow.lost is None:
                sights.update((rva, Sight.FOLLOWED if flow.reaches(rva) else Sight.NO_CODE) for rva in places)
            for site in flow.calls:
                for use in self._iter_uses(site, sought):
                    text = flow.instruction_text.get(use.origin_rva or 0, "")
                    calls[use.call_rva, use.source] = replace(use, origin_text=sought.name_in(text, use.source))
            if len({use.call_rva for use in calls.values() if use.is_proof}) >= enough:
                break
        ordered = sorted(calls.values(), key=lambda use: (use.call_rva, use.origin_rva or 0))
        return TagUses(tuple(ordered), sights)

    def _group_by_function(self, rvas: Sequence[int]) -> List[List[int]]:
        """The places that lie in functions, by function, which cost more to follow the larger they are."""
        groups: Dict[FunctionBounds, List[int]] = {}
        for rva in rvas:
            bounds = self._followed.find_bounds(rva)
            if bounds is not None:
                groups.setdefault(bounds, []).append(rva)
        return [groups[bounds] for bounds in sorted(groups, key=lambda bounds: (bounds.size_bytes, bounds.start_rva))]

    def _iter_uses(self, site: CallSite, sought: _SoughtTag) -> Iterator[TagUse]:
        callee = self._resolver.resolve(self._image, site)
        allocator = self._find_allocator(site, callee)
        if allocator is not None:
            for source in sought.find_sources(self._read_tag_argument(site, allocator)):
                yield TagUse(site.rva, source, callee, allocator)
            return
        for location in argument_locations(self._machine):
            for source in sought.find_sources(site.frame.argument(location, TAG_BYTES)):
                handed_on = self._follow_into(callee, location, MAX_WRAPPERS)
                if handed_on is None:
                    yield TagUse(site.rva, source, callee, is_dead_end=self._is_dead_end(callee, location))
                else:
                    yield TagUse(site.rva, source, callee, handed_on.allocator, handed_on.wrappers)

    def _find_allocator(self, site: CallSite, callee: Optional[Callee]) -> Optional[Allocator]:
        """The allocator that is called, if this call can be one that takes a tag."""
        allocator = find_allocator(callee.name) if callee is not None and callee.name else None
        if allocator is None or allocator.condition is None:
            return allocator
        location = argument_locations(self._machine)[allocator.condition.argument - 1]
        possible = numbers(site.frame.argument(location, TAG_BYTES))
        return allocator if possible is None or allocator.condition.number in possible else None

    def _read_tag_argument(self, site: CallSite, allocator: Allocator) -> Value:
        """What a call of ``allocator`` can have as its tag, which may be in a structure on the stack or in data."""
        offset = allocator.tag_structure_offset(self._machine)
        if offset is None:
            return site.frame.argument(allocator.tag_location(self._machine), TAG_BYTES)
        found: List[Value] = []
        for atom in site.frame.argument(allocator.tag_location(self._machine), self._machine.pointer_size):
            if isinstance(atom, StackAddress):
                found.append(site.frame.stack(atom.offset + offset, TAG_BYTES))
            elif isinstance(atom, Constant):
                found.append(frozenset({ImageRead(atom.number - self._image.module.base + offset, TAG_BYTES)}))
        return join(*found)

    def _follow_into(self, callee: Optional[Callee], location: Location, depth: int) -> Optional[_HandedOn]:
        """Where a function of the image, or one that another driver exports, hands on what it gets at ``location``."""
        if callee is None or depth < 1:
            return None
        if callee.rva is not None:
            return self._follow_parameter(callee.rva, location, depth)
        is_known = callee.name is None or find_allocator(callee.name) or takes_no_tag(callee.name)
        exported = None if is_known or self._open_others is None else self._resolver.find_export(callee)
        if exported is None or self._open_others is None:
            return None
        image, rva = exported
        return self._open_others(image)._follow_parameter(rva, location, depth)

    def _follow_parameter(self, start_rva: int, location: Location, depth: int) -> Optional[_HandedOn]:
        """Where the function at ``start_rva`` hands on what it gets at ``location`` as a tag."""
        key = (start_rva, location, depth)
        if key not in self._handed_on:
            self._handed_on[key] = None  # a function that calls itself ends here
            self._handed_on[key] = self._search_parameter(start_rva, location, depth)
        return self._handed_on[key]

    def _search_parameter(self, start_rva: int, location: Location, depth: int) -> Optional[_HandedOn]:
        """The best of all ways: a wrapper may free before it allocates."""
        flow = self._find_entered(start_rva)
        parameter = Parameter(location)
        wrapper = Wrapper(self._image.module.name, start_rva)
        found: List[_HandedOn] = []
        for site in flow.calls if flow is not None else ():
            callee = self._resolver.resolve(self._image, site)
            allocator = self._find_allocator(site, callee)
            if allocator is not None:
                if parameter in self._read_tag_argument(site, allocator):
                    found.append(_HandedOn(allocator, (wrapper,)))
            elif depth > 1 and callee is not None:
                for argument in argument_locations(self._machine):
                    if parameter in site.frame.argument(argument, TAG_BYTES):
                        further = self._follow_into(callee, argument, depth - 1)
                        if further is not None:
                            found.append(_HandedOn(further.allocator, (wrapper, *further.wrappers)))
            if found and found[-1].allocator.action.is_proof:
                return found[-1]
        return found[0] if found else None

    def _is_dead_end(self, callee: Optional[Callee], location: Location) -> bool:
        """Whether the callee is a function of the image that was followed and hands ``location`` to no call."""
        flow = self._find_entered(callee.rva) if callee is not None and callee.rva is not None else None
        if flow is None or flow.lost is not None:
            return False
        parameter = Parameter(location)
        arguments = argument_locations(self._machine)
        return not any(
            parameter in site.frame.argument(argument, TAG_BYTES) for site in flow.calls for argument in arguments
        )

    def _find_entered(self, start_rva: int) -> Optional[FunctionFlow]:
        """The flow of the function that begins at ``start_rva``."""
        flow = self._followed.find_flow(start_rva)
        return flow if flow is not None and flow.start_rva == start_rva else None


@dataclass(frozen=True)
class _HandedOn:
    """What a parameter becomes the tag of, and the functions on the way, the outermost first."""

    allocator: Allocator
    wrappers: Tuple[Wrapper, ...]


@dataclass(frozen=True)
class _SoughtTag:
    """The tag in all forms that an argument can have."""

    tag: PoolTag
    variables: FrozenSet[int]

    def find_sources(self, value: Value) -> Iterator[Atom]:
        """The possibilities of ``value`` that are the tag."""
        for atom in value:
            is_number = isinstance(atom, Constant) and atom.number & TAG_MASK == self._number
            is_read = isinstance(atom, ImageRead) and atom.rva in self.variables and atom.size >= TAG_BYTES
            if is_number or is_read:
                yield atom

    def name_in(self, text: str, source: Atom) -> str:
        """``text`` of an instruction with the tag instead of its number."""
        return text.replace(f"0x{source.number:x}", repr(self.tag.text)) if isinstance(source, Constant) else text

    @property
    def _number(self) -> int:
        return self.tag.key & TAG_MASK
