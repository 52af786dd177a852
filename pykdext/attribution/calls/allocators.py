"""The kernel's functions that take a pool tag, and where a caller hands it to them.

Prototypes are those of the WDK documentation (wdm.h, ntddk.h, ntifs.h, ndis.h, fltkernel.h, storport.h, usbdlib.h,
video.h, winddi.h) and of the KMDF headers in the Windows Driver Frameworks repository; places of arguments are those of
Microsoft's calling conventions for x64 and ARM64, and of stdcall on x86.
"""

from __future__ import annotations

import enum
import functools
import importlib.resources
import re
from dataclasses import dataclass
from typing import Dict, NamedTuple, Optional, Tuple

from pykdext.attribution.flow.values import Location
from pykdext.model import Machine, MachineTable

_WIDE_BYTES = 8
"""The pointer size of 64-bit Windows."""

MAX_ARGUMENTS = 12
"""Arguments of a call that are looked at; the longest prototype here has eight."""


class Convention(NamedTuple):
    """How a processor's functions get their arguments.

    Attributes:
        registers: of the first arguments. has_home_slots: the stack has room for these, too. fastcall_registers: that
        functions of a driver may use among themselves. other_registers: that linkers choose for functions of which they
        know every call.
    """

    registers: Tuple[str, ...]
    has_home_slots: bool = False
    fastcall_registers: Tuple[str, ...] = ()
    other_registers: Tuple[str, ...] = ()


_CONVENTIONS = MachineTable(
    "calls of allocators",
    {
        Machine.X86: Convention((), fastcall_registers=("ecx", "edx"), other_registers=("eax", "ebx", "esi", "edi")),
        Machine.X64: Convention(("rcx", "rdx", "r8", "r9"), has_home_slots=True),
        Machine.ARM64: Convention(tuple(f"x{number}" for number in range(8))),
    },
)

_DECORATION = re.compile(r"(?:__imp_)?(?:[_@](?=\w+@\d+\Z))?(\w+?)(?:@\d+)?\Z", re.ASCII)


class Action(enum.Enum):
    """What a function does with the tag, as a report says it."""

    ALLOCATES = "allocates"
    INITIALISES = "initialises a list of blocks"
    REGISTERS = "registers for allocations"
    ADOPTS = "makes the tag that of all allocations for the driver"
    RESERVES = "reserves addresses"
    FREES = "frees"
    NAMES = "names blocks that were made with it"

    @property
    def is_proof(self) -> bool:
        """Whether blocks with the tag are made by it, or for who calls it."""
        return self in (Action.ALLOCATES, Action.INITIALISES, Action.ADOPTS)


class Condition(NamedTuple):
    """The function takes a tag only if this argument (counted from 1) is this number."""

    argument: int
    number: int


class StructureOffset(NamedTuple):
    """Where the tag stands in a structure, in bytes from its start, on 64-bit and on 32-bit Windows."""

    wide: int
    narrow: int


@dataclass(frozen=True)
class Allocator:
    """A function that takes a pool tag.

    Attributes:
        name: as exported, without decoration; for KMDF as documented. action: what it does with the tag.
        tag_argument: its number, counted from 1. argument_count: None where it varies: on x86 the caller removes them.
        structure: if the tag argument points at a structure that holds the tag. wide_arguments: numbers of those that
        take 64 bits on x86, too. condition: when it takes a tag, None: always.
    """

    name: str
    action: Action
    tag_argument: int
    argument_count: Optional[int]
    structure: Optional[StructureOffset] = None
    wide_arguments: Tuple[int, ...] = ()
    condition: Optional[Condition] = None

    def tag_location(self, machine: Machine) -> Location:
        """Where a call hands over the tag, or the address of the structure that holds it."""
        is_wide = machine.pointer_size == _WIDE_BYTES
        wide_before = 0 if is_wide else sum(number < self.tag_argument for number in self.wide_arguments)
        return argument_locations(machine)[self.tag_argument - 1 + wide_before]

    @property
    def removed_bytes(self) -> int:
        """What it takes from the stack when it returns, on x86."""
        return 0 if self.argument_count is None else 4 * (self.argument_count + len(self.wide_arguments))

    def tag_structure_offset(self, machine: Machine) -> Optional[int]:
        """Bytes from the start of the structure to the tag, or None where the argument is the tag itself."""
        if self.structure is None:
            return None
        return self.structure.wide if machine.pointer_size == _WIDE_BYTES else self.structure.narrow


