"""Where a function hands on what it was called with: wrappers of allocators.

A tag is followed as a parameter, and as a member of a structure to which a parameter points: the caller builds the
structure on its stack, the callee reads the tag from it. A structure may go to a function that is chosen at run time,
by the type of an object. Then those functions of the image count whose addresses are kept somewhere and that hand the
member at the same place of the same argument to an allocator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from pykdext.attribution.calls.allocatorcalls import find_allocator_calls
from pykdext.attribution.calls.allocators import (
    Allocator,
    argument_locations,
    find_allocator,
    other_locations,
    takes_no_tag,
)
from pykdext.attribution.calls.callees import Callee, CalleeResolver
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.references import find_references
from pykdext.attribution.flow.calls import CallSite, FunctionFlow
from pykdext.attribution.flow.values import (
    UNKNOWN,
    UNKNOWN_ATOM,
    Atom,
    Constant,
    FieldRead,
    ImageRead,
    Location,
    Parameter,
    StackAddress,
    Value,
    find_distance,
    join,
    member_at,
    numbers,
    split_address,
)
from pykdext.attribution.places.tagencodings import TAG_BYTES
from pykdext.images.image import Image

MAX_STRUCTURE_BYTES, MAX_UNKNOWN_BYTES = 128, 64
"""Of a structure on the stack in which a tag is looked for; less of one for a function that is chosen at run time."""

MAX_CALLBACKS = 32
"""Functions of one image that are followed because a pointer may lead to them, the smallest first."""

Handed = Union[Parameter, FieldRead]
"""What a function is called with: a parameter, or a member of the structure to which one points."""


class Wrapper(NamedTuple):
    """A function between the tag and the allocator: its module's file name and its entry there."""

    module: str
    rva: int


@dataclass(frozen=True)
class HandedOn:
    """What a parameter becomes the tag of, and the functions on the way, the outermost first.

    ``is_chosen``: the last of them is called through a pointer that only the running driver has. ``doubtful_rva``: of
    the pointer to the allocator, as :class:`Callee` has it.
    """

    allocator: Allocator
    wrappers: Tuple[Wrapper, ...]
    is_chosen: bool = False
    doubtful_rva: Optional[int] = None


class _Places(NamedTuple):
    """In which arguments the call at ``site``, kept so that no other frame takes its key, hands over what.

    Of pointers it is what they point at or near to, with the distance.
    """

    site: CallSite
    of_tags: Dict[Atom, List[Location]]
    of_pointers: Dict[Atom, List[Tuple[Location, int]]]


