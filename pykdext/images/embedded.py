"""Drivers in the resources of a program or library, which writes them to disk before it loads them; packed ones too.

The layout of resources is that of Microsoft's "PE Format" page: a directory of types, of names, of languages. The walk
has a fixed depth and bounded counts.
"""

from __future__ import annotations

import itertools
import struct
from typing import Iterator, NamedTuple, Optional, Set, Tuple

from pykdext.images.image import Image

MAX_ENTRIES = 256
"""Entries of one directory that are looked at."""

MAX_RESOURCES = 4096
"""Resources of one image that are looked at, and directories of them."""

MAX_NAME_CHARACTERS = 64

_RESOURCE_DIRECTORY = 2
_DEPTH = 3
_FLAG = 0x80000000  # an entry leads to a directory; its name is a text
_COUNTS = struct.Struct("<12xHH")
_ENTRY = struct.Struct("<II")
_IMAGE, _CABINET = b"MZ", b"MSCF"


class Embedded(NamedTuple):
    """What a resource holds: ``name`` as the program asks for it; ``is_packed``: a cabinet, not an image."""

    name: str
    rva: int
    size: int
    is_packed: bool


def iter_embedded(image: Image) -> Iterator[Embedded]:
    """The resources of ``image`` that begin as an image or a cabinet does. Never fails."""
    root, size = image.directory(_RESOURCE_DIRECTORY)
    if not size:
        return
    seen: Set[int] = set()
    resources = _iter_resources(image, root, _FLAG, "", _DEPTH, set())
    for name, entry in itertools.islice(resources, MAX_RESOURCES):
        raw = image.read(root + entry, _ENTRY.size) if entry not in seen else None
        seen.add(entry)
        if raw is None:
            continue
        rva, held = _ENTRY.unpack(raw)
        head = image.read(rva, len(_CABINET)) or b""
        if held and head.startswith((_IMAGE, _CABINET)) and rva + held <= image.size:
            yield Embedded(name, rva, held, head == _CABINET)


def _iter_resources(
    image: Image, root: int, entry: int, name: str, depth: int, seen: Set[int]
) -> Iterator[Tuple[str, int]]:
    """The data entries below a directory: the name of the second level, and the offset from ``root``.

    ``seen``: directories that were walked; none is walked twice.
    """
    if not entry & _FLAG:
        yield name, entry
        return
    if depth == 0 or entry in seen or len(seen) >= MAX_RESOURCES:
        return
    seen.add(entry)
    directory = root + (entry & ~_FLAG)
    counts = image.read(directory, _COUNTS.size)
    count = min(sum(_COUNTS.unpack(counts)), MAX_ENTRIES) if counts is not None else 0
    entries = image.read(directory + _COUNTS.size, count * _ENTRY.size) or b""
    for identifier, offset in _ENTRY.iter_unpack(entries):
        found = _read_name(image, root, identifier) if depth == _DEPTH - 1 else name
        yield from _iter_resources(image, root, offset, found or f"#{identifier & ~_FLAG}", depth - 1, seen)


def _read_name(image: Image, root: int, identifier: int) -> Optional[str]:
    """The name, or the number as resource compilers write it; None where it makes no sense."""
    if not identifier & _FLAG:
        return f"#{identifier}"
    place = root + (identifier & ~_FLAG)
    length = image.read(place, 2)
    characters = int.from_bytes(length, "little") if length is not None else 0
    raw = image.read(place + 2, 2 * characters) if 0 < characters <= MAX_NAME_CHARACTERS else None
    text = raw.decode("utf-16-le", "replace") if raw is not None else ""
    return text if text.isprintable() and text else None
