"""The regions of system space: which addresses serve what.

Since Windows 10 1607 _MI_VISIBLE_STATE lists them in the order of _MI_ASSIGNED_REGION_TYPES, which differs by build: a
PDB or ISF file of the kernel tells it, else the table by build here (public symbols). Before, the variables of the
pools and the module list tell what they can.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.model.memory import FrameUse

_OTHER = FrameUse.OTHER
_POOLS = (FrameUse.NONPAGED_POOL, FrameUse.PAGED_POOL, FrameUse.FILE_CACHE, FrameUse.SYSTEM_PTES)
_UP_TO_HYPERSPACE = (*_POOLS, _OTHER, FrameUse.PAGE_FRAMES, _OTHER, FrameUse.HYPERSPACE)
_STACKS, _TABLES, _SESSION, _IMAGES = (
    FrameUse.KERNEL_STACKS,
    FrameUse.PAGE_TABLES,
    FrameUse.SESSION,
    FrameUse.DRIVER_IMAGES,
)
_SERVER_2022 = (
    *(FrameUse.PAGE_FRAMES, *_POOLS, _OTHER, _OTHER, FrameUse.HYPERSPACE, _STACKS, _TABLES, _SESSION),
    *(FrameUse.NONPAGED_POOL, _STACKS, _IMAGES),  # secure nonpaged pool, shadow stacks
)
_ORDER: Dict[int, Tuple[FrameUse, ...]] = {
    14393: (*_UP_TO_HYPERSPACE, _TABLES, _OTHER, _SESSION, _OTHER, _OTHER, _IMAGES),
    17763: (*_UP_TO_HYPERSPACE, _STACKS, _TABLES, _OTHER, _OTHER, _SESSION, _IMAGES),
    19041: (*_UP_TO_HYPERSPACE, _STACKS, _TABLES, _SESSION, FrameUse.NONPAGED_POOL, _IMAGES),
    20348: _SERVER_2022,
    22000: _SERVER_2022,
    26200: (
        *(FrameUse.PAGE_FRAMES, *_POOLS, _OTHER, _OTHER, _OTHER, FrameUse.HYPERSPACE, _STACKS, FrameUse.SYSTEM_PTES),
        *(_OTHER, _TABLES, _OTHER, FrameUse.NONPAGED_POOL, _STACKS, _OTHER, _IMAGES),
    ),
}
"""The uses of the regions by build, where no file of symbols tells.

That of 26200 is from one public tool; all others are from symbols.
"""

_ENUMERATION, _PREFIX = "_MI_ASSIGNED_REGION_TYPES", "AssignedRegion"
_USES: Dict[str, FrameUse] = {
    "NonPagedPool": FrameUse.NONPAGED_POOL,
    "SecureNonPagedPool": FrameUse.NONPAGED_POOL,
    "PagedPool": FrameUse.PAGED_POOL,
    "SystemCache": FrameUse.FILE_CACHE,
    "SystemPtes": FrameUse.SYSTEM_PTES,
    "NonCachedMappings": FrameUse.SYSTEM_PTES,
    "PfnDatabase": FrameUse.PAGE_FRAMES,
    "HyperSpace": FrameUse.HYPERSPACE,
    "KernelStacks": _STACKS,
    "KernelShadowStacks": _STACKS,
    "PageTables": _TABLES,
    "Session": _SESSION,
    "SystemImages": _IMAGES,
}
"""The uses by the enumerators' names behind ``AssignedRegion`` (public symbols); those of others are not told."""
_MAX_REGION_TYPES = 64
"""The newest kernel has 18 types of regions."""

_SAME_AS = {19042: 19041, 19043: 19041, 19044: 19041, 19045: 19041}
_LARGEST_REGION_BYTES = 1 << 47
_KERNEL_HALF = 0xFFFF800000000000
_IMAGE_ROOM_BYTES = 1 << 30


class Region(NamedTuple):
    """Addresses from ``start`` up to ``end`` that serve one use. ``is_exact``: by the kernel's own table."""

    start: int
    end: int
    use: FrameUse
    is_exact: bool


def read_regions(kernel: Kernel) -> List[Region]:
    """The regions that this kernel tells of, in ascending order and without overlaps; may be empty."""
    return _without_overlaps(_read_assigned(kernel) or _by_variables(kernel))


def _read_assigned(kernel: Kernel) -> List[Region]:
    order, table = _find_order(kernel), _find_table(kernel)
    if table is None:
        return []
    found = []
    for number, use in order.items():
        try:
            row = kernel.target.read_virtual(table + 16 * number, 16)
        except MemoryReadError:
            continue
        start, size = int.from_bytes(row[:8], "little"), int.from_bytes(row[8:], "little")
        if start >= kernel.target.machine.kernel_start and 0 < size <= _LARGEST_REGION_BYTES:
            found.append(Region(start, start + size, use, True))
    return found


def _find_order(kernel: Kernel) -> Dict[int, FrameUse]:
    """The use of each row of the table: by the kernel's own symbols, else by its build; empty if neither tells."""
    told = kernel.symbols.find_enumeration(_ENUMERATION)
    if not told:
        return dict(enumerate(_ORDER.get(_SAME_AS.get(kernel.build, kernel.build), ())))
    end = min(told.get(f"{_PREFIX}Maximum", _MAX_REGION_TYPES), _MAX_REGION_TYPES)
    return {
        value: _USES.get(name[len(_PREFIX) :], _OTHER)
        for name, value in told.items()
        if name.startswith(_PREFIX) and 0 <= value < end
    }


def _find_table(kernel: Kernel) -> Optional[int]:
    """The address of SystemVaRegions in _MI_VISIBLE_STATE, which is the member Vs of MiState.

    Where Vs stands follows from a member that both layouts tell.
    """
    state = kernel.find_symbol("MiState")
    whole = kernel.struct("_MI_SYSTEM_INFORMATION", "Vs.MdlPagesAllocated")
    visible = kernel.struct("_MI_VISIBLE_STATE", "MdlPagesAllocated", "SystemVaRegions")
    if state is None or whole is None or visible is None:
        return None
    outer, inner = whole.offset("Vs.MdlPagesAllocated"), visible.offset("MdlPagesAllocated")
    regions = visible.offset("SystemVaRegions")
    if outer is None or inner is None or regions is None:
        return None
    return state.address + outer - inner + regions


def _by_variables(kernel: Kernel) -> List[Region]:
    """What older kernels tell: the pools by their variables, images by the module list."""
    found = []
    for first, last, use in (
        ("MmNonPagedPoolStart", "MmNonPagedPoolEnd", FrameUse.NONPAGED_POOL),
        ("MmPagedPoolStart", "MmPagedPoolEnd", FrameUse.PAGED_POOL),
    ):
        start, end = kernel.find_variable(first), kernel.find_variable(last)
        if start and end and _KERNEL_HALF <= start < end:
            found.append(Region(start, end, use, False))
    found += [
        Region(module.base, module.base + module.size, FrameUse.DRIVER_IMAGES, False)
        for module in kernel.target.modules()
        if not module.unloaded and 0 < module.size < _IMAGE_ROOM_BYTES
    ]
    return found


def _without_overlaps(regions: List[Region]) -> List[Region]:
    """In ascending order; a region that begins within another one counts only behind it."""
    result: List[Region] = []
    for region in sorted(regions):
        start = max(region.start, result[-1].end) if result else region.start
        if start < region.end:
            result.append(region._replace(start=start))
    return result
