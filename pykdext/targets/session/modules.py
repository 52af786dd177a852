"""The modules that the debugger's engine knows, under the names that Windows knows them by."""

from __future__ import annotations

from itertools import islice
from typing import Any, List, Optional, Set

from pykdext.model import Machine, Module
from pykdext.targets.loader import MAX_IMAGE_BYTES, MAX_MODULES, ModuleList
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.targets.session.words import parse_unloaded, run_command
from pykdext.units import count_things

_KERNEL, _HAL = "nt", "hal"
"""The engine's names for the kernel and the hardware abstraction layer, whatever their files are called."""

_KERNEL_FILE, _HAL_FILE = "ntoskrnl.exe", "hal.dll"
"""The loader's names for them. The engine shows those in their own headers: ntkrnlmp.exe, ntkrpamp.exe."""


def read_modules(pykd: Any, machine: Machine) -> ModuleList:
    """The kernel's modules, nt first, then the unloaded drivers; ``pykd``: the module of that name."""
    try:
        listed = pykd.getModulesList()
    except pykd.DbgException as error:
        reason = str(error).partition("\n")[0]
        return ModuleList((), (f"the debugger cannot list the modules ({reason}). Hint: type .reload",))
    modules: List[Module] = []
    seen: Set[int] = set()
    damaged = repeated = 0
    for entry in islice(listed, MAX_MODULES):
        module = _read_module(pykd, entry, machine)
        if module is None:
            damaged += 1
        elif module.base in seen:
            repeated += 1
        else:
            seen.add(module.base)
            modules.append(module)
    warnings = []
    if damaged:
        warnings.append(f"modules that the debugger cannot describe: {damaged:,}")
    if repeated:
        warnings.append(f"modules that the debugger lists more than once: {repeated:,}")
    if len(listed) > MAX_MODULES:
        warnings.append(
            f"the debugger lists {count_things(len(listed), 'module')}: the first {MAX_MODULES:,} were taken"
        )
    loaded = [module for module in modules if not module.unloaded]
    loaded.sort(key=lambda module: module.name != _KERNEL_FILE)
    unloaded = [module for module in modules if module.unloaded] or parse_unloaded(run_command(pykd, "lm"))
    of_kernel = tuple(module for module in (*loaded, *unloaded) if module.base >= machine.kernel_start)
    return ModuleList(of_kernel, tuple(warnings))


def _read_module(pykd: Any, entry: Any, machine: Machine) -> Optional[Module]:
    """The module behind an entry of pykd's list; None where pykd fails to tell."""
    try:
        name, image, base, size = str(entry.name()), str(entry.image()), int(entry.begin()), int(entry.size())
        timestamp, checksum, unloaded = int(entry.timestamp()), int(entry.checksum()), bool(entry.unloaded())
    except pykd.DbgException:
        return None
    return Module(
        name=_file_name(name, image),
        base=base & ((1 << 8 * machine.pointer_size) - 1),
        size=size if 0 < size <= MAX_IMAGE_BYTES else PAGE_BYTES,
        path=image if "\\" in image else "",
        timestamp=timestamp,
        checksum=checksum,
        unloaded=unloaded,
    )


def _file_name(name: str, image: str) -> str:
    """The name that the loader has for a module, from the engine's name and its image name or path."""
    file_name = image.rpartition("\\")[2] or name
    if name == _KERNEL:
        return _KERNEL_FILE
    return _HAL_FILE if name == _HAL else file_name
