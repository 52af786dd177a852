"""What a container gives: the memory of a machine, and whatever leads to the kernel in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from pykdext.targets.machine.cpustate import CpuState
from pykdext.targets.machine.memory import MachineMemory


@dataclass(frozen=True)
class MachineImage:
    """An opened container.

    Attributes:
        kind: what it is, in words a user knows.
        memory: its pages.
        processors: registers, where the container has them; the first processor's first.
        header: a crash dump's header that stands in the container, as Windows itself wrote it at its start.
        windbg_hint: how to make a file of it that WinDbg opens; None where WinDbg opens it as it is.
        may_be_shifted: nothing tells which part of the file is which memory: a hole below 4 GiB may be cut out.
    """

    kind: str
    memory: MachineMemory
    processors: Tuple[CpuState, ...] = ()
    header: Optional[bytes] = None
    windbg_hint: Optional[str] = None
    may_be_shifted: bool = False
