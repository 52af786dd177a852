"""What the code of the driver images tells of a tag: proven by a call of an allocator, or by the place alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from pykdext.attribution.calls.allocators import Action, Allocator, takes_no_tag
from pykdext.attribution.calls.callees import CalleeResolver
from pykdext.attribution.calls.callsites import ENOUGH_CALLS, CallSites, Sight, TagUse, TagUses
from pykdext.attribution.calls.codereader import Numbers
from pykdext.attribution.calls.fetched import find_fetched
from pykdext.attribution.calls.functions import CodeRoom, FollowedImage
from pykdext.attribution.calls.references import find_references, find_writers, is_written
from pykdext.attribution.calls.sweep import AllocatorCallers
from pykdext.attribution.calls.wrappers import Wrappers
from pykdext.attribution.contexts import find_context_call
from pykdext.attribution.flow.calls import LONGEST_INSTRUCTION_BYTES
from pykdext.attribution.flow.standard import StandardAddresses
from pykdext.attribution.flow.values import ImageRead
from pykdext.attribution.indexedtables import find_indexed_table
from pykdext.attribution.owners import ModuleFacts
from pykdext.attribution.places.cache import IndexCache
from pykdext.attribution.places.index import ImageIndex, ModuleIndex, TagPlaces, describe_place
from pykdext.attribution.places.search import Place
from pykdext.attribution.places.tagencodings import IN_TEXT, TAG_BYTES, measure_text
from pykdext.attribution.registrations import describe_registration, read_context_entry
from pykdext.attribution.taglists import load_knowntags
from pykdext.attribution.usermode import runs_in_user_mode
from pykdext.images.image import Image
from pykdext.model import Confidence, Evidence, EvidenceKind, PoolTag

MAX_SWEPT_BYTES = 2 << 20
"""Code looked through in all images for tags that are made by arithmetic."""

MIN_TEXT_BYTES, MAX_TEXT_BYTES = 12, 128
"""Characters up to a zero that are no instructions: pushes of registers are characters, too, but few at once."""

MIN_LETTERS_IN_CODE = TAG_BYTES + 2
"""Characters up to a zero of which four are no tag by themselves, where no known instruction has them."""

_CONSTANT_BYTES = (4, 8, 16)
"""Sizes of constants in data that may hold a tag: code refers to their start, at a multiple of the size."""

_IN_CODE = frozenset({EvidenceKind.IMMEDIATE, EvidenceKind.BYTES})
_READ = frozenset({EvidenceKind.DATA, EvidenceKind.BYTES})
"""Kinds of places that instructions elsewhere may read: variables, and literals among the code."""


class _Meaning(NamedTuple):
    """What a call with the tag is called: the evidence's kind, and a comment on the call."""

    kind: EvidenceKind
    comment: str = ""


_MEANINGS = {
    Action.ALLOCATES: _Meaning(EvidenceKind.CALL),
    Action.INITIALISES: _Meaning(EvidenceKind.CALL),
    Action.REGISTERS: _Meaning(EvidenceKind.REGISTRATION),
    Action.ADOPTS: _Meaning(
        EvidenceKind.REGISTRATION, ": the framework gives it to all that it allocates for the driver"
    ),
    Action.RESERVES: _Meaning(EvidenceKind.RESERVATION, ": reserves addresses"),
    Action.FREES: _Meaning(EvidenceKind.FREE, ": frees"),
    Action.NAMES: _Meaning(EvidenceKind.CALL, ": names what was made with it"),
}


