"""Texts in an image that name functions which take a pool tag: a driver that has one looks the function up with it."""

from __future__ import annotations

import re
from typing import Dict, Iterator, List, Mapping, Tuple

from pykdext.attribution.calls.allocators import find_allocator
from pykdext.images.image import Image
from pykdext.images.imports import iter_name_rvas

MAX_HITS = 4096
"""Texts of one image that are looked at; most are the names of its imports."""

MAX_POINTERS = 64
"""Pointers of one image to such names that are told."""

_STEMS = ("Alloc", "Pool", "Lookaside", "WithTag", "ReservedMapping", "MappingAddress", "RemoveLock", "ErrorSourceInfo")
"""What all these names contain but a few that nobody looks up."""

_ENCODINGS = (("latin-1", 1), ("utf-16-le", 2))
_LONGEST = 48
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\0", re.ASCII)


def find_names(image: Image) -> Mapping[int, str]:
    """By RVA, the names of functions that take a pool tag, as ASCII or UTF-16; without those of the import tables."""
    found = dict(_iter_names(image))
    for rva in iter_name_rvas(image) if found else ():
        found.pop(rva, None)
    return found


def find_pointers(image: Image, names: Mapping[int, str]) -> Mapping[int, str]:
    """By RVA, the pointers in the image's data to these names, with what they point at."""
    found: Dict[int, str] = {}
    size = image.machine.pointer_size
    for section in image.sections if names else ():
        if not section.holds_data or not section.initialised or image.is_resource(section):
            continue
        for rva, data in image.iter_present(section):
            for name_rva, name in names.items():
                address = (image.module.base + name_rva).to_bytes(8, "little")[:size]
                at = data.find(address)
                while at >= 0 and len(found) < MAX_POINTERS:
                    found[rva + at] = name
                    at = data.find(address, at + 1)
    return found


def _iter_names(image: Image) -> Iterator[Tuple[int, str]]:
    hits = 0
    for section in image.sections:
        if not section.initialised or image.is_resource(section):
            continue
        for rva, data in image.iter_present(section):
            for encoding, width in _ENCODINGS:
                for at in _find_stems(data, encoding, MAX_HITS - hits):
                    hits += 1
                    start = max(at - _LONGEST * width, at % width)
                    text = data[start : at + _LONGEST * width].decode(encoding, "replace")
                    for match in _IDENTIFIER.finditer(text):
                        name = match.group()[:-1]
                        if find_allocator(name) is not None:
                            yield rva + start + match.start() * width, name


def _find_stems(data: bytes, encoding: str, limit: int) -> List[int]:
    """Where one of the stems stands, at most ``limit`` places."""
    found: List[int] = []
    for stem in _STEMS:
        sought = stem.encode(encoding)
        at = data.find(sought)
        while at >= 0 and len(found) < limit:
            found.append(at)
            at = data.find(sought, at + len(sought))
    return found
