"""Traces of references to objects (gflags, ``!obtrace``): which driver took references that it did not give back.

While nt!ObpTraceFlags asks for it, every reference and dereference of a traced object is recorded with its stack.
nt!ObpObjectTable has 401 chains of OBJECT_REF_INFO; their entries name stacks by number, with bit 15 for a reference.
nt!ObpStackTable has two counts of stacks, used and allocated, and behind them addresses of pieces of 1,024 stacks.
Newer kernels than Windows 11 21H2 keep the stacks elsewhere. Sources: the types in Microsoft's public PDBs (JPCERTCC);
public descriptions of the kernel for the tables.
"""

from __future__ import annotations

from collections import Counter
from typing import Collection, Dict, List, NamedTuple, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.pages import PageReader
from pykdext.kernel.objects.stacks import StackReader
from pykdext.model import Struct
from pykdext.model.traces import ReferenceTrace
from pykdext.targets.linkedlists import walk_chain
from pykdext.units import choose_form, count_things

MAX_OBJECTS = 65_536
_TRACING = 0x73
_CHAINS = 401
_PIECE_STACKS = 1_024
_MAX_STACKS = 16 * _PIECE_STACKS
_MAX_ENTRIES = 32_768
MAX_EVENTS = 1 << 22
"""References and dereferences of all objects together that are looked at."""

_REFERENCE = 0x8000
_PATHS = ("ObjectHeader", "NextRef", "NextPos", "StackInfo")
_Place = Tuple[str, int]


class _Layouts(NamedTuple):
    info: Struct
    entry: Struct
    stack_bytes: int


