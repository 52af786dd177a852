"""States of machines whose answer is known: what people pasted, and invented ones with realistic backgrounds.

The backgrounds are the counters of a healthy file server, scaled to kinds of machines by factors and jitter of their
own, and the drivers that such machines have: an antivirus filter, network buffers, graphics, backup. A leak is one more
tag, or one that there is already and grew.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from dumps.forge.counters import usual_counters
from pykdext.model import PoolKind, PoolSnapshot, PoolTag, PoolUsage, SnapshotSource, SystemMemory, TagUsage
from pykdext.records.logs import load_log

CASES = Path(__file__).parent.parent / "records" / "cases"
KB, MB, GB = 1 << 10, 1 << 20, 1 << 30

_EMPTY = PoolUsage(0, 0, 0, 0)
_CACHES = (b"MmSt", b"EtwB", b"Ntff", b"NtfF", b"NtxF", b"MmCa", b"FMsl", b"IoNm", b"Ntfs", b"NtFs")
_HIVES = (b"CM31", b"CM25", b"CM16", b"CMAl")
"""Registry hives do not grow with the work of a machine: from Windows 10 on few of them are in the pool at all."""


class Held(NamedTuple):
    """What one more tag holds: blocks in use, bytes of each, share ever freed, and the driver that is proven."""

    tag: str
    blocks: int
    each: int
    freed: Optional[float] = None
    driver: Optional[str] = None
    pool: PoolKind = PoolKind.NONPAGED


class Kind(NamedTuple):
    """A kind of machine: how its background differs from a file server's, its memory, and its drivers."""

    name: str
    scale: float
    cache_scale: float
    memory_gb: float
    drivers: Tuple[Held, ...]


_ANTIVIRUS = Held("AvFl", 310_000, 560, 0.72, "avflt.sys")
_NETWORK = Held("NicB", 96, 2 * MB, 0.0, "nic10g.sys")
_GRAPHICS = Held("Gfxk", 180_000, 900, 0.93, "gfxkmd.sys")
_BACKUP = Held("BkCh", 22_000, 4_096, 0.55, "bkflt.sys", PoolKind.PAGED)
_STORAGE = Held("StCt", 14, 16 * MB, 0.0, "hbaport.sys")

KINDS = (
    Kind("small virtual machine", 0.4, 0.5, 2, ()),
    Kind("desktop", 1.0, 3, 16, (_GRAPHICS, _ANTIVIRUS)),
    Kind("workstation with graphics", 1.5, 5, 64, (_GRAPHICS, _NETWORK)),
    Kind("file server", 4.0, 20, 128, (_ANTIVIRUS, _NETWORK, _BACKUP)),
    Kind("terminal server", 9.0, 8, 256, (_ANTIVIRUS, _BACKUP)),
    Kind("database server", 2.0, 2, 512, (_STORAGE, _NETWORK)),
    Kind("host of virtual machines", 3.0, 3, 512, (_NETWORK, _STORAGE)),
    Kind("web server", 5.0, 2, 32, (_ANTIVIRUS,)),
    Kind("domain controller", 2.0, 2, 32, (_ANTIVIRUS, _BACKUP)),
)

_TAG = PoolTag.from_text


@dataclass(frozen=True)
class KnownState:
    """A state, the tags that a reader names (none: healthy), and the drivers that are proven to own tags there."""

    name: str
    snapshot: PoolSnapshot
    leaking: Tuple[str, ...]
    drivers: Mapping[PoolTag, str]


def iter_states() -> Iterator[KnownState]:
    """All of them."""
    yield from _iter_pasted()
    yield from _iter_healthy()
    yield from _iter_leaking()


