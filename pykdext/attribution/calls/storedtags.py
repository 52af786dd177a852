"""Tags that code stores before it allocates with them: in variables of the image, and in members of structures.

A driver sets its tag when it starts and allocates with it elsewhere, an object gets its tag from a constructor. A
variable of the image is the same for who stores and who reads. Of a structure behind a pointer only the place of the
member is known: that another function reads such a member as a tag makes the driver a likely owner, no more.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from pykdext.attribution.calls.allocatorcalls import find_allocator_calls
from pykdext.attribution.calls.allocators import Allocator, argument_locations
from pykdext.attribution.calls.callees import CalleeResolver
from pykdext.attribution.calls.directcalls import find_direct_calls
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.references import find_references, find_writers
from pykdext.attribution.calls.wrappers import MAX_STRUCTURE_BYTES, Wrappers
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
    split_address,
)
from pykdext.attribution.places.tagencodings import TAG_BYTES, measure_text
from pykdext.images.functiontable import FunctionBounds

MAX_CONSTRUCTORS = 2
"""Functions between the one that has the tag and the one that stores it."""

MAX_READERS = 16
"""Functions around what refers to such a variable that are followed, the smallest first."""

MAX_ALLOCATING = 64
"""Functions that call allocators and are looked at for members which they read as tags, the smallest first."""

MAX_FOLLOWED_BYTES = 1 << 16
"""Code of one image that is followed for what is stored, besides the functions around the tags themselves."""

MAX_METHODS = 16
"""Functions of one table of methods that are looked at."""

MAX_POINTEES = 8
"""Functions to which one call through a pointer may lead."""

_CONSTANT_BYTES = (4, 8, 16)


class Member(NamedTuple):
    """The four bytes at ``offset`` behind the pointer ``base``."""

    base: Atom
    offset: int


Store = Union[int, Member]
"""Where something is stored: the RVA of a variable of the image, or a member."""


class MemberRead(NamedTuple):
    """A call that hands a member of a structure to an allocator as its tag, in the function at ``start_rva``."""

    call_rva: int
    base: Atom
    offset: int
    allocator: Allocator
    start_rva: int


class StoredTags:
    """What the functions of one image store, and which of them allocate with what is stored."""

    def __init__(self, followed: FollowedImage, resolver: CalleeResolver, wrappers: Wrappers) -> None:
        self._followed = followed
        self._image = followed.image
        self._resolver = resolver
        self._wrappers = wrappers
        self._by_parameter: Dict[Tuple[int, Location, int], Tuple[Store, ...]] = {}
        self._room_bytes = MAX_FOLLOWED_BYTES
        self._pointees: Dict[int, Tuple[int, ...]] = {}
        self._member_reads: Optional[Tuple[MemberRead, ...]] = None

    def find_stores_of(self, site: CallSite, location: Location) -> Tuple[Store, ...]:
        """Where the function that is called stores its argument at ``location``, in terms of the caller."""
        callee = self._resolver.resolve(self._image, site)
        if callee is None or callee.rva is None:
            return ()
        stores = self._search_callee(callee.rva, location, MAX_CONSTRUCTORS)
        return tuple(dict.fromkeys(store for found in stores for store in self._translate(site, found)))

    def find_changer(self, flow: FunctionFlow, site: CallSite, source: Atom) -> Optional[int]:
        """A call that may have changed a number that waits in the frame until the call at ``site`` gets it; or None.

        Who gets the address of just that number gets it to change it, unless its code is known not to. Of a structure
        around it only a function of the image that is seen to store there counts.
        """
        for other in flow.calls:
            if other is site:
                continue
            for location in argument_locations(self._image.machine):
                for atom in other.frame.argument(location, self._image.machine.pointer_size):
                    if not isinstance(atom, StackAddress):
                        continue
                    for offset in range(0, MAX_STRUCTURE_BYTES, TAG_BYTES):
                        if not _waits(other, site, atom.offset + offset, source):
                            continue
                        if self._may_change(other, location, offset, source):
                            return other.rva
        return None

    def find_rewriter(
        self, flow: FunctionFlow, giver: CallSite, call_rva: int, store: Member, source: Atom
    ) -> Optional[int]:
        """A call before ``call_rva`` that may put something else where the one at ``giver`` stores ``source``; or None.

        ``store`` is the place as the function with all three calls has it; their order is that of the code.
        """
        for other in flow.calls:
            if giver.rva < other.rva < call_rva:
                for location in argument_locations(self._image.machine):
                    pointers = other.frame.argument(location, self._image.machine.pointer_size)
                    distance = find_distance(store.base, pointers)
                    if distance is not None and self._may_change(other, location, store.offset - distance, source):
                        return other.rva
        return None

    def _may_change(self, site: CallSite, location: Location, offset: int, source: Atom) -> bool:
        callee = self._resolver.resolve(self._image, site)
        bounds = self._followed.find_bounds(callee.rva) if callee is not None and callee.rva is not None else None
        flow = self._follow(bounds) if bounds is not None else None
        if flow is None or flow.lost is not None:
            return offset == 0
        stored = flow.members.get((Parameter(location), offset))
        return stored is not None and source not in stored

    def find_entered(self, start_rva: int) -> Optional[FunctionFlow]:
        """The flow of the function of the image that begins there, if it can be followed."""
        bounds = self._followed.find_bounds(start_rva)
        return self._follow(bounds) if bounds is not None and bounds.start_rva == start_rva else None

    def find_callers(self, start_rva: int) -> Iterator[Tuple[FunctionFlow, CallSite]]:
        """The calls of a function of the image, each with the flow that it is in, small functions first."""
        around = {self._followed.find_bounds(rva) for rva in find_direct_calls(self._image, {start_rva})}
        wanted = sorted((bounds for bounds in around if bounds is not None), key=lambda b: (b.size_bytes, b.start_rva))
        for bounds in wanted[:MAX_READERS]:
            flow = self._follow(bounds)
            for site in flow.calls if flow is not None else ():
                callee = self._resolver.resolve(self._image, site)
                if flow is not None and callee is not None and callee.rva == start_rva:
                    yield flow, site

    def find_outputs(self, site: CallSite, flow: FunctionFlow) -> Iterator[Tuple[Store, Value]]:
        """What the function with ``flow`` stores for the caller at ``site``: where that is to the caller, and what."""
        for (base, offset), value in flow.members.items():
            if isinstance(base, Parameter):
                yield from ((store, value) for store in self._translate(site, Member(base, offset)))

    def _search_callee(self, start_rva: int, location: Location, depth: int) -> Tuple[Store, ...]:
        key = (start_rva, location, depth)
        if key not in self._by_parameter:
            self._by_parameter[key] = tuple(dict.fromkeys(self._iter_stored(start_rva, location, depth)))
        return self._by_parameter[key]

    def _iter_stored(self, start_rva: int, location: Location, depth: int) -> Iterator[Store]:
        """Where a function, and those that it hands the parameter on to, store it."""
        bounds = self._followed.find_bounds(start_rva)
        flow = self._follow(bounds) if bounds is not None and bounds.start_rva == start_rva else None
        if flow is None:
            return
        parameter = Parameter(location)
        yield from (rva for rva, value in flow.kept.items() if parameter in value)
        yield from (Member(*place) for place, value in flow.members.items() if parameter in value)
        for site in flow.calls if depth > 1 else ():
            callee = self._resolver.resolve(self._image, site)
            if callee is None or callee.rva is None:
                continue
            for argument in argument_locations(self._image.machine):
                if parameter in site.frame.argument(argument, TAG_BYTES):
                    for store in self._search_callee(callee.rva, argument, depth - 1):
                        yield from self._translate(site, store)

    def _translate(self, site: CallSite, store: Store) -> Iterator[Store]:
        """A store of the callee as its caller sees it: a member behind one of its arguments may be a variable."""
        if not isinstance(store, Member):
            yield store
            return
        if not isinstance(store.base, Parameter):
            yield Member(UNKNOWN_ATOM, store.offset)
            return
        for atom in site.frame.argument(store.base.location, self._image.machine.pointer_size):
            rva = atom.number - self._image.module.base + store.offset if isinstance(atom, Constant) else -1
            if 0 <= rva < self._image.size:
                yield rva
            base, distance = split_address(atom)
            yield Member(base, store.offset + distance)
            if distance:
                yield Member(UNKNOWN_ATOM, store.offset)

    def find_functions(self, target: Value) -> Tuple[int, ...]:
        """The functions of the image to which a call through ``target`` may lead: pointers in variables, or in tables.

        A variable has what is in it, and what functions that refer to it store there.
        """
        found = (self._find_pointees(atom) for atom in target if isinstance(atom, (ImageRead, FieldRead)))
        rvas = dict.fromkeys(rva for pointees in found for rva in pointees if self._holds_code(rva))
        return tuple(rvas)[:MAX_POINTEES]

    def _find_pointees(self, atom: Atom) -> Tuple[int, ...]:
        """The RVAs in the image to which a pointer may lead that is read from there."""
        if isinstance(atom, ImageRead):
            if atom.rva not in self._pointees:
                self._pointees[atom.rva] = tuple(dict.fromkeys(self._iter_pointees(atom.rva)))
            return self._pointees[atom.rva]
        if not isinstance(atom, FieldRead):
            return ()
        variables = (
            ImageRead(table + atom.offset, atom.size) for table in self._find_pointees(atom.base)[:MAX_POINTEES]
        )
        return tuple(dict.fromkeys(rva for variable in variables for rva in self._find_pointees(variable)))

    def _iter_pointees(self, variable_rva: int) -> Iterator[int]:
        image, size = self._image, self._image.machine.pointer_size
        raw = image.read(variable_rva, size) if 0 <= variable_rva < image.size else None
        numbers = [int.from_bytes(raw, "little")] if raw is not None else []
        places = (*find_writers(image, variable_rva), *find_references(image, {variable_rva}).get(variable_rva, ()))
        around = {self._followed.find_bounds(rva) for rva in places}
        wanted = sorted((bounds for bounds in around if bounds is not None), key=lambda b: (b.size_bytes, b.start_rva))
        for bounds in wanted[:MAX_READERS]:
            flow = self._follow(bounds)
            kept = flow.kept.get(variable_rva, ()) if flow is not None else ()
            numbers += [atom.number for atom in kept if isinstance(atom, Constant)]
        yield from (number - image.module.base for number in numbers if 0 < number - image.module.base < image.size)

    def _holds_code(self, rva: int) -> bool:
        bounds = self._followed.find_bounds(rva)
        return bounds is not None and bounds.start_rva == rva

    def _follow(self, bounds: FunctionBounds) -> Optional[FunctionFlow]:
        """The flow of a function, if it is known or there is room: the functions around other tags need theirs."""
        if not self._followed.is_followed(bounds):
            if bounds.size_bytes > self._room_bytes:
                return None
            self._room_bytes -= bounds.size_bytes
        return self._followed.find_flow(bounds.start_rva)

    def find_readers(self, variables: Sequence[int], known: FrozenSet[int]) -> List[FunctionFlow]:
        """The functions, but those that begin at ``known``, that read a variable or refer to a structure with it."""
        starts = {rva - rva % size for rva in variables for size in _CONSTANT_BYTES}
        starts |= {rva - offset for rva in variables for offset in range(0, MAX_STRUCTURE_BYTES, TAG_BYTES)}
        places = {rva for rvas in find_references(self._image, starts).values() for rva in rvas}
        around = {bounds for rva in places for bounds in (self._followed.find_bounds(rva),) if bounds is not None}
        wanted = sorted((bounds for bounds in around if bounds.start_rva not in known), key=lambda b: b.size_bytes)
        flows = (self._follow(bounds) for bounds in wanted[:MAX_READERS])
        return [flow for flow in flows if flow is not None]

    def find_member_read(self, member: Member) -> Optional[MemberRead]:
        """A call that allocates with a member at the same place of a structure: of the same variable's, if there is.

        Structures of all kinds begin with a signature: what stands first in another one is none. Two functions'
        parameters are not the same.
        """
        same = [read for read in self._find_member_reads() if read.offset == member.offset]
        is_variable = isinstance(member.base, ImageRead)
        its = (read for read in same if is_variable and read.base == member.base)
        return next(its, next(iter(same), None) if member.offset else None)

    def find_method_read(self, variable_rva: int) -> Optional[MemberRead]:
        """A call that allocates with the member of its object that has the place of a variable, in a method of it.

        The object is in data: the variable is in it, and a pointer to the function whose parameter the object is, and
        its address is used. Four characters of a longer text are no tag.
        """
        image, size = self._image, self._image.machine.pointer_size
        around = image.read(variable_rva - 1, TAG_BYTES + 2) if variable_rva else None
        if around is None or measure_text(around, 1, 1) != (0, 0):
            return None
        base_rva = variable_rva - variable_rva % size
        first_rva = max(base_rva - MAX_STRUCTURE_BYTES, 0)
        slots: Dict[int, Set[int]] = {}
        for rva in range(first_rva, base_rva + MAX_STRUCTURE_BYTES, size):
            method = self._read_pointer(rva)
            methods = {method} if method is not None and self._holds_code(method) else set()
            if method is not None and not methods:  # a table of them, as the objects of C++ have it
                methods = set(self._iter_methods(method))
            if methods:
                slots[rva] = methods
        for read in self._find_member_reads() if slots else ():
            start_rva = variable_rva - read.offset
            places = range(start_rva, start_rva + MAX_STRUCTURE_BYTES)
            is_method = any(read.start_rva in methods and rva in places for rva, methods in slots.items())
            if is_method and isinstance(read.base, Parameter) and start_rva % size == 0 and self._is_used(start_rva):
                return read
        return None

    def _iter_methods(self, table_rva: int) -> Iterator[int]:
        """The functions to which the pointers of a table lead."""
        for number in range(MAX_METHODS):
            method = self._read_pointer(table_rva + number * self._image.machine.pointer_size)
            if method is None or not self._holds_code(method):
                return
            yield method

    def _read_pointer(self, rva: int) -> Optional[int]:
        """The RVA to which the pointer at ``rva`` leads, if that is in the image."""
        raw = self._image.read(rva, self._image.machine.pointer_size)
        target = int.from_bytes(raw, "little") - self._image.module.base if raw is not None else -1
        return target if 0 < target < self._image.size else None

    def _is_used(self, rva: int) -> bool:
        """Whether code has the address, or data a pointer to it."""
        size = self._image.machine.pointer_size
        pointer = (self._image.module.base + rva).to_bytes(size, "little")
        return bool(find_references(self._image, {rva})) or any(
            piece.find(pointer) >= 0
            for section in self._image.sections
            if section.holds_data and section.initialised and not self._image.is_resource(section)
            for _, piece in self._image.iter_present(section)
        )

    def _find_member_reads(self) -> Tuple[MemberRead, ...]:
        if self._member_reads is None:
            self._member_reads = tuple(self._iter_member_reads())
        return self._member_reads

    def _iter_member_reads(self) -> Iterator[MemberRead]:
        """The calls of allocators that get a member as the tag, in the functions that call them."""
        places = find_allocator_calls(self._image, self._resolver).places
        around = {self._followed.find_bounds(rva) for rva in places}
        wanted = sorted((bounds for bounds in around if bounds is not None), key=lambda b: (b.size_bytes, b.start_rva))
        for bounds in wanted[:MAX_ALLOCATING]:
            flow = self._follow(bounds)
            for site in flow.calls if flow is not None else ():
                allocator = self._wrappers.find_allocator(site, self._resolver.resolve(self._image, site))
                if allocator is None or not allocator.action.is_proof or allocator.structure is not None:
                    continue  # what stands at the place in some other structure is no tag because of parameters
                for atom in self._wrappers.read_tag_argument(site, allocator):
                    if isinstance(atom, FieldRead) and not isinstance(atom.base, StackAddress):
                        yield MemberRead(site.rva, atom.base, atom.offset, allocator, bounds.start_rva)


def _waits(before: CallSite, site: CallSite, place: int, source: Atom) -> bool:
    """Whether a number stands in the frame at a call, and it or anything else when the call at ``site`` comes."""
    later = site.frame.stack(place, TAG_BYTES)
    return source in later and later > UNKNOWN and source in before.frame.stack(place, TAG_BYTES)
