"""What WinDbg needs to know ``!poolleak``: found around this Python, said in lines, and written as debugger scripts.

There are two ways: pykd reads the session itself, live or not; the JavaScript that WinDbg runs by itself starts
poolleak beside the debugger, on the dump that is open. Sources: the WinDbg documentation (.load, .scriptload, as,
$<), the behaviour of pykd's bootstrapper 2.0.0.24, and the extension path that WinDbg prints (.extpath).
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import ntpath
import os
import sys
import sysconfig
from dataclasses import dataclass
from typing import Iterator, List, Mapping, Optional, Sequence, Tuple

from pykdext.wholefile import write_text

SCRIPT_NAME = "poolleak.wds"
JAVASCRIPT_NAME = "poolleak.js"

_PROGRAM_LINE = 'const PROGRAM = ["poolleak"];'

BOOTSTRAPPER = "https://github.com/ivellioscolin/pykd-ext/releases"

PYKD_VERSIONS = ((3, 5), (3, 9))
"""The oldest and the newest Python 3 that pykd 0.3.4.15 has wheels for."""

_KIT_FOLDERS = (
    ("ProgramFiles(x86)", r"Windows Kits\10\Debuggers\x64"),
    ("ProgramFiles", r"Windows Kits\10\Debuggers\x64"),
)


_EXTENSION_FOLDER = ("Dbg", "EngineExtensions")
_STORE_DEBUGGER = ("Microsoft", "WindowsApps", "WinDbgX.exe")


@dataclass(frozen=True)
class Surroundings:
    """What matters to WinDbg of a Python and its machine.

    Attributes:
        is_windows: WinDbg runs here. version: of this Python. has_pykd: it is installed there.
        scripts_folder: where poolleak.py was installed. on_path: that folder is on PATH.
        debugger_folders: those of WinDbg that exist.
        extension_folder: of this user, where every WinDbg looks for extensions; None: not known.
        has_store_debugger: WinDbg of the Store is installed: its own folders are read-only.
        program: what starts poolleak outside of the debugger.
    """

    is_windows: bool
    version: Tuple[int, int]
    has_pykd: bool
    scripts_folder: str
    on_path: bool
    debugger_folders: Tuple[str, ...]
    extension_folder: Optional[str] = None
    has_store_debugger: bool = False
    program: Tuple[str, ...] = ("poolleak",)

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
    local = environment.get("LOCALAPPDATA")
    searched = map(os.path.normcase, environment.get("PATH", "").split(os.pathsep))
    return Surroundings(
        is_windows=sys.platform == "win32",
        version=sys.version_info[:2],
        has_pykd="pykd" in sys.modules or importlib.util.find_spec("pykd") is not None,
        scripts_folder=scripts_folder,
        on_path=os.path.normcase(scripts_folder) in (folder.rstrip("\\/") for folder in searched),
        debugger_folders=tuple(filter(os.path.isdir, _iter_debugger_folders(environment))),
        extension_folder=ntpath.join(local, *_EXTENSION_FOLDER) if local else None,
        has_store_debugger=bool(local) and os.path.lexists(ntpath.join(local or "", *_STORE_DEBUGGER)),
        program=(sys.executable, "-m", "pykdext") if _is_python(sys.executable) else ("poolleak",),
    )


def _is_python(program: str) -> bool:
    """Inside the debugger the program of this Python is the debugger."""
    return "py" in ntpath.basename(program or "").lower()


def _iter_debugger_folders(environment: Mapping[str, str]) -> Iterator[str]:
    """Where this runs inside the debugger its own folder, and where the Windows SDK installs it."""
    if not _is_python(sys.executable):
        yield ntpath.dirname(sys.executable or "")
    for variable, folder in _KIT_FOLDERS:
        if variable in environment:
            yield ntpath.join(environment[variable], folder)


def render_setup(found: Surroundings, written: Sequence[str] = ()) -> str:
    """The steps of both ways, each with what is already there; ``written``: the paths of the scripts."""
    return "".join(f"{line}\n" for line in (*_iter_simple_steps(found, written), "", *_iter_steps(found, written)))


def _iter_simple_steps(found: Surroundings, written: Sequence[str]) -> Iterator[str]:
    path = next((path for path in written if path.endswith(JAVASCRIPT_NAME)), None)
    if not found.is_windows:
        yield "This is not Windows: do these steps on the machine where WinDbg runs."
        yield ""
    yield "For a dump that is open: no pykd, no administrator, any Python from 3.9 on"
    if path is None:
        yield "  poolleak setup-windbg --write FOLDER makes the script poolleak.js; in WinDbg, once in every session:"
    else:
        yield "  In WinDbg, once in every session (or as a startup command in its settings):"
    yield f"     .scriptload {path or chr(92).join(('FOLDER', JAVASCRIPT_NAME))}"
    if path is not None and " " in path:
        yield "  .scriptload takes no path with blanks: choose another folder for --write."
    yield "  Then type !poolleak, or any command as one text:"
    yield '     !poolleak "used --top 5"'
    yield "  It starts poolleak beside the debugger. A live session has no file for it: that needs the other way."


def _iter_steps(found: Surroundings, written: Sequence[str]) -> Iterator[str]:
    path = next((path for path in written if path.endswith(SCRIPT_NAME)), None)
    python = ".".join(map(str, found.version))
    newest = ".".join(map(str, PYKD_VERSIONS[1]))
    yield "For live sessions, too: pykd"
    yield f"1. Python {newest} or older with pykd and poolleak; PyPI has pykd for no newer one (others build it"
    yield "   for newer ones: then install that wheel instead):"
    yield f"     py -{newest} -m pip install pykd FOLDER        (FOLDER: where poolleak's pyproject.toml is)"
    if found.has_pykd:
        yield f"   Python {python} here has pykd."
    else:
        reason = "has no pykd yet" if found.is_version_of_pykd else "has none on PyPI"
        yield f"   Python {python} here {reason}."
    yield "2. pykd's bootstrapper, the pykd.dll of pykd_ext (not the pykd.pyd of pip), from"
    yield f"     {BOOTSTRAPPER}"
    yield "   into a folder where WinDbg looks for extensions, that of its bits:"
    for folder in _list_extension_folders(found):
        target = ntpath.join(folder, "pykd.dll")
        yield f"     {target}{'  (is there)' if os.path.isfile(target) else ''}"
    if found.has_store_debugger:
        yield "   WinDbg of the Store is here; its own folders are read-only: take the first of these."
    yield "   or into any folder that _NT_DEBUGGER_EXTENSION_PATH names; or load it by its path:"
    yield r"     .load C:\folder\pykd.dll"
    if found.on_path:
        yield f"3. The scripts folder is on PATH, so !py finds poolleak: {found.scripts_folder}"
    else:
        yield "3. !py looks for poolleak along PATH. Add the scripts folder, or type !py -m pykdext instead:"
        yield f"     {found.scripts_folder}"
    yield "4. In WinDbg, once in every session:"
    yield from (f"     {line}" for line in _script_lines(found))
    if path is None:
        yield "   poolleak setup-windbg --write FOLDER makes a script of these lines."
    else:
        yield f"   These lines are in {path}; in WinDbg, or after windbg -c:"
        yield f"     $<{path}"
    yield f"   Then type !poolleak (or {found.command}). Options such as -{newest} choose the Python, before the name."


def _list_extension_folders(found: Surroundings) -> List[str]:
    mine = found.extension_folder or ntpath.join("%LOCALAPPDATA%", *_EXTENSION_FOLDER)
    return [mine, *(ntpath.join(folder, "winext") for folder in found.debugger_folders)]


def _script_lines(found: Surroundings) -> Tuple[str, str]:
    return ".load pykd", found.alias


def save_scripts(folder: str, found: Surroundings) -> Tuple[str, ...]:
    """Write the debugger's scripts into ``folder``, one for each way; returns their paths.

    Raises:
        OSError: the folder is missing or read-only.
    """
    source = (importlib.resources.files("pykdext.cli") / "data" / JAVASCRIPT_NAME).read_text(encoding="ascii")
    assert _PROGRAM_LINE in source
    contents = {
        JAVASCRIPT_NAME: source.replace(_PROGRAM_LINE, f"const PROGRAM = {json.dumps(found.program)};"),
        SCRIPT_NAME: "".join(f"{line}\n" for line in _script_lines(found)),
    }
    paths = []
    for name, text in contents.items():
        paths.append(os.path.join(folder, name))
        write_text(paths[-1], text)
    return tuple(paths)
