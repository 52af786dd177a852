"""Texts of which one must stand where a pattern matches: to look for them is far cheaper than to try the pattern.

Of regular expressions only what ``titlewords`` uses is understood; what is not certain costs time only.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Tuple


class _Atom(NamedTuple):
    """A part of a pattern: a ``literal`` character, or the alternatives of a plain ``group``; empty if neither."""

    literal: str
    group: str
    end: int


def find_literals(pattern: str) -> Tuple[str, ...]:
    """For each alternative a text that is part of all that it matches; an empty one, which all hold, if unknown."""
    found: List[str] = []
    for alternative in _split_alternatives(pattern):
        found += _find_certain(alternative)
    return tuple(dict.fromkeys(found))


def _find_certain(alternative: str) -> Tuple[str, ...]:
    """The longest run of literals, or the texts of a group that cannot be left out."""
    runs = [""]
    groups: List[str] = []
    place = 0
    while place < len(alternative):
        literal, group, place = _read_atom(alternative, place)
        times = alternative[place : place + 1]
        if times in ("?", "*", "{") and times:
            end = alternative.index("}", place) if times == "{" else place
            place = end + 1
            runs.append("")
            continue
        if group:
            groups.append(group)
        runs[-1] += literal
        if not literal or times == "+":
            place += times == "+"
            runs.append("")
    longest = max(runs, key=len)
    return (longest,) if longest or not groups else find_literals(groups[0])


def _read_atom(text: str, place: int) -> _Atom:
    character = text[place]
    if character == "\\":
        return _Atom("", "", place + 2)
    if character == "[":
        end = text.index("]", place + 2)
        inside = text[place + 1 : end]
        return _Atom("", "|".join(inside) if inside.isalpha() else "", end + 1)
    if character == "(":
        end = _find_end(text, place)
        inside = text[place + 1 : end]
        return _Atom("", inside[2:] if inside.startswith("?:") else "", end + 1)
    return _Atom("" if character in ".^$" else character, "", place + 1)


def _find_end(text: str, start: int) -> int:
    """Where the group ends that begins at ``start``."""
    depth = 0
    for place, is_syntax in _iter_syntax(text, start):
        depth += is_syntax and text[place] == "("
        depth -= is_syntax and text[place] == ")"
        if not depth:
            return place
    raise ValueError(f"found no end of the group at {start} in {text!r}")


def _split_alternatives(pattern: str) -> List[str]:
    depth = start = 0
    parts = []
    for place, is_syntax in _iter_syntax(pattern, 0):
        depth += is_syntax and pattern[place] == "("
        depth -= is_syntax and pattern[place] == ")"
        if is_syntax and pattern[place] == "|" and not depth:
            parts.append(pattern[start:place])
            start = place + 1
    return [*parts, pattern[start:]]


def _iter_syntax(text: str, start: int) -> Iterator[Tuple[int, bool]]:
    """Every place, and whether a parenthesis or bar there has a meaning: neither after a backslash nor in brackets."""
    place = start
    while place < len(text):
        if text[place] in "\\[":
            end = place + 2 if text[place] == "\\" else text.index("]", place + 2) + 1
            yield from ((inside, False) for inside in range(place, end))
            place = end
        else:
            yield place, True
            place += 1
