"""The package's own table of well-known pool tags, for machines without a pooltag.txt."""

from __future__ import annotations

import functools
import importlib.resources
from typing import Iterator

from pykdext.attribution.taglists import PoolTagList
from pykdext.model import TagDescription

_SEPARATOR = " | "
_THIRD_PARTY = "(third party)"


@functools.cache
def load_knowntags() -> PoolTagList:
    """The table, parsed once: ``tag | module | class | what it is | what to ask next`` a line, ``#`` for comments."""
    table = importlib.resources.files("pykdext.attribution") / "data" / "knowntags.txt"
    return PoolTagList(_parse_table(table.read_text(encoding="utf-8")))


def _parse_table(text: str) -> Iterator[TagDescription]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            module, tag_class, what, next_question = line[4 + len(_SEPARATOR) :].split(_SEPARATOR)
            named = "" if module == _THIRD_PARTY else module
            yield TagDescription(line[:4], named, what, "built-in table", tag_class, next_question)
