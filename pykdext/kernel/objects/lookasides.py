"""Lookaside lists: a tag, the driver that keeps blocks of it, and how many it has given out.

The list's structure lies in its driver's data or in one of its blocks, and names its routines. Frameworks keep lists
for their clients: what they run is no proof against them (a buffer list that NDIS made for a network driver bears that
driver's tag). GENERAL_LOOKASIDE is the same from XP to Windows 11 (public symbols); heads are known by symbols only.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.forms import find_form
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import Module, PoolKind, PoolTag, Struct
from pykdext.model.objects import LookasideList, LookasideLists
from pykdext.targets.linkedlists import walk_list

MAX_LISTS = 20_000
_HEADS = ("ExNPagedLookasideListHead", "ExPagedLookasideListHead", "ExSystemLookasideListHead")
_PATHS = (
    "TotalAllocates",
    "AllocateMisses",
    "TotalFrees",
    "FreeMisses",
    "Type",
    "Tag",
    "Size",
    "Allocate",
    "Free",
    "ListEntry",
)
_WORD = 1 << 32
_PAGED = 1
_MAX_ENTRY_BYTES = 1 << 20
_FRAMEWORKS = frozenset(
    ("ndis.sys", "fltmgr.sys", "storport.sys", "wdf01000.sys", "classpnp.sys", "ks.sys", "portcls.sys", "netio.sys")
)


def read_lookasides(kernel: Kernel, pages: PageReader) -> LookasideLists:
    """Every list that the kernel links; ``found`` is False where no symbols tell the heads."""
    heads = [symbol for symbol in map(kernel.find_symbol, _HEADS) if symbol is not None]
    form = _find_form(kernel)
    if not heads or form is None:
        return LookasideLists()
    reader = _ListReader(kernel, pages, form)
    for head in heads:
        reader.walk(head.address)
    return LookasideLists(tuple(reader.lists), True, tuple(reader.warnings))


def read_list(kernel: Kernel, pages: PageReader, address: int) -> Optional[LookasideList]:
    """The list whose GENERAL_LOOKASIDE is at an address; None: not in memory, or no list."""
    form = _find_form(kernel)
    return None if form is None else _ListReader(kernel, pages, form).read(address)


def _find_form(kernel: Kernel) -> Optional[Struct]:
    return find_form(kernel, "_GENERAL_LOOKASIDE", _PATHS, lambda form: form.has("ListEntry", "Tag"), {"Tag": 4})


class _ListReader:
    """Reads lists one head after the other."""

    def __init__(self, kernel: Kernel, pages: PageReader, form: Struct) -> None:
        self._pages = pages
        self._form = form
        self._width = kernel.target.pointer_size
        self._modules = [module for module in kernel.target.modules() if not module.unloaded]
        self._seen: Set[int] = set()
        self.lists: List[LookasideList] = []
        self.warnings: List[str] = []

    def walk(self, head: int) -> None:
        """Add the lists behind one head."""
        try:
            walk = walk_list(self._pages.read, self._width, head, MAX_LISTS)
        except MemoryReadError:
            self.warnings.append(f"lookaside lists: the head at 0x{head:x} is not in memory")
            return
        if walk.torn_at is not None:
            self.warnings.append(f"lookaside lists: their list is torn at 0x{walk.torn_at:x} ({walk.reason})")
        start = self._form.offset("ListEntry") or 0
        for link in walk.entries:
            if link not in self._seen:
                self._seen.add(link)
                found = self.read(link - start)
                if found is not None:
                    self.lists.append(found)

    def read(self, address: int) -> Optional[LookasideList]:
        """The list whose structure is at an address; None: not in memory, or no list."""
        form = self._form
        try:
            record = form.parse(self._pages.read(address + form.start, form.end - form.start), form.start)
        except MemoryReadError:
            return None
        if not 0 < record["Size"] <= _MAX_ENTRY_BYTES:
            return None
        module, place, proof, proven = self._find_owner(address, (record["Allocate"], record["Free"]))
        return LookasideList(
            address=address,
            tag=PoolTag.from_key(record["Tag"]),
            pool=PoolKind.PAGED if record["Type"] & _PAGED else PoolKind.NONPAGED,
            size_bytes=record["Size"],
            in_use=_difference(record["TotalAllocates"], record["TotalFrees"]),
            taken=_difference(record["AllocateMisses"], record["FreeMisses"]),
            module=None if module is None else module.name,
            rva=None if module is None or place is None else place - module.base,
            proof=proof,
            is_proven=proven,
        )

    def _find_owner(self, address: int, routines: Tuple[int, int]) -> Tuple[Optional[Module], Optional[int], str, bool]:
        """Whose a list is: by the image that it lies in, else by the image of its routines."""
        inside = self._module_of(address)
        if inside is not None:
            return inside, address, "the list lies in its data", True
        for routine in routines:
            module = self._module_of(routine)
            if module is None or module is self._modules[0] or module.name.lower() == "hal.dll":
                continue
            if module.name.lower() in _FRAMEWORKS:
                return module, routine, "a framework: it allocates for one of its clients", False
            return module, routine, "its routine serves the list", True
        return None, None, "", False

    def _module_of(self, address: int) -> Optional[Module]:
        return next((module for module in self._modules if address in module), None)


def _difference(more: int, less: int) -> int:
    """How much one counter is ahead of another; both wrap around, and drift by a little below zero is none."""
    ahead = (more - less) % _WORD
    return ahead if ahead < _WORD // 2 else 0


def group_by_tag(lists: LookasideLists) -> Dict[PoolTag, List[LookasideList]]:
    """The lists of each tag, those with most entries in use first."""
    groups: Dict[PoolTag, List[LookasideList]] = {}
    for item in sorted(lists.lists, key=lambda item: -item.in_use):
        groups.setdefault(item.tag, []).append(item)
    return groups