def argument_locations(machine: Machine) -> Tuple[Location, ...]:
    """The places of a call's arguments, in their order.

    On x86 these are the dwords on the stack, followed by the two registers of fastcall, which functions of a driver
    may use among themselves.
    """
    return _find_locations(machine)


@functools.cache
def other_locations(machine: Machine) -> Tuple[Location, ...]:
    """Registers in which a function may get arguments that follows no convention."""
    return tuple(map(Location, _CONVENTIONS[machine].other_registers))


@functools.lru_cache(maxsize=1 << 12)
def find_allocator(name: str) -> Optional[Allocator]:
    """The function of this name, also in x86's decoration (``_ExAllocatePoolWithTag@12``) or with ``__imp_``."""
    match = _DECORATION.match(name)
    return _BY_NAME.get(match.group(1)) if match else None


def is_maker(name: str) -> bool:
    """Whether the function of this name returns blocks."""
    allocator = find_allocator(name)
    return allocator is not None and allocator.action is Action.ALLOCATES


def find_removed_bytes(name: str) -> Optional[int]:
    """What the function of this name takes from the stack on x86, in bytes; None where nothing is known of it."""
    allocator = find_allocator(name)
    if allocator is not None:
        return allocator.removed_bytes
    if name.lstrip("_") in _CDECL or name in _CDECL:
        return 0
    return _load_stack_bytes().get(name)


def takes_no_tag(name: str) -> bool:
    """Whether the function of this name is known to take no pool tag; of most functions nothing is known."""
    return name in _WITHOUT_POOL_TAG


def allocator_names() -> Tuple[str, ...]:
    """All functions that are known, without decoration."""
    return tuple(_BY_NAME)


@functools.cache
def _load_stack_bytes() -> Dict[str, int]:
    """By name, of the functions of the kernel and its port drivers that an import definition tells."""
    table = importlib.resources.files("pykdext.attribution") / "data" / "stackbytes.txt"
    rows = (line.split() for line in table.read_text(encoding="ascii").splitlines() if not line.startswith("#"))
    return {name: int(size) for size, *names in rows for name in names}


@functools.cache
def _find_locations(machine: Machine) -> Tuple[Location, ...]:
    convention = _CONVENTIONS[machine]
    registers = convention.registers
    first_slot = len(registers) if convention.has_home_slots else 0
    slots = range(first_slot, first_slot + MAX_ARGUMENTS - len(registers))
    found = [Location(name) for name in registers]
    found += [Location("", slot * machine.pointer_size) for slot in slots]
    found += [Location(name) for name in convention.fastcall_registers]
    return tuple(found)


