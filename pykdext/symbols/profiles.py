"""Where the pool variables of known kernels stand: addresses by the GUID of the kernel's PDB.

The table covers 213 x64 kernels (Windows 7 to Windows 11 and Server 2022). Its numbers were computed from the public
symbol tables of JPCERTCC/Windows-Symbol-Tables (BSD-3-Clause), which derive from Microsoft's public symbols.
"""

from __future__ import annotations

import json
import pkgutil
from dataclasses import dataclass
from typing import Mapping, Optional

_TABLE = "data/kernels.json"


@dataclass(frozen=True)
class KernelProfile:
    """One kernel: its file version, the name of its PDB, and the RVAs of its variables (absent ones left out)."""

    version: str
    pdb_name: str
    rvas: Mapping[str, int]


def load_profile(guid: str, age: int) -> Optional[KernelProfile]:
    """The profile of the kernel whose PDB has this GUID (32 hexadecimal digits) and age; None if it is not known."""
    table = json.loads(pkgutil.get_data(__package__, _TABLE) or b"")
    row = table["kernels"].get(f"{guid.upper()}{age:X}")
    if row is None:
        return None
    version, pdb_name, *rvas = row
    return KernelProfile(version, pdb_name, {n: rva for n, rva in zip(table["names"], rvas) if rva is not None})
