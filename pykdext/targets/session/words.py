"""What the debugger says in words: the session, the system, the unloaded drivers, the symbol at an address.

pykd has no functions for these; it has one for symbols, but that fills the command window with the engine's complaints
where a module has none. Sources: the debugger's documentation of ``vertarget``, ``||``, ``lm`` and ``ln``; all of it,
and ``.dumpdebug``, checked against the engine of Windows 10 1703.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Optional, Tuple

from pykdext.model import Machine, Module
from pykdext.targets.loader import MAX_IMAGE_BYTES, UNLOADED_DRIVER_SLOTS

_SYSTEM = re.compile(
    r"^Windows .*\bVersion (?P<build>\d+)\b.* (?:UP|MP \((?P<processors>\d+) procs\)) \w+ (?P<machine>.+?)\s*$", re.M
)
_MACHINES = {"x64": Machine.X64, "x86 compatible": Machine.X86, "ARM 64-bit (AArch64)": Machine.ARM64}

_TRIAGE_DUMP = "triage dump"
_LOCAL_KERNEL = "Local KD"
_CONNECTIONS = ("Remote KD", "eXDI KD")
_DUMP_PATH = re.compile(r"\bkernel (?:\w+ )?dump: (.+?)\s*$", re.IGNORECASE | re.MULTILINE)

_DEBUGGER_DATA = re.compile(r"^KdDebuggerDataBlock\s+([0-9a-f][0-9a-f`]*)\s*$", re.M)

_UNLOADED_HEADING = "Unloaded modules:"
_ADDRESS = r"([0-9a-f]{8}(?:`[0-9a-f]{8})?)"
_UNLOADED = re.compile(rf"^{_ADDRESS} {_ADDRESS}\s+(\S.*?)\s*$", re.M)

_NEAREST = re.compile(rf"^\({_ADDRESS}\) {{3}}\w+!(\S.*?)(?:\+0x([0-9a-f][0-9a-f`]*))?(?: {{3}}\||\s*$)", re.M)


@dataclass(frozen=True)
class SystemWords:
    """What ``vertarget`` says; None: it does not say, or in words that are not known."""

    build: Optional[int] = None
    processors: Optional[int] = None
    machine: Optional[Machine] = None


@dataclass(frozen=True)
class SessionWords:
    """What ``||.`` says of the current system: whether the debugger is connected to its kernel, or runs on it.

    ``dump_path`` is the file of a dump as the debugger was given it, on the debugger's machine; None for no dump.
    """

    is_connection: bool
    is_local: bool
    is_triage_dump: bool
    dump_path: Optional[str]


def run_command(pykd: Any, command: str) -> str:
    """What a debugger command prints; nothing where the debugger refuses it."""
    try:
        return pykd.dbgCommand(command) or ""
    except pykd.DbgException:
        return ""


def parse_system(text: str) -> SystemWords:
    """Understand the output of ``vertarget``."""
    found = _SYSTEM.search(text)
    if found is None:
        return SystemWords()
    return SystemWords(int(found["build"]), int(found["processors"] or 1), _MACHINES.get(found["machine"]))


def parse_session(text: str) -> SessionWords:
    """Understand the output of ``||.``."""
    path = _DUMP_PATH.search(text)
    return SessionWords(
        is_connection=any(word in text for word in _CONNECTIONS),
        is_local=_LOCAL_KERNEL in text,
        is_triage_dump=_TRIAGE_DUMP in text,
        dump_path=path[1] if path else None,
    )


def parse_debugger_data_address(text: str) -> Optional[int]:
    """Where the kernel's debugger data is, in the output of ``.dumpdebug``; None: it does not say."""
    found = _DEBUGGER_DATA.search(text)
    return (_parse_address(found[1]) or None) if found else None


def parse_nearest(text: str, address: int) -> Optional[Tuple[str, int]]:
    """The name without its module, and the bytes from there, in the output of ``ln`` for ``address``.

    None where nothing stands near, or only what begins behind the address or has ended before it: there the engine
    prints a distance that is none.
    """
    found = _NEAREST.search(text)
    if found is None:
        return None
    offset = _parse_address(found[3] or "0")
    return (found[2], offset) if _parse_address(found[1]) + offset == address else None


def parse_unloaded(text: str) -> Tuple[Module, ...]:
    """The unloaded drivers in the output of ``lm``, in its order: the one unloaded last first."""
    listed = text.partition(_UNLOADED_HEADING)[2]
    ranges = (
        (_parse_address(start), _parse_address(end), name)
        for start, end, name in _UNLOADED.findall(listed)[:UNLOADED_DRIVER_SLOTS]
    )
    return tuple(
        Module(name, start, end - start, unloaded=True)
        for start, end, name in ranges
        if 0 < end - start <= MAX_IMAGE_BYTES
    )


def _parse_address(text: str) -> int:
    return int(text.replace("`", ""), 16)
