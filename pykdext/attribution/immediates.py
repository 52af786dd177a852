"""The index of pool tags that stand in driver images: each page is read once, then every tag is a look-up.

Code is searched for immediates (see ``tagencodings``), data for aligned dwords, both for the exact bytes of the tags
that are named beforehand. The index keeps places, ``(rva, encoding)``, so that a later proof can go to the call.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Collection, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.attribution.tagencodings import (
    CODE_TABLES,
    DATA_DWORD,
    LONGEST_PREFIX_BYTES,
    RAW_BYTES,
    TAG_BYTES,
    CodeTable,
    Encoding,
    find_data_offsets,
    find_exact_offsets,
    is_in_text,
    is_plausible,
)
from pykdext.interruption import Interruption, hold
from pykdext.kernel.image import Image, Section
from pykdext.model import Confidence, Evidence, ImageCoverage, ImageVersion, PoolTag
from pykdext.progress import ReportProgress, ignore_progress

WINDOW_BYTES = 1 << 18
"""Code is searched in windows of this size: they stay in the processor's cache."""

MAX_PLACES = 16
"""Places kept for one tag in one module, the strongest first; the others are counted."""

MAX_INDEXED_BYTES = 1 << 30
"""Bytes searched in all images together, several times what a machine's drivers have: a forged list cannot hang us."""

MAX_INDEXED_PLACES = 1 << 20
"""Places found in all images together; real drivers have some hundred each."""

MAX_EXACT_PLACES = 1 << 16
"""Occurrences looked at in one image by the search for exact bytes."""

MIN_TEXT_BYTES_IN_CODE = 8
"""Printable runs of this length in code are texts; shorter ones are common between instructions."""

INTERRUPTED = "the user ended the search before it was through"
"""The reason of images that an interruption left."""

MAX_NAMES = 8
"""Modules named in one warning."""


class Place(NamedTuple):
    """Where a tag stands in an image, and how."""

    rva: int
    encoding: Encoding


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
        elif place.encoding.rank < self.kept[-1].encoding.rank:
            self.kept[-1] = place
        else:
            return
        if len(self.kept) == MAX_PLACES:
            self.kept.sort(key=lambda kept: kept.encoding.rank)


