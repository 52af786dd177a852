"""Kernels whose symbols nobody published: x86, ARM64, and x64 before Windows 7 and since build 22621.

Identity, addresses and the places of variables are invented. What a reader without symbols relies on is real: row
and entry sizes, the pool's variables near each other, and the members of the debugger data block. How far the
variables of the big-page table are from PoolTrackTable up to Windows 8.1 is what volatility reports. Of kernels since
22621 the rows of the tables, EPROCESS of 26100 and the region types of 26200 are known; the rest is as in 22000.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Dict, List, NamedTuple, Tuple

from dumps.forge.architectures import X64, Architecture
from dumps.forge.kernels import BUILDS, FUNCTION_NAMES, KernelBuild, StructSizes, find_kernel

_TEXT = 0x1000
_DATA = 0x181000
_PAGE_CODE = 0x221000
_END = 0x3C0000
_POOL_VARIABLES = _DATA + 0x9000
_OTHER_VARIABLES = _DATA + 0x30000
_ROUTINES = _TEXT + 0x2460
_ROUTINE_STEP = 0x5D0

# Variable -> its distance from PoolTrackTable, in pointers.
_XP = {"Size": -1, "Mask": 1, "Expansion": 2, "ExpansionSize": 3, "BigPageTable": -2, "BigPageTableSize": -3}
_SERVER_2003 = {
    "Size": -1,
    "Mask": -2,
    "Expansion": -3,
    "ExpansionSize": -4,
    "BigPageTable": -6,
    "BigPageTableSize": -7,
}
_VISTA = {"Size": -1, "Mask": -2, "Expansion": -3, "ExpansionSize": -4, "BigPageTable": -5, "BigPageTableSize": -6}
_LATER = {"Size": -9, "Mask": -4, "Expansion": -5, "ExpansionSize": -12, "BigPageTable": -29, "BigPageTableSize": -30}
_TAG_TABLES_DISTANCE = 3

# Variables and the bytes that they take, in the order of the invented .data; the first are gone since Windows 10.
_OLD_VARIABLES = {
    "MmMaximumNonPagedPoolInBytes": 8,
    "MmAllocatedNonPagedPool": 8,
    "MmNumberOfPhysicalPages": 8,
    "MmPagedPoolInfo": 0x80,
    "MmNonPagedPoolStart": 8,
    "MmPagedPoolStart": 8,
    "MmPagedPoolEnd": 8,
    "MmTotalCommittedPages": 8,
    "MmTotalCommitLimit": 8,
}
_LISTS_OF_OLD = {"MiSuspectDriverList": 0x10}
_VARIABLES = {
    "ExpPoolBigEntriesInUse": 8,
    "KdDebuggerDataBlock": 0x400,
    "PsLoadedModuleList": 0x10,
    "PsActiveProcessHead": 0x10,
    "MmUnloadedDrivers": 8,
    "MmLastUnloadedDriver": 8,
    "KiProcessorBlock": 0x200,
    "NtBuildLab": 0x80,
    "MmPfnDatabase": 8,
    "MmPhysicalMemoryBlock": 8,
    "MmSizeOfPagedPoolInBytes": 8,
    "MmSpecialPoolTag": 8,
    "KernelVerifier": 8,
    "MmVerifierData": 0x80,
    "MmHighestUserAddress": 8,
    "MmSystemRangeStart": 8,
    "MmUserProbeAddress": 8,
    "CmNtCSDVersion": 8,
    "KeTimeIncrement": 8,
    "PspCidTable": 8,
    "ExpSystemResourcesList": 0x10,
    "ObpRootDirectoryObject": 8,
    "ObpTypeObjectType": 8,
    "KeBugCheckCallbackListHead": 0x10,
}


class _Release(NamedTuple):
    """What one build has on one family of processors."""

    base: int
    distances: Dict[str, int]
    branch: str
    sizes: StructSizes


# Members of StructSizes: debugger data, KPRCB, its Context and ProcessorState, EPROCESS, ETHREAD, Peb, ParentCID, KPCR,
# slots of ExPoolTagTables, row sizes; then by name what differs from x64.
_X86_SINGLE = {"prcb_number": 0x10, "prcb_thread": 0x4, "process_root": 0x18, "special_registers": 0x2E8}
_X86_LEGACY = {"prcb_number": 0x3CC, "prcb_thread": 0x4, "process_root": 0x18, "special_registers": 0x2E4}
_RELEASES: Dict[Tuple[str, int], _Release] = {
    ("x86", 2600): _Release(
        0x804D7000,
        _XP,
        "xpsp_sp3_gdr",
        StructSizes(0x290, 0xC50, 0, 0x1C, 0x260, 0x258, 0x1B0, 0x14C, 0xD70, 0, 0x1C, 0xC, **_X86_SINGLE),
    ),
    ("x86", 3790): _Release(
        0x80800000,
        _SERVER_2003,
        "srv03_sp2_gdr",
        StructSizes(0x318, 0xEC0, 0, 0x1C, 0x278, 0x250, 0x1A0, 0x138, 0xFE0, 0, 0x1C, 0x10, **_X86_SINGLE),
    ),
    ("x86", 6002): _Release(
        0x81800000,
        _VISTA,
        "vistasp2_gdr",
        StructSizes(0x330, 0x2008, 0, 0x1C, 0x270, 0x288, 0x188, 0x124, 0x2128, 32, 0x1C, 0x10, **_X86_SINGLE),
    ),
    ("x86", 7601): _Release(
        0x82800000,
        _VISTA,
        "win7sp1_gdr",
        StructSizes(0x340, 0x3628, 0x33F8, 0x18, 0x2C0, 0x2B8, 0x1A8, 0x140, 0x3748, 32, 0x1C, 0x10, **_X86_LEGACY),
    ),
    ("x86", 9600): _Release(
        0x81C1B000,
        _LATER,
        "winblue_gdr",
        StructSizes(0x360, 0x4160, 0x3E90, 0x18, 0x310, 0x3A8, 0x140, 0x134, 0x4280, 32, 0x1C, 0x10, **_X86_LEGACY),
    ),
    ("x86", 15063): _Release(
        0x81A00000,
        _LATER,
        "rs2_release",
        StructSizes(0x368, 0x4900, 0x4400, 0x18, 0x3E0, 0x448, 0x144, 0x140, 0x4A20, 32, 0x1C, 0x10, **_X86_LEGACY),
    ),
    ("x86", 17763): _Release(
        0x82000000,
        _LATER,
        "rs5_release",
        StructSizes(0x380, 0x4900, 0x4440, 0x18, 0x408, 0x4A8, 0x184, 0x140, 0x4A20, 32, 0x30, 0x10, **_X86_LEGACY),
    ),
    ("x86", 19041): _Release(
        0x81E00000,
        _LATER,
        "vb_release",
        StructSizes(0x380, 0x5900, 0x5440, 0x18, 0x4C0, 0x4E8, 0x1B4, 0x170, 0x5A20, 32, 0x30, 0x10, **_X86_LEGACY),
    ),
    ("x64", 3790): _Release(
        0xFFFFF80001000000,
        _SERVER_2003,
        "srv03_sp2_gdr",
        StructSizes(0x318, 0x2480, 0, 0x120, 0x3E0, 0x428, 0x2C0, 0x218, 0x2600, 0, 0x28, 0x18),
    ),
    ("x64", 6002): _Release(
        0xFFFFF80001C09000,
        _VISTA,
        "vistasp2_gdr",
        StructSizes(0x330, 0x3A20, 0, 0x120, 0x3E8, 0x450, 0x290, 0x1F0, 0x3BA0, 64, 0x28, 0x18),
    ),
    ("arm64", 19041): _Release(
        0xFFFFF80061800000,
        _LATER,
        "vb_release",
        StructSizes(0x380, 0x8F80, 0x840, 0x360, 0xAC0, 0x958, 0x508, 0x4F8, 0x9900, 1280, 0x38, 0x18),
    ),
    ("arm64", 22000): _Release(
        0xFFFFF8043A200000,
        _LATER,
        "co_release",
        StructSizes(0x380, 0x9680, 0x8A0, 0x360, 0xC80, 0x910, 0x508, 0x4F8, 0xA000, 2048, 0x50, 0x20),
    ),
}
_TODAY = StructSizes(
    *(0x380, 0xBF00, 0x89C0, 0x1F0, 0xB80, 0x8F0, 0x550, 0x540, 0xC080, 2048, 0x50, 0x20), special_registers=0x100
)
_TODAY_24H2 = replace(_TODAY, eprocess=0x840, peb=0x2E0, parent_cid=0x2D0)
_RELEASES.update(
    {
        ("x64", 22621): _Release(0xFFFFF80151A00000, _LATER, "ni_release", _TODAY),
        ("x64", 22631): _Release(0xFFFFF80238200000, _LATER, "ni_release", _TODAY),
        ("x64", 25398): _Release(0xFFFFF80667600000, _LATER, "zn_release", _TODAY),
        ("x64", 26100): _Release(0xFFFFF8031DA00000, _LATER, "ge_release", _TODAY_24H2),
        ("x64", 26200): _Release(0xFFFFF80759400000, _LATER, "ge_release", _TODAY_24H2),
        ("arm64", 26100): _Release(0xFFFFF8024C800000, _LATER, "ge_release", _RELEASES["arm64", 22000].sizes),
    }
)
FIRST_OF_TODAY = 22621
"""From here on kernels are those that run in 2026; Windows Server 2025 is 26100."""

_MACHINE_NAMES = {"x86": "x86fre", "x64": "amd64fre", "arm64": "arm64fre"}
_FIRST_WITHOUT_GLOBALS = 14393
_FIRST_WITH_TREES = 7600  # of the drivers that Driver Verifier watches
_FIRST_WITH_TAG_TABLES = 6000
_FIRST_NAMED_ALIKE = 9600  # before, a kernel with PAE was a file of its own


def find_builds(architecture: Architecture) -> Tuple[int, ...]:
    """Return the builds that the forge knows of an architecture; those with public symbols come first."""
    private = tuple(
        build
        for family, build in _RELEASES
        if family == architecture.family and (build >= FIRST_OF_TODAY or not architecture.has_five_levels)
    )
    return (BUILDS if architecture.name == X64.name else ()) + private


def choose_kernel(build: int, architecture: Architecture, chance: random.Random) -> KernelBuild:
    """Return the real kernel of a build where its symbols are public, else an invented one.

    ValueError for a build that the forge does not know.
    """
    builds = find_builds(architecture)
    if build not in builds:
        raise ValueError(f"build {build} on {architecture.name}: the forge knows {', '.join(map(str, builds))}")
    if architecture.name == X64.name and build in BUILDS:
        return find_kernel(build)
    return _invent_kernel(build, architecture, chance)


def _invent_kernel(build: int, architecture: Architecture, chance: random.Random) -> KernelBuild:
    release = _RELEASES[architecture.family, build]
    renamed = architecture.pae and build < _FIRST_NAMED_ALIKE
    return KernelBuild(
        build=build,
        guid=format(chance.getrandbits(128), "032X"),
        age=1,
        timestamp=chance.getrandbits(31),
        base=release.base,
        build_lab=f"{build}.{_revision(build)}.{_MACHINE_NAMES[architecture.family]}.{release.branch}",
        variables=_place_variables(build, architecture, release),
        functions={name: _ROUTINES + _ROUTINE_STEP * n for n, name in enumerate(_exported_names(build))},
        sections=((".text", _TEXT, _DATA - 0x1000), (".data", _DATA, _PAGE_CODE - 0x1000), ("PAGE", _PAGE_CODE, _END)),
        sizes=release.sizes,
        architecture=architecture,
        pdb_name=_pdb_name(architecture),
        file_name="ntkrnlpa.exe" if renamed else "ntoskrnl.exe",
        default_rows=2048 + 1 if build < _FIRST_WITH_TAG_TABLES else 1024 + 1,
    )


def _pdb_name(architecture: Architecture) -> str:
    if architecture.has_five_levels:
        return "ntkrla57.pdb"
    return "ntkrpamp.pdb" if architecture.pae else "ntkrnlmp.pdb"


def _revision(build: int) -> int:
    return 5512 if build == 2600 else 18005 + build % 1000


def _exported_names(build: int) -> List[str]:
    return [name for name in FUNCTION_NAMES if name != "ExAllocatePool2" or build >= 19041]


def _place_variables(build: int, architecture: Architecture, release: _Release) -> Dict[str, int]:
    unit = architecture.pointer_bytes
    variables = {"PoolTrackTable": _POOL_VARIABLES}
    for name, distance in release.distances.items():
        prefix = "Pool" if name.startswith("Big") else "PoolTrackTable"
        variables[prefix + name] = _POOL_VARIABLES + distance * unit
    if release.sizes.tag_table_slots:
        variables["ExPoolTagTables"] = _POOL_VARIABLES + _TAG_TABLES_DISTANCE * unit
    rva = _OTHER_VARIABLES
    older = _OLD_VARIABLES if build < _FIRST_WITHOUT_GLOBALS else {}
    lists = _LISTS_OF_OLD if build < _FIRST_WITH_TREES else {}
    for name, room_bytes in {**older, **_VARIABLES, **lists}.items():
        variables[name] = rva
        rva += room_bytes + 0x18
    return variables
