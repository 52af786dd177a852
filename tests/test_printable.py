"""Words that are handed on: pasted into shells."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykdext.printable import quote_word

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
