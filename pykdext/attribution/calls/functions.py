"""The functions of an image that were decoded and followed, each at most once."""

from __future__ import annotations

from functools import cached_property
from typing import Dict, List, Optional

from pykdext.attribution.calls.allocators import find_removed_bytes
from pykdext.attribution.calls.keptflows import KeptFlows, open_kept_flows
from pykdext.attribution.calls.lookups import LookUpCalls, read_named_places
from pykdext.attribution.flow.calls import FunctionFlow
from pykdext.attribution.flow.crossing import find_last_parts
from pykdext.attribution.flow.function import follow_function
from pykdext.attribution.flow.standard import POINTER_BYTES, StandardAddresses, StandardImage
from pykdext.attribution.places.cache import IndexCache
from pykdext.images.exports import Exports, read_exports
from pykdext.images.functiontable import FunctionBounds, FunctionTable
from pykdext.images.image import Image

MAX_FOLLOWED_BYTES = 1 << 18
"""Code followed in one image, about 60,000 instructions: a packed or hostile driver cannot hold us up."""

MAX_FOLLOWED_IN_ALL_BYTES = 1 << 22
"""The same for all images of a machine together."""

NOT_MOVED = StandardAddresses(())

MAX_PARTS = 64
"""Functions side by side of which each may be a part of the one before."""


class CodeRoom:
    """The bytes of code that may still be followed."""

    def __init__(self, size_bytes: int = MAX_FOLLOWED_IN_ALL_BYTES) -> None:
        self.left_bytes = size_bytes


