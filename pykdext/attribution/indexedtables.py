"""Tables of tags from which code takes one by an index that only the running driver knows.

The tags stand at equal distances, with other members between them, and a function that refers to the table calls an
allocator with a tag that comes from memory. Which tag that is nobody can tell: each entry is one of so many.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Sequence, Tuple

from pykdext.attribution.calls.allocators import argument_locations
from pykdext.attribution.calls.callees import Callee, CalleeResolver
from pykdext.attribution.calls.directcalls import find_direct_calls
from pykdext.attribution.calls.functions import FollowedImage
from pykdext.attribution.calls.references import find_references
from pykdext.attribution.calls.wrappers import Wrappers
from pykdext.attribution.flow.calls import CallSite, FunctionFlow
from pykdext.attribution.flow.values import UNKNOWN_ATOM, Atom, Constant, Parameter, Result
from pykdext.attribution.places.tagencodings import TAG_BYTES, is_plausible, measure_text
from pykdext.images.image import Image

MAX_ROWS = 64
"""Rows of a table that are looked at before and behind one of its tags."""

MIN_ROW_BYTES, MAX_ROW_BYTES = 8, 64
"""Of a table that has more than tags. Tags side by side are a text more often than a table: no call may get them."""

MAX_TIGHT_BYTES = 64
"""Of a table that has nothing but tags; a longer one is a text."""

MIN_ROWS_BEFORE_TEXT = 2
"""Rows after which one more may be the last although a text stands right behind the table."""

MIN_ROWS_OF_LOOP = 3

MAX_BYTES_BEFORE = 64
"""Of a structure of which the table is a member: code may have the address of that, and add the place in it."""

MAX_READERS = 8
"""Functions that refer to a table and are followed, and callers of one that returns an entry."""

MAX_WRAPPERS = 3
"""Functions between an entry of the table and the allocator."""


class IndexedTable(NamedTuple):
    """A table of ``tags`` tags, the first at ``first_rva``; the allocator is called at ``call_rva``."""

    first_rva: int
    tags: int
    allocator: str
    call_rva: int


class _Rows(NamedTuple):
    first_rva: int
    tags: int
    row_bytes: int


def find_indexed_table(
    followed: FollowedImage, resolver: CalleeResolver, wrappers: Wrappers, tag_rva: int
) -> Optional[IndexedTable]:
    """The table around the tag in data at ``tag_rva`` from which an allocator gets its tag; None if there is none."""
    image = followed.image
    rows = _find_rows(image, tag_rva)
    if rows is None:
        return None
    # a loop may begin with a pointer to the member behind the first tag; with two rows that may be anything
    behind = rows.row_bytes if rows.tags >= MIN_ROWS_OF_LOOP else TAG_BYTES
    starts = {*range(rows.first_rva - rows.row_bytes + TAG_BYTES, rows.first_rva + behind, TAG_BYTES)}
    if rows.row_bytes > TAG_BYTES:  # a loop that counts up to zero has the address behind the end
        starts.add(rows.first_rva + rows.tags * rows.row_bytes)
    around = range(rows.first_rva - MAX_BYTES_BEFORE, rows.first_rva, TAG_BYTES)
    found = find_references(image, {*starts, *around})
    readers = sorted({(start not in starts, rva) for start, rvas in found.items() for rva in rvas})
    for is_around, rva in readers[:MAX_READERS]:
        flow = followed.find_flow(rva)
        if flow is None or (is_around and rows.first_rva not in flow.variables):
            continue
        callees = [(site, resolver.resolve(image, site)) for site in flow.calls]
        others = [site for site, callee in callees if wrappers.find_allocator(site, callee) is None]
        if rows.row_bytes == TAG_BYTES and _is_handed(others, image, rows):
            continue
        for site, callee in callees:
            name = _name_allocator(wrappers, site, callee, UNKNOWN_ATOM)
            if name is not None:
                return IndexedTable(rows.first_rva, rows.tags, name, site.rva)
        for name, call_rva in _iter_given(followed, resolver, wrappers, flow):
            return IndexedTable(rows.first_rva, rows.tags, name, call_rva)
    return None


def _name_allocator(wrappers: Wrappers, site: CallSite, callee: Optional[Callee], tag: Atom) -> Optional[str]:
    """The allocator that a call reaches with what ``tag`` may be, itself or through functions of the image."""
    allocator = wrappers.find_allocator(site, callee)
    if allocator is not None:
        is_maker = allocator.action.is_proof and allocator.structure is None
        return allocator.name if is_maker and tag in wrappers.read_tag_argument(site, allocator) else None
    if callee is None or callee.rva is None:
        return None
    for location in argument_locations(wrappers.machine):
        if tag in site.frame.argument(location, TAG_BYTES):
            found = wrappers.follow(callee, Parameter(location), MAX_WRAPPERS)
            if found is not None and found.allocator.action.is_proof:
                return found.allocator.name
    return None


def _iter_given(
    followed: FollowedImage, resolver: CalleeResolver, wrappers: Wrappers, giver: FunctionFlow
) -> Iterator[Tuple[str, int]]:
    """The allocators that get what ``giver`` returns, with the calls; small functions first."""
    around = {followed.find_bounds(rva) for rva in find_direct_calls(followed.image, {giver.start_rva})}
    wanted = sorted((bounds for bounds in around if bounds is not None), key=lambda b: (b.size_bytes, b.start_rva))
    for bounds in wanted[:MAX_READERS]:
        flow = followed.find_flow(bounds.start_rva)
        callees = [(site, resolver.resolve(followed.image, site)) for site in (flow.calls if flow is not None else ())]
        results = [Result(site.rva) for site, callee in callees if callee and callee.rva == giver.start_rva]
        for site, callee in callees:
            for result in results:
                name = _name_allocator(wrappers, site, callee, result)
                if name is not None:
                    yield name, site.rva


def _find_rows(image: Image, tag_rva: int) -> Optional[_Rows]:
    """The longest run of tags at equal distances that this one is in."""
    best = _find_tight_rows(image, tag_rva)
    for row_bytes in range(MIN_ROW_BYTES, MAX_ROW_BYTES + 1, TAG_BYTES):
        before = _count_rows(image, tag_rva, -row_bytes)
        behind = _count_rows(image, tag_rva, row_bytes)
        is_lone = _is_lone_tag(image, tag_rva)
        end_rva = tag_rva + (behind + 1) * row_bytes
        if is_lone and before + 1 + behind >= MIN_ROWS_BEFORE_TEXT and _is_lone_tag(image, end_rva, is_last=True):
            behind += 1
        may_be_last = before >= MIN_ROWS_BEFORE_TEXT and _is_lone_tag(image, tag_rva, is_last=True)
        count = before + 1 + behind
        if (is_lone or may_be_last) and count > 1 and (best is None or count > best.tags):
            best = _Rows(tag_rva - before * row_bytes, count, row_bytes)
    return best


def _find_tight_rows(image: Image, tag_rva: int) -> Optional[_Rows]:
    """Tags side by side, and no character before or behind them."""
    start = max(tag_rva - MAX_TIGHT_BYTES - 1, 0)
    data = image.read(start, tag_rva - start + TAG_BYTES + MAX_TIGHT_BYTES + 1)
    if data is None:
        return None
    before, behind = measure_text(data, tag_rva - start, MAX_TIGHT_BYTES + 1)
    if _is_no_text(image, tag_rva + TAG_BYTES + behind - behind % TAG_BYTES):
        behind -= behind % TAG_BYTES
    size_bytes = before + TAG_BYTES + behind
    if before % TAG_BYTES or behind % TAG_BYTES or not TAG_BYTES < size_bytes <= MAX_TIGHT_BYTES:
        return None
    tags = [
        data[at : at + TAG_BYTES] for at in range(tag_rva - start - before, tag_rva - start + behind + 1, TAG_BYTES)
    ]
    return _Rows(tag_rva - before, len(tags), TAG_BYTES) if all(map(is_plausible, tags)) else None


def _is_handed(sites: Sequence[CallSite], image: Image, rows: _Rows) -> bool:
    """Whether one of the calls gets the address of what may be a text, too."""
    address = Constant(image.module.base + rows.first_rva)
    size = image.machine.pointer_size
    places = argument_locations(image.machine)
    return any(address in site.frame.argument(place, size) for site in sites for place in places)


def _count_rows(image: Image, tag_rva: int, step: int) -> int:
    count = 0
    while count < MAX_ROWS and _is_lone_tag(image, tag_rva + (count + 1) * step):
        count += 1
    return count


def _is_lone_tag(image: Image, rva: int, *, is_last: bool = False) -> bool:
    """Whether four bytes look like a tag, and no character stands before or behind them; behind the last one may."""
    data = image.read(rva - 1, TAG_BYTES + 2) if rva > 0 else None
    if data is None or not is_plausible(data[1 : 1 + TAG_BYTES]):
        return False
    before, behind = measure_text(data, 1, 1)
    return before == 0 and (behind == 0 or is_last or _is_no_text(image, rva + TAG_BYTES))


def _is_no_text(image: Image, rva: int) -> bool:
    """Whether an address of the image stands there, or a small number: the first byte of each may be a character."""
    size = image.machine.pointer_size
    if (image.read(rva, TAG_BYTES) or b"")[1:] == bytes(TAG_BYTES - 1):
        return True
    raw = image.read(rva, size) if rva % size == 0 else None
    return raw is not None and 0 < int.from_bytes(raw, "little") - image.module.base < image.size
