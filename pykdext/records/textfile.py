"""Text files of unknown encoding: logs come from tools, consoles, editors, PowerShell and web pages."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Optional

from pykdext.errors import RecordFormatError
from pykdext.records.titlewords import count_foreign_words

MAX_TEXT_BYTES = 256 << 20
"""More than thousands of poolmon logs in one file; a larger file is no log."""

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CODE_PAGES = ("cp1252", "cp1251", "gb18030", "cp932", "cp949", "cp950", "cp850", "cp866")
"""Of Windows and of its console, in the languages of ``titlewords``."""

_FEWEST_WORDS = 3
"""So many known words no tags of any bytes hold by chance."""

_DUMP_MAGICS = (b"PAGEDU", b"MDMP")
_HEAD_BYTES = 4096
_ODD_CONTROLS = bytes(byte for byte in range(0x20) if byte not in b"\t\n\r\f\x1a")
_MAX_CONTROL_SHARE = 0.1
"""Tags may hold any byte, so even a log has some control characters; machine code and tables have many."""

_PLAIN_MARKS = str.maketrans({"\u202f": "\xa0", "\u2009": "\xa0", "\u2007": "\xa0", "\u2019": "'", "\u2212": "-"})
"""Typographic blanks, apostrophe and minus, which some locales print in numbers, as one byte each."""


@dataclass(frozen=True)
class TextFile:
    """A text file, read whole.

    Attributes:
        path: as the user gave it. written_at: when the file was last modified; None: it is none.
        raw: its bytes. encoding: that of Unicode text; None where each byte may be a character.
    """

    path: str
    written_at: Optional[datetime]
    raw: bytes
    encoding: Optional[str]

    @cached_property
    def data(self) -> bytes:
        """One byte a character, as the tools of Windows write logs, so that tags keep their bytes.

        Of a Unicode file the characters above U+00FF, which are no byte, are question marks.
        """
        return self.text.encode("latin-1", "replace") if self.encoding else self.raw

    @cached_property
    def text(self) -> str:
        r"""The characters; bytes of no known encoding are UTF-8 if they can be, else Latin-1. Lines end with ``\n``."""
        return decode_text(self.raw, self.encoding).translate(_PLAIN_MARKS).replace("\r\n", "\n")


def read_text_file(path: str) -> TextFile:
    """Read a text file.

    Raises:
        RecordFormatError: the file is larger than ``MAX_TEXT_BYTES``.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        raw = file.read(MAX_TEXT_BYTES + 1)
        written_at = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, timezone.utc)
    if len(raw) > MAX_TEXT_BYTES:
        raise RecordFormatError(path, None, f"more than {MAX_TEXT_BYTES >> 20} MB", "a log")
    return make_text_file(path, raw, written_at)


def make_text_file(path: str, raw: bytes, written_at: Optional[datetime] = None) -> TextFile:
    """The text of bytes that were read already."""
    return TextFile(path, written_at, raw, _find_unicode_encoding(raw))


def is_text_head(head: bytes) -> bool:
    """The first bytes of a file look like text in some encoding, and not like a dump."""
    if not head or head.startswith(_DUMP_MAGICS):
        return False
    if _find_unicode_encoding(head):
        return True
    controls = len(head) - len(head.translate(None, _ODD_CONTROLS))
    return controls <= _MAX_CONTROL_SHARE * len(head)


def decode_text(raw: bytes, encoding: Optional[str]) -> str:
    """The characters of bytes: of the encoding, or with None UTF-8 if they can be.

    Else of the code page of a Windows whose words for pools, dates and columns stand in them, or Latin-1.
    """
    if encoding:
        return raw.decode(encoding, "replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(_find_code_page(raw[:_HEAD_BYTES], _FEWEST_WORDS) or "latin-1", "replace")


def decode_words(raw: bytes) -> str:
    """The characters of bytes that hold no tags, of which every byte counts: one known word tells the code page."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(_find_code_page(raw, 1) or "latin-1", "replace")


def _find_code_page(head: bytes, fewest_words: int) -> Optional[str]:
    """The code page in which the most words are known; None if they are too few in all."""
    counts = {page: count_foreign_words(head.decode(page, "ignore")) for page in _CODE_PAGES}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] >= fewest_words else None


def _find_unicode_encoding(data: bytes) -> Optional[str]:
    """The encoding that a byte order mark, or UTF-16's many zero bytes, tell; None for text of single bytes."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return encoding
    head = data[:_HEAD_BYTES]
    for first, encoding in ((0, "utf-16-be"), (1, "utf-16-le")):
        zeros = head[first::2].count(0)
        if zeros > 0.9 * (len(head) // 2) and head[1 - first :: 2].count(0) < zeros / 10:
            return encoding
    return None
