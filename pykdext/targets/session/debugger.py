"""Whether a debugger is around this Python. This is the only place that imports pykd, and not before it is needed."""

from __future__ import annotations

import ntpath
import sys
from typing import Any, Optional

from pykdext.errors import TargetError

_DEBUGGERS = frozenset(("windbg.exe", "enghost.exe", "dbgx.shell.exe", "kd.exe", "cdb.exe", "ntsd.exe"))
"""Programs that a script of pykd runs in: there sys.executable is not Python."""


def import_pykd() -> Any:
    """The module pykd; a TargetError tells what to do where it cannot be used."""
    try:
        import pykd
    except ImportError as error:
        version = ".".join(map(str, sys.version_info[:2]))
        reason = str(error).partition("\n")[0]
        raise TargetError(
            f"debugger session: found no usable pykd in Python {version} ({reason}), expected one. "
            "Hint: pykd exists for Windows and Python up to 3.9: pip install it there, and type !py -3.9 poolleak in "
            "WinDbg; outside WinDbg name a dump or a log"
        ) from None
    return pykd


def find_debugger() -> Optional[Any]:
    """The module pykd if a debugger runs this script, else None. In an ordinary Python nothing is imported."""
    if "pykd" not in sys.modules and "py" in ntpath.basename(sys.executable or "").lower():
        return None
    try:
        pykd = import_pykd()
    except TargetError:
        return None
    return pykd if pykd.isWindbgExt() else None


def is_in_debugger() -> bool:
    """Whether a debugger is around this Python, even one that pykd is missing in.

    Then its session is what a command without a source means.
    """
    return ntpath.basename(sys.executable or "").lower() in _DEBUGGERS or find_debugger() is not None