_PASTED: Dict[str, Tuple[str, ...]] = {
    "01-amda-poolused.txt": ("amda",),
    "06-ulht-row.txt": ("UlHT",),
    "20-mapped-driver.txt": ("SysR",),
    "21-poolused-binary-named.txt": ("Fecf",),
    "22-numeric-tag.txt": ("0045",),
    "30-ntfc.txt": ("NtFC",),
    "31-irp.txt": ("Irp ",),
    "33-wfpn.txt": ("Wfpn",),
    "37-mdl.txt": ("Mdl ",),
    "38-acrl.txt": ("Acrl",),
    "49-pooldumper.txt": ("Toke",),
    "52-sysinformer.csv": ("NtFC",),
    "59-gb-table.txt": ("NtFC", "Toke", "File"),
    "62-poolmon-quoted.txt": ("CVRP",),
    "70-xperf-pool.csv": ("amda",),
    "73-lists.txt": ("Irp ",),
    "75-codex-md.txt": ("File", "Toke"),
    "76-poolused-2-and-4.txt": ("Cont",),
    "80-strg.txt": ("Strg",),
    "82-npbl-mdl.txt": ("NPBL", "Mdl "),
    "84-shared-ddk.txt": ("Ddk ",),
    "86-pp-blank-tag.txt": ("Pp  ",),
    "87-mail-wrapped.txt": ("NVRM",),
    "02-fecf-poolused.txt": (),
    "04-verbose-umd.txt": (),
    "08-poolmon-vn.txt": (),
    "09-vol2-pooltracker.txt": (),
    "51-vol2-both.txt": (),
    "73b-irp-after.txt": (),
}


def _iter_pasted() -> Iterator[KnownState]:
    for name, tags in _PASTED.items():
        yield KnownState(f"pasted: {name.rpartition('.')[0]}", load_log(str(CASES / name))[-1], tags, {})


def _iter_healthy() -> Iterator[KnownState]:
    for number, kind in enumerate(KINDS):
        for with_frees in (True, False):
            what = "log" if with_frees else "!poolused"
            yield _make_state(f"healthy {kind.name}, {what}", kind, number, (), with_frees=with_frees)
    grown = Kind("busy file server", 4.0, 60, 256, (_ANTIVIRUS, _NETWORK))
    yield _make_state("healthy busy file server", grown, 31, ())
    many = Kind("server of many handles", 12.0, 3, 256, (_ANTIVIRUS,))
    yield _make_state("healthy server of many handles", many, 32, ())
    traced = (Held("EtwB", 9_000, 64 * KB, 0.3),)
    yield _make_state("healthy, many trace sessions", KINDS[3], 33, (), extra=traced)
    caching = (Held("CchF", 60_000, 5_000, 0.81, "cachefs.sys", PoolKind.PAGED),)
    yield _make_state("healthy, a cache of a driver", KINDS[3], 34, (), extra=caching)
    buffers = (Held("VgpM", 700, 1 * MB, 0.0, "vgpu.sys"),)
    yield _make_state("healthy, large buffers of a driver", KINDS[6], 35, (), extra=buffers)
    lists = (Held("RqLs", 45_000, 3_600, 0.97, "reqfilter.sys"),)
    yield _make_state("healthy, a driver's list of spare requests", KINDS[7], 36, (), extra=lists)
    started = (Held("FwRl", 120_000, 900, 0.0, "firewall.sys", PoolKind.PAGED),)
    yield _make_state("healthy, rules that a driver keeps from its start", KINDS[8], 37, (), extra=started)


_LEAKS: Tuple[Tuple[str, int, Tuple[Held, ...]], ...] = (
    ("a driver on a small machine", 0, (Held("SmLk", 40_000, 1_100, 0.0, "small.sys"),)),
    ("a driver on a desktop", 1, (Held("Drv1", 2_400_000, 512, 0.001, "drv1.sys"),)),
    ("a driver that nobody knows", 1, (Held("Unkn", 1_900_000, 700, 0.02),)),
    ("9 % of a large pool", 3, (Held("WDiv", 91_750, 8_388, 0.0004, "windivert64.sys"),)),
    ("a paged leak", 4, (Held("PgLk", 6_000_000, 900, 0.01, "paged.sys", PoolKind.PAGED),)),
    ("half freed", 7, (Held("Half", 3_000_000, 1_024, 0.45, "half.sys"),)),
    ("freed nine times of ten", 7, (Held("Nine", 5_000_000, 800, 0.90, "nine.sys"),)),
    ("freed nearly always", 2, (Held("Chrn", 8_000_000, 640, 0.998, "churn.sys"),)),
    ("files", 3, (Held("File", 9_000_000, 400, 0.97),)),
    (
        "tokens and their holder",
        4,
        (
            Held("Toke", 3_700_000, 2_000, 0.96, None, PoolKind.PAGED),
            Held("Hldr", 3_700_000, 64, 0.0, "holder.sys"),
        ),
    ),
    ("tokens alone", 4, (Held("Toke", 2_500_000, 2_000, 0.95, None, PoolKind.PAGED),)),
    ("events", 5, (Held("Even", 20_000_000, 128, 0.6),)),
    ("trace buffers", 1, (Held("EtwB", 60_000, 64 * KB, 0.1),)),
    ("the map of the file cache", 2, (Held("MmSt", 12_000_000, 1_400, 0.3, None, PoolKind.PAGED),)),
    ("a default tag", 6, (Held("Ddk ", 4_000_000, 900, 0.001),)),
    ("contiguous memory", 5, (Held("Cont", 900, 4 * MB, 0.1),)),
    ("few large blocks", 8, (Held("BigB", 3_000, 1 * MB, 0.02, "bigb.sys"),)),
    ("a slow one of a driver, 260 MB", 8, (Held("Slow", 400_000, 680, 0.002, "slow.sys"),)),
    ("threads", 4, (Held("Thre", 700_000, 2_560, 0.5),)),
    ("requests", 7, (Held("Irp ", 4_000_000, 700, 0.8),)),
    ("a filter on a desktop, never freed", 1, (Held("FltX", 700_000, 640, 0.0, "fltx.sys"),)),
    (
        "file objects and the driver that keeps them",
        3,
        (
            Held("File", 6_000_000, 400, 0.9),
            Held("Keep", 6_000_000, 48, 0.0, "keeper.sys"),
        ),
    ),
)


