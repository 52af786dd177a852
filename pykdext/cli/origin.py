"""What the command line has to know of pages: whether one can be made, and how it came about."""

from __future__ import annotations

import os
import shlex
import subprocess
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import Optional, Sequence

from pykdext import __version__
from pykdext.errors import say_install
from pykdext.model import Origin
from pykdext.printable import hide_secrets


def find_page_problem(path: Optional[str], takes_documents: bool) -> Optional[str]:
    """Why no page can be made, in one line; None if it can.

    ``path``: the file it goes to; None: the screen. ``takes_documents``: it may be written there.
    """
    if find_spec("jinja2") is None:
        return f"--format html: found no jinja2, expected it for the pages. Hint: {say_install('html')}"
    if path is None and not takes_documents:
        return "--format html: found no file for the page, expected one. Hint: -o report.html"
    return None


def describe_origin(typed: Sequence[str]) -> Origin:
    """The words that were typed after the program's name, this version, and now."""
    words = ["poolleak", *typed]
    command = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    return Origin(hide_secrets(command), __version__, datetime.now(timezone.utc))
