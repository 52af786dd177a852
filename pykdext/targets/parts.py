"""Memory in pieces: what is read at once, small parts joined to larger ones, and parts that must leave no gap."""

from __future__ import annotations

from typing import Iterable, Iterator, List, Tuple

from pykdext.errors import MemoryReadError
from pykdext.targets.protocol import PAGE_BYTES

_ZERO_PAGE = bytes(PAGE_BYTES)

MAX_READ_BYTES = 1 << 30
"""More than any one kernel object: a larger ``read`` comes from a damaged count."""

PIECE_BYTES = 1 << 20
"""``join_parts`` makes pieces of about this size."""


def join_parts(parts: Iterable[Tuple[int, bytes]], piece_bytes: int = PIECE_BYTES) -> Iterator[Tuple[int, bytes]]:
    """Join ``(address, bytes)`` that touch each other, up to about ``piece_bytes``."""
    start = reached = 0
    pieces: List[bytes] = []
    for address, data in parts:
        if pieces and (address != reached or reached - start >= piece_bytes):
            yield start, b"".join(pieces)
            pieces = []
        if not pieces:
            start = address
        pieces.append(data)
        reached = address + len(data)
    if pieces:
        yield start, b"".join(pieces)


def join_whole(parts: Iterable[Tuple[int, bytes]], address: int, size: int, missing: str) -> bytes:
    """The bytes of a range out of its parts, ascending; the first gap ends the reading.

    Raises:
        MemoryReadError: the parts leave a gap; ``missing`` says what is not there.
    """
    pieces: List[bytes] = []
    reached = address
    for start, data in parts:
        if start != reached:
            break
        pieces.append(data)
        reached += len(data)
    if reached != address + size:
        raise MemoryReadError(address, size, f"0x{reached:x} {missing}")
    return b"".join(pieces)


def leave_out_zeros(parts: Iterable[Tuple[int, bytes]]) -> Iterator[Tuple[int, bytes]]:
    """The parts without whole pages of zeros: in some images pages that could not be read stand as zeros."""
    for address, data in parts:
        start = 0
        for at in range(-address % PAGE_BYTES, len(data) - PAGE_BYTES + 1, PAGE_BYTES):
            if data[at] or data[at : at + PAGE_BYTES] != _ZERO_PAGE:
                continue
            if at > start:
                yield address + start, data[start:at]
            start = at + PAGE_BYTES
        if start < len(data):
            yield address + start, data[start:] if start else data