class ModuleIndex:
    """What was found in one image.

    Attributes:
        image: module, machine, sections. version: its version resource. present_bytes of expected_bytes were in
        memory; discardable sections are expected only as far as they are present. reason: why nothing was searched,
        or None. places_found: of all tags, also those not kept; is_cut: the limit of places ended the search.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.present_bytes = 0
        self.expected_bytes = 0
        self.version = ImageVersion()
        self.reason: Optional[str] = None
        self.places_found = 0
        self.is_cut = False
        self._places: Dict[bytes, TagPlaces] = {}

    def find_places(self, tag: PoolTag) -> TagPlaces:
        """The places of ``tag``; none kept if it was not found."""
        return self._places.get(_canonical(tag.raw), TagPlaces())

    def add(self, tag: bytes, place: Place) -> None:
        """Count a place of the four bytes ``tag``."""
        self._places.setdefault(_canonical(tag), TagPlaces()).add(place)
        self.places_found += 1


class ImageIndex:
    """All images of a target, in the order given. Memory of an image is read once, while it is indexed.

    Args:
        images: the loaded images, without unloaded ones. tags: those whose exact bytes are searched for as well; a
        tag that is asked for and was not named here is searched for then, which reads the images once more.
        progress: told before each image, and at the end. interruption: with one, an end by the user leaves the
        images before it.
    """

    def __init__(
        self,
        images: Sequence[Image],
        tags: Collection[PoolTag] = (),
        progress: ReportProgress = ignore_progress,
        interruption: Optional[Interruption] = None,
    ) -> None:
        self.modules = [ModuleIndex(image) for image in images]
        self._searched = set(tags)
        self._done = 0
        with hold(interruption):
            self._index_modules(progress)
        for module in self.modules[self._done :]:
            module.reason = INTERRUPTED

    def _index_modules(self, progress: ReportProgress) -> None:
        room_bytes, room_places = MAX_INDEXED_BYTES, MAX_INDEXED_PLACES
        for done, module in enumerate(self.modules):
            self._done = done
            progress(done, len(self.modules), module.image.module.name)
            if room_bytes <= 0 or room_places <= 0:
                module.reason = "the images before it reached the limit of bytes or places"
                continue
            _index_module(module, self._searched, room_places)
            room_bytes -= module.present_bytes
            room_places -= module.places_found
        self._done = len(self.modules)
        progress(self._done, len(self.modules), "driver images")

    def find_places(self, tag: PoolTag) -> Iterator[Tuple[ModuleIndex, TagPlaces]]:
        """Each module with places of ``tag``."""
        if tag not in self._searched:
            self._searched.add(tag)
            for module in self.modules:
                if module.reason is None:
                    _search_exactly(module, (tag,))
        for module in self.modules:
            places = module.find_places(tag)
            if places.total:
                yield module, places

    @property
    def coverage(self) -> ImageCoverage:
        """How many images had memory to search, and which part of their searched sections it was."""
        scanned = [module for module in self.modules if module.reason is None]
        expected_bytes = sum(module.expected_bytes for module in scanned)
        present_bytes = sum(module.present_bytes for module in scanned)
        fraction = present_bytes / expected_bytes if expected_bytes else None
        return ImageCoverage(len(scanned), len(self.modules), fraction)

    @property
    def unscanned(self) -> Tuple[Tuple[str, str], ...]:
        """Modules that could not be searched, as ``(name, reason)``."""
        return tuple((module.image.module.name, module.reason) for module in self.modules if module.reason)

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What limits the search, one line each."""
        machines = {module.image.machine for module in self.modules} - CODE_TABLES.keys()
        undecoded = [
            f"instructions of {machine.value} images are not read: only their data, and their code for exact bytes"
            for machine in sorted(machines, key=lambda machine: machine.value)
        ]
        cut = [
            f"{module.image.module.name}: {module.places_found} places look like tags: the rest was left out"
            for module in self.modules
            if module.is_cut
        ]
        headers = [line for module in self.modules if not module.reason for line in module.image.warnings]
        return (*undecoded, *cut, *headers, *self._describe_unscanned())

    def _describe_unscanned(self) -> Iterator[str]:
        """One line for each reason, with the names of its modules."""
        names_by_reason: Dict[str, List[str]] = {}
        for name, reason in self.unscanned:
            names_by_reason.setdefault(reason, []).append(name)
        for reason, names in names_by_reason.items():
            others = f" and {len(names) - MAX_NAMES} others" if len(names) > MAX_NAMES else ""
            yield f"not searched: {', '.join(names[:MAX_NAMES])}{others}: {reason}"


class ImmediateAttributor:
    """Names the modules in whose images a tag stands."""

    name = "images"

    def __init__(self, index: ImageIndex) -> None:
        self._index = index

    def evidence(self, tag: PoolTag) -> Iterator[Evidence]:
        """The places of ``tag``, module by module, the strongest first."""
        for module, places in self._index.find_places(tag):
            count = f"; {places.total} places in this module" if places.total > 1 else ""
            for place in sorted(places.kept, key=lambda place: (place.encoding.rank, place.rva)):
                encoding = place.encoding
                yield Evidence(
                    tag,
                    module.image.module.name,
                    encoding.kind,
                    encoding.confidence if module.image.has_headers else Confidence.POSSIBLE,
                    f"{encoding.form.format(tag=repr(tag.text))} ({encoding.meaning}){count}",
                    place.rva,
                )


