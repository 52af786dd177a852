"""The tags of framework (KMDF) drivers that name none: the first letters of the driver's service name.

The framework allocates its objects, and memory asked for without a tag, with ``DriverPoolTag`` of WDF_DRIVER_CONFIG;
where that is zero or the kit's default, with a tag that it makes from the service's name. The tag stands nowhere in the
driver. The framework keeps it in the driver's WDF_DRIVER_GLOBALS, to which a variable of the driver points (Windows
Driver Frameworks repository: fxdriverapi.cpp and fxdriver.cpp for the rule, wdfglobals.h for the layout).
"""

from __future__ import annotations

import struct
from typing import Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

from pykdext.attribution.calls.kmdf import FrameworkTable, find_framework_table
from pykdext.attribution.places.tagencodings import is_plausible
from pykdext.errors import MemoryReadError
from pykdext.images.image import Image
from pykdext.model import Confidence, Evidence, EvidenceKind, Machine, Module, PoolTag
from pykdext.targets.protocol import Target

FRAMEWORK_TAG = PoolTag(b"FxDr")
"""What the framework takes where a service's name is too short."""

MAX_GLOBALS_TRIED = 1024
"""Pointers of one driver that are followed in search of its globals."""

GLOBALS_REACH_BYTES = 1 << 16
"""The linker puts the pointer to the globals beside that to the framework's functions: both are of one library."""

_LOADER_NAME = "wdfldr.sys"
_IMPORT_ADDRESS_TABLE = 12
_PREFIX = "wdf"
_MIN_NAME_CHARACTERS = 3
_TAG_CHARACTERS = 4

_GLOBALS = {4: struct.Struct("<III32sB"), 8: struct.Struct("<QII32sB")}
"""WDF_DRIVER_GLOBALS by pointer size: Driver, DriverFlags, DriverTag, DriverName, DisplaceDriverUnload."""


class DriverGlobals(NamedTuple):
    """What the framework keeps for a driver: where the driver's pointer to it is, the service, and the tag."""

    rva: int
    service: str
    tag: PoolTag


class _FrameworkDriver(NamedTuple):
    image: Image
    globals: Optional[DriverGlobals]


def derive_tag(service: str) -> PoolTag:
    """The tag that the framework makes of a service's name: its first four letters, a leading ``WDF`` left out."""
    name = service[len(_PREFIX) :] if service[: len(_PREFIX)].lower() == _PREFIX else service
    raw = name.encode("ascii", "replace")[:_TAG_CHARACTERS]
    return PoolTag(raw.ljust(_TAG_CHARACTERS, b"\0")) if len(raw) >= _MIN_NAME_CHARACTERS else FRAMEWORK_TAG


def may_be_default_tag(file_name: str, tag: PoolTag) -> bool:
    """Whether the framework makes ``tag``, perhaps in other letters' case, for a service named as this file."""
    return derive_tag(_stem(file_name)).raw.lower() == tag.raw.lower()


class FrameworkAttributor:
    """Names the framework drivers among ``images`` that have a tag by default. ``target`` is where they are."""

    name = "kmdf"

    def __init__(self, target: Target, images: Sequence[Image]) -> None:
        self._target = target
        self._images = tuple(images)
        self._drivers: Optional[Tuple[_FrameworkDriver, ...]] = None

    def evidence(self, tag: PoolTag) -> Iterator[Evidence]:
        """Drivers whose tag was read, or whose file's name makes this tag. The images are searched once."""
        if self._drivers is None:
            self._drivers = tuple(self._iter_drivers())
        for driver in self._drivers:
            item = _describe_live(tag, driver) if driver.globals is not None else _describe_named(tag, driver)
            if item is not None:
                yield item

    def _iter_drivers(self) -> Iterator[_FrameworkDriver]:
        loader = next((image.module for image in self._images if image.module.name.lower() == _LOADER_NAME), None)
        for image in self._images:
            table = find_framework_table(image) if _may_bind(image, loader) else None
            if table is not None:
                yield _FrameworkDriver(image, read_driver_globals(self._target, image, table))
            image.release()


