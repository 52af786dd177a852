"""Names of modules: as the debugger's commands want them (WinDbg documentation: module names), and for comparison."""

from __future__ import annotations

import re

_KERNEL_STEMS = frozenset(("nt", "ntoskrnl", "ntkrnlmp", "ntkrnlpa", "ntkrpamp", "ntkrla57"))
"""What the kernel's file is called: on disk, in its own headers, with PAE, with page tables of five levels."""

_KERNEL_NAMES = frozenset(("nt", *(f"{stem}.exe" for stem in _KERNEL_STEMS)))
_NOT_OF_NAMES = re.compile(r"[^A-Za-z0-9_]")


def find_engine_name(file_name: str) -> str:
    """``pippo`` for ``pippo.sys``, ``a_b`` for ``a-b.sys``, ``nt`` for the kernel: always one harmless word."""
    stem = file_name.rsplit(".", 1)[0]
    return "nt" if stem.lower() in _KERNEL_STEMS else _NOT_OF_NAMES.sub("_", stem)


def canonical_name(name: str) -> str:
    """A module's name for comparison: lower case, and ``nt`` for the kernel under any of its names."""
    lower = name.lower()
    return "nt" if lower in _KERNEL_NAMES else lower
