"""Where members stand in the executive's objects, by kernel.

x64 since Windows 7 from the public symbol tables of JPCERTCC, older and 32-bit kernels from the profiles of volatility,
ARM64 from a real dump of build 22000, EPROCESS of
26100 from public listings. A column is a build; those with an n are of 32-bit systems, a is ARM64.
"""

from __future__ import annotations

from typing import Dict, List, Optional

from dumps.forge.kernels import BUILDS, KernelBuild

_PROCESS = """
member          3790 6002 7601 9600 14393 17763 19041 20348 22000 2600n 3790n 6002n 7601n 9600n 15063n 17763n 19041n   a
UniqueProcessId   d8   e0  180  2e0   2e8   2e0   440   440   440    84    94    9c    b4    b4     b4     b4     e4 3f8
Links             e0   e8  188  2e8   2f0   2e8   448   448   448    88    98    a0    b8    b8     b8     b8     e8 400
CreateTime        c0   c8  168  2d0   308   308   468   468   468    70    80    88    a0    a8     d0     d0    100 420
ExitTime          c8   d0  170  640   690   690   840   840   840    78    88    90    a8   2b0    2d0    2d8    388 900
ExitStatus       38c  374  444  6fc   62c   624   7d4   7d4   7d4   24c   244   22c   274   270    294    298    34c 894
Flags            388  370  440  2fc   304   304   464   464   464   248   240   228   270    c4     cc     cc     fc 41c
QuotaUsage        f0   f8  198  300   310   310   470   470   470    90    a0    a8    c0    c8     d8     d8    108 428
Parent           218  1f0  290  3d0   3e0   3e0   540   540   540   14c   138   124   140   134    140    140    170 4f8
Session          260  230  2d8  3f0   400   400   558   558   558   170   160   148   168   144    150    150    180 510
ObjectTable      158  160  200  408   418   418   570   570   570    c4    d4    dc    f4   150    15c    15c    18c 528
ImageFileName    268  238  2e0  438   450   450   5a8   5a8   5a8   174   164   14c   16c   170    17c    17c    1ac 560
ThreadListHead   290  260  308  470   488   488   5e0   5e0   5e0   190   180   168   188   194    1a0    1a0    1d0 598
ActiveThreads    2b0  280  328  480   498   498   5f0   5f0   5f0   1a0   190   178   198   19c    1a8    1a8    1d8 5a8
CommitCharge     120  128  1b8  4d0   4f0   4f0   648   648   648    a8    b8    c0    d0   1e8    1f4    1f4    224 600
"""
_PROCESS_24H2 = """
member          26100
UniqueProcessId   1d0
Links             1d8
CreateTime        1f8
ExitTime          5c0
ExitStatus        554
Flags             1f4
QuotaUsage        200
Parent            2d0
Session           2e8
ObjectTable       300
ImageFileName     338
ThreadListHead    370
ActiveThreads     380
CommitCharge      3d8
"""
_THREAD = """
member       3790 6002 7601 9600 14393 17763 19041 20348 22000 2600n 3790n 6002n 7601n 9600n 15063n 17763n 19041n   a
Cid           358  380  3b8  620   630   638   478   4c8   4c8   1ec   1e4   20c   22c   364    37c    37c    2ac 3a8
ExitTime      310  338  370  5d8   5e8   5f8   438   488   488   1c8   1c0   1e8   208   340    358    358    288   -
StartAddress  3c0  358  390  5f8   608   610   450   4a0   4a0   224   21c   1f8   218   350    368    368    298 380
Process       3b8    -  210  220   220   220   220   220   220   220   218     -     -     -      -      -      - 240
"""
_TABLE = """
member          3790 6002 7601 9600 14393 17763 19041 20348 22000 2600n 3790n 6002n 7601n 9600n 15063n 17763n 19041n  a
TableCode          0    0    0    8     8     8     8     8     8     0     0     0     0     8      8      8      8  8
QuotaProcess       8    8    8   10    10    10    10    10    10     4     4     4     4     c      c      c      c 10
UniqueProcessId   10   10   10   28    28    28    28    28    28     8     8     8     8    18     18     18     18 28
Links             38   20   20   18    18    18    18    18    18    1c    1c    10    10    10     10     10     10 18
NextHandle        64   5c   5c    0     0     0     0     0     0    38    38    34    34     0      0      0      0  0
HandleCount       68   58   58    -     -     -     -     -     -    3c    3c    30    30     -      -      -      -  -
FreeLists          -    -    -   40    40    40    40    40    40     -     -     -     -    28     40     40     40 40
"""
_TOKEN = """
member    3790 6002 7601 9600 14393 17763 19041 20348 22000 2600n 3790n 6002n 7601n 9600n 15063n 17763n 19041n  a
TokenType   98   b8   b8   c0    c0    c0    c0    c0    c0    80    80    a4    a4    a8     a8     a8     a8 c0
Level       9c   bc   bc   c4    c4    c4    c4    c4    c4    84    84    a8    a8    ac     ac     ac     ac c4
SessionId   48   74   74   78    78    78    78    78    78    48    48    74    74    78     78     78     78 78
Logon        -   e0   d0   d8    d8    d8    d8    d8    d8     -    94    c4    bc    c0     c0     c0     c0 d8
LogonId      -    8    8    8     8     8     8     8     8     -     -     4     4     4      4      4      4  8
Account      -   30   30   38    38    38    38    38    38     -     -    24    24    24     24     24     24 38
Authority    -   40   40   48    48    48    48    48    48     -     -    2c    2c    2c     2c     2c     2c 48
"""
_REGISTRATION = """
member    6002 7601 9600 14393 17763 19041 20348 22000 6002n 7601n 9600n 15063n 17763n 19041n  a
Bytes       50   70   70    70    70    70    70    70    2c    3c    28     3c     3c     3c 70
Caller       -    -   30    30    30    30    30    30     -     -     c     18     18     18 30
Process     40   58   50    50    50    50    50    50    24    30    1c     28     28     28 50
Callback    40   58   58    58    58    58    58    58    24    30    20     2c     2c     2c 58
Flags       1a   32   62    62    62    62    62    62     e    1a    26     32     32     32 62
"""
_KEY_CONTROL_BLOCK = """
member    3790 6002 7601 9600 14393 17763 19041 20348 22000 2600n 3790n 6002n 7601n 9600n 15063n 17763n 19041n a
ParentKcb   28   28   48   48    40    40    48    48    48    18    18    18    28    28     28     24     24 48
NameBlock   30   30   50   50    48    48    50    50    50    1c    1c    1c    2c    2c     2c     28     28 50
"""
_TYPE = """
member   3790 6002 7601 9600 14393 17763 19041 20348 22000 2600n 3790n 6002n 7601n 9600n 15063n 17763n 19041n  a
Size      2c0  238   d0   d8    d8    d8    d8    d8    d8   190   190   140    88    90     90     90     90 d8
TypeList   68    0    0    0     0     0     0     0     0    38    38     0     0     0      0      0      0  0
Name       78   10   10   10    10    10    10    10    10    40    40     8     8     8      8      8      8 10
Index      90   28   28   28    28    28    28    28    28    4c    4c    14    14    14     14     14     14 28
Counters   94   2c   2c   2c    2c    2c    2c    2c    2c    50    50    18    18    18     18     18     18 2c
TypeInfo   a8   40   40   40    40    40    40    40    40    60    60    28    28    28     28     28     28 40
PoolType   c8   64   64   64    64    64    64    64    64    80    80    4c    4c    4c     4c     4c     4c 64
Key       118  120   b8   c0    c0    c0    c0    c0    c0    ac    ac    b4    7c    84     84     84     84 c0
"""
_VERIFIER = """
member           7601 9600 14393 17763 19041 20348 22000
Tables             20   10    10    10    10    10    10
TablesNo           28   18    18    18    18    18    18
TableBytes         70   c0    c0    c0    c0    c0    c0
VerifiedData       28   30    38    38    38    30    38
PoolPageHeaders    30   30    30    40    40    40    40
Allocations        50   50    50    60    68    70    70
Bytes              60   60    60    70    78    80    80
LockedBytes        98   98    98    a8    b0    b8    b8
TotalAllocations   40   40    40    40    40    44    44
TotalBytes         50   50    50    50    50    58    58
TraceBytes         80   80    80    80    80    80   1a8
"""
_VARIABLES = """
symbol                      7601   9600  14393  17763  19041  20348  22000
ObTypeIndexTable          21e100 2aca00 3a79e0 541bf0 cfce10 d113b0 d07490
ObHeaderCookie                 -      - 3a74bc 5415c8 cfc71c d10b08 d06c0c
ObpKernelHandleTable      21c580 2aadd8 301d40 419db8 c25a20 c2f088 c25008
ExpFreeListCount               -      -      - 96e5b4 d2d720 d499fc d3d48c
HandleTableListHead       2109f0 6a48c8 746090 96ea50 d2db78 d49e18 d3d8a8
ExNPagedLookasideListHead 210960 2a1fc0 2f8450 406f60 c16860 c1d480 c116e0
ExPagedLookasideListHead  210940 2a1fb0 2f8440 406f80 c16850 c1d4b0 c11700
ExSystemLookasideListHead 210910 2a1fa0 2f8470 406f90 c16820 c1d4d0 c11710
ViTargetDriversAvl        1fa6c0 2a8860 2fd980 40d5c0 c1d020 c25220 c1b240
VfPoolTraces              54a128 68b1d8 72a0e8 985ae8 d470b0 d64500 d585a8
VfPoolTracesIndex         54a14c 68b2e8 72a2ac 985e78 d4742c d64544 d5860c
VfPoolTracesLength        54a058 6b3008 756004 97f000 d3f004 d64458 d58518
ObpTraceFlags             20c83c 34d03c 3a6008 540010 cfb010 d0f010 d05010
ObpObjectTable            20cb80 2aaf50 3020f8 41a140 c25ba8 c2f450 c25368
ObpStackTable             20cb78 2aaf68 302110 41a180 c25ba0 c2f4a8 c25380
"""


