"""What the memory manager counts beside the pools: the lines of WinDbg's !vm, where each kernel keeps them.

Places: addresses of the global variables up to Windows 8.1, members of nt!MiState (S) and nt!MiSystemPartition (P)
later, by the public symbols of x64 kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, List, Tuple

from dumps.forge.architectures import X64
from dumps.forge.kernels import KernelBuild
from dumps.forge.parts import Parts

_GLOBALS = {
    # symbol: RVA in 7601, in 9600
    "ExPoolFailures": (0x210F50, 0x2A3B50),
    "MiSystemPteInfo": (0x221540, 0x2B07A0),
    "MmAvailablePages": (0x1EF0C0, 0x3450C0),
    "MmDriverCommit": (0x239D28, 0x2C3560),
    "MmMdlPagesAllocated": (0x239F98, 0x2C38A8),
    "MmModifiedPageListHead": (0x2A02C0, 0x345400),
    "MmPagedPoolCommit": (0x222360, 0),
    "MmPeakCommitment": (0x222350, 0x2B0D58),
    "MmProcessCommit": (0x2222F0, 0x2C3E80),
    "MmResidentAvailablePages": (0x1EF100, 0x345140),
    "MmSharedCommit": (0x20C7E8, 0x2C3E58),
    "MmSpecialPagesInUse": (0x223830, 0x2B1070),
    "MmVadPhysicalPages": (0x221DC8, 0x2B08B0),
}
_POOL_FAILURES = {14393: 0x2F99C8, 17763: 0x409820, 19041: 0xC190F8, 20348: 0xC21568, 22000: 0xC157C8}

_PLACES = """
line                    bytes  7601                        9600                        14393 17763 19041 20348 22000
resident available      8      MmResidentAvailablePages+0  MmResidentAvailablePages+0  P1980 P1cc0 P1c00 P4240 P4240
available               8      MmAvailablePages+0          MmAvailablePages+0          P1940 P1c80 P1bc0 P4200 P4200
modified                8      MmModifiedPageListHead+0    MmModifiedPageListHead+0    P1c40 P1e00 P1d40 P4380 P4380
system PTEs free        4      MiSystemPteInfo+34          MiSystemPteInfo+58          S1490 S25b8 S2698 S4298 S4490
system PTEs             4      MiSystemPteInfo+30          MiSystemPteInfo+40          S1470 S2598 S2678 S4278 S4470
system PTE failures     4      MiSystemPteInfo+3c          MiSystemPteInfo+28          S1458 S2588 S2668 S4268 S4460
pool failures           4      ExPoolFailures+0            ExPoolFailures+0            -     -     -     -     -
nonpaged pool commit    8      -                           -                           S1498 S25c0 S26a0 S42a0 S4498
paged pool commit       8      MmPagedPoolCommit+0         -                           -     -     -     -     -
MDL pages               8      MmMdlPagesAllocated+0       MmMdlPagesAllocated+0       S14a8 S25d8 S26b8 S42b8 S44b0
contiguous pages        8      -                           -                           -     -     -     S42c0 S44b8
AWE pages               8      MmVadPhysicalPages+0        MmVadPhysicalPages+0        P1cb8 P1e78 P1db8 P4468 P4468
locked file pages       8      -                           -                           P1cc0 P1e80 P1dc0 P4470 P4470
driver commit           4      MmDriverCommit+0            MmDriverCommit+0            S14e0 S25f8 S26d0 S42d8 S44d0
boot commit             8      -                           -                           S14a0 S25d0 S26b0 S42b0 S44a8
PFN array commit        8      -                           -                           -     S2600 S26d8 S42e0 S44d8
system page tables      8      -                           -                           S14b0 S25e0 S26c0 S42c8 S44c0
shared commit           8      MmSharedCommit+0            MmSharedCommit+0            S14d8 P1e88 P1dc8 P4478 P4478
process commit          8      MmProcessCommit+0           MmProcessCommit+0           S14d0 S25f0 S26c8 S42d0 S44c8
special pool            8      MmSpecialPagesInUse+0       MmSpecialPagesInUse+0       S14b8 S25e8 -     -     -
peak commit             8      MmPeakCommitment+0          MmPeakCommitment+0          P1600 P1900 P1840 P3e80 P3e80
"""


@dataclass(frozen=True)
class MemoryPlan:
    """What is special about a machine's memory: ``mdl_pages`` are drivers' pages that no tag counts."""

    mdl_pages: int = 2_947
    system_pte_pages: int = 24_440
    system_pte_failures: int = 0
    pool_failures: int = 0


def add_memory_counters(kernel: KernelBuild) -> KernelBuild:
    """Return a kernel of x64 with public symbols that also knows where these numbers are; others stay as they are."""
    column = {7601: 0, 9600: 1}.get(kernel.build)
    if column is not None:
        known = {name: places[column] for name, places in _GLOBALS.items() if places[column]}
        return replace(kernel, variables={**kernel.variables, **known})
    if kernel.build in _POOL_FAILURES and kernel.architecture is X64:
        return replace(kernel, variables={**kernel.variables, "ExPoolFailures": _POOL_FAILURES[kernel.build]})
    return kernel


def write_memory_counters(parts: Parts, plan: MemoryPlan, committed_pages: int, nonpaged_pages: int) -> Dict[str, int]:
    """Write the numbers of this kernel, and return those that it keeps: pages, or counts, by the names above."""
    rest = max(0, committed_pages - nonpaged_pages - plan.mdl_pages)
    numbers = {
        "resident available": 411_207,
        "available": 96_411,
        "modified": 31_022,
        "system PTEs free": 0x38E0,
        "system PTEs": 0x38E0 + plan.system_pte_pages,
        "system PTE failures": plan.system_pte_failures,
        "pool failures": plan.pool_failures,
        "nonpaged pool commit": nonpaged_pages,
        "paged pool commit": 10_370,
        "MDL pages": plan.mdl_pages,
        "contiguous pages": 212,
        "AWE pages": 1_378,
        "locked file pages": 15,
        "driver commit": 2_167,
        "boot commit": 3_018,
        "PFN array commit": 12_288,
        "system page tables": 446,
        "shared commit": 24_440,
        "process commit": rest // 2,
        "special pool": 0,
        "peak commit": committed_pages + 50_111,
    }
    written = {}
    for line, width, place in _places_of(parts.kernel):
        written[line] = numbers[line]
        parts.space.store(place, numbers[line].to_bytes(width, "little"))
    return written


def _places_of(kernel: KernelBuild) -> List[Tuple[str, int, int]]:
    """Return name, width and address of each number that the kernel keeps."""
    header, *rows = _PLACES.strip().splitlines()
    builds = [int(word) for word in header.split()[2:]]
    if kernel.memory_build not in builds:
        return []
    found = []
    for row in rows:
        name, width, *places = row[:24].strip(), *row[24:].split()
        place = places[builds.index(kernel.memory_build)]
        if place == "-" and name == "pool failures":
            place = "ExPoolFailures+0"
        if place[0] in "SP" and "+" not in place:
            place = f"{'MiState' if place[0] == 'S' else 'MiSystemPartition'}+{place[1:]}"
        symbol, _, offset = place.partition("+")
        if symbol in kernel.variables:
            found.append((name, int(width), kernel.base + kernel.variables[symbol] + int(offset, 16)))
    return found
