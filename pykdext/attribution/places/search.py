"""The search of one image for tags, piece by piece: code by the table of its machine, data for dwords.

Two questions are asked of a piece. What looks like a tag? That is indexed, whatever tags there are. And where are the
bytes of these tags? That finds tags that look like none, and *hints*: bytes that say nothing where a tag has better.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Protocol, Set, Tuple

from pykdext.attribution.places.arm64 import ARM64_CODE
from pykdext.attribution.places.bytesearch import ExactSearch, classify_dword, find_data_offsets
from pykdext.attribution.places.tagencodings import DATA_DWORD, TAG_BYTES, Encoding, Immediate
from pykdext.attribution.places.x64 import X64_CODE
from pykdext.attribution.places.x86 import X86_CODE
from pykdext.images.image import Image, Section
from pykdext.model import Machine, MachineTable


class CodeTable(Protocol):
    """The instructions of one machine that can carry a tag.

    Attributes:
        alignment: instructions begin at multiples of so many bytes; code that is handed in begins at one.
        reach_bytes: how far before its offset, and behind it, the instructions of one immediate lie.
        encodings: every one that an immediate can have.
    """

    @property
    def alignment(self) -> int:
        """In bytes."""

    @property
    def reach_bytes(self) -> int:
        """In bytes."""

    @property
    def encodings(self) -> Tuple[Encoding, ...]:
        """Each once or more."""

    def iter_immediates(self, code: bytes) -> Iterator[Immediate]:
        """Every immediate that looks like a tag, an offset once, by ascending offset."""

    def iter_exact(self, code: bytes, search: ExactSearch) -> Iterator[Immediate]:
        """What holds one of the searched tags and is not given by :meth:`iter_immediates`.

        That is immediates that look like no tag, and hints. Tags are given without the bit of PROTECTED_POOL.
        """


CODE_TABLES: MachineTable[CodeTable] = MachineTable(
    "places of tags in code",
    {Machine.X64: X64_CODE, Machine.X86: X86_CODE, Machine.ARM64: ARM64_CODE},
)
"""What is known of each machine's instructions."""

WINDOW_BYTES = 1 << 18
"""Code is searched in windows of this size: they stay in the processor's cache."""


class Place(NamedTuple):
    """Where a tag stands in an image, and how: the RVA of its bytes, of halves that of the later instruction."""

    rva: int
    encoding: Encoding


class Piece(NamedTuple):
    """Contiguous bytes of a section that are in memory."""

    section: Section
    rva: int
    data: bytes


def iter_searched(image: Image) -> Iterator[Section]:
    """Code always; data unless it is resources or was only needed while the driver was loaded."""
    for section in image.sections:
        if section.executable or not (section.discardable or image.is_resource(section)):
            yield section


def is_constant(section: Section) -> bool:
    """Whether a section is the same wherever the image runs, but for the pointers in it."""
    return section.known and not section.writable and not section.discardable


def iter_pieces(image: Image, section: Section) -> Iterator[Piece]:
    """What is in memory of a section."""
    return (Piece(section, rva, data) for rva, data in image.iter_present(section))


def iter_plausible(image: Image, piece: Piece) -> Iterator[Tuple[bytes, Place]]:
    """Everything in a piece that looks like a tag; an RVA once."""
    in_code: Set[int] = set()
    if piece.section.executable:
        for offset, tag, encoding in iter_immediates(piece, CODE_TABLES[image.machine]):
            in_code.add(offset)
            yield tag, Place(piece.rva + offset, encoding)
    if piece.section.holds_data:
        for offset in find_data_offsets(piece.data, piece.rva):
            if offset not in in_code:
                yield piece.data[offset : offset + TAG_BYTES], Place(piece.rva + offset, DATA_DWORD)


def iter_exact(image: Image, piece: Piece, search: ExactSearch) -> Iterator[Tuple[bytes, Place]]:
    """Places of these tags that :func:`iter_plausible` does not give; an RVA once."""
    section, rva, data = piece
    in_code: Set[int] = set()
    if section.executable:
        table = CODE_TABLES[image.machine]
        start = -rva % table.alignment
        for offset, tag, encoding in table.iter_exact(data[start:], search):
            if not (encoding.is_hint and section.holds_data):  # what may be data is looked at as data
                in_code.add(start + offset)
                yield tag, Place(rva + start + offset, encoding)
    if section.holds_data:
        for offset, tag in search.iter_offsets(data):
            dword = classify_dword(data, offset) if (rva + offset) % TAG_BYTES == 0 else None
            if dword and offset not in in_code:
                yield tag, Place(rva + offset, dword)


def iter_immediates(piece: Piece, table: CodeTable) -> Iterator[Immediate]:
    """The immediates of a piece of code, window by window: a window owns the immediates that begin in it."""
    reach = table.reach_bytes
    first = -piece.rva % table.alignment
    for start in range(first, len(piece.data), WINDOW_BYTES):
        stop = start + WINDOW_BYTES
        origin = max(start - reach, first)
        for found in table.iter_immediates(piece.data[origin : stop + reach]):
            if start <= origin + found.offset < stop:
                yield found._replace(offset=origin + found.offset)
