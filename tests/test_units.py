"""Words for counts, and how an extra is installed."""

from __future__ import annotations

import sys

import pytest

from pykdext.errors import say_install
from pykdext.units import count_things


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
