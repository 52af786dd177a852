"""Whole screens at 80, 100 and 200 columns, to the letter: as files that can be looked at.

A screen that is missing is written, and the test fails once: look at it before it is kept.
"""

from __future__ import annotations

import lzma
import re
import sys

import pytest

from pykdext.cli.main import main
from tests.cli.test_screen import Terminal
from tests.conftest import PROJECT

FOLDER = PROJECT / "tests" / "cli" / "screens"
SAMPLE = PROJECT / "dumps" / "samples" / "pipo-19041.dmp.xz"

SCREENS = {
    "verdict": ["sample.dmp"],
    "used": ["used", "sample.dmp", "--top", "8"],
    "trend": ["trend", "poolmon"],
    "diff": ["diff", "poolmon/poolmon-2024-11-10_1600.txt", "poolmon/poolmon-2024-11-12_0300.txt"],
    "batch": ["batch", "sample.dmp", "Müller.dmp", "日本サーバー.dmp", "--jobs", "2", "--store", "fleet"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screens")
    dump = lzma.decompress(SAMPLE.read_bytes())
    for name in ("sample", "Müller", "日本サーバー"):
        (folder / f"{name}.dmp").write_bytes(dump)
    (folder / "poolmon").symlink_to(SAMPLE.parent / "poolmon", target_is_directory=True)
    return folder


@pytest.fixture
def show(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def show(words, columns):
        for name, value in {"LINES": "500", "COLUMNS": str(columns), "NO_COLOR": "1"}.items():
            monkeypatch.setenv(name, value)
        terminal = Terminal("utf-8")
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(words) == 0
        return re.sub(r"(?m)^\d+ dumps? read in .*", "dumps read in ...", terminal.getvalue())

    return show


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_as_it_was_looked_at(show, name):
    for columns in (80, 100, 200):
        path = FOLDER / f"{name}-{columns}.txt"
        shown = show(SCREENS[name], columns)
        if not path.is_file():
            path.write_text(shown, encoding="utf-8")
            pytest.fail(f"{path.name} was written: look at it")
        assert shown == path.read_text(encoding="utf-8"), path.name