def _iter_leaking() -> Iterator[KnownState]:
    for number, (name, kind, held) in enumerate(_LEAKS):
        tags = tuple(item.tag for item in held if item.blocks * item.each > 256 * MB) or (held[0].tag,)
        yield _make_state(f"leak: {name}, log", KINDS[kind], 100 + number, tags, extra=held)
        if number % 2 == 0:
            yield _make_state(f"leak: {name}, !poolused", KINDS[kind], 200 + number, tags, extra=held, with_frees=False)


def _make_state(
    name: str,
    kind: Kind,
    seed: int,
    leaking: Tuple[str, ...],
    *,
    extra: Tuple[Held, ...] = (),
    with_frees: bool = True,
) -> KnownState:
    chance = random.Random(seed)
    rows: Dict[bytes, List[PoolUsage]] = {}
    for tag, counters in usual_counters().items():
        scale = min(kind.scale, 4.0) if tag in _HIVES else kind.cache_scale if tag in _CACHES else kind.scale
        factor = scale * chance.lognormvariate(0.0, 0.35)
        sides = (
            (counters.nonpaged_allocs, counters.nonpaged_frees, counters.nonpaged_bytes),
            (counters.paged_allocs, counters.paged_frees, counters.paged_bytes),
        )
        rows[tag] = [_scale(*side, factor, with_frees) for side in sides]
    drivers: Dict[PoolTag, str] = {}
    for item in (*kind.drivers, *extra):
        tag = _TAG(item.tag)
        sides_of = rows.setdefault(tag.raw, [_EMPTY, _EMPTY])
        sides_of[item.pool is PoolKind.PAGED] = _hold(item, with_frees)
        if item.driver:
            drivers[tag] = item.driver
    tags = tuple(TagUsage(PoolTag(raw), *sides) for raw, sides in rows.items())
    source = SnapshotSource("kernel bitmap dump", "made.dmp", "profile") if with_frees else SnapshotSource("!poolused")
    memory = SystemMemory(physical_bytes=round(kind.memory_gb * GB)) if with_frees else SystemMemory()
    snapshot = PoolSnapshot(source, tags, uptime_seconds=9e5, memory=memory)
    return KnownState(name, snapshot, leaking, drivers if with_frees else {})


def _scale(allocs: int, frees: int, held_bytes: int, factor: float, with_frees: bool) -> PoolUsage:
    blocks = round((allocs - frees) * factor)
    held = round(held_bytes * factor)
    if not allocs:
        return _EMPTY
    return PoolUsage(frees + blocks, frees, blocks, held) if with_frees else PoolUsage(None, None, blocks, held)


def _hold(item: Held, with_frees: bool) -> PoolUsage:
    held = item.blocks * item.each
    if not with_frees or item.freed is None:
        return PoolUsage(None, None, item.blocks, held)
    allocs = round(item.blocks / (1 - item.freed))
    return PoolUsage(allocs, allocs - item.blocks, item.blocks, held)
