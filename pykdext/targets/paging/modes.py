"""The page tables of each kind of kernel: x86 without and with PAE, x64, ARM64.

Sources: the processor manuals for levels and valid entries; the kernels' symbols of ``_MMPTE_PROTOTYPE`` and
``_MMPTE_SOFTWARE``, MemProcFS and ReactOS for the entries that only Windows reads.
"""

from __future__ import annotations

from dataclasses import replace
from struct import Struct
from typing import Optional

from pykdext.model import Machine
from pykdext.targets.paging.addressspace import PagingMode, TableLevel

_KERNEL_HALF = (0xFFFF8000_00000000, 1 << 64)
_USER_HALF = (0, 1 << 47)
_ALL_32_BITS = (0, 1 << 32)

_ENTRY32 = Struct("<I")
_ENTRY64 = Struct("<Q")
_PAGE_TABLE32 = Struct("<1024I")
_PAGE_TABLE64 = Struct("<512Q")

_VALID = 0x01
_LARGE = 0x80
_NEVER_LARGE = 0x01, 0x00  # a valid entry does not match

_ARM64_TABLE_OR_PAGE = 0x03
_ARM64_BLOCK = 0x02, 0x00

_FIRST_BUILD_OF_VISTA = 6000


def _prototype_address_x86(entry: int) -> int:
    """Bits 1 to 8 and 11 to 31 are the bits 2 to 9 and 10 to 30 of the address, of which bit 31 is set."""
    return 0x8000_0000 | (entry >> 1 & 0x7FFF_FC00) | (entry << 1 & 0x3FC)


def _prototype_offset_x86(entry: int) -> int:
    """Bits 1 to 7 and 11 to 31 are the bits 2 to 8 and 9 to 29 of an offset into paged pool."""
    return (entry >> 2 & 0x3FFF_FE00) | (entry << 1 & 0x1FC)


X86 = PagingMode(
    address_ranges=(_ALL_32_BITS,),
    root_mask=0xFFFFF000,
    levels=(TableLevel(22, 0x3FF, _VALID, _LARGE, _LARGE),),
    entry=_ENTRY32,
    page_table=_PAGE_TABLE32,
    frame_mask=0xFFFFF000,
    valid=_VALID,
    page_file_shift=12,
    prototype_address=_prototype_address_x86,
    guarded=False,
)
"""Without PAE: two levels, pages of 4 KiB and 4 MiB; Windows Vista and 7, the last of their kind."""

X86_BEFORE_VISTA = replace(X86, prototype_address=_prototype_offset_x86, prototypes_need_base=True)
"""Without PAE, up to Windows Server 2003: prototype entries lie in paged pool."""

X86_PAE = PagingMode(
    address_ranges=(_ALL_32_BITS,),
    root_mask=0xFFFFFFE0,
    levels=(
        TableLevel(30, 0x003, _VALID, *_NEVER_LARGE),
        TableLevel(21, 0x1FF, _VALID, _LARGE, _LARGE),
    ),
    entry=_ENTRY64,
    page_table=_PAGE_TABLE64,
    frame_mask=0x3F_FFFFF000,
    valid=_VALID,
    page_file_shift=32,
    prototype_address=lambda entry: entry >> 32,
)
"""With PAE: a top table of four entries, then two levels; pages of 4 KiB and 2 MiB; 128 GiB at most."""

X64 = PagingMode(
    address_ranges=(_KERNEL_HALF, _USER_HALF),
    root_mask=0x000FFFFF_FFFFF000,
    levels=(
        TableLevel(39, 0x1FF, _VALID, *_NEVER_LARGE),
        TableLevel(30, 0x1FF, _VALID, _LARGE, _LARGE),
        TableLevel(21, 0x1FF, _VALID, _LARGE, _LARGE),
    ),
    entry=_ENTRY64,
    page_table=_PAGE_TABLE64,
    frame_mask=0x000FFFFF_FFFFF000,
    valid=_VALID,
    page_file_shift=32,
    prototype_address=lambda entry: entry >> 16,
)
"""Four levels, pages of 4 KiB, 2 MiB and 1 GiB. The address in a prototype entry lacks its sign's copies."""

X64_FIVE_LEVELS = replace(
    X64,
    address_ranges=((0xFF000000_00000000, 1 << 64), (0, 1 << 56)),
    levels=(TableLevel(48, 0x1FF, _VALID, *_NEVER_LARGE), *X64.levels),
)
"""LA57, the kernel ntkrla57: one more level on top, and addresses of 57 bits."""

ARM64 = PagingMode(
    address_ranges=(_KERNEL_HALF,),
    root_mask=0x0000FFFF_FFFFF000,
    levels=(
        TableLevel(39, 0x1FF, _ARM64_TABLE_OR_PAGE, *_NEVER_LARGE),
        TableLevel(30, 0x1FF, _VALID, *_ARM64_BLOCK),
        TableLevel(21, 0x1FF, _VALID, *_ARM64_BLOCK),
    ),
    entry=_ENTRY64,
    page_table=_PAGE_TABLE64,
    frame_mask=0x0003FFFF_FFFFF000,
    valid=_ARM64_TABLE_OR_PAGE,
    page_file_shift=32,
    prototype_address=lambda entry: entry >> 16,
    guarded=False,
)
"""The 4 KiB granule: four levels, pages of 4 KiB, blocks of 2 MiB and 1 GiB; the kernel's half of the addresses.

L1TF is a flaw of x86 processors: nothing guards against it here.
"""


def find_paging_mode(
    machine: Machine, build: Optional[int], *, pae_enabled: bool, five_levels: bool = False
) -> PagingMode:
    """How a kernel's page tables look."""
    if machine is Machine.X64:
        return X64_FIVE_LEVELS if five_levels else X64
    if machine is Machine.ARM64:
        return ARM64
    if pae_enabled:
        return X86_PAE
    return X86_BEFORE_VISTA if build is not None and build < _FIRST_BUILD_OF_VISTA else X86