class Wrappers:
    """The functions of one image that hand tags on. ``open_others``: those of the images whose functions it calls."""

    def __init__(
        self,
        followed: FollowedImage,
        resolver: CalleeResolver,
        open_others: Optional[Callable[[Image], Wrappers]] = None,
    ) -> None:
        self._followed = followed
        self._image = followed.image
        self.machine = followed.image.machine
        self._resolver = resolver
        self._open_others = open_others
        self._members: Dict[int, Tuple[CallSite, Tuple[Tuple[FieldRead, Value], ...]]] = {}
        self._places: Dict[int, _Places] = {}
        self._handed_on: Dict[Tuple[int, Handed, int], Optional[HandedOn]] = {}
        self._dead_ends: Dict[Tuple[int, Location, int], bool] = {}

    def find_allocator(self, site: CallSite, callee: Optional[Callee]) -> Optional[Allocator]:
        """The allocator that is called, if this call can be one that takes a tag."""
        allocator = find_allocator(callee.name) if callee is not None and callee.name else None
        if allocator is None or allocator.condition is None:
            return allocator
        location = argument_locations(self.machine)[allocator.condition.argument - 1]
        possible = numbers(site.frame.argument(location, TAG_BYTES))
        return allocator if possible is None or allocator.condition.number in possible else None

    def read_tag_argument(self, site: CallSite, allocator: Allocator) -> Value:
        """What a call of ``allocator`` can have as its tag, which may be in a structure on the stack or in data."""
        offset = allocator.tag_structure_offset(self.machine)
        if offset is None:
            return site.frame.argument(allocator.tag_location(self.machine), TAG_BYTES)
        found: List[Value] = []
        for atom in site.frame.argument(allocator.tag_location(self.machine), self.machine.pointer_size):
            if isinstance(atom, StackAddress):
                found.append(site.frame.stack(atom.offset + offset, TAG_BYTES))
            elif isinstance(atom, Constant):
                found.append(frozenset({ImageRead(atom.number - self._image.module.base + offset, TAG_BYTES)}))
            elif atom != UNKNOWN_ATOM:
                base, distance = split_address(atom)
                found.append(frozenset({FieldRead(base, distance + offset, TAG_BYTES)}))
        return join(*found)

    def gets_member(self, site: CallSite, allocator: Allocator, base: Atom, offset: int) -> bool:
        """Whether a call of ``allocator`` gets as tag what is at ``offset`` from ``base``, or a structure with it."""
        place = allocator.tag_structure_offset(self.machine)
        if place is None:
            read = member_at(base, offset, TAG_BYTES)
            return read in site.frame.argument(allocator.tag_location(self.machine), TAG_BYTES)
        pointers = site.frame.argument(allocator.tag_location(self.machine), self.machine.pointer_size)
        distance = find_distance(base, pointers)
        return distance is not None and distance + place == offset

    def find_members(self, site: CallSite, callee: Optional[Callee]) -> Sequence[Tuple[FieldRead, Value]]:
        """What a call hands over in structures on the caller's stack, each member as the callee reads it.

        Nothing where it is not known what the callee reads.
        """
        if not self._can_follow(callee):
            return ()
        key = id(site.frame)
        if key not in self._members:
            size_bytes = MAX_UNKNOWN_BYTES if callee is None else MAX_STRUCTURE_BYTES
            members = tuple(self._iter_members(site, size_bytes))
            self._members[key] = (site, members)  # kept with it: no other frame takes its key
        return self._members[key][1]

    def _iter_members(self, site: CallSite, size_bytes: int) -> Iterator[Tuple[FieldRead, Value]]:
        for location in argument_locations(self.machine):
            for atom in site.frame.argument(location, self.machine.pointer_size):
                if isinstance(atom, StackAddress):
                    for offset in range(0, size_bytes, TAG_BYTES):
                        value = site.frame.stack(atom.offset + offset, TAG_BYTES)
                        if value != UNKNOWN:
                            yield FieldRead(Parameter(location), offset, TAG_BYTES), value

    def follow(self, callee: Optional[Callee], handed: Handed, depth: int) -> Optional[HandedOn]:
        """Where a function of the image, or one that another driver exports, hands on what it is called with.

        A callee that is not known (None) may be any that a structure can be handed to.
        """
        if depth < 1:
            return None
        if callee is None:
            return self._follow_callbacks(handed)
        if callee.rva is not None:
            return self._follow_function(callee.rva, handed, depth)
        is_known = callee.name is None or find_allocator(callee.name) or takes_no_tag(callee.name)
        exported = None if is_known or self._open_others is None else self._resolver.find_export(callee)
        if exported is None or self._open_others is None:
            return None
        image, rva = exported
        return self._open_others(image)._follow_function(rva, handed, depth)

    def _can_follow(self, callee: Optional[Callee]) -> bool:
        """Whether something is known of what the callee does."""
        if callee is None:
            return bool(self._callbacks)
        return callee.rva is not None or (self._open_others is not None and bool(self._resolver.find_export(callee)))

    def is_dead_end(self, callee: Optional[Callee], location: Location, depth: int) -> bool:
        """Whether the callee is a function of the image, and it and those it calls hand ``location`` to no allocator.

        Followed were they all, down to ``depth`` of them; functions that other modules have, and a name, end it.
        """
        if callee is None or callee.rva is None or depth < 1:
            return False
        key = (callee.rva, location, depth)
        if key not in self._dead_ends:
            self._dead_ends[key] = False  # of a function that calls itself nothing is known by that
            self._dead_ends[key] = self._search_dead_end(callee.rva, location, depth)
        return self._dead_ends[key]

    def _search_dead_end(self, start_rva: int, location: Location, depth: int) -> bool:
        flow = self._find_entered(start_rva)
        if flow is None or flow.lost is not None:
            return False
        parameter = Parameter(location)
        arguments = argument_locations(self.machine)
        for site in flow.calls:
            handed = [place for place in arguments if parameter in site.frame.argument(place, TAG_BYTES)]
            if not handed:
                continue
            callee = self._resolver.resolve(self._image, site)
            is_named = callee is not None and callee.rva is None and bool(callee.name)
            if not is_named and not all(self.is_dead_end(callee, place, depth - 1) for place in handed):
                return False
        return True

    def _follow_function(self, start_rva: int, handed: Handed, depth: int) -> Optional[HandedOn]:
        key = (start_rva, handed, depth)
        if key not in self._handed_on:
            self._handed_on[key] = None  # a function that calls itself ends here
            self._handed_on[key] = self._search_function(start_rva, handed, depth)
        return self._handed_on[key]

    def _search_function(self, start_rva: int, handed: Handed, depth: int) -> Optional[HandedOn]:
        """The best of all ways: a wrapper may free before it allocates."""
        flow = self._find_entered(start_rva)
        wrapper = Wrapper(self._image.module.name, start_rva)
        found: List[HandedOn] = []
        for site in flow.calls if flow is not None else ():
            callee = self._resolver.resolve(self._image, site)
            allocator = self.find_allocator(site, callee)
            if allocator is not None:
                if handed in self.read_tag_argument(site, allocator):
                    doubtful_rva = callee.doubtful_rva if callee is not None else None
                    found.append(HandedOn(allocator, (wrapper,), doubtful_rva=doubtful_rva))
            elif depth > 1 and self._can_follow(callee):
                for further in self._iter_further(site, callee, handed, depth - 1):
                    found.append(replace(further, wrappers=(wrapper, *further.wrappers)))
            if found and found[-1].allocator.action.is_proof:
                return found[-1]
        return found[0] if found else None

    def _iter_further(self, site: CallSite, callee: Optional[Callee], handed: Handed, depth: int) -> Iterator[HandedOn]:
        """What becomes of ``handed`` behind a call: handed over itself, by its structure, or in a new one."""
        places = self._find_places(site)
        ways: List[Handed] = [Parameter(argument) for argument in places.of_tags.get(handed, ())]
        if isinstance(handed, FieldRead):
            pointers = places.of_pointers.get(handed.base, ())
            ways += [
                FieldRead(Parameter(argument), handed.offset - distance, TAG_BYTES) for argument, distance in pointers
            ]
        ways += [member for member, value in self.find_members(site, callee) if handed in value]
        for way in ways:
            further = self.follow(callee, way, depth)
            if further is not None:
                yield further

    def _find_places(self, site: CallSite) -> _Places:
        """In which arguments a call hands what over."""
        key = id(site.frame)
        if key not in self._places:
            places = _Places(site, {}, {})
            pointer_bytes = self.machine.pointer_size
            for argument in (*argument_locations(self.machine), *other_locations(self.machine)):
                for atom in site.frame.argument(argument, TAG_BYTES):
                    places.of_tags.setdefault(atom, []).append(argument)
                for atom in site.frame.argument(argument, pointer_bytes):
                    base, distance = split_address(atom)
                    places.of_pointers.setdefault(base, []).append((argument, distance))
            self._places[key] = places
        return self._places[key]

    def _follow_callbacks(self, handed: Handed) -> Optional[HandedOn]:
        """The function that a pointer may lead to and that hands on the member of a structure."""
        if not isinstance(handed, FieldRead):
            return None
        for start_rva in self._callbacks:
            found = self._follow_function(start_rva, handed, 1)
            if found is not None and found.allocator.action.is_proof:
                return replace(found, is_chosen=True)
        return None

    @cached_property
    def _callbacks(self) -> Tuple[int, ...]:
        """The entries of functions that call allocators and whose addresses are kept somewhere, the smallest first."""
        image = self._image
        places = find_allocator_calls(image, self._resolver).places
        around = (self._followed.find_bounds(rva) for rva in places)
        sizes = {bounds.start_rva: bounds.size_bytes for bounds in around if bounds is not None}
        taken = set(find_references(image, sizes)) | self._find_kept(set(sizes))
        return tuple(sorted(taken, key=lambda start_rva: (sizes[start_rva], start_rva))[:MAX_CALLBACKS])

    def _find_kept(self, start_rvas: Set[int]) -> Set[int]:
        """Those functions to which pointers lead that are in data."""
        image = self._image
        pointers = {(image.module.base + rva).to_bytes(image.machine.pointer_size, "little"): rva for rva in start_rvas}
        data = [
            piece
            for section in image.sections
            if section.holds_data and section.initialised and not image.is_resource(section)
            for _, piece in image.iter_present(section)
        ]
        return {rva for pointer, rva in pointers.items() if any(pointer in piece for piece in data)}

    def _find_entered(self, start_rva: int) -> Optional[FunctionFlow]:
        """The flow of the function that begins at ``start_rva``."""
        flow = self._followed.find_flow(start_rva)
        return flow if flow is not None and flow.start_rva == start_rva else None
