"""ntoseye on the same small machine as we: its handles, tag tables and totals, through its own API, apart from us.

It finds nt by the first page of the image alone: kernel memory without code that begins as linkers write it (``MZ``,
90h) and names a section POOLCODE; of the machines that are forged here only Windows 7's maps that page by itself. It
asks the PDB for every type and finds processes by nt!PsInitialSystemProcess, which we do not need: both are added.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from dumps.forge.machine import ForgedMachine
from tests.benchmarks.rounds import ContestantError
from tests.pdbs import build as pdbs

BUILD = 7601
_SYMBOLS = ("PsActiveProcessHead", "PsInitialSystemProcess", "PsLoadedModuleList", "ObTypeIndexTable", "PspCidTable")
_SCRIPT = """
import json, sys, time
import ntoseye
debugger = ntoseye.attach(backend="dmp", connect=sys.argv[1])
processes = list(debugger.processes)
started = time.process_time()
count = 0
for process in processes:
    try:
        entries = process.handles(limit=1_000_000).entries
    except (ntoseye.NtoseyeError, ntoseye.MemoryAccessError):
        continue  # exited
    count += sum(str(entry.type_name) != "" for entry in entries)
print(json.dumps([time.process_time() - started, count]))
"""


_TABLES = """
import json, sys
import ntoseye
inspect = ntoseye.attach(backend="dmp", connect=sys.argv[1]).inspect
rows = [row.to_dict() for row in inspect.pool_usage().rows]
system = inspect.vm().to_dict()["system"]
print(json.dumps([rows, {name: fact["value"] for name, fact in system.items() if isinstance(fact, dict)}]))
"""


def is_installed() -> bool:
    """Whether ntoseye can run here."""
    return importlib.util.find_spec("ntoseye") is not None


def prepare(machine: ForgedMachine, isf_path: Path, folder: Path, more: Sequence[str] = ()) -> None:
    """Let nt look as ntoseye wants it, and put a PDB of all types of the kernel where it looks for one.

    ``more``: names of further variables for the PDB; those that the kernel does not have are left out.
    """
    isf = pdbs.read_isf(isf_path)
    nt_va = machine.addresses["nt"]
    machine.write_virtual(nt_va + 2, b"\x90")
    machine.write_virtual(nt_va + 0xF00, b"POOLCODE")
    system_at = isf["symbols"]["PsInitialSystemProcess"]["address"]
    machine.write_virtual(nt_va + system_at, struct.pack("<Q", machine.addresses["process"]))
    wanted = {name: isf["symbols"][name]["address"] for name in (*_SYMBOLS, *more) if name in isf["symbols"]}
    source = pdbs.render_source(isf, list(isf["user_types"]), wanted)
    data = pdbs.build_pdb(source, "x64", folder)
    known = uuid.UUID(machine.kernel.guid).bytes_le
    where = folder / ".ntoseye" / "symbols" / "ntkrnlmp.pdb" / f"{machine.kernel.guid}{machine.kernel.age:X}"
    where.mkdir(parents=True)
    (where / "ntkrnlmp.pdb").write_bytes(data.replace(_guid_of(data), known))


def measure(path: Path, home: Path) -> Tuple[float, int]:
    """Seconds of the processor for the handles of all processes, their types read, and how many there were."""
    seconds, count = _run(_SCRIPT, path, home)
    return float(seconds), int(count)


def read_tables(path: Path, home: Path) -> Tuple[List[Dict[str, Any]], Dict[str, int]]:
    """The rows of its ``pool_usage``, and the totals of its ``vm`` by name: pages, or bytes where the name says so."""
    rows, totals = _run(_TABLES, path, home)
    return rows, totals


def _run(script: str, path: Path, home: Path) -> Any:
    words = [sys.executable, "-c", script, str(path)]
    ended = subprocess.run(words, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ContestantError(f"ntoseye: {ended.stderr.strip().splitlines()[-1]}")
    return json.loads(ended.stdout)


def _guid_of(pdb: bytes) -> bytes:
    """The GUID in the PDB's info stream, which begins with its version of 2000."""
    at = pdb.index(struct.pack("<I", 20000404))
    return pdb[at + 12 : at + 28]
