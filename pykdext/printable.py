"""Text from hostile memory made harmless: what is not printable ASCII is shown as an escape sequence."""

from __future__ import annotations

from typing import AbstractSet

LINE_END = frozenset("\n")


def make_printable(text: str, kept: AbstractSet[str] = LINE_END) -> str:
    r"""``text`` with every character outside of printable ASCII as ``\x1b`` or ``\u202e``, but for those ``kept``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in kept or (character.isascii() and character.isprintable())
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


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
