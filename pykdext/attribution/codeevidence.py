"""What the code of the driver images tells of a tag: proven by a call of an allocator, or by the place alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.attribution.calls.allocators import Action, Allocator
from pykdext.attribution.calls.callees import CalleeResolver
from pykdext.attribution.calls.callsites import ENOUGH_CALLS, CallSites, TagUse, TagUses
from pykdext.attribution.calls.functions import CodeRoom, FollowedImage
from pykdext.attribution.calls.references import find_references
from pykdext.attribution.calls.sweep import AllocatorCallers
from pykdext.attribution.flow.values import ImageRead
from pykdext.attribution.owners import ModuleFacts
from pykdext.attribution.places.index import ImageIndex, ModuleIndex, TagPlaces, describe_place
from pykdext.attribution.places.search import Place
from pykdext.attribution.places.tagencodings import Position
from pykdext.attribution.registrations import describe_registration
from pykdext.attribution.taglists import load_knowntags
from pykdext.images.image import Image
from pykdext.images.imports import read_imports
from pykdext.model import Confidence, Evidence, EvidenceKind, PoolTag
from pykdext.model.names import canonical_name

LONGEST_INSTRUCTION_BYTES = 15

MAX_SWEPT_BYTES = 2 << 20
"""Code looked through in all images for tags that are made by arithmetic."""

_CONSTANT_BYTES = (4, 8, 16)
"""Sizes of constants in data that may hold a tag: code refers to their start, at a multiple of the size."""

_IN_CODE = frozenset({EvidenceKind.IMMEDIATE, EvidenceKind.BYTES})

_IN_MEMORY = frozenset({Position.FRAME, Position.GLOBAL, Position.STRUCTURE})
"""Values there can reach a call in ways that are not followed."""


class _Meaning(NamedTuple):
    """What a call with the tag is called: the evidence's kind, and a comment on the call."""

    kind: EvidenceKind
    comment: str = ""


_MEANINGS = {
    Action.ALLOCATES: _Meaning(EvidenceKind.CALL),
    Action.INITIALISES: _Meaning(EvidenceKind.CALL),
    Action.REGISTERS: _Meaning(EvidenceKind.REGISTRATION, ", in the structure that it gets"),
    Action.RESERVES: _Meaning(EvidenceKind.RESERVATION, ": reserves addresses"),
    Action.FREES: _Meaning(EvidenceKind.FREE, ": frees"),
}


class CodeAttributor:
    """Names the modules whose code uses a tag."""

    name = "images"

    def __init__(self, index: ImageIndex) -> None:
        self._index = index
        self._resolver = CalleeResolver([module.image for module in index.modules])
        self._pools: Dict[int, bool] = {}
        self._room = CodeRoom()
        self._followed: Dict[int, FollowedImage] = {}
        self._call_sites: Dict[int, CallSites] = {}

    def evidence(self, tag: PoolTag) -> Iterator[Evidence]:
        """What each image tells of ``tag``, the strongest first.

        Where nothing is better than possible, drivers that are no part of Windows are searched for code that makes it.
        """
        is_settled = False
        for module, places in self._index.find_places(tag):
            found = list(self._iter_module_evidence(tag, module, places))
            if not self._has_pool(module.image):
                found = [_without_pool(item) for item in found]
            is_settled = is_settled or any(item.confidence is not Confidence.POSSIBLE for item in found)
            yield from sorted(found, key=lambda item: item.confidence.rank)
        if not is_settled:
            yield from self._iter_made(tag)

    def _iter_module_evidence(self, tag: PoolTag, module: ModuleIndex, places: TagPlaces) -> Iterator[Evidence]:
        uses = TagUses((), frozenset())
        if module.image.has_headers and self._has_pool(module.image):
            uses = self._find_uses(tag, module, places.kept)
        for use in uses.calls:
            if use.allocator is not None:
                yield _describe_use(tag, module, use, use.allocator)
        uses_by_place: Dict[Optional[int], List[TagUse]] = {}
        for use in uses.calls:
            uses_by_place.setdefault(_find_origin(use, places.kept), []).append(use)
        for place in places.kept:
            place_uses = uses_by_place.get(place.rva, [])
            if all(use.allocator is None for use in place_uses):
                registration = describe_registration(module.image, tag, place.rva) if _is_data(place) else None
                is_followed = place.rva in uses.followed
                yield registration or _describe_unproven(tag, module, place, places.total, place_uses, is_followed)

    def _find_uses(self, tag: PoolTag, module: ModuleIndex, places: Sequence[Place]) -> TagUses:
        """The calls that get the tag, in the functions around its immediates and around reads of its variables."""
        variables = [place.rva for place in places if _is_data(place)]
        starts = {rva - rva % size for rva in variables for size in _CONSTANT_BYTES}
        readers = find_references(module.image, starts) if starts else {}
        rvas: List[int] = [place.rva for place in places if place.encoding.kind in _IN_CODE]
        rvas += [rva for found in readers.values() for rva in found]
        enough = 1 if self.is_part_of_windows(module.image) else ENOUGH_CALLS
        return self._open_call_sites(module.image).find_uses(tag, rvas, variables, enough)

    def _iter_made(self, tag: PoolTag) -> Iterator[Evidence]:
        """The calls that get the tag from code that makes it of other numbers."""
        for module, callers in self._swept:
            makers = callers.find_makers(tag)
            for use in self._open_call_sites(module.image).find_uses(tag, makers, ()).calls:
                if use.allocator is not None:
                    yield _describe_use(tag, module, use, use.allocator, is_made=repr(tag.text) not in use.origin_text)

    def is_part_of_windows(self, image: Image) -> Optional[bool]:
        """True, False, or None where nothing tells."""
        return self._facts.is_part_of_windows(image.module.name)

    @cached_property
    def _facts(self) -> ModuleFacts:
        return ModuleFacts(
            (module.image.module for module in self._index.modules),
            {module.image.module.name: module.version for module in self._index.modules},
            {description.module for description in load_knowntags()},
        )

    @cached_property
    def _swept(self) -> Tuple[Tuple[ModuleIndex, AllocatorCallers], ...]:
        """The callers of allocators in the drivers that are no part of Windows."""
        modules = [module for module in self._index.modules if module.reason is None]
        swept: List[Tuple[ModuleIndex, AllocatorCallers]] = []
        room_bytes = MAX_SWEPT_BYTES
        for module in modules:
            image = module.image
            if self.is_part_of_windows(image) or not (image.has_headers and self._has_pool(image)):
                continue
            callers = AllocatorCallers(self.open_followed(image), self._resolver, room_bytes)
            room_bytes -= callers.code_bytes
            if callers.is_cut:
                image.warnings.append(f"{image.module.name}: not all of its code was searched for tags that it makes")
            swept.append((module, callers))
        return tuple(swept)

    def _has_pool(self, image: Image) -> bool:
        """False for what runs in user mode: the headers say so, and it imports nothing from the kernel or a driver."""
        base = image.module.base
        if base not in self._pools:
            imported = read_imports(image) if image.is_user_mode else ()
            self._pools[base] = not image.is_user_mode or any(_is_of_kernel(slot.module) for slot in imported)
        return self._pools[base]

    def _open_call_sites(self, image: Image) -> CallSites:
        base = image.module.base
        if base not in self._call_sites:
            self._call_sites[base] = CallSites(self.open_followed(image), self._resolver)
        return self._call_sites[base]

    def open_followed(self, image: Image) -> FollowedImage:
        """The functions of one of the images."""
        base = image.module.base
        if base not in self._followed:
            self._followed[base] = FollowedImage(image, self._room)
        return self._followed[base]