class FollowedImage:
    """Functions by any address in them, as long as there is ``room``, which images share.

    They are followed at standard ``addresses``, and told as they are in memory; what was told of them is kept in the
    ``cache``. ``look_ups`` knows the calls that look functions up. The image's warnings tell if some were left out for
    the limits; these lines are ``warnings``, too.
    """

    def __init__(
        self,
        image: Image,
        room: CodeRoom,
        addresses: StandardAddresses = NOT_MOVED,
        cache: Optional[IndexCache] = None,
    ) -> None:
        self.image = image
        self.warnings: List[str] = []
        self._named = read_named_places(image)
        self.look_ups = LookUpCalls(image, self._named)
        self._addresses = addresses if image.machine.pointer_size == POINTER_BYTES else NOT_MOVED
        self._cache = cache
        self._room = room
        self._functions = FunctionTable(image)
        self._side_by_side: Dict[int, List[FunctionBounds]] = {}
        self._whole: Dict[int, FunctionBounds] = {}
        self._flows: Dict[int, Optional[FunctionFlow]] = {}
        self._room_bytes = MAX_FOLLOWED_BYTES
        self._exports: Optional[Exports] = None

    def find_bounds(self, rva: int) -> Optional[FunctionBounds]:
        """The function around ``rva``, or None if none is known there."""
        bounds = self._functions.find(rva)
        if bounds is None:
            return None
        if bounds.start_rva not in self._side_by_side:
            self._find_neighbours(bounds)
        if bounds.start_rva not in self._whole:
            self._join_parts(self._side_by_side.setdefault(bounds.start_rva, [bounds]))
        return self._whole[bounds.start_rva]

    def find_flow(self, rva: int) -> Optional[FunctionFlow]:
        """The flow of the function around ``rva``; None if no function is known there or the limit is reached."""
        return self._find_flow(self.find_bounds(rva))

    def find_flow_from(self, entry_rva: int) -> Optional[FunctionFlow]:
        """The flow of what a call or jump to ``entry_rva`` reaches, be it a function that nothing else shows, too."""
        bounds = self.find_bounds(entry_rva)
        if bounds is not None and bounds.start_rva != entry_rva:
            ranges = tuple((max(start, entry_rva), end) for start, end in bounds.ranges if end > entry_rva)
            bounds = FunctionBounds(entry_rva, ranges, "flow")
        return self._find_flow(bounds)

    def _find_neighbours(self, bounds: FunctionBounds) -> None:
        """Note with what stands side by side with ``bounds`` each may be one function, whichever is asked for first."""
        find, is_doubtful = self._functions.find, self._functions.may_be_within
        first: Optional[FunctionBounds] = bounds
        while first is not None and is_doubtful(first.start_rva):
            bounds, first = first, find(first.start_rva - 1)
        part: Optional[FunctionBounds] = first or bounds
        parts: List[FunctionBounds] = []
        while part is not None and (not parts or is_doubtful(part.start_rva)):
            parts = parts if 0 < len(parts) < MAX_PARTS else []
            parts.append(part)
            self._side_by_side[part.start_rva] = parts
            part = find(_end_of(part))

    def _join_parts(self, parts: List[FunctionBounds]) -> None:
        """What is told apart only by bytes that look so is one function where code leads on."""
        last = 0
        for first, farthest in enumerate(self._find_last_parts(parts)):
            if first > last or first == 0:
                begin, last = first, first
            last = max(last, farthest)
            for part in parts[begin : last + 1]:
                self._whole[part.start_rva] = _join(parts[begin], parts[last])

    def _find_last_parts(self, parts: List[FunctionBounds]) -> List[int]:
        """Of each part the number of the last one that belongs to the same function by a link between the two."""
        try:
            return find_last_parts(self.image, parts) if len(parts) > 1 else [0]
        except ImportError:
            return list(range(len(parts)))  # what is followed of the function says so

    def _find_flow(self, bounds: Optional[FunctionBounds]) -> Optional[FunctionFlow]:
        if bounds is None:
            return None
        if bounds.start_rva not in self._flows:
            self._flows[bounds.start_rva] = self._follow(bounds)
        return self._flows[bounds.start_rva]

    def is_followed(self, bounds: FunctionBounds) -> bool:
        """Whether the flow of the function is known, or that there is none."""
        return bounds.start_rva in self._flows

    def find_name(self, start_rva: int) -> Optional[str]:
        """The exported name of a function, or None."""
        if self._exports is None:
            self._exports = read_exports(self.image)
        return self._exports.name_at(start_rva)

    def _follow(self, bounds: FunctionBounds) -> Optional[FunctionFlow]:
        name = self.image.module.name
        if bounds.size_bytes > min(self._room_bytes, self._room.left_bytes):
            limit = f"{MAX_FOLLOWED_BYTES >> 10} KiB of one image, {MAX_FOLLOWED_IN_ALL_BYTES >> 20} MiB in all"
            self._warn(f"{name}: not all functions with such tags were followed to their calls (limit: {limit})")
            return None
        self._room_bytes -= bounds.size_bytes
        self._room.left_bytes -= bounds.size_bytes
        try:
            return self._standard_image.restore(self._load_flow(bounds) or self._follow_anew(bounds))
        except ImportError as error:  # capstone's library is made for each system: an installation can lack it
            self._warn(f"{name}: its functions cannot be decoded ({error}). Hint: pip install capstone")
            return None

    def _load_flow(self, bounds: FunctionBounds) -> Optional[FunctionFlow]:
        return self._kept_flows.load(bounds) if self._kept_flows is not None else None

    def _follow_anew(self, bounds: FunctionBounds) -> FunctionFlow:
        self._standard_image.begin()
        look_ups = LookUpCalls(self._standard_image, self._named)
        flow = follow_function(self._standard_image, bounds, self._removed_bytes, look_ups)
        if self._kept_flows is not None:
            self._kept_flows.save(bounds, flow)
        return flow

    @cached_property
    def _standard_image(self) -> StandardImage:
        return StandardImage(self.image, self._addresses)

    @cached_property
    def _kept_flows(self) -> Optional[KeptFlows]:
        return open_kept_flows(self._cache, self._standard_image, self._named)

    @cached_property
    def _removed_bytes(self) -> Dict[int, int]:
        """What the imported functions take from the stack, where that is known."""
        known = ((rva, find_removed_bytes(name)) for rva, name in self._named.imports.items())
        return {rva: removed for rva, removed in known if removed is not None}

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            self.image.warnings.append(text)


def _end_of(bounds: FunctionBounds) -> int:
    return bounds.ranges[-1][1]


def _join(first: FunctionBounds, second: FunctionBounds) -> FunctionBounds:
    """Both as one: they are of x86, where a function is one piece."""
    return FunctionBounds(first.start_rva, ((first.start_rva, _end_of(second)),), first.source)