_ALLOCATORS = (
    # wdm.h, Ex
    Allocator("ExAllocatePoolWithTag", Action.ALLOCATES, 3, 3),
    Allocator("ExAllocatePoolWithQuotaTag", Action.ALLOCATES, 3, 3),
    Allocator("ExAllocatePoolWithTagPriority", Action.ALLOCATES, 3, 4),
    Allocator("ExAllocatePool2", Action.ALLOCATES, 3, 3, wide_arguments=(1,)),
    Allocator("ExAllocatePool3", Action.ALLOCATES, 3, 5, wide_arguments=(1,)),
    Allocator("ExAllocateCacheAwareRundownProtection", Action.ALLOCATES, 2, 2),
    Allocator("ExInitializeNPagedLookasideList", Action.INITIALISES, 6, 7),
    Allocator("ExInitializePagedLookasideList", Action.INITIALISES, 6, 7),
    Allocator("ExInitializeLookasideListEx", Action.INITIALISES, 7, 8),
    Allocator("ExFreePoolWithTag", Action.FREES, 2, 2),
    Allocator("ExFreePool2", Action.FREES, 2, 4),
    Allocator("ExCreatePool", Action.REGISTERS, 2, 4),
    Allocator("ExSecurePoolUpdate", Action.NAMES, 2, 7),
    Allocator("ExSecurePoolValidate", Action.NAMES, 2, 4),
    # wdm.h, Mm and Io
    Allocator("MmAllocateMappingAddress", Action.RESERVES, 2, 2),
    Allocator("MmAllocateMappingAddressEx", Action.RESERVES, 2, 3),
    Allocator("MmFreeMappingAddress", Action.FREES, 2, 2),
    Allocator("MmMapLockedPagesWithReservedMapping", Action.NAMES, 2, 4),
    Allocator("MmUnmapReservedMapping", Action.NAMES, 2, 3),
    Allocator("MmAllocateContiguousMemoryEx", Action.ALLOCATES, 8, 10, wide_arguments=(2, 3, 4)),
    Allocator("IoInitializeRemoveLockEx", Action.REGISTERS, 2, 5),
    # ntddk.h
    Allocator("WheaGetErrorSourceInfo", Action.ALLOCATES, 4, 4),
    # ntifs.h
    Allocator("FsRtlAllocatePoolWithTag", Action.ALLOCATES, 3, 3),
    Allocator("FsRtlAllocatePoolWithQuotaTag", Action.ALLOCATES, 3, 3),
    Allocator("FsRtlAllocateAePushLock", Action.ALLOCATES, 2, 2),
    Allocator("FsRtlAllocateExtraCreateParameter", Action.ALLOCATES, 5, 6),
    Allocator("FsRtlInitExtraCreateParameterLookasideList", Action.INITIALISES, 4, 4),
    # fltkernel.h
    Allocator("FltAllocatePoolAlignedWithTag", Action.ALLOCATES, 4, 4),
    Allocator("FltAllocateExtraCreateParameter", Action.ALLOCATES, 6, 7),
    Allocator("FltInitExtraCreateParameterLookasideList", Action.INITIALISES, 5, 5),
    Allocator("FltFreePoolAlignedWithTag", Action.FREES, 3, 3),
    # ndis.h, nbl.h, ndis/oidrequest.h
    Allocator("NdisAllocateMemoryWithTag", Action.ALLOCATES, 3, 3),
    Allocator("NdisAllocateMemoryWithTagPriority", Action.ALLOCATES, 3, 4),
    Allocator("NdisAllocateGenericObject", Action.ALLOCATES, 2, 3),
    Allocator("NdisInitializeNPagedLookasideList", Action.INITIALISES, 6, 7),
    Allocator("NdisAllocateNetBufferListPool", Action.INITIALISES, 2, 2, StructureOffset(wide=8, narrow=8)),
    Allocator("NdisAllocateNetBufferPool", Action.INITIALISES, 2, 2, StructureOffset(wide=4, narrow=4)),
    Allocator("NdisAllocateTimerObject", Action.ALLOCATES, 2, 3, StructureOffset(wide=4, narrow=4)),
    Allocator("NdisAllocateCloneOidRequest", Action.ALLOCATES, 3, 4),
    Allocator("NdisAllocateNetBufferListContext", Action.ALLOCATES, 4, 4),
    Allocator("NdisFreeMemoryWithTag", Action.FREES, 2, 2),
    Allocator("NdisFreeMemoryWithTagPriority", Action.FREES, 3, 3),
    # storport.h: StorPortAllocatePool is an inline function; it is this export with the function code 0.
    Allocator("StorPortExtendedFunction", Action.ALLOCATES, 4, None, condition=Condition(argument=1, number=0)),
    # usbdlib.h: a static library, whose functions a driver's symbols may name.
    Allocator("USBD_CreateHandle", Action.ALLOCATES, 4, 5),
    # video.h
    Allocator("VideoPortAllocatePool", Action.ALLOCATES, 4, 4),
    # winddi.h
    Allocator("EngAllocUserMem", Action.RESERVES, 2, 2),
    Allocator("EngAllocPrivateUserMem", Action.RESERVES, 3, 3),
    Allocator("EngAllocMem", Action.ALLOCATES, 3, 3),
    # watchdog.sys, which no header of the WDK declares: ReactOS's prototypes
    Allocator("WdAllocateWatchdog", Action.ALLOCATES, 3, 3),
    Allocator("WdAllocateDeferredWatchdog", Action.ALLOCATES, 3, 3),
    # wdfmemory.h, wdfdriver.h: KMDF functions get WdfDriverGlobals as their first argument, which the documented
    # prototypes leave out.
    Allocator("WdfMemoryCreate", Action.ALLOCATES, 4, 7),
    Allocator("WdfLookasideListCreate", Action.INITIALISES, 6, 7),
    Allocator("WdfDriverCreate", Action.ADOPTS, 5, 6, StructureOffset(wide=0x1C, narrow=0x10)),
)
"""Functions whose parameters have a pool tag by the WDK's documentation, under the header that declares them."""

