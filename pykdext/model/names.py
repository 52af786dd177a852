"""The debugger's own names of modules, which its commands want (WinDbg documentation: module names)."""

from __future__ import annotations

import re

_KERNEL_STEMS = frozenset(("ntoskrnl", "ntkrnlmp", "ntkrnlpa", "ntkrpamp"))
_NOT_OF_NAMES = re.compile(r"[^A-Za-z0-9_]")


def find_engine_name(file_name: str) -> str:
    """``pippo`` for ``pippo.sys``, ``a_b`` for ``a-b.sys``, ``nt`` for the kernel: always one harmless word."""
    stem = file_name.rsplit(".", 1)[0]
    return "nt" if stem.lower() in _KERNEL_STEMS else _NOT_OF_NAMES.sub("_", stem)
