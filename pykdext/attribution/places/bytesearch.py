"""Tags as plain bytes: dwords of data that look like one, and the bytes of given tags anywhere."""

from __future__ import annotations

import re
from typing import Collection, Iterator, Optional, Tuple

from pykdext.attribution.places.tagencodings import (
    AMONG_TEXT,
    DATA_DWORD,
    IN_TEXT,
    TAG_BYTES,
    Encoding,
    canonical,
    is_plausible,
    measure_text,
    protected,
)

MAX_TABLE_TAGS = 16
"""Tags that stand side by side in data; a longer run of characters is a text."""

_TEXT_ENDS = (b"\0", b"\t", b"\n", b"\r")

MIN_ROW_BYTES, MAX_ROW_BYTES = 8, 64
"""Rows of a table that has more than tags."""

# Data by classes of bytes: T text, a dot for each other byte.
_CLASSES = bytes(0x54 if 0x20 <= byte < 0x7F else 0x2E for byte in range(256))
_DWORD = re.compile(rb"\.TTT(?=T(?!TT)|\.)")
_TABLE = re.compile(rb"\.(?=((?:TTTT){2,%d})\.)" % MAX_TABLE_TAGS)

_POINTER_BYTES = 8
_UPPER_HALF = re.compile(rb".[\x80-\xfe]\xff\xff", re.DOTALL)  # of FFFF8000`00000000 and above, but not -1

_ONE = re.compile(b"\1")
_WINDOW_BYTES = 1 << 14
_FIRST_BITS = int.from_bytes(b"\1" * _WINDOW_BYTES, "little")


def find_data_offsets(data: bytes, rva: int) -> Iterator[int]:
    """Offsets of dwords that look like a tag, with no text before and at most one more character behind.

    Several of them side by side look like a text, and are given only if no zero ends it. The lower half of a kernel's
    64-bit pointer is left out. ``rva`` is where ``data`` begins: a dword is aligned in the image.
    """
    classes = b"." + data.translate(_CLASSES)
    for match in _DWORD.finditer(classes):
        offset = match.start()
        is_pointer = (rva + offset) % _POINTER_BYTES == 0 and _UPPER_HALF.match(data, offset + TAG_BYTES)
        if (rva + offset) % TAG_BYTES == 0 and not is_pointer and is_plausible(data[offset : offset + TAG_BYTES]):
            yield offset
    for match in _TABLE.finditer(classes):
        start, end = match.start(), match.end(1) - 1
        if (rva + start) % TAG_BYTES == 0 and data[end] != 0:
            yield from range(start, end, TAG_BYTES)


def classify_dword(data: bytes, offset: int) -> Optional[Encoding]:
    """What the aligned dword of a tag is, unless :func:`find_data_offsets` gives it or it is part of a text."""
    if not is_plausible(data[offset : offset + TAG_BYTES]):
        return DATA_DWORD
    before, behind = measure_text(data, offset, MAX_TABLE_TAGS * TAG_BYTES)
    end = data[offset + TAG_BYTES + behind : offset + TAG_BYTES + behind + 1]
    ends_as_text = end in (b"", b"\0")
    odd = 0 if end in (b"", *_TEXT_ENDS) else behind % TAG_BYTES  # the first bytes of a number behind the table
    text_bytes = before + TAG_BYTES + behind - odd
    is_table = before % TAG_BYTES == 0 == (behind - odd) % TAG_BYTES and text_bytes <= MAX_TABLE_TAGS * TAG_BYTES
    if is_table and text_bytes > TAG_BYTES and (ends_as_text or odd):
        return IN_TEXT
    return AMONG_TEXT if before == 0 and _ends_table(data, offset) else None


def _ends_table(data: bytes, offset: int) -> bool:
    """Whether a row of a table before has a tag that differs from this one in one character: a text may follow."""
    tag = data[offset : offset + TAG_BYTES]
    for distance in range(MIN_ROW_BYTES, min(MAX_ROW_BYTES, offset) + 1, TAG_BYTES):
        other = data[offset - distance : offset - distance + TAG_BYTES]
        if is_plausible(other) and sum(a != b for a, b in zip(tag, other)) == 1:
            return True
    return False


class ExactSearch:
    """The search for the bytes of some tags, with or without the bit of PROTECTED_POOL; its time is that of one tag.

    Each byte is replaced by four bits that say in which places of the tags it occurs. A window of these, as one large
    number, is compared with itself one, two and three bytes on: a bit remains where four bytes fit some tag each.

    Attributes:
        tags: the four bytes of each, without the bit.
    """

    def __init__(self, tags: Collection[bytes]) -> None:
        self.tags = frozenset(map(canonical, tags))
        places = bytearray(256)
        for tag in (*self.tags, *map(protected, self.tags)):
            for index, byte in enumerate(tag):
                places[byte] |= 1 << index
        self._places = bytes(places)

    def iter_offsets(self, data: bytes) -> Iterator[Tuple[int, bytes]]:
        """``(offset, tag)`` of every occurrence in ``data``, overlapping ones too; ``tag`` without the bit."""
        for start in range(0, len(data), _WINDOW_BYTES):
            window = data[start : start + _WINDOW_BYTES + TAG_BYTES - 1]
            bits = int.from_bytes(window.translate(self._places), "little")
            fitting = bits & bits >> 9 & bits >> 18 & bits >> 27 & _FIRST_BITS
            for match in _ONE.finditer(fitting.to_bytes(_WINDOW_BYTES, "little")) if fitting else ():
                tag = canonical(window[match.start() : match.end() + TAG_BYTES - 1])
                if tag in self.tags:
                    yield start + match.start(), tag
