"""Puts the compiled bookkeeping of the pool into a forged kernel: code, its unwind table, and the exported routines."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

from dumps.forge.architectures import Architecture

LEVELS = ("O0", "O2", "Os")

ROUTINES = {
    "ExAllocatePoolWithTag": "allocate_pool",
    "ExAllocatePool2": "allocate_pool",
    "ExFreePoolWithTag": "free_pool",
}
"""What kernels export, and the routine that does it."""

_XDATA_ROOM = 0x200


class LinkedCode(NamedTuple):
    """Pieces as ``(rva, bytes)``, the unwind table among them, and where and how long that is."""

    pieces: List[Tuple[int, bytes]]
    function_table: Tuple[int, int]


def link_pool_code(
    architecture: Architecture,
    level: str,
    base: int,
    code_rva: int,
    unwind_rva: int,
    variables: Mapping[str, int],
    exports: Mapping[str, int],
) -> LinkedCode:
    """Return the code at ``code_rva`` with what describes it at ``unwind_rva``; ``exports`` jump or call into it."""
    compiled = _load()[architecture.family][level]
    starts = {".text": code_rva, ".xdata": unwind_rva, ".pdata": unwind_rva + _XDATA_ROOM}
    sections = {name: bytearray(bytes.fromhex(digits)) for name, digits in compiled["sections"].items()}
    symbols = {name: _place(where, starts) for name, where in compiled["symbols"].items()}
    for where, symbol, kind in compiled["fixups"]:
        name, offset = where.split("+")
        target = symbols[symbol] if symbol in symbols else starts.get(symbol) or variables[symbol]
        _FIXUPS[architecture.family](sections[name], int(offset), kind, starts[name] + int(offset), target, base)
    pieces = [(starts[name], bytes(section)) for name, section in sections.items() if section]
    for number, (export, routine) in enumerate(ROUTINES.items()):
        if export in exports:
            entry = exports[export]
            pieces.append((entry, _STUBS[architecture.family](entry, symbols[routine], number)))
    table = sections.get(".pdata", bytearray())
    return LinkedCode(pieces, (starts[".pdata"], len(table)) if table else (0, 0))


@functools.lru_cache(maxsize=1)
def _load() -> Dict[str, Dict[str, Any]]:
    text = (Path(__file__).parent / "pooltracker.json").read_text(encoding="ascii")
    compiled: Dict[str, Dict[str, Any]] = json.loads(text)
    return compiled


def _place(where: str, starts: Mapping[str, int]) -> int:
    section, offset = where.split("+")
    return starts[section] + int(offset)


def _fix_x64(section: bytearray, at: int, kind: int, rva: int, target: int, _base: int) -> None:
    """IMAGE_REL_AMD64_ADDR32NB (3), and REL32 (4) to REL32_5."""
    (addend,) = struct.unpack_from("<i", section, at)
    value = target + addend if kind == 3 else target + addend - rva - 4 - (kind - 4)
    struct.pack_into("<I", section, at, value & 0xFFFFFFFF)


def _fix_x86(section: bytearray, at: int, kind: int, rva: int, target: int, base: int) -> None:
    """IMAGE_REL_I386_DIR32 (6) and REL32 (14h)."""
    (addend,) = struct.unpack_from("<i", section, at)
    value = base + target + addend if kind == 6 else target + addend - rva - 4
    struct.pack_into("<I", section, at, value & 0xFFFFFFFF)


def _fix_arm64(section: bytearray, at: int, kind: int, rva: int, target: int, _base: int) -> None:
    """IMAGE_REL_ARM64_ADDR32NB (2), BRANCH26 (3), PAGEBASE_REL21 (4), PAGEOFFSET_12A (6) and _12L (7)."""
    (word,) = struct.unpack_from("<I", section, at)
    if kind == 2:
        word = word + target
    elif kind == 3:
        word |= (target - rva) >> 2 & 0x3FFFFFF
    elif kind == 4:
        pages = (target >> 12) - (rva >> 12)
        word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    else:
        word |= ((target & 0xFFF) >> (0 if kind == 6 else word >> 30)) << 10
    struct.pack_into("<I", section, at, word & 0xFFFFFFFF)


def _stub_x64(rva: int, target: int, number: int) -> bytes:
    """Two ways to hand on: a call, or a jump."""
    if number % 2 == 0:
        call = b"\xe8" + struct.pack("<i", target - rva - 9)
        return b"\x48\x83\xec\x28" + call + b"\x48\x83\xc4\x28\xc3"
    return b"\xe9" + struct.pack("<i", target - rva - 5)


def _stub_x86(rva: int, target: int, _number: int) -> bytes:
    """``mov edi, edi``, and the jump to the routine."""
    return b"\x8b\xff\xe9" + struct.pack("<i", target - rva - 7)


def _stub_arm64(rva: int, target: int, _number: int) -> bytes:
    return struct.pack("<I", 0x14000000 | (target - rva) >> 2 & 0x3FFFFFF)


_FIXUPS: Dict[str, Callable[[bytearray, int, int, int, int, int], None]] = {
    "x64": _fix_x64,
    "x86": _fix_x86,
    "arm64": _fix_arm64,
}
_STUBS: Dict[str, Callable[[int, int, int], bytes]] = {"x64": _stub_x64, "x86": _stub_x86, "arm64": _stub_arm64}
