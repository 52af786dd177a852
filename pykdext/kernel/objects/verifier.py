"""What Driver Verifier counts: by driver, and where it tracks pool the code behind every outstanding allocation.

Whether it runs is in nt!MmVerifierData, known without symbols. Its drivers hang in the trees of nt!ViTargetDriversAvl,
which are looked for in nt's data where no symbol leads to them.
Types of the allocations it tracks are public up to 19041. Sources: public symbols; ReactOS for the nodes of the trees.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Dict, List, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.pages import PageReader
from pykdext.kernel.objects.verifierlists import find_driver_list
from pykdext.kernel.objects.verifiertrees import (
    MAX_TABLES,
    NODE_WORDS,
    DriverTree,
    TreeFinder,
    iter_nodes,
    read_driver_name,
)
from pykdext.model import Module, PoolTag, Struct
from pykdext.model.traces import TrackedCaller, VerifiedDriver, VerifierReport
from pykdext.targets.linkedlists import walk_chain
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import count_things

MAX_DRIVERS = 4_096
MAX_PAGES = 65_536
_ENTRY_WORDS = 4
_OLD_ENTRY = "_MI_VERIFIER_DRIVER_ENTRY"
_POOL_TRACKING = 8
_FIRST_WITH_TREES = 7600
_SIGN_BITS = 0xFFFFF800_00000000  # of the addresses that 43 bits tell
_DATA_PATHS = (
    "SuspectDriverEntry",
    "PoolPageHeaders",
    "CurrentPagedPoolAllocations",
    "CurrentNonPagedPoolAllocations",
    "PagedBytes",
    "NonPagedBytes",
)
_TREE_PATHS = ("Tables", "TablesNo")


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
        if self._kernel.build < _FIRST_WITH_TREES:
            return self._read_list()
        symbol = self._kernel.find_symbol("ViTargetDriversAvl")
        tree = self._kernel.struct("_VF_AVL_TREE", *_TREE_PATHS)
        table = self._kernel.struct("_VF_AVL_TABLE")
        target = self._kernel.struct("_VF_TARGET_DRIVER", "VerifiedData")
        data = self._kernel.struct("_VF_TARGET_VERIFIED_DRIVER_DATA", *_DATA_PATHS)
        data_at = None if target is None else target.offset("VerifiedData")
        if tree is None or table is None or not table.size or data is None or data_at is None:
            self.warnings.append("Driver Verifier is on; no symbols tell where its drivers are")
            return ()
        if symbol is None:
            found = TreeFinder(self._kernel, self._pages, table.size, data_at).find()
            if found is None:
                self.warnings.append("Driver Verifier is on; nothing tells where its drivers are")
                return ()
        else:
            record = self._parse(tree, symbol.address)
            if record is None:
                self.warnings.append("Driver Verifier is on; its tree of drivers is not in memory")
                return ()
            found = DriverTree(record["Tables"], min(record["TablesNo"] & 0xFFFFFFFF, MAX_TABLES))
        pages_at = data.offset("PoolPageHeaders")
        tables = [found.first + number * table.size for number in range(found.tables)]
        drivers = []
        for node in iter_nodes(self._pages, self._width, tables, MAX_DRIVERS):
            base = self._pages.pointer(node + NODE_WORDS * self._width)
            address = self._pages.pointer(node + NODE_WORDS * self._width + data_at)
            module = next((module for module in self._modules if module.base == base), None)
            driver = self._read_driver(data, pages_at, address, module) if address else None
            if driver is not None:
                drivers.append(driver)
        return tuple(sorted(drivers, key=lambda driver: -(driver.nonpaged_bytes + driver.paged_bytes)))

    def _read_list(self) -> Tuple[VerifiedDriver, ...]:
        """The drivers of a kernel up to Vista, those without an image by their names."""
        width = self._width
        sizes = {"StartAddress": width, "EndAddress": width, "PagedBytes": width, "NonPagedBytes": width}
        sizes.update(CurrentPagedPoolAllocations=4, CurrentNonPagedPoolAllocations=4)
        form = self._kernel.struct(_OLD_ENTRY, *sizes, sizes=sizes)
        tracked = self._kernel.struct(_OLD_ENTRY, "PoolPageHeaders")
        pages_at = None if tracked is None else tracked.offset("PoolPageHeaders")
        places = [None if form is None else form.offset(path) for path in ("StartAddress", "EndAddress")]
        start_at, end_at = places
        if form is None or start_at is None or end_at is None:
            self.warnings.append("Driver Verifier is on; the drivers of this kernel's are in no known layout")
            return ()
        entries = find_driver_list(self._kernel, self._pages, start_at, end_at, MAX_DRIVERS)
        if not entries:
            self.warnings.append("Driver Verifier is on; nothing tells where its drivers are")
        bases = {module.base: module for module in self._modules}
        found = [
            self._read_driver(form, pages_at, entry, bases.get(self._pages.pointer(entry + start_at) or 0))
            for entry in entries
        ]
        drivers = [driver for driver in found if driver is not None]
        return tuple(sorted(drivers, key=lambda driver: -(driver.nonpaged_bytes + driver.paged_bytes)))

    def _parse(self, form: Struct, address: int) -> Optional[Dict[str, int]]:
        try:
            return dict(form.parse(self._pages.read(address + form.start, form.end - form.start), form.start))
        except MemoryReadError:
            return None

    def _read_driver(
        self, form: Struct, pages_at: Optional[int], address: int, module: Optional[Module]
    ) -> Optional[VerifiedDriver]:
        record = self._parse(form, address)
        if record is None:
            return None
        name = module.name if module is not None else self._name_of(record.get("SuspectDriverEntry", address))
        if name is None:
            return None
        callers: Tuple[TrackedCaller, ...] = ()
        if pages_at is not None and module is not None and self._kernel.build <= 19045:
            callers = self._read_tracked(self._first_of(address + pages_at), address, module)
        return VerifiedDriver(
            name,
            record["CurrentNonPagedPoolAllocations"],
            record["CurrentPagedPoolAllocations"],
            record["NonPagedBytes"],
            record["PagedBytes"],
            callers,
        )

    def _first_of(self, address: int) -> int:
        """The first entry of an SLIST_HEADER: on 64 bits in its second word, or in 39 bits of the first (winnt.h)."""
        first = self._pages.pointer(address) or 0
        if self._width == 8:
            second = self._pages.pointer(address + 8) or 0
            first = second if second & 1 or not first else _SIGN_BITS | first >> 25 << 4
        return first & ~0xF

    def _name_of(self, entry: int) -> Optional[str]:
        return read_driver_name(self._pages, self._width, entry) if entry else None

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
