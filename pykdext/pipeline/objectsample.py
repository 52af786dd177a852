"""Objects of a tag found by its blocks, and whose data and blocks point at those that nobody has a handle to."""

from __future__ import annotations

from array import array
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from pykdext.attribution.taglists import TagLists
from pykdext.errors import MemoryReadError, TargetError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.contents import KEY_VERB, PROCESS_VERBS, count_descriptions
from pykdext.kernel.objects.space import ObjectSpace
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.kernel.pool.heapchunks import read_heap_keys
from pykdext.kernel.pool.smallblocks import WalkLimits, find_small_blocks
from pykdext.model import Allocation, PoolTag, TagUsage
from pykdext.model.objects import HandleCensus, ObjectSample, ObjectType, ReferencingDriver
from pykdext.pipeline.evidence import NO_CONTENTS
from pykdext.pipeline.imagesearch import search_kernel
from pykdext.pipeline.sources import Source
from pykdext.pipeline.weighing import weigh_owners
from pykdext.targets.session.wholememory import open_whole_memory
from pykdext.work import UNWATCHED, Work

MAX_BLOCKS = 4_096
MAX_HELD, MAX_HANDLES_READ, MAX_CREATORS = 1_024, 200_000, 8
WALK_BYTES = 2 << 30
MAX_PARTS_BYTES = 0x90
MAX_TAGS_COMPARED = 4
"""Tags with about as many blocks as there are objects: whoever keeps a reference usually keeps a block for it."""

_ALIKE = 0.05
_NOTABLE_SHARE = 0.1
_MAX_BLOCK_BYTES = 0x1000
_MAX_SECTION_BYTES = 4 << 20
_MAX_DATA_BYTES = 128 << 20


@dataclass(frozen=True)
class SampledObjects:
    """The sample in numbers, and the bodies of its objects without a handle."""

    sample: ObjectSample
    without_handles: FrozenSet[int]


def sample_objects(space: ObjectSpace, tag: PoolTag, work: Work = UNWATCHED) -> SampledObjects:
    """The objects in up to ``MAX_BLOCKS`` blocks of a tag."""
    blocks = _find_blocks(space.kernel, tag, work)
    types = {kind.address: kind for kind in space.types.of_tag(tag)}
    unheld: List[int] = []
    described: List[Optional[str]] = []
    of_unheld: List[Optional[str]] = []
    for header, address in _find_headers(space, blocks, frozenset(types)):
        body = header + space.headers.body_offset
        described.append(space.contents.describe(types[address].label, body))
        read = space.headers.read(header)
        if read is not None and read.handle_count == 0:
            unheld.append(body)
            of_unheld.append(described[-1])
    sample = ObjectSample(
        blocks=len(blocks),
        objects=len(described),
        without_handles=len(unheld),
        creators=_count_creators(space, described),
        unheld_creators=_count_creators(space, of_unheld),
        accounts=tuple(sorted(space.contents.accounts)),
    )
    return SampledObjects(sample, frozenset(unheld))


