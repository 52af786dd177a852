"""Words that are handed on: pasted into shells."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.printable import count_columns, make_readable, quote_word, take_columns, take_last_columns

_WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1)


@given(_WORDS)
def test_a_shell_reads_the_word_back(word):
    wanted = f"./{word}" if word.startswith("-") else word
    assert shlex.split(f"poolleak used {quote_word(word, 'linux')}") == ["poolleak", "used", wanted]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("word", ["$(touch x)", "`touch x`", 'a"; touch x; "', "a b", "a'b", "!x", "-rf", "a\\", "*"])
def test_nothing_in_a_word_is_run(word, tmp_path):
    script = f"printf %s {quote_word(word, 'linux')}"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout in (word, f"./{word}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        (r"C:\dumps\a.dmp", r"C:\dumps\a.dmp"),
        (r"C:\my dumps\a.dmp", r'"C:\my dumps\a.dmp"'),
        (r"C:\$(calc)\a.dmp", r"'C:\$(calc)\a.dmp'"),
        (r"C:\it's `x\a.dmp", r"'C:\it''s `x\a.dmp'"),
        ("-x.dmp", r".\-x.dmp"),
    ],
)
def test_words_of_windows(word, quoted):
    assert quote_word(word, "win32") == quoted


@given(st.text(alphabet="aб日\u202e\U0001f600\\", max_size=12), st.integers(0, 40))
def test_no_cut_parts_an_escape_sequence(text, columns):
    """What is taken is made of whole characters, from either end."""
    for encoding in ("ascii", "utf-8"):
        shown = [make_readable(character, encoding) for character in text]
        whole = "".join(shown)
        heads = {"".join(shown[:count]) for count in range(len(shown) + 1)}
        tails = {"".join(shown[count:]) for count in range(len(shown) + 1)}
        head, tail = take_columns(whole, columns), take_last_columns(whole, columns)
        assert head in heads and tail in tails
        assert count_columns(head) <= columns and count_columns(tail) <= columns
