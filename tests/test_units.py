"""Words for counts, and how an extra is installed."""

from __future__ import annotations

import sys

import pytest

from pykdext.errors import say_install
from pykdext.units import count_things, format_bytes, format_rate, say_rest


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 blocks"), (1, "1 block"), (2, "2 blocks"), (1234567, "1,234,567 blocks")]
)
def test_one_of_a_thing_is_no_plural(count, words):
    assert count_things(count, "block") == words


def test_words_whose_plural_is_their_own():
    assert count_things(1, "process", "processes") == "1 process"
    assert count_things(3, "process", "processes") == "3 processes"


def test_hints_name_the_python_that_runs(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/py/bin/python3.11")
    assert say_install("html") == '/opt/py/bin/python3.11 -m pip install "pykdext[html]"'
    for program in (r"C:\Kits\x64\windbg.exe", r"C:\My Tools\python.exe", ""):
        monkeypatch.setattr(sys, "executable", program)
        assert say_install("vm") == 'python -m pip install "pykdext[vm]"'


def test_the_rest_of_many_is_counted_too():
    assert [say_rest(total, 3, "size") for total in (3, 4, 9)] == ["", "and 1 more size", "and 6 more sizes"]
    assert say_rest(5, 4, "process", "processes") == "and 1 more process"


@pytest.mark.parametrize(
    ("size", "words"), [(1, "1 byte"), (-1, "-1 byte"), (0.4, "0 bytes"), (-0.4, "0 bytes"), (1023, "1,023 bytes")]
)
def test_sizes_below_a_kilobyte_are_whole_bytes_without_a_sign_of_nothing(size, words):
    assert format_bytes(size) == words
    assert format_rate(size).lstrip("+") == words
    assert format_rate(size).startswith("+") is (round(size) > 0)
