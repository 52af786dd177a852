"""Lookaside lists: a tag, the driver that keeps blocks of it, and how many it has given out.

The list's structure lies in its driver's data or in one of its blocks, and names its routines. Frameworks keep lists
for their clients: what they run is no proof against them (a buffer list that NDIS made for a network driver bears that
driver's tag). GENERAL_LOOKASIDE is the same from XP to Windows 11 (public symbols); heads are known by symbols only,
else lists are found in drivers' data by their tag.
"""

from __future__ import annotations

from typing import Collection, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.forms import find_form
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import PROTECTED_POOL, Module, PoolKind, PoolTag, Struct
from pykdext.model.objects import LookasideList, LookasideLists
from pykdext.targets.linkedlists import walk_list
from pykdext.targets.protocol import PAGE_BYTES

MAX_LISTS = 20_000
MAX_SECTION_BYTES, MAX_DATA_BYTES = 4 << 20, 128 << 20
MAX_PLACES_TRIED = 1 << 16
"""Of a tag in drivers' data, that a list might begin around: data that are full of it are none of lists."""

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
_MAX_DEPTH = 0x1000
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


def find_lists_in_images(kernel: Kernel, pages: PageReader, tags: Collection[PoolTag]) -> Tuple[LookasideList, ...]:
    """The lists of some tags that lie in drivers' data, for kernels whose heads nothing tells.

    What stands around the tag must be a list: sizes, routines in images, and neighbours that lead back to it.
    """
    form = _find_form(kernel)
    if form is None or not tags:
        return ()
    reader = _ListReader(kernel, pages, form)
    keys = [key.to_bytes(4, "little") for tag in tags for key in (tag.key, tag.key | PROTECTED_POOL)]
    found: Dict[int, LookasideList] = {}
    left, tries_left = MAX_DATA_BYTES, MAX_PLACES_TRIED
    for image in kernel.images[1:]:
        for section in image.sections if image.has_headers else ():
            if not section.writable or section.executable or left <= 0:
                continue
            size = min(-(-section.size // PAGE_BYTES) * PAGE_BYTES, MAX_SECTION_BYTES)
            left -= size
            for start, data in kernel.target.read_present(image.module.base + section.rva, size):
                for address in _iter_places(start, data, keys, form.offset("Tag") or 0, 2 * kernel.target.pointer_size):
                    tries_left -= 1
                    is_list = tries_left >= 0 and len(found) < MAX_LISTS and reader.is_list(address)
                    item = reader.read(address) if is_list else None
                    if item is not None:
                        found[address] = item
    return tuple(found.values())


def _iter_places(start: int, data: bytes, keys: Sequence[bytes], tag_offset: int, alignment: int) -> Iterator[int]:
    """Where structures may begin whose tag is one of ``keys``."""
    for key in keys:
        at = data.find(key)
        while at >= 0:
            address = start + at - tag_offset
            if address % alignment == 0:
                yield address
            at = data.find(key, at + 1)


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

    def is_list(self, address: int) -> bool:
        """Whether a list is at an address: depths that fit, routines in images, and links that come back."""
        form, width = self._form, self._width
        link = form.offset("ListEntry") or 0
        depth, most = (self._pages.number(address + 2 * width + 2 * number, 2) for number in range(2))
        if depth is None or most is None or not 0 < most <= _MAX_DEPTH or depth > most:
            return False
        routines = (self._pages.pointer(address + (form.offset(name) or 0)) for name in ("Allocate", "Free"))
        if any(routine is None or self._module_of(routine) is None for routine in routines):
            return False
        ends = [self._pages.pointer(address + link), self._pages.pointer(address + link + width)]
        if None in ends or 0 in ends:
            return False
        back = self._pages.pointer((ends[0] or 0) + width), self._pages.pointer(ends[1] or 0)
        return any(back) and all(pointer in (None, address + link) for pointer in back)

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