def _is_of_kernel(module: str) -> bool:
    name = canonical_name(module)
    return name in ("nt", "hal.dll") or name.endswith(".sys")


def _without_pool(item: Evidence) -> Evidence:
    """The evidence of an image that cannot own a tag."""
    return replace(item, confidence=Confidence.POSSIBLE, detail=f"{item.detail}; a user-mode image, which has no pool")


def _describe_use(
    tag: PoolTag, module: ModuleIndex, use: TagUse, allocator: Allocator, *, is_made: bool = False
) -> Evidence:
    """A call that hands the tag to an allocator, itself or through the driver's own functions."""
    meaning = _MEANINGS[allocator.action]
    if use.wrappers:
        way = " and ".join(f"+0x{rva:x}" for rva in use.wrappers)
        text = f"call {way}, which hands tag {tag.text!r} to {allocator.name}"
    else:
        text = f"call {allocator.name} with tag {tag.text!r}"
    text += (", made by arithmetic" if is_made else "") + meaning.comment
    if isinstance(use.source, ImageRead):
        text += f"; the tag is read from +0x{use.source.rva:x}"
    elif use.origin_text:
        text += f"; {use.origin_text} at +0x{use.origin_rva:x}"
    confidence = Confidence.PROVEN if use.is_proof else Confidence.LIKELY
    return Evidence(tag, module.image.module.name, meaning.kind, confidence, text, use.call_rva)


def _describe_unproven(
    tag: PoolTag, module: ModuleIndex, place: Place, total: int, uses: Sequence[TagUse], is_followed: bool
) -> Evidence:
    """A place that no allocator call is known for; less than likely where its function shows another use."""
    encoding = place.encoding
    if not is_followed or encoding.kind is not EvidenceKind.IMMEDIATE or encoding.position in _IN_MEMORY:
        return describe_place(tag, module, place, total)
    other = [use.callee for use in uses]
    names = sorted({callee.name for callee in other if callee is not None and callee.name})
    if not other:
        return describe_place(tag, module, place, total, Confidence.POSSIBLE, "its function hands it to no call")
    if all(callee is not None and callee.name for callee in other):
        meaning = f"goes to {', '.join(names)}, which takes no tag"
        return describe_place(tag, module, place, total, Confidence.POSSIBLE, meaning)
    return describe_place(tag, module, place, total)


def _is_data(place: Place) -> bool:
    return place.encoding.kind is EvidenceKind.DATA


def _find_origin(use: TagUse, places: Sequence[Place]) -> Optional[int]:
    """The place, by its RVA, that is in the instruction or the variable which brings in the tag of ``use``."""
    origin_rva = use.origin_rva
    if origin_rva is None:
        return None
    behind = (place.rva for place in places if origin_rva <= place.rva < origin_rva + LONGEST_INSTRUCTION_BYTES)
    return min(behind, default=None)
