"""Indexes of images, kept on disk: machines have the same drivers, and many dumps are of one machine.

An entry belongs to one build of an image: module name, link time, size, checksum and sections. It holds the places in
sections that never change, of an image that was in memory as a whole. Nothing in an entry is believed without need: it
is checked for damage, holds numbers only, and what comes from it is confirmed in memory before it is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence, Tuple

from pykdext.attribution.places.search import CODE_TABLES, Place, is_constant
from pykdext.attribution.places.tagencodings import DATA_DWORD, Encoding, canonical, protected
from pykdext.images.image import Image
from pykdext.wholefile import write_whole

MAX_FOLDER_BYTES = 256 << 20
"""The folder's size; entries that were not used for the longest time make room."""

MAX_ENTRY_BYTES = 16 << 20
"""No entry is larger, packed or unpacked; it would hold more than a million places."""

_SUFFIX = ".tagindex"
_MAGIC = b"poolleak tag index 1\n"
_DIGEST_BYTES = 32
_RECORD = struct.Struct("<4sIH")  # tag, RVA, number of the encoding


def find_cache_folder(environment: Mapping[str, str], platform: str, home: Path) -> Optional[Path]:
    """Where indexes are kept: ``POOLLEAK_CACHE``, or the user's folder for such files; None if that says ``off``."""
    named = environment.get("POOLLEAK_CACHE", "")
    if named.lower() == "off":
        return None
    if named:
        return Path(named)
    if environment.get("XDG_CACHE_HOME"):
        return Path(environment["XDG_CACHE_HOME"], "poolleak")
    if platform == "win32" and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"], "poolleak")
    return home / ".cache" / "poolleak"


def open_index_cache() -> Optional[IndexCache]:
    """The cache of this user; None if he wants none or has no home."""
    try:
        folder = find_cache_folder(os.environ, sys.platform, Path.home())
    except RuntimeError:  # no home folder
        return None
    return IndexCache(folder) if folder else None


class CachedPlaces:
    """The places of one image as they are kept; only those of a tag that is asked for are unpacked."""

    def __init__(self, records: bytes, encodings: Sequence[Encoding]) -> None:
        self._records = records
        self._encodings = encodings

    def __len__(self) -> int:
        return len(self._records) // _RECORD.size

    def find(self, tag: bytes) -> Iterator[Place]:
        """The places of the four bytes ``tag``, with the bit of PROTECTED_POOL or without."""
        for form in (canonical(tag), protected(tag)):
            offset = self._records.find(form)
            while offset >= 0:
                if offset % _RECORD.size == 0:
                    _, rva, number = _RECORD.unpack_from(self._records, offset)
                    yield Place(rva, self._encodings[number])
                offset = self._records.find(form, offset + 1)

    def are_within(self, spans: Sequence[Tuple[int, int]]) -> bool:
        """Whether every place is in one of ``spans`` (first RVA, RVA behind the last) and has a known encoding."""
        return all(
            number < len(self._encodings) and any(start <= rva < stop for start, stop in spans)
            for _, rva, number in _RECORD.iter_unpack(self._records)
        )


class IndexCache:
    """The entries in one folder, which is made when the first one is kept. A folder that cannot be used has none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder_bytes: Optional[int] = None

    def load(self, image: Image) -> Optional[CachedPlaces]:
        """The places in the constant sections of ``image``, or None if they are not known."""
        identity = _identify(image)
        if identity is None:
            return None
        path = self._path(identity)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_ENTRY_BYTES + 1)
            os.utime(path)
        except OSError:
            return None
        return _parse_entry(data, identity, image)

    def save(self, image: Image, places: Sequence[Tuple[bytes, Place]]) -> None:
        """Keep the places of an image that was searched as a whole; where that is not possible nothing happens."""
        identity = _identify(image)
        if identity is None:
            return
        numbers = {encoding: number for number, encoding in enumerate(_encodings(image))}
        records = b"".join(_RECORD.pack(tag, place.rva, numbers[place.encoding]) for tag, place in places)
        body = zlib.compress(identity + b"\n" + records, 1)
        if len(identity) + 1 + len(records) > MAX_ENTRY_BYTES:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(str(self._path(identity)), _MAGIC + hashlib.sha256(body).digest() + body)
            self._make_room(len(body))
        except OSError:
            return

    def _path(self, identity: bytes) -> Path:
        return self._folder / (hashlib.sha256(identity).hexdigest() + _SUFFIX)

    def _make_room(self, added_bytes: int) -> None:
        """Remove the entries that were not used for the longest time, if the folder has become too large."""
        if self._folder_bytes is not None:
            self._folder_bytes += added_bytes
            if self._folder_bytes <= MAX_FOLDER_BYTES:
                return
        entries = [(entry.stat(), entry) for entry in self._folder.glob("*" + _SUFFIX)]
        entries.sort(key=lambda item: item[0].st_mtime_ns)
        self._folder_bytes = sum(facts.st_size for facts, _ in entries)
        for facts, entry in entries:
            if self._folder_bytes <= MAX_FOLDER_BYTES:
                break
            entry.unlink()
            self._folder_bytes -= facts.st_size


def _identify(image: Image) -> Optional[bytes]:
    """What tells one build of an image from all others, and this program's tables; None where nothing does."""
    if not (image.has_headers and image.timestamp and image.checksum and any(map(is_constant, image.sections))):
        return None
    tables = "\n".join(encoding.form + encoding.meaning for encoding in _encodings(image))
    identity = {
        "name": image.module.name.lower(),
        "machine": image.machine.value,
        "timestamp": image.timestamp,
        "size": image.size,
        "checksum": image.checksum,
        "sections": [(section.rva, section.size, is_constant(section)) for section in image.sections],
        "tables": hashlib.sha256(tables.encode()).hexdigest(),
    }
    return json.dumps(identity, sort_keys=True).encode()


def _encodings(image: Image) -> Tuple[Encoding, ...]:
    """Every encoding that an index of such an image can have, by its number in an entry."""
    return (DATA_DWORD, *CODE_TABLES[image.machine].encodings)


def _parse_entry(data: bytes, identity: bytes, image: Image) -> Optional[CachedPlaces]:
    """The places of an entry; None unless it is whole, of this image, and can be true."""
    digest, body = data[len(_MAGIC) :][:_DIGEST_BYTES], data[len(_MAGIC) + _DIGEST_BYTES :]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    try:
        unpacked = zlib.decompressobj().decompress(body, MAX_ENTRY_BYTES)
    except zlib.error:
        return None
    found, _, records = unpacked.partition(b"\n")
    if found != identity or len(records) % _RECORD.size:
        return None
    places = CachedPlaces(records, _encodings(image))
    spans = [(section.rva, section.rva + section.size) for section in image.sections if is_constant(section)]
    return places if places.are_within(spans) else None