def sample_held(space: ObjectSpace, census: HandleCensus, types: Sequence[ObjectType]) -> Optional[ObjectSample]:
    """Objects of some types that a process has handles to, as far as these tell who made them; None: too many."""
    table = census.process.handle_table
    if table is None or census.read > MAX_HANDLES_READ:
        return None
    wanted = {kind.address: kind for kind in types}
    headers = space.tables.read_whole(table, census.process.handles).headers
    step = max(1, len(headers) // MAX_HELD)
    described: List[Optional[str]] = []
    for address in sorted(set(headers[::step])):
        header = space.headers.read(address)
        kind = None if header is None else space.types.of_header(header.type_index, header.type_address)
        if kind is not None and kind.address in wanted:
            described.append(space.contents.describe(kind.label, address + space.headers.body_offset))
    accounts = tuple(sorted(space.contents.accounts))
    return ObjectSample(0, len(described), 0, _count_creators(space, described), accounts=accounts)


def sample_contents(space: ObjectSpace, tag: PoolTag, work: Work = UNWATCHED) -> ObjectSample:
    """What is in up to ``MAX_BLOCKS`` blocks of a tag of requests or memory descriptor lists."""
    blocks = _find_blocks(space.kernel, tag, work)
    header_bytes = 2 * space.kernel.target.pointer_size
    bodies = (block.address if block.is_big else block.address + header_bytes for block in blocks)
    described = [space.requests.describe(tag, body) for body in bodies]
    found = [description for description in described if description is not None]
    return ObjectSample(len(blocks), len(found), 0, _count_creators(space, described))


def _count_creators(space: ObjectSpace, described: List[Optional[str]]) -> Tuple[Tuple[str, int], ...]:
    """How often each description was found, most first, with the names of the processes that they number.

    A key keeps the number of its opener only, which another process may bear by now.
    """
    images = {str(process.pid): process for process in space.processes.processes}
    creators: List[Tuple[str, int]] = []
    for description, count in count_descriptions(described)[:MAX_CREATORS]:
        verb, mark, number = description.rpartition(" pid ")
        process = images.get(number) if mark and verb in PROCESS_VERBS else None
        if process is None:
            creators.append((description, count))
        elif verb == KEY_VERB:
            creators.append((f"{description}, now {process.image}", count))
        else:
            creators.append((f"{verb} {process.label}", count))
    return tuple(creators)


def find_references(
    space: ObjectSpace, source: Source, row: TagUsage, bodies: FrozenSet[int], work: Work = UNWATCHED
) -> Tuple[ReferencingDriver, ...]:
    """The drivers whose data, or blocks of a tag of their own, point at objects; those that point at most first."""
    found = list(_search_images(space.kernel, bodies))
    found += _search_tags(space, source, row, bodies, work)
    return tuple(sorted(found, key=lambda driver: -driver.objects))


def _find_blocks(kernel: Kernel, tag: PoolTag, work: Work) -> List[Allocation]:
    """Blocks of a tag: big ones by their table, small ones by a walk that ends soon."""
    blocks: List[Allocation] = []
    with work.hold():
        with suppress(TargetError):
            blocks += read_big_pages(kernel, (tag,)).allocations[:MAX_BLOCKS]
        if len(blocks) < MAX_BLOCKS:
            with open_whole_memory(kernel.target) as memory:
                if memory is not None:
                    limits = WalkLimits(MAX_BLOCKS - len(blocks), WALK_BYTES)
                    blocks += find_small_blocks(memory, tag, UNWATCHED, limits, read_heap_keys(kernel)).allocations
    return blocks[:MAX_BLOCKS]


def _find_headers(space: ObjectSpace, blocks: Sequence[Allocation], types: FrozenSet[int]) -> Iterator[Tuple[int, int]]:
    """The header in each block that has one, and the address of its type.

    A header stands behind parts of the very size that it tells. The parts themselves may look like one, once in 256
    blocks: then what most blocks have decides.
    """
    places = [_list_headers(space, block, types) for block in blocks]
    usual = Counter(found[0].parts_bytes for found in places if len(found) == 1)
    for found in places:
        if found:
            place = max(found, key=lambda place: usual[place.parts_bytes])
            yield place.header, place.type_address


class _PlacedHeader(NamedTuple):
    header: int
    type_address: int
    parts_bytes: int


def _list_headers(space: ObjectSpace, block: Allocation, types: FrozenSet[int]) -> List[_PlacedHeader]:
    """All that may be the header of the object in a block."""
    width = space.kernel.target.pointer_size
    start = block.address if block.is_big else block.address + 2 * width
    found: List[_PlacedHeader] = []
    for parts in range(0, MAX_PARTS_BYTES, width):
        header = space.headers.read(start + parts)
        if header is None:
            break
        if header.parts_bytes != parts or not header.is_plausible:
            continue
        kind = space.types.of_header(header.type_index, header.type_address)
        if kind is not None and kind.address in types:
            found.append(_PlacedHeader(start + parts, kind.address, parts))
    return found


def _search_images(kernel: Kernel, bodies: FrozenSet[int]) -> Iterator[ReferencingDriver]:
    """Modules, nt left out, whose writable data hold addresses of objects."""
    read_bytes = 0
    for image in kernel.images[1:]:
        if not image.has_headers:
            continue
        hits: Set[int] = set()
        for section in image.sections:
            if section.writable and not section.executable and read_bytes < _MAX_DATA_BYTES:
                size = min(section.size, _MAX_SECTION_BYTES)
                read_bytes += size
                for _, data in kernel.target.read_present(image.module.base + section.rva, size):
                    hits |= _pointers_in(data, kernel.target.pointer_size, bodies)
        if hits:
            yield ReferencingDriver(image.module.name, len(hits), len(bodies), "the data")


def _search_tags(
    space: ObjectSpace, source: Source, row: TagUsage, bodies: FrozenSet[int], work: Work
) -> Iterator[ReferencingDriver]:
    """Owners of the tags that have about as many blocks, if these blocks point at the objects."""
    tags = _alike_tags(space, source, row)
    pointing: Dict[PoolTag, int] = {}
    for tag in tags:
        hits: Set[int] = set()
        for block in _find_blocks(space.kernel, tag, work):
            hits |= _read_pointers(space.kernel, block, bodies)
        if len(hits) >= _NOTABLE_SHARE * len(bodies):
            pointing[tag] = len(hits)
    if not pointing:
        return
    searched = search_kernel(space.kernel, tuple(pointing), work)
    owners = weigh_owners([searched], NO_CONTENTS, tuple(pointing), TagLists({}))
    for found in owners.tags:
        for owner in found.owners[:1]:
            place = f"what is in blocks of tag {found.tag}"
            yield ReferencingDriver(owner.module, pointing[found.tag], len(bodies), place)


def _alike_tags(space: ObjectSpace, source: Source, row: TagUsage) -> List[PoolTag]:
    wanted = sum(pool.outstanding or 0 for pool in (row.nonpaged, row.paged))
    alike = []
    for other in source.snapshot.tags:
        count = sum(pool.outstanding or 0 for pool in (other.nonpaged, other.paged))
        if other.tag != row.tag and abs(count - wanted) <= _ALIKE * wanted and not space.types.of_tag(other.tag):
            alike.append((abs(count - wanted), other.tag))
    return [tag for _, tag in sorted(alike, key=lambda item: item[0])[:MAX_TAGS_COMPARED]]


def _read_pointers(kernel: Kernel, block: Allocation, bodies: FrozenSet[int]) -> FrozenSet[int]:
    width = kernel.target.pointer_size
    start = 0 if block.is_big else 2 * width
    size = min(block.size_bytes - start, _MAX_BLOCK_BYTES)
    try:
        data = kernel.target.read_virtual(block.address + start, size) if size >= width else b""
    except MemoryReadError:
        return frozenset()
    return _pointers_in(data, width, bodies)


def _pointers_in(data: bytes, width: int, bodies: FrozenSet[int]) -> FrozenSet[int]:
    """The objects whose addresses are in a piece of memory; the low bits may be a count of references."""
    words = array("I" if width == 4 else "Q", data[: len(data) - len(data) % width])
    mask = ~(2 * width - 1)
    return bodies.intersection([word & mask for word in words])
