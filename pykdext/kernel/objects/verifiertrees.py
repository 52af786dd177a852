"""The trees of Driver Verifier's drivers, found in nt's data where no symbol tells where they are.

A tree is believed only if a node of it bears the base of a loaded image and leads to counters whose driver entry bears
that image's name. Sources: the types in Microsoft's public PDBs since Windows 7; ReactOS for the nodes of the trees.
"""

from __future__ import annotations

from array import array
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import Module

NODE_WORDS = 4
"""Words of a node's links, which stand before what it holds."""

MAX_TABLES = 1_024
_MAX_SECTION_BYTES = 16 << 20
_MAX_TRIED = 65_536
_MAX_NAME_BYTES = 0x200


class DriverTree(NamedTuple):
    """The tables of a tree: the address of the first, and how many there are."""

    first: int
    tables: int


class TreeFinder:
    """Looks for the tree of one kernel; ``table_bytes`` and ``data_at`` are of its types."""

    def __init__(self, kernel: Kernel, pages: PageReader, table_bytes: int, data_at: int) -> None:
        self._kernel = kernel
        self._pages = pages
        self._width = kernel.target.pointer_size
        self._table_bytes = table_bytes
        self._data_at = data_at
        modules = (module for module in kernel.target.modules() if not module.unloaded)
        self._modules: Dict[int, Module] = {module.base: module for module in modules}

    def find(self) -> Optional[DriverTree]:
        """The tree in nt's writable data; None: none that can be believed."""
        for tried, tree in enumerate(self._iter_candidates()):
            if tried >= _MAX_TRIED:
                break
            if self._leads_to_a_driver(tree):
                return tree
        return None

    def _iter_candidates(self) -> Iterator[DriverTree]:
        """Where an aligned pointer into the kernel's memory stands before a small count."""
        start = self._kernel.target.machine.kernel_start
        for _, words in iter_data_words(self._kernel):
            for pointer, following in zip(words, words[1:]):
                count = following & 0xFFFFFFFF
                if 0 < count <= MAX_TABLES and pointer >= start and pointer % 8 == 0:
                    yield DriverTree(pointer, count)

    def _leads_to_a_driver(self, tree: DriverTree) -> bool:
        for number in range(tree.tables):
            root = self._pages.pointer(tree.first + number * self._table_bytes + 2 * self._width)
            if root is None:
                return False
            module = self._modules.get(self._pages.pointer(root + NODE_WORDS * self._width) or 0) if root else None
            if module is not None:
                data = self._pages.pointer(root + NODE_WORDS * self._width + self._data_at)
                entry = self._pages.pointer(data) if data else None
                name = read_driver_name(self._pages, self._width, entry) if entry else None
                return name is not None and name.lower() == module.name.lower()
        return False


def iter_data_words(kernel: Kernel) -> Iterator[Tuple[int, Sequence[int]]]:
    """The pieces of nt's writable data that are in memory, each with its address, as pointer-sized words."""
    nt, width = kernel.images[0], kernel.target.pointer_size
    for section in nt.sections if nt.has_headers else ():
        if not section.writable or section.executable:
            continue
        size = min(section.size, _MAX_SECTION_BYTES)
        for address, data in kernel.target.read_present(nt.module.base + section.rva, size):
            yield address, array("I" if width == 4 else "Q", data[: len(data) - len(data) % width])


def read_driver_name(pages: PageReader, width: int, entry: int) -> Optional[str]:
    """The name in a driver's entry, behind its links and two counts; None: not in memory, or no name."""
    name = entry + 2 * width + 8
    size, buffer = pages.number(name, 2), pages.pointer(name + width)
    if not size or not buffer or size > _MAX_NAME_BYTES or size % 2:
        return None
    try:
        return pages.read(buffer, size).decode("utf-16-le", "replace")
    except MemoryReadError:
        return None


def iter_nodes(pages: PageReader, width: int, tables: List[int], limit: int) -> List[int]:
    """The nodes of all trees: below the root's right child, each one once."""
    pending = [pages.pointer(table + 2 * width) for table in tables]
    seen: Dict[int, None] = {}
    while pending and len(seen) < limit:
        node = pending.pop()
        if not node or node in seen:
            continue
        seen[node] = None
        pending += [pages.pointer(node + width), pages.pointer(node + 2 * width)]
    return list(seen)
