"""What the command line has to know of pages: whether one can be made, and how it came about."""

from __future__ import annotations

import os
import shlex
import subprocess
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import Optional, Sequence

from pykdext import __version__
from pykdext.model import Origin
from pykdext.printable import hide_secrets

_LIBRARIES = ("jinja2", "plotly")


def find_page_problem(path: Optional[str], takes_documents: bool) -> Optional[str]:
    """Why no page can be made, in one line; None if it can.

    ``path``: the file it goes to; None: the screen. ``takes_documents``: it may be written there.
    """
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        return (
            f"--format html: found no {' and no '.join(missing)}, expected {' and '.join(_LIBRARIES)}. "
            "Hint: pip install 'pykdext[html]'"
        )
    if path is None and not takes_documents:
        return "--format html: found no file for some megabytes of page, expected one. Hint: -o report.html"
    return None


def describe_origin(typed: Sequence[str]) -> Origin:
    """The words that were typed after the program's name, this version, and now."""
    words = ["poolleak", *typed]
    command = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    return Origin(hide_secrets(command), __version__, datetime.now(timezone.utc))
