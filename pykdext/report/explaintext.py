"""Why a tag list says what it says: every entry that matches a tag, which one won, and by which rule."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from pykdext.model import PoolTag, TagDescription, TagLookup
from pykdext.report.layout import format_table, wrap
from pykdext.report.markup import PLAIN, Line, Markup, render_lines
from pykdext.report.sentences.tags import verdict_on_explanation
from pykdext.units import count_things

EXPLANATION_SCHEMA = "poolleak.explanation/1"

_RULE = (
    "An entry with the tag itself wins over one with ?, which stands for any one character, and that over one with *, "
    "which stands for any end; among equals the one that gives more characters, then the first in the list. The first "
    "list with an entry is believed."
)

Explained = Sequence[Tuple[PoolTag, Sequence[TagLookup]]]


def render_explanation_text(explained: Explained, width: int, markup: Markup = PLAIN) -> str:
    """Each tag with the entries of every list, the winner first."""
    lines: List[Line] = []
    for tag, lookups in explained:
        lines += [f"{tag}  ({tag.hex})", *_lookup_lines(lookups, width), ""]
    if any(lookup.matches for _, lookups in explained for lookup in lookups):
        lines += wrap(_RULE, width)
    elif lines:
        lines.pop()  # the empty line behind the last tag
    return render_lines(lines, markup, width)


def render_explanation_json(explained: Explained) -> str:
    """``poolleak.explanation/1``."""
    tags = [
        {
            "tag": tag.text,
            "hex": tag.hex,
            "lists": [{"name": lookup.list_name, "entries": lookup.entries} for lookup in lookups],
            "matches": list(iter_entry_documents(lookups)),
        }
        for tag, lookups in explained
    ]
    return (
        json.dumps({"schema": EXPLANATION_SCHEMA, "verdict": verdict_on_explanation(explained), "tags": tags}, indent=2)
        + "\n"
    )


def iter_entry_documents(lookups: Sequence[TagLookup]) -> Iterator[Dict[str, Any]]:
    """Every entry that matches a tag, the one that is believed first."""
    for number, (name, item) in enumerate(_iter_matches(lookups)):
        yield {
            "list": name,
            "pattern": item.pattern,
            "module": item.module,
            "text": item.text,
            "source": item.source,
            "won": number == 0,
            "why": _why(item.pattern),
        }


def _lookup_lines(lookups: Sequence[TagLookup], width: int) -> Iterator[str]:
    """The lists without an entry, then one table of all entries: the first one won."""
    for lookup in lookups:
        if not lookup.matches:
            yield f"  {lookup.list_name}: none of its {count_things(lookup.entries, 'entry', 'entries')} matches"
    matches = list(_iter_matches(lookups))
    if matches:
        rows = [
            ("behind" if number else "won", item.pattern, item.module or "-", _why(item.pattern), item.source)
            for number, (_, item) in enumerate(matches)
        ]
        table = format_table(("", "Entry", "Module", "Why it matches", "Where"), rows, ("left",) * 5, width - 2)
        yield from (f"  {line}" for line in table)
        yield from wrap(matches[0][1].text, width, "  ")


def _iter_matches(lookups: Sequence[TagLookup]) -> Iterator[Tuple[str, TagDescription]]:
    """Every entry with the name of its list, the one that is believed first."""
    return ((lookup.list_name, item) for lookup in lookups for item in lookup.matches)


def _why(pattern: str) -> str:
    start, star, _ = pattern.partition("*")
    if star:
        return f"the tag begins with {start!r}"
    wild = pattern.count("?")
    return f"{4 - wild} of 4 characters are given" if wild else "it is the tag itself"
