"""What a scenario says about its machine, before there is one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Optional, Tuple

from dumps.forge.memorymanager import MemoryPlan
from dumps.forge.objects.population import Population
from dumps.forge.pageframes import FramePlan
from dumps.forge.trackertables import TagTruth

HEALTHY_DRIVERS: Tuple[str, ...] = ("lookas.sys", "globus.sys", "ctxreg.sys")


@dataclass(frozen=True)
class BlockPlan:
    """Blocks of one tag that really exist: ``count`` pool pages full of them, or ``count`` big blocks.

    ``module`` is the owner that the blocks point back to. ``listed`` more big blocks are only rows of the big-page
    table: their pages are not in memory.
    """

    tag: bytes
    pool: str
    block_bytes: int
    count: int
    module: Optional[str] = None
    is_big: bool = False
    listed: int = 0

    @property
    def paged(self) -> bool:
        """True for paged pool."""
        return self.pool == "paged"


USUAL_BLOCKS: Tuple[BlockPlan, ...] = (
    BlockPlan(b"Look", "nonpaged", 0xB0, 1, "lookas.sys"),
    BlockPlan(b"Glob", "nonpaged", 0x130, 1, "globus.sys"),
    BlockPlan(b"Ctxr", "paged", 0x80, 1, "ctxreg.sys"),
    BlockPlan(b"File", "nonpaged", 0x190, 2),
    BlockPlan(b"Irp ", "nonpaged", 0x2A0, 1),
    BlockPlan(b"CM31", "paged", 0x2000, 2, is_big=True, listed=120),
    BlockPlan(b"EtwB", "nonpaged", 0x8000, 1, is_big=True, listed=40),
)


@dataclass(frozen=True)
class Scenario:
    """One machine: a healthy server, and what is different on it.

    ``tags`` replaces or adds counters; ``expansion`` names the tags that found no room in the hash table;
    ``without_pages_of`` names a driver whose image is for the most part not in the dump. ``populate`` makes the
    machine's objects, ``leaked`` of which leak unless somebody wishes for another number.
    """

    name: str
    summary: str
    tags: Dict[bytes, TagTruth] = field(default_factory=dict)
    drivers: Tuple[str, ...] = ()
    blocks: Tuple[BlockPlan, ...] = ()
    leak: Optional[Tuple[bytes, str, Optional[str]]] = None
    expansion: Tuple[bytes, ...] = ()
    without_pages_of: Optional[str] = None
    bugcheck: Tuple[int, int, int, int, int] = (0xE2, 0, 0, 0, 0)
    uptime_seconds: int = 951_727
    populate: Optional[Callable[[int], Population]] = None
    leaked: int = 0


@dataclass(frozen=True)
class Wishes:
    """What a caller wants of a machine besides its scenario and kernel: the arguments of ``forge``."""

    processors: int
    table_rows: int
    seed: int
    untagged: bool = False
    swizzle: bool = False
    encoded_kdbg: bool = False
    user_pages: bool = False
    drivers: Tuple[Path, ...] = ()
    leaked: Optional[int] = None
    pages_lost: bool = False
    healthy_share: int = 1
    memory: Optional[MemoryPlan] = None
    page_frames: Optional[FramePlan] = None
    traced: bool = False
    session_pool: bool = False
