"""Limits of the pools and of commit where no symbol tells: by what nt's data hold, and by how such numbers relate.

In every kernel since Windows 10 1607 whose symbols are public the pages of paged pool that are in use, the most pages
of nonpaged pool, and those of paged pool stand next to each other in MiState, and the commit of nonpaged pool 68h to
78h behind the second. Up to Windows 8.1 each is a variable of its own: the debugger data block tells where, and where
it does not, nothing ties one of them to another.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import Iterator, List, Optional, Set, Tuple

from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.inference import iter_written
from pykdext.kernel.pool.plausible import LARGEST_POOL_BYTES
from pykdext.model import Struct, SystemMemory
from pykdext.model.layouts import make_struct
from pykdext.model.structtables import SOURCE, list_layouts
from pykdext.targets.protocol import PAGE_BYTES

PARTITION_TYPE = "_MI_PARTITION"
PARTITION_FIELDS = (
    "Vp.TotalCommittedPages",
    "Vp.TotalCommitLimit",
    "Vp.NumberOfPhysicalPages",
    "Vp.AvailablePages",
)
"""In pages: what is committed and may be, memory of the machine, and what of it is free or can be freed at once."""

MOST_PAGES = 1 << 34
"""64 TB: no Windows has more memory."""

MAX_PLACES = 4096
"""Of the machine's number of pages in nt's data; real kernels have a handful."""

_WORD_BYTES = 8
_COMMIT_BEHIND = range(0x60 // _WORD_BYTES, 0x88 // _WORD_BYTES)
_WORDS_READ = 1 + _COMMIT_BEHIND.stop
_WINDOW_WORDS = 1 << 16
_FEWEST_TAGGED_PAGES = 0x400
_SLACK_PAGES = 0x1000
"""Pages of the pools that are not full, and those without a tag."""

_PHYSICAL = PARTITION_FIELDS[2]


def find_physical_pages(kernel: Kernel) -> Optional[int]:
    """How many pages of memory the machine has, by nt!MmPhysicalMemoryBlock; None: not in memory, or damaged."""
    block = kernel.find_variable("MmPhysicalMemoryBlock")
    pages = kernel.read_word(block + kernel.target.pointer_size) if block else None
    return pages if pages and pages <= MOST_PAGES else None


def infer_pool_limits(kernel: Kernel, tagged_nonpaged: int, tagged_paged: int) -> SystemMemory:
    """Both limits and what the paged pool holds; all None where not just one place in nt's data can hold them.

    The counts beside the limits must agree with the sums of the tags, in bytes; the most nonpaged pool with the
    machine's memory, to which it is bound since Windows 8.1; and that of paged pool with MmSizeOfPagedPoolInBytes.
    """
    physical = find_physical_pages(kernel)
    tagged = tagged_nonpaged // PAGE_BYTES, tagged_paged // PAGE_BYTES
    if kernel.target.pointer_size != _WORD_BYTES or physical is None or min(tagged) < _FEWEST_TAGGED_PAGES:
        return SystemMemory()
    told = kernel.find_variable("MmSizeOfPagedPoolInBytes")
    fewest, most = tagged[1] * 49 // 50, tagged[1] * 3 // 2 + _SLACK_PAGES
    nonpaged = range(tagged[0] * 49 // 50, tagged[0] * 2 + _SLACK_PAGES)
    most_limit = LARGEST_POOL_BYTES // PAGE_BYTES
    found: Set[Tuple[int, int, int]] = set()
    for words in _iter_words(kernel):
        for at, used in enumerate(words):
            if not fewest <= used <= most or at + _WORDS_READ > len(words):
                continue
            nonpaged_limit, paged_limit, *behind = words[at + 1 : at + _WORDS_READ]
            if (
                max(tagged[0], physical * 3 // 4) <= nonpaged_limit <= most_limit
                and max(used, physical // 2) <= paged_limit <= most_limit
                and told in (None, paged_limit * PAGE_BYTES)
                and any(word in nonpaged for word in behind[_COMMIT_BEHIND.start - 2 :])
            ):
                found.add((used, nonpaged_limit, paged_limit))
        if len(found) > 1:
            break
    if len(found) != 1:
        return SystemMemory()
    used, nonpaged_limit, paged_limit = (pages * PAGE_BYTES for pages in found.pop())
    return SystemMemory(nonpaged_limit_bytes=nonpaged_limit, paged_bytes=used, paged_limit_bytes=paged_limit)


def locate_partition(kernel: Kernel) -> Optional[int]:
    """The address of nt!MiSystemPartition by its symbol, else by what it holds; None: older, or not known.

    By what it holds it is found only where just one place in nt's data can be it: its count of the machine's pages must
    be that of MmPhysicalMemoryBlock, and the charge, the limit, and the pages that are available must be possible
    beside it; their places are those of the kernel's build.
    """
    located = kernel.find_symbol("MiSystemPartition")
    if located is not None or kernel.find_symbol("MmTotalCommitLimit") is not None:
        return None if located is None else located.address
    physical = find_physical_pages(kernel)
    forms = _list_forms(kernel) if physical is not None and kernel.target.pointer_size == _WORD_BYTES else []
    if physical is None or not forms:
        return None
    found = {
        address - place
        for address in islice(_iter_places(kernel, physical), MAX_PLACES)
        for form in forms
        for place in [form.offset(_PHYSICAL) or 0]
        if _is_partition(kernel, address - place, form, physical)
    }
    return found.pop() if len(found) == 1 else None


def _list_forms(kernel: Kernel) -> List[Struct]:
    facts = kernel.target.facts
    forms = (
        make_struct(PARTITION_TYPE, SOURCE, shipped.layout, PARTITION_FIELDS, lambda _: None)
        for shipped in list_layouts(PARTITION_TYPE)
        if any(kernels.covers(facts.machine, facts.build or 0) for kernels in shipped.kernels)
    )
    return [form for form in forms if form.has(*PARTITION_FIELDS)]


def _is_partition(kernel: Kernel, base: int, form: Struct, physical: int) -> bool:
    committed, limit, _, available = (kernel.read_word(base + (form.offset(path) or 0)) for path in PARTITION_FIELDS)
    if not committed or not limit or available is None:
        return False
    return physical * 3 // 4 <= limit <= MOST_PAGES and physical // 1024 <= committed <= limit and available <= physical


def _iter_places(kernel: Kernel, wanted: int) -> Iterator[int]:
    """Where in nt's data that can be written the number stands."""
    pattern = wanted.to_bytes(_WORD_BYTES, "little")
    for address, data in iter_written(kernel.nt) if kernel.nt is not None else ():
        at = data.find(pattern)
        while at >= 0:
            if (address + at) % _WORD_BYTES == 0:
                yield address + at
            at = data.find(pattern, at + 1)


def _iter_words(kernel: Kernel) -> Iterator[Tuple[int, ...]]:
    """The words of nt's data that can be written, in windows that overlap by what belongs to one limit."""
    for address, data in iter_written(kernel.nt) if kernel.nt is not None else ():
        for start in range(-address % _WORD_BYTES, len(data), _WINDOW_WORDS * _WORD_BYTES):
            count = min((len(data) - start) // _WORD_BYTES, _WINDOW_WORDS + _WORDS_READ)
            yield struct.unpack_from(f"<{count}Q", data, start)
