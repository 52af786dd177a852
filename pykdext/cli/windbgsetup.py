"""What WinDbg needs to know ``!poolleak``: found around this Python, said in lines, and written as a debugger script.

Sources: the WinDbg documentation (.load, as, $<) and the behaviour of pykd's bootstrapper 2.0.0.24.
"""

from __future__ import annotations

import importlib.util
import ntpath
import os
import sys
import sysconfig
from dataclasses import dataclass
from typing import Iterator, Mapping, Optional, Tuple

from pykdext.wholefile import write_text

SCRIPT_NAME = "poolleak.wds"

PYKD_VERSIONS = ((3, 5), (3, 9))
"""The oldest and the newest Python 3 that pykd 0.3.4.15 has wheels for."""

_KIT_FOLDERS = (
    ("ProgramFiles(x86)", r"Windows Kits\10\Debuggers\x64"),
    ("ProgramFiles", r"Windows Kits\10\Debuggers\x64"),
)


@dataclass(frozen=True)
class Surroundings:
    """What matters to WinDbg of a Python and its machine.

    Attributes:
        is_windows: WinDbg runs here. version: of this Python. has_pykd: it is installed there.
        scripts_folder: where poolleak.py was installed. on_path: that folder is on PATH.
        debugger_folders: those of WinDbg that exist.
    """

    is_windows: bool
    version: Tuple[int, int]
    has_pykd: bool
    scripts_folder: str
    on_path: bool
    debugger_folders: Tuple[str, ...]

    @property
    def is_version_of_pykd(self) -> bool:
        """Whether pykd exists for this Python."""
        oldest, newest = PYKD_VERSIONS
        return oldest <= self.version <= newest

    @property
    def command(self) -> str:
        """What to type in WinDbg to start poolleak with this Python, or with pykd's newest."""
        version = self.version if self.is_version_of_pykd else PYKD_VERSIONS[1]
        return f"!py -{version[0]}.{version[1]} {'poolleak' if self.on_path else '-m pykdext'}"

    @property
    def alias(self) -> str:
        """The line that makes it ``!poolleak``."""
        return f"as !poolleak {self.command}"


def read_surroundings(environment: Mapping[str, str] = os.environ) -> Surroundings:
    """Look at this Python and, by ``environment``, at this machine."""
    scripts_folder = sysconfig.get_path("scripts")
    searched = map(os.path.normcase, environment.get("PATH", "").split(os.pathsep))
    return Surroundings(
        is_windows=sys.platform == "win32",
        version=sys.version_info[:2],
        has_pykd="pykd" in sys.modules or importlib.util.find_spec("pykd") is not None,
        scripts_folder=scripts_folder,
        on_path=os.path.normcase(scripts_folder) in (folder.rstrip("\\/") for folder in searched),
        debugger_folders=tuple(filter(os.path.isdir, _iter_debugger_folders(environment))),
    )


def _iter_debugger_folders(environment: Mapping[str, str]) -> Iterator[str]:
    """Where this runs inside the debugger its own folder, and where the Windows SDK installs it."""
    if "py" not in ntpath.basename(sys.executable or "").lower():
        yield ntpath.dirname(sys.executable or "")
    for variable, folder in _KIT_FOLDERS:
        if variable in environment:
            yield ntpath.join(environment[variable], folder)


def render_setup(found: Surroundings, script_path: Optional[str] = None) -> str:
    """The steps, each with what is already there; ``script_path``: where the debugger script was written."""
    return "".join(f"{line}\n" for line in _iter_steps(found, script_path))


def _iter_steps(found: Surroundings, script_path: Optional[str]) -> Iterator[str]:
    python = ".".join(map(str, found.version))
    newest = ".".join(map(str, PYKD_VERSIONS[1]))
    if not found.is_windows:
        yield "This is not Windows: do these steps on the machine where WinDbg runs."
        yield ""
    yield f"1. Python {newest} or older with pykd and poolleak, as pykd exists for no newer one:"
    yield f"     py -{newest} -m pip install pykd FOLDER        (FOLDER: where poolleak's pyproject.toml is)"
    if found.has_pykd:
        yield f"   Python {python} here has pykd."
    else:
        reason = "has no pykd yet" if found.is_version_of_pykd else "cannot have pykd"
        yield f"   Python {python} here {reason}."
    yield "2. pykd's bootstrapper, the pykd.dll of pykd_ext (not the pykd.pyd of pip), into WinDbg's winext folder:"
    for folder in found.debugger_folders or (r"C:\Program Files (x86)\Windows Kits\10\Debuggers\x64",):
        target = ntpath.join(folder, "winext", "pykd.dll")
        yield f"     {target}{'  (is there)' if os.path.isfile(target) else ''}"
    yield r"   or into any other folder; then load it by its path: .load C:\folder\pykd.dll"
    if found.on_path:
        yield f"3. The scripts folder is on PATH, so !py finds poolleak: {found.scripts_folder}"
    else:
        yield "3. !py looks for poolleak along PATH. Add the scripts folder, or type !py -m pykdext instead:"
        yield f"     {found.scripts_folder}"
    yield "4. In WinDbg, once in every session:"
    yield from (f"     {line}" for line in _script_lines(found))
    if script_path is None:
        yield "   poolleak setup-windbg --write FOLDER makes a script of these lines."
    else:
        yield f"   These lines are in {script_path}; in WinDbg, or after windbg -c:"
        yield f"     $<{script_path}"
    yield f"   Then type !poolleak (or {found.command}). Options such as -{newest} choose the Python, before the name."


def _script_lines(found: Surroundings) -> Tuple[str, str]:
    return ".load pykd", found.alias


def save_script(folder: str, found: Surroundings) -> str:
    """Write the debugger script into ``folder``; returns its path.

    Raises:
        OSError: the folder is missing or read-only.
    """
    path = os.path.join(folder, SCRIPT_NAME)
    write_text(path, "".join(f"{line}\n" for line in _script_lines(found)))
    return path
