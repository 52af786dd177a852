"""Rows of a kernel table out of the readable pieces of its memory."""

from __future__ import annotations

from typing import Iterable, Iterator, Tuple


def iter_whole_rows(pieces: Iterable[Tuple[int, bytes]], base: int, row_bytes: int, row_count: int) -> Iterator[bytes]:
    """Of a table at ``base`` the rows whose bytes are all in ``pieces``, as runs of whole rows.

    ``pieces`` are ``(address, bytes)``, ascending and disjoint; a row may lie across pieces that touch each other.
    """
    end = base + row_count * row_bytes
    carry, reached = b"", base
    for address, data in pieces:
        if carry and address == reached:
            address, data = address - len(carry), carry + data  # noqa: PLW2901 - the piece, with what was left over
        reached = address + len(data)
        first = address + (base - address) % row_bytes
        last = reached - (reached - base) % row_bytes
        if first < min(last, end):
            yield data[first - address : min(last, end) - address]
        carry = data[last - address :] if last >= address else b""
