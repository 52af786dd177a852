"""The kernel's lists of driver images: those that are loaded, and the last ones that were unloaded.

Sources: symbols of ``_KLDR_DATA_TABLE_ENTRY``, the PE format's documentation, and for the unloaded drivers
the public debugger headers; checked against real dumps. Names may be paged out, lists may be cut or damaged:
what can be read is told, and what is wrong is said in words.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Tuple

from pykdext.errors import LayoutNotFoundError, MemoryReadError
from pykdext.model import Machine, Module, Record, Struct
from pykdext.model.structtables import StructTable
from pykdext.targets.kernelformat import PE_HEADER, PE_OFFSET_AT, KernelFormat
from pykdext.targets.linkedlists import walk_list
from pykdext.targets.paging.virtual import VirtualMemory
from pykdext.targets.protocol import PAGE_BYTES

MAX_MODULES = 4096
"""No machine loads so many drivers: a longer list is damaged."""

MAX_NAME_BYTES = 2048
"""Of a module's name or path, in UTF-16; a longer one is damaged."""

MAX_IMAGE_BYTES = 512 << 20
"""Of a driver image; a larger one is damaged."""

UNLOADED_DRIVER_SLOTS = 50
"""So many unloaded drivers the kernel remembers."""

_ENTRY_FIELDS = (
    "DllBase",
    "SizeOfImage",
    "FullDllName.Length",
    "FullDllName.Buffer",
    "BaseDllName.Length",
    "BaseDllName.Buffer",
    "CheckSum",
    "TimeDateStamp",
)
_OLDEST_BUILD = {Machine.X86: 2600, Machine.X64: 3790}
"""Its loader entry is the part that all later kernels have too."""


class ModuleList(NamedTuple):
    """The modules that could be read, and what was wrong."""

    modules: Tuple[Module, ...]
    warnings: Tuple[str, ...]


def read_loaded_modules(
    memory: VirtualMemory, kernel: KernelFormat, list_head: int, build: Optional[int]
) -> ModuleList:
    """The images of PsLoadedModuleList in load order, nt first. A broken list is read from both of its ends."""
    entries, warnings = _read_entries(memory, kernel, _find_entry_form(kernel, build), list_head)
    modules: List[Module] = []
    damaged = unnamed = 0
    for entry in entries:
        if not _is_image_base(kernel, entry["DllBase"]):
            damaged += 1
            continue
        module = _module(memory, entry)
        unnamed += module.name == _name_of_base(module.base)
        modules.append(module)
    if damaged:
        warnings += (f"damaged entries in the list of loaded modules: {damaged:,}",)
    if unnamed:
        warnings += (f"modules whose names are not in the dump: {unnamed:,}",)
    return ModuleList(tuple(modules), warnings)


def is_list_head(memory: VirtualMemory, kernel: KernelFormat, address: int) -> bool:
    """Whether a list begins at ``address``: its first entry points back at it."""
    size = kernel.pointer_bytes
    try:
        first = int.from_bytes(memory.read(address, size), "little")
        return int.from_bytes(memory.read(first + size, size), "little") == address
    except MemoryReadError:
        return False


def read_kernel_image(memory: VirtualMemory, base: int) -> Optional[Module]:
    """The kernel at ``base`` as its own header has it, for a list that does not hold it; None if it is not there."""
    header = _read_image_header(memory, base)
    if header is None:
        return None
    size = _first_sane_size(header.SizeOfImage)
    return Module("ntoskrnl.exe", base, size, timestamp=header.TimeDateStamp, checksum=header.CheckSum)


def read_unloaded_modules(memory: VirtualMemory, kernel: KernelFormat, variable: int) -> ModuleList:
    """The drivers that MmUnloadedDrivers remembers, the one unloaded last first. ``variable``: its address."""
    form = kernel.unloaded_driver
    try:
        array_address = int.from_bytes(memory.read(variable, kernel.pointer_bytes), "little")
        if not array_address:
            return ModuleList((), ())
        data = memory.read(array_address, UNLOADED_DRIVER_SLOTS * form.size_bytes)
    except MemoryReadError:
        return ModuleList((), ("the list of unloaded drivers is not in the dump",))
    slots = [slot for slot in form.declaration[UNLOADED_DRIVER_SLOTS].parse(data) if slot.StartAddress]
    slots.sort(key=lambda slot: int(slot.CurrentTime), reverse=True)
    modules: List[Module] = []
    for slot in slots:
        base, size = slot.StartAddress, slot.EndAddress - slot.StartAddress
        if _is_image_base(kernel, base) and 0 < size <= MAX_IMAGE_BYTES:
            name = _read_text(memory, slot.Name.Buffer, slot.Name.Length) or _name_of_base(base)
            modules.append(Module(name, base, size, unloaded=True))
    damaged = len(slots) - len(modules)
    warnings = (f"damaged entries in the list of unloaded drivers: {damaged:,}",) if damaged else ()
    return ModuleList(tuple(modules), warnings)