class CodeAttributor:
    """Names the modules whose code uses a tag. What a search of files collects is kept in the ``cache``.

    Attributes:
        poolless: by tag the names of images that have its bytes, but run in user mode, where no pool is.
    """

    name = "images"

    def __init__(self, index: ImageIndex, cache: Optional[IndexCache] = None) -> None:
        self._index = index
        self._cache = cache
        self._resolver = CalleeResolver([module.image for module in index.modules])
        self.poolless: Dict[PoolTag, Dict[str, None]] = {}
        self._pools: Dict[int, bool] = {}
        self._room = CodeRoom()
        self._addresses = StandardAddresses(module.image.module for module in index.modules)
        self._followed: Dict[int, FollowedImage] = {}
        self._call_sites: Dict[int, CallSites] = {}

    def evidence(self, tag: PoolTag) -> Iterator[Evidence]:
        """What each image tells of ``tag``, the strongest first.

        Where nothing is better than possible, drivers that are no part of Windows are searched for code that makes it.
        """
        is_settled = False
        for module, places in self._index.find_places(tag):
            if not self._has_pool(module.image):
                self.poolless.setdefault(tag, {})[module.image.module.name] = None
                continue
            found = list(self._iter_module_evidence(tag, module, places))
            is_settled = is_settled or any(item.confidence is not Confidence.POSSIBLE for item in found)
            yield from sorted(found, key=lambda item: item.confidence.rank)
        if not is_settled:
            yield from self._iter_made(tag)

    def _iter_module_evidence(self, tag: PoolTag, module: ModuleIndex, places: TagPlaces) -> Iterator[Evidence]:
        uses = TagUses((), {})
        if module.image.has_headers:
            uses = self._find_uses(tag, module, places.kept)
        for use in uses.calls:
            if use.allocator is not None:
                yield _describe_use(tag, module, use, use.allocator)
        uses_by_place: Dict[Optional[int], List[TagUse]] = {}
        for use in uses.calls:
            uses_by_place.setdefault(_find_origin(use, places.kept), []).append(use)
        described: Set[int] = set()
        for place in places.kept:
            place_uses = uses_by_place.get(place.rva, [])
            if place.encoding is IN_TEXT:  # a part of a text more often than an entry of a table: it says nothing alone
                has_code = module.image.has_headers and not place_uses
                table = self._describe_table(tag, module, place) if has_code else None
                if table is not None:
                    yield table
                continue
            if all(use.allocator is None for use in place_uses):
                if _is_data(place) and place.rva in described:
                    continue
                structure = self._describe_structure(tag, module, place) if _is_data(place) else None
                described.update({place.rva} if structure else ())
                sight = uses.sight(place.rva)
                if structure is not None:
                    yield structure
                elif _is_of_known(place_uses) or _is_worth_reading(module.image, place, sight, place_uses):
                    yield _describe_unproven(tag, module, place, places.total, place_uses, sight)

    def _describe_structure(self, tag: PoolTag, module: ModuleIndex, place: Place) -> Optional[Evidence]:
        """What a structure or a table around ``place`` says; proven where a call is known that allocates by it."""
        found = describe_registration(module.image, tag, place.rva)
        if not module.image.has_headers:
            return found
        if found is None:
            return self._describe_table(tag, module, place)
        entry = read_context_entry(module.image, place.rva)
        if entry is None:
            return found
        call_rva = find_context_call(self.open_followed(module.image), entry)
        if call_rva is None:
            return found
        detail = f"{found.detail}; FltAllocateContext allocates such a context at +0x{call_rva:x}"
        return replace(found, confidence=Confidence.PROVEN, detail=detail)

    def _describe_table(self, tag: PoolTag, module: ModuleIndex, place: Place) -> Optional[Evidence]:
        """What a table of tags says from which an allocator gets one by an index."""
        image = module.image
        table = find_indexed_table(self.open_followed(image), self._resolver, self._open_wrappers(image), place.rva)
        if table is None:
            return None
        detail = (
            f"dword {tag.text!r}, one of {table.tags} in a table of tags at +0x{table.first_rva:x}; the function that"
            f" reads it calls {table.allocator} at +0x{table.call_rva:x} with a tag by an index"
        )
        return Evidence(tag, image.module.name, place.encoding.kind, Confidence.LIKELY, detail, place.rva)

    def _find_uses(self, tag: PoolTag, module: ModuleIndex, places: Sequence[Place]) -> TagUses:
        """The calls that get the tag, in the functions around its immediates and around reads of its variables."""
        variables = [place.rva for place in places if place.encoding.kind in _READ]
        starts = {rva - rva % size for rva in variables for size in _CONSTANT_BYTES}
        readers = find_references(module.image, starts) if starts else {}
        rvas: List[int] = [place.rva for place in places if place.encoding.kind in _IN_CODE]
        rvas += [rva for found in readers.values() for rva in found]
        is_windows = bool(self.is_part_of_windows(module.image))  # of its parts tag lists tell the rest
        enough = 1 if is_windows else ENOUGH_CALLS
        return self._open_call_sites(module.image).find_uses(tag, rvas, variables, enough, is_deep=not is_windows)

    def _iter_made(self, tag: PoolTag) -> Iterator[Evidence]:
        """The calls that get the tag from code that makes it of other numbers."""
        for module, callers in self._swept:
            makers = callers.find_makers(tag)
            for use in self._open_call_sites(module.image).find_uses(tag, makers, ()).calls if makers else ():
                if use.allocator is not None:
                    yield _describe_use(tag, module, use, use.allocator, is_made=repr(tag.text) not in use.origin_text)

    def read_callers(self, image: Image) -> Tuple[Numbers, ...]:
        """The numbers of each function of the image in which a tag may be made; none if that is not searched for."""
        return next((callers.numbers for module, callers in self._swept if module.image is image), ())

    def list_lasting_warnings(self, image: Image) -> Tuple[str, ...]:
        """The image's warnings that do not come of the tags that were asked for."""
        of_tags = self.open_followed(image).warnings
        return tuple(line for line in image.warnings if line not in of_tags)

    def is_part_of_windows(self, image: Image) -> Optional[bool]:
        """True or False; None where that is not known."""
        return self._facts.is_part_of_windows(image.module.name)

    @cached_property
    def _facts(self) -> ModuleFacts:
        return ModuleFacts(
            (module.image.module for module in self._index.modules),
            {module.image.module.name: module.version for module in self._index.modules},
            {description.module for description in load_knowntags() if not description.is_vendors},
            {description.module for description in load_knowntags() if description.is_vendors},
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
            self._open_call_sites(image)  # tells the resolver of functions that the image looks up
            callers = AllocatorCallers(self.open_followed(image), self._resolver, room_bytes, self._cache)
            room_bytes -= callers.code_bytes
            if callers.is_cut:
                image.warnings.append(f"{image.module.name}: not all of its code was searched for tags that it makes")
            swept.append((module, callers))
        return tuple(swept)

    def _has_pool(self, image: Image) -> bool:
        """False for what runs in user mode."""
        base = image.module.base
        if base not in self._pools:
            self._pools[base] = not runs_in_user_mode(image)
        return self._pools[base]

    def _open_call_sites(self, image: Image) -> CallSites:
        base = image.module.base
        if base not in self._call_sites:
            followed = self.open_followed(image)
            self._resolver.learn_fetched(image, find_fetched(followed))
            self._call_sites[base] = CallSites(followed, self._resolver, self._open_wrappers)
        return self._call_sites[base]

    def _open_wrappers(self, image: Image) -> Wrappers:
        return self._open_call_sites(image).wrappers

    def open_followed(self, image: Image) -> FollowedImage:
        """The functions of one of the images."""
        base = image.module.base
        if base not in self._followed:
            self._followed[base] = FollowedImage(image, self._room, self._addresses, self._cache)
        return self._followed[base]


def _describe_use(
    tag: PoolTag, module: ModuleIndex, use: TagUse, allocator: Allocator, *, is_made: bool = False
) -> Evidence:
    """A call that hands the tag to an allocator, itself or through the driver's own functions."""
    meaning = _MEANINGS[allocator.action]
    if use.member_offset is not None:
        text = f"tag {tag.text!r} is stored at 0x{use.member_offset:x} of a structure, and {allocator.name} gets what "
        text += "is at that place of one, perhaps of another"
    elif use.wrappers:
        own = module.image.module.name
        way = " and ".join(f"{name if name != own else ''}+0x{rva:x}" for name, rva in use.wrappers)
        text = f"call {way}, which hands tag {tag.text!r} to {allocator.name}"
        text += ", the last one through a pointer that is set at run time" if use.is_chosen else ""
    else:
        text = f"call {allocator.name} with tag {tag.text!r}"
        text += f", one of {use.choices} that it may get" if use.choices > 1 else ""
        is_looked_up = use.callee is not None and use.callee.is_looked_up
        text += ", through a pointer that it looked up by this name" if is_looked_up else ""
    text += (", made by arithmetic" if is_made else "") + meaning.comment
    if allocator.structure is not None:
        text += ", in the structure that it gets"
    if isinstance(use.source, ImageRead):
        text += f"; the tag is read from +0x{use.source.rva:x}"
        text += _describe_variable(module.image, use.source.rva)
    elif use.origin_text:
        text += f"; {use.origin_text} at +0x{use.origin_rva:x}"
    if use.giver_rva is not None:
        text += f", given by +0x{use.giver_rva:x}"
    if use.changer_rva is not None:
        text += f", unless the call at +0x{use.changer_rva:x}, which gets its address, puts another one there"
    if use.kept_rva is not None:
        text += f", kept at +0x{use.kept_rva:x} until then"
        if len(find_writers(module.image, use.kept_rva)) > 1:
            text += ", unless other code that writes there puts another one there"
    if use.doubtful_rva is not None:
        text += (
            f"; the pointer is kept at +0x{use.doubtful_rva:x}, unless other code that writes there puts another one"
        )
        text += " there"
    confidence = Confidence.PROVEN if use.is_proof else Confidence.LIKELY
    return Evidence(tag, module.image.module.name, meaning.kind, confidence, text, use.call_rva)


def _describe_variable(image: Image, rva: int) -> str:
    """What is to be said of a variable in a file: a copy, or a store by an index or a pointer, may change it, too."""
    if not image.is_file:
        return ""
    if is_written(image, rva, TAG_BYTES):
        return ", which the driver writes, too: the file has only what is there at first"
    is_writable = any(one.writable and one.rva <= rva < one.rva + one.size for one in image.sections)
    return ", in memory that can be written: the file has only what is there at first" if is_writable else ""


def _describe_unproven(
    tag: PoolTag, module: ModuleIndex, place: Place, total: int, uses: Sequence[TagUse], sight: Sight
) -> Evidence:
    """A place that no allocator call is known for: no more than possible where its function shows something else.

    What is said is what was seen: of a function that is not known nothing is said but that.
    """
    if place.encoding.kind is not EvidenceKind.IMMEDIATE:
        return describe_place(tag, module, place, total)
    if sight is Sight.NOT_FOLLOWED and not uses:
        known = f"{place.encoding.meaning}; {sight.value}" if module.image.has_headers else None
        return describe_place(tag, module, place, total, meaning=known)
    meaning = ""
    if sight is Sight.NO_CODE:
        meaning = "no path through a function leads there: text or data among the code, or code that is not called"
    elif not uses:
        meaning = "no call was seen that gets it"
    elif all(_is_known_otherwise(use) for use in uses):
        meaning = _describe_other_uses(uses)
    elif place.encoding.is_local and all(use.callee is None for use in uses):
        meaning = "a local variable, or an argument of a call through a pointer that is not known"
    return describe_place(tag, module, place, total, Confidence.POSSIBLE if meaning else None, meaning or None)


def _is_of_known(uses: Sequence[TagUse]) -> bool:
    """Whether a call gets the tag of a function that has a name, or was followed: code that is none calls whatever."""
    return any(use.is_dead_end or (use.callee is not None and use.callee.name is not None) for use in uses)


def _is_worth_reading(image: Image, place: Place, sight: Sight, uses: Sequence[TagUse]) -> bool:
    """Whether a place that no known call is of says anything: bytes that chance or a text puts there do not.

    What is no instruction may be a constant of the code, if an instruction reads it, or an instruction that is not
    known, if no function that was followed has other ones there.
    """
    kind = place.encoding.kind
    if kind is EvidenceKind.IMMEDIATE:
        return not _is_in_text(image, place)
    if uses or kind is not EvidenceKind.BYTES:
        return True
    if _is_in_text(image, place, MIN_LETTERS_IN_CODE):
        return False
    if place.encoding.is_literal:
        return bool(find_references(image, {place.rva - place.rva % size for size in _CONSTANT_BYTES}))
    return sight is Sight.NOT_FOLLOWED


def _is_in_text(image: Image, place: Place, least_bytes: int = MIN_TEXT_BYTES) -> bool:
    """Whether the tag's bytes are some of a text that a zero or a line end follows, as names of imports are on x86."""
    start = max(place.rva - MIN_TEXT_BYTES, 0)
    around = image.read(start, place.rva - start + TAG_BYTES + MAX_TEXT_BYTES + 1)
    if around is None:
        return False
    before, behind = measure_text(around, place.rva - start, MAX_TEXT_BYTES)
    end = place.rva - start + TAG_BYTES + behind
    return before + TAG_BYTES + behind >= least_bytes and around[end] in b"\0\t\n\r"


def _is_known_otherwise(use: TagUse) -> bool:
    """Whether the call that gets the tag is of a function that has a name or was followed, and no allocator."""
    callee = use.callee
    return callee is not None and (use.is_dead_end or (callee.rva is None and bool(callee.name)))


def _describe_other_uses(uses: Sequence[TagUse]) -> str:
    """What the functions that get the tag are, of which none is an allocator."""
    named = sorted({use.callee.name for use in uses if use.callee and use.callee.name and not use.is_dead_end})
    own = sorted({use.callee.rva for use in uses if use.callee and use.callee.rva is not None and use.is_dead_end})
    unknown = [name for name in named if not takes_no_tag(name)]
    tagless = [name for name in named if takes_no_tag(name)]
    parts = [f"goes to {', '.join(tagless)}, which takes no pool tag"] if tagless else []
    if own:
        parts.append(
            f"goes to {', '.join(f'+0x{rva:x}' for rva in own)}, and no way from there to an allocator was seen"
        )
    if unknown:
        parts.append(f"goes to {', '.join(unknown)}, of which nothing is known")
    return "; ".join(parts)


def _is_data(place: Place) -> bool:
    return place.encoding.kind is EvidenceKind.DATA


def _find_origin(use: TagUse, places: Sequence[Place]) -> Optional[int]:
    """The place, by its RVA, that is in the instruction or the variable which brings in the tag of ``use``."""
    origin_rva = use.origin_rva
    if origin_rva is None:
        return None
    behind = (place.rva for place in places if origin_rva <= place.rva < origin_rva + LONGEST_INSTRUCTION_BYTES)
    return min(behind, default=None)
