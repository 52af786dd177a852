"""Text made fit to be shown: what is not printable ASCII as an escape sequence, secrets of URLs not at all."""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import AbstractSet, Optional

LINE_END = frozenset("\n")

_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_ESCAPE_CHARACTERS = 10
_NOT_PLAIN = re.compile("[^ -~]")

_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s]*(?=@)")
_TOKEN_AS_USER = re.compile(r"(?<=://)(?![a-z][a-z._-]{0,15}@)[^/\s:@*]+(?=@)")
"""What reads like a person's name stays; capitals, digits and length make a token of it."""

_SECRET_VALUE = re.compile(
    r"([?&;#][^=&?;#\s]{0,64}(?:sig|token|secret|passw|passphrase|credential|key|auth|code|jwt|session)[^=&?;#\s]{0,64}="
    r"|[?&;#](?:pass|pw|pwd|sid|sas)=)[^&;#\s'\"]+",
    re.IGNORECASE,
)


def make_printable(text: str, kept: AbstractSet[str] = LINE_END) -> str:
    r"""``text`` with every character outside of printable ASCII as ``\x1b`` or ``\u202e``, but for those ``kept``."""
    if text.isascii() and text.isprintable():
        return text
    return _NOT_PLAIN.sub(lambda found: found[0] if found[0] in kept else _escape(found[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def make_visible(text: str) -> str:
    r"""``text`` with control, formatting and half characters as ``\x1b`` or ``\u202e``; letters of all scripts stay.

    What is left can be written as UTF-8, and shows what it holds: nothing turns its direction or hides.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def make_readable(text: str, encoding: str, kept: AbstractSet[str] = LINE_END) -> str:
    r"""``make_visible`` for a terminal of this encoding: what it cannot show is an escape sequence, too."""
    if text.isascii():
        return make_printable(text, kept)
    return "".join(
        character
        if character in kept or (character.isprintable() and _is_encodable(character, encoding))
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def count_columns(text: str) -> int:
    """How many columns of a terminal the text takes: wide characters (Chinese, Japanese, Korean) two, marks none."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def take_columns(text: str, columns: int) -> str:
    """As many characters from the beginning of the text as fit into so many columns; no escape sequence is parted."""
    end = _count_fitting(text, columns)
    parted = _find_escape(text, end)
    return text[: parted.start() if parted else end]


def take_last_columns(text: str, columns: int) -> str:
    """The same from the end of the text."""
    start = len(text) - _count_fitting(text[::-1], columns)
    parted = _find_escape(text, start)
    return text[parted.end() if parted else start :]


def _count_fitting(text: str, columns: int) -> int:
    """How many characters from the beginning fit into so many columns."""
    if text.isascii():
        return max(0, min(len(text), columns))
    taken = 0
    for index, character in enumerate(text):
        taken += _columns_of(character)
        if taken > columns:
            return index
    return len(text)


def _find_escape(text: str, place: int) -> Optional[re.Match[str]]:
    """The escape sequence that begins before ``place`` and ends behind it."""
    found = _ESCAPE.finditer(text, max(0, place - _ESCAPE_CHARACTERS), place + _ESCAPE_CHARACTERS)
    return next((match for match in found if match.start() < place < match.end()), None)


def pad_columns(text: str, columns: int, *, right: bool = False) -> str:
    """The text with blanks behind it, or before it if it stands to the ``right``, up to so many columns."""
    blanks = " " * (columns - count_columns(text))
    return f"{blanks}{text}" if right else f"{text}{blanks}"


def _is_encodable(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def quote_word(word: str, platform: str = sys.platform) -> str:
    """A word as it can be pasted behind a command, into a POSIX shell or into PowerShell and cmd of Windows.

    Nothing in it is expanded or run. Simple words stay, blanks alone need quotation marks.
    """
    if word.startswith("-"):
        word = f".{'/' if platform != 'win32' else chr(92)}{word}"
    if re.fullmatch(r"[\w@%+=:,./~\\-]+" if platform == "win32" else r"[\w@%+=:,./-]+", word):
        return word
    if not re.search(r"[\"$`!\n]|\\\Z" if platform == "win32" else r"[\"$`!\\\n]", word):
        return f'"{word}"'
    if platform == "win32":
        return "'" + word.replace("'", "''") + "'"
    return "'" + word.replace("'", "'\\''") + "'"


def make_encodable(name: str) -> str:
    """A name as text that any file can hold: bytes of it that are no characters become escape sequences."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def hide_secrets(text: str) -> str:
    """``text`` in which URLs have ``***`` for passwords and for what signs a link: reports are handed on."""
    if "://" not in text:
        return text
    without_users = _TOKEN_AS_USER.sub("***", _PASSWORD.sub(r"\1:***", text))
    return _SECRET_VALUE.sub(r"\1***", without_users)
