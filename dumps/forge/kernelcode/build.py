"""Compiles ``pooltracker.c`` for every architecture and level into ``pooltracker.json``, with the Zig toolchain.

``python -m dumps.forge.kernelcode.build``. What is kept of each object is its code, its unwind tables and what the
linker has to fill in; the same source always gives the same bytes.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

HERE = Path(__file__).resolve().parent
LEVELS = ("O0", "O2", "Os")
TARGETS: Dict[str, Tuple[str, ...]] = {
    "x64": ("x86_64-windows-msvc",),
    "x86": ("x86-windows-msvc", "-mcpu=i686", "-mrtd"),
    "arm64": ("aarch64-windows-msvc",),
}
FLAGS = (
    *("-g0", "-std=c11", "-ffreestanding", "-Wall", "-Wextra", "-Werror", "-Wno-unused-command-line-argument"),
    *("-fno-vectorize", "-fno-unroll-loops"),
    *("-fno-stack-protector", "-fno-sanitize=all", "-fomit-frame-pointer"),
)
SECTIONS = (".text", ".xdata", ".pdata")

_HEADER = struct.Struct("<HHIIIHH")
_SECTION = struct.Struct("<8s6I2HI")
_SYMBOL = struct.Struct("<8sIhHBB")


def main() -> None:
    """Write the file."""
    compiled: Dict[str, Dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for family, (triple, *flags) in TARGETS.items():
            for level in LEVELS:
                target = Path(folder) / "code.obj"
                command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, *flags, f"-{level}", *FLAGS]
                subprocess.run([*command, "-c", str(HERE / "pooltracker.c"), "-o", str(target)], check=True)
                compiled.setdefault(family, {})[level] = _read_object(target.read_bytes())
    text = json.dumps(compiled, indent=0, separators=(",", ":"))
    (HERE / "pooltracker.json").write_bytes(f"{text}\n".encode("ascii"))


def _read_object(data: bytes) -> Dict[str, Any]:
    """Sections as hex digits; symbols and fixups as ``section+offset``."""
    _, section_count, _, table, symbol_count, optional_bytes, _ = _HEADER.unpack_from(data)
    headers = [_SECTION.unpack_from(data, 20 + optional_bytes + 40 * number) for number in range(section_count)]
    names = [header[0].rstrip(b"\0").decode() for header in headers]
    symbols = _read_symbols(data, table, symbol_count)
    defined = {
        name: f"{names[section - 1]}+{value}"
        for name, value, section in symbols
        if section > 0 and names[section - 1] in SECTIONS
    }
    found: Dict[str, Any] = {"sections": {}, "symbols": defined, "fixups": []}
    for name, header in zip(names, headers):
        if name in SECTIONS:
            size, start, fixups, count = header[3], header[4], header[5], header[7]
            found["sections"][name] = data[start : start + size].hex()
            for number in range(count):
                offset, index, kind = struct.unpack_from("<IIH", data, fixups + 10 * number)
                found["fixups"].append([f"{name}+{offset}", symbols[index][0], kind])
    return found


def _read_symbols(data: bytes, table: int, count: int) -> List[Tuple[str, int, int]]:
    """Name, value and section of each, those of auxiliary ones empty; names without what x86 adds to them."""
    symbols: List[Tuple[str, int, int]] = []
    texts = table + 18 * count
    while len(symbols) < count:
        raw, value, section, _, _, auxiliary = _SYMBOL.unpack_from(data, table + 18 * len(symbols))
        if raw[:4] == bytes(4):
            start = texts + int.from_bytes(raw[4:], "little")
            raw = data[start : data.index(b"\0", start)]
        name = raw.rstrip(b"\0").decode("latin-1").split("@")[0]
        symbols.append((name[1:] if name.startswith("_") else name, value, section))
        symbols += [("", 0, 0)] * auxiliary
    return symbols


if __name__ == "__main__":
    main()
