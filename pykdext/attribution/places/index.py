"""The index of pool tags that stand in driver images: each page is read once, then every tag is a look-up.

Code is searched for immediates, data for aligned dwords, both for the exact bytes of the tags that are named beforehand
(see ``tagsearch``). The index keeps places, ``(rva, encoding)``, so that a later proof can go to the call.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Collection, Dict, FrozenSet, Iterator, List, Optional, Sequence, Set, Tuple

from pykdext.attribution.places.bytesearch import ExactSearch
from pykdext.attribution.places.cache import CachedPlaces, IndexCache
from pykdext.attribution.places.search import (
    Piece,
    Place,
    is_constant,
    iter_exact,
    iter_pieces,
    iter_plausible,
    iter_searched,
)
from pykdext.attribution.places.tagencodings import REVERSED, canonical, is_plausible
from pykdext.images.image import Image
from pykdext.model import Confidence, Evidence, EvidenceKind, ImageVersion, PoolTag
from pykdext.units import choose_form, count_things, name_some
from pykdext.work import UNWATCHED, Work

MAX_PLACES = 16
"""Places kept for one tag in one module, the strongest first; the others are counted."""

MAX_INDEXED_BYTES = 1 << 30
"""Bytes searched in all images together, several times what a machine's drivers have: a forged list cannot hang us."""

MAX_INDEXED_PLACES = 1 << 20
"""Places found in all images together; real drivers have some hundred each."""

MAX_EXACT_PLACES = 1 << 16
"""Occurrences looked at in one image by the search for exact bytes."""

INTERRUPTED = "the user ended the search before it was through"
"""The reason of images that an interruption left."""

MAX_NAMES = 8
"""Modules named in one warning."""


@dataclass
class TagPlaces:
    """The places of one tag in one module: ``total`` counts also those that are not ``kept``."""

    total: int = 0
    kept: List[Place] = field(default_factory=list)

    def add(self, place: Place) -> None:
        """Count ``place``; keep it if there is room or a weaker one to give up. Once full, the weakest is the last."""
        self.total += 1
        if len(self.kept) < MAX_PLACES:
            self.kept.append(place)
        elif _strength(place) < _strength(self.kept[-1]):
            self.kept[-1] = place
        else:
            return
        if len(self.kept) == MAX_PLACES:
            self.kept.sort(key=_strength)

    def sort(self) -> None:
        """Put the places in the order in which a search finds them; a full list has its own."""
        if len(self.kept) < MAX_PLACES:
            self.kept.sort(key=lambda place: place.rva)

    def joined(self, others: TagPlaces) -> TagPlaces:
        """These places and ``others``, which are weaker."""
        return TagPlaces(self.total + others.total, (self.kept + others.kept)[:MAX_PLACES])

    @property
    def is_likely(self) -> bool:
        """Whether one of the places is better than a coincidence."""
        return any(place.encoding.confidence is not Confidence.POSSIBLE for place in self.kept)


def _strength(place: Place) -> Tuple[Tuple[int, int], int]:
    """Sorts the places that say most first, and those by RVA."""
    return place.encoding.rank, place.rva


