"""Proof that a driver uses a tag: the code that hands it to an allocator.

The index says where a tag stands in an image. Only the functions at these places are decoded and followed to their
calls. A call of a known allocator with the tag as its tag argument is proof, and so is the call of one of the driver's
own functions, or of another driver's, that hands this argument on as the tag (a wrapper), through at most
``MAX_WRAPPERS`` of them.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from pykdext.attribution.calls.allocators import Allocator, argument_locations, other_locations
from pykdext.attribution.calls.callees import Callee, CalleeResolver
from pykdext.attribution.calls.codereader import TAG_MASK
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.soughttag import SoughtTag
from pykdext.attribution.calls.storedtags import Member, Store, StoredTags
from pykdext.attribution.calls.wrappers import Handed, HandedOn, Wrapper, Wrappers
from pykdext.attribution.flow.calls import CallSite, FunctionFlow
from pykdext.attribution.flow.values import (
    UNKNOWN,
    UNKNOWN_ATOM,
    Atom,
    Constant,
    FieldRead,
    ImageRead,
    Parameter,
    Result,
    Returned,
    StackAddress,
    find_distance,
    member_at,
)
from pykdext.attribution.places.tagencodings import TAG_BYTES
from pykdext.images.functiontable import FunctionBounds
from pykdext.images.image import Image
from pykdext.model import PoolTag

MAX_WRAPPERS = 6
"""Functions of the driver between the tag and the allocator."""

ENOUGH_CALLS = 4
"""Calls that prove a tag's use: more than so many tell a reader nothing new."""


