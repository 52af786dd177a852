"""Loads nt, the stand-ins and the sample drivers, and links them as the kernel does; remembers unloaded drivers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Dict, List, Sequence, Set, Tuple

from dumps.forge.driverfile import DRIVER_TAGS, IMAGES, load_driver
from dumps.forge.framework import FRAMEWORK_NAME, bind_framework
from dumps.forge.loader import UnloadedDriver, entry_layout, pack_entry, pack_unloaded
from dumps.forge.ntimage import IMAGE_NAME, NT_TAGS, build_nt, windows_version
from dumps.forge.parts import Parts
from dumps.forge.peimage import Image, Section
from dumps.forge.physical import PAGE_BYTES
from dumps.forge.standins import LIBRARIES, MODULES, build_standin

_ROOM_BYTES = 0x10000  # what each driver gets of the address space
_DRIVERS_DIRECTORY = "\\SystemRoot\\System32\\drivers\\"
_AFTER_A_CALL = 0x20  # about where a short routine goes on
_HOUR = 3600 * 10_000_000
_UNLOADED = ("dump_storport.sys", "dump_stornvme.sys", "hwpolicy.sys", "olddrv.sys", "WdFilter.sys")
_UNLOADED_BYTES = 0x18000


class LoadedModules:
    """The modules of a machine, in the order of the loader's list."""

    def __init__(self, parts: Parts, drivers: Sequence[str], more_drivers: Sequence[Path] = ()) -> None:
        """Load the sample drivers of these names and, behind them, further driver files."""
        self._parts = parts
        self._drivers = tuple(drivers)
        self._more_drivers = tuple(more_drivers)
        self.paths: Dict[str, str] = {}
        self.images: Dict[str, Image] = {}
        self._load()
        self._link()

    def base(self, name: str) -> int:
        """Return the address of a module."""
        return self._parts.addresses[f"module:{name}"]

    def owners(self) -> Dict[bytes, Tuple[str, ...]]:
        """Return for each tag the modules whose code or data carries it."""
        owners: Dict[bytes, Tuple[str, ...]] = {}
        carried = [(IMAGE_NAME, NT_TAGS)]
        carried += [(module.name, module.tags) for module in MODULES]
        carried += [(name, (DRIVER_TAGS[name],)) for name in self._drivers]
        for name, tags in carried:
            for tag in tags:
                owners[tag] = (*owners.get(tag, ()), name)
        return owners

    def pointers_into(self, name: str) -> Tuple[int, ...]:
        """Return the starts of the module's code and data: a driver's pool blocks usually hold such addresses."""
        image = self.images[name]
        data = next(section for section in image.sections if section.name == ".data")
        return (self.base(name) + _code_of(image).rva, self.base(name) + data.rva)

    def code_addresses(self) -> Tuple[int, ...]:
        """Return an address in the code of each module: what a stack is full of."""
        return tuple(self.base(name) + _code_of(image).rva + _AFTER_A_CALL for name, image in self.images.items())

    def _load(self) -> None:
        parts, kernel = self._parts, self._parts.kernel
        folder = IMAGES / kernel.architecture.family
        files = (*(folder / name for name in self._drivers), *self._more_drivers)
        bases = [self._take_room() for _ in (*MODULES, *files)]
        drivers: List[Tuple[int, Image]] = []
        imported: Dict[str, Set[str]] = {}
        for path, base in zip(files, bases[len(MODULES) :]):
            image = load_driver(path, kernel.architecture, base)
            drivers.append((base, image))
            for function, library in image.libraries.items():
                imported.setdefault(library.upper(), set()).add(function)
        libraries = [module for module in LIBRARIES if module.name.upper() in imported]
        standins = list(zip(MODULES, bases)) + [(module, self._take_room()) for module in libraries]

        nt = build_nt(kernel, imported[IMAGE_NAME.upper()])
        if kernel.large_pages:
            large_bytes = kernel.architecture.entries.large_bytes
            for va in range(kernel.base, kernel.base + nt.size, large_bytes):
                parts.space.map_large(va, parts.space.frames.take_large(large_bytes // PAGE_BYTES))
            parts.addresses[f"page:{large_bytes >> 20}M"] = kernel.base
        parts.addresses["nt"] = kernel.base
        self._place(nt, kernel.base, f"\\SystemRoot\\system32\\{kernel.file_name}")
        exports = {name: kernel.base + rva for name, rva in nt.exports.items()}
        for module, base in standins:
            exported = sorted(imported.get(module.name.upper(), ()))
            image = build_standin(module, kernel.architecture, base, windows_version(kernel), exported)
            exports.update({name: base + rva for name, rva in image.exports.items()})
            self._place(image, base, module.directory + module.name)
        for base, image in drivers:
            self._place(image, base, _DRIVERS_DIRECTORY + image.name)
        self._bind(exports)
        parts.addresses.update({f"function:{name}": address for name, address in exports.items()})
        for base, image in drivers:
            parts.addresses.update({f"{image.name}!{name}": base + rva for name, rva in image.exports.items()})
            bind_framework(parts.space, kernel.architecture, image, base, self.base(FRAMEWORK_NAME))

    def _take_room(self) -> int:
        return self._parts.regions.drivers.take(_ROOM_BYTES, alignment=_ROOM_BYTES)

    def _place(self, image: Image, base: int, path: str) -> None:
        """Write what stays of an image once it is started."""
        self.images[image.name] = image
        self.paths[image.name] = path
        self._parts.addresses[f"module:{image.name}"] = base
        for rva, data in image.pieces:
            section = image.section_of(rva)
            if data and not section.discarded:
                self._parts.space.store(base + rva, data, executable=section.executable)

    def _bind(self, exports: Dict[str, int]) -> None:
        pack = self._parts.kernel.architecture.pack_pointers
        for name, image in self.images.items():
            for slot_rva, function in image.imports.items():
                self._parts.space.write(self.base(name) + slot_rva, pack(exports[function]))

    def _link(self) -> None:
        """Write the entries of PsLoadedModuleList: nt first, full names in paged pool."""
        parts, architecture = self._parts, self._parts.kernel.architecture
        head = parts.variable("PsLoadedModuleList")
        names = list(self.images)
        entries = [parts.regions.nonpaged.take(0x100, alignment=0x10, gap=0x70) for _ in names]
        ring = [head, *entries, head]
        paths_va = path_va = parts.regions.paged.take(PAGE_BYTES)
        for number, name in enumerate(names, start=1):
            image, path = self.images[name], self.paths[name]
            entry = pack_entry(
                architecture,
                next_va=ring[number + 1],
                previous_va=ring[number - 1],
                base=self.base(name),
                entry_point=self.base(name) + image.entry_rva,
                size=image.size,
                path=path,
                path_va=path_va,
                name=name,
                name_va=ring[number] + entry_layout(architecture).size,
                timestamp=image.timestamp,
                checksum=image.checksum,
                build=parts.kernel.build,
            )
            parts.space.store(ring[number], entry + name.encode("utf-16-le") + b"\0\0")
            parts.space.store(path_va, path.encode("utf-16-le") + b"\0\0")
            path_va += 2 * len(path) + 2
            parts.addresses[f"entry:{name}"] = ring[number]
        parts.space.store(head, architecture.pack_pointers(entries[0], entries[-1]))
        parts.space.turn_into_transition(paths_va)
        parts.addresses["PsLoadedModuleList"] = head


def _code_of(image: Image) -> Section:
    """Return the first section of code that stays in memory."""
    return next(section for section in image.sections if section.executable and not section.discarded)


def write_unloaded(parts: Parts, now: int) -> Tuple[UnloadedDriver, ...]:
    """Write the ring of unloaded drivers and return its contents; ``now`` is a FILETIME."""
    drivers = []
    for number, name in enumerate(_UNLOADED):
        start = parts.regions.drivers.take(_UNLOADED_BYTES, alignment=_ROOM_BYTES)
        drivers.append(UnloadedDriver(name, start, start + _UNLOADED_BYTES, now - (40 - number) * _HOUR))
    ring_va = parts.regions.nonpaged.take(PAGE_BYTES)
    parts.space.store(ring_va, pack_unloaded(parts.kernel.architecture, drivers, ring_va))
    parts.addresses["unloaded"] = ring_va
    parts.set_variable("MmUnloadedDrivers", ring_va)
    parts.space.store(parts.variable("MmLastUnloadedDriver"), struct.pack("<I", len(drivers)))
    return tuple(drivers)
