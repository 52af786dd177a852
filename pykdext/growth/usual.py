"""How much of a tag is usual on a machine of this size: what healthy systems hold of it, scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pykdext.model import PoolSnapshot, PoolTag, PoolUsage, Usual, UsualUnit

USUAL_PROCESSES = 300
"""Where the state does not list the tag of processes."""

MAX_PROCESSES = 2_000
"""More processes than these are a leak of processes themselves: they excuse nothing."""

USUAL_FILES = 200_000
MAX_FILES = 1_000_000

USUAL_MEMORY_BYTES = 16 << 30
"""For sources that do not say how much memory the machine has."""

LARGE_BLOCK_BYTES = 2_048
"""Where the size of a block is not known: few tags that are counted by blocks have larger ones."""

_PROCESS, _FILE = PoolTag(b"Proc"), PoolTag(b"File")


@dataclass(frozen=True)
class MachineSize:
    """What usual amounts scale with."""

    processes: int
    files: int
    memory_bytes: int

    @classmethod
    def of(cls, snapshot: PoolSnapshot) -> MachineSize:
        """The size by the objects and the memory in ``snapshot``; what is missing there is that of a usual machine."""
        return cls(
            min(_count_blocks(snapshot, _PROCESS) or USUAL_PROCESSES, MAX_PROCESSES),
            min(_count_blocks(snapshot, _FILE) or USUAL_FILES, MAX_FILES),
            snapshot.memory.physical_bytes or USUAL_MEMORY_BYTES,
        )


def estimate_usual_bytes(usual: Usual, usage: PoolUsage, size: MachineSize) -> int:
    """How many bytes of a tag are usual at most; where ``usual`` counts blocks, ``usage`` gives their size."""
    scale = {
        UsualUnit.MACHINE: 1.0,
        UsualUnit.PROCESS: float(size.processes),
        UsualUnit.FILE: float(size.files),
        UsualUnit.GIGABYTE: size.memory_bytes / (1 << 30),
    }[usual.per]
    if usual.bytes is not None:
        return round(usual.bytes * scale)
    each = usage.bytes / usage.outstanding if usage.bytes and usage.outstanding else LARGE_BLOCK_BYTES
    return round((usual.blocks or 0) * scale * each)


def _count_blocks(snapshot: PoolSnapshot, tag: PoolTag) -> Optional[int]:
    return next((row.nonpaged.outstanding for row in snapshot.tags if row.tag == tag), None)
