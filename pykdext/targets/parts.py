"""Memory in pieces: what is read at once, and small parts joined to larger ones."""

from __future__ import annotations

from typing import Iterable, Iterator, List, Tuple

MAX_READ_BYTES = 1 << 30
"""More than any one kernel object: a larger ``read`` comes from a damaged count."""

PIECE_BYTES = 1 << 20
"""``join_parts`` makes pieces of about this size."""


def join_parts(parts: Iterable[Tuple[int, bytes]]) -> Iterator[Tuple[int, bytes]]:
    """Join ``(address, bytes)`` that touch each other, up to about PIECE_BYTES."""
    start = reached = 0
    pieces: List[bytes] = []
    for address, data in parts:
        if pieces and (address != reached or reached - start >= PIECE_BYTES):
            yield start, b"".join(pieces)
            pieces = []
        if not pieces:
            start = address
        pieces.append(data)
        reached = address + len(data)
    if pieces:
        yield start, b"".join(pieces)
