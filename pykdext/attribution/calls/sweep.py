"""The search for tags that stand nowhere: those that code makes of other numbers.

Compilers make the second of two tags out of the first (``and``, ``add`` of their difference), and a structure's member
by a shift. To follow every function that calls an allocator would take seconds a driver. Instead the functions are
found that call one, or call such a function, and whose instructions hold numbers that the tag can be made of. To follow
these few then tells whether it is made, and where it goes.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Dict, Iterable, Optional, Set, Tuple

from pykdext.attribution.calls.allocatorcalls import find_allocator_calls
from pykdext.attribution.calls.allocators import allocator_names
from pykdext.attribution.calls.callees import CalleeResolver
from pykdext.attribution.calls.codereader import TAG_MASK, Makers, Numbers
from pykdext.attribution.calls.directcalls import find_direct_calls
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.processors import PROCESSORS
from pykdext.attribution.places.cache import IndexCache
from pykdext.images.functiontable import FunctionBounds
from pykdext.images.image import Image
from pykdext.model import PoolTag

MAX_CALLER_BYTES = 512 << 10
"""Code kept of one image."""

_FORM = 3
"""Of what is kept of an image; it changes with what is collected."""

MAX_WRAPPERS = 3
"""Functions between such a function and the allocator."""

MAX_SEARCHED_BYTES = 8 << 20
"""Code of an image in which wrappers of allocators are looked for; in a larger one only what calls these directly."""


class AllocatorCallers:
    """The functions of an image that call allocators, themselves or through at most ``MAX_WRAPPERS`` others.

    Attributes:
        code_bytes: their code, as far as it is kept. is_cut: some are missing, for the limits or for ``room_bytes``.
    """

    def __init__(
        self,
        followed: FollowedImage,
        resolver: CalleeResolver,
        room_bytes: int = MAX_CALLER_BYTES,
        cache: Optional[IndexCache] = None,
    ) -> None:
        self.code_bytes = 0
        self.is_cut = False
        self._image = followed.image
        self._followed = followed
        self._room_bytes = min(room_bytes, MAX_CALLER_BYTES)
        self._functions: Dict[int, FunctionBounds] = {}
        key = _identify(self._image, self._room_bytes) if cache and self._image.is_file and room_bytes > 0 else b""
        kept = cache.load_entry(key) if cache and key else None
        if room_bytes <= 0:
            self.is_cut = True
        elif kept is None or not self._restore(kept):
            self._collect(resolver)
            if cache and key:
                cache.save_entry(key, self._pack())

    def find_makers(self, tag: PoolTag) -> Tuple[int, ...]:
        """The entries of those that hold numbers of which ``tag`` can be made, with or without PROTECTED_POOL."""
        number = tag.key & TAG_MASK
        starts = tuple(self._functions)
        return tuple(starts[place] for place in sorted(self._makers.find(number)))

    @cached_property
    def numbers(self) -> Tuple[Numbers, ...]:
        """Those of each function."""
        read_numbers = PROCESSORS[self._image.machine].read_numbers
        numbers = tuple(read_numbers(_read_code(self._image, bounds)) for bounds in self._functions.values())
        self._image.release()
        return numbers

    @cached_property
    def _makers(self) -> Makers:
        return PROCESSORS[self._image.machine].open_makers(self.numbers)

    def _pack(self) -> bytes:
        """What was collected, to be kept."""
        functions = [(bounds.start_rva, bounds.source, bounds.ranges) for bounds in self._functions.values()]
        return json.dumps([self.is_cut, functions]).encode()

    def _restore(self, kept: bytes) -> bool:
        """Take what :meth:`_pack` gave in an earlier run; False if that is not what it is."""
        try:
            is_cut, functions = json.loads(kept)
            bounds = [
                FunctionBounds(start, tuple((first, end) for first, end in ranges), source)
                for start, source, ranges in functions
            ]
        except (ValueError, TypeError):
            return False
        places = (place for one in bounds for first, end in one.ranges for place in (first, end, end - first))
        if not all(isinstance(place, int) and 0 <= place <= self._image.size for place in places):
            return False
        self.is_cut = bool(is_cut)
        self._functions = {one.start_rva: one for one in bounds}
        self.code_bytes = sum(one.size_bytes for one in bounds)
        return True

    def _collect(self, resolver: CalleeResolver) -> None:
        """Go from the allocators to their callers, and on to the callers of these."""
        image = self._image
        calls = find_allocator_calls(image, resolver)
        self.is_cut = self.is_cut or calls.is_cut
        found = self._keep(calls.places)
        if sum(section.size for section in image.sections if section.executable) > MAX_SEARCHED_BYTES:
            self.is_cut = True
            return
        for _ in range(MAX_WRAPPERS):
            found = self._keep(find_direct_calls(image, found))

    def _keep(self, places: Iterable[int]) -> Set[int]:
        """Keep the functions around ``places``; the entries of those that are new."""
        new: Set[int] = set()
        for rva in sorted(places):
            bounds = self._followed.find_bounds(rva)
            if bounds is None or bounds.start_rva in self._functions:
                continue
            if self.code_bytes + bounds.size_bytes > self._room_bytes:
                self.is_cut = True
                continue
            self.code_bytes += bounds.size_bytes
            self._functions[bounds.start_rva] = bounds
            new.add(bounds.start_rva)
        return new


def _read_code(image: Image, bounds: FunctionBounds) -> bytes:
    """What is in memory of a function."""
    return b"".join(code for start, end in bounds.ranges for _, code in image.iter_range(start, end - start))


def _identify(image: Image, room_bytes: int) -> bytes:
    """The digest of what decides which functions of a file are kept: its bytes, and the allocators that are known."""
    facts = (_FORM, image.machine.value, image.size, room_bytes, MAX_WRAPPERS, allocator_names(), image.directories)
    digest = hashlib.sha256(repr(facts).encode())
    for section in image.sections:
        digest.update(repr(section).encode())
        for rva, data in image.iter_present(section):
            digest.update(rva.to_bytes(8, "little"))
            digest.update(data)
    return digest.digest()