class Members:
    """Offsets of one kernel's members by name; ``find`` answers None for one that is not known."""

    def __init__(self, table: str, kernel: KernelBuild) -> None:
        self._offsets = _read_column(table, kernel)

    def __getitem__(self, name: str) -> int:
        return self._offsets[name]

    def find(self, name: str) -> Optional[int]:
        """Return the offset, or None."""
        return self._offsets.get(name)


class ObjectLayouts:
    """The layouts of one kernel."""

    def __init__(self, kernel: KernelBuild) -> None:
        self.process = Members(_PROCESS_24H2 if _is_24h2(kernel) else _PROCESS, kernel)
        self.thread = Members(_THREAD, kernel)
        self.table = Members(_TABLE, kernel)
        self.token = Members(_TOKEN, kernel)
        self.key_control_block = Members(_KEY_CONTROL_BLOCK, kernel)
        self.type = Members(_TYPE, kernel)
        self.registration = Members(_REGISTRATION, kernel)


def _is_24h2(kernel: KernelBuild) -> bool:
    return kernel.build >= 26100 and kernel.architecture.family == "x64"


def verifier_members(kernel: KernelBuild) -> Members:
    """Return where Driver Verifier of a kernel with public symbols keeps its accounts."""
    return Members(_VERIFIER, kernel)


def object_variables(kernel: KernelBuild) -> Dict[str, int]:
    """Return the addresses of variables of nt that only public symbols tell; empty for kernels without them."""
    if kernel.architecture.name != "x64" or kernel.build not in BUILDS:
        return {}
    return {name: kernel.base + rva for name, rva in _read_column(_VARIABLES, kernel).items()}


def _read_column(table: str, kernel: KernelBuild) -> Dict[str, int]:
    header, *rows = table.strip().splitlines()
    columns = header.split()
    name = next((name for name in _column_names(kernel) if name in columns), None)
    if name is None:
        return {}
    column = columns.index(name)
    cells = (row.split() for row in rows)
    return {cell[0]: int(cell[column], 16) for cell in cells if cell[column] != "-"}


def _column_names(kernel: KernelBuild) -> List[str]:
    """Return which columns may be the kernel's; of those without public symbols the last one that is not newer."""
    if kernel.architecture.family == "arm64":
        return ["a"]
    name = f"{kernel.build}{'n' if kernel.architecture.narrow else ''}"
    older = [str(build) for build in (26100, 22000) if kernel.build > build]
    return [name, *older]
