"""The kernel's lists of driver images: those that are loaded, and the last ones that were unloaded.

Sources: symbols of ``_KLDR_DATA_TABLE_ENTRY``, the PE format's documentation, and for the unloaded drivers
the public debugger headers; checked against real dumps. Names may be paged out, lists may be cut or damaged:
what can be read is told, and what is wrong is said in words.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.model import Module
from pykdext.targets.kernelformat import PE_HEADER, PE_OFFSET_AT, KernelFormat, Record
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

_FIRST_BUILD_WITH_TIMESTAMP = 10240


class ModuleList(NamedTuple):
    """The modules that could be read, and what was wrong."""

    modules: Tuple[Module, ...]
    warnings: Tuple[str, ...]


def read_loaded_modules(
    memory: VirtualMemory, kernel: KernelFormat, list_head: int, build: Optional[int]
) -> ModuleList:
    """The images of PsLoadedModuleList in load order, nt first. A broken list is read from both of its ends."""
    is_stamped = (build or 0) >= _FIRST_BUILD_WITH_TIMESTAMP
    form = kernel.stamped_loader_entry if is_stamped else kernel.loader_entry
    entries, warnings = _read_entries(memory, kernel.list_entry, form, list_head)
    modules: List[Module] = []
    damaged = unnamed = 0
    for entry in entries:
        if not _is_image_base(kernel, entry.DllBase):
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
    form = kernel.list_entry
    try:
        first = form.declaration.parse(memory.read(address, form.size_bytes)).Flink
        return bool(form.declaration.parse(memory.read(first, form.size_bytes)).Blink == address)
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
            name = _read_string(memory, slot.Name) or _name_of_base(base)
            modules.append(Module(name, base, size, unloaded=True))
    damaged = len(slots) - len(modules)
    warnings = (f"damaged entries in the list of unloaded drivers: {damaged:,}",) if damaged else ()
    return ModuleList(tuple(modules), warnings)


def _read_entries(
    memory: VirtualMemory, list_entry: Record, form: Record, head: int
) -> Tuple[List[Any], Tuple[str, ...]]:
    """The loader entries of a list, in order. What was wrong with the list is told beside them."""
    try:
        links = list_entry.declaration.parse(memory.read(head, list_entry.size_bytes))
    except MemoryReadError:
        return [], ("the list of loaded modules is not in the dump",)
    seen: Set[int] = {head}
    entries, stopped_at = _walk(memory, form, head, links.Flink, "Flink", seen)
    if stopped_at == head:
        return entries, ()
    rest, met_at = _walk(memory, form, head, links.Blink, "Blink", seen)
    entries += reversed(rest)
    lost = "" if met_at in seen else "; some modules may be missing"
    return entries, (f"the list of loaded modules is broken at 0x{stopped_at:x}: read on from its end{lost}",)


def _walk(
    memory: VirtualMemory, form: Record, head: int, first: int, forward: str, seen: Set[int]
) -> Tuple[List[Any], int]:
    """Follow a doubly linked list one way: its entries that are not in ``seen``, and the address that ended it.

    An entry counts only if its link back is the address it was reached from: a stray pointer leads to none.
    Every entry taken joins ``seen``.
    """
    back = "Blink" if forward == "Flink" else "Flink"
    entries: List[Any] = []
    previous, address = head, first
    while address not in seen and len(seen) <= MAX_MODULES:
        try:
            entry = form.declaration.parse(memory.read(address, form.size_bytes))
        except MemoryReadError:
            break
        if entry.InLoadOrderLinks[back] != previous:
            break
        seen.add(address)
        entries.append(entry)
        previous, address = address, entry.InLoadOrderLinks[forward]
    return entries, address


def _module(memory: VirtualMemory, entry: Any) -> Module:
    """The module of a loader entry; what the image's own header says of it goes before."""
    base = entry.DllBase
    header = _read_image_header(memory, base)
    path = _read_string(memory, entry.FullDllName) or ""
    name = _read_string(memory, entry.BaseDllName) or path.rpartition("\\")[2] or _name_of_base(base)
    if header is None:
        size = _first_sane_size(entry.SizeOfImage)
        return Module(name, base, size, path, entry.get("TimeDateStamp"), entry.CheckSum)
    size = _first_sane_size(entry.SizeOfImage, header.SizeOfImage)
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


def _read_string(memory: VirtualMemory, string: Any) -> Optional[str]:
    """The text of a UNICODE_STRING, or None if it is empty, damaged or not in the dump."""
    if not string.Buffer or not 0 < string.Length <= MAX_NAME_BYTES:
        return None
    try:
        text = memory.read(string.Buffer, string.Length).decode("utf-16-le")
    except (MemoryReadError, UnicodeDecodeError):
        return None
    return text if text.isprintable() else None


def _is_image_base(kernel: KernelFormat, address: int) -> bool:
    return address >= kernel.kernel_start and address % PAGE_BYTES == 0


def _name_of_base(base: int) -> str:
    """The name of a module whose own name cannot be read."""
    return f"module_{base:x}"
