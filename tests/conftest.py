"""What all tests share."""

from __future__ import annotations

import concurrent.futures.process  # noqa: F401 - before a test takes it out of the loaded modules again: pickle wants one of it
import os
import sys
from pathlib import Path

import hypothesis
import pytest

os.environ["POOLLEAK_CACHE"] = "off"  # no test leaves anything in the user's folders, or finds it there
# Hundreds of tests start the tool anew, as its users do: from compiled modules, even where the machine keeps none.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)  # how long an example takes tells more of the machine than of the code
hypothesis.settings.load_profile("patient")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of ``-n auto``: one more than processors, as a third of the time tests wait for processes, Wine and browsers."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def no_progress_lines(monkeypatch) -> None:
    """Let no command report its progress by lines: whether one is due depends on the load of the machine."""
    monkeypatch.setattr("pykdext.cli.screen.LINE_SECONDS", float("inf"))


@pytest.fixture(scope="session")
def evidence() -> Path:
    """The folder of real logs and dumps, or a skip: it is not part of the repository."""
    folder = PROJECT.parent / "shared" / "evidence"
    if not folder.is_dir():
        pytest.skip("the evidence folder (real logs and dumps) is not beside this checkout")
    return folder