def _read_entries(
    memory: VirtualMemory, kernel: KernelFormat, form: Struct, head: int
) -> Tuple[List[Record], Tuple[str, ...]]:
    """The loader entries of a list, in order. What was wrong with the list is told beside them."""
    try:
        walk = walk_list(memory.read, kernel.pointer_bytes, head, MAX_MODULES)
    except MemoryReadError:
        return [], ("the list of loaded modules is not in the dump",)
    entries: List[Record] = []
    for address in walk.entries:
        try:
            entries.append(form.parse(memory.read(address, form.end)))
        except MemoryReadError:
            continue
    warnings: Tuple[str, ...] = ()
    if walk.torn_at is not None:
        lost = "" if walk.lost == 0 else "; some modules may be missing"
        warnings += (f"the list of loaded modules is broken at 0x{walk.torn_at:x}: read on from its end{lost}",)
    if len(entries) < len(walk.entries):
        cut = len(walk.entries) - len(entries)
        warnings += (f"entries of the list of loaded modules that are not whole in the dump: {cut:,}",)
    return entries, warnings


def _find_entry_form(kernel: KernelFormat, build: Optional[int]) -> Struct:
    """The loader entry of a build; of one that is not known the part that all kernels have, without the time stamp."""
    for known_build in (build, _OLDEST_BUILD[kernel.machine]):
        form = StructTable(kernel.machine, known_build).make("_KLDR_DATA_TABLE_ENTRY", *_ENTRY_FIELDS)
        if form is not None:
            return form
    raise LayoutNotFoundError(build, "_KLDR_DATA_TABLE_ENTRY", f"no kernel of {kernel.machine.value} in the tables")


def _module(memory: VirtualMemory, entry: Record) -> Module:
    """The module of a loader entry; what the image's own header says of it goes before."""
    base = entry["DllBase"]
    header = _read_image_header(memory, base)
    path = _read_text(memory, entry["FullDllName.Buffer"], entry["FullDllName.Length"]) or ""
    own_name = _read_text(memory, entry["BaseDllName.Buffer"], entry["BaseDllName.Length"])
    name = own_name or path.rpartition("\\")[2] or _name_of_base(base)
    if header is None:
        size = _first_sane_size(entry["SizeOfImage"])
        return Module(name, base, size, path, entry["TimeDateStamp"], entry["CheckSum"])
    size = _first_sane_size(entry["SizeOfImage"], header.SizeOfImage)
    return Module(name, base, size, path, header.TimeDateStamp, header.CheckSum)


def _read_image_header(memory: VirtualMemory, base: int) -> Optional[Any]:
    """The PE_HEADER of an image in memory, or None if it is not there."""
    try:
        offset = int.from_bytes(memory.read(base + PE_OFFSET_AT, 4), "little")
        if offset > PAGE_BYTES - PE_HEADER.size_bytes:
            return None
        header = PE_HEADER.declaration.parse(memory.read(base + offset, PE_HEADER.size_bytes))
    except MemoryReadError:
        return None
    return header if header.Signature == b"PE\0\0" else None


def _first_sane_size(*sizes: int) -> int:
    """The first size that an image can have; its header's page where none is."""
    return next((size for size in sizes if 0 < size <= MAX_IMAGE_BYTES), PAGE_BYTES)


def _read_text(memory: VirtualMemory, address: int, size: int) -> Optional[str]:
    """The text of a UNICODE_STRING's buffer, or None if it is empty, damaged or not in the dump."""
    if not address or not 0 < size <= MAX_NAME_BYTES:
        return None
    try:
        text = memory.read(address, size).decode("utf-16-le")
    except (MemoryReadError, UnicodeDecodeError):
        return None
    return text if text.isprintable() else None


def _is_image_base(kernel: KernelFormat, address: int) -> bool:
    return address >= kernel.kernel_start and address % PAGE_BYTES == 0


def _name_of_base(base: int) -> str:
    """The name of a module whose own name cannot be read."""
    return f"module_{base:x}"
