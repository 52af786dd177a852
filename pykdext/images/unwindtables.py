"""Which bytes belong to which function, as the unwind tables of x64 and ARM64 images tell.

Layouts are those of Microsoft's pages "x64 exception handling" (RUNTIME_FUNCTION, UNWIND_INFO) and "ARM64 exception
handling" (packed unwind data, .xdata). Every entry is only believed if it lies in an executable section.
"""

from __future__ import annotations

import bisect
import struct
from typing import Callable, Container, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from pykdext.images.image import Image
from pykdext.model import Machine, MachineTable

MAX_ENTRIES = 1 << 20
"""Of one image; the largest drivers (display) have about 200,000."""

MAX_CHAIN = 32
"""Chained entries between a fragment and its function (the loader's own limit)."""

_EXCEPTION_DIRECTORY = 3

_X64_ENTRY = struct.Struct("<III")
"""BeginAddress, EndAddress, UnwindInfoAddress."""

_CHAINED = 4
"""UNW_FLAG_CHAININFO of UNWIND_INFO: behind the unwind codes stands the entry this one is a part of."""

_INDIRECT = 1
"""Low bit of UnwindInfoAddress: it is the address of the entry this one is a part of."""

_ARM64_ENTRY = struct.Struct("<II")
"""BeginAddress, and packed unwind data or the address of .xdata."""

_PACKED_BITS, _PACKED_FRAGMENT = 3, 2
_SINGLE_EPILOG = 1 << 21
_END_OF_CHAINED_SCOPE = b"\xe5"
"""Unwind code ``end_c``: first of all, it says that the prologue is another fragment's."""


class CodeRange(NamedTuple):
    """Code from ``start`` to before ``end``, RVAs, that belongs to the function entered at ``function_start``."""

    start: int
    end: int
    function_start: int


def read_unwind_table(image: Image) -> Tuple[CodeRange, ...]:
    """The code that the unwind table of an image tells of, by ascending start, disjoint. Never fails.

    It is as much as is in memory; nothing for x86, which has no such table.
    """
    reader = _READERS[image.machine]
    if reader is None:
        return ()
    usable = _clip(image, sorted(span for span in reader.iter_spans(image) if span.start))
    parents = reader.find_parents(image, usable)
    starts = {span.start for span in usable}
    return tuple(CodeRange(start, end, _follow_chain(start, parents, starts)) for start, end, _ in usable)


class _Span(NamedTuple):
    """An entry: code from ``start`` to before ``end``, and the entry's last word."""

    start: int
    end: int
    unwind: int


def _iter_x64_spans(image: Image) -> Iterator[_Span]:
    return map(_Span._make, _iter_entries(image, _X64_ENTRY))


def _iter_arm64_spans(image: Image) -> Iterator[_Span]:
    for start, unwind in _iter_entries(image, _ARM64_ENTRY):
        if unwind & _PACKED_BITS:
            length = unwind >> 2 & 0x7FF  # FunctionLength, in instructions
        else:
            header = image.read(unwind, 4)
            length = int.from_bytes(header, "little") & 0x3FFFF if header else 0
        yield _Span(start, start + 4 * length, unwind)


def _iter_entries(image: Image, layout: struct.Struct) -> Iterator[Tuple[int, ...]]:
    rva, size = image.directory(_EXCEPTION_DIRECTORY)
    for piece_rva, piece in image.iter_range(rva, min(size, MAX_ENTRIES * layout.size)):
        skipped = (rva - piece_rva) % layout.size  # the rest of an entry whose beginning is not in memory
        usable = len(piece) - (len(piece) - skipped) % layout.size
        yield from layout.iter_unpack(piece[skipped:usable])


def _clip(image: Image, spans: Sequence[_Span]) -> List[_Span]:
    """The spans that lie in code, each ending where the next begins at the latest."""
    sections = [section for section in image.sections if section.executable]
    section_starts = [section.rva for section in sections]
    usable: List[_Span] = []
    for span in spans:
        index = bisect.bisect_right(section_starts, span.start) - 1
        in_code = index >= 0 and span.start < span.end <= section_starts[index] + sections[index].size
        if not in_code or (usable and usable[-1].start == span.start):
            continue
        if usable and usable[-1].end > span.start:
            usable[-1] = usable[-1]._replace(end=span.start)
        usable.append(span)
    return usable


def _follow_chain(start: int, parents: Mapping[int, int], starts: Container[int]) -> int:
    """The start of the function at the end of the chain; ``start`` itself if the chain loops or leaves the table."""
    current = start
    for _ in range(MAX_CHAIN):
        if current not in parents:
            return current if current in starts else start
        current = parents[current]
    return start


def _find_x64_parents(image: Image, spans: Sequence[_Span]) -> Dict[int, int]:
    """Where the entry begins that an entry is chained to, by the start of its own."""
    parents: Dict[int, int] = {}
    for start, _, unwind in spans:
        if unwind & _INDIRECT:
            parent = image.read(unwind & ~3, _X64_ENTRY.size)
        else:
            head = image.read(unwind, 4)
            if head is None or not head[0] >> 3 & _CHAINED:
                continue
            code_count = head[2] + (head[2] & 1)
            parent = image.read(unwind + 4 + 2 * code_count, _X64_ENTRY.size)
        if parent:
            parents[start] = _X64_ENTRY.unpack(parent)[0]
    return parents


def _find_arm64_parents(image: Image, spans: Sequence[_Span]) -> Dict[int, int]:
    """The same for ARM64, where a fragment only tells that it is one: it continues what ends where it begins."""
    return {
        span.start: before.start
        for before, span in zip(spans, spans[1:])
        if before.end == span.start and _is_arm64_fragment(image, span.unwind)
    }


def _is_arm64_fragment(image: Image, unwind: int) -> bool:
    """Whether unwind data describes code without a prologue of its own."""
    if unwind & _PACKED_BITS:
        return unwind & _PACKED_BITS == _PACKED_FRAGMENT
    header = image.read(unwind, 8)
    if header is None:
        return False
    word, extended = struct.unpack("<II", header)
    epilogs, code_words, header_bytes = word >> 22 & 0x1F, word >> 27, 4
    if not epilogs and not code_words:
        epilogs, header_bytes = extended & 0xFFFF, 8
    if word & _SINGLE_EPILOG:
        epilogs = 0  # the field is an index then, and no epilog scopes follow
    return image.read(unwind + header_bytes + 4 * epilogs, 1) == _END_OF_CHAINED_SCOPE


class _Reader(NamedTuple):
    """How a processor's table is read: its entries, and where the entry begins that one is chained to."""

    iter_spans: Callable[[Image], Iterator[_Span]]
    find_parents: Callable[[Image, Sequence[_Span]], Dict[int, int]]


_READERS: MachineTable[Optional[_Reader]] = MachineTable(
    "unwind tables",
    {
        Machine.X64: _Reader(_iter_x64_spans, _find_x64_parents),
        Machine.ARM64: _Reader(_iter_arm64_spans, _find_arm64_parents),
        Machine.X86: None,
    },
)
