"""The name of the machine that a dump is of. A dump does not tell it, so it comes from the path."""

from __future__ import annotations

import re
from typing import List, Optional

AUTOMATIC, FOLDER, NAME = "auto", "folder", "name"
PLACEHOLDER = "{host}"

_SUFFIXES = re.compile(r"\.(dmp|mdmp|hdmp|gz|xz|zip|json|txt|log|csv)$", re.IGNORECASE)
_DECORATION = re.compile(
    r"(?<![^\W_])"
    r"(?:memory|mini|minidump|crash|crashdump|dump|dmp|full|kernel|complete|active|automatic|snapshot|copy"
    r"|mini\d{6}"  # Windows' own names of small dumps: Mini112326-01, 112326-12345-01
    r"|\d{6}-\d{1,6}-\d\d"
    r"|\d{4}[-_.]?[01]\d[-_.]?[0-3]\d(?:[T _.-]*[0-2]\d[-_.h]?[0-5]\d(?:[-_.m]?[0-5]\d)?s?)?Z?)"
    r"(?![^\W_])",
    re.IGNORECASE,
)
_EDGES = " -_.()[]{}#"
_FOLDERS_OF_WINDOWS = re.compile(
    r"(mini|crash|memory)?[ _-]?dumps?|livekernelreports|windows|[a-z]:|users|temp|tmp|\d*", re.IGNORECASE
)


def find_host(path: str, rule: str = AUTOMATIC) -> str:
    """The host that a path or URL names.

    ``rule`` is ``folder`` (the folder's name), ``name`` (the file's, without suffixes), a pattern of the path's end in
    which ``{host}`` stands for the name and ``*`` for anything (``{host}/*.dmp``, ``dump-{host}-*.dmp``), or ``auto``:
    the file's name without dates and words such as MEMORY, or where nothing is left of it the nearest folder's.
    A pattern that does not match falls back to ``auto``.
    """
    place = path.partition("?")[0] if "://" in path else path
    parts = [part for part in re.split(r"[/\\]+", place) if part not in ("", ".", "..")]
    if not parts:
        return path
    stem = _strip_suffixes(parts[-1])
    if rule == NAME:
        return stem
    if rule == FOLDER:
        return parts[-2] if len(parts) > 1 else stem
    matched = None if rule == AUTOMATIC else _match(rule, parts)
    return matched or _strip_decoration(stem) or _nearest_folder(parts[:-1]) or stem


def is_rule(text: str) -> bool:
    """Whether ``find_host`` knows the rule."""
    return text in (AUTOMATIC, FOLDER, NAME) or text.count(PLACEHOLDER) == 1


def _strip_suffixes(name: str) -> str:
    while (shorter := _SUFFIXES.sub("", name)) not in (name, ""):
        name = shorter
    return name


def _strip_decoration(stem: str) -> Optional[str]:
    """What is left of a file's name; None if that is no name."""
    left = re.sub(r"[-_. ]{2,}", "-", _DECORATION.sub("", stem)).strip(_EDGES)
    return left if re.search(r"[^\W\d_]", left) else None


def _nearest_folder(folders: List[str]) -> Optional[str]:
    return next((folder for folder in reversed(folders) if not _FOLDERS_OF_WINDOWS.fullmatch(folder)), None)


def _match(pattern: str, parts: List[str]) -> Optional[str]:
    """The host in the last parts of a path, as many as the pattern has."""
    wanted = pattern.replace("\\", "/").strip("/")
    wild = {"*": "[^/]*", PLACEHOLDER: "(?P<host>[^/]+?)"}
    expression = "".join(wild.get(piece, re.escape(piece)) for piece in re.split(r"(\*|\{host\})", wanted))
    tail = "/".join(parts[-1 - wanted.count("/") :])
    found = re.fullmatch(expression, tail, re.IGNORECASE)
    return found.group("host") if found else None
