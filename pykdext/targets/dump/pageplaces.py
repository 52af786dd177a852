"""Finds where the pages of a bitmap dump stand although the bitmap has a wrong bit.

A page stands in the file behind all pages whose bits are set below its own. One bit set wrongly, or lost, moves every
page above it by one place, and nothing in the header tells which bit it is. The memory itself does: page tables that
map themselves, lists whose entries point back, images that begin as the list of modules says. Each such thing that is
found narrows down between which two pages the wrong bit is. What lies between the two stays unread; nothing is guessed.
The same holds for several wrong bits near each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Callable, Dict, Iterator, Optional, Set, Tuple, TypeVar

from pykdext.errors import DumpFormatError, MemoryReadError
from pykdext.model import Machine
from pykdext.targets.dump.facts import KernelFacts
from pykdext.targets.dump.pageindex import PageIndex
from pykdext.targets.dump.pages import Extent, PageBitmap, PagesInFile
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.kernelformat import PE_HEADER, PE_OFFSET_AT, KernelFormat, choose_kernel_format
from pykdext.targets.paging.addressspace import AddressSpace, PagingMode
from pykdext.targets.paging.modes import find_paging_mode
from pykdext.targets.paging.virtual import VirtualMemory
from pykdext.targets.protocol import PAGE_BYTES
from pykdext.units import choose_form, count_things

MAX_LIST_ENTRIES = 4096
"""Of each list that is followed: enough to tell where pages stand."""

_PAGE_SHIFT = 12
_NO_PAGE = 1 << 64
_OFFSET = PAGE_BYTES - 1
_SHARE_OF_MISFITS = 16
"""One misfit in so many finds is a list that was torn before; more contradict the places."""

_DLL_BASE_AT = {4: 0x18, 8: 0x30}
"""Of a loader entry (_KLDR_DATA_TABLE_ENTRY), by the width of pointers: behind three lists of two pointers, or what
stands in their place; the same since Windows XP. SizeOfImage follows behind one pointer more."""

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class PagePlaces:
    """What is certain of a bitmap with a wrong bit.

    Attributes:
        low: pages up to this one stand where the bitmap has them; -1: no page does.
        high: pages from this one on stand ``moved`` places behind that (before it, where negative).
        lost: the page whose bit was lost, if that is known: it stands where it would with its bit.
            Pages between ``low`` and ``high`` may stand anywhere.
    """

    low: int
    high: int
    moved: int
    lost: Optional[int] = None

    def find_move(self, page: int) -> Optional[int]:
        """How far a page stands behind its place; None: not certain."""
        if page <= self.low:
            return 0
        return self.moved if page >= self.high else None


def open_bitmap(
    file: FileBytes,
    facts: KernelFacts,
    index: PageIndex,
    data_offset: int,
    announced: int,
    bitmap_offset: int,
    notes: Tuple[str, ...] = (),
) -> PagesInFile:
    """The pages that a bitmap tells of; of a wrong one those whose places the memory itself proves.

    ``facts``: what the dump's header says; ``announced``: pages that the bitmap's header counts. ``data_offset`` and
    ``bitmap_offset``: where in the file the first page and the bitmap begin. ``notes`` join the warnings.

    Raises:
        DumpFormatError: the bitmap contradicts both the header and the file, and nothing proves any place.
    """
    pages = PageBitmap(file, data_offset, index, announced, notes)
    if pages.is_true:
        return pages
    proof = find_page_places(file, data_offset, index, announced, facts)
    if proof is None:
        raise DumpFormatError(
            file.path,
            bitmap_offset,
            f"a bitmap that marks {count_things(index.present, 'page')}",
            f"{announced:,} as the header counts",
            "the file is damaged where it tells which page is which; copy it again",
        )
    return MovedPages(file, data_offset, index, announced, proof)


class MovedPages(PagesInFile):
    """The pages of a bitmap with a wrong bit, as far as it is certain where they stand."""

    def __init__(self, file: FileBytes, data_offset: int, index: PageIndex, announced: int, proof: PlaceProof) -> None:
        """``announced``: pages that the header counts. ``proof``: what was found so far."""
        super().__init__(file, data_offset)
        self._marked = index.present
        self._index = index
        self._announced = announced
        self._proof = proof
        self._take_places()

    def _take_places(self) -> None:
        places = self._proof.places
        if places.lost is not None:
            self._index = self._index.with_page(places.lost)
            places = PagePlaces(_NO_PAGE, _NO_PAGE, 0, places.lost)
        self._places = places
        below, above = self._index.count_below(places.low + 1), self._index.count_below(places.high)
        self.uncertain_pages = above - below
        held_above = max(self._held_pages - places.moved - above, 0)
        self._present = min(below, self._held_pages) + min(self._index.present - above, held_above)

    def prove(self, check: Callable[[VirtualMemory], bool]) -> bool:
        """Take for true what must be, that ``check`` is; whether more pages are certain by that.

        ``check`` looks at the kernel's memory for what can only be there, and lets MemoryReadError pass.
        """
        before = self._proof.places
        self._proof.settle(lambda view: True if check(view.virtual) else None)
        if self._proof.places == before:
            return False
        self._take_places()
        return True

    @property
    def pages_expected(self) -> int:
        """Pages that the header counts."""
        return self._announced

    @property
    def present_pages(self) -> int:
        """Pages of which it is certain where they stand, and that the file holds."""
        return self._present

    @property
    def warnings(self) -> Tuple[str, ...]:
        """What is wrong with the container."""
        places = self._places
        counts = f"it marks {self._marked:,}, the header counts {self._announced:,}"
        known = f"{count_things(self._proof.finds, 'known place')} {choose_form(self._proof.finds, 'proves', 'prove')}"
        if places.lost is not None:
            told = f"was damaged: {counts}. {known} that page 0x{places.lost:x} is the one that it lost"
        else:
            told = (
                f"is damaged: {counts}. {known} where "
                f"{count_things(self._present, 'page')} "
                f"{choose_form(self._present, 'stands', 'stand')}; {self.uncertain_pages:,} between "
                f"page 0x{places.low + 1:x} and 0x{min(places.high, self._index.bits):x} are left out"
            )
        return (*super().warnings, f"the bitmap of pages {told}")

    def iter_extents(self, address: int, size: int) -> Iterator[Extent]:
        """The parts of a physical range that the file holds, ascending."""
        end = address + size
        first = address >> _PAGE_SHIFT
        places = self._places
        for page, index, count in self._index.iter_runs(first, ((end + _OFFSET) >> _PAGE_SHIFT) - first):
            for start, stop, moved in (
                (page, min(page + count, places.low + 1), 0),
                (max(page, places.high), page + count, places.moved),
            ):
                place = index + start - page + moved
                held = min(stop - start, self._held_pages - place)
                if held > 0 and place >= 0:
                    yield from self._clip_run(start, place, held, address, end)

    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""
        offset = address & _OFFSET
        page = address >> _PAGE_SHIFT
        moved = self._places.find_move(page)
        if offset + size <= PAGE_BYTES and moved is not None:
            place = self._index.find(page)
            if place >= 0 and 0 <= place + moved < self._held_pages:
                data = self._file.read_at(self._data_offset + ((place + moved) << _PAGE_SHIFT) + offset, size)
                if len(data) == size:
                    return data
        return self._read_extents(address, size)


def find_page_places(
    file: FileBytes, data_offset: int, index: PageIndex, announced: int, facts: KernelFacts
) -> Optional[PlaceProof]:
    """Where the pages stand of a bitmap that marks more or fewer than the ``announced``; None: nothing proves it.

    ``data_offset``: where in the file the first page begins. ``facts``: what the dump's header says.
    """
    for five_levels in (False, True) if facts.machine is Machine.X64 else (False,):
        mode = find_paging_mode(facts.machine, facts.build, pae_enabled=facts.pae_enabled, five_levels=five_levels)
        proof = PlaceProof(_Pages(file, data_offset, index), mode, facts, announced - index.present)
        proof.settle(proof.see_root)
        proof.follow_lists()
        if proof.finds and proof.misfits <= 1 + proof.finds // _SHARE_OF_MISFITS:
            return proof
    return None


class _UndecidedError(Exception):
    """Where ``page`` stands is not known yet."""

    def __init__(self, page: int) -> None:
        super().__init__()
        self.page = page


@dataclass(frozen=True)
class _Pages:
    """The file, and the bitmap as it is. ``absent`` collects the pages that were asked for and are not marked."""

    file: FileBytes
    data_offset: int
    index: PageIndex
    absent: Set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Assumed:
    """Physical memory under an assumption of where pages stand: what it leaves open raises _UndecidedError."""

    pages: _Pages
    places: PagePlaces

    @property
    def present_pages(self) -> int:
        """Not counted: nobody asks."""
        return 0

    def read_physical(self, address: int, size: int) -> bytes:
        """All ``size`` bytes at a physical address, or MemoryReadError."""
        data = bytearray()
        for at in range(address & ~_OFFSET, address + size, PAGE_BYTES):
            start, stop = max(at, address), min(at + PAGE_BYTES, address + size)
            data += self._read_in_page(start, stop - start)
        return bytes(data)

    def _read_in_page(self, address: int, size: int) -> bytes:
        page = address >> _PAGE_SHIFT
        place = self.pages.index.find(page)
        if page == self.places.lost:
            place = self.pages.index.count_below(page)
        if place < 0:
            self.pages.absent.add(page)
            raise MemoryReadError(address, size, "it is not in the dump")
        moved = self.places.find_move(page)
        if moved is None:
            raise _UndecidedError(page)
        offset = self.pages.data_offset + ((place + moved) << _PAGE_SHIFT) + (address & _OFFSET)
        data = self.pages.file.read_at(offset, size) if place + moved >= 0 else b""
        if len(data) < size:
            raise MemoryReadError(address, size, "it is not in the dump")
        return data

    def read_present_physical(self, address: int, size: int) -> Iterator[Tuple[int, bytes]]:
        """The range where it can be read whole."""
        yield address, self.read_physical(address, size)


@dataclass(frozen=True)
class _View:
    """Physical and virtual memory under one assumption."""

    physical: _Assumed
    virtual: VirtualMemory


class PlaceProof:
    """Narrows down between which two pages the wrong bit is.

    Attributes:
        places: what is certain so far. finds: things that stood where they should.
        misfits: those that did not, though no page was uncertain on the way to them.
    """

    def __init__(self, pages: _Pages, mode: PagingMode, facts: KernelFacts, moved: int) -> None:
        self._pages = pages
        self._mode = mode
        self._facts = facts
        self._kernel: KernelFormat = choose_kernel_format(facts.machine)
        self.places = PagePlaces(-1, _NO_PAGE, moved)
        self.finds = self.misfits = 0
        self._settled = self._view(self.places)

    def _view(self, places: PagePlaces) -> _View:
        assumed = _Assumed(self._pages, places)
        return _View(
            assumed, VirtualMemory(assumed, AddressSpace(self._mode, assumed, self._facts.directory_table_base))
        )

    def settle(self, check: Callable[[_View], Optional[_Found]]) -> Optional[_Found]:
        """What ``check`` finds, under the only assumptions under which it finds anything; None: nothing, or two."""
        self._pages.absent.clear()
        outcomes = list(self._explore(check, self._settled))
        if not outcomes and self.places.moved == 1 and self.places.lost is None:
            return self._find_lost(check)
        found = {result for _, result in outcomes}
        if len(found) != 1:
            return None
        self._settle_at(
            replace(
                self.places,
                low=min(places.low for places, _ in outcomes),
                high=max(places.high for places, _ in outcomes),
            )
        )
        return found.pop()

    def _settle_at(self, places: PagePlaces) -> None:
        self.finds += 1
        if places != self.places:
            self.places = places
            self._settled = self._view(places)

    def _find_lost(self, check: Callable[[_View], Optional[_Found]]) -> Optional[_Found]:
        """What ``check`` finds if one of the pages that it asked for in vain is the one whose bit was lost."""
        for page in sorted(self._pages.absent):
            if not self.places.low < page < min(self.places.high, self._pages.index.bits):
                continue
            places = replace(self.places, low=page, high=page + 1, lost=page)
            try:
                result = check(self._view(places))
            except MemoryReadError:
                continue
            if result is not None:
                self._settle_at(places)
                return result
        return None

    def _explore(self, check: Callable[[_View], Optional[_Found]], view: _View) -> Iterator[Tuple[PagePlaces, _Found]]:
        """Each assumption under which ``check`` finds something, and what."""
        places = view.physical.places
        try:
            result = check(view)
        except _UndecidedError as undecided:
            yield from self._explore(check, self._view(replace(places, low=undecided.page)))
            yield from self._explore(check, self._view(replace(places, high=undecided.page)))
        except MemoryReadError:
            return
        else:
            if result is not None:
                yield places, result
            elif view is self._settled:
                self.misfits += 1

    def see_root(self, view: _View) -> Optional[bool]:
        """Whether the top table maps itself, as those of Windows do (but PAE's of 32 bytes)."""
        root = self._facts.directory_table_base & self._mode.root_mask
        data = view.physical.read_physical(root & ~_OFFSET, PAGE_BYTES)
        size = self._mode.entry.size
        entries = (int.from_bytes(data[at : at + size], "little") for at in range(PAGE_BYTES // 2, PAGE_BYTES, size))
        return (
            True if any(entry & 1 and entry & self._mode.frame_mask == root & ~_OFFSET for entry in entries) else None
        )

    def follow_lists(self) -> None:
        """The modules with the beginnings of their images, and the processes."""
        for module in self._follow(self._facts.loaded_module_list):
            self.settle(partial(self._see_image, module))
        self._follow(self._facts.active_process_head)

    def _follow(self, head: Optional[int]) -> Tuple[int, ...]:
        """The entries of a list, from both of its ends."""
        entries: Dict[int, None] = {}
        if head is None:
            return ()
        for is_forward in (True, False):
            at = head
            while len(entries) < MAX_LIST_ENTRIES:
                following = self.settle(partial(self._see_link, at, is_forward))
                if following is None or following == head or following in entries:
                    break
                entries[following] = None
                at = following
        return tuple(entries)

    def _read_pointer(self, view: _View, address: int) -> int:
        return int.from_bytes(view.virtual.read(address, self._kernel.pointer_bytes), "little")

    def _see_link(self, address: int, is_forward: bool, view: _View) -> Optional[int]:
        """The entry that follows if it leads back."""
        size = self._kernel.pointer_bytes
        there, back = (0, size) if is_forward else (size, 0)
        following = self._read_pointer(view, address + there)
        if following < self._kernel.kernel_start or following % size:
            return None
        return following if self._read_pointer(view, following + back) == address else None

    def _see_image(self, entry: int, view: _View) -> Optional[bool]:
        """Whether a loader entry's image begins as one of that size."""
        size = self._kernel.pointer_bytes
        at = entry + _DLL_BASE_AT[size]
        base, size_bytes = self._read_pointer(view, at), self._read_pointer(view, at + 2 * size) & 0xFFFFFFFF
        start = view.virtual.read(base, PE_OFFSET_AT + 4)
        offset = int.from_bytes(start[PE_OFFSET_AT:], "little")
        if start[:2] != b"MZ" or offset > PAGE_BYTES - PE_HEADER.size_bytes:
            return None
        header = PE_HEADER.declaration.parse(view.virtual.read(base + offset, PE_HEADER.size_bytes))
        return True if header.Signature == b"PE\0\0" and header.SizeOfImage == size_bytes else None
