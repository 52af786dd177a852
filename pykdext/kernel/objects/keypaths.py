"""Paths of registry keys: from the control block of a key by its parents to the root.

The names are in blocks of their own, in single bytes where they are compressed. Where a kernel's own layout is not
known, those of others with pointers of the same size are tried; what is read by them is believed only if the path ends
where every path does. Sources: public symbols (JPCERTCC/Windows-Symbol-Tables, ntdiff/headers).
"""

from __future__ import annotations

from itertools import product
from typing import Dict, List, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.objects.bodyreader import BodyReader, make_printable
from pykdext.model import Struct

_ROOT = "REGISTRY"
_MAX_DEPTH = 64
_MAX_PART_BYTES = 512
_Forms = Tuple[Struct, Struct]


class KeyPathReader:
    """The paths of one kernel's keys; the layouts that told the first one stay."""

    def __init__(self, bodies: BodyReader) -> None:
        self._bodies = bodies
        self._paths: Dict[int, Optional[str]] = {}
        self._candidates: Optional[List[_Forms]] = None

    def find(self, block: int) -> Optional[str]:
        r"""``\REGISTRY\MACHINE\SOFTWARE``: the path of the key of a control block; None: it cannot be read."""
        if block not in self._paths:
            self._paths[block] = self._read(block)
        return self._paths[block]

    def _read(self, block: int) -> Optional[str]:
        if self._candidates is None:
            self._candidates = list(
                product(
                    self._bodies.forms("_CM_KEY_CONTROL_BLOCK", "NameBlock", "ParentKcb"),
                    self._bodies.forms("_CM_NAME_CONTROL_BLOCK", "NameLength", "Name"),
                )
            )
        is_sure = len(self._candidates) == 1 and not any("calibration" in form.source for form in self._candidates[0])
        for forms in self._candidates:
            parts, end = self._climb(block, *forms)
            is_whole = not end and bool(parts) and parts[-1] == _ROOT
            if not parts or not (is_whole or is_sure):
                continue
            if is_whole:
                self._candidates = [forms]
            return ("" if end else "\\") + "\\".join(reversed(parts))
        return None

    def _climb(self, block: int, keys: Struct, names: Struct) -> Tuple[List[str], int]:
        """The names from a key upwards, and the control block whose name could not be read; 0: there was no further."""
        parts: List[str] = []
        seen = set()
        while block and block not in seen and len(parts) < _MAX_DEPTH:
            seen.add(block)
            name = self._read_name(self._bodies.field(keys, block, "NameBlock"), names)
            if name is None:
                break
            parts.append(name)
            block = self._bodies.field(keys, block, "ParentKcb") or 0
        return parts, block

    def _read_name(self, block: Optional[int], names: Struct) -> Optional[str]:
        size = self._bodies.field(names, block, "NameLength") if block else None
        start = names.offset("Name")
        if not block or start is None or not size or size > _MAX_PART_BYTES:
            return None
        compressed = (self._bodies.pages.number(block, 4) or 0) & 1
        try:
            data = self._bodies.pages.read(block + start, size)
        except MemoryReadError:
            return None
        return make_printable(data.decode("latin-1" if compressed else "utf-16-le", "replace"))