def _index_module(module: ModuleIndex, tags: Collection[PoolTag], room_places: int) -> None:
    """Search the whole image: for every plausible tag, and for the exact bytes of ``tags``."""
    image = module.image
    table = CODE_TABLES.get(image.machine)
    module.version = image.version
    module.expected_bytes = sum(
        section.size for section in image.sections if _is_searched(image, section) and not section.discardable
    )
    for section, rva, piece in _iter_searched(image):
        module.present_bytes += len(piece)
        module.expected_bytes += len(piece) if section.discardable else 0
        plausible = _iter_plausible(section, rva, piece, table)
        for offset, encoding in itertools.islice(plausible, room_places - module.places_found):
            module.add(piece[offset : offset + TAG_BYTES], Place(rva + offset, encoding))
    module.is_cut = module.places_found >= room_places
    if not module.present_bytes:
        module.reason = "no page can be read (a session driver, or paged out)"
    _search_exactly(module, tags)


def _search_exactly(module: ModuleIndex, tags: Collection[PoolTag]) -> None:
    """Add the places that only a search for the tags' own bytes finds, and release the image."""
    table = CODE_TABLES.get(module.image.machine)
    for tag, section, rva, piece, offset in itertools.islice(_iter_exact(module.image, tags), MAX_EXACT_PLACES):
        encoding = _exact_encoding(section, rva, piece, offset, table)
        if encoding:
            module.add(tag.raw, Place(rva + offset, encoding))
    module.image.release()


def _iter_exact(image: Image, tags: Collection[PoolTag]) -> Iterator[Tuple[PoolTag, Section, int, bytes, int]]:
    """Every occurrence of the tags' bytes, but of plausible tags only those in code: all others are in the index."""
    unindexed = [tag for tag in tags if not is_plausible(tag.raw)]
    for section, rva, piece in _iter_searched(image):
        for tag in tags if section.executable else unindexed:
            for offset in find_exact_offsets(piece, tag.raw):
                yield tag, section, rva, piece, offset


def _iter_searched(image: Image) -> Iterator[Tuple[Section, int, bytes]]:
    for section in image.sections:
        if _is_searched(image, section):
            for rva, piece in image.iter_present(section):
                yield section, rva, piece


def _is_searched(image: Image, section: Section) -> bool:
    """Code always; data unless it is resources or was only needed while the driver was loaded."""
    return section.executable or not (section.discardable or image.is_resource(section))


def _iter_plausible(
    section: Section, rva: int, piece: bytes, table: Optional[CodeTable]
) -> Iterator[Tuple[int, Encoding]]:
    """Offsets and encodings of everything in a piece that looks like a tag; an offset once."""
    if section.executable and table:
        yield from _iter_immediates(piece, table)
    if section.holds_data:
        for offset in find_data_offsets(piece, rva):
            if not (section.executable and table and table.classify(piece, offset)):
                yield offset, DATA_DWORD


def _iter_immediates(piece: bytes, table: CodeTable) -> Iterator[Tuple[int, Encoding]]:
    """The immediates of a piece of code, window by window: a window owns the immediates that begin in it."""
    for start in range(0, len(piece), WINDOW_BYTES):
        origin = max(start - LONGEST_PREFIX_BYTES, 0)
        window = piece[origin : start + WINDOW_BYTES + TAG_BYTES]
        for offset in sorted(table.find_offsets(window)):
            encoding = table.classify(window, offset) if start <= origin + offset < start + WINDOW_BYTES else None
            if encoding:
                yield origin + offset, encoding


def _exact_encoding(
    section: Section, rva: int, piece: bytes, offset: int, table: Optional[CodeTable]
) -> Optional[Encoding]:
    """What an occurrence of a tag's bytes is, unless it is text or the index of plausible tags has it already."""
    is_indexed = is_plausible(piece[offset : offset + TAG_BYTES])
    immediate = table.classify(piece, offset) if section.executable and table else None
    if immediate:
        return None if is_indexed else immediate
    if section.holds_data and (rva + offset) % TAG_BYTES == 0:
        return None if is_indexed else DATA_DWORD
    if section.executable and not is_in_text(piece, offset, MIN_TEXT_BYTES_IN_CODE):
        return RAW_BYTES
    return None


def _canonical(tag: bytes) -> bytes:
    """The tag without the bit of PROTECTED_POOL."""
    return tag[:3] + bytes((tag[3] & 0x7F,))