class ModuleIndex:
    """What was found in one image.

    Attributes:
        image: module, machine, sections. version: its version resource. present_bytes of expected_bytes were in
        memory; discardable sections are expected only as far as they are present: discarded_bytes of code are gone.
        is_cached: a part of it was found in an earlier search of the same bytes. reason: why nothing was searched, or
        None. places_found: of all tags, also those not kept; is_cut: the limit of
        places ended the search.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.present_bytes = 0
        self.expected_bytes = 0
        self.discarded_bytes = 0
        self.version = ImageVersion()
        self.reason: Optional[str] = None
        self.places_found = 0
        self.is_cut = False
        self.is_cached = False
        self._cached: List[CachedPlaces] = []
        self._unpacked: Set[bytes] = set()
        self._places: Dict[bytes, TagPlaces] = {}
        self._hints: Dict[bytes, TagPlaces] = {}
        self._searched: Set[bytes] = set()

    def find_places(self, tag: PoolTag, *, hints: bool = False) -> TagPlaces:
        """The places of ``tag``, perhaps with the hints; none kept if it was not found."""
        places = self._find(canonical(tag.raw))
        more = self._hints.get(canonical(tag.raw)) if hints else None
        return places.joined(more) if more else places

    def find_reversed(self, tag: PoolTag) -> TagPlaces:
        """The immediates that are the characters of ``tag`` in reverse order."""
        places = self._find(tag.raw[::-1])
        kept = [Place(place.rva, REVERSED) for place in places.kept if place.encoding.kind is EvidenceKind.IMMEDIATE]
        return TagPlaces(len(kept), kept)

    def _find(self, tag: bytes) -> TagPlaces:
        """All places of ``tag``, those of earlier searches unpacked."""
        if self._cached and tag not in self._unpacked:
            self._unpacked.add(tag)
            for place in (place for cached in self._cached for place in cached.find(tag)):
                self._places.setdefault(tag, TagPlaces()).add(place)
            if tag in self._places:
                self._places[tag].sort()
        return self._places.get(tag, TagPlaces())

    def _add(self, tag: bytes, place: Place) -> None:
        known = self._hints if place.encoding.is_hint else self._places
        known.setdefault(canonical(tag), TagPlaces()).add(place)
        self.places_found += 1

    def search(self, room_places: int, cache: Optional[IndexCache]) -> None:
        """Add all that looks like a tag, at most ``room_places``; the ``cache`` knows constant sections."""
        self.version = self.image.version
        for section in iter_searched(self.image):
            kept = cache if is_constant(section) else None
            present_bytes = 0
            for piece in iter_pieces(self.image, section):
                present_bytes += len(piece.data)
                self._search_piece(piece, room_places - self.places_found, kept)
            self.present_bytes += present_bytes
            self.expected_bytes += present_bytes if section.discardable else section.size
            if section.discardable and section.executable:
                self.discarded_bytes += section.size - present_bytes
        self.is_cut = self.places_found >= room_places
        if not self.present_bytes:
            self.reason = "no page can be read (a session driver, or paged out)"

    def _search_piece(self, piece: Piece, room_places: int, cache: Optional[IndexCache]) -> None:
        machine = self.image.machine
        known = cache.load(machine, piece) if cache else None
        if known is not None and len(known) < room_places:
            self.is_cached = True
            self._cached.append(known)
            self.places_found += len(known)
            return
        found = list(itertools.islice(iter_plausible(self.image, piece), max(room_places, 0)))
        for tag, place in found:
            self._add(tag, place)
        if cache and len(found) < room_places:
            cache.save(machine, piece, found)

    @property
    def words(self) -> FrozenSet[bytes]:
        """All that looks like a tag, without the bit of PROTECTED_POOL."""
        kept = (canonical(word) for cached in self._cached for word in cached.words)
        return frozenset((*self._places, *kept))

    def has_searched(self, tag: PoolTag) -> bool:
        """Whether the bytes of ``tag`` were searched for, or cannot be."""
        return self.reason is not None or canonical(tag.raw) in self._searched

    def settles(self, tag: PoolTag) -> bool:
        """Whether ``tag`` is in a likely place, and no search for its bytes can find a better one."""
        return is_plausible(tag.raw) and self._find(canonical(tag.raw)).is_likely

    def search_exactly(self, tags: Collection[PoolTag]) -> None:
        """Add the places and hints that only a search for the bytes of ``tags`` finds, once for each tag."""
        new = {canonical(tag.raw) for tag in tags} - self._searched
        if self.reason is None and new:
            self._searched |= new
            search = ExactSearch(new)
            pieces = (piece for section in iter_searched(self.image) for piece in iter_pieces(self.image, section))
            found = (item for piece in pieces for item in iter_exact(self.image, piece, search))
            for tag, place in itertools.islice(found, MAX_EXACT_PLACES):
                self._add(tag, place)


class ImageIndex:
    """All images of a target, in the order given. Memory of an image is read once, while it is indexed.

    Args:
        images: the loaded images, without unloaded ones. tags: those whose exact bytes are searched for as well, until
        a likely place is found; for another tag without any that is done when it is asked for, which reads the images
        once more. work: its report is called before each image and at the end; an end by the user leaves
        the images before it. cache: where the indexes of images are kept from one run to the next.
    """

    def __init__(
        self,
        images: Sequence[Image],
        tags: Collection[PoolTag] = (),
        work: Work = UNWATCHED,
        cache: Optional[IndexCache] = None,
    ) -> None:
        self.modules = [ModuleIndex(image) for image in images]
        self._named = set(tags)
        self._done = 0
        with work.hold():
            self._index_modules(work, cache)
        for module in self.modules[self._done :]:
            module.reason = INTERRUPTED

    def _index_modules(self, work: Work, cache: Optional[IndexCache]) -> None:
        room_bytes, room_places = MAX_INDEXED_BYTES, MAX_INDEXED_PLACES
        unsettled = self._named
        for done, module in enumerate(self.modules):
            self._done = done
            work.report(done, len(self.modules), f"driver images ({module.image.module.name})")
            if room_bytes <= 0 or room_places <= 0:
                module.reason = "the images before it reached the limit of bytes or places"
                continue
            module.search(room_places, cache)
            unsettled = {tag for tag in unsettled if not module.settles(tag)}
            module.search_exactly(unsettled)
            module.image.release()
            room_bytes -= module.present_bytes
            room_places -= module.places_found
        self._done = len(self.modules)
        work.report(self._done, len(self.modules), "driver images")

    def find_places(self, tag: PoolTag) -> Iterator[Tuple[ModuleIndex, TagPlaces]]:
        """Each module with places of ``tag``.

        Hints count only if there is no likely place, the characters in reverse order only if there is nothing else.
        """
        self._named.add(tag)
        hints = False
        if not self._is_settled(tag):
            self._search_late(tag)
            hints = not any(module.find_places(tag).is_likely for module in self.modules)
        found = [(module, module.find_places(tag, hints=hints)) for module in self.modules]
        if not any(places.total for _, places in found):
            found = [(module, module.find_reversed(tag)) for module in self.modules]
        yield from ((module, places) for module, places in found if places.total)

    def _is_settled(self, tag: PoolTag) -> bool:
        return any(module.settles(tag) for module in self.modules)

    def _search_late(self, tag: PoolTag) -> None:
        """Search for the bytes of ``tag``, and of all named tags that lack them, where that was not done."""
        late = [module for module in self.modules if not module.has_searched(tag)]
        unsettled = [named for named in self._named if not self._is_settled(named)] if late else []
        for module in late:
            module.search_exactly(unsettled)
            module.image.release()

    @property
    def unscanned(self) -> Tuple[Tuple[str, str], ...]:
        """Modules that could not be searched, as ``(name, reason)``."""
        return tuple((module.image.module.name, module.reason) for module in self.modules if module.reason)

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What limits the search, one line each."""
        cut = [
            f"{module.image.module.name}: "
            f"{count_things(module.places_found, 'place')} "
            f"{choose_form(module.places_found, 'looks like a tag', 'look like tags')}: the rest"
            " was left out"
            for module in self.modules
            if module.is_cut
        ]
        headers = [line for module in self.modules if not module.reason for line in module.image.warnings]
        return (*cut, *headers, *self._describe_unscanned())

    def _describe_unscanned(self) -> Iterator[str]:
        """One line for each reason, with the names of its modules."""
        names_by_reason: Dict[str, List[str]] = {}
        for name, reason in self.unscanned:
            names_by_reason.setdefault(reason, []).append(name)
        for reason, names in names_by_reason.items():
            yield f"not searched: {name_some(names, MAX_NAMES)}: {reason}"


class ImmediateAttributor:
    """Names the modules in whose images a tag stands."""

    name = "images"

    def __init__(self, index: ImageIndex) -> None:
        self._index = index

    def evidence(self, tag: PoolTag) -> Iterator[Evidence]:
        """The places of ``tag``, module by module, the strongest first."""
        for module, places in self._index.find_places(tag):
            for place in sorted(places.kept, key=lambda place: (place.encoding.rank, place.rva)):
                yield describe_place(tag, module, place, places.total)


def describe_place(
    tag: PoolTag,
    module: ModuleIndex,
    place: Place,
    total: int,
    confidence: Optional[Confidence] = None,
    meaning: Optional[str] = None,
) -> Evidence:
    """One of ``total`` places of ``tag``; ``confidence`` and ``meaning`` replace those of its encoding."""
    encoding = place.encoding
    usual = encoding.confidence if module.image.has_headers else Confidence.POSSIBLE
    count = f"; {count_things(total, 'place')} in this module" if total > 1 else ""
    text = f"{encoding.form.format(tag=repr(tag.text))} ({meaning or encoding.meaning}){count}"
    return Evidence(tag, module.image.module.name, encoding.kind, confidence or usual, text, place.rva)