def read_driver_globals(target: Target, image: Image, table: FrameworkTable) -> Optional[DriverGlobals]:
    """The globals of a framework driver, or None where the driver has not started or they are not in memory."""
    for rva, address in _iter_pointers(image, table):
        found = _parse_globals(target, image.machine, address)
        if found is not None:
            return DriverGlobals(rva, *found)
    return None


def _iter_pointers(image: Image, table: FrameworkTable) -> Iterator[Tuple[int, int]]:
    """Pointers to outside in the driver's variables, with their RVAs, those near the framework's table first."""
    size = image.machine.pointer_size
    layout = struct.Struct("<I" if size == 4 else "<Q")
    upper_half = 1 << (8 * size - 1)
    pointers: Dict[int, int] = {}
    for section in image.sections:
        start = max(section.rva, table.rva - GLOBALS_REACH_BYTES)
        stop = min(section.rva + section.size, table.rva + GLOBALS_REACH_BYTES)
        if not section.writable or section.discardable or start >= stop:
            continue
        for piece_rva, piece in image.iter_range(start, stop - start):
            skipped = -piece_rva % size
            words = layout.iter_unpack(piece[skipped : len(piece) - (len(piece) - skipped) % size])
            for index, (address,) in enumerate(words):
                if address >= upper_half and address % size == 0 and address not in image.module:
                    pointers.setdefault(address, piece_rva + skipped + index * size)
    nearest = sorted(pointers.items(), key=lambda pointer: abs(pointer[1] - table.rva))
    yield from ((rva, address) for address, rva in nearest[:MAX_GLOBALS_TRIED])


def _parse_globals(target: Target, machine: Machine, address: int) -> Optional[Tuple[str, PoolTag]]:
    """Service and tag of the WDF_DRIVER_GLOBALS at ``address``, if it can be believed."""
    layout = _GLOBALS[machine.pointer_size]
    try:
        driver, _, key, padded, displaces = layout.unpack(target.read_virtual(address, layout.size))
    except MemoryReadError:
        return None
    name, _, rest = padded.partition(b"\0")
    service = str(name, "latin-1")
    if not driver or displaces > 1 or any(rest) or not service or not (service.isascii() and service.isprintable()):
        return None
    made = derive_tag(service)
    if not key:  # the framework leaves the public member empty where it takes its own tag
        return (service, made) if made == FRAMEWORK_TAG else None
    tag = PoolTag.from_key(key)
    return (service, tag) if tag == made or is_plausible(tag.raw) else None


def _may_bind(image: Image, loader: Optional[Module]) -> bool:
    """False if the image's import pointers are there and none leads into the framework's loader."""
    rva, size = image.directory(_IMPORT_ADDRESS_TABLE)
    width = image.machine.pointer_size
    raw = image.read(rva, size - size % width) if loader is not None and size >= width else None
    if raw is None or loader is None:
        return True
    layout = struct.Struct("<I" if width == 4 else "<Q")
    return any(address in loader for (address,) in layout.iter_unpack(raw))


def _describe_live(tag: PoolTag, driver: _FrameworkDriver) -> Optional[Evidence]:
    found = driver.globals
    if found is None or found.tag != tag:
        return None
    detail = (
        f"the framework (KMDF) allocates for service {found.service!r} with tag {tag.text!r}, as it keeps it in the"
        f" driver's globals, to which +0x{found.rva:x} points"
    )
    return Evidence(tag, driver.image.module.name, EvidenceKind.KMDF, Confidence.LIKELY, detail, found.rva)


def _describe_named(tag: PoolTag, driver: _FrameworkDriver) -> Optional[Evidence]:
    module = driver.image.module.name
    if not may_be_default_tag(module, tag):
        return None
    detail = "the framework (KMDF) makes a driver's default tag of its service's name, which is often the file's name"
    confidence = Confidence.LIKELY if derive_tag(_stem(module)) == tag else Confidence.POSSIBLE
    return Evidence(tag, module, EvidenceKind.KMDF, confidence, detail)


def _stem(file_name: str) -> str:
    """The name of a file, or of its path, up to the first dot."""
    return file_name.replace("\\", "/").rpartition("/")[2].partition(".")[0]
