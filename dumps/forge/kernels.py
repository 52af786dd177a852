"""The kernels that forged machines run: identity, symbol addresses and sizes of one real ntkrnlmp.pdb a build.

The numbers were read from the public symbol tables of Microsoft's kernels (JPCERTCC/Windows-Symbol-Tables, x64).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Dict, Tuple

from dumps.forge.architectures import X64, Architecture
from dumps.forge.kernelcode.link import LEVELS

_VARIABLES = """
symbol                            7601    9600   14393   17763   19041   20348   22000
PoolTrackTable                  210f88  2a26e8  2f99f0  409858  c168a8  c1d518  c157d8
PoolTrackTableSize              210f80  2a3c00  2f8578  406fe0  c19128  c21598  c157d0
PoolTrackTableMask              210f78  2a3b38  2f85a0  409828  c190c0  c1d540  c157a0
PoolTrackTableExpansion         210f70  2a3b40  2f85a8  409830  c19110  c1d538  c157a8
PoolTrackTableExpansionSize     210f68  2a3b28  2f99d0  409838  c19118  c21580  c157b0
ExPoolTagTables                 210fa0  2a2720  2f85c0  407000  c168c0  c1d560  c117a0
PoolBigPageTable                210f60  2a3b30  2f99d8  409840  c19100  c21578  c157b8
PoolBigPageTableSize            210f58  2a3b48  2f99c0  409818  c19108  c21570  c157c0
ExpPoolBigEntriesInUse          2a01c0  345200  3bb100  55a100  d23100  d3b100  d31100
KdDebuggerDataBlock             1e2130  290530  2ef900  3fea80  c00b20  c00a30  c02190
PsLoadedModuleList              239c90  2c35f0  304060  41a8d0  c2a390  c339d0  c298a0
PsActiveProcessHead             21b940  2a93a0  2fe410  40e3a0  c1e200  c26400  c1bfa0
MmUnloadedDrivers               29d1f0  34d238  304080  41a850  c2a308  c339f0  c29d50
MmLastUnloadedDriver            239c88  2c3564  304088  41a858  c2a310  c339f8  c29d58
KiProcessorBlock                29dcc0  34dd80  3a83c0  542d40  cfdc80  d12680  d088c0
NtBuildLab                        a150    2620  25d0a0  438400  c4c1a0  c58520  c4e6e0
MmPfnDatabase                   29d280  34d0f8  3a72b0  5413a8  cfc500  d108d0  d069a8
MmPhysicalMemoryBlock           29d038  34d108  3a72e0  541388  cfc4a8  d10890  d06938
MmSizeOfPagedPoolInBytes        29d4a8  34d530  3a7520  541640  cfc7e8  d10bc8  d06cb8
MmMaximumNonPagedPoolInBytes    29d2f0  34d2a8       -       -       -       -       -
MmAllocatedNonPagedPool         223810  2b0f78       -       -       -       -       -
MmNumberOfPhysicalPages         29d080  34d068       -       -       -       -       -
MiInvalidPteMask                29d300  34d308       -       -       -       -       -
MiState                              -       -  323280  438900  c4c740  c58e80  c4f080
MmSpecialPoolTag                29d0f4  34d11c  3a730c  5413b8  cfc558  d10924  d069f4
KernelVerifier                  20f4f4  2a8934  2fda54  40d654  c1ca94  c254f8  c1acac
MmVerifierData                  23a0e0  2c39e0  3040a0  41a8e0  c2a7a0  c34100  c2a060
MmHighestUserAddress            29d010  34d010  275d68  361550   21440   24b30   27a90
MmSystemRangeStart              29d100  34d138  275d60  361538   21448   24b28   27a98
MmUserProbeAddress              29d000  34d000  275d70  361548   21438   24b20   27a88
CmNtCSDVersion                  27323c  2d2ea8  320188  4382e8  c4c078  c58408  c4e5c8
KeTimeIncrement                 29d0b4  34d064  3a7294  541318  cfc468  d10824  d06920
PspCidTable                     21b988  34d1e8  3a73a0  541468  cfc5c8  d10998  d06a60
ExpSystemResourcesList          210970  2a2030  2f84b0  406fd0  c16890  c1d500  c11750
ObpRootDirectoryObject          21c590  2aac30  301df0  419e50  c251f0  c2e870  c24750
ObpTypeObjectType               21c5a8  2aac38  301df8  419e58  c251e8  c2e868  c24758
KeBugCheckCallbackListHead      26c920  2cae80  30b450  422070  c32050  c35e90  c2bd70
KiBugCheckData                  266780  2caa20  30aba0  421500  c31480  c35ec0  c2bde0
KdpDataBlockEncoded             1ffd1b  29c448  33f108  43c750  c50ba0  d0b3c8  d01968
KiWaitNever                     29d130  34d548  3a7530  541650  cfc7f8  d10bd8  d06cc8
KiWaitAlways                    29d218  34da40  3a76b8  541850  cfc9f8  d10e40  d06e28
RtlpHpHeapGlobals                    -       -       -  40df40  c1dd60  c64340  c5a600
"""
_TOTALS_VARIABLES = """
symbol                            7601    9600   14393   17763   19041   20348   22000
MmPagedPoolInfo                 29d940  2b0e20       -       -       -       -       -
MmTotalCommittedPages           222320  2b0d48       -       -       -       -       -
MmTotalCommitLimit              222318  2b0d50       -       -       -       -       -
MiSystemPartition                    -       -  320380  43c800  c50bc0  c5ed00  c54fc0
"""
_FIRST_INVENTED_MANAGER = 19041
_INVENTED_MANAGER = {
    "MiState": 0x1E1000, "MiSystemPartition": 0x1E9000, "MmPteBase": 0x1F0040, "MiVisibleState": 0x1F0060,
    "ExpPoolFailures": 0x1F0080,
}  # fmt: skip
_NONPAGED_COMMIT = {14393: 0x1498, 17763: 0x25C0, 19041: 0x26A0, 20348: 0x42A0, 22000: 0x4498}  # in nt!MiState
_FUNCTIONS = """
symbol                                             7601   9600  14393  17763  19041  20348  22000
ExAllocatePool                                    12fd0  d40b0 105c78 10d220 322500 3790a0 2fd0c0
ExAllocatePoolWithTag                            1d9010 28bbf0 251dd0 34b010 9b1030 a45640 a6d890
ExAllocatePoolWithQuotaTag                        2ee70  32900  7fe80  86450 2421d0 31ca50 20d380
ExAllocatePoolWithTagPriority                     2efc0  51058  97680  d0b10 24fde0 354d70 2e30b0
ExAllocatePool2                                       -      -      -      - 9b1280 a452c0 a6d3b0
ExFreePool                                       1dad58 28ca00 252b24 34d780 9b1010 a45010 a6d110
ExFreePoolWithTag                                1d9cc0 28b000 251380 34bc60 9b1010 a45010 a6d110
ExInitializeNPagedLookasideList                  14d020 102070 110d78 15dbf0 3778f0 257b00 2f1460
ExInitializePagedLookasideList                   344bb8 4153a0 50d49c 669f60 651dc0 693520 754160
ExInitializeLookasideListEx                      14d060  9e47c 107edc 123400 2c1d20 256a90 30be10
ExDeleteNPagedLookasideList                      1a89c0 129398 1499dc 16b590 397530 362d90 2e79b0
ExDeletePagedLookasideList                        6cf98  ccbfc  f9868  fc7e0 30eb30 362dc0 2e79e0
ExDeleteLookasideListEx                           fc840 10ba2c  f98d0  fc860 30ebb0 362e40 2e7a60
ExpInterlockedPopEntrySList                       9a7c0 147490 1650f0 1c3520 3fd9a0 42a1e0 4277f0
ExpInterlockedPushEntrySList                      9a840 1474d0 165130 1c3560 3fd9e0 42a220 427830
ExInitializeResourceLite                          1aa30  521dc  7c3c0  10d90 26c4c0 224890 24f920
ExDeleteResourceLite                              1b550  f5a18  d1000  bb860 231040 2f2490 2061c0
ExEnterCriticalRegionAndAcquireResourceExclusive  47f70  3ae00  88f50  571f0 261f10 2d0960 2191e0
ExReleaseResourceAndLeaveCriticalRegion           2fee0  3c140  88f80  56110 2630e0 2d0a20 2192a0
FsRtlAllocatePoolWithTag                         1a1b90 19a4f4 1b7300 26f380 4ea180 5353e0 540c30
IoCreateDevice                                   329e10 40f7e4 487c4c 5a6f70 7029c0 759d50 6dbaa0
IoDeleteDevice                                    6dc30  9b7bc  c5c68   7340 33f800 321dd0 26b490
IofCompleteRequest                                33330  457f8  65980  9fd80 248710 2d90d0 21fd00
ObfDereferenceObject                              34300  39500  8bad0  54e10 261190 2d8840 216bc0
PsReferencePrimaryToken                          2df1e8 3a4c44 41db30 5b9f80 5e12f0 65f040 662020
PsDereferencePrimaryToken                        312ae0 4646f0 4fd5dc 670f90 6e0290 7be680 755670
PsLookupProcessByProcessId                       30aac4 3d6cf8 423080 5c1e40 5dffc0 720430 7bf590
PsSetCreateProcessNotifyRoutine                  492860 4ddb6c 566760 7475a0 787ff0 8108e0 82a870
PsSetLoadImageNotifyRoutine                      454460 5f8f24 56e4ec 7473a0 787e80 8108c0 82a850
PsRemoveLoadImageNotifyRoutine                   4923d0 5f8dd0 6815a8 88cfa0 907e10 989930 9b24e0
RtlInitUnicodeString                              1f4c0  2ccec  72460  98750 206450 2d8a30 213120
KeBugCheckEx                                      93ea0 13f1c0 15d580 1b9d10 3f5a80 41fd30 41d780
"""
FUNCTION_NAMES: Tuple[str, ...] = tuple(row.split()[0] for row in _FUNCTIONS.strip().splitlines()[1:])

# Where this build really keeps code and data; the forged image only adds .edata, .rsrc and INIT behind them.
_SECTIONS: Dict[int, Tuple[Tuple[str, int, int], ...]] = {
    7601: ((".text", 0x1000, 0x1DC000), (".data", 0x1DE000, 0x2A2000), ("PAGE", 0x2A4000, 0x4F0000)),
    9600: ((".text", 0x1000, 0x28E000), (".data", 0x28F000, 0x354000), ("PAGE", 0x355000, 0x600000)),
    14393: (
        (".text", 0x1000, 0x253000),
        (".rdata", 0x254000, 0x2E0000),
        (".data", 0x2EE000, 0x3BC000),
        ("PAGE", 0x3BD000, 0x690000),
    ),
    17763: (
        (".text", 0x1000, 0x34E000),
        (".rdata", 0x34F000, 0x3F0000),
        (".data", 0x3FE000, 0x55B000),
        ("PAGE", 0x55C000, 0x890000),
    ),
    19041: (
        (".rdata", 0x1000, 0x1FF000),
        (".text", 0x200000, 0x4D0000),
        ("PAGE", 0x4D0000, 0x9AC000),
        ("POOLCODE", 0x9B1000, 0x9B4000),
        (".data", 0xC00000, 0xD30000),
    ),
    20348: (
        (".rdata", 0x1000, 0x1FF000),
        (".text", 0x200000, 0x500000),
        ("PAGE", 0x500000, 0xA40000),
        ("POOLCODE", 0xA45000, 0xA48000),
        (".data", 0xC00000, 0xD3C000),
    ),
    22000: (
        (".rdata", 0x1000, 0x1FF000),
        (".text", 0x200000, 0x500000),
        ("PAGE", 0x500000, 0xA60000),
        ("POOLCODE", 0xA6D000, 0xA70000),
        (".data", 0xC00000, 0xD32000),
    ),
}


@dataclass(frozen=True)
class StructSizes:
    """Sizes and member offsets, in bytes, that the debugger data block or the forge needs.

    ``prcb_context`` is the offset of KPRCB.Context (a pointer), ``processor_state`` that of
    KPRCB.ProcessorState.ContextFrame. The members of _MI_SYSTEM_INFORMATION are relative to nt!MiState;
    they are zero where the kernel still has one global for each value. ``prcb_number`` and ``prcb_thread`` are
    KPRCB.Number and .CurrentThread, ``special_registers`` is KPRCB.ProcessorState.SpecialRegisters, ``process_root``
    KPROCESS.DirectoryTableBase. The KPRCB is the end of the KPCR.
    """

    debugger_data: int
    prcb: int
    prcb_context: int
    processor_state: int
    eprocess: int
    ethread: int
    peb: int
    parent_cid: int
    pcr: int
    tag_table_slots: int
    tracker_row: int
    big_page_row: int
    allocated_nonpaged_pages: int = 0
    maximum_nonpaged_pages: int = 0
    invalid_pte_mask: int = 0
    allocated_paged_pages: int = 0
    nonpaged_commit_pages: int = 0
    prcb_number: int = 0x24
    prcb_thread: int = 0x8
    special_registers: int = 0x40
    process_root: int = 0x28


_SIZES: Dict[int, StructSizes] = {
    7601: StructSizes(0x340, 0x6F00, 0x53E0, 0x120, 0x4F8, 0x4A8, 0x338, 0x290, 0x7080, 256, 0x28, 0x18),
    9600: StructSizes(0x360, 0x7EC0, 0x6180, 0x120, 0x700, 0x778, 0x3E8, 0x3D0, 0x8040, 640, 0x28, 0x18),
    14393: StructSizes(
        *(0x368, 0x7EC0, 0x6300, 0x120, 0x7C8, 0x7E0, 0x3F8, 0x3E0, 0x8040, 640, 0x28, 0x18),
        *(0x18, 0x1420, 0x5C0),
    ),
    17763: StructSizes(
        *(0x380, 0x7EC0, 0x62C0, 0x1F0, 0x858, 0x810, 0x3F8, 0x3E0, 0x8040, 1280, 0x38, 0x18),
        *(0x18, 0x2550, 0x1680),
        special_registers=0x100,
    ),
    19041: StructSizes(
        *(0x380, 0xAF00, 0x85C0, 0x1F0, 0xA40, 0x898, 0x550, 0x540, 0xB080, 1280, 0x38, 0x18),
        *(0x8, 0x2630, 0x1680),
        special_registers=0x100,
    ),
    20348: StructSizes(
        *(0x380, 0xBF00, 0x8980, 0x1F0, 0xBC0, 0x8F0, 0x550, 0x540, 0xC080, 2048, 0x50, 0x20),
        *(0x8, 0x4230, 0x16C0),
        special_registers=0x100,
    ),
    22000: StructSizes(
        *(0x380, 0xBF00, 0x89C0, 0x1F0, 0xB80, 0x8F0, 0x550, 0x540, 0xC080, 2048, 0x50, 0x20),
        *(0x8, 0x4430, 0x1740),
        special_registers=0x100,
    ),
}

# Build -> (GUID as in the RSDS record's text form, time stamp and base of the image, text of nt!NtBuildLab);
# the GUID is the real kernel's, the time stamps and bases are examples.
_IDENTITY: Dict[int, Tuple[str, int, int, str]] = {
    7601: (
        "339E74133576439CBCDF7E0229DA3773",
        0x5E0EB67F,
        0xFFFFF80002A4F000,
        "7601.24540.amd64fre.win7sp1_ldr_escrow",
    ),
    9600: ("7C398E976BF945AD812B204DAFBC1A03", 0x61C3BD5A, 0xFFFFF801D8C85000, "9600.20237.amd64fre.winblue_ltsb"),
    14393: ("517E128F7B7C4EA79491DE6B9B9CE190", 0x60D3FBFE, 0xFFFFF80236000000, "14393.4583.amd64fre.rs1_release"),
    17763: ("1806D020A6E46538D7AC3325FAC114D8", 0x6F0A5E93, 0xFFFFF80562400000, "17763.1.amd64fre.rs5_release"),
    19041: ("5278AFF86C341677D7D7835C85B7B844", 0x0D8333E6, 0xFFFFF8047BA00000, "19041.1.amd64fre.vb_release"),
    20348: ("879AD95F3461091BB6318FA98072AD8E", 0x5D6B9F01, 0xFFFFF80752800000, "20348.1.amd64fre.fe_release"),
    22000: ("0CE4A95C0CD782A7596B034D8648E585", 0x23B9A1C5, 0xFFFFF80016600000, "22000.1.amd64fre.co_release"),
}

BUILDS: Tuple[int, ...] = tuple(_IDENTITY)


@dataclass(frozen=True)
class KernelBuild:
    """One kernel: ``variables`` and ``functions`` map a symbol to its RVA; ``guid`` is the RSDS GUID as hex text.

    ``default_rows`` is the size of its tag tables unless somebody wishes for another. ``pool_code`` is the level at
    which its own code that uses them was compiled; without one it has none.
    """

    build: int
    guid: str
    age: int
    timestamp: int
    base: int
    build_lab: str
    variables: Dict[str, int]
    functions: Dict[str, int]
    sections: Tuple[Tuple[str, int, int], ...]
    sizes: StructSizes
    architecture: Architecture = X64
    pdb_name: str = "ntkrnlmp.pdb"
    file_name: str = "ntoskrnl.exe"
    default_rows: int = 1024 + 1
    pool_code: str = ""

    @property
    def memory_build(self) -> int:
        """The build with public symbols whose memory manager this kernel has: the last one that is not newer."""
        return max((build for build in _IDENTITY if build <= self.build), default=self.build)

    @property
    def large_pages(self) -> bool:
        """True where the boot loader maps the kernel by pages of 2 or 4 MB."""
        return self.base % self.architecture.entries.large_bytes == 0

    @property
    def huge_pages(self) -> bool:
        """True where the memory manager may map its own data by 1 GB pages."""
        return self.build >= 17763 and not self.architecture.narrow

    @property
    def tags_by_processor(self) -> bool:
        """True where every processor has its own tag table; XP and 2003 have one for all."""
        return "ExPoolTagTables" in self.variables

    @property
    def encodes_debugger_data(self) -> bool:
        """True for kernels that hide the debugger data block while they run."""
        return self.build > 7601 and "KdpDataBlockEncoded" in self.variables

    @property
    def swizzles(self) -> bool:
        """True for kernels patched against L1TF, a flaw of x64 processors, that keep a mask at a place that is told."""
        told = "MiInvalidPteMask" in self.variables or "MiState" in self.variables
        return told and self.architecture.family == X64.family


def find_kernel(build: int) -> KernelBuild:
    """Return the real kernel of a build; ValueError for a build that the forge does not know."""
    if build not in _IDENTITY:
        raise ValueError(f"build {build}: the forge knows {', '.join(map(str, BUILDS))}")
    guid, timestamp, base, build_lab = _IDENTITY[build]
    return KernelBuild(
        build=build,
        guid=guid,
        age=1,
        timestamp=timestamp,
        base=base,
        build_lab=build_lab,
        variables=_parse_table(_VARIABLES, build),
        functions=_parse_table(_FUNCTIONS, build),
        sections=_SECTIONS[build],
        sizes=_SIZES[build],
    )


def add_totals(kernel: KernelBuild) -> KernelBuild:
    """Return a kernel that, if it has public symbols, also tells what is in use of paged pool and of commit."""
    if kernel.build not in _IDENTITY or kernel.architecture is not X64:
        return kernel
    variables = {**kernel.variables, **_parse_table(_TOTALS_VARIABLES, kernel.build)}
    sizes = kernel.sizes
    if sizes.maximum_nonpaged_pages:
        sizes = replace(
            sizes,
            allocated_paged_pages=sizes.maximum_nonpaged_pages - 8,
            nonpaged_commit_pages=_NONPAGED_COMMIT[kernel.build],
        )
    return replace(kernel, variables=variables, sizes=sizes)


def add_memory_manager(kernel: KernelBuild) -> KernelBuild:
    """Return an invented 64-bit kernel that keeps what the memory manager counts as the last public one before it."""
    if (
        kernel.architecture.narrow
        or kernel.build < _FIRST_INVENTED_MANAGER
        or (kernel.architecture.name == X64.name and kernel.build in _IDENTITY)
    ):
        return kernel
    known = _SIZES[kernel.memory_build]
    sizes = replace(
        kernel.sizes,
        allocated_nonpaged_pages=known.allocated_nonpaged_pages,
        maximum_nonpaged_pages=known.maximum_nonpaged_pages,
        invalid_pte_mask=known.invalid_pte_mask,
        allocated_paged_pages=known.maximum_nonpaged_pages - 8,
        nonpaged_commit_pages=_NONPAGED_COMMIT[kernel.memory_build],
    )
    return replace(kernel, variables={**kernel.variables, **_INVENTED_MANAGER}, sizes=sizes)


def disguise_kernel(kernel: KernelBuild, chance: random.Random) -> KernelBuild:
    """Return a kernel that nobody has symbols of: another GUID, and the pool's globals at distances of no real build.

    They stay within 5000h bytes of PoolTrackTable, as in every kernel whose symbols are public.
    """
    variables = dict(kernel.variables)
    anchor = variables["PoolTrackTable"] - 0x18
    slots_bytes = kernel.sizes.tag_table_slots * kernel.architecture.pointer_bytes
    variables["PoolTrackTable"] = anchor
    if kernel.tags_by_processor:
        variables["ExPoolTagTables"] = anchor - 0x230 - slots_bytes
    for distance, name in enumerate(
        (
            "PoolTrackTableExpansion",
            "PoolBigPageTableSize",
            "PoolTrackTableMask",
            "PoolTrackTableExpansionSize",
            "PoolBigPageTable",
            "PoolTrackTableSize",
        )
    ):
        variables[name] = anchor - 0x200 + 0x48 * distance
    return replace(
        kernel,
        guid=format(chance.getrandbits(128), "032X"),
        timestamp=chance.getrandbits(31),
        variables=variables,
        pool_code=chance.choice(LEVELS) if kernel.tags_by_processor else "",
    )


def _parse_table(table: str, build: int) -> Dict[str, int]:
    header, *rows = table.strip().splitlines()
    column = header.split().index(str(build))
    cells = (row.split() for row in rows)
    return {cell[0]: int(cell[column], 16) for cell in cells if cell[column] != "-"}