class ReferenceTraces:
    """The traced objects of one kernel, by their headers. ``warnings``: what of them could not be read."""

    def __init__(self, kernel: Kernel, pages: PageReader, layouts: _Layouts, table: int, stacks: int) -> None:
        self._kernel = kernel
        self._pages = pages
        self._layouts = layouts
        self._stacks_at = stacks
        self._reader = StackReader(kernel)
        self._places: Dict[int, Optional[_Place]] = {}
        self.warnings: List[str] = []
        self._used = self._count_stacks()
        self._infos = self._read_chains(table)

    @property
    def headers(self) -> Collection[int]:
        """Addresses of the traced objects' headers."""
        return self._infos.keys()

    def find_keepers(self, headers: Collection[int]) -> Tuple[ReferenceTrace, ...]:
        """The drivers that keep references to some objects, as far as these are traced; those with most first."""
        kept: Counter[str] = Counter()
        objects: Counter[str] = Counter()
        alone: Counter[str] = Counter()
        places: Counter[_Place] = Counter()
        seen = events = unread = 0
        for header in sorted(headers):
            info = self._infos.get(header)
            if info is None:
                continue
            if events >= MAX_EVENTS:
                told = f"{count_things(seen, 'object')} looked at, the rest left out for their length"
                self.warnings.append(f"references are traced: {told}")
                break
            indexes = self._read_events(info)
            if indexes is None:
                unread += 1
                continue
            seen += 1
            counts: Counter[Optional[str]] = Counter()
            for index in indexes:
                place, step = self._place_of(index & ~_REFERENCE), 1 if index & _REFERENCE else -1
                events += 1
                counts[None if place is None else place[0]] += step
                if place is not None and step > 0:
                    places[place] += 1
            for module, count in counts.items():
                if module is not None and count > 0:
                    kept[module] += count
                    objects[module] += 1
                    alone[module] += all(other <= 0 for name, other in counts.items() if name != module)
        if unread:
            self.warnings.append(f"references are traced: those to {count_things(unread, 'object')} are not in memory")
        most: Dict[str, int] = {}
        for module, rva in (place for place, _ in places.most_common()):
            most.setdefault(module, rva)
        return tuple(
            ReferenceTrace(module, most[module], count, objects[module], alone[module], seen)
            for module, count in kept.most_common()
        )

    def _read_events(self, info: int) -> Optional[List[int]]:
        """The stack of each reference (with ``_REFERENCE``) or dereference of an object; None: not in memory."""
        entry, start = self._layouts.entry, self._layouts.info.offset("StackInfo") or 0
        count = self._pages.number(info + (self._layouts.info.offset("NextPos") or 0), 2)
        if count is None:
            return None
        try:
            data = self._pages.read(info + start, min(count, _MAX_ENTRIES) * entry.stride)
        except MemoryReadError:
            return None
        return [index for (index,) in entry.iter_unpack(data)]

    def _place_of(self, number: int) -> Optional[_Place]:
        if number not in self._places:
            self._places[number] = self._read_place(number)
        return self._places[number]

    def _read_place(self, number: int) -> Optional[_Place]:
        if number >= self._used:
            return None
        width = self._kernel.target.pointer_size
        piece = self._pages.pointer(self._stacks_at + width * (1 + number // _PIECE_STACKS))
        if not piece:
            return None
        try:
            stack = self._pages.read(
                piece + number % _PIECE_STACKS * self._layouts.stack_bytes, self._layouts.stack_bytes
            )
        except MemoryReadError:
            return None
        return self._reader.find_driver(stack)

    def _count_stacks(self) -> int:
        """How many stacks are used; 0 where the table is not what it must be."""
        used, room = self._pages.number(self._stacks_at, 2), self._pages.number(self._stacks_at + 2, 2)
        if used is None or room is None or used > room or room % _PIECE_STACKS or room > _MAX_STACKS:
            self.warnings.append("references are traced, but the table of stacks is not one that is known")
            return 0
        return used

    def _read_chains(self, table: int) -> Dict[int, int]:
        form, width = self._layouts.info, self._kernel.target.pointer_size
        link_at, header_at = form.offset("NextRef") or 0, form.offset("ObjectHeader") or 0
        infos: Dict[int, int] = {}
        torn = walked = 0
        for number in range(_CHAINS):
            if walked >= MAX_OBJECTS:
                self.warnings.append(
                    f"references are traced: of more than {MAX_OBJECTS:,} objects the rest is left out"
                )
                break
            first = self._pages.pointer(table + width * number)
            if not first:
                torn += first is None
                continue
            walk = walk_chain(
                self._pages.read,
                width,
                first + link_at,
                MAX_OBJECTS - walked,
                lambda following: following + link_at if following else 0,
            )
            walked += len(walk.entries)
            torn += walk.torn_at is not None
            for link in walk.entries:
                header = self._pages.pointer(link - link_at + header_at)
                if header:
                    infos[header] = link - link_at
        if torn:
            self.warnings.append(
                f"references are traced: {torn} of {_CHAINS} lists of objects {choose_form(torn, 'is', 'are')} torn"
            )
        return infos


def read_reference_traces(kernel: Kernel, pages: PageReader) -> Optional[ReferenceTraces]:
    """The traces of a kernel; None: references are not traced, or no symbols tell where the traces are."""
    flags_at = kernel.find_symbol("ObpTraceFlags")
    flags = None if flags_at is None else pages.number(flags_at.address, 4)
    if not flags or not flags & _TRACING:
        return None
    table, stacks = kernel.find_variable("ObpObjectTable"), kernel.find_variable("ObpStackTable")
    info = kernel.struct("_OBJECT_REF_INFO", *_PATHS, sizes={"NextPos": 2})
    entry = kernel.struct("_OBJECT_REF_STACK_INFO", "Index", sizes={"Index": 2})
    stack = kernel.struct("_OBJECT_REF_TRACE", "StackTrace")
    if not table or not stacks or info is None or not info.has(*_PATHS) or entry is None or stack is None:
        return None
    if not entry.has("Index") or not entry.size or not stack.size:
        return None
    return ReferenceTraces(kernel, pages, _Layouts(info, entry, stack.size), table, stacks)
