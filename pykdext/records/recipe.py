"""The capture recipe: a PowerShell script that samples the pools with what Windows brings along.

It asks what ``live`` asks (NtQuerySystemInformation, GetPerformanceInfo, GetTickCount64) and writes CSV files that
``csvlog`` reads.
"""

from __future__ import annotations

import importlib.resources

_EVERY_SECONDS, _COUNT, _FOLDER = 900, 200, "."


def render_recipe(every_seconds: int = _EVERY_SECONDS, count: int = _COUNT, folder: str = _FOLDER) -> str:
    """The script; where it runs it takes ``count`` samples, one each ``every_seconds``, into ``folder``."""
    script = (importlib.resources.files("pykdext.records") / "data" / "capture.ps1").read_text(encoding="ascii")
    return script.replace(
        _render_settings(_EVERY_SECONDS, _COUNT, _FOLDER), _render_settings(every_seconds, count, folder)
    )


def _render_settings(every_seconds: int, count: int, folder: str) -> str:
    """The script's line of parameters; a quotation mark in a PowerShell string is doubled."""
    quoted = folder.replace("'", "''")
    return f"param([int]$EverySeconds = {every_seconds}, [int]$Count = {count}, [string]$Folder = '{quoted}')"
