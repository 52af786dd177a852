"""Indexes of code and constants, kept on disk: machines have the same drivers, and many dumps are of one machine.

An entry belongs to bytes, not to a name: its key is the digest of a piece of a section as it was in memory, of where
it lies, and of this program's tables. What is kept is what a search of these bytes gives, so that no answer depends on
what was searched before. An entry is checked for damage.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import sys
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional, Sequence, Tuple

from pykdext.attribution.places.search import CODE_TABLES, Piece, Place
from pykdext.attribution.places.tagencodings import DATA_DWORD, Encoding, canonical, protected
from pykdext.model import Machine
from pykdext.wholefile import write_whole

MAX_FOLDER_BYTES = 256 << 20
"""The folder's size; entries that were not used for the longest time make room."""

COUNTED_BYTES = 16 << 10
"""An entry counts as so many bytes at least: a folder of tens of thousands of files takes long to be looked through."""

MAX_ENTRY_BYTES = 16 << 20
"""No entry is larger, packed or unpacked; it would hold more than a million places."""

MIN_PIECE_BYTES = 1 << 16
"""Smaller pieces are searched in less time than a file is opened."""

_SUFFIX = ".tagindex"
_MAGIC = b"poolleak tag index 2\n"
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
    return _open_folder(folder) if folder else None


@lru_cache(maxsize=4)
def _open_folder(folder: Path) -> IndexCache:
    """One object for each folder, which is measured once."""
    return IndexCache(folder)


class CachedPlaces:
    """The places of one piece as they are kept; only those of a tag that is asked for are unpacked."""

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

    @property
    def words(self) -> Iterator[bytes]:
        """The four bytes of each place."""
        return (word for word, _, _ in _RECORD.iter_unpack(self._records))

    def are_within(self, piece: Piece) -> bool:
        """Whether every place is in ``piece`` and has a known encoding."""
        end = piece.rva + len(piece.data)
        return all(
            number < len(self._encodings) and piece.rva <= rva < end
            for _, rva, number in _RECORD.iter_unpack(self._records)
        )


class IndexCache:
    """The entries in one folder, which is made when the first one is kept. A folder that cannot be used has none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder_bytes: Optional[int] = None

    @property
    def is_private(self) -> bool:
        """Whether nobody but this user writes into the folder, as far as the system tells; it may not be there yet."""
        if sys.platform == "win32":  # the user's own folder is his by inheritance
            return True
        try:
            facts = self._folder.stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return facts.st_uid == os.geteuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def load(self, machine: Machine, piece: Piece) -> Optional[CachedPlaces]:
        """What looks like a tag in ``piece``, of an image for ``machine``; None if it was not searched before."""
        if len(piece.data) < MIN_PIECE_BYTES:
            return None
        key = _identify(machine, piece)
        records = self.load_entry(key)
        if records is None or len(records) % _RECORD.size:
            return None
        places = CachedPlaces(records, _encodings(machine))
        return places if places.are_within(piece) else None

    def save(self, machine: Machine, piece: Piece, places: Iterable[Tuple[bytes, Place]]) -> None:
        """Keep all that a search of ``piece`` gave; where that is not possible nothing happens."""
        if len(piece.data) < MIN_PIECE_BYTES:
            return
        numbers = {encoding: number for number, encoding in enumerate(_encodings(machine))}
        records = b"".join(_RECORD.pack(tag, place.rva, numbers[place.encoding]) for tag, place in places)
        self.save_entry(_identify(machine, piece), records)

    def load_entry(self, key: bytes) -> Optional[bytes]:
        """What was kept under a digest of all that it depends on; None if nothing was, or it is damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_ENTRY_BYTES + 1)
            os.utime(path)
        except OSError:
            return None
        return _parse_entry(data, key)

    def save_entry(self, key: bytes, content: bytes) -> None:
        """Keep ``content`` under ``key``; where that is not possible nothing happens."""
        body = zlib.compress(key + content, 1)
        if len(key) + len(content) > MAX_ENTRY_BYTES:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            entry = _MAGIC + hashlib.sha256(body).digest() + body
            write_whole(str(self._path(key)), entry, is_waited_for=False)  # a damaged entry is as good as none
            self._make_room(len(body))
        except OSError:
            return

    def _path(self, key: bytes) -> Path:
        return self._folder / (key.hex() + _SUFFIX)

    def _make_room(self, added_bytes: int) -> None:
        """Remove the entries that were not used for the longest time, if the folder has become too large."""
        if self._folder_bytes is not None:
            self._folder_bytes += max(added_bytes, COUNTED_BYTES)
            if self._folder_bytes <= MAX_FOLDER_BYTES:
                return
        entries = [(entry.stat(), entry) for entry in self._folder.glob("*" + _SUFFIX)]
        entries.sort(key=lambda item: item[0].st_mtime_ns)
        self._folder_bytes = sum(max(facts.st_size, COUNTED_BYTES) for facts, _ in entries)
        for facts, entry in entries:
            if self._folder_bytes <= MAX_FOLDER_BYTES:
                break
            entry.unlink()
            self._folder_bytes -= max(facts.st_size, COUNTED_BYTES)


def _identify(machine: Machine, piece: Piece) -> bytes:
    """The digest of everything that the result of a search depends on."""
    tables = "\n".join(encoding.form + encoding.meaning for encoding in _encodings(machine))
    section = piece.section
    facts = (machine.value, piece.rva, len(piece.data), section.executable, section.holds_data, tables)
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(piece.data)
    return digest.digest()


def _encodings(machine: Machine) -> Tuple[Encoding, ...]:
    """Every encoding that an index of such an image can have, by its number in an entry."""
    return (DATA_DWORD, *CODE_TABLES[machine].encodings)


def _parse_entry(data: bytes, key: bytes) -> Optional[bytes]:
    """The content of an entry; None unless it is whole and of this key."""
    digest, body = data[len(_MAGIC) :][:_DIGEST_BYTES], data[len(_MAGIC) + _DIGEST_BYTES :]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    try:
        unpacked = zlib.decompressobj().decompress(body, MAX_ENTRY_BYTES)
    except zlib.error:
        return None
    return unpacked[len(key) :] if unpacked.startswith(key) else None
