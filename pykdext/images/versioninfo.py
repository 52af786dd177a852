"""The version resource of an image: who made it, for what product, which version.

Layouts are those of the resource section in Microsoft's "PE Format" page and of VS_VERSIONINFO in the Windows SDK
documentation. The walk has a fixed depth and bounded counts; whatever is missing or makes no sense is None.
"""

from __future__ import annotations

import itertools
import struct
from typing import Callable, Dict, Iterator, NamedTuple, Optional

from pykdext.model import ImageVersion

ReadRva = Callable[[int, int], Optional[bytes]]
"""Reads ``(rva, size)`` of an image: all the bytes, or None."""

MAX_DIRECTORY_ENTRIES = 256
MAX_VERSION_BYTES = 0x10000
MAX_NODES = 64
MAX_KEY_CHARACTERS = 64
MAX_TEXT_CHARACTERS = 256

_RT_VERSION = 16
_ENGLISH = 0x0409
_SUBDIRECTORY = 0x80000000
_DIRECTORY_COUNTS = struct.Struct("<12xHH")
_ENTRY = struct.Struct("<II")
_NODE = struct.Struct("<HHH")
_FIXED_FILE_INFO = struct.Struct("<I4xHHHH")
_FIXED_SIGNATURE = 0xFEEF04BD


class _Node(NamedTuple):
    """A block of VS_VERSIONINFO: its key, and where its value and all that follows it lie."""

    key: str
    value_start: int
    value_bytes: int
    children_start: int
    end: int


def read_version(read: ReadRva, resources_rva: int) -> ImageVersion:
    """The version resource below the resource directory at ``resources_rva``; all None where it is missing."""
    names = _find_child(read, resources_rva, _SUBDIRECTORY, _RT_VERSION)
    languages = _find_child(read, resources_rva, names)
    data_entry = _find_child(read, resources_rva, languages, _ENGLISH)
    if data_entry is None:
        data_entry = _find_child(read, resources_rva, languages)
    raw = read(resources_rva + data_entry, _ENTRY.size) if data_entry is not None else None
    if raw is None:
        return ImageVersion()
    rva, size = _ENTRY.unpack(raw)
    return parse_version(read(rva, min(size, MAX_VERSION_BYTES)) or b"")


def parse_version(data: bytes) -> ImageVersion:
    """The version that a VS_VERSIONINFO block holds; the numbers of its fixed part count before the text."""
    root = next(_iter_nodes(data, 0, len(data)), None)
    if root is None or root.key != "VS_VERSION_INFO":
        return ImageVersion()
    texts: Dict[str, str] = {}
    for info in _iter_nodes(data, root.children_start, root.end):
        if info.key == "StringFileInfo":
            for table in _iter_nodes(data, info.children_start, info.end):
                for entry in _iter_nodes(data, table.children_start, table.end):
                    texts.setdefault(entry.key, _text(data[entry.value_start : entry.end], MAX_TEXT_CHARACTERS))
    return ImageVersion(
        company=texts.get("CompanyName") or None,
        product=texts.get("ProductName") or None,
        description=texts.get("FileDescription") or None,
        file_version=_fixed_version(data[root.value_start :]) or texts.get("FileVersion") or None,
    )


def _find_child(read: ReadRva, root: int, entry: Optional[int], wanted: Optional[int] = None) -> Optional[int]:
    """The offset field of the entry with id ``wanted`` (None: the first) in the directory that ``entry`` refers to."""
    if entry is None or not entry & _SUBDIRECTORY:
        return None
    directory = root + (entry & ~_SUBDIRECTORY)
    raw_counts = read(directory, _DIRECTORY_COUNTS.size)
    if raw_counts is None:
        return None
    count = min(sum(_DIRECTORY_COUNTS.unpack(raw_counts)), MAX_DIRECTORY_ENTRIES)
    entries = read(directory + _DIRECTORY_COUNTS.size, count * _ENTRY.size) or b""
    for identifier, offset in _ENTRY.iter_unpack(entries):
        if wanted is None or identifier == wanted:
            return int(offset)
    return None


def _iter_nodes(data: bytes, start: int, end: int) -> Iterator[_Node]:
    """The sibling blocks in ``data[start:end]``; stops at the first that does not fit."""
    for _ in range(MAX_NODES):
        if end - start < _NODE.size:
            return
        length, value_length, is_text = _NODE.unpack_from(data, start)
        if not _NODE.size <= length <= end - start:
            return
        key_start = start + _NODE.size
        key = _text(data[key_start : start + length], MAX_KEY_CHARACTERS)
        value_start = _align4(key_start + 2 * len(key) + 2)
        value_bytes = value_length * (2 if is_text else 1)
        yield _Node(key, value_start, value_bytes, _align4(value_start + value_bytes), start + length)
        start = _align4(start + length)


def _text(raw: bytes, max_characters: int) -> str:
    """UTF-16 up to its NUL; control characters (a hostile resource) become blanks."""
    text = raw[: 2 * max_characters].decode("utf-16-le", "replace")
    characters = itertools.takewhile(lambda character: character != "\0", text)
    return "".join(character if character.isprintable() else " " for character in characters)


def _fixed_version(value: bytes) -> Optional[str]:
    """The four numbers of VS_FIXEDFILEINFO's dwFileVersionMS and LS."""
    if len(value) < _FIXED_FILE_INFO.size:
        return None
    signature, minor, major, revision, build = _FIXED_FILE_INFO.unpack_from(value)
    return f"{major}.{minor}.{build}.{revision}" if signature == _FIXED_SIGNATURE else None


def _align4(offset: int) -> int:
    return (offset + 3) & ~3
