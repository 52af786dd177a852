"""PDBs of real kernels' layouts and addresses, made by a real compiler and linker (see build.py)."""

from __future__ import annotations

import lzma
import struct
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = sorted(path.name[: -len(".pdb.xz")] for path in HERE.glob("[0-9]*.pdb.xz"))

_INFO_START = struct.pack("<I", 20000404)
_DEBUG_START = struct.pack("<iI", -1, 19990903)


def read_pdb(name) -> bytes:
    return lzma.decompress((HERE / f"{name}.pdb.xz").read_bytes())


def restamp(pdb: bytes, guid, age=1, info_age=None) -> bytes:
    """The PDB as if the linker had given it this GUID and age, and other tools had written it up to ``info_age``."""
    stamped = bytearray(pdb)
    info, debug = stamped.index(_INFO_START), stamped.index(_DEBUG_START)
    stamped[info + 8 : info + 28] = struct.pack("<I", age if info_age is None else info_age) + uuid.UUID(guid).bytes_le
    stamped[debug + 8 : debug + 12] = struct.pack("<I", age)
    return bytes(stamped)