_CDECL = frozenset(
    (
        *("memchr", "memcmp", "memcpy", "memcpy_s", "memmove", "memmove_s", "memset", "DbgPrint", "DbgPrintEx"),
        *("strcat", "strchr", "strcmp", "strcpy", "strlen", "strncat", "strncmp", "strncpy", "strrchr", "strspn"),
        *("strstr", "strtok_s", "strcat_s", "strcpy_s", "strnlen", "_stricmp", "_strnicmp", "_strlwr", "_strupr"),
        *("wcscat", "wcschr", "wcscmp", "wcscpy", "wcslen", "wcsncat", "wcsncmp", "wcsncpy", "wcsrchr", "wcsstr"),
        *("wcscat_s", "wcscpy_s", "wcsnlen", "_wcsicmp", "_wcsnicmp", "_wcslwr", "_wcsupr", "towlower", "towupper"),
        *("sprintf", "sprintf_s", "_snprintf", "_snprintf_s", "vsprintf", "vsprintf_s", "_vsnprintf", "_vsnprintf_s"),
        *("swprintf", "swprintf_s", "_snwprintf", "_snwprintf_s", "_vsnwprintf", "_vsnwprintf_s", "_swprintf"),
        *("sscanf", "sscanf_s", "swscanf_s", "atoi", "atol", "_itoa", "_itow", "_wtoi", "_wtol", "bsearch", "qsort"),
        *("isdigit", "islower", "isprint", "isspace", "isupper", "isxdigit", "tolower", "toupper", "rand", "srand"),
    )
)
"""Functions of the kernel's C run-time and its printers: on x86 the caller removes their arguments."""

_WITHOUT_POOL_TAG = frozenset(
    (
        *_CDECL,
        *("ObDereferenceObjectDeferDeleteWithTag", "ObOpenObjectByPointerWithTag", "ObReferenceObjectByHandleWithTag"),
        *("ObReferenceObjectByPointerWithTag", "ObReferenceObjectSafeWithTag", "ObfDereferenceObjectWithTag"),
        *(
            "ObfReferenceObjectWithTag",
            "IoAcquireRemoveLockEx",
            "IoReleaseRemoveLockEx",
            "IoReleaseRemoveLockAndWaitEx",
        ),
        *("KeBugCheck", "KeBugCheckEx", "RtlCompareMemory", "RtlFillMemory"),
        *("RtlZeroMemory", "RtlMoveMemory"),
    )
)
"""Functions whose documentation has no pool tag among their arguments, though some have a tag of another sort."""

_BY_NAME: Dict[str, Allocator] = {allocator.name: allocator for allocator in _ALLOCATORS}
