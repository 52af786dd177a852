"""What Driver Verifier counts: by driver, and where it tracks pool the code behind every outstanding allocation.

Whether it runs is in nt!MmVerifierData, known without symbols. Its drivers hang in the trees of nt!ViTargetDriversAvl.
Types of the allocations it tracks are public up to 19041. Sources: public symbols; ReactOS for the nodes of the trees.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Dict, List, Optional, Sequence, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import Module, PoolTag, Struct
from pykdext.model.traces import TrackedCaller, VerifiedDriver, VerifierReport
from pykdext.targets.linkedlists import walk_chain
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

MAX_DRIVERS = 4_096
MAX_TABLES = 1_024
MAX_PAGES = 65_536
_NODE_WORDS, _ENTRY_WORDS = 4, 4
_POOL_TRACKING = 8
_DATA_PATHS = (
    "SuspectDriverEntry",
    "PoolPageHeaders",
    "CurrentPagedPoolAllocations",
    "CurrentNonPagedPoolAllocations",
    "PagedBytes",
    "NonPagedBytes",
)
_TREE_PATHS = ("Tables", "TablesNo")
_MAX_NAME_BYTES = 0x200


def read_verifier(kernel: Kernel, pages: PageReader) -> VerifierReport:
    """What Driver Verifier knows; its ``level`` is None where that cannot be read."""
    symbol = kernel.find_symbol("MmVerifierData")
    level = None if symbol is None else pages.number(symbol.address, 4)
    if not level:
        return VerifierReport(level)
    reader = _VerifierReader(kernel, pages)
    drivers = reader.read()
    if not level & _POOL_TRACKING and not drivers:
        reader.warnings.append("Driver Verifier is on, but does not track pool")
    return VerifierReport(level, drivers, tuple(reader.warnings))


class _VerifierReader:
    """Reads the trees of drivers of a kernel with public symbols."""

    def __init__(self, kernel: Kernel, pages: PageReader) -> None:
        self._kernel = kernel
        self._pages = pages
        self._width = kernel.target.pointer_size
        self._modules = [module for module in kernel.target.modules() if not module.unloaded]
        self.warnings: List[str] = []

    def read(self) -> Tuple[VerifiedDriver, ...]:
        """The drivers with their counters."""
        symbol = self._kernel.find_symbol("ViTargetDriversAvl")
        tree = self._kernel.struct("_VF_AVL_TREE", *_TREE_PATHS)
        table = self._kernel.struct("_VF_AVL_TABLE")
        target = self._kernel.struct("_VF_TARGET_DRIVER", "VerifiedData")
        data = self._kernel.struct("_VF_TARGET_VERIFIED_DRIVER_DATA", *_DATA_PATHS)
        data_at = None if target is None else target.offset("VerifiedData")
        if symbol is None or tree is None or table is None or not table.size or data is None or data_at is None:
            self.warnings.append("Driver Verifier is on; no symbols tell where its drivers are")
            return ()
        record = self._parse(tree, symbol.address)
        if record is None:
            self.warnings.append("Driver Verifier is on; its tree of drivers is not in memory")
            return ()
        first, count = record["Tables"], min(record["TablesNo"] & 0xFFFFFFFF, MAX_TABLES)
        drivers = []
        for node in self._iter_nodes([first + number * table.size for number in range(count)]):
            base = self._pages.pointer(node + _NODE_WORDS * self._width)
            address = self._pages.pointer(node + _NODE_WORDS * self._width + data_at)
            module = next((module for module in self._modules if module.base == base), None)
            driver = self._read_driver(data, address, module) if address else None
            if driver is not None:
                drivers.append(driver)
        return tuple(sorted(drivers, key=lambda driver: -(driver.nonpaged_bytes + driver.paged_bytes)))

    def _parse(self, form: Struct, address: int) -> Optional[Dict[str, int]]:
        try:
            return dict(form.parse(self._pages.read(address + form.start, form.end - form.start), form.start))
        except MemoryReadError:
            return None

    def _iter_nodes(self, tables: Sequence[int]) -> List[int]:
        """The nodes of all trees: below the root's right child, each one once."""
        pending = [self._pages.pointer(table + 2 * self._width) for table in tables]
        seen: List[int] = []
        known = set()
        while pending and len(seen) < MAX_DRIVERS:
            node = pending.pop()
            if not node or node in known:
                continue
            known.add(node)
            seen.append(node)
            pending += [self._pages.pointer(node + self._width), self._pages.pointer(node + 2 * self._width)]
        return seen

    def _read_driver(self, form: Struct, address: int, module: Optional[Module]) -> Optional[VerifiedDriver]:
        record = self._parse(form, address)
        if record is None:
            return None
        name = module.name if module is not None else self._read_name(record["SuspectDriverEntry"])
        if name is None:
            return None
        callers: Tuple[TrackedCaller, ...] = ()
        start = form.offset("PoolPageHeaders")
        if start is not None and module is not None and self._kernel.build <= 19045:
            # An SLIST_HEADER: on 64 bits the first entry is in its second word.
            first = (self._pages.pointer(address + start + (8 if self._width == 8 else 0)) or 0) & ~0xF
            callers = self._read_tracked(first, address, module)
        return VerifiedDriver(
            name,
            record["CurrentNonPagedPoolAllocations"],
            record["CurrentPagedPoolAllocations"],
            record["NonPagedBytes"],
            record["PagedBytes"],
            callers,
        )

    def _read_name(self, entry: int) -> Optional[str]:
        name = entry + 2 * self._width + 8  # behind its links and two counts
        size = self._pages.number(name, 2) if entry else None
        buffer = self._pages.pointer(name + self._width) if entry else None
        if not size or not buffer or size > _MAX_NAME_BYTES or size % 2:
            return None
        try:
            return self._pages.read(buffer, size).decode("utf-16-le", "replace")
        except MemoryReadError:
            return None

    def _read_tracked(self, first: int, owner: int, module: Module) -> Tuple[TrackedCaller, ...]:
        """The outstanding allocations by the place in the driver that called, most first."""
        walk = walk_chain(self._pages.read, self._width, first, MAX_PAGES)
        blocks: Counter[Tuple[int, int]] = Counter()
        sizes: Counter[Tuple[int, int]] = Counter()
        for page in walk.entries:
            for key, size in self._iter_entries(page, owner, module):
                blocks[key] += 1
                sizes[key] += size
        if walk.torn_at is not None:
            self.warnings.append(
                f"Driver Verifier's records of {module.name} are torn at 0x{walk.torn_at:x} ({walk.reason}); "
                f"{count_things(sum(blocks.values()), 'allocation')} read, further ones are not known"
            )
        return tuple(
            TrackedCaller(module.name, caller - module.base, PoolTag.from_key(tag), count, sizes[caller, tag])
            for (caller, tag), count in blocks.most_common()
        )

    def _iter_entries(self, page: int, owner: int, module: Module) -> List[Tuple[Tuple[int, int], int]]:
        """Caller, tag and size of each allocation of a page that bears its driver's address."""
        try:
            data = self._pages.read(page, PAGE_BYTES)
        except MemoryReadError:
            return []
        width = self._width
        if int.from_bytes(data[width : 2 * width], "little") != owner:
            return []
        start = self._kernel.target.machine.kernel_start
        return [
            ((caller, tag & 0xFFFFFFFF), size)
            for address, caller, size, tag in struct.iter_unpack(
                "<4Q" if width == 8 else "<4I", data[_ENTRY_WORDS * width :]
            )
            if address >= start and size and caller in module
        ]
