"""The named scenarios and the function that makes their machines."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence, Tuple

from dumps.forge.architectures import ARCHITECTURES, X64, X64_VIRTUAL
from dumps.forge.assemble import assemble_machine
from dumps.forge.kernels import KernelBuild, add_memory_manager, add_totals, disguise_kernel
from dumps.forge.machine import ForgedMachine
from dumps.forge.memorymanager import MemoryPlan, add_memory_counters
from dumps.forge.objects import leaks
from dumps.forge.pageframes import FramePlan, page_frame_variables
from dumps.forge.plan import BlockPlan, Scenario, Wishes
from dumps.forge.privatekernels import choose_kernel
from dumps.forge.sessions import add_session_variables
from dumps.forge.trackertables import TagTruth

_PIPO = TagTruth(4_813_548, 1_203, 4_812_345 * 0x1B0)
_PIPO_BLOCKS = (BlockPlan(b"Pipo", "nonpaged", 0x1B0, 12, "pippo.sys"),)
_FIRST_ALWAYS_TAGGED = 3790
_TOKENS_HELD = 3_708_367
_HUNG = (0xE2, 0, 0, 0, 0)  # MANUALLY_INITIATED_CRASH

_SCENARIOS: Tuple[Scenario, ...] = (
    Scenario("quiet", "a healthy file server: nothing leaks"),
    Scenario(
        "pipo",
        "pippo.sys leaks nonpaged pool with tag Pipo",
        tags={b"Pipo": _PIPO},
        drivers=("pippo.sys",),
        blocks=_PIPO_BLOCKS,
        leak=(b"Pipo", "nonpaged", "pippo.sys"),
        bugcheck=_HUNG,
    ),
    Scenario(
        "paged",
        "pagella.sys leaks paged pool with tag Pgla, in blocks of more than a page",
        tags={b"Pgla": TagTruth(0, 0, 0, 402_150, 37, 402_113 * 0x3000)},
        drivers=("pagella.sys",),
        blocks=(BlockPlan(b"Pgla", "paged", 0x3000, 6, "pagella.sys", is_big=True, listed=250),),
        leak=(b"Pgla", "paged", "pagella.sys"),
        bugcheck=_HUNG,
    ),
    Scenario(
        "toke",
        "holder.sys keeps references to tokens: Toke only suffers",
        tags={
            b"Toke": TagTruth(0, 0, 0, 4_121_902, 4_121_902 - _TOKENS_HELD, _TOKENS_HELD * 2176),
            b"Hldr": TagTruth(_TOKENS_HELD, 0, _TOKENS_HELD * 0x40),
        },
        drivers=("holder.sys",),
        blocks=(
            BlockPlan(b"Hldr", "nonpaged", 0x40, 2, "holder.sys"),
            BlockPlan(b"Toke", "paged", 0x880, 4),
        ),
        leak=(b"Toke", "paged", "holder.sys"),
        bugcheck=_HUNG,
    ),
    Scenario(
        "twins",
        "twinone.sys and twintwo.sys use one tag, Dupl; some tags are in the expansion table",
        tags={
            b"Dupl": TagTruth(1_310_720, 2_048, (1_310_720 - 2_048) * 0x3F0),
            b"Xp01": TagTruth(4_021, 3_900, 121 * 0x60),
            b"Xp02": TagTruth(0, 0, 0, 912, 900, 12 * 0x110),
        },
        drivers=("twinone.sys", "twintwo.sys"),
        blocks=(
            BlockPlan(b"Dupl", "nonpaged", 0x3F0, 4, "twinone.sys"),
            BlockPlan(b"Dupl", "nonpaged", 0x3F0, 2, "twintwo.sys"),
        ),
        leak=(b"Dupl", "nonpaged", None),
        expansion=(b"Xp01", b"Xp02"),
        bugcheck=_HUNG,
    ),
    Scenario(
        "missing",
        "as pipo, but most of pippo.sys, and its code with the tag, is not in the dump",
        tags={b"Pipo": _PIPO},
        drivers=("pippo.sys",),
        blocks=_PIPO_BLOCKS,
        leak=(b"Pipo", "nonpaged", "pippo.sys"),
        without_pages_of="pippo.sys",
        bugcheck=_HUNG,
    ),
    Scenario(
        "handles",
        "printmon.exe (pid 4312) never closes the handles to its events",
        bugcheck=_HUNG,
        populate=leaks.leak_handles,
        leaked=20_000,
    ),
    Scenario(
        "zombies",
        "watchman.exe (pid 2428) holds handles to processes that have exited",
        bugcheck=_HUNG,
        populate=leaks.leak_zombies,
        leaked=600,
    ),
    Scenario(
        "keys",
        "policysvc.exe (pid 5120) opens one registry key again and again",
        bugcheck=_HUNG,
        populate=leaks.leak_keys,
        leaked=20_000,
    ),
    Scenario(
        "references",
        "holder.sys keeps references to tokens that no process has a handle to",
        drivers=("holder.sys",),
        leak=(b"Toke", "paged", "holder.sys"),
        bugcheck=_HUNG,
        populate=leaks.leak_references,
        leaked=_TOKENS_HELD,
    ),
    Scenario(
        "requests",
        "pippo.sys never completes the reads of a process: Irp and Mdl only suffer",
        drivers=("pippo.sys",),
        leak=(b"Irp ", "nonpaged", "pippo.sys"),
        bugcheck=_HUNG,
        populate=leaks.leak_requests,
        leaked=900_000,
    ),
    Scenario(
        "lookaside",
        "a lookaside list of globus.sys gave out blocks that never came back; no code carries their tag, Lkas",
        leak=(b"Lkas", "nonpaged", "globus.sys"),
        bugcheck=_HUNG,
        populate=leaks.leak_lookaside,
        leaked=1_300_000,
    ),
    Scenario(
        "verifier",
        "lookas.sys leaks with a tag that no code carries, VfLk, while Driver Verifier watches it",
        leak=(b"VfLk", "nonpaged", "lookas.sys"),
        bugcheck=_HUNG,
        populate=leaks.leak_verified,
        leaked=1_200_000,
    ),
)

_BY_NAME: Dict[str, Scenario] = {scenario.name: scenario for scenario in _SCENARIOS}

SCENARIOS: Tuple[str, ...] = tuple(_BY_NAME)
SUMMARIES: Dict[str, str] = {scenario.name: scenario.summary for scenario in _SCENARIOS}


def forge(
    scenario: str,
    build: int = 19041,
    processors: int = 4,
    known_kernel: bool = True,
    seed: int = 1,
    table_rows: Optional[int] = None,
    arch: str = "x64",
    *,
    untagged: bool = False,
    swizzle: bool = False,
    encoded_kdbg: bool = False,
    pool_totals: bool = False,
    user_pages: bool = False,
    drivers: Sequence[Path] = (),
    leaked: Optional[int] = None,
    pages_lost: bool = False,
    healthy_share: int = 1,
    memory: Optional[MemoryPlan] = None,
    page_frames: Optional[FramePlan] = None,
    virtual: bool = False,
    traced: bool = False,
    session_pool: bool = False,
    change_kernel: Callable[[KernelBuild], KernelBuild] = lambda kernel: kernel,
) -> ForgedMachine:
    """Return the machine of a scenario; the same arguments make the same machine, byte for byte.

    ``known_kernel`` False gives nt a GUID that nobody has symbols of, and its globals unusual places. ``table_rows``
    is the size of the tag tables, a power of two plus one. ``arch`` is x64, x64la57 (page tables of five levels), x86,
    x86pae or arm64; only kernels of x64 from Windows 7 to build 22000 have public symbols, all others have a GUID that
    nobody knows in any case.

    ``untagged`` switches pool tagging off (XP only), ``swizzle`` protects every entry of the page tables against
    L1TF that is not valid, ``encoded_kdbg`` leaves the debugger data block encoded (Windows 8 and later),
    ``pool_totals`` lets kernels with public symbols also tell what is in use of paged pool and of commit (all others
    do), ``user_pages`` adds pages of processes and free ones. ``drivers`` are further driver files of this architecture
    that are loaded; they may import from nt and from every stand-in. ``leaked`` is how many objects leak in a scenario
    of objects, ``pages_lost`` leaves out of its dump what dumps lack most often, and the healthy background of it has
    one of ``healthy_share`` objects. ``memory`` lets 64-bit kernels (ARM64 since 19041) also keep what the memory
    manager counts beside the pools, ``page_frames`` writes their page frame database. ``virtual`` lays out memory as
    virtual machines have it, a hole below 4 GiB and pages above it, with top tables of several processes and the code
    that starts processors (x64 only). ``traced`` lets x64 kernels with public symbols record references to objects
    and the handles of whoever leaks them.

    ``session_pool`` gives the sessions of a scenario of objects page tables and tag tables of their own (x64 from
    Windows 7 to 20348). ``change_kernel`` has the last word on the kernel (see ``scrambling``). ValueError for an
    unknown scenario, architecture or build, and for a wish that the kernel cannot fulfil.
    """
    if scenario not in _BY_NAME:
        raise ValueError(f"scenario {scenario!r}: the forge knows {', '.join(SCENARIOS)}")
    if arch not in ARCHITECTURES:
        raise ValueError(f"architecture {arch!r}: the forge knows {', '.join(ARCHITECTURES)}")
    if virtual and arch != X64.name:
        raise ValueError(f"a virtual machine on {arch}: the forge makes those of x64 only")
    architecture = X64_VIRTUAL if virtual else ARCHITECTURES[arch]
    kernel = choose_kernel(build, architecture, random.Random(f"identity {arch} {build} {seed}"))
    rows = kernel.default_rows if table_rows is None else table_rows
    if page_frames is not None and (architecture.narrow or build < 7601):
        raise ValueError(
            f"build {build} on {arch}: only 64-bit kernels since Windows 7 have a page frame database here"
        )
    if rows < 513 or rows - 1 & rows - 2:
        raise ValueError(f"{rows} table rows: wanted a power of two plus one, at least 513")
    if not known_kernel:
        kernel = disguise_kernel(kernel, random.Random(f"kernel {build} {seed}"))
    for wish, possible, where in (
        (untagged, kernel.build < _FIRST_ALWAYS_TAGGED, "only XP can switch pool tags off"),
        (swizzle, kernel.swizzles, "only x64 kernels with public symbols swizzle"),
        (encoded_kdbg, kernel.encodes_debugger_data, "only x64 kernels since Windows 8 with public symbols encode"),
    ):
        if wish and not possible:
            raise ValueError(f"build {build} on {arch}: {where}")
    wishes = Wishes(
        processors,
        rows,
        seed,
        untagged,
        swizzle,
        encoded_kdbg,
        user_pages,
        tuple(drivers),
        leaked,
        pages_lost,
        healthy_share,
        memory,
        page_frames,
        traced,
        session_pool,
    )
    if pool_totals or memory is not None or page_frames is not None:
        kernel = add_totals(kernel)
    if memory is not None or page_frames is not None:
        kernel = add_memory_manager(kernel)
    if memory is not None:
        kernel = add_memory_counters(kernel)
    if page_frames is not None:
        kernel = replace(kernel, variables={**kernel.variables, **page_frame_variables(kernel)})
    if session_pool:
        kernel = add_session_variables(kernel)
    if virtual:
        kernel = replace(kernel, architecture=architecture)
    return assemble_machine(_BY_NAME[scenario], change_kernel(kernel), wishes)
