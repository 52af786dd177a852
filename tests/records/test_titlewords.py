"""Titles in other languages: the texts that are looked for first change no answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykdext.records import titlewords
from pykdext.records.patternliterals import find_literals
from pykdext.records.titlewords import _TRANSLATIONS, english_words

PATTERNS = [pattern for _, pattern in _TRANSLATIONS]
matches = st.sampled_from(PATTERNS).flatmap(st.from_regex)


def translate_plainly(title):
    """Every pattern in its turn, whatever the text holds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(titlewords, "_may_be_foreign", lambda _: True)
        return english_words.__wrapped__(title)


@settings(max_examples=150)
@given(st.sampled_from(PATTERNS), st.data())
def test_what_a_pattern_matches_holds_one_of_its_literals(pattern, data):
    matched = data.draw(st.from_regex(pattern))
    literals = find_literals(pattern)
    assert all(literals) and any(literal in matched for literal in literals)


@settings(max_examples=150)
@given(st.lists(st.one_of(matches, st.sampled_from(["tag", "pool", "bytes", "Nonp", "7"])), max_size=4).map(" ".join))
def test_titles_become_the_words_that_every_pattern_in_its_turn_would_make(title):
    assert english_words(title) == translate_plainly(title)


@pytest.mark.parametrize(
    ("pattern", "literals"),
    [
        (r"\babc\w*|x?yz", ("abc", "yz")),
        (r"a(?:b|cd)e+f", ("a",)),
        (r"(?:pro|je)\b", ("pro", "je")),
        (r"[ab]c?", ("a", "b")),
        (r"ab{0,3}(?=not|this)(?!nor)", ("a",)),
        (r"\w+|\(x\)", ("", "x")),
        (r"[a-z]|[^q]", ("",)),
    ],
)
def test_literals_are_what_cannot_be_missing(pattern, literals):
    assert find_literals(pattern) == literals