@dataclass(frozen=True)
class TagUse:
    """A call that gets the tag.

    Attributes:
        call_rva: of the call. source: what brings the tag in, a constant or a variable of the image.
        allocator: what it reaches as a tag; None: no allocator. callee: what is called, as far as it is known.
        wrappers: the functions on the way, the outermost first. origin_text: the instruction that
        brings in a constant, with the tag in quotes. is_dead_end: the callee was followed, and those that get the
        tag from it, and none of them hands it to an allocator. is_chosen: the last wrapper is called through a
        pointer that only the running driver has. kept_rva: the variable of the image in which the tag is kept from its
        source to the call, or None. member_offset: where in a structure it is stored, if all that is known is that the
        call gets what is at the same place of a structure. choices: the tags that the call may get, by an index.
        doubtful_rva: of the pointer to the allocator, as :class:`Callee` has it.
        giver_rva: the function of the image that returns it, or stores it for the one with the call.
        changer_rva: a call before it that gets the address at which the tag waits, and may have put another one there.
    """

    call_rva: int
    source: Atom
    callee: Optional[Callee]
    allocator: Optional[Allocator] = None
    wrappers: Tuple[Wrapper, ...] = ()
    origin_text: str = ""
    is_dead_end: bool = False
    is_chosen: bool = False
    kept_rva: Optional[int] = None
    member_offset: Optional[int] = None
    choices: int = 1
    doubtful_rva: Optional[int] = None
    changer_rva: Optional[int] = None
    giver_rva: Optional[int] = None

    @property
    def is_proof(self) -> bool:
        """Whether the call shows that blocks with this tag are the image's."""
        is_maker = self.allocator is not None and self.allocator.action.is_proof
        return is_maker and self.member_offset is None and self.changer_rva is None

    @property
    def strength(self) -> Tuple[bool, bool]:
        """What orders the uses that one call may make of the tag: it can lie where no function takes it from, too."""
        return self.is_proof, self.allocator is not None

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
    """The calls of one image that get a tag.

    ``wrappers``: its functions that hand tags on; ``open_others`` gives those of the images whose functions it calls.
    """

    def __init__(
        self,
        followed: FollowedImage,
        resolver: CalleeResolver,
        open_others: Optional[Callable[[Image], Wrappers]] = None,
    ) -> None:
        self._followed = followed
        self._image = followed.image
        self._resolver = resolver
        self._machine = followed.image.machine
        self.wrappers = Wrappers(followed, resolver, open_others)
        self._stored = StoredTags(followed, resolver, self.wrappers)

    def find_uses(
        self,
        tag: PoolTag,
        rvas: Sequence[int],
        variables: Sequence[int],
        enough: int = ENOUGH_CALLS,
        *,
        is_deep: bool = True,
    ) -> TagUses:
        """The calls that get ``tag`` in the functions around ``rvas``, small functions first.

        ``variables`` are the RVAs where the tag stands in data: what is read from there is the tag. When ``enough``
        calls prove that the tag is used, no further function is followed. Unless ``is_deep`` what the functions store
        is left alone.
        """
        sought = SoughtTag(tag, frozenset(variables))
        calls: Dict[Tuple[int, Atom], TagUse] = {}
        groups = self._group_by_function(rvas)
        known = {rva for places in groups for rva in places}
        sights = {rva: Sight.NO_CODE for rva in rvas if rva not in known}
        flows: List[FunctionFlow] = []
        for places in groups:
            flow = self._followed.find_flow(places[0])
            if flow is None:
                continue
            flows.append(flow)
            if flow.lost is None:
                sights.update((rva, Sight.FOLLOWED if flow.reaches(rva) else Sight.NO_CODE) for rva in places)
            for site in flow.calls:
                for use in self._iter_uses(site, sought):
                    text = sought.name_in(flow.instruction_text.get(use.origin_rva or 0, ""), use.source)
                    changer = self._stored.find_changer(flow, site, use.source) if use.is_proof else None
                    told = replace(use, origin_text=text, changer_rva=changer)
                    known_use = calls.get((use.call_rva, use.source))
                    if known_use is None or told.strength >= known_use.strength:
                        calls[use.call_rva, use.source] = told
            if len({use.call_rva for use in calls.values() if use.is_proof}) >= enough:
                break
        if is_deep and not any(use.is_proof for use in calls.values()):
            for use in self._iter_deep_uses(sought, flows):
                known_use = calls.get((use.call_rva, use.source))
                if known_use is None or known_use.allocator is None or use.is_proof:
                    calls[use.call_rva, use.source] = use
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

    def _iter_uses(self, site: CallSite, sought: SoughtTag) -> Iterator[TagUse]:
        callee = self._resolver.resolve(self._image, site)
        allocator = self.wrappers.find_allocator(site, callee)
        if allocator is not None:
            value = self.wrappers.read_tag_argument(site, allocator)
            tags = (
                {atom.number & TAG_MASK for atom in value if isinstance(atom, Constant)} if value > UNKNOWN else set()
            )
            doubtful_rva = callee.doubtful_rva if callee is not None else None
            for source in sought.find_sources(value):
                choices = max(len(tags), 1)
                yield TagUse(site.rva, source, callee, allocator, choices=choices, doubtful_rva=doubtful_rva)
            return
        for handed, source in self._iter_handed(site, callee, sought):
            found = self.wrappers.follow(callee, handed, MAX_WRAPPERS) or self._follow_pointer(site, callee, handed)
            if found is not None:
                yield _use_of(found, site.rva, source, callee)
            elif isinstance(handed, Parameter) and handed.location not in other_locations(self._machine):
                is_dead_end = self.wrappers.is_dead_end(callee, handed.location, MAX_WRAPPERS)
                yield TagUse(site.rva, source, callee, is_dead_end=is_dead_end)

    def _follow_pointer(self, site: CallSite, callee: Optional[Callee], handed: Handed) -> Optional[HandedOn]:
        """What a function does with the tag to which a pointer leads that the driver sets when it starts."""
        if callee is not None:
            return None
        for rva in self._stored.find_functions(site.target):
            found = self.wrappers.follow(Callee(None, self._image.module.name, rva), handed, MAX_WRAPPERS)
            if found is not None:
                return replace(found, is_chosen=True)
        return None

    def _iter_handed(
        self, site: CallSite, callee: Optional[Callee], sought: SoughtTag
    ) -> Iterator[Tuple[Handed, Atom]]:
        """How a call hands the tag over, if it does: itself, in a structure on the stack, or in one of the image."""
        for location in (*argument_locations(self._machine), *other_locations(self._machine)):
            for source in sought.find_sources(site.frame.argument(location, TAG_BYTES)):
                yield Parameter(location), source
        for member, value in self.wrappers.find_members(site, callee):
            yield from ((member, source) for source in sought.find_sources(value))
        if callee is None:
            return  # of a function that is not known no structure in data is believed to be its: texts go to any
        for location in argument_locations(self._machine) if sought.variables else ():
            for atom in site.frame.argument(location, self._machine.pointer_size):
                for variable, offset in sought.find_members(atom, self._image):
                    yield FieldRead(Parameter(location), offset, TAG_BYTES), ImageRead(variable, TAG_BYTES)

    def _iter_deep_uses(self, sought: SoughtTag, flows: Sequence[FunctionFlow]) -> Iterator[TagUse]:
        """The calls that get the tag from where it is stored; without a proof those of methods that may get it."""
        is_proven = False
        for use in itertools.chain(self._iter_uses_of_given(sought, flows), self._iter_uses_of_stored(sought, flows)):
            is_proven = is_proven or use.is_proof
            yield use
        for variable in sorted(sought.variables) if not is_proven else ():
            read = self._stored.find_method_read(variable)
            if read is not None:
                source = ImageRead(variable, TAG_BYTES)
                yield TagUse(read.call_rva, source, None, read.allocator, member_offset=read.offset)

    def _iter_uses_of_given(self, sought: SoughtTag, flows: Sequence[FunctionFlow]) -> Iterator[TagUse]:
        """The calls that get the tag from functions that return it, or store it where their callers say."""
        for flow in flows:
            yield from self._iter_uses_of_returned(flow, sought)
            returned = tuple(sought.find_sources(flow.returned))
            outputs = any(any(sought.find_sources(value)) for value in flow.members.values())
            for caller, site in self._stored.find_callers(flow.start_rva) if returned or outputs else ():
                for source in returned:
                    for use in self._iter_uses_of_alias(caller, Result(site.rva), sought):
                        yield self._given(flow, use, source, sought, choices=len(flow.returned))
                for store, value in self._stored.find_outputs(site, flow):
                    if not isinstance(store, Member):
                        continue
                    for source in sought.find_sources(value):
                        uses = list(self._iter_uses_of_object(caller, store))
                        if isinstance(store.base, StackAddress):
                            place = member_at(store.base, store.offset, TAG_BYTES)
                            uses += self._iter_uses_of_alias(caller, place, sought)
                        for use in uses:
                            if use.call_rva > site.rva:  # what is stored later is not what it gets
                                changer = self._stored.find_rewriter(caller, site, use.call_rva, store, source)
                                yield replace(self._given(flow, use, source, sought), changer_rva=changer)

    def _iter_uses_of_returned(self, flow: FunctionFlow, sought: SoughtTag) -> Iterator[TagUse]:
        """The calls that get the tag from a function that was called with it and returns what it was called with."""
        for site in flow.calls:
            for location in argument_locations(self._machine):
                for source in sought.find_sources(site.frame.argument(location, TAG_BYTES)):
                    callee = self._resolver.resolve(self._image, site)
                    giver = self._stored.find_entered(callee.rva) if callee is not None and callee.rva else None
                    if giver is not None and Parameter(location) in giver.returned:
                        for use in self._iter_uses_of_alias(flow, Result(site.rva), sought):
                            given = self._given(flow, use, source, sought, choices=use.choices)
                            yield replace(given, giver_rva=giver.start_rva)

    def _iter_uses_of_alias(self, flow: FunctionFlow, alias: Atom, sought: SoughtTag) -> Iterator[TagUse]:
        """The calls of a function that get for a tag what is known by ``alias`` there."""
        known = replace(sought, aliases=frozenset({alias}))
        for site in flow.calls:
            for use in self._iter_uses(site, known):
                if use.source == alias and use.allocator is not None:
                    yield use

    def _given(self, giver: FunctionFlow, use: TagUse, source: Atom, sought: SoughtTag, choices: int = 1) -> TagUse:
        text = giver.instruction_text.get(source.origin_rva or 0, "") if isinstance(source, Constant) else ""
        text = sought.name_in(text, source)
        return replace(use, source=source, origin_text=text, giver_rva=giver.start_rva, choices=choices)

    def _iter_uses_of_stored(self, sought: SoughtTag, flows: Sequence[FunctionFlow]) -> Iterator[TagUse]:
        """The calls that get the tag from a variable or a member, where it is in data or one of ``flows`` stores it."""
        stores: Dict[Store, Tuple[Atom, str]] = {}
        is_proven = False
        for flow in flows:
            for store, source in self._iter_stores(flow, sought):
                text = flow.instruction_text.get(source.origin_rva or 0, "") if isinstance(source, Constant) else ""
                text = sought.name_in(text, source)
                stores.setdefault(store, (source, text))
                for use in self._iter_uses_of_object(flow, store):
                    is_proven = is_proven or use.is_proof
                    yield replace(use, source=source, origin_text=text)
        variables = frozenset(store for store in stores if not isinstance(store, Member)) | sought.variables
        known = frozenset(flow.start_rva for flow in flows) if sought.variables >= variables else frozenset()
        if variables:
            read = replace(sought, variables=variables)
            for flow in self._stored.find_readers(sorted(variables), known):
                for site in flow.calls:
                    for use in self._iter_uses(site, read):
                        is_number = isinstance(use.source, Constant)
                        if use.allocator is None or (is_number and use.origin_rva is not None):
                            continue  # of another instruction, which is no place of the tag
                        read_rva = use.source.rva if isinstance(use.source, ImageRead) else -1
                        source, text = stores.get(read_rva, (use.source, ""))
                        kept_rva = read_rva if source is not use.source else None
                        is_proven = is_proven or use.is_proof
                        yield replace(use, source=source, origin_text=text, kept_rva=kept_rva)
        for store, (source, text) in stores.items() if not is_proven else ():
            if not isinstance(store, Member) or isinstance(store.base, Returned):
                continue  # what is written into a block that was just allocated is a signature more often than a tag
            found = self._stored.find_member_read(store)
            if found is not None:
                offset = None if isinstance(store.base, ImageRead) and store.base == found.base else store.offset
                yield TagUse(found.call_rva, source, None, found.allocator, (), text, member_offset=offset)

    def _iter_uses_of_object(self, flow: FunctionFlow, store: Store) -> Iterator[TagUse]:
        """The calls of a function that get the structure in which it stores the tag, or has it stored."""
        if not isinstance(store, Member) or store.base == UNKNOWN_ATOM:
            return
        for site in flow.calls:
            callee = self._resolver.resolve(self._image, site)
            allocator = self.wrappers.find_allocator(site, callee)
            if allocator is not None:
                if self.wrappers.gets_member(site, allocator, store.base, store.offset):
                    yield TagUse(site.rva, store.base, callee, allocator)
                continue
            for location in argument_locations(self._machine) if callee is not None else ():
                distance = find_distance(store.base, site.frame.argument(location, self._machine.pointer_size))
                if distance is not None:
                    member = FieldRead(Parameter(location), store.offset - distance, TAG_BYTES)
                    found = self.wrappers.follow(callee, member, MAX_WRAPPERS)
                    if found is not None:
                        yield _use_of(found, site.rva, store.base, callee)

    def _iter_stores(self, flow: FunctionFlow, sought: SoughtTag) -> Iterator[Tuple[Store, Atom]]:
        """Where a function, or a constructor that it calls, stores the tag."""
        for rva, value in flow.kept.items():
            yield from ((rva, source) for source in sought.find_sources(value))
        for (base, offset), value in flow.members.items():
            keepers = [rva for rva, kept in flow.kept.items() if isinstance(base, Returned) and base in kept]
            bases = (*(ImageRead(rva, self._machine.pointer_size) for rva in keepers), base)
            for source in sought.find_sources(value):
                yield from ((Member(place, offset), source) for place in bases)
        for site in flow.calls:
            for location in argument_locations(self._machine):
                for source in sought.find_sources(site.frame.argument(location, TAG_BYTES)):
                    yield from ((store, source) for store in self._stored.find_stores_of(site, location))


def _use_of(found: HandedOn, call_rva: int, source: Atom, callee: Optional[Callee]) -> TagUse:
    """The call that hands the tag to functions on the way to the allocator."""
    return TagUse(
        call_rva,
        source,
        callee,
        found.allocator,
        found.wrappers,
        is_chosen=found.is_chosen,
        doubtful_rva=found.doubtful_rva,
    )
