"""The checks of the sources: types, style, and the oldest Python they run on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

OLDEST = ("-q", "--violations", "--no-tips", "-t=3.9-", "--eval-annotations", "--backport", "typing")


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("mypy", []),
        ("ruff", ["check", "."]),
        ("ruff", ["format", "--check", "."]),
        ("vermin", [*OLDEST, "pykdext", "dumps"]),
    ],
    ids=["types", "style", "format", "oldest python"],
)
def test_sources_are_clean(tool, arguments):
    pytest.importorskip(tool)
    command = Path(sys.executable).with_name(tool)
    done = subprocess.run([command, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
