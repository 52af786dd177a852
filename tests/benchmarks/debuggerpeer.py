"""ntoseye on the same small machine as we: its handles by type, through its own API and a process of its own.

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
from typing import Tuple

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


def is_installed() -> bool:
    """Whether ntoseye can run here."""
    return importlib.util.find_spec("ntoseye") is not None


def prepare(machine: ForgedMachine, isf_path: Path, folder: Path) -> None:
    """Let nt look as ntoseye wants it, and put a PDB of all types of the kernel where it looks for one."""
    isf = pdbs.read_isf(isf_path)
    nt_va = machine.addresses["nt"]
    machine.write_virtual(nt_va + 2, b"\x90")
    machine.write_virtual(nt_va + 0xF00, b"POOLCODE")
    system_at = isf["symbols"]["PsInitialSystemProcess"]["address"]
    machine.write_virtual(nt_va + system_at, struct.pack("<Q", machine.addresses["process"]))
    wanted = {name: isf["symbols"][name]["address"] for name in _SYMBOLS}
    source = pdbs.render_source(isf, list(isf["user_types"]), wanted)
    data = pdbs.build_pdb(source, "x64", folder)
    known = uuid.UUID(machine.kernel.guid).bytes_le
    where = folder / ".ntoseye" / "symbols" / "ntkrnlmp.pdb" / f"{machine.kernel.guid}{machine.kernel.age:X}"
    where.mkdir(parents=True)
    (where / "ntkrnlmp.pdb").write_bytes(data.replace(_guid_of(data), known))


def measure(path: Path, home: Path) -> Tuple[float, int]:
    """Seconds of the processor for the handles of all processes, their types read, and how many there were."""
    words = [sys.executable, "-c", _SCRIPT, str(path)]
    ended = subprocess.run(words, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ContestantError(f"ntoseye: {ended.stderr.strip().splitlines()[-1]}")
    seconds, count = json.loads(ended.stdout)
    return float(seconds), int(count)


def _guid_of(pdb: bytes) -> bytes:
    """The GUID in the PDB's info stream, which begins with its version of 2000."""
    at = pdb.index(struct.pack("<I", 20000404))
    return pdb[at + 12 : at + 28]
