"""Drivers that a program or library carries, and writes to disk before it loads them; archives of them are named.

They lie in its resources, or behind its last section, where installers put theirs. The layout of resources is that of
Microsoft's "PE Format" page: a directory of types, of names, of languages; that of cabinets is Microsoft's [MS-CAB].
The walk has a fixed depth and bounded counts.
"""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from pykdext.images.image import Image

MAX_ENTRIES = 256
"""Entries of one directory that are looked at."""

MAX_RESOURCES = 4096
"""Resources of one image that are looked at, directories of them, and entries of these."""

MAX_NAME_CHARACTERS = 64

MAX_OVERLAY_BYTES = 4 << 20
"""Behind the last section that a cabinet is looked for: an installer's own parts may stand before it."""

_RESOURCE_DIRECTORY = 2
_DEPTH = 3
_FLAG = 0x80000000  # an entry leads to a directory; its name is a text
_COUNTS = struct.Struct("<12xHH")
_ENTRY = struct.Struct("<II")
_IMAGE = b"MZ"
_CABINET_HEADER = struct.Struct("<4xIIIIIBB")
"""CFHEADER up to its version: reserved1, cbCabinet, reserved2, coffFiles, reserved3, versionMinor, versionMajor."""

_CABINET = b"MSCF\0\0\0\0"
_ARCHIVES: Dict[bytes, str] = {
    _CABINET: "a cabinet",
    b"PK\3\4": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x1f\x8b\x08": "gzip data",
    b"\xfd7zXZ\0": "XZ data",
    b"\x28\xb5\x2f\xfd": "Zstandard data",
    b"BZh": "bzip2 data",
    b"SZDD\x88\xf0\x27\x33": "data of COMPRESS.EXE",
    b"KWAJ\x88\xf0\x27\xd1": "data of COMPRESS.EXE",
}
"""What packed data begin with."""

_INSTALLERS: Dict[bytes, str] = {
    b"\xef\xbe\xad\xdeNullsoftInst": "data of an NSIS installer",
    b"zlb\x1a": "data of an Inno Setup installer",
    b"idska32\x1a": "data of an Inno Setup installer",
}
"""What packed data of installers have near their start, behind the last section."""

_LONGEST_MAGIC = max(map(len, _ARCHIVES))
_INSTALLER_REACH = 1 << 16


class Embedded(NamedTuple):
    """What a resource holds: ``name`` as the program asks for it, with its language where one name has several.

    ``packing``: how it is packed, or what else keeps it from being read as an image; None: nothing does.
    """

    name: str
    rva: int
    size: int
    packing: Optional[str] = None


class _Resource(NamedTuple):
    """A data entry: its names on the three levels, and its offset from the root."""

    names: Tuple[str, ...]
    entry: int


def iter_embedded(image: Image) -> Iterator[Embedded]:
    """The resources of ``image`` that begin as an image or packed data do, each place once. Never fails."""
    root, size = image.directory(_RESOURCE_DIRECTORY)
    if not size:
        return
    resources = list(itertools.islice(_iter_resources(image, root), MAX_RESOURCES))
    by_name = Counter(_name(resource, 1) for resource in resources)
    by_language = Counter(_name(resource, 2) for resource in resources)
    seen: Set[int] = set()
    for resource in resources:
        raw = image.read(root + resource.entry, _ENTRY.size)
        rva, held = _ENTRY.unpack(raw) if raw is not None else (0, 0)
        head = image.read(rva, min(held, _LONGEST_MAGIC)) if 0 < rva < image.size and rva not in seen else None
        packing = _find_packing(head or b"")
        if head is None or not (packing or head.startswith(_IMAGE)):
            continue
        seen.add(rva)
        parts = 1 if by_name[_name(resource, 1)] == 1 else 2 if by_language[_name(resource, 2)] == 1 else 3
        if rva + held > image.size:
            held, packing = image.size - rva, packing or "an image that is cut short"
        yield Embedded(_name(resource, parts), rva, held, packing)


def find_appended(overlay: bytes) -> Optional[str]:
    """What is packed in the bytes behind the last section of a file; None where nothing that is known is there."""
    packing = _find_packing(overlay) or next(
        (text for magic, text in _INSTALLERS.items() if magic in overlay[:_INSTALLER_REACH]), None
    )
    if packing is not None and not overlay.startswith(_CABINET):
        return packing
    at = overlay.find(_CABINET)
    while at >= 0:
        if _is_cabinet(overlay[at : at + _CABINET_HEADER.size]):
            return _ARCHIVES[_CABINET]
        at = overlay.find(_CABINET, at + 1)
    return None


def _is_cabinet(header: bytes) -> bool:
    """Whether the members that are reserved are zero, and the version is the only one that there is, 1.3."""
    if len(header) < _CABINET_HEADER.size:
        return False
    first, size, second, files, third, minor, major = _CABINET_HEADER.unpack(header)
    return not (first or second or third) and (major, minor) == (1, 3) and 0 < files < size


def _find_packing(head: bytes) -> Optional[str]:
    return next((text for magic, text in _ARCHIVES.items() if head.startswith(magic)), None)


def _name(resource: _Resource, parts: int) -> str:
    """The name alone, with its language, or with its type, too."""
    (kind, name, language) = (*resource.names, "", "")[:3]
    return {1: name or kind, 2: f"{name}/{language}", 3: f"{kind}/{name}/{language}"}[parts]


def _iter_resources(image: Image, root: int) -> Iterator[_Resource]:
    """The data entries of the tree, in its order. No directory is walked twice."""
    pending: List[_Resource] = [_Resource((), _FLAG)]
    seen: Set[int] = set()
    entries_left = MAX_RESOURCES
    while pending:
        names, entry = pending.pop()
        if not entry & _FLAG:
            yield _Resource(names, entry)
            continue
        if len(names) == _DEPTH or entry in seen:
            continue
        seen.add(entry)
        directory = root + (entry & ~_FLAG)
        counts = image.read(directory, _COUNTS.size)
        count = min(sum(_COUNTS.unpack(counts)), MAX_ENTRIES, entries_left) if counts is not None else 0
        entries_left -= count
        entries = image.read(directory + _COUNTS.size, count * _ENTRY.size) or b""
        below = [
            _Resource((*names, _read_name(image, root, identifier)), offset)
            for identifier, offset in _ENTRY.iter_unpack(entries)
        ]
        pending += reversed(below)


def _read_name(image: Image, root: int, identifier: int) -> str:
    """The name, or the number as resource compilers write it, also where a name makes no sense."""
    number = f"#{identifier & ~_FLAG}"
    if not identifier & _FLAG:
        return number
    place = root + (identifier & ~_FLAG)
    length = image.read(place, 2)
    characters = int.from_bytes(length, "little") if length is not None else 0
    raw = image.read(place + 2, 2 * characters) if 0 < characters <= MAX_NAME_CHARACTERS else None
    text = raw.decode("utf-16-le", "replace") if raw is not None else ""
    return text if text.isprintable() and text else number
